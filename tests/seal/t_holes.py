#!/usr/bin/env python3
"""A store by mmap into a hole is never lost: whatever freezes the map and the page cache exclude each other."""
# Holds docs/seal.md "Mappings and the page cache".
import contextlib
import errno
import mmap
import os

from holding import until
from libpmfs import (AS_IS, BREAKABLE, READ, TEMPORARY, Lease, Map, ctl, grant, info, open_direct,
                     pin, release, seal, unpin, unseal)
from fixture import claim, fails, run_claims

BLOCK = 4096
DATA, HOLE = 0, 4  # blocks


def make_holes(path):
    """Two blocks with data, a hole, and a block at the end."""
    fd = open_direct(path, os.O_RDWR | os.O_CREAT)
    os.pwrite(fd, b"d" * 2 * BLOCK, DATA)
    os.pwrite(fd, b"e" * BLOCK, 7 * BLOCK)
    os.close(fd)
    until(lambda: info(path)["handles_direct"] <= 1)


@contextlib.contextmanager
def shared(path):
    """The file, mapped shared through the mount and closed: the mapping alone holds it open."""
    fd = os.open(path, os.O_RDWR)
    pages = mmap.mmap(fd, 8 * BLOCK, mmap.MAP_SHARED)
    os.close(fd)
    try:
        yield pages
    finally:
        pages.close()


def direct_byte(path, block):
    fd = open_direct(path, os.O_RDONLY)
    try:
        return os.pread(fd, BLOCK, block * BLOCK)[:1]
    finally:
        os.close(fd)


# What freezes the whole map: each takes a descriptor and gives what lets go.
def _grant(kind):
    def take(fd):
        number = grant(fd, kind, DATA, BLOCK)
        return lambda: release(fd, number)
    return take


def _map(fd):
    return Map(fd, DATA, BLOCK, READ).unmap


def _lease(fd):
    return Lease(fd, DATA, BLOCK).end


def _seal(fd):
    seal(fd, AS_IS)
    return lambda: unseal(fd)


FREEZES = {"T": _grant(TEMPORARY), "T by a mapping": _map, "B": _grant(BREAKABLE),
           "B with events": _lease, "SEAL as-is": _seal}


@claim("freezing a map with holes is EBUSY while a shared mapping may store there, and the store is not lost")
def _(here):
    for name, freeze in FREEZES.items():
        path = here / name
        make_holes(path)
        fd = open_direct(path)
        with shared(path) as pages:
            pages[HOLE * BLOCK] = ord("s")
            with fails(errno.EBUSY):
                freeze(fd)
            assert direct_byte(path, HOLE) == b"s", name  # asking wrote it back
            pages[(HOLE + 1) * BLOCK] = ord("t")
        until(lambda: info(path)["handles_cached_write"] == 0)
        let_go = freeze(fd)
        assert direct_byte(path, HOLE + 1) == b"t", name
        let_go()
        os.close(fd)


@claim("while the map with holes is frozen, descriptors for writing bypass the cache, and readers need not")
def _(here):
    for name, freeze in FREEZES.items():
        path = here / name
        make_holes(path)
        fd = open_direct(path)
        let_go = freeze(fd)
        writer = os.open(path, os.O_RDWR)
        with fails(errno.ENODEV):
            mmap.mmap(writer, BLOCK, mmap.MAP_SHARED)
        if not name.startswith("B"):
            with fails(errno.ETXTBSY):
                os.pwrite(writer, b"s", HOLE * BLOCK)
        assert os.pwrite(writer, b"in place", BLOCK) == 8
        reader = os.open(path, os.O_RDONLY)
        mmap.mmap(reader, BLOCK, mmap.MAP_SHARED, mmap.PROT_READ).close()
        assert os.pread(reader, 8, BLOCK) == b"in place"
        os.close(reader), os.close(writer)
        let_go()
        with shared(path) as pages:  # as before
            pages[HOLE * BLOCK] = ord("s")
        until(lambda: info(path)["handles_cached_write"] == 0)
        assert direct_byte(path, HOLE) == b"s", name
        os.close(fd)


@claim("beside a pin, which freezes no hole, stores by mmap are not lost")
def _(here):
    make_holes(here / "f")
    fd = open_direct(here / "f")
    with shared(here / "f") as pages:
        number = pin(fd, DATA, BLOCK)
        pages[HOLE * BLOCK] = ord("s")
        pages[DATA] = ord("p")
        pages.flush()
        assert direct_byte(here / "f", HOLE) == b"s" and direct_byte(here / "f", DATA) == b"p"
    with shared(here / "f") as pages:  # nor do descriptors that come later mind
        pages[(HOLE + 1) * BLOCK] = ord("t")
    unpin(fd, number)
    assert direct_byte(here / "f", HOLE + 1) == b"t"
    os.close(fd)


@claim("a grant that reads a file without holes and cached writers do not exclude each other")
def _(here):
    fd = open_direct(here / "f", os.O_RDWR | os.O_CREAT)
    os.pwrite(fd, b"d" * 8 * BLOCK, 0)
    for freeze in (_grant(TEMPORARY), _grant(BREAKABLE), _map, _lease):
        with shared(here / "f") as before:
            let_go = freeze(fd)
            with shared(here / "f") as after:
                before[0], after[5 * BLOCK] = ord("s"), ord("t")
            before.flush()
            assert direct_byte(here / "f", 0) == b"s" and direct_byte(here / "f", 5) == b"t"
            let_go()
    os.close(fd)


@claim("unwritten blocks count as holes do: a store needs them converted")
def _(here):
    fd = open_direct(here / "f", os.O_RDWR | os.O_CREAT)
    os.pwrite(fd, b"d" * BLOCK, 0)
    os.posix_fallocate(fd, 0, 8 * BLOCK)
    for block, (name, freeze) in enumerate(FREEZES.items(), 2):  # one stays unwritten to the end
        with shared(here / "f") as pages:
            pages[block * BLOCK] = ord("s")
            with fails(errno.EBUSY):
                freeze(fd)
        until(lambda: info(here / "f")["handles_cached_write"] == 0)
        freeze(fd)()
        assert direct_byte(here / "f", block) == b"s", name
    os.close(fd)


@claim("pmfsctl says who has the file open when a lease or a seal is refused for its holes")
def _(here):
    make_holes(here / "f")
    with shared(here / "f"):
        refused = ctl("seal", "--as-is", here / "f", ok=False)
        assert refused.returncode == 1 and "open file, cached" in refused.stdout + refused.stderr, \
            refused


if __name__ == "__main__":
    run_claims()
