#!/usr/bin/env python3
"""The direct mapping through a real mount: what it shows, what it excludes, when it ends."""
# Holds docs/seal.md "Mappings and the page cache", docs/grants.md "Before you start", docs/man/pmfs.3,
# docs/man/pmfs_map.3 and docs/man/pmfs_persist.3.
import ctypes
import errno
import mmap
import os
import select
import signal
import time
from pathlib import Path

from libpmfs import (AS_IS, FULL, READ, WRITE, Map, ctl, holders, info, make_file, open_direct,
                     pattern, prepare, seal, unseal)
from fixture import Mounted, as_user, c_call, claim, fails, program, run, run_claims

MIB = 1 << 20
HUGE_PAGES = Path("/proc/sys/vm/nr_hugepages")


def eventually(condition, seconds=5):
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it does not come to be"
        time.sleep(0.01)


def in_child(function):
    """A process that runs the function, says so, and then stays; gives its pid."""
    read_end, write_end = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            os.close(read_end)
            function()
            os.write(write_end, b"+")
            time.sleep(60)
        finally:
            os._exit(1)
    os.close(write_end)
    said = os.read(read_end, 1)
    os.close(read_end)
    if said != b"+":
        os.waitpid(child, 0)
        raise AssertionError("the child failed")
    return child


def end(child):
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)


@claim("a store through a mapping is seen by read(2) at once, and a write(2) by the mapping")
def _(here):
    data = make_file(here / "f", 3 * MIB + 1234)
    fd = open_direct(here / "f")
    with Map(fd) as m:
        assert m.length == len(data)
        assert m.load(0, m.length) == data
        for offset in (0, 4095, MIB - 3, 2 * MIB, len(data) - 7):
            m.store(offset, b"STORED!")
            assert os.pread(fd, 7, offset) == b"STORED!"
            assert run_other_reader(here / "f", offset) == b"STORED!"
            os.pwrite(fd, b"written", offset)
            assert m.load(offset, 7) == b"written"
    os.close(fd)


def run_other_reader(path, offset):
    """An ordinary reader: no O_DIRECT."""
    fd = os.open(path, os.O_RDONLY)
    try:
        return os.pread(fd, 7, offset)
    finally:
        os.close(fd)


@claim("any offset and length can be mapped; ends outside of the file cannot")
def _(here):
    data = make_file(here / "f", 300_000)
    fd = open_direct(here / "f")
    for offset, length in ((0, 1), (5000, 12345), (4096, 4096), (299_999, 1), (123_456, 0)):
        with Map(fd, offset, length, READ) as m:
            size = length or len(data) - offset
            assert m.length == size
            assert m.load(0, size) == data[offset:offset + size]
    for offset, length in ((0, 300_001), (300_000, 1), (300_000, 0), (4096, 1 << 62), (-1, 5)):
        with fails(errno.EINVAL):
            Map(fd, offset, length, READ)
    for prot in (0, mmap.PROT_WRITE, mmap.PROT_READ | mmap.PROT_EXEC):
        with fails(errno.EINVAL):
            Map(fd, 0, 0, prot)
    with fails(errno.EINVAL):
        Map(fd, flags=1 << 31)
    assert info(here / "f")["grants"] == 0
    os.close(fd)


@claim("a file in many pieces is mapped at one address", seconds=120)
def _(here):
    # Two files that grow in turns, so that neither is in one piece.
    files = [os.open(here / name, os.O_RDWR | os.O_CREAT) for name in "ab"]
    for i in range(700):
        for fd in files:
            os.pwrite(fd, bytes([i & 0xFF]) * 4096, 2 * i * 4096)
    for i in range(700):
        os.pwrite(files[0], bytes([(i + 1) & 0xFF]) * 4096, (2 * i + 1) * 4096)
    for fd in files:
        os.close(fd)
    expected = (here / "a").read_bytes()
    fd = open_direct(here / "a")
    prepare(fd, unit=4096)
    with Map(fd, flags=1) as m:
        assert m.load(0, m.length) == expected
        m.store(0, pattern(m.length, 9))
        assert os.pread(fd, m.length, 0) == pattern(m.length, 9)
    os.close(fd)


@claim("what is not prepared cannot be mapped, and prepare changes no byte")
def _(here):
    fd = os.open(here / "f", os.O_RDWR | os.O_CREAT)
    os.pwrite(fd, b"begin", 0)
    os.pwrite(fd, b"end", 5 * MIB)
    os.posix_fallocate(fd, MIB, MIB)
    os.close(fd)
    before = (here / "f").read_bytes()
    fd = open_direct(here / "f")
    with fails(errno.EINVAL):
        Map(fd)
    prepare(fd)
    with Map(fd) as m:
        assert m.load(0, m.length) == before
    os.close(fd)


