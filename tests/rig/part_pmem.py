"""Part pmem: one sealed file of this machine that two guests have as virtio-pmem, to read only.

The file holds a filesystem image and is one extent.  `pmfsctl run` takes the grant and becomes QEMU, so
QEMU is who holds the file.  Two guests with different kernels mount the image with DAX at the same time;
one of them tries to write by every way that it has.  Then that one powers off, and the other is killed.  The
other has the same image in two pieces, too, as an image of several extents would be, and joins them.
"""
# Holds docs/guests.md "Read-only for tenants".
import hashlib
import json
import os
import re
import subprocess
import tempfile
import threading
from pathlib import Path

import kernel as kernels
import packages
from guest import Guest, Qemu, qemu
from initramfs import Initramfs, loaded_by
from part_a import BOOT_SECONDS, failure, release, soon, started
from served import Served

MODULES = ["virtio_pci", "virtio_pmem", "nd_pmem", "ext4", "dm_mod"]
PROGRAMS = ["file_calls"]
FILES, FILE_SIZE = 3, 8 << 20
IMAGE_SIZE = "33M"  # (no multiple of 2 MiB: what is behind the end is zero)
CUT = 16 << 20  # where it is cut into two files, which a guest joins


def run(place):
    machine = qemu(packages.NEWEST)
    machine.need_device("virtio-pmem-pci")
    kernel_of = [kernels.debian(packages.STABLE, kernels.STABLE_CLOUD_RELEASE),
                 kernels.debian(packages.NEWEST, kernels.NEWEST_CLOUD_RELEASE)]
    # (Where no locks are kept nobody can say who maps: overlayfs; memory has them.)
    with tempfile.TemporaryDirectory(prefix="pmfs-rig-", dir="/dev/shm") as memory:
        served = Served(place, "pmem")
        served.region = Path(memory) / "region"
        with served:
            if started(place, "pmem", served):
                Shared(place, served, machine).run(kernel_of)
                served.end("pmem")


