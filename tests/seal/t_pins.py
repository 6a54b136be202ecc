#!/usr/bin/env python3
"""Pins (R) on a real mount: pinned blocks stay in place, others may change, and no user pins too much."""
# Holds docs/seal.md "Pins" and docs/man/pmfs_grant.3.
import ctypes
import errno
import json
import os
import resource

from holding import Child, kinds, until
from libpmfs import (PINNED_MAP, READ, Map, ctl, holders, make_file, open_direct, pin, unpin)
from fixture import as_user, c_call, claim, fails, run_claims

MIB = 1 << 20
PUNCH = 3  # with KEEP_SIZE


def punch(fd, offset, length):
    c_call("fallocate", fd, PUNCH, ctypes.c_int64(offset), ctypes.c_int64(length))


def where(path, offset):
    for extent in json.loads(ctl("map", "--json", path).stdout)["extents"]:
        if extent["offset"] <= offset < extent["offset"] + extent["length"]:
            return extent["device"] + offset - extent["offset"]
    return None


@claim("changes that overlap a pin are ETXTBSY, and elsewhere the file may change")
def _(here):
    make_file(here / "f", 4 * MIB)
    fd = open_direct(here / "f")
    number = pin(fd, MIB, MIB)
    place = where(here / "f", MIB)
    for change in (lambda: punch(fd, MIB, 4096), lambda: punch(fd, 2 * MIB - 4096, MIB),
                   lambda: punch(fd, 0, 4 * MIB), lambda: os.ftruncate(fd, 2 * MIB - 1),
                   lambda: os.ftruncate(fd, 0), lambda: os.open(here / "f", os.O_RDWR | os.O_TRUNC)):
        with fails(errno.ETXTBSY):
            change()
    punch(fd, 0, MIB)
    punch(fd, 2 * MIB, MIB)
    os.pwrite(fd, b"x" * 4096, 4 * MIB)  # an append
    os.ftruncate(fd, 8 * MIB)
    os.ftruncate(fd, 2 * MIB)
    assert where(here / "f", MIB) == place and where(here / "f", 0) is None
    unpin(fd, number)
    os.ftruncate(fd, 0)
    os.close(fd)


@claim("pins count: a range is free when each pin of it was given back")
def _(here):
    make_file(here / "f", MIB)
    fd = open_direct(here / "f")
    pins = [pin(fd, 0, 8192), pin(fd, 4096, 8192), pin(fd, 0, 8192)]
    assert kinds(here / "f") == ["pin"] * 3
    with fails(errno.ENOENT):
        unpin(fd, max(pins) + 1000)
    for number in pins:
        with fails(errno.ETXTBSY):
            os.ftruncate(fd, 0)
        unpin(fd, number)
    with fails(errno.ENOENT):
        unpin(fd, pins[0])
    os.ftruncate(fd, 0)
    os.close(fd)


@claim("a pin is rounded out to whole units, and must lie on what is written, within the file")
def _(here):
    make_file(here / "f", MIB)
    fd = open_direct(here / "f")
    number = pin(fd, 5000, 10)
    held = [h for h in holders(here / "f") if h["kind"] == "pin"]
    assert held[0]["offset"] <= 5000 and held[0]["offset"] % 4096 == 0
    assert held[0]["length"] >= 4096 and held[0]["length"] % 4096 == 0
    punch(fd, 0, 4096)
    with fails(errno.ETXTBSY):
        punch(fd, 4096, 4096)
    unpin(fd, number)
    for offset, length in ((0, 4096), (MIB, 4096), (MIB - 1, 2), (-1, 5)):
        with fails(errno.EINVAL):
            pin(fd, offset, length)
    os.close(fd)


@claim("a mapping by pin leaves the rest of the file free")
def _(here):
    data = make_file(here / "f", 4 * MIB)
    fd = open_direct(here / "f")
    with Map(fd, MIB, MIB, flags=PINNED_MAP) as m:
        assert m.load(0, MIB) == data[MIB:2 * MIB]
        os.ftruncate(fd, 2 * MIB)
        with fails(errno.ETXTBSY):
            os.ftruncate(fd, MIB)
        m.store(0, b"pinned")
        assert os.pread(fd, 6, MIB) == b"pinned"
    os.ftruncate(fd, MIB)
    os.close(fd)


@claim("a pin ends when its handle is closed, with exit, and with SIGKILL")
def _(here):
    make_file(here / "f", MIB)
    fd = open_direct(here / "f")
    pin(fd, 0, 4096)
    os.close(fd)
    until(lambda: kinds(here / "f") == [])

    def take():
        fd = open_direct(here / "f")
        pin(fd)
        return fd

    for way in (Child.end, Child.kill):
        with Child(take) as child:
            assert kinds(here / "f") == ["pin"]
            way(child)
        until(lambda: kinds(here / "f") == [])


def owned_by_user(volume, name, size):
    path = volume.mnt / name
    make_file(path, size)
    volume.mnt.chmod(0o777), volume.directory.chmod(0o755)
    os.chown(path, 1000, 1000)
    return path


@claim("a user pins up to RLIMIT_MEMLOCK; what is pinned twice is charged once", alone=True)
def _(maker):
    volume = maker.volume()
    one, two = (owned_by_user(volume, name, 2 * MIB) for name in ("one", "two"))

    def user():
        resource.setrlimit(resource.RLIMIT_MEMLOCK, (MIB, MIB))
        fd, other = open_direct(one), open_direct(two)
        pins = [pin(fd, 0, MIB // 2), pin(fd, 0, MIB // 2), pin(fd, MIB // 4, MIB // 4)]
        second = pin(other, 0, MIB // 2)
        for file, offset in ((fd, MIB), (other, MIB)):
            with fails(errno.ENOMEM):
                pin(file, offset, 4096)
        pin(fd, 0, 4096)  # of what is charged already
        unpin(fd, pins[0])
        with fails(errno.ENOMEM):  # the second pin of it holds the charge
            pin(fd, MIB, 4096)
        unpin(other, second)
        pin(fd, MIB, MIB // 2)
        with fails(errno.ENOMEM):
            pin(fd, MIB * 3 // 2, 4096)
        os.close(fd)
        until(lambda: kinds(one) == [])
        pin(other, 0, MIB)  # all of it came back
        os.close(other)

    for _ in range(2):  # a process that is gone owes nothing
        as_user(user)
    fd = open_direct(one)
    pin(fd)  # root has no limit
    os.close(fd)


@claim("-o pin_quota= replaces the limit RLIMIT_MEMLOCK", alone=True)
def _(maker):
    volume = maker.volume(options="pin_quota=64K")
    path = owned_by_user(volume, "f", MIB)

    def user():
        fd = open_direct(path)
        number = pin(fd, 0, 65536)
        with fails(errno.ENOMEM):
            pin(fd, 65536, 4096)
        unpin(fd, number)
        pin(fd, 65536, 65536)

    as_user(user)


@claim("a user that neither owns the file nor may write to it may not pin it: EPERM", alone=True)
def _(maker):
    volume = maker.volume()
    path = owned_by_user(volume, "f", MIB)
    path.chmod(0o644)

    def stranger():
        fd = open_direct(path, os.O_RDONLY)
        with fails(errno.EPERM):
            pin(fd, 0, 4096)
        done = ctl("pin", path, "--", "true", ok=False)
        assert done.returncode == 1 and "only root, the owner" in done.stderr, done

    as_user(stranger, uid=1001, gid=1001)


if __name__ == "__main__":
    run_claims(media=("memory", "writeback"))
