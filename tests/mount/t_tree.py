#!/usr/bin/env python3
"""Real trees and real programs."""
import os
import subprocess
from pathlib import Path

from fixture import claim, run, run_claims

TREE = Path("/usr/include")


@claim("cp -a of /usr/include compares equal, through remounts and the death of the server", alone=True,
       seconds=300)
def _(maker):
    volume = maker.volume(size="512M")
    run("cp", "-a", TREE, volume.mnt / "copy")
    same(volume)
    assert volume.unmount() == 0, volume.log_text()
    volume.mount()
    maker.watch()
    same(volume)
    run("cp", "-a", volume.mnt / "copy", volume.mnt / "copy2")
    volume.kill()
    volume.mount()
    maker.watch()
    same(volume)
    run("diff", "-r", "--no-dereference", volume.mnt / "copy", volume.mnt / "copy2")
    run("rm", "-rf", volume.mnt / "copy")
    assert volume.unmount() == 0
    volume.fsck()


def same(volume):
    run("diff", "-r", "--no-dereference", TREE, volume.mnt / "copy")
    rows = [subprocess.run(["find", ".", "-printf", "%P %M %U %G %s %T@ %l\\n"], cwd=place,
                           capture_output=True, text=True, check=True).stdout.splitlines()
            for place in (TREE, volume.mnt / "copy")]
    plain = [sorted(row for row in side if " d" not in row) for side in rows]  # sizes of directories differ
    assert plain[0] == plain[1]


@claim("rsync finds nothing to do the second time, and tar brings all of it back", seconds=300)
def _(here):
    source = TREE / "linux"
    if subprocess.run(["sh", "-c", "command -v rsync"], capture_output=True).returncode == 0:
        run("rsync", "-aH", f"{source}/", here / "copy/")
        again = run("rsync", "-aHi", f"{source}/", here / "copy/").stdout
        assert again == "", again
    else:
        run("cp", "-a", source, here / "copy")
    run("tar", "-C", here / "copy", "-cf", here / "all.tar", ".")
    (here / "back").mkdir()
    run("tar", "-C", here / "back", "-xpf", here / "all.tar")
    run("diff", "-r", "--no-dereference", source, here / "back")


@claim("git keeps a repository on a volume", seconds=120)
def _(here):
    def git(*words):
        return run("git", "-C", here, "-c", "user.name=t", "-c", "user.email=t@t", *words).stdout
    git("init", "-q", ".")
    for number in range(100):
        (here / f"file{number}").write_text(f"{number}\n" * 1000)
    git("add", ".")
    git("commit", "-qm", "one")
    (here / "file7").write_text("changed")
    assert "file7" in git("status", "--porcelain")
    git("commit", "-qam", "two")
    git("gc", "-q")
    git("fsck", "--strict")
    git("checkout", "-q", "HEAD~1")
    assert (here / "file7").read_text() == "7\n" * 1000
    assert git("status", "--porcelain") == ""


@claim("a compiler builds a program on a volume, and it runs from there", seconds=120)
def _(here):
    (here / "a.c").write_text('#include <stdio.h>\nint main(void){puts("built");return 0;}\n')
    run("cc", "-o", here / "a", here / "a.c")
    assert run(here / "a").stdout == "built\n"


@claim("sqlite's journal and locks work, as far as python has sqlite")
def _(here):
    try:
        import sqlite3
    except ImportError:
        return
    with sqlite3.connect(here / "db") as base:
        base.execute("create table t (a integer, b text)")
        for number in range(500):
            base.execute("insert into t values (?, ?)", (number, "x" * number))
    base.close()
    base = sqlite3.connect(here / "db")
    assert base.execute("select count(*), sum(length(b)) from t").fetchone() == (500, 124750)
    assert base.execute("pragma integrity_check").fetchone() == ("ok",)
    base.close()


if __name__ == "__main__":
    run_claims()
