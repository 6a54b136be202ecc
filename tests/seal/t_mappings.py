#!/usr/bin/env python3
"""Many mappings, and those of children, of group members and of read-only volumes."""
import ctypes
import errno
import grp
import os
import select
import signal

from holding import Child, until
from libpmfs import (ENDED, FORK_MAP, READ, WRITE, Map, ctl, grant, holders, info, make_file, open_direct,
                     pattern, prepare, seal, unseal)
from fixture import as_user, claim, fails, run_claims

KIB, MIB = 1 << 10, 1 << 20
MANY = 2000


def descriptors(pid="self"):
    return len(os.listdir(f"/proc/{pid}/fd"))


def hung_up(fd):
    poll = select.poll()
    poll.register(fd, 0)
    return bool(poll.poll(0))


@claim("a process maps thousands of files: a descriptor each of its own, and none of the server's",
       alone=True, seconds=300)
def _(maker):
    volume = maker.volume()
    files = []
    for i in range(MANY):
        (volume.mnt / f"f{i}").write_bytes(b"%4096d" % i)
        files.append(open_direct(volume.mnt / f"f{i}"))
    mine, servers = descriptors(), descriptors(volume.pid)
    maps = [Map(fd, prot=READ) for fd in files]
    assert descriptors() <= mine + MANY + 2
    assert descriptors(volume.pid) <= servers + 8  # one connection, not one a mapping
    assert all(int(m.load(0, 4096)) == i for i, m in enumerate(maps))
    assert info(volume.mnt / "f7")["grants"] == 1
    some = maps[::400]
    for m in some:
        assert m.event() is None and not hung_up(m.event_fd)
    maps[400].unmap()
    assert info(volume.mnt / "f400")["grants"] == 0
    assert not any(hung_up(m.event_fd) for m in some if m is not maps[400])
    volume.kill()
    for m in [m for m in some if m is not maps[400]] + maps[1:5]:  # these never asked before
        assert m.wait().kind == ENDED and hung_up(m.event_fd)
    for m in maps:
        m.unmap()
    assert descriptors() <= mine
    for fd in files:
        os.close(fd)
    volume.mount()
    maker.watch()


@claim("mappings= limits their number, and root finds a place that users cannot take", alone=True)
def _(maker):
    volume = maker.volume(options="mappings=16,group=games")
    volume.mnt.chmod(0o755), volume.directory.chmod(0o755)
    make_file(volume.mnt / "f", 64 * KIB)
    games = grp.getgrnam("games").gr_gid

    def fill():
        fd = open_direct(volume.mnt / "f", os.O_RDONLY)
        maps = [Map(fd, prot=READ) for _ in range(8)]  # half of all
        with fails(errno.EUSERS):
            Map(fd, prot=READ)
        return maps

    def become(uid):
        def change():
            os.setgroups([games]), os.setresgid(uid, uid, uid), os.setresuid(uid, uid, uid)
        return change

    with Child(fill, before=become(1000)):
        fd = open_direct(volume.mnt / "f", os.O_RDONLY)
        maps = [Map(fd, prot=READ) for _ in range(8)]
        with fails(errno.EUSERS):
            Map(fd, prot=READ)
        for m in maps:
            m.unmap()
    os.close(fd)


@claim("PMFS_MAP_FORK is for mappings that read files that are sealed full")
def _(here):
    make_file(here / "f", MIB)
    fd = open_direct(here / "f")
    with fails(errno.EINVAL):
        Map(fd, prot=READ, flags=FORK_MAP)
    seal(fd)
    with fails(errno.EINVAL):
        Map(fd, prot=WRITE, flags=FORK_MAP)
    with Map(fd, prot=READ, flags=FORK_MAP):
        pass
    os.close(fd)


@claim("a child reads a mapping that is handed down, and the file stays sealed until all are gone")
def _(here):
    data = make_file(here / "f", MIB)
    fd = open_direct(here / "f")
    seal(fd)

    def in_child(m, told):
        try:
            assert m.load(5000, 100) == data[5000:5100]
            os.read(told, 1)
            assert m.load(MIB - 9, 9) == data[-9:]
        except BaseException:
            os._exit(1)
        os._exit(0)

    told, tell = os.pipe()
    m = Map(fd, prot=READ, flags=FORK_MAP)
    child = os.fork()
    if child == 0:
        os.close(tell)
        in_child(m, told)
    m.unmap()
    with fails(errno.EBUSY):  # its parent has none any more
        unseal(fd)
    assert "process" in ctl("quarantine", here).stdout
    os.close(tell), os.close(told)
    _, status = os.waitpid(child, 0)
    assert status == 0

    def may_unseal():
        try:
            unseal(fd)
        except OSError as error:
            assert error.errno == errno.EBUSY
            return False
        return True
    until(may_unseal, seconds=30)
    os.close(fd)


@claim("a child that unmaps what it inherited takes nothing from its parent")
def _(here):
    data = make_file(here / "f", MIB)
    fd = open_direct(here / "f")
    seal(fd)
    for flags in (0, FORK_MAP):
        with Map(fd, prot=READ, flags=flags) as m:
            child = os.fork()
            if child == 0:
                m.unmap()
                os._exit(0)
            assert os.waitpid(child, 0)[1] == 0
            assert m.load(0, 9) == data[:9] and m.event() is None
            assert [h["kind"] for h in holders(here / "f")].count("temporary") == 1
            with Child(lambda: Map(open_direct(here / "f"), prot=READ)):  # has its own connection
                assert [h["kind"] for h in holders(here / "f")].count("temporary") == 2
    os.close(fd)


