"""pmfs in guests, over virtiofs: with and without a DAX window, and beside Debian's newest virtiofsd.

Guests of the rig (tests/rig) with Debian's newest QEMU and kernel; the volume and the peer's files lie in
memory.  What is compared runs in turns in one boot.  The guest's processor is emulated, so all times are
inflated, and the rows' ratios are what counts.

    random_large    loads of 4 KiB at random places of a mapped sealed file, twice as large as what is free
                    in the guest: without DAX beside with DAX (times faster)
    random_fits     the same of a file of 64 MiB: the guest's own tmpfs beside DAX (times faster)
    first_touch     the first load in a range of 2 MiB: the last tenth of 512 ranges beside the first
    getattr ...     requests by O_DIRECT and AT_STATX_FORCE_SYNC, beside virtiofsd --cache=never on tmpfs
    memory_copies   how many copies of one file of 256 MiB there are in memory when two guests and this
                    machine have read all of it: the growth of the sum of the PSS of all processes
    cached          what of that is in the guests' page caches
"""
import json
import mmap
import os
import statistics
import subprocess
import sys
import threading
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT / "tests" / "rig"), str(ROOT / "tests" / "seal")]

import kernel as kernels  # noqa: E402  (the path above comes first)
import libpmfs  # noqa: E402
import packages  # noqa: E402
from guest import Guest, ends_with_us, qemu  # noqa: E402
from initramfs import Initramfs, loaded_by  # noqa: E402
from served import DEVICES, Served  # noqa: E402
from workplace import Workplace  # noqa: E402

MODULES = ["virtio_pci", "virtiofs"]
PROGRAMS = ["bench_guest", "bench_fuse"]
SECONDS_MAX = 400
START_SECONDS = 10
MIB = 1 << 20
FILE_MIB = 256  # of memory_copies
FITS_MIB = 64


def rows(context):
    with Workplace(context.build) as place:
        machine = qemu(packages.NEWEST)
        kernel = kernels.debian(packages.NEWEST, kernels.NEWEST_CLOUD_RELEASE)
        print(f"guest: Linux {kernel.release} under {machine.version()}: emulated, so look at the ratios; "
              f"{virtiofsd_version()}", file=sys.stderr, flush=True)
        bench = Bench(place, machine, kernel, image(place, kernel))
        yield from window(bench)
        yield from operations(bench)
        yield from memory(bench)


def image(place, kernel):
    made = Initramfs(kernel, MODULES, place.tools())
    for program in PROGRAMS:
        made.add_program(place.build / "tools/benches" / program)
    made.add_file("/test", place.HERE / "guest/bench_guest.sh", 0o755)
    path = place.scratch / "bench.initramfs"
    made.write(path)
    return path


class Bench:
    """What all boots have in common."""

    def __init__(self, place, machine, kernel, initramfs):
        self.place, self.machine, self.kernel, self.initramfs = place, machine, kernel, initramfs

    def guest(self, name, memory, devices, answers, words):
        return Guest(self.machine, self.kernel, self.initramfs, log=self.place.scratch / f"{name}.log",
                     seconds=SECONDS_MAX, shared=True, memory=memory, devices=devices, answers=answers, append=words)


def checked(outcome):
    if not outcome.well:
        raise RuntimeError(f"{'; '.join(outcome.failed)}\n{outcome.log.read_text(errors='replace')[-4000:]}")
    return outcome


def figures(outcome, name):
    """The numbers of each `INFO figure NAME ...` line."""
    return [[float(word) for word in line.split()[2:]] for line in outcome.info
            if line.startswith(f"figure {name} ")]


def row(name, unit, value, peer, ratio):
    return {"name": f"guest.{name}", "unit": unit, "value": value, "peer": peer, "ratio": ratio}


def faster(name, rounds):
    """A row of rounds of (mine, peer's): how many times faster mine is."""
    return row(name, "us", statistics.median(mine for mine, _ in rounds), statistics.median(peer for _, peer in rounds),
               statistics.median(peer / mine for mine, peer in rounds))


