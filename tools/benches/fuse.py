"""Through the mount, beside other filesystems (fuse_peers.py); a large directory; and a region of 1 TiB."""
import contextlib
import os
import shutil
import statistics
import subprocess
import tempfile
import time
from pathlib import Path

import fixture
import fuse_peers

SECONDS_MAX = 900


def rows(context):
    fixture.BUILD = context.build
    watchdog = fixture.Watchdog()
    place = Path(tempfile.mkdtemp(prefix="pmfs-bench-", dir="/dev/shm"))
    try:
        yield from fuse_peers.rows(context)
        yield from summary(growing(context, place / "grow", watchdog))
        for kind in ("memory", "image"):
            yield from huge(context, kind, watchdog)
    finally:
        watchdog.end()
        shutil.rmtree(place, ignore_errors=True)


def summary(rounds):
    """Rows of the medians of all rounds, and of the rounds' ratios."""
    for name in dict.fromkeys(one["name"] for one in rounds):
        mine = [one for one in rounds if one["name"] == name]
        yield {"name": name, "unit": "us",
               "value": statistics.median(one["value"] for one in mine),
               "peer": statistics.median(one["peer"] for one in mine),
               "ratio": statistics.median(one["value"] / one["peer"] for one in mine)}


def growing(context, place, watchdog):
    """A large directory; its peer is a small one."""
    place.mkdir()
    mounted = fixture.Mounted(place, "memory", size="2G")
    try:
        watchdog.arm(SECONDS_MAX, [mounted])
        return list(context.json_rows(context.program("bench_fuse"), "grow", mounted.mnt))
    finally:
        watchdog.disarm()
        mounted.end()


def huge(context, kind, watchdog):
    """How long a region of 1 TiB takes to make and to mount, and what the server keeps of it."""
    suffix = "" if kind == "image" else "_memory"
    with tempfile.TemporaryDirectory(prefix="pmfs-bench-",
                                     dir="/dev/shm" if kind == "memory" else None) as scratch:
        region, mnt = Path(scratch) / "region", Path(scratch) / "mnt"
        mnt.mkdir()
        begin = time.monotonic()
        fixture.run(context.program("mkfs.pmfs"), "-q", "--sparse", "--size", "1T", region)
        made = time.monotonic()
        mounted = None
        try:
            fixture.run(context.program("mount.pmfs"), region, mnt)
            served = time.monotonic()
            pid = server_of(region)
            mounted = type("Mount", (), {"pid": pid, "connection": os.minor(os.stat(mnt).st_dev)})
            watchdog.arm(SECONDS_MAX, [mounted])
            (mnt / "file").write_bytes(b"x" * 100000)
            anonymous = [int(line.split()[1]) for line in
                         Path(f"/proc/{pid}/status").read_text().splitlines()
                         if line.startswith("RssAnon:")][0]
        finally:
            watchdog.disarm()
            subprocess.run(["umount", str(mnt)], check=False, stderr=subprocess.DEVNULL)
            if mounted is not None:
                wait_for_end(mounted.pid)
        yield {"name": f"fuse.mkfs_1tib{suffix}", "value": made - begin, "unit": "s"}
        yield {"name": f"fuse.mount_1tib{suffix}", "value": served - made, "unit": "s"}
        yield {"name": f"fuse.rss_anon_1tib{suffix}", "value": anonymous / 1024, "unit": "MiB"}


def server_of(region):
    for process in Path("/proc").glob("[0-9]*/cmdline"):
        with contextlib.suppress(OSError):
            words = process.read_bytes().split(b"\0")
            if words[0].endswith(b"mount.pmfs") and os.fsencode(region) in words:
                return int(process.parent.name)
    raise RuntimeError("the server is gone")


def wait_for_end(pid):
    for _ in range(1000):
        try:
            if Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z":
                return
        except OSError:
            return
        time.sleep(0.01)
