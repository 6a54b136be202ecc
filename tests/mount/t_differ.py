#!/usr/bin/env python3
"""The same random system calls on a volume and on tmpfs, or another filesystem: errno, data, attributes and times.

A failure prints the seed and the shortest sequence of calls that was found for it.  PMFS_SEED=N runs the sequences from
that one on, PMFS_SEQUENCES=N more of them (from a random one on, if none is given), and PMFS_DIFFER_WITH=DIRECTORY
compares with what is mounted there.
"""
import os
import random
import tempfile

from differ import first_difference, shortest, told
from differ_maker import Maker
from fixture import claim, run_claims

SEQUENCES = int(os.environ.get("PMFS_SEQUENCES", "30"))
SEED = int(os.environ.get("PMFS_SEED", "0")) or (
    random.SystemRandom().randrange(1, 1 << 32) if "PMFS_SEQUENCES" in os.environ else 1)
WITH = os.environ.get("PMFS_DIFFER_WITH", "/dev/shm")
# tmpfs does not zero ranges, and others take O_DIRECT for whole blocks only.
TMPFS = WITH == "/dev/shm"


def compare(here, seed, count, length, timed=False, far=True):
    with tempfile.TemporaryDirectory(prefix="pmfs-differ-", dir=WITH) as there:
        os.chmod(there, 0o755)
        os.chmod(here, 0o755)
        for number in range(seed, seed + count):
            sequence = Maker(number, zeroes=not TMPFS, direct=TMPFS, far=far).sequence(length)
            found = first_difference((here, there), sequence, timed)
            if found is None:
                continue
            sequence, found = shortest((here, there), sequence, found, timed)
            raise AssertionError(f"PMFS_SEED={number}\n{told(sequence, found)}")


@claim(f"random calls say and do what they do on {WITH} (seed {SEED})", seconds=60 + 4 * SEQUENCES)
def _(here):
    compare(here, SEED, SEQUENCES, 200)


@claim(f"random calls move the same times as on {WITH} (seed {SEED})", seconds=60 + 4 * SEQUENCES)
def _(here):
    compare(here, SEED, SEQUENCES // 6, 150, timed=True)


@claim(f"with -o writeback random calls say and do what they do on {WITH} (seed {SEED})", seconds=120 + 4 * SEQUENCES, alone=True)
def _(maker):
    volume = maker.volume(size="128M", options="writeback")
    os.chmod(volume.mnt, 0o755)
    compare(volume.mnt, SEED, SEQUENCES // 2, 200, far=False)  # see docs/posix.md
    assert volume.unmount() == 0, volume.log_text()
    volume.fsck()


if __name__ == "__main__":
    run_claims()