@claim("the mapping outlives its descriptor, and ends with pmfs_unmap")
def _(here):
    make_file(here / "f", MIB)
    fd = open_direct(here / "f")
    m = Map(fd)
    os.close(fd)
    assert [h["kind"] for h in holders(here / "f")] == ["temporary", "handle_direct"]
    assert holders(here / "f")[0]["pid"] == os.getpid()
    with fails(errno.ETXTBSY):
        os.truncate(here / "f", 5)
    m.store(0, b"x")
    m.unmap()
    os.truncate(here / "f", 5)


@claim("a failed mapping leaves no grant, no descriptor and no address behind")
def _(here):
    make_file(here / "f", MIB)
    fd = open_direct(here / "f")
    os.ftruncate(fd, 2 * MIB)
    fds = len(os.listdir("/proc/self/fd"))
    maps = len(open("/proc/self/maps").read().splitlines())
    for _ in range(50):
        with fails(errno.EINVAL):
            Map(fd)
    assert len(os.listdir("/proc/self/fd")) == fds
    assert abs(len(open("/proc/self/maps").read().splitlines()) - maps) <= 1
    assert info(here / "f")["grants"] == 0
    os.close(fd)


@claim("a grant dies with its process")
def _(here):
    make_file(here / "f", MIB)
    child = in_child(lambda: Map(open_direct(here / "f")).store(0, b"last words"))
    with fails(errno.ETXTBSY):
        os.truncate(here / "f", 5)
    end(child)
    eventually(lambda: info(here / "f")["grants"] == 0)
    assert (here / "f").read_bytes()[:10] == b"last words"
    os.truncate(here / "f", 5)


@claim("a child process has neither the mapping nor a right to it")
def _(here):
    make_file(here / "f", MIB)
    fd = open_direct(here / "f")
    with Map(fd) as m:
        child = os.fork()
        if child == 0:
            ctypes.string_at(m.address, 1)  # a segmentation fault
            os._exit(0)
        _, status = os.waitpid(child, 0)
        assert os.WIFSIGNALED(status) and os.WTERMSIG(status) == signal.SIGSEGV
    os.close(fd)


@claim("a mapping that may store is EBUSY while any process, its caller included, has the file cached")
def _(here):
    make_file(here / "f", MIB)
    direct = open_direct(here / "f")
    for flags in (os.O_RDONLY, os.O_RDWR):
        cached = os.open(here / "f", flags)
        with fails(errno.EBUSY):
            Map(direct)
        assert "open file, cached" in ctl("holders", here / "f").stdout
        os.close(cached)
    own = os.open(here / "f", os.O_RDWR)
    with fails(errno.EBUSY):
        Map(own)
    with Map(own, prot=READ):  # reading does not mind
        pass
    os.close(own)
    eventually(lambda: info(here / "f")["handles_cached"] == 0)
    with Map(direct):
        pass
    os.close(direct)


@claim("while a mapping that may store exists, no shared mapping through the mount is possible, and afterwards no cached page is stale")
def _(here):
    data = make_file(here / "f", MIB)
    assert (here / "f").read_bytes() == data  # cached
    direct = open_direct(here / "f")
    eventually(lambda: info(here / "f")["handles_cached"] == 0)
    with Map(direct) as m:
        fd = os.open(here / "f", os.O_RDWR)
        with fails(errno.ENODEV):
            mmap.mmap(fd, 4096, mmap.MAP_SHARED)
        private = mmap.mmap(fd, 4096, mmap.MAP_PRIVATE)
        assert private[:10] == data[:10]
        private.close()
        m.store(0, b"no longer cached")
        assert os.pread(fd, 16, 0) == b"no longer cached"
        os.close(fd)
    os.close(direct)
    assert (here / "f").read_bytes()[:16] == b"no longer cached"
    fd = os.open(here / "f", os.O_RDWR)
    shared = mmap.mmap(fd, 4096, mmap.MAP_SHARED)
    assert shared[:16] == b"no longer cached"
    shared.close()
    os.close(fd)


@claim("a file that is sealed full is not cached for descriptors that may write, and maps as before")
def _(here):
    data = make_file(here / "f", MIB)
    ctl("seal", here / "f")
    fd = os.open(here / "f", os.O_RDWR)
    with fails(errno.ENODEV):
        mmap.mmap(fd, 4096, mmap.MAP_SHARED)
    with Map(fd) as m:  # no O_DIRECT needed
        assert m.load(0, m.length) == data
        m.store(100, b"sealed, not frozen")
        assert os.pread(fd, 18, 100) == b"sealed, not frozen"
        with fails(errno.EBUSY):
            unseal(fd)
        assert "stays sealed" in ctl("unseal", here / "f", ok=False).stderr
    unseal(fd)
    os.close(fd)


