#!/usr/bin/env python3
"""Leases (B) on a real mount: breaks are reported by poll(2), answered or not, and no process waits longer than documented."""
# Holds docs/seal.md "Leases and their events" and docs/man/pmfs_lease.3.
import contextlib
import errno
import fcntl
import mmap
import os
import select
import signal
import socket
import struct
import subprocess
import time

from holding import Child, kinds, until
from libpmfs import (BREAK, BREAKABLE, BREAKABLE_MAP, ENDED, NOWAIT, NOWAIT_MAP, READ, Lease, Map, ctl,
                     grant, holders, ioc, make_file, open_direct, pin, prepare, unpin)
from fixture import as_user, claim, fails, program, run_claims

MIB = 1 << 20
TRUNCATE = ("import os, sys; os.truncate(sys.argv[1], int(sys.argv[2]))")


def truncate(path, size):
    """A breaker: another process, for one's own lease is EDEADLK."""
    return subprocess.Popen(["python3", "-c", TRUNCATE, str(path), str(size)],
                            stderr=subprocess.DEVNULL)


def hung_up(holder):
    poll = select.poll()
    poll.register(holder.event_fd, 0)
    return bool(poll.poll(0))


@claim("the holder is told of a break, gives the lease back, and the breaker continues; then a new lease is possible")
def _(here):
    data = make_file(here / "f", 4 * MIB)
    fd = open_direct(here / "f", os.O_RDONLY)
    for size in (3 * MIB, 2 * MIB, MIB):
        with Map(fd, prot=READ, flags=BREAKABLE_MAP) as m:
            assert m.event() is None and m.load(0, m.length) == data[:m.length]
            breaker = truncate(here / "f", size)
            event = m.wait()
            assert event.kind == BREAK and 0 < event.milliseconds <= 45_000 and event.grant != 0
            assert m.event() is None and breaker.poll() is None
            assert os.stat(here / "f").st_size == m.length  # it waits
        assert breaker.wait(10) == 0
        assert os.stat(here / "f").st_size == size
    os.close(fd)


@claim("every change of the map breaks the lease, and writing in place does not")
def _(here):
    make_file(here / "f", MIB)
    reader = open_direct(here / "f", os.O_RDONLY)
    scripts = ("os.pwrite(fd, b'x' * 4096, MIB)", "os.posix_fallocate(fd, 0, 4 * MIB)",
               "os.ftruncate(fd, 8 * MIB)", "os.ftruncate(fd, MIB - 4096)",
               "libc.fallocate(fd, 3, ctypes.c_int64(0), ctypes.c_int64(4096))",
               "os.open(path, os.O_WRONLY | os.O_TRUNC)")
    for script in scripts:
        fd = open_direct(here / "f")
        os.ftruncate(fd, MIB)
        prepare(fd)
        os.close(fd)
        with Lease(reader) as lease:
            subprocess.run(["python3", "-c", "import os, sys; fd = os.open(sys.argv[1], os.O_RDWR);"
                            "os.pwrite(fd, b'in place', 4096)", here / "f"], check=True, timeout=20)
            assert lease.event() is None
            breaker = subprocess.Popen(
                ["python3", "-c", "import ctypes, os, sys; MIB = 1 << 20; path = sys.argv[1];"
                 "libc = ctypes.CDLL(None); fd = os.open(path, os.O_RDWR);" + script, here / "f"])
            assert lease.wait().kind == BREAK, script
            assert breaker.poll() is None, script
        assert breaker.wait(10) == 0, script
    os.close(reader)


@claim("a holder that gives back and takes again makes progress beside a writer that never stops",
       seconds=120)
