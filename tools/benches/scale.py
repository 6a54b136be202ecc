"""Many of a kind: extents of a file, files of a directory, files of a volume; on an image file.

    KIND_last     the last operations (a write that makes an extent, a create); the peer is the first ones
    KIND_mount    seconds until mount.pmfs serves that volume
    KIND_rss      MiB of its own memory that its server has then

The engine makes the volume (bench_engine), for through the kernel it would take hours; mount.pmfs mounts it.
The short form has a hundred thousand of a kind; --long has a million, and ten million files in the volume
(that takes 10 GB of disk where $TMPDIR says, and some minutes).  The journal is large, for what is looked at is
not the disk.
"""
import os
import subprocess
import tempfile
import time
from pathlib import Path

import fixture
from fuse import server_of, wait_for_end

SECONDS_MAX = 300
JOURNAL = "128M"
# kind: (how many, size of the image; how many of the long form, size)
KINDS = {
    "extents": (100_000, "2G", 1_000_000, "10G"),
    "directory": (100_000, "1G", 1_000_000, "4G"),
    "volume": (100_000, "1G", 10_000_000, "24G"),
}


def rows(context):
    fixture.BUILD = context.build
    watchdog = fixture.Watchdog()
    try:
        for kind, numbers in KINDS.items():
            count, size = numbers[2:] if context.long else numbers[:2]
            with tempfile.TemporaryDirectory(prefix="pmfs-bench-") as scratch:
                image = Path(scratch) / "image"
                fixture.run(context.program("mkfs.pmfs"), "-q", "--sparse", "--size", size,
                            "--journal-size", JOURNAL, image)
                yield from context.json_rows(context.program("bench_engine"), "scale", kind, count, image)
                yield from mounted(context, kind, image, watchdog)
    finally:
        watchdog.end()


def mounted(context, kind, image, watchdog):
    mnt = image.parent / "mnt"
    mnt.mkdir()
    server = None
    try:
        begin = time.monotonic()
        fixture.run(context.program("mount.pmfs"), image, mnt)
        served = time.monotonic()
        server = server_of(image)
        watchdog.arm(SECONDS_MAX, [type("Mount", (), {"pid": server, "connection": os.minor(os.stat(mnt).st_dev)})])
        anonymous = next(int(line.split()[1]) for line in Path(f"/proc/{server}/status").read_text().splitlines()
                         if line.startswith("RssAnon:"))
    finally:
        watchdog.disarm()
        subprocess.run(["umount", str(mnt)], check=False, stderr=subprocess.DEVNULL)
        if server is not None:
            wait_for_end(server)
    yield {"name": f"scale.{kind}_mount", "value": served - begin, "unit": "s"}
    yield {"name": f"scale.{kind}_rss", "value": anonymous / 1024, "unit": "MiB"}
