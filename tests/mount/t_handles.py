#!/usr/bin/env python3
"""Files by handle: name_to_handle_at(2) and open_by_handle_at(2), as an NFS server and backups use them."""
import ctypes
import errno
import os
import struct

from fixture import c_call, claim, fails, run_claims

MAX_HANDLE_SZ, FUSE_HANDLE = 128, 0x81


class Handle(ctypes.Structure):
    _fields_ = [("bytes", ctypes.c_uint), ("type", ctypes.c_int), ("data", ctypes.c_ubyte * MAX_HANDLE_SZ)]


def handle_of(path):
    handle, mount = Handle(bytes=MAX_HANDLE_SZ), ctypes.c_int()
    c_call("name_to_handle_at", -100, os.fsencode(path), ctypes.byref(handle), ctypes.byref(mount), 0)
    return handle


def made_up(number, generation):
    handle = Handle(bytes=12, type=FUSE_HANDLE)
    ctypes.memmove(handle.data, struct.pack("III", number >> 32, number & 0xffffffff, generation), 12)
    return handle


def parts(handle):
    high, low, generation = struct.unpack_from("III", bytes(handle.data))
    return high << 32 | low, generation


def open_handle(mount, handle, flags):
    where = os.open(mount, os.O_RDONLY | os.O_DIRECTORY)
    try:
        return c_call("open_by_handle_at", where, ctypes.byref(handle), flags)
    finally:
        os.close(where)


def inode_of(mount, handle):
    fd = open_handle(mount, handle, os.O_PATH)
    try:
        return os.fstat(fd).st_ino
    finally:
        os.close(fd)


@claim("a handle opens its file, of any type, after remounts and the death of the server", alone=True)
def _(maker):
    volume = maker.volume(size="64M")
    mnt = volume.mnt
    os.makedirs(mnt / "a/b/c")
    (mnt / "a/b/c/file").write_text("content")
    os.link(mnt / "a/b/c/file", mnt / "other")
    os.symlink("file", mnt / "a/b/c/link")
    os.mkfifo(mnt / "a/b/fifo")
    names = (".", "a", "a/b", "a/b/c", "a/b/c/file", "other", "a/b/c/link", "a/b/fifo")
    handles = {name: handle_of(mnt / name) for name in names}
    inodes = {name: os.lstat(mnt / name).st_ino for name in names}
    for way in ("cached", "unmounted", "killed"):
        if way == "unmounted":
            assert volume.unmount() == 0
        elif way == "killed":
            volume.kill()
        if way != "cached":
            volume.mount()
            maker.watch()
        for name in reversed(names):
            assert inode_of(mnt, handles[name]) == inodes[name], (way, name)
            assert bytes(handle_of(mnt / name).data) == bytes(handles[name].data)
        if way != "cached":
            volume.unmount()
            volume.mount()
            maker.watch()
        fd = open_handle(mnt, handles["a/b/c"], os.O_RDONLY | os.O_DIRECTORY)
        assert os.readlink(f"/proc/self/fd/{fd}") == str(mnt / "a/b/c"), "it is found from the root on"
        assert sorted(os.listdir(fd)) == ["file", "link"]
        os.close(fd)
        fd = open_handle(mnt, handles["other"], os.O_RDWR)
        assert os.read(fd, 100) == b"content"
        os.close(fd)


@claim("a handle of a removed file is ESTALE, also when its number belongs to another file", alone=True)
def _(maker):
    volume = maker.volume(size="64M")
    mnt = volume.mnt
    (mnt / "old").write_text("secret")
    (mnt / "kept").touch()
    os.mkdir(mnt / "dir")
    old, directory, kept = (handle_of(mnt / name) for name in ("old", "dir", "kept"))
    held = os.open(mnt / "old", os.O_RDONLY)
    os.unlink(mnt / "old")
    os.rmdir(mnt / "dir")
    assert inode_of(mnt, old) == parts(old)[0], "it is open, and so it is there"
    os.close(held)
    numbers = set()
    for number in range(200):
        (mnt / f"new{number}").touch()
        numbers.add(os.stat(mnt / f"new{number}").st_ino)
    assert parts(old)[0] in numbers and parts(directory)[0] in numbers
    for remounted in (False, True):
        if remounted:
            assert volume.unmount() == 0
            volume.mount()
            maker.watch()
        for handle in (old, directory):
            with fails(errno.ESTALE):
                inode_of(mnt, handle)
        assert inode_of(mnt, kept) == parts(kept)[0]
        number, generation = parts(kept)
        for wrong in ((0, 0), (0, 1), (number, generation + 1), (number, 0), (max(numbers) + 1, 1),
                      (max(numbers) + 100_000, 1), (2**63, 1), (2**64 - 1, 1)):
            with fails(errno.ESTALE):
                inode_of(mnt, made_up(*wrong))


if __name__ == "__main__":
    run_claims()
