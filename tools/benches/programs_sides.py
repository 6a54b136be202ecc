"""The filesystems on which tools/bench programs runs its programs: each is made anew, and checked at the end."""
import contextlib
import os
import subprocess
from pathlib import Path

import fixture
import fuse_peers
import rings

SIZE = 1 << 30
PMFS, WRITEBACK, RINGS = "pmfs", "pmfs, writeback", "pmfs, writeback, io_uring"
# (The size of the medium and its pages cost the same for all: those of a loop device are there from the start, too.)
OPTIONS = {PMFS: "transport=dev_fuse", WRITEBACK: "transport=dev_fuse,writeback",
           RINGS: "transport=io_uring,writeback"}
DISKS = ("ext4", "XFS")


def why_not(name):
    """Why a side cannot be measured here; None: it can."""
    if name == RINGS:
        return rings.missing()
    return fuse_peers.why_not(name) if name in DISKS else None


@contextlib.contextmanager
def mounted(name, place, watch):
    """An empty directory of the side.  What was written there is checked when it is unmounted: fsck finds nothing."""
    place.mkdir()
    place.chmod(0o755)
    with (disk if name in DISKS else volume)(name, place, watch) as mnt:
        (mnt / "here").mkdir()
        yield mnt / "here"


@contextlib.contextmanager
def volume(name, place, watch):
    made = fixture.Mounted(place, "memory", size=str(SIZE), options=OPTIONS[name])
    try:
        watch([made])
        yield made.mnt
        assert made.unmount() == 0, made.log_text()
        made.fsck()
    finally:
        made.end()


@contextlib.contextmanager
def disk(name, place, _watch):
    """ext4 or XFS on a loop device on tmpfs."""
    image, mnt = place / "image", place / "mnt"
    mnt.mkdir()
    with open(image, "wb") as file:
        os.posix_fallocate(file.fileno(), 0, SIZE)
    fixture.run(f"mkfs.{name.lower()}", "-q", image)
    fixture.run("mount", "-o", "loop", image, mnt)
    try:
        yield mnt
        fixture.run("umount", mnt)
        fixture.run(*(("e2fsck", "-fn") if name == "ext4" else ("xfs_repair", "-n")), image)
    finally:
        if os.path.ismount(mnt):
            subprocess.run(["umount", "-l", str(mnt)], check=False)
        Path(image).unlink()