class Shared:
    """The file, its guests, and what they ask of this machine."""

    def __init__(self, place, served, machine):
        self.place, self.served, self.machine = place, served, machine
        self.file = served.mnt / "image"
        self.halves = [served.mnt / "half-0", served.mnt / "half-1"]
        self.pids = {}
        self.meeting = threading.Barrier(2)
        self.first_is_gone = threading.Event()

    def run(self, kernel_of):
        self.in_pieces()
        self.digest = self.digest_now()
        self.served.pmfsctl("seal", "--prepare", "--contiguous", self.file)
        self.claim("the file is one extent", lambda: self.info()["extents"] == 1)
        self.claim("its bytes are what they were", lambda: self.digest_now() == self.digest)
        print(self.served.pmfsctl("layout", "--format", "qemu", self.file), end="", flush=True)
        self.cut()
        other = threading.Thread(target=self.second, args=(kernel_of[1],))
        other.start()
        self.first(kernel_of[0])
        self.first_is_gone.set()
        other.join()
        self.claim("unsealed, it can be written again", self.is_free)

    # --- the file

    def in_pieces(self):
        """An image with files in it, beside others on a volume in use: so it has many extents."""
        source = self.place.scratch / "source"
        source.mkdir()
        sums = ""
        for number in range(FILES):
            content = os.urandom(FILE_SIZE)
            (source / f"file-{number}").write_bytes(content)
            sums += f"{hashlib.md5(content).hexdigest()}  file-{number}\n"
        (source / "sums").write_text(sums)
        made = self.place.scratch / "image"
        tree = self.place.tools()
        # (No journal: nothing is to be replayed where nothing can be written.)
        subprocess.run([*loaded_by(tree), str(tree / "usr/sbin/mke2fs"), "-q", "-t", "ext4", "-b", "4096",
                        "-O", "^has_journal", "-d", source, made, IMAGE_SIZE], check=True, capture_output=True)
        content = made.read_bytes()
        piece = 300_000
        with open(self.file, "wb") as file, open(self.served.mnt / "other", "wb") as other:
            for at in range(0, len(content), piece):
                for to, what in ((file, content[at:at + piece]), (other, b"x" * 5000)):
                    to.write(what)
                    to.flush()
                    os.fsync(to.fileno())

    def cut(self):
        content = self.file.read_bytes()
        for half, piece in zip(self.halves, (content[:CUT], content[CUT:])):
            half.write_bytes(piece)
            self.served.pmfsctl("seal", "--prepare", "--contiguous", half)

    def info(self):
        return json.loads(self.served.pmfsctl("info", "--json", self.file))

    def digest_now(self):
        with open(self.file, "rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()

    # --- the guests

    def boot(self, role, kernel):
        made = Initramfs(kernel, MODULES, self.place.tools())
        for program in PROGRAMS:
            made.add_program(self.place.build / "tests/rig" / program)
        made.add_program("usr/sbin/dmsetup", root=self.place.tools())
        made.add_file("/test", self.place.HERE / "guest/pmem.sh", 0o755)
        image = self.place.scratch / f"pmem-{role}.initramfs"
        made.write(image)
        files = [self.file, *(self.halves if role == 2 else [])]
        wrapped = [self.place.program("pmfsctl"), "run", *files, "--", *self.machine.command]
        guest = Guest(Qemu([str(word) for word in wrapped], self.machine.environment), kernel, image,
                      log=self.place.scratch / f"pmem-{role}.log", seconds=BOOT_SECONDS, memory="256M,maxmem=1G",
                      devices=["{pmem}"], append=f"rig_role={role}",
                      answers={"meet": self.meet, "unharmed": self.unharmed, "held": self.held})
        guest.start()
        self.pids[role] = guest.pid
        return guest

    def first(self, kernel):
        guest = self.boot(1, kernel)
        outcome = guest.wait()
        self.place.judge(f"pmem: Linux {release(kernel)}, which attacks", outcome, show_info=True)
        print(f"rig: pmem: {outcome.seconds:.1f} s", flush=True)

    def second(self, kernel):
        guest = self.boot(2, kernel)
        guest.wait_for("READY")
        self.first_is_gone.wait(BOOT_SECONDS)
        soon(self.place, "pmem: the guest that has ended holds nothing, the other one still does",
             lambda: self.holders() == {self.pids[2]})
        self.claim("as long as one guest lives it stays sealed", self.stays_sealed)
        guest.kill()
        self.place.judge(f"pmem: Linux {release(kernel)}", guest.outcome(ended="READY"), show_info=True)
        soon(self.place, "pmem: a guest that was killed holds nothing", lambda: not self.holders())

    # --- what is asked and claimed

    def meet(self):
        self.meeting.wait(BOOT_SECONDS)

    def unharmed(self):
        assert self.digest_now() == self.digest, "the file has other bytes"

    def held(self):
        holders = self.holders()
        assert holders == set(self.pids.values()), holders
        assert self.stays_sealed(), "it was unsealed"
        return ", ".join(self.mapped(pid) for pid in sorted(holders))

    def holders(self):
        told = json.loads(self.served.pmfsctl("holders", "--json", self.file))["holders"]
        return {holder["pid"] for holder in told if not holder["kind"].startswith("handle")}

    def stays_sealed(self):
        done = subprocess.run([self.place.program("pmfsctl"), "unseal", self.file], capture_output=True, text=True,
                              check=False, timeout=60)
        assert done.returncode == 1 and "held by" in done.stderr, done.stderr
        return True

    def mapped(self, pid):
        """What of the region a QEMU has in memory: none of it its own."""
        region = re.escape(str(self.served.region))
        smaps = Path(f"/proc/{pid}/smaps").read_text()
        sums = {"Rss": 0, "Pss": 0, "Private_Dirty": 0, "Anonymous": 0}
        for mapping in re.findall(rf"{region}\n(?:[A-Z]\w*: .*\n)+", smaps):
            for name in sums:
                sums[name] += int(re.search(rf"^{name}: +(\d+) kB", mapping, re.M)[1])
        assert sums["Rss"] > FILES * FILE_SIZE >> 10, sums
        assert sums["Private_Dirty"] == sums["Anonymous"] == 0, sums
        return f"process {pid}: {sums['Rss']} KiB mapped, its share {sums['Pss']}"

    def is_free(self):
        self.served.pmfsctl("unseal", self.file)
        with open(self.file, "r+b") as file:
            file.write(b"x")
        return True

    def claim(self, words, holds):
        self.place.report(f"pmem: {words}", failure(holds, wanted=bool))
