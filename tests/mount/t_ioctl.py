#!/usr/bin/env python3
"""ioctls that pmfs does not know, and the programs that try them."""
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


if __name__ == "__main__":
    run_claims()
