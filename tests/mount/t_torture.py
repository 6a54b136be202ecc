#!/usr/bin/env python3
"""Torture of one file (tests/torture): every way to read and write it at once, byte for byte, and then fsck.

A failure prints the seed and the last operations.  PMFS_SEED=N runs it again, PMFS_STEPS=N longer: 100000 take some
minutes for each claim.
"""
import contextlib
import os
import random
import subprocess
import threading
import time

from fixture import claim, program, run, run_claims

SEED = int(os.environ.get("PMFS_SEED", "0")) or random.SystemRandom().randrange(1, 1 << 32)
STEPS = int(os.environ.get("PMFS_STEPS", "600"))
SECONDS = 60 + STEPS // 10


def torture(directory, *words, steps=STEPS, seed=SEED):
    done = subprocess.run([program("torture"), str(directory), "--seed", str(seed), "--steps", str(steps), *words],
                          capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"exit code {done.returncode}: {done.stdout[-3000:]}{done.stderr[-500:]}"


def ends_well(volume):
    assert volume.unmount() == 0, volume.log_text()
    volume.fsck()


@claim(f"buffered, direct, mapped and asynchronous, whatever one wrote all read (seed {SEED})", seconds=SECONDS, alone=True)
def _(maker):
    for options in ("", "writeback", "sync"):
        volume = maker.volume(size="64M", options=options)
        torture(volume.mnt, "--behind-end")
        ends_well(volume)


@contextlib.contextmanager
def moved_meanwhile(volume, name):
    """Its blocks are moved again and again, and memory is short of clean pages."""
    end = threading.Event()

    def move():
        tool, turn = program("pmfsctl"), 0
        while not end.is_set():
            words = [("prepare", volume.mnt / name), ("compact", volume.mnt), ("prepare", "--contiguous", volume.mnt / name)]
            run(tool, *words[turn % 3], ok=False)
            turn += 1
    mover = threading.Thread(target=move)
    mover.start()
    try:
        yield
    finally:
        end.set()
        mover.join()


@claim(f"four processes with pages of their own in one file, whose blocks are moved meanwhile (seed {SEED})", seconds=SECONDS, alone=True)
def _(maker):
    for options in ("", "writeback"):
        volume = maker.volume(size="128M", options=options)
        with moved_meanwhile(volume, "torture4"):
            torture(volume.mnt, "--workers", "4", steps=STEPS // 2)
        ends_well(volume)


@claim(f"a server that is killed in the middle of it has kept every byte that was written (seed {SEED})", seconds=SECONDS, alone=True)
def _(maker):
    volume = maker.volume(size="64M")
    known = volume.directory / "known"
    source = random.Random(SEED)
    for turn in range(max(3, STEPS // 200)):
        child = subprocess.Popen([program("torture"), str(volume.mnt), "--seed", str(SEED + turn), "--steps", "1000000",
                                  "--survive", str(known)], stdout=subprocess.PIPE, text=True)
        try:
            time.sleep(source.uniform(0.1, 0.8))
            assert child.poll() is None, child.stdout.read()
            volume.server.kill()
            said = child.communicate(timeout=20)[0]
            assert child.returncode == 3, f"exit code {child.returncode}: {said[-3000:]}"
        finally:
            child.kill()
            child.wait()
        volume.kill()
        volume.mount()
        maker.watch()
        torture(volume.mnt, "--check", str(known))
    ends_well(volume)


if __name__ == "__main__":
    run_claims()