def _(here):
    (here / "f").write_bytes(bytes(8192))
    fd = open_direct(here / "f", os.O_RDONLY)
    # With -o writeback the writer's descriptor excludes mappings if it is there before all of them.
    first = Map(fd, prot=READ, flags=BREAKABLE_MAP)
    writer = subprocess.Popen(["python3", "-c", (
        "import os, select, sys\n"
        "fd = os.open(sys.argv[1], os.O_RDWR)\n"
        "print(flush=True)\n"
        "i = 0\n"
        "while not select.select([sys.stdin], [], [], 0)[0]:\n"
        "    i += 1\n"
        "    os.ftruncate(fd, 4096)\n"
        "    assert os.pwrite(fd, bytes([i & 0xff]) * 4096, 4096) == 4096\n"
        "print(i)\n"), here / "f"], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    assert writer.stdout.readline() == b"\n"
    first.unmap()
    breaks, end = 0, time.monotonic() + 3
    while breaks < 5 or time.monotonic() < end:
        assert writer.poll() is None
        with Map(fd, prot=READ, flags=BREAKABLE_MAP) as m:
            assert m.length in (4096, 8192)
            behind = m.load(4096, m.length - 4096)
            assert behind == behind[:1] * len(behind)
            poll = select.poll()
            poll.register(m.event_fd, select.POLLIN)
            if poll.poll(100):
                assert m.event().kind == BREAK
                breaks += 1
            assert m.load(4096, m.length - 4096) == behind
    rounds = int(writer.communicate()[0])
    assert writer.returncode == 0 and rounds >= 5, (breaks, rounds)
    os.close(fd)


@claim("a holder that never answers loses its lease after lease_break_time", alone=True)
def _(maker):
    volume = maker.volume(options="lease_break_time=1")
    path = volume.mnt / "f"
    make_file(path, MIB)
    fd = open_direct(path, os.O_RDONLY)
    lease = Lease(fd)
    start = time.monotonic()
    breaker = truncate(path, 5)
    event = lease.wait()
    assert event.kind == BREAK and 0 < event.milliseconds <= 1000
    assert breaker.wait(20) == 0
    assert 0.9 < time.monotonic() - start < 15
    until(lambda: hung_up(lease))
    assert lease.event().kind == ENDED and lease.event().kind == ENDED  # it stays
    assert kinds(path) == []
    lease.end()
    os.close(fd)


@claim("a caller that would block gets EAGAIN: O_NONBLOCK, and takers with NOWAIT")
def _(here):
    make_file(here / "f", MIB)
    fd = open_direct(here / "f", os.O_RDONLY)

    def try_without_blocking():
        other = os.open(here / "f", os.O_RDWR | os.O_NONBLOCK)
        with fails(errno.EAGAIN):
            os.pwrite(other, b"x" * 4096, MIB)
        with fails(errno.EAGAIN):
            os.posix_fallocate(other, MIB, MIB)
        os.close(other)

    def try_to_take():
        mine = open_direct(here / "f", os.O_RDONLY)
        for take in (lambda: Lease(mine, flags=NOWAIT), lambda: grant(mine, BREAKABLE, flags=NOWAIT),
                     lambda: Map(mine, prot=READ, flags=BREAKABLE_MAP | NOWAIT_MAP)):
            with fails(errno.EAGAIN):
                take()

    with Lease(fd) as lease:
        as_user(try_without_blocking, uid=0, gid=0)
        breaker = truncate(here / "f", 5000)
        lease.wait()
        as_user(try_to_take, uid=0, gid=0)
    assert breaker.wait(10) == 0
    os.close(fd)


@claim("a process that takes a lease while one is being broken waits behind the breaker")
def _(here):
    make_file(here / "f", MIB)
    fd = open_direct(here / "f", os.O_RDONLY)
    lease = Lease(fd)
    breaker = truncate(here / "f", 5000)
    lease.wait()
    taker = subprocess.Popen([program("pmfsctl"), "lease", here / "f", "--", "true"])
    with contextlib.suppress(subprocess.TimeoutExpired):
        taker.wait(0.3)
    assert taker.poll() is None and breaker.poll() is None
    with fails(errno.EDEADLK):  # but no process waits for itself
        Lease(fd)
    lease.end()
    assert breaker.wait(10) == 0 and taker.wait(10) == 0
    assert os.stat(here / "f").st_size == 5000
    os.close(fd)


@claim("a process that would wait for its own lease gets EDEADLK, and keeps it")
def _(here):
    make_file(here / "f", MIB)
    fd = open_direct(here / "f")
    with Lease(fd) as lease:
        for change in (lambda: os.ftruncate(fd, 5), lambda: os.pwrite(fd, b"x" * 4096, MIB),
                       lambda: os.truncate(here / "f", 5)):
            with fails(errno.EDEADLK):
                change()
        assert lease.event() is None and kinds(here / "f") == ["breakable"]
    os.ftruncate(fd, 5)
    os.close(fd)


@claim("a breaker that waits can be interrupted and killed, and leaves nothing changed")
def _(here):
    make_file(here / "f", MIB)
    fd = open_direct(here / "f", os.O_RDONLY)
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGKILL):
        with Lease(fd) as lease:
            breaker = truncate(here / "f", 5)
            lease.wait()
            breaker.send_signal(number)
            assert breaker.wait(10) != 0
            assert kinds(here / "f") == ["breakable"]
        assert os.stat(here / "f").st_size == MIB
    with Lease(fd):
        pass
    os.close(fd)


