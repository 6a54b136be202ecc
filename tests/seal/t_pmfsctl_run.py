#!/usr/bin/env python3
"""Sealed files for virtual machines: prepare --contiguous, layout, and run, which becomes the program."""
# Holds docs/guests.md "Read-only for tenants" and docs/man/pmfs_borrow.3.
import contextlib
import errno
import json
import os
import re
import select
import signal
import subprocess
import sys
import time

from libpmfs import ctl, holders, info, make_file, pattern, seal_of
from fixture import as_user, claim, fails, program, run_claims

MIB = 1 << 20
UNIT = 2 * MIB


def in_pieces(path, size):
    """A file whose blocks lie between those of another one; gives its content."""
    data = pattern(size)
    with open(path, "wb", buffering=0) as file, open(f"{path}-beside", "wb", buffering=0) as beside:
        for at in range(0, size, 100_000):
            for to, what in ((file, data[at:at + 100_000]), (beside, b"x" * 5000)):
                to.write(what)
                os.fsync(to.fileno())
    assert info(path)["extents"] > 1
    return data


def sealed(path, size):
    data = in_pieces(path, size)
    ctl("seal", "--prepare", "--contiguous", path)
    return data


def refused(*words, says, code=1):
    done = ctl(*words, ok=False)
    assert done.returncode == code, done
    assert done.stdout == "" and says in done.stderr and done.stderr.startswith("pmfsctl: "), done.stderr
    assert len(done.stderr.splitlines()) == 1, done.stderr


def grants(path):
    """(kind, process) of those that hold it, open files aside."""
    return sorted((one["kind"], one["pid"]) for one in holders(path) if not one["kind"].startswith("handle"))


class Running:
    """A pmfsctl run whose program says what it was told, a line at a time."""

    def __init__(self, path, *words):
        self.process = subprocess.Popen([program("pmfsctl"), "run", path, "--", *words],
                                        stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)

    def line(self):
        assert select.select([self.process.stdout], [], [], 20)[0], "it says nothing"
        return self.process.stdout.readline().strip()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.process.kill()
        self.process.communicate()


@claim("prepare --contiguous makes a file in pieces one extent, and changes no byte of it")
def _(here):
    data = in_pieces(here / "f", 5 * MIB + 17)
    ctl("prepare", "--contiguous", here / "f")
    assert info(here / "f")["extents"] == 1 and (here / "f").read_bytes() == data
    extent, = json.loads(ctl("map", "--json", here / "f").stdout)["extents"]
    assert extent["device"] % UNIT == 0 and extent["length"] == 6 * MIB and not extent["unwritten"]
    ctl("seal", here / "f")
    ctl("prepare", "--contiguous", here / "f")  # there is nothing to do
    assert seal_of(here / "f") == "full"


@claim("where no place can be made, prepare --contiguous says how long the longest run is", alone=True)
def _(maker):
    volume = maker.volume(size="40M")
    places = {}
    with contextlib.suppress(OSError):
        for number in range(20):
            path = volume.mnt / f"s{number}"
            make_file(path, UNIT)
            ctl("seal", path)
            places[json.loads(ctl("map", "--json", path).stdout)["extents"][0]["device"]] = path
    path.unlink()  # the one that had no room
    stay = [places[device] for device in sorted(places)][::2]
    for path in set(places.values()) - set(stay):
        path.unlink()
    in_pieces(volume.mnt / "f", 5 * MIB)
    refused("prepare", "--contiguous", volume.mnt / "f",
            says="no contiguous space of 6 MiB: the longest free run is 2 MiB, and")
    for path in stay:
        ctl("unseal", path)
    ctl("prepare", "--contiguous", volume.mnt / "f")
    assert info(volume.mnt / "f")["extents"] == 1


@claim("layout shows the place of a sealed file, and QEMU's options")
def _(here):
    sealed(here / "f", 5 * MIB)
    extent, = json.loads(ctl("map", "--json", here / "f").stdout)["extents"]
    told = json.loads(ctl("layout", "--json", here / "f").stdout)
    assert told["slices"] == [{"device": extent["device"], "length": 6 * MIB}], told
    assert str(extent["device"]) in ctl("layout", here / "f").stdout
    lines = ctl("layout", "--format", "qemu", here / "f").stdout.splitlines()
    region = told["region"].replace(",", ",,")
    assert lines == [
        f"-object memory-backend-file,id=pmfs0,mem-path={region},offset={extent['device']},size={6 * MIB},"
        "share=on,readonly=on,rom=on",
        "-device virtio-pmem-pci,id=pmem0,memdev=pmfs0"], lines
    with open(told["region"], "rb") as file:
        file.seek(extent["device"])
        assert file.read(6 * MIB) == (here / "f").read_bytes() + bytes(MIB)  # zero behind the end


