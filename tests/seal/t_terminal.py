#!/usr/bin/env python3
"""Names that would control a terminal: of files, processes, volumes.  No program prints them as they are."""
import ctypes
import json
import os
import subprocess
import time
from pathlib import Path

from libpmfs import Map, make_file, open_direct
from fixture import Maker, claim, libc, program, run_claims

MIB = 1 << 20
EVIL = b"\x1b]0;owned\x07\x1b[31m\xc2\x9b1m\x9b2m\xe2\x80\xae\xff\nx"
PR_SET_NAME = 15


def harmless(output, json_too=False):
    """No control but the ends of lines, no C1, nothing that turns the text round."""
    text = output.decode()  # and it is UTF-8
    for character in text:
        code = ord(character)
        assert (code >= 0x20 or character == "\n") and not 0x7f <= code <= 0x9f, repr(text)
        assert not 0x202a <= code <= 0x202e and (code < 0x7f or not json_too), repr(text)
    return text


def says(*command, json_too=False, ok=None):
    done = subprocess.run(command, capture_output=True, timeout=60, check=False)
    text = harmless(done.stdout + done.stderr, json_too)
    if ok is not None:
        assert (done.returncode == 0) == ok, (command, done)
    return text


@claim("pmfsctl prints names of files, processes and volumes so that they cannot control a terminal", alone=True)
def _(maker: Maker):
    volume = maker.volume(size="64M", mkfs=("--label", os.fsdecode(EVIL.replace(b"\n", b"")[:40])))
    path = os.path.join(os.fsencode(volume.mnt), EVIL)
    ctl = program("pmfsctl")
    make_file(Path(os.fsdecode(path)), MIB)
    was = ctypes.create_string_buffer(16)
    libc.prctl(16, was)
    libc.prctl(PR_SET_NAME, b"\x1b[2J\xc2\x9bz\n")
    try:
        fd = open_direct(path)
        with Map(fd):
            assert "\\x1b[2J" in says(ctl, "holders", path, ok=True)
            for words in (["info"], ["map"], ["status"], ["holders"]):
                assert "x1b" in says(ctl, *words, path, ok=True)
                json.loads(says(ctl, *words, "--json", path, json_too=True, ok=True))
            says(ctl, "seal", path, ok=True)
            for words in (["unseal"], ["prepare", "--unit", "3"], ["lease", "--json"],
                          ["info", "more"]):
                assert "x1b" in says(ctl, *words, path, ok=False), words
            says(ctl, os.fsdecode(EVIL), path, ok=False)
            with subprocess.Popen([ctl, "watch", path], stdout=subprocess.PIPE) as watch:
                time.sleep(0.5)
                watch.terminate()
                assert "\\x1b" in harmless(watch.stdout.read())
        os.close(fd)
        says(ctl, "pin", path, "--", EVIL, ok=False)
        for words in (["map"], ["status"]):
            assert "x1b" in says(ctl, *words, os.fsencode(volume.mnt), ok=True)
        for words in (["info"], ["seal"], ["quarantine"], ["map"]):
            assert "x1b" in says(ctl, *words, path + b"-not-there", ok=False)
    finally:
        libc.prctl(PR_SET_NAME, was)


@claim("mkfs, fsck and mount.pmfs, their usage and the server's log print names so that they cannot control a terminal", alone=True)
def _(maker: Maker):
    place = os.fsencode(maker.directory)
    image, label = os.path.join(place, EVIL), EVIL.replace(b"\n", b"")[:40]
    mkfs, fsck, mount = (program(name) for name in ("mkfs.pmfs", "fsck.pmfs", "mount.pmfs"))
    assert "x1b" in says(mkfs, image, ok=False)
    assert "x1b" in says(mkfs, "-L", label, "--size", "16M", image, ok=True)
    assert "x1b" in says(mkfs, image, ok=False), "what is there has a label"
    assert "x1b" in says(mkfs, "-U", EVIL, "-f", image, ok=False)
    for command in (mkfs, fsck, mount):
        assert "x1b" in says(command, image, image, image, EVIL, ok=False)
        says(command, "--" + os.fsdecode(EVIL), image, ok=False)
    assert "x1b" in says(fsck, image, ok=True)
    json.loads(says(fsck, "--json", image, json_too=True, ok=True).splitlines()[-1])
    assert "x1b" in says(fsck, image + b"-not-there", ok=False)
    directory = os.path.join(place, b"d" + EVIL)
    for options in ((), ("-o", os.fsdecode(EVIL)), ("-o", b"seal=" + EVIL), ("-t", EVIL)):
        assert "x1b" in says(mount, image, directory, *options, ok=False)
    os.mkdir(directory)
    with subprocess.Popen([mount, image, directory, "--foreground"], stderr=subprocess.PIPE) as server:
        for _ in range(500):
            if os.path.ismount(directory) or server.poll() is not None:
                break
            time.sleep(0.01)
        subprocess.run(["umount", directory], check=True)
        log = harmless(server.stderr.read())
    assert "is mounted on" in log and "x1b" in log, log


if __name__ == "__main__":
    run_claims()