# --- a window

def window(bench):
    with Served(bench.place, "bench-window", size="4G", in_memory=True) as served:
        served.start("dax", "window=2G")
        served.ask("sealed_of", "gigabyte", 1024)
        served.ask("sealed_of", "fits", FITS_MIB)
        outcome = checked(bench.guest("bench-window", "320M", served.device("test"), served.answers(),
                                      "rig_boot=window").run())
    for line in outcome.info:
        if not line.startswith("figure"):
            print(f"guest: {line}", file=sys.stderr, flush=True)
    yield faster("random_large", figures(outcome, "random_large"))
    yield faster("random_fits", figures(outcome, "random_fits"))
    (first, last), = figures(outcome, "first_touch")
    yield row("first_touch", "us", last, first, last / first)


# --- virtiofsd

def virtiofsd_tree():
    return packages.tree(packages.NEWEST, "virtiofsd", ["virtiofsd", "libc6"])


def virtiofsd_version():
    versions = (virtiofsd_tree().parent / "versions.txt").read_text().split()
    return " ".join(line for line in versions if line.startswith("virtiofsd_"))


class Virtiofsd:
    """A server for one guest; a context manager."""

    def __init__(self, bench, name, shared, *words):
        self.socket = bench.place.scratch / f"{name}.socket"
        root = virtiofsd_tree()
        self._log = bench.place.scratch / f"{name}.log"
        with open(self._log, "wb") as log:
            self._process = subprocess.Popen(
                [*loaded_by(root), str(root / "usr/libexec/virtiofsd"), f"--socket-path={self.socket}",
                 f"--shared-dir={shared}", "--sandbox=none", *words],
                stdin=subprocess.DEVNULL, stdout=log, stderr=log, preexec_fn=ends_with_us(9))
        self.pid = self._process.pid

    def __enter__(self):
        deadline = time.monotonic() + START_SECONDS
        while not self.socket.exists():
            if self._process.poll() is not None or time.monotonic() > deadline:
                raise RuntimeError(f"virtiofsd does not start: {self._log.read_text()}")
            time.sleep(0.02)
        return self

    def __exit__(self, *_):
        self._process.kill()
        self._process.wait()

    def device(self, number):
        return ["-chardev", f"socket,id=files{number},path={self.socket}",
                "-device", f"vhost-user-fs-pci,chardev=files{number},tag=peer"]


def operations(bench):
    shared = bench.place.memory("peer-files")
    shared.mkdir()
    with Served(bench.place, "bench-operations", size="1G", in_memory=True) as served, \
            Virtiofsd(bench, "virtiofsd", shared, "--cache=never") as peer:
        served.start()
        mine = ["-chardev", f"socket,id=files0,path={served.sockets[0]}", "-device", DEVICES["fs"].format(n=0)]
        outcome = checked(bench.guest("bench-operations", "512M", mine + peer.device(1), {},
                                      "rig_boot=operations").run())
    rounds = [json.loads(line) for line in outcome.info if line.startswith("{")]
    for name in dict.fromkeys(one["name"] for one in rounds):
        mine = [one for one in rounds if one["name"] == name]
        yield row(name.partition(".")[2], "us", statistics.median(one["value"] for one in mine),
                  statistics.median(one["peer"] for one in mine),
                  statistics.median(one["value"] / one["peer"] for one in mine))


# --- memory

def memory(bench):
    mine = memory_of(bench, "pmfs", pmfs_files)
    peer = memory_of(bench, "virtiofsd", virtiofsd_files)
    yield row("memory_copies", "", mine["copies"], peer["copies"], mine["copies"] / peer["copies"])
    yield row("memory_pss", "MiB", mine["pss"], peer["pss"], mine["pss"] / peer["pss"])
    yield row("memory_cached", "MiB", mine["cached"], peer["cached"], None)