@claim("a hundred holders are told of one break, and the breaker continues after the last of them")
def _(here):
    make_file(here / "f", MIB)
    fd = open_direct(here / "f", os.O_RDONLY)
    leases = [Lease(fd) for _ in range(100)]
    assert kinds(here / "f") == ["breakable"] * 100
    breaker = truncate(here / "f", 5)
    leases[0].wait()
    start = time.monotonic()
    for lease in leases[1:]:
        assert lease.wait().kind == BREAK
    spread = time.monotonic() - start
    assert spread < 10, f"{spread} s between the first and the last"
    for lease in leases[1:]:
        lease.end()
    assert breaker.poll() is None
    leases[0].end()
    assert breaker.wait(10) == 0
    os.close(fd)


@claim("leases are for every user who may read the file as its owner: no device is handed out",
       alone=True)
def _(maker):
    volume = maker.volume()
    path = volume.mnt / "f"
    make_file(path, MIB)
    volume.mnt.chmod(0o777), volume.directory.chmod(0o755)
    os.chown(path, 1000, 1000)

    def holder():
        fd = open_direct(path, os.O_RDONLY)
        with Lease(fd) as lease:
            breaker = truncate(path, 5)
            assert lease.wait().kind == BREAK
        assert breaker.wait(10) == 0
        with fails(errno.EACCES):
            Map(fd, prot=READ, flags=BREAKABLE_MAP)

    as_user(holder)


@claim("under a seal a lease never breaks; sealing a leased file is EBUSY")
def _(here):
    make_file(here / "f", MIB)
    fd = open_direct(here / "f")
    with Lease(fd):
        assert ctl("seal", here / "f", ok=False).returncode == 1
    ctl("seal", here / "f")
    with Lease(fd) as lease:
        with fails(errno.ETXTBSY):
            os.truncate(here / "f", 5)
        assert truncate(here / "f", 5).wait(10) != 0
        assert lease.event() is None
    os.close(fd)


@claim("a pin beside a lease keeps it from breaking: the breaker gets ETXTBSY")
def _(here):
    make_file(here / "f", MIB)
    fd = open_direct(here / "f")
    number = pin(fd, 0, 4096)
    with Child(lambda: Lease(open_direct(here / "f", os.O_RDONLY))):
        with fails(errno.ETXTBSY):
            os.truncate(here / "f", 0)
    unpin(fd, number)
    os.close(fd)


@claim("a lease ends with its handle, its process, and SIGKILL of it: a breaker goes on")
def _(here):
    make_file(here / "f", MIB)

    def take():
        return Lease(open_direct(here / "f", os.O_RDONLY))

    for size, way in ((5000, Child.end), (4000, Child.kill)):
        with Child(take) as child:
            breaker = truncate(here / "f", size)
            until(lambda: any(h.get("breaking") for h in holders(here / "f")))
            way(child)
        assert breaker.wait(10) == 0 and os.stat(here / "f").st_size == size


