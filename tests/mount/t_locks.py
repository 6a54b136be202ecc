#!/usr/bin/env python3
"""File locks that the server keeps (local_lock=none) are those of Linux: each cell as on tmpfs."""
# Holds docs/posix.md "Locks and leases".
import itertools
import os
import tempfile
import time
from pathlib import Path

from fixture import claim, run, run_claims
from locks import Lockers, soon

# What may be held, and what may be asked for: a try that does not wait.
KINDS = {
    "fcntl r": ("range", "set", "r"), "fcntl w": ("range", "set", "w"),
    "ofd r": ("range", "ofd set", "r"), "ofd w": ("range", "ofd set", "w"),
    "flock sh": ("whole", "sh"), "flock ex": ("whole", "ex"),
}
WHERE = {"the same": (10, 10), "overlapping": (15, 10), "inside": (12, 2), "beside": (20, 10), "to the end": (0, 0)}


def ask(locker, slot, kind, where=(10, 10)):
    what, *words = KINDS[kind]
    return locker(what, slot, *words, *(where if what == "range" else ()))


def meetings(folder, _):
    """Who is refused beside whom: the same descriptor, another one, a child, another process."""
    cells = {}
    for held, asked in itertools.product(KINDS, KINDS):
        places = WHERE if held.startswith(("fcntl", "ofd")) and asked.startswith(("fcntl", "ofd")) else ["the same"]
        for place, who in itertools.product(places, ("itself", "another descriptor", "a child", "another")):
            with Lockers(folder / "file") as lockers:
                holder, other = lockers.new("rw", "rw"), lockers.new("rw")
                ask(holder, 0, held)
                if who == "another":
                    got = ask(other, 0, asked, WHERE[place])
                elif who == "a child":
                    what, *words = KINDS[asked]
                    got = holder("child", what, 1, *words, *(WHERE[place] if what == "range" else ()))
                else:
                    got = ask(holder, 0 if who == "itself" else 1, asked, WHERE[place])
                # What is left, for a third.
                third = lockers.new("rw")
                left = [third("range", 0, "get", kind, 0, 0) for kind in "rw"] + [third("whole", 0, "ex")]
                names = {holder.pid: "holder", other.pid: "other"}
                left = [one if isinstance(one, (str, int)) else (*one[:3], *owner(one, names, held, asked)) for one in left]
                cells[held, asked, place, who] = got, left
    return cells


def owner(found, names, *kinds):
    """(The process of a lock that an open file holds is not told to a FUSE server.)"""
    return () if any(kind.startswith("ofd") for kind in kinds) else (names.get(found[3], "nobody known"),)


def ends(folder, wanted):
    """What ends a lock, and what does not."""
    def dup_closed(holder):
        holder("dup", 0, 2)
        holder("close", 2)

    ways = {
        "nothing": lambda holder: None,
        "its descriptor is closed": lambda holder: holder("close", 0),
        "a copy of its descriptor is closed": dup_closed,
        "another descriptor of the file is closed": lambda holder: holder("close", 1),
        "a child closes its descriptor": lambda holder: holder("child", "close", 0),
        "a child unlocks a range": lambda holder: holder("child", "range", 0, "set", "u", 0, 0),
        "a child unlocks its range of an open file": lambda holder: holder("child", "range", 0, "ofd set", "u", 0, 0),
        "a child unlocks the file": lambda holder: holder("child", "whole", 0, "un"),
        "a part of the range is unlocked": lambda holder: holder("range", 0, "set", "u", 12, 2),
        "the range is unlocked by another descriptor": lambda holder: holder("range", 1, "set", "u", 0, 0),
        "its process is killed": lambda holder: holder.kill(),
    }
    cells = {}
    for held, (how, end) in itertools.product(KINDS, ways.items()):
        with Lockers(folder / "file") as lockers:
            holder, other = lockers.new("rw", "rw"), lockers.new("rw")
            asked = held.replace(" r", " w").replace("sh", "ex")
            ask(holder, 0, held)
            end(holder)
            got = ask(other, 0, asked)
            if wanted and got != wanted[held, how]:
                got = soon(lambda: ask(other, 0, asked), wanted[held, how])  # pylint: disable=cell-var-from-loop
            cells[held, how] = got
    return cells