def pss_kib(pids):
    """What these processes have in memory; what several have counts once."""
    total = 0
    for pid in pids:
        for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
            if line.startswith("Pss:"):
                total += int(line.split()[1])
    return total


def memory_of(bench, name, files):
    """Two guests and this process read one file; how the memory of all processes grew."""
    with files(bench) as place:
        guests = []
        pss, cached = {}, {"idle": [], "read": []}

        def look(moment):
            if moment == "read":
                place.read()
            pss[moment] = pss_kib([*place.pids, os.getpid(), *(guest.pid for guest in guests)])

        barriers = {moment: threading.Barrier(2, lambda moment=moment: look(moment)) for moment in cached}

        def arrived(moment, kib):
            cached[moment].append(int(kib))
            barriers[moment].wait(SECONDS_MAX)
            return "seen"

        answers = {moment: lambda kib, moment=moment: arrived(moment, kib) for moment in cached}
        for number in range(2):
            guests.append(bench.guest(f"bench-{name}-{number}", "768M", place.devices[number], answers,
                                      f"rig_boot=memory {place.words}"))
            guests[-1].start()
        outcomes = []
        waiting = [threading.Thread(target=lambda guest=guest: outcomes.append(guest.wait())) for guest in guests]
        for thread in waiting:
            thread.start()
        for thread in waiting:
            thread.join()
        for outcome in outcomes:
            checked(outcome)
    grown = (pss["read"] - pss["idle"]) / 1024
    return {"pss": grown, "copies": grown / FILE_MIB, "cached": (sum(cached["read"]) - sum(cached["idle"])) / 1024}


class pmfs_files:  # pylint: disable=invalid-name  # used as a function
    """A sealed file on a volume that two guests have with DAX; this process maps it with libpmfs."""

    words = "rig_tag=pmfs rig_options=-odax=inode"

    def __init__(self, bench):
        self._served = Served(bench.place, "bench-memory", size="1G", in_memory=True)

    def __enter__(self):
        served = self._served.__enter__()
        served.start("dax", guests=2)
        served.ask("sealed_of", "file", FILE_MIB)
        served.ask("sealed_of", "other", 4)
        # A server that has touched nothing of them: what it wrote is in its memory, too.
        served.stop()
        served.start("dax", guests=2)
        self.devices = [served.device("test", number) for number in range(2)]
        self.pids = [json.loads(served.pmfsctl("status", "--json", served.mnt))["server_pid"]]
        fd = libpmfs.open_direct(served.mnt / "file", os.O_RDONLY)
        self._map = libpmfs.Map(fd, prot=libpmfs.READ)
        os.close(fd)
        return self

    def read(self):
        load_all(self._map.bytes)

    def __exit__(self, *words):
        self._map.unmap()
        self._served.__exit__(*words)


class virtiofsd_files:  # pylint: disable=invalid-name
    """A file on tmpfs that two guests have from a virtiofsd each; this process maps it."""

    words = "rig_tag=peer rig_options="

    def __init__(self, bench):
        self._shared = bench.place.memory("peer-memory")
        self._shared.mkdir()
        for name, mib in (("file", FILE_MIB), ("other", 4)):
            with open(self._shared / name, "wb") as file:
                for _ in range(mib):
                    file.write(bytes(MIB))
        self._servers = [Virtiofsd(bench, f"virtiofsd-{number}", self._shared) for number in range(2)]

    def __enter__(self):
        for server in self._servers:
            server.__enter__()
        self.devices = [server.device(0) for server in self._servers]
        self.pids = [server.pid for server in self._servers]
        with open(self._shared / "file", "rb") as file:
            self._map = mmap.mmap(file.fileno(), 0, prot=mmap.PROT_READ)
        return self

    def read(self):
        load_all(self._map)

    def __exit__(self, *words):
        self._map.close()
        for server in self._servers:
            server.__exit__(*words)


def load_all(mapped):
    for at in range(0, FILE_MIB * MIB, 4096):
        mapped[at]  # pylint: disable=pointless-statement
