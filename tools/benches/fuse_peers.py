"""Through mounts, in turns in one run: pmfs by /dev/fuse and over io_uring, beside other FUSE servers on tmpfs,
tmpfs itself, and ext4 and XFS on a loop device on tmpfs.

Makes rows of what bench_fuse_turns prints, and fuse.json, fuse.txt and fuse.svg with all sides.
"""
import contextlib
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import bars
import fixture
import rings

EXAMPLE = Path("/usr/share/doc/libfuse3-dev/examples/passthrough_ll.c")
SECONDS_MAX = 900
# On which CPUs the threads of a server come to rest is luck that lasts as long as the mount, and it
# matters more than all else: so every few rounds all are mounted anew.
MOUNTS, ROUNDS = 4, 3
PMFS, RINGS = "pmfs", "pmfs, io_uring"
FUSE_PEERS, DISKS = ("passthrough_ll", "bindfs"), ("ext4", "XFS")
SYNCED = "append_fsync"  # beside filesystems that have something to sync


def passthrough(context):
    """passthrough_ll, compiled from the source that libfuse3-dev brings."""
    program = context.cache / "bench" / "passthrough_ll"
    if not program.exists() or program.stat().st_mtime < EXAMPLE.stat().st_mtime:
        program.parent.mkdir(parents=True, exist_ok=True)
        flags = subprocess.run(["pkg-config", "--cflags", "--libs", "fuse3"], check=True,
                               capture_output=True, text=True).stdout.split()
        subprocess.run(["cc", "-O2", "-o", str(program), str(EXAMPLE), *flags], check=True)
    return str(program)


class Peer:
    """Another FUSE server, which shows a directory of tmpfs, with the options that pmfs has: long timeouts, kept
    caches, all users."""

    def __init__(self, context, name, place):
        self.mnt, source = place / "mnt", place / "source"
        self.mnt.mkdir(parents=True)
        source.mkdir()
        if name == "bindfs":
            command = [shutil.which("bindfs"), "-f", "-o",
                       "allow_other,attr_timeout=3600,entry_timeout=3600", source, self.mnt]
        else:
            command = [passthrough(context), "-f", "-o",
                       f"source={source},cache=always,allow_other,default_permissions", self.mnt]
        self.server = subprocess.Popen([str(word) for word in command], stderr=subprocess.DEVNULL)
        self.pid, self.connection = self.server.pid, 0
        for _ in range(500):
            if os.path.ismount(self.mnt):
                self.connection = os.minor(os.stat(self.mnt).st_dev)
                return
            time.sleep(0.01)
        self.end()
        raise RuntimeError(f"{name} does not mount")

    def end(self):
        subprocess.run(["umount", "-l", str(self.mnt)], check=False, stderr=subprocess.DEVNULL)
        with contextlib.suppress(subprocess.TimeoutExpired):
            self.server.wait(10)
            return
        self.server.kill()
        self.server.wait()


@contextlib.contextmanager
def loop_mount(name, place):
    """ext4 or XFS in a file of tmpfs."""
    image, mnt = place / "image", place / "mnt"
    mnt.mkdir(parents=True)
    with open(image, "wb") as file:
        file.truncate(512 << 20)
    fixture.run(f"mkfs.{name.lower()}", "-q", image)
    fixture.run("mount", "-o", "loop", image, mnt)
    try:
        yield mnt
    finally:
        subprocess.run(["umount", "-l", str(mnt)], check=False)


def why_not(name):
    """Why a side cannot be measured here; None: it can."""
    if name == RINGS:
        return rings.missing()
    needed = {"bindfs": "bindfs", "ext4": "mkfs.ext4", "XFS": "mkfs.xfs"}.get(name)
    if needed and not shutil.which(needed):
        return f"{needed} is not installed"
    if name == "passthrough_ll" and not EXAMPLE.exists():
        return f"{EXAMPLE} is not there"
    if name in DISKS and not os.access("/dev/loop-control", os.W_OK):
        return "there are no loop devices"
    if name in DISKS and not any(line.split()[-1] == name.lower() for line in
                                 Path("/proc/filesystems").read_text().splitlines()):
        return f"this kernel has no {name}"
    return None


