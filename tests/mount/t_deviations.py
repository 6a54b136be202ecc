#!/usr/bin/env python3
"""What docs/posix.md says is not here, or is not as elsewhere, because FUSE has no request for it."""
# Holds docs/posix.md "Files and names", "With -o writeback".
import ctypes
import errno
import json
import mmap
import os
import signal
import struct
import time
from pathlib import Path

from fixture import c_call, claim, fails, program, run, run_claims

AT_FDCWD, AT_EMPTY_PATH = -100, 0x1000
STATX_BTIME, STATX_DIOALIGN, STATX_ATTR_IMMUTABLE = 0x800, 0x2000, 0x10


def statx(path, mask):
    """The mask and the attributes that come back."""
    buffer = ctypes.create_string_buffer(256)
    c_call("statx", AT_FDCWD, os.fsencode(path), 0, mask, buffer)
    found, _, attributes = struct.unpack_from("IIQ", buffer.raw)
    return found, attributes


@claim("statx gives the birth time, and says nothing of direct I/O or of chattr's flags")
def _(here):
    (here / "f").touch()
    run("chattr", "+i", here / "f")
    try:
        found, attributes = statx(here / "f", STATX_BTIME | STATX_DIOALIGN)
        assert found & STATX_BTIME and not found & STATX_DIOALIGN, hex(found)
        assert not attributes & STATX_ATTR_IMMUTABLE
    finally:
        run("chattr", "-i", here / "f")


@claim("O_DIRECT takes any offset, length and address")
def _(here):
    fd = os.open(here / "f", os.O_CREAT | os.O_RDWR | os.O_DIRECT)
    assert os.pwrite(fd, b"odd words", 12345) == 9
    assert os.pread(fd, 7, 12346) == b"dd word"
    os.close(fd)


def user_namespace():
    """A descriptor of a namespace that maps its root to user 1000."""
    read_end, write_end = os.pipe()
    child = os.fork()
    if child == 0:
        c_call("unshare", 0x10000000)  # CLONE_NEWUSER
        os.write(write_end, b"x")
        signal.pause()
    try:
        os.read(read_end, 1)
        for kind in ("uid_map", "gid_map"):
            Path(f"/proc/{child}/{kind}").write_text("0 1000 1000", encoding="ascii")
        return os.open(f"/proc/{child}/ns/user", os.O_RDONLY)
    finally:
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
        os.close(read_end)
        os.close(write_end)


@claim("an idmapped mount is EINVAL: the kernel would hide from then on who asks (decision 23)", alone=True)
def _(maker):
    volume = maker.volume(size="16M")
    sys_open_tree, sys_mount_setattr, clone, idmap = 428, 442, 1, 0x100000
    tree = c_call("syscall", sys_open_tree, AT_FDCWD, os.fsencode(volume.mnt), clone | os.O_CLOEXEC)
    namespace = user_namespace()
    attributes = struct.pack("QQQQ", idmap, 0, 0, namespace)
    try:
        with fails(errno.EINVAL):
            c_call("syscall", sys_mount_setattr, tree, b"", AT_EMPTY_PATH, attributes, len(attributes))
    finally:
        os.close(namespace)
        os.close(tree)


@claim("with -o writeback a truncation to the size of what was just written frees no blocks behind the end", alone=True)
def _(maker):
    for options, blocks in (("", 256), ("writeback", 2048)):
        volume = maker.volume(size="16M", options=options)
        fd = os.open(volume.mnt / "f", os.O_CREAT | os.O_RDWR)
        run("fallocate", "-n", "-l", "1M", volume.mnt / "f")
        os.pwrite(fd, b"x" * (128 << 10), 0)
        os.ftruncate(fd, 128 << 10)
        os.close(fd)
        assert os.stat(volume.mnt / "f").st_blocks == blocks


@claim("read-ahead is the kernel's 128 KiB", alone=True)
def _(maker):
    volume = maker.volume(size="16M")
    read_ahead = Path(f"/sys/class/bdi/0:{volume.connection}/read_ahead_kb")
    assert read_ahead.read_text(encoding="ascii") == "128\n"


@claim("a request has at most 1 MiB: a write of 4 MiB is four", alone=True)
def _(maker):
    volume = maker.volume(size="64M")

    def writes():
        status = json.loads(run(program("pmfsctl"), "status", "--json", volume.mnt).stdout)
        return status["clients"][0]["requests"].get("write", 0)

    fd = os.open(volume.mnt / "f", os.O_CREAT | os.O_WRONLY | os.O_DIRECT)
    try:
        before = writes()
        with mmap.mmap(-1, 4 << 20) as pages:
            assert os.write(fd, pages) == 4 << 20
        assert writes() - before == 4, writes() - before
    finally:
        os.close(fd)


@claim("with -o writeback truncate(2) to the same size moves no time that stat shows, ftruncate(2) and O_TRUNC do", alone=True)
def _(maker):
    path = maker.volume(size="16M", options="writeback").mnt / "f"
    path.write_bytes(bytes(5000))

    def moves(act):
        before = path.stat()
        time.sleep(0.01)
        act()
        after = path.stat()
        return before.st_mtime_ns != after.st_mtime_ns, before.st_ctime_ns != after.st_ctime_ns

    def by_descriptor(size, flags):
        fd = os.open(path, os.O_RDWR | flags)
        os.ftruncate(fd, size)
        os.close(fd)
    assert moves(lambda: os.truncate(path, 5000)) == (False, False)
    assert moves(lambda: by_descriptor(5000, 0)) == (True, True)
    assert moves(lambda: os.truncate(path, 0)) == (True, True)
    assert moves(lambda: os.truncate(path, 0)) == (False, False)
    assert moves(lambda: by_descriptor(0, os.O_TRUNC)) == (True, True)


def killed_while_writing(path):
    """How many pieces a process has written when it is killed, in the middle of one."""
    read_end, write_end = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            fd = os.open(path, os.O_CREAT | os.O_WRONLY)
            for number in range(10_000):
                os.pwrite(fd, piece(number), number * PIECE)
                os.write(write_end, b".")
        finally:
            os._exit(1)
    os.close(write_end)
    said = os.read(read_end, 1)
    time.sleep(0.005)
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    while more := os.read(read_end, 10_000):
        said += more
    os.close(read_end)
    return len(said)


PIECE = 5000


def piece(number):
    return bytes([1 + number % 255]) * PIECE


@claim("with -o writeback what a process wrote before it was killed is there, whatever the next close says", alone=True)
def _(maker):
    volume = maker.volume(size="64M", options="writeback")
    for turn in range(5):
        path = volume.mnt / f"f{turn}"
        count = killed_while_writing(path)
        fd = os.open(path, os.O_WRONLY)
        try:
            os.close(fd)
        except OSError as error:
            assert error.errno == errno.EIO, error
        wanted = b"".join(map(piece, range(count)))
        assert path.read_bytes().startswith(wanted), turn
        fd = os.open(path, os.O_RDONLY | os.O_DIRECT)  # and on the medium
        assert os.pread(fd, len(wanted), 0) == wanted, turn
        os.close(fd)
        path.unlink()
    assert volume.unmount() == 0, volume.log_text()
    volume.fsck()


if __name__ == "__main__":
    run_claims()
