#!/usr/bin/env python3
"""libpmfs inside of a program that does as it likes: with its descriptors, threads and processes."""
import ctypes
import errno
import os

import libpmfs
from libpmfs import FORK_MAP, READ, Lease, Map, make_file, open_direct, seal
from fixture import as_user, claim, fails, run_claims

MIB = 1 << 20


def in_child(function):
    """Runs it in a process of its own, still as root; its exception comes back."""
    as_user(function, uid=0, gid=0)


def sealed(path, seed=1):
    """A descriptor of a new file that is sealed full, and its content."""
    data = make_file(path, MIB, seed)
    fd = open_direct(path)
    seal(fd)
    return fd, data


@claim("a program without standard input, output and error gets no descriptor of the library in their place")
def _(here):
    fd, data = sealed(here / "f")
    make_file(here / "leased", MIB)
    leased = open_direct(here / "leased")
    make_file(here / "whole", 2 * MIB, prepared=False)
    whole = open_direct(here / "whole")
    libpmfs.prepare_contiguous(whole)
    seal(whole)

    def without():
        for number in range(3):
            os.close(number)

        def closed():
            for number in range(3):
                with fails(errno.EBADF):
                    os.fstat(number)
        with Map(fd, prot=READ) as m:
            closed()
            assert m.event_fd > 2 and m.event() is None
            closed()
            with Lease(leased) as lease:
                assert lease.event_fd > 2
                closed()
            assert m.load(0, MIB) == data
        assert libpmfs.borrow(whole) > 2
        closed()
    try:
        in_child(without)
    finally:
        for one in (fd, leased, whole):
            os.close(one)


if __name__ == "__main__":
    run_claims(media=("image", "memory"))
