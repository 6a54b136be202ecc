#!/usr/bin/env python3
"""Torture (tests/torture) of files that are sealed, or that others hold: what needs another block map is refused, all
else works, every byte is what it should be, and no block moves.

A failure prints the seed and the last operations.  tests/mount/torturing.py says how to run it again, and longer.
"""
import contextlib
import ctypes
import errno
import json
import os
import random
import time

from holding import Child
from libpmfs import (BREAKABLE_MAP, READ, TEMPORARY, WRITE, Map, ctl, grant, info, open_direct, pattern, pin, prepare,
                     release, unpin)
from fixture import c_call, claim, run_claims
import torturing
from torturing import SECONDS, SEED, again_and_again, ends_well, moved_meanwhile, torture_until_killed

PAGE = 4096
STEPS = torturing.STEPS // 3
ROOM = 384 << 10  # of the file, so many bytes are under torture


def make(path, size=ROOM, holes=False):
    """A file that is fit for a full seal, or one with holes and with blocks that are allocated and not written."""
    path.write_bytes(pattern(size, SEED % 200))
    fd = open_direct(path)
    prepare(fd)
    if holes:
        source = random.Random(SEED)
        for page in range(size // PAGE):
            if (kind := source.randrange(6)) < 2:
                mode = 3 if kind == 0 else 16  # FALLOC_FL_PUNCH_HOLE with KEEP_SIZE, FALLOC_FL_ZERO_RANGE
                c_call("fallocate64", fd, mode, ctypes.c_int64(page * PAGE), ctypes.c_int64(PAGE))
    os.close(fd)


def block_map(path):
    return json.loads(ctl("map", "--json", path).stdout)["extents"]


def torture(directory, *words):
    torturing.torture(directory, *words, steps=STEPS)


def between(extents, begin, end):
    """The part of a block map that is there: (offset, place, length, whether nothing was written there)."""
    found = []
    for extent in extents:
        first, last = max(begin, extent["offset"]), min(end, extent["offset"] + extent["length"])
        if first < last:
            found.append((first, extent["device"] + first - extent["offset"], last - first, extent["unwritten"]))
    return found


@contextlib.contextmanager
def unmoved(path, begin=0, end=1 << 50):
    before = block_map(path)
    yield
    after = block_map(path)
    assert between(before, begin, end) == between(after, begin, end), f"{before} became {after}"


def torture_while(rare, *words, steps=STEPS):
    """Once, and on while what is to happen beside it was too rare: that depends on the machine."""
    torturing.torture(*words, steps=steps)
    while rare():
        torturing.torture(*words, steps=steps)


KINDS = {"full": (), "as-is": ("--as-is",)}  # a seal, and pmfsctl's words for it


@claim(f"of a sealed file only what is written in place changes, by whatever call, and no block moves (seed {SEED})",
       seconds=SECONDS, alone=True)
def _(maker):
    for kind, words in KINDS.items():
        for options in ("", "writeback", "sealed_reads=direct"):
            volume = maker.volume(size="64M", options=options)
            path = volume.mnt / "torture1"
            make(path, holes=kind == "as-is")
            ctl("seal", *words, path)
            digest = info(path)["map_digest"]
            uncached = ["--uncached"] if kind == "full" and "direct" in options else []
            with unmoved(path), moved_meanwhile(volume, path.name):
                torture(volume.mnt, "--frozen", *uncached)
            content = path.read_bytes()
            assert volume.unmount() == 0, volume.log_text()
            volume.mount(options)
            maker.watch()
            assert (info(path)["seal"], info(path)["map_digest"]) == (kind, digest) and path.read_bytes() == content
            ends_well(volume)


@claim(f"a seal outlives a server that is killed while the file is written in place, and every byte does (seed {SEED})",
       seconds=SECONDS, alone=True)
def _(maker):
    source = random.Random(SEED)
    for kind, words in KINDS.items():
        volume = maker.volume(size="64M")
        path, known = volume.mnt / "torture1", volume.directory / "known"
        make(path, holes=kind == "as-is")
        ctl("seal", *words, path)
        with unmoved(path):
            for turn in range(max(2, STEPS // 150)):
                torture_until_killed(volume, known, "--frozen", seed=SEED + turn, seconds=source.uniform(0.05, 0.3))
                volume.mount()
                maker.watch()
                assert info(path)["seal"] == kind
                torture(volume.mnt, "--check", known)
        ends_well(volume)


@claim(f"a file under a temporary grant is as one that is sealed, while its holder stores into it (seed {SEED})",
       seconds=SECONDS, alone=True)
def _(maker):
    volume = maker.volume(size="64M")
    path = volume.mnt / "torture1"
    make(path, 2 * ROOM)

    def take():
        fd = open_direct(path)
        return Map(fd, ROOM, ROOM, WRITE)

    def store(mapping, counts=[0]):
        counts[0] += 1
        mapping.store(0, pattern(ROOM, counts[0] % 200))
        mapping.persist()
    with Child(take, store) as holder:
        with unmoved(path):
            torture(volume.mnt, "--frozen", "--uncached")
        holder.end()
    stored = path.read_bytes()[ROOM:]
    assert stored in [pattern(ROOM, seed) for seed in range(200)], "not what the holder stored last"
    ends_well(volume)


@claim(f"a file with holes under a temporary grant that reads is as one that is sealed (seed {SEED})", seconds=SECONDS, alone=True)
def _(maker):
    volume = maker.volume(size="64M")
    path = volume.mnt / "torture1"
    make(path, ROOM, holes=True)
    first = next(extent for extent in block_map(path) if not extent["unwritten"])

    def take():
        fd = open_direct(path)
        return Map(fd, first["offset"], PAGE, READ)
    with Child(take) as holder:
        with unmoved(path):
            torture(volume.mnt, "--frozen")
        holder.end()
    torture(volume.mnt)
    ends_well(volume)


@claim(f"beside a pin everything goes on that leaves its blocks where they are (seed {SEED})", seconds=SECONDS, alone=True)
def _(maker):
    volume = maker.volume(size="64M")
    path = volume.mnt / "torture1"
    make(path)
    begin, end = 8 * PAGE, 24 * PAGE

    def take():
        fd = open_direct(path)
        pin(fd, begin, end - begin)
        return fd
    with Child(take) as holder:
        with unmoved(path, begin, end), moved_meanwhile(volume, path.name):
            torture(volume.mnt, "--pinned", begin, end, "--behind-end")
        holder.end()
    torture(volume.mnt)
    ends_well(volume)


@claim(f"grants and pins that come and go refuse a call whole, or not at all (seed {SEED})", seconds=SECONDS, alone=True)
def _(maker):
    volume = maker.volume(size="64M")
    path = volume.mnt / "torture1"
    source, taken = random.Random(SEED), [0]
    make(path)
    fd = open_direct(path)

    def hold(_):
        begin = source.randrange(ROOM // PAGE) * PAGE
        try:
            if source.randrange(2):
                number, let_go = grant(fd, TEMPORARY, begin, PAGE), release
            else:
                number, let_go = pin(fd, begin, PAGE), unpin
        except OSError as error:
            assert error.errno in (errno.EINVAL, errno.EBUSY), error  # it has holes there, or somebody may write to them
            with contextlib.suppress(OSError):
                prepare(fd)
            return
        taken[0] += 1
        time.sleep(source.uniform(0, 0.01))
        let_go(fd, number)
    with again_and_again(hold):
        torture_while(lambda: taken[0] <= 2, volume.mnt, "--refusals", steps=3 * STEPS)
    os.close(fd)
    ends_well(volume)


@claim(f"who breaks leases waits and then goes on, whatever the call (seed {SEED})",
       seconds=SECONDS, alone=True)
def _(maker):
    volume = maker.volume(size="64M", options="lease_break_time=0.2")
    path = volume.mnt / "torture1"
    source, broken = random.Random(SEED), [0]
    make(path)
    fd = open_direct(path, os.O_RDONLY)
    preparer = open_direct(path)

    def hold(_):
        try:
            prepare(preparer)
            lease = Map(fd, 0, 0, READ, BREAKABLE_MAP)
        except OSError as error:
            assert error.errno in (errno.EINVAL, errno.EBUSY, errno.ETXTBSY), error
            return
        event = None
        for _ in range(20):
            if (event := lease.event()) is not None:
                broken[0] += 1
                break
        if event is not None and source.randrange(20) == 0:
            lease.wait(5)  # too late: it is revoked
        lease.unmap()
    with again_and_again(hold):
        torture_while(lambda: broken[0] <= 2, volume.mnt)
    os.close(fd), os.close(preparer)
    ends_well(volume)


if __name__ == "__main__":
    run_claims()
