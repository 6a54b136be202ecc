#!/usr/bin/env python3
"""pmfsctl: its words, its JSON, its exit codes, and sentences that say what to do."""
# Holds docs/seal.md "Who holds it?", docs/grants.md "When it does not work" and docs/man/pmfsctl.8.
import json
import os
import re

from libpmfs import Map, ctl, info, make_file, open_direct
from fixture import claim, run_claims

MIB = 1 << 20
SNAKE = re.compile(r"^[a-z][a-z0-9]*(_[a-z0-9]+)*$")


def keys_of(value):
    if isinstance(value, dict):
        for key, inner in value.items():
            yield key
            yield from keys_of(inner)
    if isinstance(value, list):
        for inner in value:
            yield from keys_of(inner)


def refused(done, *words):
    """One sentence of ours on standard error (and perhaps a list below it), and exit code 1."""
    assert done.returncode == 1, f"exit {done.returncode}: {done.stderr}"
    assert done.stdout == "" and done.stderr.startswith("pmfsctl: "), done.stderr
    for word in words:
        assert word in done.stderr, f"{word!r} is not in: {done.stderr}"


@claim("every verb prints JSON with keys in snake_case and sizes as integers")
def _(here):
    make_file(here / "f", 3 * MIB)
    fd = open_direct(here / "f")
    with Map(fd):
        for words in (["info"], ["map"], ["holders"], ["status"], ["prepare"], ["seal"]):
            out = json.loads(ctl(*words, "--json", here / "f").stdout)
            assert all(SNAKE.match(key) for key in keys_of(out)), out
    os.close(fd)
    out = json.loads(ctl("unseal", "--json", here / "f").stdout)
    assert out["seal"] == "none" and out["size"] == 3 * MIB and out["path"] == str(here / "f")
    out = json.loads(ctl("map", "--json", here / "f").stdout)
    assert sum(extent["length"] for extent in out["extents"]) >= 3 * MIB
    assert all(extent["device"] % 4096 == 0 for extent in out["extents"])
    out = json.loads(ctl("map", "--json", here).stdout)
    assert out["chunk_size"] == 2 * MIB and len(out["chunks"]) * 2 * MIB == out["size"]
    assert {chunk["kind"] for chunk in out["chunks"]} <= {"free", "metadata", "data"}
    out = json.loads(ctl("status", "--json", here).stdout)
    assert out["size"] == 256 * MIB and out["direct_mappings"] and not out["read_only"]


@claim("status counts the requests of this mount; a user sees that alone")
def _(here):
    make_file(here / "f", 4096)

    def opened():
        (only,) = json.loads(ctl("status", "--json", here).stdout)["clients"]
        assert not only["guest"] and only["socket"] == "" and only["pid"] == 0, only
        return only["requests"]["open"]

    before = opened()
    for _ in range(5):
        os.close(open_direct(here / "f"))
    assert opened() == before + 5
    assert re.search(r"this mount +\d+ requests \(.*open \d+", ctl("status", here).stdout)


@claim("output for people: info, status, map and holders print all they know")
def _(here):
    make_file(here / "f", 3 * MIB)
    text = ctl("info", here / "f").stdout
    assert "seal        none" in text and "3 MiB (3145728 bytes)" in text
    assert "mapping unit" in ctl("status", here).stdout
    assert "has no holders" in ctl("holders", here / "f").stdout
    fd = open_direct(here / "f")
    with Map(fd):
        text = ctl("holders", here / "f").stdout
        assert f"temporary grant of process {os.getpid()}" in text and "stores" in text
        assert "open file, direct" in text
    os.close(fd)


@claim("examining a file never prevents a mapping")
def _(here):
    make_file(here / "f", MIB)
    for verb in ("info", "map", "holders", "status"):
        ctl(verb, here / "f")
    before = info(here / "f")
    assert before["handles_cached"] == 0 and before["handles_direct"] == 0


@claim("the picture of the region fits its width, has a legend, and colours only when asked")
def _(here):
    make_file(here / "f", 10 * MIB)
    plain = ctl("map", here).stdout
    assert "\x1b" not in plain and "█" in plain and "metadata" in plain and "free" in plain
    colored = ctl("map", "--color", "always", here).stdout
    assert "\x1b[" in colored
    assert re.sub(r"\x1b\[[0-9;]*m", "", colored) == plain
    for width in (40, 80, 200):
        text = ctl("map", "--width", width, here).stdout
        rows = [line for line in text.splitlines() if re.match(r"\s+\d+", line)]
        assert rows and all(len(row) <= width for row in rows), text
    assert ctl("map", "--ascii", here).stdout.isascii() or not str(here).isascii()


@claim("failures are sentences that name the file and what to do")
def _(here):
    make_file(here / "f", MIB)
    refused(ctl("info", here / "nope", ok=False), str(here / "nope"), "No such file")
    refused(ctl("info", "/etc/passwd", ok=False), "not on a mounted pmfs volume")
    refused(ctl("seal", here, ok=False), str(here))
    (here / "empty").write_bytes(b"")
    refused(ctl("seal", here / "empty", ok=False), "empty")
    with open(here / "hole", "wb") as hole:
        hole.truncate(MIB)
    refused(ctl("seal", here / "hole", ok=False), "hole", "--prepare")
    ctl("seal", "--prepare", here / "hole")
    fd = open_direct(here / "f")
    with Map(fd):
        ctl("seal", here / "f")
        refused(ctl("unseal", here / "f", ok=False), "stays sealed", "held by",
                f"process {os.getpid()}")
    os.close(fd)
    with open(here / "busy", "wb") as busy:
        busy.truncate(MIB)
        refused(ctl("seal", "--as-is", here / "busy", ok=False), "open for writing", "held by",
                f"process {os.getpid()}")
    refused(ctl("prepare", "--unit", "3000", here / "busy", ok=False), "--unit")


@claim("wrong usage is exit code 2, help is 0")
def _(here):
    for words in ([], ["frobnicate"], ["info"], ["seal", "--as-is", "--full", here / "f"],
                  ["map", "--color", "mauve", here], ["info", "a", "b"],
                  ["prepare", "--length", "many", here]):
        assert ctl(*words, ok=False).returncode == 2, words
    assert ctl("--help").returncode == 0
    assert ctl("seal", "--help").returncode == 0


@claim("prepare takes sizes with units, and a range")
def _(here):
    with open(here / "f", "wb") as file:
        file.truncate(4 * MIB)
    ctl("prepare", "--offset", "1MiB", "--length", "64KiB", "--unit", "4KiB", here / "f")
    extents = json.loads(ctl("map", "--json", here / "f").stdout)["extents"]
    assert sum(extent["length"] for extent in extents) < 4 * MIB
    assert any(extent["offset"] <= MIB < extent["offset"] + extent["length"] for extent in extents)
    ctl("prepare", here / "f")
    extents = json.loads(ctl("map", "--json", here / "f").stdout)["extents"]
    assert all((extent["device"] - extent["offset"]) % (2 * MIB) == 0 for extent in extents)


if __name__ == "__main__":
    run_claims(media=("memory",))