def waiting(folder, _):
    """Who waits, what is then done, and what comes of it."""
    waits = {
        "fcntl r": ("range", 0, "wait", "r", 10, 10), "fcntl w": ("range", 0, "wait", "w", 15, 10),
        "ofd w": ("range", 0, "ofd wait", "w", 0, 0), "flock sh": ("whole", 0, "sh", True),
        "flock ex": ("whole", 0, "ex", True),
    }
    ways = {
        "unlocked": lambda holder: (holder("range", 0, "set", "u", 0, 0), holder("range", 0, "ofd set", "u", 0, 0),
                                    holder("whole", 0, "un")),
        "less": lambda holder: (holder("range", 0, "set", "r", 10, 10), holder("range", 0, "ofd set", "r", 10, 10)),
        "closed": lambda holder: holder("close", 0),
        "killed": lambda holder: holder.kill(),
    }
    cells = {}
    for held, (asked, order), (how, end) in itertools.product(("fcntl w", "ofd w", "flock ex"), waits.items(),
                                                              ways.items()):
        if held.startswith("flock") != asked.startswith("flock") or (how == "less" and "flock" in held):
            continue
        if (held, how) in (("fcntl w", "less"), ("ofd w", "less")) and asked != "fcntl r":
            continue
        with Lockers(folder / "file") as lockers:
            holder, other = lockers.new("rw"), lockers.new("rw")
            ask(holder, 0, held)
            other.start(*order)
            waited = other.waits()
            if how == "less":
                holder("range", 0, "set" if held.startswith("fcntl") else "ofd set", "r", 10, 10)
            else:
                end(holder)
            cells[held, asked, how] = waited, other.finish()
    return cells


def interrupted(folder, _):
    cells = {}
    for asked in (("range", 0, "wait", "w", 0, 0), ("range", 0, "ofd wait", "w", 0, 0), ("whole", 0, "ex", True)):
        with Lockers(folder / "file") as lockers:
            holder, other = lockers.new("rw"), lockers.new("rw")
            ask(holder, 0, "fcntl w", (0, 0))
            ask(holder, 0, "flock ex")
            other("alarm", 0.1)
            interrupted_by = other(*asked)
            other.start(*asked)
            waited = other.waits()
            other.kill()
            holder("range", 0, "set", "u", 0, 0)
            holder("whole", 0, "un")
            third = lockers.new("rw")  # nothing is left of the one that was killed
            cells[asked] = interrupted_by, waited, third("range", 0, "set", "w", 0, 0), third("whole", 0, "ex")
    return cells


def various(folder, _):
    cells = {}
    with Lockers(folder / "file") as lockers:
        reads, writes = lockers.new("r"), lockers.new("w")
        cells["rights"] = [ask(one, 0, kind) for one in (reads, writes) for kind in KINDS]
    with Lockers(folder / "file") as lockers:
        a, b = lockers.new("rw"), lockers.new("rw")
        a("range", 0, "set", "w", 0, 1)
        b("range", 0, "set", "w", 1, 1)
        a.start("range", 0, "wait", "w", 1, 1)
        cells["deadlock"] = a.waits(), b("range", 0, "wait", "w", 0, 1)
        b("range", 0, "set", "u", 0, 0)
        cells["and then"] = a.finish()
    with Lockers(folder / "file") as lockers:
        a, b, c = (lockers.new("rw") for _ in range(3))
        cells["flock, two that share"] = a("whole", 0, "sh"), b("whole", 0, "sh"), a("whole", 0, "ex"), \
            b("whole", 0, "ex"), c("whole", 0, "sh")
        b("whole", 0, "sh")
        cells["flock, less"] = c("whole", 0, "sh"), a("whole", 0, "ex")
    with Lockers(folder / "file") as lockers:
        a, b = lockers.new("rw"), lockers.new("rw")
        for start in (0, 20, 40):
            a("range", 0, "set", "w", start, 10)
        a("range", 0, "set", "r", 5, 40)
        a("range", 0, "set", "u", 44, 2)
        a("range", 0, "set", "w", (1 << 63) - 10, 0)
        seen, at = [], 0
        while (found := b("range", 0, "get", "w", at, 0)) != "u" and found[2] != 0:
            seen.append(found[:3])
            at = found[1] + found[2]
        cells["ranges"] = seen
        cells["bad ranges"] = [b("range", 0, "set", "w", start, length) for start, length in ((-1, 1), (5, -6), (5, -5))]
    return cells


