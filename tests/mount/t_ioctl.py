#!/usr/bin/env python3
"""ioctls that pmfs does not know, and the programs that try them."""
import contextlib
import errno
import fcntl
import os
import struct
import subprocess

from fixture import claim, fails, run, run_claims

# What no fs/ioctl.c answers on behalf of every filesystem.  The kernel turns the first four into
# requests of its own, to which a short answer is EIO.
FS_IOC_GETFLAGS, FS_IOC_SETFLAGS = 0x80086601, 0x40086602
FS_IOC_FSGETXATTR, FS_IOC_FSSETXATTR = 0x801c581f, 0x401c5820
FS_IOC_GETVERSION, FITRIM, TCGETS, EXT4_IOC_MOVE_EXT = 0x80087601, 0xc0185879, 0x5401, 0xc028660f
UNKNOWN = (FS_IOC_GETFLAGS, FS_IOC_SETFLAGS, FS_IOC_FSGETXATTR, FS_IOC_FSSETXATTR,
           FS_IOC_GETVERSION, FITRIM, TCGETS, EXT4_IOC_MOVE_EXT)


@claim("an ioctl that pmfs does not know is ENOTTY, on a file and on a directory")
def _(here):
    (here / "file").touch()
    (here / "directory").mkdir()
    for name, flags in (("file", os.O_RDONLY), ("file", os.O_RDWR), ("directory", os.O_RDONLY)):
        fd = os.open(here / name, flags)
        try:
            for command in UNKNOWN:
                # (Kernels from 6.17 on say EOPNOTSUPP for a filesystem that has no such flags.)
                with fails(errno.ENOTTY, errno.EOPNOTSUPP):
                    fcntl.ioctl(fd, command, bytearray(64))
            assert struct.unpack("i", fcntl.ioctl(fd, 0x2, b"\0" * 4))[0] == 4096, "FIGETBSZ"
        finally:
            os.close(fd)


@claim("lsattr and chattr say that there are no such flags, and not that the disk has an error")
def _(here):
    (here / "file").touch()
    for command in (["lsattr", here / "file"], ["lsattr", "-d", here], ["chattr", "+i", here / "file"]):
        done = run(*command, ok=False, env={**os.environ, "LC_ALL": "C"})
        assert "Operation not supported" in done.stderr or "Inappropriate ioctl" in done.stderr, done
    with open(here / "file", "w", encoding="ascii") as file:
        file.write("no flag was set")


@contextlib.contextmanager
def overlay(maker, lower):
    """A mounted overlay with its upper half in memory."""
    place = maker.directory / "overlay"
    place.mkdir()
    run("mount", "-t", "tmpfs", "none", place)
    try:
        for name in ("upper", "work", "merged"):
            (place / name).mkdir()
        run("mount", "-t", "overlay", "overlay", "-o",
            f"lowerdir={lower},upperdir={place}/upper,workdir={place}/work", place / "merged")
        try:
            yield place / "merged"
        finally:
            run("umount", place / "merged")
    finally:
        run("umount", place)


@claim("an overlay on top of a volume copies up whatever is written", alone=True)
def _(maker):
    lower = maker.volume(size="64M").mnt
    content = os.urandom(300_000)
    (lower / "dir").mkdir()
    (lower / "dir/file").write_bytes(content)
    os.setxattr(lower / "dir/file", "user.kept", b"value")
    (lower / "dir/sealed").write_bytes(content)
    os.setxattr(lower / "dir/sealed", "trusted.pmfs.seal", b"as-is")
    os.symlink("file", lower / "dir/link")
    with overlay(maker, lower) as merged:
        for name in ("file", "sealed"):
            with open(merged / "dir" / name, "ab") as file:
                file.write(b"more")
            assert (merged / "dir" / name).read_bytes() == content + b"more"
        assert os.getxattr(merged / "dir/file", "user.kept") == b"value"
        os.chmod(merged / "dir", 0o711)
        os.rename(merged / "dir/link", merged / "dir/other")
        os.unlink(merged / "dir/file")
        assert sorted(os.listdir(merged / "dir")) == ["other", "sealed"]
    assert (lower / "dir/file").read_bytes() == (lower / "dir/sealed").read_bytes() == content
    assert sorted(os.listdir(lower / "dir")) == ["file", "link", "sealed"]


if __name__ == "__main__":
    run_claims()
