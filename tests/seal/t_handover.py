#!/usr/bin/env python3
"""Tickets: who may have the device takes the grant, and a process that may not maps by it, once."""
# Holds docs/seal.md "Handing a mapping over" and docs/man/pmfs_make_ticket.3.
import errno
import fcntl
import os
import socket
import struct
import time

from holding import kinds, until
from libpmfs import (BREAKABLE_MAP, PINNED_MAP, READ, WRITE, Map, ioc, make_file, make_ticket, open_direct,
                     pattern)
from fixture import as_user, claim, fails, run_claims

MIB = 1 << 20


@claim("a process of another user maps by a ticket and a descriptor that came over a socket")
def _(here):
    make_file(here / "f", MIB)
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    fd = open_direct(here / "f")
    socket.send_fds(ours, [make_ticket(fd)], [fd])
    os.close(fd)  # theirs is enough

    def user():
        bytes_, fds, _, _ = socket.recv_fds(theirs, 4096, 1)
        with Map(fds[0], ticket=bytes_) as m:
            assert m.length == MIB and m.load(0, MIB) == pattern(MIB)
            assert kinds_by_fd(fds[0]) == 1
            m.store(4096, b"from the other one")
        with fails(errno.EPERM, errno.EACCES):  # it was good once
            Map(fds[0], ticket=bytes_)
        with fails(errno.EACCES):  # and it gets nothing else
            Map(fds[0])

    as_user(user)
    until(lambda: kinds(here / "f") == [])
    with open(here / "f", "rb") as file:
        assert os.pread(file.fileno(), 18, 4096) == b"from the other one"
    ours.close(), theirs.close()


def kinds_by_fd(fd):
    """How many grants there are: the path may not be readable for this user."""
    data = bytearray(152)
    struct.pack_into("<I", data, 0, 1)
    fcntl.ioctl(fd, ioc(0x01, 152), data)
    return struct.unpack_from("<Q", data, 48)[0]


@claim("tickets are for ranges, for reading, for leases and for pins, too")
def _(here):
    data = make_file(here / "f", 2 * MIB)
    fd = open_direct(here / "f")
    for offset, length, prot, flags, kind in (
            (5000, 10, READ, 0, "temporary"), (0, 0, WRITE, 0, "temporary"),
            (MIB, 4096, READ, BREAKABLE_MAP, "breakable"), (MIB, MIB, WRITE, PINNED_MAP, "pin")):
        with Map(fd, ticket=make_ticket(fd, offset, length, prot, flags)) as m:
            size = length or 2 * MIB - offset
            assert m.length == size and m.load(0, size) == data[offset:offset + size]
            assert kinds(here / "f") == [kind]
        assert kinds(here / "f") == []
    os.close(fd)


@claim("a ticket holds the map from the moment it is made, and expires if it is not used",
       seconds=60)
def _(here):
    make_file(here / "f", MIB)
    fd = open_direct(here / "f")
    ticket = make_ticket(fd)
    with fails(errno.ETXTBSY):
        os.truncate(here / "f", 5)
    start = time.monotonic()
    until(lambda: kinds(here / "f") == [], 30)
    assert time.monotonic() - start > 2
    with fails(errno.EPERM):
        Map(fd, ticket=ticket)
    os.truncate(here / "f", 5)
    os.close(fd)


@claim("only a process that may have the device can make tickets", alone=True)
def _(maker):
    volume = maker.volume()
    path = volume.mnt / "f"
    make_file(path, MIB)
    volume.mnt.chmod(0o777), volume.directory.chmod(0o755)
    os.chown(path, 1000, 1000)

    def user():
        fd = open_direct(path)
        with fails(errno.EACCES):
            make_ticket(fd)

    as_user(user)
    assert kinds(path) == []


@claim("a ticket that was tampered with maps nothing, and leaves no grant behind")
def _(here):
    make_file(here / "f", MIB)
    fd = open_direct(here / "f")

    def changed(offset, layout, value):
        ticket = bytearray(make_ticket(fd, prot=READ))
        struct.pack_into(layout, ticket, offset, value)
        return bytes(ticket)

    for offset, layout, value in ((0, "<I", 9),  # version
                                  (4, "<I", 0),  # flags of the grant: no MAP
                                  (216, "<I", WRITE),  # prot that the grant has not
                                  (220, "<I", 1 << 31),  # PMFS_MAP_*
                                  (16, "<Q", 1 << 63), (24, "<Q", 0),  # the range
                                  (88, "<Q", 0)):  # the token
        with fails(errno.EINVAL, errno.EPERM):
            Map(fd, ticket=changed(offset, layout, value))
    os.close(fd)
    until(lambda: kinds(here / "f") == [])


if __name__ == "__main__":
    run_claims(media=("memory",))
