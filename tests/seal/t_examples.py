#!/usr/bin/env python3
"""The programs in tools/examples do what they say."""
# Holds docs/grants.md "By what you do".
import os
import re
import signal
import subprocess
import time

from libpmfs import ctl, info, make_file, open_direct
from fixture import claim, program, run, run_claims

MIB = 1 << 20


def example(name, *words, ok=True):
    return run(program(name), *words, ok=ok, timeout=60)


def number(words, text):
    found = re.search(words.replace("N", r"(\d+)"), text)
    assert found, f"{words!r} is not in: {text}"
    return int(found.group(1))


def empty_file(path, size):
    """Prepared and sealed: what an example may write through."""
    with open(path, "wb") as file:
        file.truncate(size)
    ctl("seal", "--prepare", path)


@claim("each example prints how it is used, with exit code 2")
def _(here):
    for name in ("layout_server", "log_writer", "map_store", "stable_map", "uring_fixed",
                 "uring_socket"):
        done = example(name, ok=False)
        assert done.returncode == 2 and done.stderr.startswith(f"usage: {name} "), done


@claim("map_store: a stored line is durable, and read(2) gives it")
def _(here):
    empty_file(here / "f", MIB)
    assert "and durable" in example("map_store", here / "f", "hello").stdout
    assert (here / "f").read_bytes()[:5] == b"hello"


@claim("log_writer: records are found by the next run, up to the first one that is not whole")
def _(here):
    empty_file(here / "log", 4 * MIB)
    digest = info(here / "log")["map_digest"]
    assert number("N records found", example("log_writer", here / "log").stdout) == 0
    out = example("log_writer", "-n", 1000, "-s", 100, here / "log").stdout
    assert number("N in the log", out) == 1000 and number("p50 N ns", out) > 0
    out = example("log_writer", "-n", 10, "-s", 5000, here / "log").stdout
    assert number("N records found", out) == 1000 and number("N in the log", out) == 1010
    assert info(here / "log")["map_digest"] == digest
    # The 501st: a header of 16 bytes, then 500 records of 24 + 104.
    fd = open_direct(here / "log")
    os.pwrite(fd, b"\xff", 16 + 500 * 128 + 30)
    os.close(fd)
    assert number("N records found", example("log_writer", here / "log").stdout) == 500
    out = example("log_writer", "-n", 100, "-s", 60_000, here / "log", ok=False)
    assert out.returncode == 1 and "No space left" in out.stderr


@claim("log_writer: wherever it is killed, the log continues where it ended")
def _(here):
    empty_file(here / "log", 64 * MIB)
    found = 0
    for _ in range(5):
        writer = subprocess.Popen([program("log_writer"), "-n", "200000", here / "log"],
                                  stdout=subprocess.PIPE)
        assert writer.stdout.readline() == b"%d records found\n" % found
        time.sleep(0.002)  # somewhere in the middle, or at its end
        writer.send_signal(signal.SIGKILL)
        writer.communicate()
        now = number("N records found", example("log_writer", here / "log").stdout)
        assert now >= found, (now, found)
        found = now
    assert found > 0


@claim("log_writer: an append makes no system call", alone=True)
def _(maker):
    path = maker.volume().mnt / "log"
    empty_file(path, 16 * MIB)
    done = example("log_writer", "-p", "-n", 10_000, path, ok=False)
    if maker.kind == "image":  # there durability is msync(2), and so the proof must fail
        assert done.returncode == -signal.SIGSYS, done
        return
    assert done.returncode == 0 and "no system call was made" in done.stdout, done


@claim("log_writer: beside write and fdatasync", alone=True)
def _(maker):
    path = maker.volume().mnt / "log"
    empty_file(path, 4 * MIB)
    out = example("log_writer", "-n", 200, "-b", "/var/tmp", path).stdout
    append, beside = (number(f"{what}: p50 N ns", out) for what in ("append", "write and fdatasync"))
    assert append > 0 and beside > 0
    assert maker.kind == "image" or append < beside


@claim("uring_fixed and uring_socket: disk and network I/O straight into a sealed file", alone=True)
def _(maker):
    path = maker.volume().mnt / "f"
    make_file(path, 3 * MIB)
    ctl("seal", path)
    digest = info(path)["map_digest"]
    refused = maker.kind == "image"  # the kernel pins no page of a disk filesystem
    for words in (("uring_fixed", path, "/var/tmp"), ("uring_socket", path)):
        done = example(*words, ok=False)
        assert done.returncode == (1 if refused else 0), done
        assert not refused or "registering the mapping" in done.stderr
    assert info(path)["map_digest"] == digest and info(path)["seal"] == "full"
    if not refused:
        data = path.read_bytes()
        half = len(data) // 2 // 65536 * 65536
        assert data[:half] == data[half:2 * half] and data[:half] != bytes(half)


if __name__ == "__main__":
    run_claims()
