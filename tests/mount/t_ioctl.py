#!/usr/bin/env python3
"""ioctls that pmfs does not know."""
import errno
import fcntl
import os
import struct

from fixture import claim, fails, run_claims

# Ioctls that fs/ioctl.c does not answer for all filesystems, and that t_chattr.py does not test.
FS_IOC_GETVERSION, FITRIM, TCGETS, EXT4_IOC_MOVE_EXT = 0x80087601, 0xc0185879, 0x5401, 0xc028660f
UNKNOWN = (FS_IOC_GETVERSION, FITRIM, TCGETS, EXT4_IOC_MOVE_EXT)


@claim("an ioctl that pmfs does not know is ENOTTY, on a file and on a directory")
def _(here):
    (here / "file").touch()
    (here / "directory").mkdir()
    for name, flags in (("file", os.O_RDONLY), ("file", os.O_RDWR), ("directory", os.O_RDONLY)):
        fd = os.open(here / name, flags)
        try:
            for command in UNKNOWN:
                with fails(errno.ENOTTY):
                    fcntl.ioctl(fd, command, bytearray(64))
            assert struct.unpack("i", fcntl.ioctl(fd, 0x2, b"\0" * 4))[0] == 4096, "FIGETBSZ"
        finally:
            os.close(fd)


if __name__ == "__main__":
    run_claims()