@claim("layout and run refuse files that a guest cannot use, each with a sentence that says what to do")
def _(here):
    in_pieces(here / "f", 5 * MIB)
    (here / "empty").touch()
    for words, end in ((("layout",), ()), (("run",), ("--", "true", "{pmem}"))):
        refused(*words, here / "f", *end, says="is not sealed full")
        refused(*words, here / "empty", *end, says="is empty")
        refused(*words, here, *end, says="is a directory")
        refused(*words, here / "none", *end, says="No such file")
        refused(*words, "/proc/self/status", *end, says="is not on a mounted pmfs volume")
    ctl("seal", "--as-is", here / "f")
    refused("layout", here / "f", says="is not sealed full")
    ctl("unseal", here / "f")
    ctl("prepare", "--unit", "4KiB", here / "f")
    if ctl("seal", here / "f", ok=False).returncode == 0:
        refused("layout", here / "f", says="extents, or is not in whole units")
        refused("prepare", "--contiguous", here / "f", says="`pmfsctl unseal")
        refused("seal", "--prepare", "--contiguous", here / "f", says="`pmfsctl unseal")


@claim("a wrong command line is exit code 2")
def _(here):
    sealed(here / "f", MIB)
    for words in (("run", here / "f"), ("run", here / "f", "--"), ("run", "--", "true", "{pmem}"),
                  ("run", here / "f", "--", "true"), ("run", here / "f", "--", "true", "{pmem}", "{pmem}"),
                  ("layout", "--format", "vmm", here / "f"), ("layout", "--format", "qemu", "--json", here / "f"),
                  ("seal", "--contiguous", here / "f"), ("prepare", "--contiguous", "--unit", "4KiB", here / "f")):
        done = ctl(*words, ok=False)
        assert done.returncode == 2 and done.stderr, (words, done)
    assert ctl("run", here / "f", "--", "/nowhere/at/all", "{pmem}", ok=False).returncode == 127
    assert grants(here / "f") == []


@claim("run becomes its program: the words, the exit code and the signals are the program's")
def _(here):
    sealed(here / "f", 5 * MIB)
    sealed(here / "g", MIB)
    wanted = ctl("layout", "--format", "qemu", here / "f").stdout.split()
    done = ctl("run", here / "f", "--", "echo", "--json", "{pmem}", "-x")
    got = re.sub(r"mem-path=/proc/self/fd/\d+", f"mem-path={region_of(here / 'f')}", done.stdout).split()
    assert got == ["--json", *wanted, "-x"], got
    two = ctl("run", here / "f", here / "g", "--", "echo", "{pmem}").stdout.split()
    assert len(two) == 8 and "id=pmfs1," in two[5] and two[7].endswith("memdev=pmfs1"), two
    assert ctl("run", here / "f", "--", "sh", "-c", "exit 3", "{pmem}", ok=False).returncode == 3
    with Running(here / "f", "sh", "-c", "trap 'echo caught; exit 7' TERM; echo $$; while :; do sleep 0.1; done",
                 "{pmem}") as it:
        assert it.line() == str(it.process.pid)
        it.process.send_signal(signal.SIGTERM)
        assert it.line() == "caught" and it.process.wait(20) == 7
    assert grants(here / "f") == []


def region_of(path):
    return json.loads(ctl("layout", "--json", path).stdout)["region"]


# What a virtual machine monitor does: maps through the path, and says what came of it.
MAPPER = """
import mmap, os, re, sys
word = sys.argv[2]
path, offset, size = (re.search(rf"[,=]?{name}=([^,]+)", word)[1] for name in ("mem-path", "offset", "size"))
lent = int(path.rsplit("/", 1)[1])
flags = [line for line in open(f"/proc/self/fdinfo/{lent}") if line.startswith("flags")][0]
assert int(flags.split()[1], 8) & os.O_ACCMODE == os.O_RDONLY, flags
fd = os.open(path, os.O_RDONLY)
m = mmap.mmap(fd, int(size), mmap.MAP_SHARED, mmap.PROT_READ, offset=int(offset))
try:
    os.write(lent, b"x")
except OSError as error:
    print(m[:16].hex(), error.errno, flush=True)
sys.stdin.readline()
"""


