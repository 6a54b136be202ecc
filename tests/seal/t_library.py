#!/usr/bin/env python3
"""libpmfs inside of a program that does as it likes: with its descriptors, threads and processes."""
import contextlib
import errno
import mmap
import os
import signal
import socket
import struct
import subprocess
import threading
import time
from pathlib import Path

import holding
import libpmfs
from libpmfs import ENDED, FORK_MAP, READ, Lease, Map, ctl, make_file, open_direct, seal
from fixture import as_user, c_call, claim, fails, program, run_claims, wait_for

MIB = 1 << 20
CLONE_NEWPID = 0x20000000
BROKER = 216 - 112  # where the path of its socket is, in a ticket


def in_child(function):
    """Runs it in a process of its own, still as root; its exception comes back."""
    came_to_its_end = mmap.mmap(-1, mmap.PAGESIZE)

    def whole():
        function()
        came_to_its_end[0] = 1
    as_user(whole, uid=0, gid=0)
    assert came_to_its_end[0] == 1, "it was killed"


def sealed(path, seed=1):
    """A descriptor of a new file that is sealed full, and its content."""
    data = make_file(path, MIB, seed)
    fd = open_direct(path)
    seal(fd)
    return fd, data


@claim("a program without standard input, output and error gets no descriptor of the library in their place")
def _(here):
    fd, data = sealed(here / "f")
    make_file(here / "leased", MIB)
    leased = open_direct(here / "leased")
    make_file(here / "whole", 2 * MIB, prepared=False)
    whole = open_direct(here / "whole")
    libpmfs.prepare_contiguous(whole)
    seal(whole)

    def without():
        for number in range(3):
            os.close(number)

        def closed():
            for number in range(3):
                with fails(errno.EBADF):
                    os.fstat(number)
        with Map(fd, prot=READ) as m:
            closed()
            assert m.event_fd > 2 and m.event() is None
            closed()
            with Lease(leased) as lease:
                assert lease.event_fd > 2
                closed()
            assert m.load(0, MIB) == data
        assert libpmfs.borrow(whole) > 2
        closed()
    try:
        in_child(without)
    finally:
        for one in (fd, leased, whole):
            os.close(one)


def stop(volume):
    """Its server; each of its threads stops when it notices the signal."""
    os.kill(volume.pid, signal.SIGSTOP)
    states = f"/proc/{volume.pid}/task"
    assert wait_for(lambda: all(Path(states, task, "stat").read_text().rpartition(")")[2].split()[0] == "T"
                                for task in os.listdir(states)))


@claim("after a call that got no answer in time no other mapping gets that answer, and new mappings work",
       alone=True)
def _(maker):
    volume = maker.volume()
    files = [sealed(volume.mnt / f"f{i}", i) for i in range(4)]
    maps = [Map(fd, prot=READ) for fd, _ in files[:2]]
    raised = {}

    def ask(i):
        try:
            raised[i] = maps[i].event()
        except OSError as error:
            raised[i] = error.errno
    threads = [threading.Thread(target=ask, args=[i]) for i in range(2)]
    stop(volume)
    try:
        for thread in threads:
            thread.start()
        # The other one waits for its turn; when the first gives up, it must not read the late answer.
        assert wait_for(lambda: raised, seconds=15)
    finally:
        time.sleep(0.5)
        os.kill(volume.pid, signal.SIGCONT)
    for thread in threads:
        thread.join()
    assert raised == {0: errno.ETIMEDOUT, 1: errno.ETIMEDOUT}, raised
    with fails(errno.ETIMEDOUT):  # at once
        maps[0].event()
    later = [Map(fd, prot=READ) for fd, _ in files[2:]]
    for i, m in enumerate(maps + later):
        assert m.load(0, MIB) == files[i][1]
        assert holding.kinds(volume.mnt / f"f{i}") == ["temporary"]
    later[1].unmap()
    assert later[0].event() is None
    ctl("revoke", "--all", volume.mnt / "f2")
    assert later[0].wait().kind == ENDED
    # Its blocks are held back as long as it maps, though the other mapping has been given back.
    assert [q["mapped"] for q in holding.quarantine(volume.mnt)["holders"]] == [True]
    for m in maps + later:
        m.unmap()
    assert wait_for(lambda: holding.quarantine(volume.mnt) == {"held": 0, "holders": []})
    for fd, _ in files:
        os.close(fd)


@claim("an answer about another mapping's events is refused, and the broker that sent it is not believed again",
       alone=True)
