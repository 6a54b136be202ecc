#!/usr/bin/env python3
"""Temporary grants (T) on a real mount: counted by handle and by mapping, and gone with its holder, however that ends."""
# Holds docs/seal.md "Holding a file without sealing it".
import errno
import os

from holding import Child, kinds, until
from libpmfs import (BREAKABLE, PIN, READ, STORE, TEMPORARY, Map, ctl, grant, info, make_file,
                     open_direct, release, seal_of)
from fixture import as_user, claim, fails, run_claims

MIB = 1 << 20


def frozen(path):
    with fails(errno.ETXTBSY):
        os.truncate(path, 5)


@claim("grants are counted: the map may change when the last one is given back")
def _(here):
    make_file(here / "f", MIB)
    one, two = open_direct(here / "f"), open_direct(here / "f")
    grants = [(one, grant(one)), (one, grant(one)), (two, grant(two, flags=STORE))]
    mapping = Map(one)
    assert kinds(here / "f") == ["temporary"] * 4 and info(here / "f")["grants"] == 4
    for fd, number in grants:
        frozen(here / "f")
        release(fd, number)
    frozen(here / "f")
    mapping.unmap()
    os.truncate(here / "f", 5)
    os.close(one), os.close(two)


@claim("a grant belongs to its handle: another one cannot release it, and closing it does")
def _(here):
    make_file(here / "f", MIB)
    one, two = open_direct(here / "f"), open_direct(here / "f")
    number = grant(one)
    with fails(errno.ENOENT):
        release(two, number)
    with fails(errno.ENOENT):
        release(one, number + 1000)
    copy = os.dup(one)
    os.close(one)
    frozen(here / "f")  # the open description lives on
    os.close(copy)
    until(lambda: kinds(here / "f") == [])
    os.truncate(here / "f", 5)
    os.close(two)


@claim("a grant by handle ends with exit, and with SIGKILL")
def _(here):
    make_file(here / "f", MIB)

    def take():
        fd = open_direct(here / "f")
        grant(fd)
        Map(fd, prot=READ)
        return fd

    for way in (Child.end, Child.kill):
        with Child(take) as child:
            assert kinds(here / "f") == ["temporary"] * 2
            frozen(here / "f")
            way(child)
        until(lambda: kinds(here / "f") == [])
        os.truncate(here / "f", MIB)  # the same size: the map is as it was


@claim("under a temporary grant every change of the map is ETXTBSY, the holder's own included, and writing in place works")
def _(here):
    data = make_file(here / "f", MIB)
    fd = open_direct(here / "f")
    number = grant(fd)
    for change in (lambda: os.ftruncate(fd, 5), lambda: os.ftruncate(fd, 2 * MIB),
                   lambda: os.pwrite(fd, b"x" * 4096, MIB), lambda: os.posix_fallocate(fd, MIB, MIB),
                   lambda: os.open(here / "f", os.O_WRONLY | os.O_TRUNC)):
        with fails(errno.ETXTBSY):
            change()
    assert os.pwrite(fd, data[4096:8192], 0) == 4096
    os.ftruncate(fd, MIB)
    ctl("seal", here / "f")
    assert ctl("unseal", here / "f", ok=False).returncode == 1 and seal_of(here / "f") == "full"
    release(fd, number)
    ctl("unseal", here / "f")
    os.close(fd)


@claim("temporary grants and leases exclude each other; pins exclude neither")
def _(here):
    make_file(here / "f", MIB)
    fd = open_direct(here / "f")
    for first, second in ((TEMPORARY, BREAKABLE), (BREAKABLE, TEMPORARY)):
        number = grant(fd, first)
        with fails(errno.EBUSY):
            grant(fd, second)
        release(fd, grant(fd, first))
        release(fd, grant(fd, PIN))
        release(fd, number)
    os.close(fd)


@claim("only the owner, root, and a process with a descriptor for writing may take a grant", alone=True)
def _(maker):
    volume = maker.volume()
    path = volume.mnt / "f"
    make_file(path, MIB)
    volume.mnt.chmod(0o777), volume.directory.chmod(0o755)
    os.chmod(path, 0o644)
    writer = open_direct(path)  # as if it came over a socket

    def stranger():
        reader = open_direct(path, os.O_RDONLY)
        for kind in (TEMPORARY, BREAKABLE, PIN):
            with fails(errno.EPERM):
                grant(reader, kind)
            if kind != PIN:  # a quota of its own
                release(writer, grant(writer, kind))

    as_user(stranger)
    os.chown(path, 1000, 1000)

    def owner():
        reader = open_direct(path, os.O_RDONLY)
        release(reader, grant(reader))
        with fails(errno.EBADF, errno.EACCES):
            grant(reader, flags=STORE)

    as_user(owner)
    os.close(writer)


if __name__ == "__main__":
    run_claims(media=("memory",))