@claim("the program is the holder, with a descriptor that only reads, and the file stays sealed until it ends")
def _(here):
    data = sealed(here / "f", 5 * MIB)
    with Running(here / "f", sys.executable, "-c", MAPPER, "{pmem}") as one, \
            Running(here / "f", sys.executable, "-c", MAPPER, "{pmem}") as two:
        for it in (one, two):
            assert it.line() == f"{data[:16].hex()} {errno.EBADF}"
        held = grants(here / "f")
        assert held == sorted(("temporary", it.process.pid) for it in (one, two)), held
        for holder in holders(here / "f"):
            if holder["kind"] == "temporary":
                assert holder["maps"] and not holder["stores"] and holder["length"] == 6 * MIB, holder
        refused_unseal(here / "f")
        with fails(errno.ETXTBSY):
            os.truncate(here / "f", 5)
        one.process.kill()
        one.process.wait()
        until(lambda: grants(here / "f") == [("temporary", two.process.pid)])
        refused_unseal(here / "f")
    until(lambda: not grants(here / "f"))
    ctl("unseal", here / "f")


# What is left to one that has given up root: it reads what it was lent, and can store nowhere.
UNPRIVILEGED = """
import mmap, os, re, sys
word = sys.argv[2]
path, offset, size = (re.search(rf"[,=]?{name}=([^,]+)", word)[1] for name in ("mem-path", "offset", "size"))
lent = int(path.rsplit("/", 1)[1])
m = mmap.mmap(lent, int(size), mmap.MAP_SHARED, mmap.PROT_READ, offset=int(offset))
print(m[:16].hex())
for attempt in (lambda: os.open(path, os.O_RDWR),
                lambda: mmap.mmap(lent, int(size), mmap.MAP_SHARED, mmap.PROT_WRITE, offset=int(offset))):
    try:
        attempt()
        print("succeeded")
    except PermissionError:
        print("refused")
"""


@claim("a program that has given up root still reads the file, and has no way to store into the device")
def _(here):
    data = sealed(here / "f", MIB)
    os.chmod(region_of(here / "f"), 0o600)
    drop = ("setpriv", "--reuid", "1000", "--regid", "1000", "--clear-groups")
    done = ctl("run", here / "f", "--", *drop, sys.executable, "-c", UNPRIVILEGED, "{pmem}")
    assert done.stdout.split() == [data[:16].hex(), "refused", "refused"], done


def refused_unseal(path):
    done = ctl("unseal", path, ok=False)
    assert done.returncode == 1 and "held by" in done.stderr, done


def until(holds, seconds=10):
    deadline = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < deadline, "it does not come"
        time.sleep(0.05)


@claim("a program that a shell started, and that outlives it, holds the file until it ends itself")
def _(here):
    sealed(here / "f", MIB)
    with Running(here / "f", "sh", "-c", 'sleep 100 & echo $!; wait', "{pmem}") as shell:
        left = int(shell.line())
        try:
            shell.process.kill()
            shell.process.wait()
            until(lambda: [kind for kind, _ in grants(here / "f")] == ["quarantined"])
            refused_unseal(here / "f")
        finally:
            os.kill(left, signal.SIGKILL)
    until(lambda: not grants(here / "f"))
    ctl("unseal", here / "f")


@claim("the holder is known to the next server, after a crash of this one", alone=True)
def _(maker):
    volume = maker.volume(size="64M")
    sealed(volume.mnt / "f", 5 * MIB)
    with Running(volume.mnt / "f", "sh", "-c", "echo $$; exec sleep 100", "{pmem}") as it:
        it.line()
        volume.kill()
        volume.mount()
        maker.watch()
        assert grants(volume.mnt / "f") == [("quarantined", it.process.pid)]
        refused_unseal(volume.mnt / "f")
        it.process.kill()
        it.process.wait()
        until(lambda: not grants(volume.mnt / "f"))
    ctl("unseal", volume.mnt / "f")


@claim("a user that may not have the device gets a sentence, and nothing is run")
def _(here):
    sealed(here / "f", MIB)
    os.chmod(here / "f", 0o644)

    def try_it():
        refused("run", here / "f", "--", "true", "{pmem}", says="-o group=")

    with contextlib.ExitStack() as stack:
        for parent in [here, *here.parents]:
            mode = parent.stat().st_mode
            if not mode & 0o001:
                stack.callback(os.chmod, parent, mode & 0o7777)
                os.chmod(parent, mode & 0o7777 | 0o055)
        as_user(try_it)


if __name__ == "__main__":
    run_claims()