def _(maker):
    volume = maker.volume()
    fd, data = sealed(volume.mnt / "f")
    ticket = bytearray(libpmfs.make_ticket(fd, prot=READ))
    path = str(volume.directory / "impostor")
    ticket[BROKER:BROKER + 112] = path.encode().ljust(112, b"\0")
    device = os.open(volume.region, os.O_RDONLY)

    def impostor(listening):
        peer, _ = listening.accept()
        for claim_number in (5, 6):  # that of the mapping, and another one
            magic, version = struct.unpack_from("<II", peer.recv(40))
            answer = struct.pack("<IIiIQQ", magic, version, 0, 0, 0, claim_number)
            socket.send_fds(peer, [answer], [device])
        assert peer.recv(40) == b""  # nothing else is asked
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as listening:
        listening.bind(path), listening.listen()
        thread = threading.Thread(target=impostor, args=[listening])
        thread.start()
        with Map(fd, ticket=bytes(ticket)) as m:
            before = len(os.listdir("/proc/self/fd"))
            for _ in range(2):
                with fails(errno.EPROTO):
                    m.event()
            assert m.load(0, MIB) == data and len(os.listdir("/proc/self/fd")) == before
        thread.join()
    os.close(device), os.close(fd)


@claim("a thread that is cancelled in the library keeps no lock, no descriptor and no grant", seconds=90)
def _(here):
    make_file(here / "f", MIB)
    done = subprocess.run([program("cancelled"), here / "f"], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0 and done.stderr == "", f"{done.returncode} {done.stderr}"
    assert holding.kinds(here / "f") == []


@claim("a child that is the first process of a new PID namespace takes nothing from its parent, itself the first of one")
def _(here):
    fd, data = sealed(here / "f")

    def first(function):
        """The function runs in a process with the number 1."""
        def checked():
            assert os.getpid() == 1
            function()
        c_call("unshare", CLONE_NEWPID)
        in_child(checked)

    def parent(flags):
        with Map(fd, prot=READ, flags=flags) as m:
            assert m.event() is None
            first(m.unmap)
            assert m.event() is None and m.load(0, MIB) == data
    try:
        for flags in (0, FORK_MAP):
            in_child(lambda flags=flags: first(lambda: parent(flags)))
    finally:
        os.close(fd)


@claim("a program that closes the library's descriptors keeps what it opens in their places, and can go on")
def _(here):
    files = [sealed(here / f"f{i}", i) for i in range(2)]
    make_file(here / "leased", MIB)
    leased = open_direct(here / "leased")

    def numbers():
        return {int(name) for name in os.listdir("/proc/self/fd")}

    def closes():
        signal.alarm(20)  # sooner than the watchdog
        before = numbers()
        m, lease = Map(files[0][0], prot=READ), Lease(leased)
        assert m.event() is None and lease.event() is None
        library = numbers() - before
        assert len(library) >= 5  # files, channels, the connection
        for number in library:
            with contextlib.suppress(OSError):  # that of the list itself
                os.close(number)
        mine = []
        while not library <= {one.fileno() for one in mine}:
            mine += socket.socketpair()
        for one in mine:
            one.setblocking(False)
        with Map(files[1][0], prot=READ) as later:
            assert later.load(0, MIB) == files[1][1] and later.event() is None
        assert m.event().kind == ENDED and lease.event().kind == ENDED
        assert m.load(0, MIB) == files[0][1]
        m.unmap(), lease.end()
        for one in mine:
            with fails(errno.EAGAIN):
                one.recv(100)
    try:
        in_child(closes)
        holding.until(lambda: holding.quarantine(here) == {"held": 0, "holders": []})
        assert all(holding.kinds(here / name) == [] for name in ("f0", "f1", "leased"))
    finally:
        for one in (leased, *(fd for fd, _ in files)):
            os.close(one)


@claim("a fork ends though a thread maps, or unmaps, with a lock that another library holds over forks")
def _(here):
    fd, _ = sealed(here / "f")
    os.close(fd)
    holding.until(lambda: libpmfs.info(here / "f")["handles_cached"] == 0)
    preload = {**os.environ, "LD_PRELOAD": program("libpmfs-preload.so"), "PMFS_PRELOAD_MMAP": "1"}
    for what, environment in (("map", os.environ), ("munmap", preload)):
        done = subprocess.run([program("forking"), what, here / "f"], capture_output=True, text=True, timeout=60,
                              env=environment)
        assert done.returncode == 0 and done.stderr == "", f"{what}: {done.returncode} {done.stderr}"
        assert holding.kinds(here / "f") == []


@claim("an answer with more extents than fit into it is refused")
def _(here):
    make_file(here / "f", 4 * MIB)  # more pages than extents fit
    done = subprocess.run([program("misled"), here / "f"], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, f"{done.returncode} {done.stderr}"
    assert holding.kinds(here / "f") == []


if __name__ == "__main__":
    run_claims(media=("image", "memory"))