@claim("SEAL writes dirty pages of a shared mmap back first")
def _(here):
    make_file(here / "f", MIB)
    cached = os.open(here / "f", os.O_RDWR)
    shared = mmap.mmap(cached, MIB, mmap.MAP_SHARED)
    shared[5000:5005] = b"dirty"
    direct = open_direct(here / "f")
    seal(direct, FULL)
    assert os.pread(direct, 5, 5000) == b"dirty"
    shared[6000:6005] = b"later"  # the pages may be written as before: nothing needs a new block
    shared.flush()
    assert os.pread(direct, 5, 6000) == b"later"
    shared.close()
    os.close(cached)
    os.close(direct)


@claim("SEAL as-is of a file with holes is EBUSY while it is cached for writing")
def _(here):
    cached = os.open(here / "f", os.O_RDWR | os.O_CREAT)
    os.pwrite(cached, b"x", 5 * 4096)
    direct = open_direct(here / "f")
    with fails(errno.EBUSY):
        seal(direct, AS_IS)
    os.close(cached)
    eventually(lambda: info(here / "f")["handles_cached_write"] == 0)
    seal(direct, AS_IS)
    again = os.open(here / "f", os.O_RDWR)
    with fails(errno.ENODEV):
        mmap.mmap(again, 4096, mmap.MAP_SHARED)
    with fails(errno.ETXTBSY):
        os.pwrite(again, b"x", 0)
    os.close(again)
    os.close(direct)


@claim("prot must fit the descriptor")
def _(here):
    make_file(here / "f", MIB)
    reader = open_direct(here / "f", os.O_RDONLY)
    with fails(errno.EBADF):
        Map(reader, prot=WRITE)
    with Map(reader, prot=READ) as m:
        child = os.fork()
        if child == 0:
            os._exit(0)
        os.waitpid(child, 0)
        # Not even mprotect(2) makes it writable.
        with fails(errno.EACCES):
            c_call("mprotect", ctypes.c_void_p(m.address & ~4095), ctypes.c_size_t(4096), 3)
    os.close(reader)


@claim("two processes that map a file see each other's stores")
def _(here):
    make_file(here / "f", MIB)
    fd = open_direct(here / "f")
    with Map(fd) as m:
        def other():
            Map(open_direct(here / "f")).store(5000, b"from the other one")
        child = in_child(other)
        assert m.load(5000, 18) == b"from the other one"
        assert len([h for h in holders(here / "f") if h["kind"] == "temporary"]) == 2
        end(child)
        eventually(lambda: info(here / "f")["grants"] == 1)
    os.close(fd)


