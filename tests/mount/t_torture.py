#!/usr/bin/env python3
"""Torture of one file (tests/torture): every way to read and write it at once, byte for byte, and then fsck.

A failure prints the seed and the last operations.  torturing.py says how to run it again, and longer.
"""
import ctypes
import errno
import os
import random

from fixture import c_call, claim, run_claims
from torturing import SECONDS, SEED, STEPS, ends_well, moved_meanwhile, torture, torture_until_killed


@claim(f"buffered, direct, mapped and asynchronous, whatever one wrote all read (seed {SEED})", seconds=SECONDS, alone=True)
def _(maker):
    for options in ("", "writeback", "sync"):
        volume = maker.volume(size="64M", options=options)
        torture(volume.mnt, "--behind-end")
        ends_well(volume)


@claim(f"four processes with pages of their own in one file, whose blocks are moved, and counters that they share under locks (seed {SEED})", seconds=SECONDS, alone=True)
def _(maker):
    for options in ("", "writeback", "local_lock=none"):
        volume = maker.volume(size="128M", options=options)
        with moved_meanwhile(volume, "torture4"):
            torture(volume.mnt, "--workers", "4", steps=STEPS // 2)
        ends_well(volume)


@claim(f"a server that is killed during such calls has kept every byte that was written (seed {SEED})", seconds=SECONDS, alone=True)
def _(maker):
    volume = maker.volume(size="64M")
    known = volume.directory / "known"
    source = random.Random(SEED)
    for turn in range(max(3, STEPS // 200)):
        torture_until_killed(volume, known, seed=SEED + turn, seconds=source.uniform(0.1, 0.8))
        volume.mount()
        maker.watch()
        torture(volume.mnt, "--check", str(known))
    ends_well(volume)


class Files:
    """Some files on a volume that is too small for them, and what they are to hold."""
    FLAGS = (os.O_RDWR, os.O_RDWR | os.O_DIRECT, os.O_RDWR | os.O_SYNC, os.O_RDWR | os.O_APPEND)
    LARGEST = 8 << 20

    def __init__(self, directory, count, seed):
        self.paths = [directory / f"full{number}" for number in range(count)]
        self.random = random.Random(seed)
        self.wanted = [bytearray() for _ in self.paths]
        self.fds = [self.opened(path) for path in self.paths]
        self.refused = 0

    def opened(self, path):
        return [os.open(path, os.O_CREAT | flags, 0o600) for flags in self.FLAGS]

    def put(self, number, offset, data):
        wanted = self.wanted[number]
        if data:
            wanted.extend(bytes(max(0, offset + len(data) - len(wanted))))
            wanted[offset:offset + len(data)] = data

    def step(self, step):
        r = self.random
        number, act = r.randrange(len(self.paths)), r.choice(self.ACTS)
        length = len(self.wanted[number])
        offset = r.choice((0, r.randrange(self.LARGEST), length, max(0, length - r.randrange(10000))))
        size = r.choice((1, 4096, r.randrange(1, 100000), r.randrange(1, 3 << 20)))
        try:
            touched = act(self, number, offset, size, bytes([1 + step % 255]))
        except OSError as error:
            assert error.errno == errno.ENOSPC, (step, act.__name__, error)
            self.refused += 1
            touched = None
        for which in {number, number if touched is None else touched}:
            self.check(which, f"step {step}, {act.__name__} of file {number} at {offset} + {size}")

    def write(self, number, offset, size, byte):
        done = os.pwrite(self.fds[number][self.random.randrange(3)], byte * size, offset)
        self.put(number, offset, byte * done)

    def append(self, number, _, size, byte):
        done = os.write(self.fds[number][3], byte * size)
        self.put(number, len(self.wanted[number]), byte * done)

    def allocate(self, number, offset, size, _):
        keep, punch, zero = 1, 2, 16
        mode = self.random.choice((0, keep, punch | keep, zero, zero | keep))
        c_call("fallocate64", self.fds[number][self.random.randrange(3)], mode, ctypes.c_int64(offset), ctypes.c_int64(size))
        wanted = self.wanted[number]
        if not mode & keep:
            wanted.extend(bytes(max(0, offset + size - len(wanted))))
        end = min(offset + size, len(wanted))
        if mode & (punch | zero) and offset < end:
            wanted[offset:end] = bytes(end - offset)

    def resize(self, number, *_):
        size = self.random.choice((self.random.randrange(self.LARGEST), len(self.wanted[number]), 0))
        os.ftruncate(self.fds[number][0], size)
        wanted = self.wanted[number]
        del wanted[size:]
        wanted.extend(bytes(size - len(wanted)))

    def copy(self, number, offset, size, _):
        other = (number + 1) % len(self.paths)
        start = self.random.randrange(max(1, len(self.wanted[number])))
        done = os.copy_file_range(self.fds[number][0], self.fds[other][0], size, start, offset)
        self.put(other, offset, self.wanted[number][start:start + done])
        return other

    def remove(self, number, *_):
        if self.random.randrange(8):
            return
        for fd in self.fds[number]:
            os.close(fd)
        self.paths[number].unlink()
        self.fds[number], self.wanted[number] = self.opened(self.paths[number]), bytearray()

    def check(self, number, after):
        wanted, fd = self.wanted[number], self.fds[number][self.random.randrange(3)]
        size = os.fstat(fd).st_size
        assert size == len(wanted), f"{after}: {size} bytes, not {len(wanted)}"
        found = b"".join(os.pread(fd, 1 << 20, at) for at in range(0, size, 1 << 20))
        if found != wanted:
            at = next(at for at in range(size) if found[at] != wanted[at])
            raise AssertionError(f"{after}: byte {at} is {found[at]}, not {wanted[at]}")

    def end(self):
        for fd in (fd for fds in self.fds for fd in fds):
            os.close(fd)

    ACTS = (write, write, write, append, allocate, allocate, resize, copy, remove)


@claim(f"on a volume that is full, what a call says it wrote is there, and a call that fails changed nothing (seed {SEED})",
       seconds=SECONDS, alone=True)
def _(maker):
    volume = maker.volume(size="16M")
    with open(volume.mnt / "ballast", "wb") as ballast:
        os.posix_fallocate(ballast.fileno(), 0, 9 << 20)
    files = Files(volume.mnt, 6, SEED)
    try:
        for step in range(STEPS // 2):
            files.step(step)
    finally:
        files.end()
    assert STEPS < 600 or files.refused > 5, "the volume was not full"
    ends_well(volume)


if __name__ == "__main__":
    run_claims()
