"""Where data goes and how far space reaches: ageing beside ext4, and volumes that are full.

    whole_sS_rNN    per cent of a new 64 MiB file that is in whole aligned chunks, after NN rounds of ageing
                    with seed S (ageing.py); the peer is ext4 on a loop device, in the same run
    whole_aged      the lowest of all seeds after the last round
    prepared_aged   on the aged volume: of a file of three quarters of what is free, prepared, the same per cent
    others          space_cases.py

The plot of all rounds is OUT/space.svg and the figures behind it OUT/space.json (tools/bench --out).  The
short form has three seeds, --long has ten.
"""
import contextlib
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import ageing
import fixture
import plot
import space_cases

ROUNDS, ROWS_EVERY = 20, 5
SEEDS, SEEDS_LONG = (1, 2, 3), range(1, 11)
SECONDS_MAX = 1200
EMPTY_FILES = 100_000


def say(words):
    print(f"space: {words}", file=sys.stderr, flush=True)


@contextlib.contextmanager
def scratch():
    place = Path(tempfile.mkdtemp(prefix="pmfs-bench-", dir="/dev/shm"))
    place.chmod(0o755)
    try:
        yield place
    finally:
        shutil.rmtree(place, ignore_errors=True)


@contextlib.contextmanager
def pmfs(watchdog, size, mkfs=()):
    """A volume on memory, mounted; it and its server are gone at the end."""
    with scratch() as place:
        volume = fixture.Mounted(place, "memory", size=size, mkfs=["--sparse", *mkfs])
        try:
            watchdog.arm(SECONDS_MAX, [volume])
            yield volume
        finally:
            watchdog.disarm()
            volume.end()


@contextlib.contextmanager
def ext4(size):
    """ext4 on a loop device on memory, with a reserve for root as small as ours; None: no loop devices here."""
    with scratch() as place:
        image, mnt = place / "image", place / "mnt"
        mnt.mkdir()
        with open(image, "wb") as file:
            file.truncate(size)
        fixture.run("mkfs.ext4", "-q", "-F", "-m", "1", image)
        done = fixture.run("losetup", "--find", "--show", image, ok=False)
        if done.returncode != 0:
            say(f"there is no ext4 to compare with: {done.stderr.strip()}")
            yield None
            return
        device = done.stdout.strip()
        try:
            fixture.run("mount", "-t", "ext4", device, mnt)
            yield mnt
        finally:
            subprocess.run(["umount", str(mnt)], check=False, stderr=subprocess.DEVNULL)
            fixture.run("losetup", "--detach", device)


def prepared(volume, pmfsctl):
    """A file of three quarters of what is free is prepared: the per cent of it in whole chunks."""
    space = os.statvfs(volume.mnt)
    size = space.f_bavail * space.f_frsize * 3 // 4 // ageing.CHUNK * ageing.CHUNK
    path = volume.mnt / "prepared"
    with open(path, "wb") as file:
        file.truncate(size)
    done = fixture.run(pmfsctl, "prepare", path, ok=False)
    if done.returncode != 0:
        say(f"prepare of {size >> 20} MiB on the aged volume: {done.stderr.strip()}")
    share = 0.0 if done.returncode else 100 * ageing.whole_bytes(ageing.pmfs_extents(pmfsctl)(path)) / size
    path.unlink()
    return share


class Aged:
    """What the ageing of one seed came to."""

    def __init__(self, context, watchdog, seed):
        self.seed = seed
        pmfsctl = context.program("pmfsctl")
        with pmfs(watchdog, "2G") as volume:
            begin = time.monotonic()
            self.ours, self.full, _ = ageing.shares(volume.mnt, seed, ageing.pmfs_extents(pmfsctl), ROUNDS)
            say(f"seed {seed}: pmfs took {time.monotonic() - begin:.0f} s"
                f"{', and said at 75 % that it was full' if self.full else ''}")
            self.prepared = prepared(volume, pmfsctl)
            self.empty_files = space_cases.empty_files(volume, EMPTY_FILES)
        self.theirs = []
        with ext4(2 << 30) as mnt:
            if mnt is not None:
                begin = time.monotonic()
                self.theirs = ageing.shares(mnt, seed, ageing.fiemap_extents, ROUNDS)[0]
                say(f"seed {seed}: ext4 took {time.monotonic() - begin:.0f} s")

    def rows(self):
        for number in range(0, ROUNDS + 1, ROWS_EVERY):
            yield share_row(f"space.whole_s{self.seed}_r{number:02}", self.ours[number],
                            self.theirs[number] if self.theirs else None)


def share_row(name, ours, theirs):
    """A file that found no room has nothing in whole chunks."""
    row = {"name": name, "value": float(ours or 0), "unit": "%"}
    if theirs is not None:
        row["peer"] = theirs
        row["ratio"] = row["value"] / theirs if theirs else None
    return row


def draw(context, all_aged):
    context.out.mkdir(parents=True, exist_ok=True)
    panels = [(name, {f"seed {aged.seed}": shares for aged in all_aged if (shares := getattr(aged, side))})
              for name, side in (("pmfs", "ours"), ("ext4", "theirs"))]
    (context.out / "space.svg").write_text(plot.svg(
        "Whole aligned 2 MiB chunks in new files",
        "2 GiB, 75 % full; each round deletes a random quarter of the files and refills",
        "rounds", "share of a new 64 MiB file in whole chunks (%)", [panel for panel in panels if panel[1]]))
    (context.out / "space.json").write_text(json.dumps(
        [{"seed": aged.seed, "pmfs": aged.ours, "ext4": aged.theirs} for aged in all_aged], indent=1) + "\n")
    say(f"the plot is {context.out / 'space.svg'}")


def aged_rows(context, watchdog):
    all_aged = []
    for seed in SEEDS_LONG if context.long else SEEDS:
        all_aged.append(Aged(context, watchdog, seed))
        yield from all_aged[-1].rows()
    draw(context, all_aged)
    yield share_row("space.whole_aged", min(aged.ours[-1] or 0 for aged in all_aged),
                    min((aged.theirs[-1] for aged in all_aged if aged.theirs), default=None))
    yield {"name": "space.prepared_aged", "value": min(aged.prepared for aged in all_aged), "unit": "%"}
    yield {"name": "space.empty_files_aged", "value": min(aged.empty_files for aged in all_aged), "unit": "files"}


def rows(context):
    fixture.BUILD = context.build
    watchdog = fixture.Watchdog()
    try:
        yield from space_cases.rows(context, lambda size, **more: pmfs(watchdog, size, **more))
        yield from aged_rows(context, watchdog)
    finally:
        watchdog.end()
