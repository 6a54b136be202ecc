#!/usr/bin/env python3
"""Programs that people use, short, each with a check of its own of the result (real_programs.py; tools/bench programs
runs them longer, and more of them)."""
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

if __name__ == "__main__":
    run_claims(media=("memory", "writeback"))
