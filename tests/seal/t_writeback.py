#!/usr/bin/env python3
"""-o writeback with seals and grants: what excludes what, and what is in the file afterwards."""
import contextlib
import errno
import mmap
import os
import time

from holding import status, until
from libpmfs import (AS_IS, BREAKABLE, FULL, READ, TEMPORARY, WRITE, Lease, Map, ctl, grant, info, open_direct,
                     pattern, pin, prepare, release, seal, seal_of, unpin)
from fixture import claim, fails, run_claims

MIB = 1 << 20
PAGE = 4096


def mounted(maker, **more):
    return maker.volume(size="64M", options="writeback", **more)


def make(path, size=MIB):
    """A file that is fit for a full seal, written through the cache and closed."""
    data = pattern(size)
    path.write_bytes(data)
    fd = open_direct(path)
    prepare(fd)
    os.close(fd)
    closed(path)
    return data


def closed(path):
    until(lambda: info(path)["handles_cached_write"] == 0)


@contextlib.contextmanager
def mapped_for_writing(path):
    fd = os.open(path, os.O_RDWR)
    pages = mmap.mmap(fd, 0)
    os.close(fd)
    try:
        yield pages
    finally:
        pages.close()


HOLDS = {"T": lambda fd: (grant(fd, TEMPORARY), release),
         "B": lambda fd: (grant(fd, BREAKABLE), release),
         "R": lambda fd: (pin(fd, 0, PAGE), unpin),
         "a mapping that reads": lambda fd: (Map(fd, prot=READ), lambda _, m: m.unmap()),
         "a lease": lambda fd: (Lease(fd), lambda _, lease: lease.end())}


@claim("SEAL and every grant are EBUSY while the file is open for writing through the cache, and then not", alone=True)
def _(maker):
    volume = mounted(maker)
    path = volume.mnt / "f"
    make(path)
    fd = open_direct(path)
    cached = os.open(path, os.O_WRONLY)
    for name, take in HOLDS.items():
        with fails(errno.EBUSY):
            take(fd)
    for level in (FULL, AS_IS):
        with fails(errno.EBUSY):
            seal(fd, level)
    with fails(errno.EBUSY):
        os.setxattr(path, "trusted.pmfs.seal", b"full")
    refused = ctl("seal", path, ok=False)
    assert refused.returncode == 1 and f"open file, cached of process {os.getpid()}" in refused.stderr, refused
    with mapped_for_writing(path):
        os.close(cached)
        with fails(errno.EBUSY):
            seal(fd)
    closed(path)
    for name, take in HOLDS.items():
        held, let_go = take(fd)
        let_go(fd, held)
    seal(fd)
    assert seal_of(path) == "full"
    os.close(fd)
    assert volume.unmount() == 0
    volume.fsck()


@claim("what was written and closed a moment ago is in the file that is sealed, and in the mapping", alone=True)
def _(maker):
    volume = mounted(maker)
    path = volume.mnt / "f"
    for turn in range(20):
        make(path)
        fd = os.open(path, os.O_WRONLY)
        for at in range(0, MIB, 7 * PAGE):
            os.pwrite(fd, b"%d at %d" % (turn, at), at)
        os.close(fd)
        closed(path)
        ctl("seal", path)
        direct = open_direct(path)
        with Map(direct, prot=READ) as m:
            for at in range(0, MIB, 7 * PAGE):
                text = b"%d at %d" % (turn, at)
                assert m.load(at, len(text)) == text
        os.close(direct)
        until(lambda: ctl("unseal", path, ok=False).returncode == 0)


@claim("a write past the end of a sealed file fails in write(2), and one in place is visible at once", alone=True)
def _(maker):
    volume = mounted(maker)
    path = volume.mnt / "f"
    data = make(path)
    ctl("seal", path)
    for flags in (os.O_RDWR, os.O_WRONLY | os.O_APPEND, os.O_WRONLY):
        fd = os.open(path, flags)
        with fails(errno.ETXTBSY):
            os.write(fd, b"x") if flags & os.O_APPEND else os.pwrite(fd, b"x", MIB)
        assert os.fstat(fd).st_size == MIB
        os.close(fd)
    with fails(errno.ETXTBSY):
        os.truncate(path, 0)
    reader = os.open(path, os.O_RDONLY)
    pages = mmap.mmap(reader, MIB, mmap.MAP_SHARED, mmap.PROT_READ)
    writer = os.open(path, os.O_WRONLY)
    os.pwrite(writer, b"in place", 5000)
    assert pages[5000:5008] == b"in place" and os.pread(reader, 8, 5000) == b"in place"
    pages.close()
    os.close(writer), os.close(reader)
    ctl("unseal", path)
    with open(path, "ab") as file:
        file.write(b"more")
    assert path.read_bytes() == data[:5000] + b"in place" + data[5008:] + b"more"