@claim("behind the end of a file there are zeroes, even after stores there")
def _(here):
    (here / "secret").write_bytes(b"secret! " * (MIB // 8))
    os.unlink(here / "secret")
    for size in (10, 5000):
        path = here / f"of{size}"
        path.write_bytes(b"x" * size)
        fd = open_direct(path)
        prepare(fd)
        with Map(fd) as m:
            behind = -size % 4096
            assert ctypes.string_at(m.address + size, behind) == bytes(behind)
            ctypes.memset(m.address + size, 0x55, behind)
        os.pwrite(fd, b"y", size + 50)
        os.ftruncate(fd, 3 * 4096)
        rest = os.pread(fd, 3 * 4096, size)
        assert rest[:50] == bytes(50) and rest[50:51] == b"y"
        assert rest[51:] == bytes(len(rest) - 51)
        os.close(fd)


@claim("a mapping that may store moves mtime and ctime when it begins and when it ends, however that is",
       alone=True)
def _(maker):
    volume = maker.volume()  # which lets the kernel keep attributes
    path = volume.mnt / "f"
    make_file(path, MIB)
    fd = open_direct(path)

    def age():
        os.utime(path, (1000, 1000))
        time.sleep(0.01)
        return os.stat(path).st_ctime_ns

    def moved(since):
        now = os.stat(path)
        assert (now.st_mtime != 1000) == (now.st_ctime_ns != since)
        return now.st_mtime != 1000

    since = age()
    with Map(fd, prot=READ):
        pass
    assert not moved(since)
    with Map(fd):
        assert moved(since)
        since = age()
    assert moved(since)
    child = in_child(lambda: Map(open_direct(path)).store(0, b"last words"))
    since = age()
    end(child)
    eventually(lambda: moved(since))
    mapping = Map(fd)
    since = age()
    volume.kill()
    mapping.unmap()
    os.close(fd)
    volume.mount()
    maker.watch()
    assert moved(since)


class Huge(Mounted):
    """A volume on hugetlbfs: the mapping unit is a huge page."""

    def __init__(self, directory, size="64M", pages=40):  # not super(): it would choose the place
        self.directory, self.kind = Path(directory), "hugetlbfs"
        self.mnt, self.huge = self.directory / "mnt", self.directory / "huge"
        self.region = self.huge / "region"
        self.server, self.connection = None, 0
        self.pages_before = int(HUGE_PAGES.read_text())
        HUGE_PAGES.write_text(str(self.pages_before + pages))
        self.mnt.mkdir()
        self.huge.mkdir()
        run("mount", "-t", "hugetlbfs", "-o", "pagesize=2M", "none", self.huge)
        run(program("mkfs.pmfs"), "-q", "--size", size, self.region)
        self.mount()

    def end(self):
        super().end()
        run("umount", "-l", self.huge, ok=False)
        HUGE_PAGES.write_text(str(self.pages_before))


@claim("on hugetlbfs whole huge pages are mapped, aligned, from any offset", alone=True)
def _(maker):
    if maker.kind != "memory":
        return
    place = maker.directory / "huge"
    place.mkdir()
    volume = Huge.__new__(Huge)
    maker.made.append(volume)  # before it is made, so that half of one goes, too
    volume.__init__(place)
    maker.watch()
    for name, size in (("large", 5_000_000), ("small", 100_000)):
        data = make_file(volume.mnt / name, size)
        fd = open_direct(volume.mnt / name)
        seal(fd, FULL)
        for offset, length in ((0, 0), (5000, 100), (99_999, 1)):
            with Map(fd, offset, length) as m:
                assert m.load(0, m.length) == data[offset:offset + (length or size)]
                assert (m.address - offset) % (2 * MIB) == 0
                m.store(0, data[offset:offset + 1])
        os.close(fd)
    assert volume.unmount() == 0
    volume.fsck()


@claim("stores survive SIGKILL of the server and a new mount, and the holder is told", alone=True)
def _(maker):
    volume = maker.volume()
    path = volume.mnt / "f"
    make_file(path, 2 * MIB)
    ctl("seal", path)
    digest = info(path)["map_digest"]
    fd = open_direct(path)
    m = Map(fd)
    m.store(0, b"before")
    m.persist(0, 6)
    m.store(MIB, b"not persisted, but in the page cache or in memory")
    poll = select.poll()
    poll.register(m.event_fd, 0)
    assert poll.poll(0) == []
    volume.kill()
    assert poll.poll(5000)[0][1] & select.POLLHUP
    m.unmap()
    os.close(fd)
    volume.mount()
    maker.watch()
    fd = open_direct(path)
    assert os.pread(fd, 6, 0) == b"before"
    assert os.pread(fd, 13, MIB) == b"not persisted"
    os.close(fd)
    assert info(path)["seal"] == "full" and info(path)["map_digest"] == digest
    assert info(path)["grants"] == 0
    assert volume.unmount() == 0
    volume.fsck()


@claim("other users do not get the device, and with -o group= its members do", alone=True)
def _(maker):
    volume = maker.volume(options="group=games")
    volume.mnt.chmod(0o777)
    path = volume.mnt / "f"
    make_file(path, MIB)
    os.chown(path, 1000, 1000)
    import grp
    games = grp.getgrnam("games").gr_gid

    def refused():
        with fails(errno.EACCES):
            Map(open_direct(path), prot=READ)

    def maps():
        fd = open_direct(path)
        with Map(fd, prot=READ) as m:
            assert m.load(0, 3) == pattern(3)
        if maker.kind == "image":
            with fails(errno.EPERM):
                Map(fd)
        else:
            with Map(fd) as m:
                m.store(0, b"member")
            assert os.pread(fd, 6, 0) == b"member"

    volume.directory.chmod(0o755)
    as_user(refused)
    as_user(maps, groups=(games,))
    assert "refused a direct mapping (EACCES)" in volume.log_text()


@claim("without -o group= only root maps", alone=True)
def _(maker):
    volume = maker.volume()
    path = volume.mnt / "f"
    make_file(path, MIB)
    os.chown(path, 1000, 1000)

    def refused():
        with fails(errno.EACCES):
            Map(open_direct(path), prot=READ)
        assert info(path)["grants"] == 0

    as_user(refused)
    with Map(open_direct(path)):
        pass


if __name__ == "__main__":
    run_claims()
