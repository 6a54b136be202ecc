"""Fills volumes up, and says how far that went: for tests and for tools/bench space.

What stops a filling is ENOSPC; any other error is raised.
"""
import contextlib
import errno
import os
import time

BLOCK = 4096


@contextlib.contextmanager
def until_full():
    """What is inside goes on until the volume says ENOSPC, or ends by itself."""
    try:
        yield
    except OSError as error:
        if error.errno != errno.ENOSPC:
            raise


def write_until_full(path, pieces=(1 << 20, 65536, BLOCK)):
    """Appends in ever smaller pieces until not even the smallest fits; gives the bytes written."""
    written = 0
    fd = os.open(path, os.O_CREAT | os.O_WRONLY, 0o644)
    try:
        for piece in pieces:
            data = b"x" * piece
            with until_full():
                while True:
                    written += os.pwrite(fd, data, written)
    finally:
        os.close(fd)
    return written


def make_many(directory, make, most):
    """make(path) for names in the directory until one is refused; gives how many there are."""
    directory.mkdir(exist_ok=True)
    made = 0
    with until_full():
        while made < most:
            make(f"{directory}/{made:07}")
            made += 1
    return made


def make_file(path):
    """An empty file, by one system call."""
    os.mknod(path, 0o644)


def make_files(directory, most=10**9):
    return make_many(directory, make_file, most)


def make_directories(directory, most=10**9):
    return make_many(directory, os.mkdir, most)


def remove_names(directory):
    """Unlinks or removes whatever has a name in the directory, and it; gives how many were refused."""
    refused = 0
    for name in os.listdir(directory):
        path = f"{directory}/{name}"
        try:
            os.rmdir(path) if os.path.isdir(path) else os.unlink(path)
        except OSError:
            refused += 1
    if refused == 0:
        os.rmdir(directory)
    return refused


def make_sized(directory, count, size):
    """Files of one size; all of them must fit."""
    directory.mkdir(exist_ok=True)
    data = b"x" * size
    for number in range(count):
        (directory / f"{number:05}").write_bytes(data)


def rename_longer(directory, length=200):
    """Renames all in the directory to longer names; gives how many worked, and of how many."""
    names = sorted(os.listdir(directory))
    worked = 0
    for name in names:
        with until_full():
            os.rename(directory / name, directory / name.rjust(length, "n"))
            worked += 1
    return worked, len(names)


def write_allocated(path, stride=2):
    """Writes every `stride`-th block of a file, then the others; gives how many worked, of how many.

    In that order each write into unwritten space splits an extent for as long as it can.
    """
    fd = os.open(path, os.O_WRONLY)
    try:
        blocks = os.fstat(fd).st_size // BLOCK
        worked = 0
        for first in range(stride):
            for block in range(first, blocks, stride):
                with until_full():
                    os.pwrite(fd, b"w" * BLOCK, block * BLOCK)
                    worked += 1
    finally:
        os.close(fd)
    return worked, blocks


def settle(path, seconds=20):
    """Waits until the volume has given back what was removed: until statfs says the same for a while."""
    last, same, end = None, 0, time.monotonic() + seconds
    while same < 5 and time.monotonic() < end:
        now = os.statvfs(path)
        same = same + 1 if last == (now.f_bfree, now.f_ffree) else 0
        last = (now.f_bfree, now.f_ffree)
        time.sleep(0.1)