@claim("under a grant later writers bypass the cache: the mapping sees them at once, and growing fails in "
       "write(2)", alone=True)
def _(maker):
    volume = mounted(maker)
    path = volume.mnt / "f"
    make(path)
    direct = open_direct(path)
    with Map(direct, prot=READ) as m:
        fd = os.open(path, os.O_RDWR)
        os.pwrite(fd, b"written", 100)
        assert m.load(100, 7) == b"written"
        with fails(errno.ETXTBSY):
            os.pwrite(fd, b"x", MIB)
        with fails(errno.ENODEV):
            mmap.mmap(fd, MIB)
        os.close(fd)
    with Map(direct, prot=WRITE) as m:
        m.store(200, b"stored")
    os.close(direct)
    fd = os.open(path, os.O_RDWR)
    with mmap.mmap(fd, MIB) as pages:  # cached, as before
        assert pages[100:107] == b"written" and pages[200:206] == b"stored"
    os.pwrite(fd, b"x", MIB)
    os.close(fd)
    assert path.stat().st_size == MIB + 1


@claim("small writes to an open file are no requests, and the file is whole when it is closed", alone=True)
def _(maker):
    volume = mounted(maker)

    def requests():
        mine = status(volume.mnt)["clients"][0]["requests"]
        return sum(mine.get(kind, 0) for kind in ("write", "getattr", "statx", "setattr", "getxattr"))
    for name in ("new", "old"):
        (volume.mnt / "old").touch()
        fd = os.open(volume.mnt / name, os.O_CREAT | os.O_WRONLY | os.O_APPEND)
        os.write(fd, b"%06d\n" % 0)
        before = requests()
        for number in range(1, 1000):
            os.write(fd, b"%06d\n" % number)
        assert requests() - before < 100, (name, requests() - before)
        assert os.fstat(fd).st_size == 7000
        os.close(fd)
        assert (volume.mnt / name).read_text() == "".join(f"{number:06}\n" for number in range(1000))


@claim("st_blocks of a file that is open for writing says soon what was sent, and all when it is closed", alone=True)
def _(maker):
    path = mounted(maker).mnt / "f"
    fd = os.open(path, os.O_CREAT | os.O_WRONLY)
    assert os.fstat(fd).st_blocks == 8
    os.write(fd, bytes(10 * PAGE))
    os.fsync(fd)
    until(lambda: os.fstat(fd).st_blocks == 80)
    os.write(fd, bytes(10 * PAGE))
    os.close(fd)
    assert path.stat().st_blocks == 160


@claim("a write past the cache, and a grant that stores, move the times on the medium", alone=True)
def _(maker):
    volume = mounted(maker)
    paths = [volume.mnt / name for name in ("written", "stored")]
    for path in paths:
        make(path)
    before = [path.stat().st_mtime_ns for path in paths]
    time.sleep(0.05)
    fd = open_direct(paths[0])
    with mmap.mmap(-1, PAGE) as page:
        os.pwritev(fd, [page], 0)
    os.close(fd)
    fd = open_direct(paths[1])
    Map(fd).unmap()
    os.close(fd)
    assert volume.unmount() == 0
    volume.mount("writeback")
    maker.watch()
    assert all(path.stat().st_mtime_ns > old for path, old in zip(paths, before))


@claim("chown of a set-user-ID file to its own owner clears the bit", alone=True)
def _(maker):
    path = mounted(maker).mnt / "f"
    path.write_bytes(b"x")
    path.chmod(0o4755)
    os.chown(path, -1, -1)
    assert path.stat().st_mode & 0o4000 == 0


@claim("the death of the server loses only what was not synced, and no seal", alone=True)
def _(maker):
    volume = mounted(maker)
    sealed, synced, lost = (volume.mnt / name for name in ("sealed", "synced", "lost"))
    data = make(sealed)
    ctl("seal", sealed)
    fds = [os.open(path, os.O_CREAT | os.O_WRONLY) for path in (synced, lost)]
    os.pwrite(fds[0], data, 0)
    os.fsync(fds[0])
    os.pwrite(fds[1], data, 0)
    volume.kill()
    for fd in fds:
        try:
            os.close(fd)
        except OSError:
            pass
    volume.fsck()
    volume.mount("writeback")
    maker.watch()
    assert seal_of(sealed) == "full" and sealed.read_bytes() == data and synced.read_bytes() == data
    assert lost.read_bytes() in (b"", data)
    assert volume.unmount() == 0
    volume.fsck()


if __name__ == "__main__":
    run_claims()
