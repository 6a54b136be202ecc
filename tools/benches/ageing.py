"""Ages a filesystem, and looks for whole aligned chunks in new files on it.

The same program for every filesystem: files of mixed sizes up to 75 % of the space, then rounds of "delete
a random quarter, refill".  After each round a new file of 64 MiB is written, and what counts is how many of
its bytes lie in whole chunks: 2 MiB that are contiguous on the device, and whose offsets in the file
and on the device are both multiples of 2 MiB.  Only those can be mapped by one huge page.
"""
import errno
import fcntl
import json
import os
import random
import struct
import subprocess

import fixture

CHUNK = 2 << 20
PROBE = 64 << 20
FULL = 0.75
KIB = 1 << 10

# (out of a hundred files, smallest, largest): many small ones, some large ones.
SIZES = ((70, KIB, 64 * KIB), (29, 64 * KIB, 1900 * KIB), (1, 2048 * KIB, 32768 * KIB))
_DATA = os.urandom(32 << 20)


def pmfs_extents(pmfsctl):
    """(offset in the file, on the device, length) of a file on pmfs."""
    def extents(path):
        done = subprocess.run([pmfsctl, "map", "--json", path], check=True, capture_output=True, text=True)
        return [(one["offset"], one["device"], one["length"]) for one in json.loads(done.stdout)["extents"]]
    return extents


FS_IOC_FIEMAP, FIEMAP_FLAG_SYNC, FIEMAP_EXTENT_LAST = 0xC020660B, 1, 1
_HEAD, _EXTENT = struct.Struct("=QQIIII"), struct.Struct("=QQQQQIIII")
_PAGE = 256


def fiemap_extents(path):
    """The same of a file on a filesystem of the kernel."""
    found, at = [], 0
    fd = os.open(path, os.O_RDONLY)
    try:
        while True:
            page = bytearray(_HEAD.pack(at, 2**64 - 1 - at, FIEMAP_FLAG_SYNC, 0, _PAGE, 0))
            page += bytes(_PAGE * _EXTENT.size)
            fcntl.ioctl(fd, FS_IOC_FIEMAP, page)
            count = _HEAD.unpack_from(page)[3]
            for number in range(count):
                logical, physical, length, _, _, flags, *_ = _EXTENT.unpack_from(
                    page, _HEAD.size + number * _EXTENT.size)
                found.append((logical, physical, length))
                at = logical + length
                if flags & FIEMAP_EXTENT_LAST:
                    return found
            if count == 0:
                return found
    finally:
        os.close(fd)


def whole_bytes(extents):
    """How many bytes of a file are in whole aligned chunks."""
    runs = []
    for offset, device, length in sorted(extents):
        if runs and runs[-1][0] + runs[-1][2] == offset and runs[-1][1] + runs[-1][2] == device:
            runs[-1][2] += length
        else:
            runs.append([offset, device, length])
    whole = 0
    for offset, device, length in runs:
        if (offset - device) % CHUNK == 0:
            first, end = -(-offset // CHUNK), (offset + length) // CHUNK
            whole += max(0, end - first) * CHUNK
    return whole


class Ageing:
    """One directory on one filesystem, and the files in it."""

    def __init__(self, mnt, seed, extents):
        self.mnt, self.extents = mnt, extents
        self.random = random.Random(seed)
        self.files, self.bytes, self.made = {}, 0, 0
        space = os.statvfs(mnt)
        self.target = int(space.f_blocks * space.f_frsize * FULL)

    def size(self):
        pick = self.random.randrange(100)
        for share, least, most in SIZES:
            if pick < share:
                return self.random.randrange(least, most)
            pick -= share
        raise AssertionError("the shares of SIZES are a hundred together")

    def fill(self):
        """Refills; False: the volume said that it is full before it was."""
        while self.bytes < self.target:
            size, path = self.size(), f"{self.mnt}/{self.made:06}"
            self.made += 1
            try:
                self._write(path, size)
            except OSError as error:
                if error.errno != errno.ENOSPC:
                    raise
                os.unlink(path)
                return False
            self.files[path] = size
            self.bytes += -(-size // 4096) * 4096
        return True

    @staticmethod
    def _write(path, size):
        fd = os.open(path, os.O_CREAT | os.O_WRONLY, 0o644)
        try:
            for at in range(0, size, 1 << 20):
                os.write(fd, memoryview(_DATA)[at:min(size, at + (1 << 20))])
        finally:
            os.close(fd)

    def settle(self):
        """What was deleted is free: ext4 gives it back with its journal's next commit."""
        fd = os.open(self.mnt, os.O_RDONLY)
        fixture.c_call("syncfs", fd)
        os.close(fd)

    def round(self):
        for path in self.random.sample(list(self.files), len(self.files) // 4):
            os.unlink(path)
            self.bytes -= -(-self.files.pop(path) // 4096) * 4096
        self.settle()
        return self.fill()

    def whole_share(self):
        """Of a new file of 64 MiB, written 1 MiB at a time: per cent in whole chunks.  None: no room."""
        path = f"{self.mnt}/probe"
        piece = memoryview(_DATA)[:1 << 20]
        try:
            fd = os.open(path, os.O_CREAT | os.O_WRONLY, 0o644)
            try:
                for _ in range(PROBE >> 20):
                    os.write(fd, piece)
                os.fsync(fd)
            finally:
                os.close(fd)
            return 100 * whole_bytes(self.extents(path)) / PROBE
        except OSError as error:
            if error.errno != errno.ENOSPC:
                raise
            return None
        finally:
            os.unlink(path)
            self.settle()


def shares(mnt, seed, extents, rounds):
    """The share of whole chunks after the filling and after each round; and the Ageing itself."""
    ageing = Ageing(mnt, seed, extents)
    full = not ageing.fill()
    found = [ageing.whole_share()]
    for _ in range(rounds):
        full |= not ageing.round()
        found.append(ageing.whole_share())
    return found, full, ageing