@claim("locks in the server behave as on tmpfs: conflicts, what ends them, waiting", alone=True,
       seconds=240)
def _(maker):
    volume = maker.volume(size="64M", options="local_lock=none")
    with tempfile.TemporaryDirectory(prefix="pmfs-locks-", dir="/dev/shm") as there:
        for battery in (meetings, ends, waiting, interrupted, various):
            wanted = battery(Path(there), None)
            got = battery(volume.mnt, wanted)
            assert len(wanted) > 2
            differ = [f"{cell}: {got[cell]} instead of {wanted[cell]}" for cell in wanted if got[cell] != wanted[cell]]
            assert not differ, f"{battery.__name__}: {len(differ)} of {len(wanted)} cells: " + "; ".join(differ[:5])
    assert volume.unmount() == 0, volume.log_text()


@claim("local_lock= says which locks the kernel keeps: those it shows in /proc/locks", alone=True)
def _(maker):
    volume = maker.volume(size="64M", options="local_lock=all")
    for option, kept in (("all", {"POSIX", "FLOCK"}), ("flock", {"FLOCK"}), ("posix", {"POSIX"}), ("none", set())):
        assert volume.unmount() == 0, volume.log_text()
        volume.mount(f"local_lock={option}")
        maker.watch()
        with Lockers(volume.mnt / "file") as lockers:
            holder, other = lockers.new("rw"), lockers.new("rw")
            assert holder("range", 0, "set", "w", 0, 0) == holder("whole", 0, "ex") == 0
            place = f":{os.stat(lockers.path).st_ino} "
            found = {line.split()[1] for line in Path("/proc/locks").read_text().splitlines()
                     if place in line and str(holder.pid) in line.split()}
            assert found == kept, f"{option}: {found}"
            assert other("range", 0, "set", "r", 5, 1) == other("whole", 0, "sh") == "EAGAIN"


@claim("a server that is killed leaves no locks to the next one", alone=True)
def _(maker):
    volume = maker.volume(size="64M", options="local_lock=none")
    (volume.mnt / "kept").write_bytes(bytes(10))
    with Lockers(volume.mnt / "file") as lockers:
        holder = lockers.new("rw")
        assert holder("range", 0, "set", "w", 0, 0) == holder("whole", 0, "ex") == 0
        waiter = lockers.new("rw")
        waiter.start("whole", 0, "ex", True)
        assert waiter.waits()
        volume.server.kill()
        assert waiter.finish() in ("ECONNABORTED", "ENOTCONN")
        holder.kill()
        waiter.kill()
        volume.server.wait()
        run("umount", "-l", volume.mnt)
        volume.mount("local_lock=none")
        maker.watch()
        other = lockers.new("rw")
        assert other("range", 0, "set", "w", 0, 0) == other("whole", 0, "ex") == 0


@claim("a mount with processes that wait for locks can end: they get an error, and the server closes the volume",
       alone=True)
def _(maker):
    volume = maker.volume(size="64M", options="local_lock=none")
    with Lockers(volume.mnt / "file") as lockers:
        holder, waiter = lockers.new("rw"), lockers.new("rw")
        assert holder("whole", 0, "ex") == 0
        waiter.start("whole", 0, "ex", True)
        assert waiter.waits()
        volume.server.terminate()
        begin = time.monotonic()
        assert waiter.finish() in ("ECONNABORTED", "ENOTCONN")
        holder.kill()
        waiter.kill()
        assert volume.server.wait(30) == 0, volume.log_text()
        assert time.monotonic() - begin < 25
        volume.mount("local_lock=none")
        maker.watch()


if __name__ == "__main__":
    run_claims(media=("memory",))