@claim("when the server stops or is killed, every holder is told", alone=True)
def _(maker):
    volume = maker.volume()
    for stop in ("kill", "term"):
        make_file(volume.mnt / "f", MIB)
        fd = open_direct(volume.mnt / "f")
        held = [Lease(fd), Map(fd, prot=READ, flags=BREAKABLE_MAP)]
        other = open_direct(volume.mnt / "f")
        assert all(one.event() is None and not hung_up(one) for one in held)
        if stop == "kill":
            volume.kill()
        else:
            volume.server.terminate()
            volume.server.wait(20)
        for one in held:
            assert one.wait().kind == ENDED and hung_up(one) and one.event().kind == ENDED
        held[1].load(0, 4096)  # its pages stay
        held[0].end(), held[1].unmap()
        os.close(fd), os.close(other)
        if stop == "kill":
            volume.mount()
            maker.watch()


@claim("a holder that persists and unmaps keeps its time; write, O_DIRECT too, and fsync wait for the breaker",
       alone=True)
def _(maker):
    path = maker.volume(options="lease_break_time=2").mnt / "f"
    ways = {"persist": (lambda fd, m: m.persist(0, 4096), True),
            "read": (lambda fd, m: os.preadv(fd, [mmap.mmap(-1, 4096)], 0), True),
            "fstat": (lambda fd, m: os.fstat(fd), True),
            "write": (lambda fd, m: os.pwritev(fd, [mmap.mmap(-1, 4096)], 0), False),
            "fsync": (lambda fd, m: os.fsync(fd), False),
            "fdatasync": (lambda fd, m: os.fdatasync(fd), False)}
    for way, (finish, in_time) in ways.items():
        make_file(path, MIB)
        fd = open_direct(path)
        with Map(fd, flags=BREAKABLE_MAP) as m:
            breaker = truncate(path, 4096)
            assert m.wait().kind == BREAK
            begun = time.monotonic()
            m.store(0, b"last words")
            finish(fd, m)
            took = time.monotonic() - begun
            event = m.event()
            assert (event is None and took < 1) == in_time, (way, took, event)
            assert in_time or event.kind == ENDED, (way, took, event)
        assert breaker.wait(10) == 0
        os.close(fd)
        assert path.read_bytes()[:10] == (b"last words" if way != "write" else bytes(10)), way


def ask(broker, what, number, token=b""):
    """A packet of fs/client/broker_protocol.h."""
    broker.send(struct.pack("<IIIIQ16s", 0x6B724270, 2, what, 0, number, token))


@claim("a process that asks the broker again before it reads its answer is disconnected, also where system calls are filtered")
def _(here):
    make_file(here / "f", MIB)
    fd = open_direct(here / "f", os.O_RDONLY)
    io = bytearray(struct.pack("<III204x", 1, 4, BREAKABLE))  # PMFS_GRANT_EVENTS, a lease
    fcntl.ioctl(fd, ioc(0x20, len(io)), io)
    number, = struct.unpack_from("<Q", io, 40)
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as broker:
        broker.connect(bytes(io[104:]).rstrip(b"\0").decode())
        ask(broker, 1, number, bytes(io[88:104]))
        error, claim_number = struct.unpack_from("<8xi12xQ", broker.recv(32))
        assert error == 0
        poll = select.poll()
        poll.register(broker, select.POLLIN)
        ask(broker, 2, claim_number)
        assert poll.poll(10000)
        assert kinds(here / "f") == ["breakable"]
        with contextlib.suppress(BrokenPipeError):
            ask(broker, 2, claim_number)
        until(lambda: kinds(here / "f") == [])
    os.close(fd)


if __name__ == "__main__":
    run_claims(media=("memory", "writeback"))
