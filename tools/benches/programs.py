"""Real programs, in turns in one run, on pmfs, with -o writeback, that over io_uring, and on ext4 and XFS on a loop
device on tmpfs.  Each program checks what it left behind, and each filesystem is checked after it is unmounted.

    programs.STEP             with -o writeback over io_uring, seconds; its peer is ext4
    programs.writeback.STEP   with -o writeback by /dev/fuse
    programs.default.STEP     without options, by /dev/fuse
    programs.failures         programs whose check, or whose filesystem's, found something

OUT/programs.txt, .json and .svg have all sides.  --long does more rounds.  A program that is not installed is left
out, and said; all of them:

    apt-get install sqlite3 python3-lmdb lmdb-utils rocksdb-tools postgresql redis-server git tar rsync acl make gcc

(The source of zlib comes by apt-get source.)  PMFS_PROGRAMS="git tar" in the environment runs only these.
"""
import json
import os
import shutil
import statistics
import sys
import tempfile
import time
import traceback
from pathlib import Path

import bars
import fixture
import programs_heavy
import programs_sides
import real_programs
import rings
from programs_sides import DISKS, PMFS, RINGS, WRITEBACK

SECONDS_MAX = 600
PREFIX = {RINGS: "programs", WRITEBACK: "programs.writeback", PMFS: "programs.default"}


def one(case, name, place, watchdog):
    """{step: seconds} of a program on one side, which is made for it and gone afterwards."""
    took = {}
    try:
        with programs_sides.mounted(name, place, lambda servers: watchdog.arm(SECONDS_MAX, servers)) as here:
            try:
                for step, function in case.steps(here):
                    begin = time.monotonic()
                    function()
                    if step:
                        took[step] = time.monotonic() - begin
                case.check(here)
            finally:
                case.end()
    finally:
        watchdog.disarm()
        shutil.rmtree(place, ignore_errors=True)
    return took


def turns(case, names, rounds, place, watchdog):
    """({step: [{side: seconds} of each round]}, how often something was wrong)."""
    found, wrong = {}, 0
    for number in range(rounds):
        took = {}
        for name in names[number % len(names):] + names[:number % len(names)]:
            try:
                took[name] = one(case, name, place / "side", watchdog)
            except Exception:
                wrong += 1
                print(f"programs: {case.name} on {name}, round {number + 1}:", file=sys.stderr)
                traceback.print_exc()
        if len(took) == len(names):
            for step in took[names[0]]:
                found.setdefault(step, []).append({name: took[name][step] for name in names})
    return found, wrong


def chosen(stock, cache):
    wanted = os.environ.get("PMFS_PROGRAMS", "").split()
    for case in programs_heavy.cases(stock, cache):
        if wanted and case.name not in wanted:
            continue
        if why := case.missing():
            print(f"programs: without {case.name}: {why}", file=sys.stderr)
        else:
            yield case


def rows(context):
    fixture.BUILD = context.build
    names = []
    for name in (PMFS, WRITEBACK, RINGS, *DISKS):
        if why := programs_sides.why_not(name):
            print(f"programs: without {name}: {why}", file=sys.stderr)
        else:
            names.append(name)
    place = Path(tempfile.mkdtemp(prefix="pmfs-bench-", dir="/dev/shm"))
    place.chmod(0o755)
    (place / "stock").mkdir()
    (place / "stock").chmod(0o755)
    watchdog = fixture.Watchdog()
    switched = rings.Rings() if RINGS in names else None
    all_found, failures = {}, 0
    try:
        for case in chosen(real_programs.Stock(place / "stock", small=False), context.cache):
            found, wrong = turns(case, names, 7 if context.long else 3, place, watchdog)
            failures += wrong
            all_found.update(found)
            yield from beside_ext4(found)
    finally:
        watchdog.end()
        if switched is not None:
            switched.end()
        shutil.rmtree(place, ignore_errors=True)
    yield {"name": "programs.failures", "value": failures}
    if all_found:
        show(context.out, names, all_found)


def beside_ext4(found):
    for step, rounds in found.items():
        for side, prefix in PREFIX.items():
            if side not in rounds[0]:
                continue
            row = {"name": f"{prefix}.{step}", "unit": "s", "value": statistics.median(took[side] for took in rounds)}
            if "ext4" in rounds[0]:
                row["peer"] = statistics.median(took["ext4"] for took in rounds)
                row["ratio"] = statistics.median(took[side] / took["ext4"] for took in rounds)
            yield row


def show(out, names, found):
    """Medians of all sides: as numbers, as a table, and as a picture."""
    medians = {step: {name: statistics.median(took[name] for took in rounds) for name in names}
               for step, rounds in found.items()}
    base = "ext4" if "ext4" in names else names[0]
    ratios = {step: {name: statistics.median(took[name] / took[base] for took in rounds) for name in names}
              for step, rounds in found.items()}
    count = max(len(rounds) for rounds in found.values())
    out.mkdir(parents=True, exist_ok=True)
    (out / "programs.json").write_text(json.dumps({"unit": "s", "medians": medians, "ratios": ratios, "all": found}))
    lines = [f"{'s, median of ' + str(count):22}" + "".join(f"{name:>28}" for name in names)]
    for step, values in medians.items():
        lines.append(f"{step:22}" + "".join(f"{values[name]:20.3f} ({ratios[step][name]:4.2f}) " for name in names))
    (out / "programs.txt").write_text("\n".join(lines) + "\n")
    (out / "programs.svg").write_text(bars.svg(
        "Real programs", f"time beside {base} (= 1); medians of {count} rounds in turns", list(ratios.items())))
    print(f"programs: all sides are in {out / 'programs.txt'}, programs.json and programs.svg", file=sys.stderr)
