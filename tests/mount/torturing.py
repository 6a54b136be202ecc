"""The program that tortures a file (tests/torture), as tests run it.

PMFS_SEED=N runs a failure again, PMFS_STEPS=N longer: 100000 take some minutes for each claim.
"""
import contextlib
import os
import random
import subprocess
import threading
import time

from fixture import program, run

SEED = int(os.environ.get("PMFS_SEED", "0")) or random.SystemRandom().randrange(1, 1 << 32)
STEPS = int(os.environ.get("PMFS_STEPS", "600"))
SECONDS = 60 + STEPS // 10


def command(directory, *words, steps=STEPS, seed=SEED):
    return [program("torture"), str(directory), "--seed", str(seed), "--steps", str(steps), *map(str, words)]


def torture(directory, *words, **settings):
    done = subprocess.run(command(directory, *words, **settings), capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"exit code {done.returncode}: {done.stdout[-3000:]}{done.stderr[-500:]}"


def torture_until_killed(volume, known, *words, seed, seconds):
    """Its server dies so many seconds after the first step; what it knew of the file goes to `known`."""
    child = subprocess.Popen(command(volume.mnt, *words, "--survive", known, steps=1_000_000, seed=seed),
                             stdout=subprocess.PIPE, text=True)
    try:
        first = child.stdout.readline()
        assert first == "begun\n", first + child.stdout.read()
        time.sleep(seconds)
        assert child.poll() is None, child.stdout.read()
        volume.server.kill()
        said = child.communicate(timeout=20)[0]
        assert child.returncode == 3, f"exit code {child.returncode}: {said[-3000:]}"
    finally:
        child.kill()
        child.wait()
    volume.kill()


def ends_well(volume):
    assert volume.unmount() == 0, volume.log_text()
    volume.fsck()


@contextlib.contextmanager
def again_and_again(act):
    """act(turn) in a thread, until the end; its exception is ours."""
    end, raised = threading.Event(), []

    def repeat():
        turn = 0
        try:
            while not end.is_set():
                act(turn)
                turn += 1
        except BaseException as error:
            raised.append(error)
    thread = threading.Thread(target=repeat)
    thread.start()
    try:
        yield
    finally:
        end.set()
        thread.join()
    if raised:
        raise raised[0]


def moved_meanwhile(volume, name):
    """Its blocks are moved again and again, if they may be."""
    tool = program("pmfsctl")
    words = [("prepare", volume.mnt / name), ("compact", volume.mnt), ("prepare", "--contiguous", volume.mnt / name)]
    return again_and_again(lambda turn: run(tool, *words[turn % 3], ok=False))
