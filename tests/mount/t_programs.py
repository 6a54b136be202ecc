#!/usr/bin/env python3
"""Programs that people use, short, each with a check of its own of the result (real_programs.py; tools/bench programs
runs them longer, and more of them)."""
import os
import shutil
import tempfile

import real_programs
from fixture import claim, run_claims

CLAIMS = {
    "sqlite_wal": "SQLite with a write-ahead log finds its database whole, and all rows in it",
    "sqlite_delete": "SQLite with a rollback journal finds its database whole, and all rows in it",
    "lmdb": "LMDB finds all that it stored, through its mapping",
    "append_200": "a log of small appends is what was appended",
    "git": "git clones, sees no change, packs, and fsck finds nothing",
    "tar": "tar brings back a tree with its links, holes, modes, owners, times, ACLs and attributes, and reads it again",
    "rsync": "rsync brings a tree here and back, and finds nothing to do between the two",
    "build": "make builds a project once, and again only what is older than its source",
}


def register(kind, name, words):
    @claim(words, seconds=120)
    def _(here):
        place = tempfile.mkdtemp(prefix="pmfs-programs-", dir="/dev/shm")
        try:
            case = kind(real_programs.Stock(place, small=True))
            assert case.name == name
            why = case.missing()
            assert why is None, f"{why}: tools/packages.txt lists it"
            real_programs.run_case(case, here)
        finally:
            shutil.rmtree(place, ignore_errors=True)


for number, (name, words) in enumerate(CLAIMS.items()):
    register(real_programs.LIGHT[number], name, words)


DIES_UNDER = {
    "sqlite_wal": "SQLite with a write-ahead log",
    "sqlite_delete": "SQLite with a rollback journal",
    "lmdb": "LMDB",
    "lmdb_mapped": "LMDB that stores through its mapping",
    "appended_log": "a log that is appended to, synced, and written anew",
}


def register_killed(kind, name, who):
    @claim(f"{who} has each transaction that it committed after the server died under it, and none in part", alone=True,
           seconds=120)
    def _(maker):
        for options in ("", "writeback"):
            volume = maker.volume(size="64M", options=options)
            case = kind(real_programs.Stock("/nowhere", small=True))
            assert case.name == name
            why = case.missing()
            assert why is None, f"{why}: tools/packages.txt lists it"
            last = killed_under(volume, case)
            volume.mount(options)
            maker.watch()
            case.check_from(volume.mnt, last)
            assert volume.unmount() == 0, volume.log_text()
            volume.fsck()


for number, (name, who) in enumerate(DIES_UNDER.items()):
    register_killed(real_programs.KILLED[number], name, who)


def killed_under(volume, case):
    """The last number that a process said to be committed before the server was killed."""
    read_end, write_end = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(read_end)
        try:
            case.fill_until_the_end(volume.mnt, write_end)
        finally:
            os._exit(0)
    os.close(write_end)
    said = b""
    while said.count(b"\n") < 50:
        got = os.read(read_end, 4096)
        assert got, "the process that fills the database ended by itself"
        said += got
    volume.kill()
    said += b"".join(iter(lambda: os.read(read_end, 4096), b""))
    os.close(read_end)
    os.waitpid(child, 0)
    return int(said.split(b"\n")[-2])


if __name__ == "__main__":
    run_claims(media=("image", "memory", "writeback"))