@claim("a mapping that only reads shows zeroes behind the end of the file")
def _(here):
    (here / "f").write_bytes(b"secret! " * 1000)
    os.truncate(here / "f", 5000)
    fd = open_direct(here / "f", os.O_RDONLY)
    with Map(fd, prot=READ) as m:
        assert m.load(4996, 4) == (b"secret! " * 1000)[4996:5000]
        assert ctypes.string_at(m.address + 5000, 8192 - 5000) == bytes(8192 - 5000)
    os.close(fd)


@claim("a read-only volume allows mappings that read, except where bytes behind the end would have to be cleared",
       alone=True)
def _(maker):
    volume = maker.volume()
    data = make_file(volume.mnt / "f", 3 * MIB + 1000)
    fd = open_direct(volume.mnt / "f")
    seal(fd)
    os.close(fd)
    (volume.mnt / "cut").write_bytes(b"secret! " * 1000)
    os.truncate(volume.mnt / "cut", 5000)
    assert volume.unmount() == 0
    before = volume.region.read_bytes()
    volume.mount("ro")
    maker.watch()
    fd = open_direct(volume.mnt / "f", os.O_RDONLY)
    for flags in (0, FORK_MAP):
        with Map(fd, prot=READ, flags=flags) as m:
            assert m.load(0, m.length) == data
            assert ctypes.string_at(m.address + m.length, 4096 - 1000) == bytes(4096 - 1000)
            with fails(errno.EACCES):  # the descriptor that came cannot be stored through
                from fixture import c_call
                c_call("mprotect", ctypes.c_void_p(m.address), ctypes.c_size_t(4096), 3)
    with fails(errno.EROFS, errno.EBADF):
        Map(fd, prot=WRITE)
    os.close(fd)
    fd = open_direct(volume.mnt / "cut", os.O_RDONLY)
    with fails(errno.EROFS):
        Map(fd, prot=READ)
    os.close(fd)
    assert volume.unmount() == 0
    assert volume.region.read_bytes() == before


@claim("a member of the group maps what it may read, whoever owns it; others hold nothing by reading",
       alone=True)
def _(maker):
    volume = maker.volume(options="group=games")
    volume.mnt.chmod(0o755), volume.directory.chmod(0o755)
    data = make_file(volume.mnt / "model", MIB)
    (volume.mnt / "model").chmod(0o644)
    make_file(volume.mnt / "private", MIB)
    (volume.mnt / "private").chmod(0o600)
    ctl("seal", volume.mnt / "model")
    games = grp.getgrnam("games").gr_gid

    def member():
        fd = open_direct(volume.mnt / "model", os.O_RDONLY)
        with Map(fd, prot=READ, flags=FORK_MAP) as m:
            assert m.load(0, m.length) == data
        with fails(errno.EPERM):  # to look is all that it may
            grant(fd)
        with fails(errno.EACCES):
            open_direct(volume.mnt / "private", os.O_RDONLY)

    def stranger():
        fd = open_direct(volume.mnt / "model", os.O_RDONLY)
        with fails(errno.EPERM):
            Map(fd, prot=READ)
        with fails(errno.EPERM):
            grant(fd)
        assert info(volume.mnt / "model")["grants"] == 0

    as_user(member, groups=(games,))
    as_user(member, gid=games)
    as_user(stranger)
    fd = open_direct(volume.mnt / "model", os.O_WRONLY)
    with fails(errno.EBADF):
        Map(fd, prot=READ)
    os.close(fd)


@claim("what is mapped and unmapped at once leaves nothing behind, though the server still runs after it has lent the device", alone=True)
def _(maker):
    # On one CPU whoever gets the descriptor runs before the server has closed its own copy.
    cpus = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {min(cpus)})
    try:
        volume = maker.volume(size="64M")
        make_file(volume.mnt / "f", MIB)
        fd = open_direct(volume.mnt / "f")
        for _ in range(50):
            seal(fd)
            Map(fd, prot=READ).unmap()
            unseal(fd)
        os.close(fd)
    finally:
        os.sched_setaffinity(0, cpus)


@claim("a file whose holder has just ended, without unmapping it, can be unsealed at once", alone=True)
def _(maker):
    cpus = os.sched_getaffinity(0)
    for chosen in ({min(cpus)}, cpus):
        os.sched_setaffinity(0, chosen)
        try:
            volume = maker.volume(size="64M")
            path = volume.mnt / "f"
            make_file(path, MIB)
            fd = open_direct(path)
            for _ in range(100):
                seal(fd)
                holder = os.fork()
                if holder == 0:
                    Map(open_direct(path), prot=READ)
                    os._exit(0)
                assert os.waitpid(holder, 0)[1] == 0
                unseal(fd)
            os.close(fd)
        finally:
            os.sched_setaffinity(0, cpus)


if __name__ == "__main__":
    run_claims(media=("image", "memory", "writeback"))