def mounted(stack, context, name, place):
    """(its directory, what the watchdog should know of)."""
    if name in (PMFS, RINGS):
        place.mkdir()
        way = "io_uring" if name == RINGS else "dev_fuse"
        volume = fixture.Mounted(place, "memory", size="512M", options=f"transport={way}")
        stack.callback(volume.end)
        return volume.mnt, [volume]
    if name in FUSE_PEERS:
        peer = Peer(context, name, place)
        stack.callback(peer.end)
        return peer.mnt, [peer]
    if name in DISKS:
        return stack.enter_context(loop_mount(name, place)), []
    place.mkdir()
    return place, []


def measured(context, names, watchdog):
    """Rounds of all calls on all sides, mounted for them."""
    place = Path(tempfile.mkdtemp(prefix="pmfs-bench-", dir="/dev/shm"))
    try:
        with contextlib.ExitStack() as stack:
            sides, watched = [], []
            for number, name in enumerate(names):
                directory, servers = mounted(stack, context, name, place / str(number))
                sides.append(f"{name}={directory}")
                watched += servers
            watchdog.arm(SECONDS_MAX, watched)
            yield from context.json_rows(context.program("bench_fuse_turns"), ROUNDS, *sides)
            watchdog.disarm()
    finally:
        shutil.rmtree(place, ignore_errors=True)


def rows(context):
    names = []
    for name in (PMFS, RINGS, *FUSE_PEERS, "tmpfs", *DISKS):
        if why := why_not(name):
            print(f"fuse: without {name}: {why}", file=sys.stderr)
        else:
            names.append(name)
    watchdog = fixture.Watchdog()
    switched = rings.Rings() if RINGS in names else None
    try:
        rounds = [line for _ in range(MOUNTS) for line in measured(context, names, watchdog)]
    finally:
        watchdog.end()
        if switched is not None:
            switched.end()
    calls = {}
    switches = [line["us"]["all"] for line in rounds if line["name"] == "switches"]
    yield {"name": "fuse.switches", "value": statistics.median(switches), "unit": "us"}
    for line in rounds:
        if line["name"] == "switches":
            continue
        name = line["name"] + ("_two" if line["threads"] == 2 else "")
        calls.setdefault(name, []).append(line["us"])
    show(context.out, names, calls)
    yield from beside_the_best(calls, PMFS, "fuse")
    if RINGS in names:
        yield from beside_the_best(calls, RINGS, "fuse.uring")


def beside_the_best(calls, mine, prefix):
    """Rows of one side of ours, each beside the fastest of those that it is to be compared with."""
    for call, rounds in calls.items():
        peers = DISKS if call.startswith(SYNCED) else FUSE_PEERS
        peers = [peer for peer in peers if peer in rounds[0]]
        row = {"name": f"{prefix}.{call}", "unit": "us",
               "value": statistics.median(us[mine] for us in rounds)}
        if peers:
            best = min(peers, key=lambda peer: statistics.median(us[peer] for us in rounds))
            row["peer"] = statistics.median(us[best] for us in rounds)
            row["ratio"] = statistics.median(us[mine] / us[best] for us in rounds)
        yield row


def show(out, names, calls):
    """Medians of all sides: as numbers, as a table, and as a picture."""
    medians = {call: {name: statistics.median(us[name] for us in rounds) for name in names}
               for call, rounds in calls.items()}
    count = len(next(iter(calls.values())))
    out.mkdir(parents=True, exist_ok=True)
    (out / "fuse.json").write_text(json.dumps({"unit": "us", "rounds": count, "medians": medians,
                                               "all": calls}))
    lines = [f"{'us, median of ' + str(count):24}" + "".join(f"{name:>16}" for name in names)]
    for call, values in medians.items():
        lines.append(f"{call:24}" + "".join(f"{values[name]:16.2f}" for name in names))
    (out / "fuse.txt").write_text("\n".join(lines) + "\n")
    groups = [(call, {name: value / min(values[peer] for peer in FUSE_PEERS if peer in values)
                      for name, value in values.items()})
              for call, values in medians.items() if any(peer in values for peer in FUSE_PEERS)]
    (out / "fuse.svg").write_text(bars.svg(
        "One call through a mount", f"time beside the fastest other FUSE server on tmpfs (= 1); medians of {count} rounds",
        groups))
    print(f"fuse: all sides are in {out / 'fuse.txt'}, fuse.json and fuse.svg", file=sys.stderr)
