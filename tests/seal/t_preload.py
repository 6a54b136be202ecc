#!/usr/bin/env python3
"""libpmfs-preload.so: an unmodified program's fallocate(2) seals and unseals, and does nothing else."""
# Holds docs/seal.md "Programs that know nothing of pmfs" and docs/man/libpmfs-preload.7.
import errno
import os
import subprocess
import sys
import tempfile

from libpmfs import (KEEP_SIZE, READ, SEAL_MODE, UNSEAL_MODE, Map, info, make_file, open_direct,
                     seal_of)
from fixture import claim, program, run, run_claims

MIB = 1 << 20
UNTOUCHED = 77  # errno before the call, in plain_fallocate
PRELOAD = program("libpmfs-preload.so")
SEAL, UNSEAL = SEAL_MODE | KEEP_SIZE, UNSEAL_MODE | KEEP_SIZE
PUNCH = 2 | KEEP_SIZE


def call(path, mode, offset=0, length=1 << 40, *, preload=True, access="w", width="narrow"):
    """What an unmodified program gets: 0, or the errno value."""
    done = run(program("plain_fallocate"), width, access, path, hex(mode), offset, length,
               env={**os.environ, **({"LD_PRELOAD": PRELOAD} if preload else {})})
    result, error = map(int, done.stdout.split())
    assert result == 0 or error != UNTOUCHED, done.stdout
    assert result == -1 or error == UNTOUCHED, f"errno was changed by a call that succeeded: {error}"
    return 0 if result == 0 else error


def kernel_knows_the_modes(path):
    return call(path, SEAL, preload=False) == 0


@claim("fallocate and fallocate64 seal and unseal, and without the library they do not")
def _(here):
    make_file(here / "f", MIB)
    if not kernel_knows_the_modes(here / "f"):
        assert call(here / "f", SEAL, preload=False) == errno.EOPNOTSUPP
        assert seal_of(here / "f") == "none"
    for width in ("narrow", "wide"):
        assert call(here / "f", SEAL, width=width) == 0
        assert seal_of(here / "f") == "full"
        assert call(here / "f", SEAL, width=width) == 0
        assert call(here / "f", UNSEAL, width=width) == 0
        assert seal_of(here / "f") == "none"
        assert call(here / "f", UNSEAL, length=MIB, width=width) == 0


@claim("python's own fallocate(2) seals, too")
def _(here):
    make_file(here / "f", MIB)
    script = ("import ctypes, os, sys\n"
              "fd = os.open(sys.argv[1], os.O_RDWR | os.O_DIRECT)\n"
              "libc = ctypes.CDLL(None, use_errno=True)\n"
              "call = libc.fallocate\n"
              "call.argtypes = [ctypes.c_int, ctypes.c_int, ctypes.c_int64, ctypes.c_int64]\n"
              "sys.exit(0 if call(fd, int(sys.argv[2]), 0, 1 << 40) == 0 else ctypes.get_errno())\n")
    done = subprocess.run([sys.executable, "-c", script, str(here / "f"), str(SEAL)],
                          env={**os.environ, "LD_PRELOAD": PRELOAD}, timeout=30, check=False)
    assert done.returncode == 0 and seal_of(here / "f") == "full", done


@claim("the modes follow the rules of a kernel that knows them")
def _(here):
    make_file(here / "f", MIB)
    for mode, offset, length in ((SEAL_MODE, 0, MIB), (SEAL, 4096, MIB), (SEAL, 0, MIB - 1),
                                 (SEAL | UNSEAL, 0, MIB), (SEAL | PUNCH, 0, MIB),
                                 (SEAL, 0, 0), (SEAL, -1, MIB)):
        assert call(here / "f", mode, offset, length) == errno.EINVAL, (hex(mode), offset, length)
    assert call(here / "f", SEAL, access="r") == errno.EBADF
    with open(here / "hole", "wb") as file:
        file.truncate(MIB)
    assert call(here / "hole", SEAL) == errno.EINVAL  # not fit for a full seal
    assert seal_of(here / "f") == "none"
    assert call(here / "f", SEAL) == 0
    fd = open_direct(here / "f")
    with Map(fd, prot=READ):
        assert call(here / "f", UNSEAL) == errno.EBUSY
    os.close(fd)


@claim("every other mode goes to the real call, its error included")
def _(here):
    make_file(here / "f", MIB)
    before = info(here / "f")["allocated"]
    assert call(here / "f", KEEP_SIZE, 4 * MIB, MIB) == 0
    assert info(here / "f")["allocated"] > before
    assert call(here / "f", 0, 0, 2 * MIB) == 0
    assert (here / "f").stat().st_size == 2 * MIB
    assert call(here / "f", PUNCH, 0, MIB) == 0
    assert (here / "f").read_bytes()[:MIB] == bytes(MIB)
    for mode, offset, length in ((0x08, 0, 4096), (0x20, 0, 4096), (0x40000000, 0, 4096),
                                 (0, 0, 0), (0, -4096, 4096), (2, 0, 4096)):
        plain = call(here / "f", mode, offset, length, preload=False)
        assert plain != 0 and call(here / "f", mode, offset, length) == plain, hex(mode)


@claim("on every other filesystem the seal modes are what they are without the library")
def _(here):
    for place in ("/dev/shm", None):
        with tempfile.TemporaryDirectory(dir=place) as directory:
            path = os.path.join(directory, "f")
            with open(path, "wb") as file:
                file.truncate(MIB)
            for mode in (SEAL, UNSEAL):
                plain = call(path, mode, preload=False)
                assert plain == errno.EOPNOTSUPP and call(path, mode) == plain


if __name__ == "__main__":
    run_claims(media=("memory",))
