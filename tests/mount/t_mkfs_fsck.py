#!/usr/bin/env python3
"""mkfs.pmfs and fsck.pmfs as programs: exit codes, sentences, and what they leave alone."""
# Holds docs/fsck.md "What it does", "Exit codes", "JSON", docs/man/mkfs.pmfs.8 and docs/man/fsck.pmfs.8.
import hashlib
import json
import os
import random
import shutil
import struct
import subprocess
import threading

from fixture import ROOT, as_user, claim, program, run, run_claims

MADE, MKFS_FAILED, MKFS_USAGE = 0, 1, 2
CLEAN, CORRECTED, BROKEN, FSCK_FAILED, FSCK_USAGE = 0, 1, 4, 8, 16


def tool(name, *arguments):
    return subprocess.run([program(name), *map(str, arguments)], capture_output=True, text=True,
                          timeout=60)


def refused(done, code, *words):
    """This exit code, and one sentence on standard error that holds these words."""
    assert done.returncode == code, f"exit {done.returncode}: {done.stdout}{done.stderr}"
    sentences = done.stderr.strip().splitlines()
    assert len(sentences) == 1 and ".pmfs: " in sentences[0], done.stderr
    for word in words:
        assert word.lower() in sentences[0].lower(), f"{word!r} is not in: {sentences[0]}"


def image(maker, *options, size="8M"):
    path = maker.directory / "image"
    done = tool("mkfs.pmfs", "-q", "--size", size, *options, path)
    assert done.returncode == MADE and done.stdout == "", done.stdout + done.stderr
    return path


def digest(path):
    return hashlib.sha256(path.read_bytes()).hexdigest()


def crc32c(data):
    table = []
    for byte in range(256):
        for _ in range(8):
            byte = byte >> 1 ^ (0x82F63B78 if byte & 1 else 0)
        table.append(byte)
    crc = 0xFFFFFFFF
    for byte in data:
        crc = crc >> 8 ^ table[(crc ^ byte) & 0xFF]
    return crc ^ 0xFFFFFFFF


def edit(path, offset, content):
    """Changes a field of the superblock and of its copy, and puts their checksums right."""
    with open(path, "r+b") as region:
        copy, = struct.unpack_from("<Q", region.read(4096), 216)
        for at in (0, copy * 4096):
            region.seek(at)
            block = bytearray(region.read(4096))
            block[offset:offset + len(content)] = content
            block[4:8] = bytes(4)
            block[4:8] = struct.pack("<I", crc32c(block))
            region.seek(at)
            region.write(block)


@claim("mkfs prints what it made, and fsck finds it clean", alone=True)
def _(maker):
    path = maker.directory / "image"
    done = tool("mkfs.pmfs", "--size", "64M", "-L", "my label",
                "-U", "01234567-89ab-cdef-0123-456789abcdef", "--journal-size", "1M", path)
    assert done.returncode == MADE, done.stderr
    for words in ("64 MiB", "01234567-89ab-cdef-0123-456789abcdef", "my label", "1 MiB"):
        assert words in done.stdout, done.stdout
    assert path.stat().st_blocks * 512 >= 64 << 20, "not preallocated"
    done = tool("fsck.pmfs", path)
    assert done.returncode == CLEAN and "clean" in done.stdout, done.stdout + done.stderr
    done = tool("mkfs.pmfs", "-q", "--sparse", "--size", "64M", maker.directory / "sparse")
    assert done.returncode == MADE
    assert (maker.directory / "sparse").stat().st_blocks * 512 < 16 << 20, "not sparse"


@claim("mkfs overwrites a filesystem only with -f, and then the old one cannot be found", alone=True)
def _(maker):
    path = image(maker, "-L", "precious")
    before = digest(path)
    refused(tool("mkfs.pmfs", path), MKFS_FAILED, "precious", "-f")
    refused(tool("mkfs.pmfs", "--size", "16M", path), MKFS_FAILED, "-f")
    assert digest(path) == before
    assert tool("mkfs.pmfs", "-q", "-f", path).returncode == MADE
    assert digest(path) != before
    other = maker.directory / "ext4"
    with open(other, "wb") as file:
        file.truncate(32 << 20)
    run("mkfs.ext4", "-q", other)
    before = digest(other)
    refused(tool("mkfs.pmfs", other), MKFS_FAILED, "ext4", "-f")
    assert digest(other) == before
    assert tool("mkfs.pmfs", "-q", "-f", other).returncode == MADE
    assert "ext4" not in run("blkid", "-p", other, ok=False).stdout
    assert tool("fsck.pmfs", other).returncode == CLEAN


@claim("mkfs -n makes and changes nothing", alone=True)
def _(maker):
    path = maker.directory / "none"
    done = tool("mkfs.pmfs", "-n", "--size", "1T", path)
    assert done.returncode == MADE and "would be" in done.stdout and "1 TiB" in done.stdout
    assert not path.exists()
    path = image(maker)
    before = digest(path)
    assert tool("mkfs.pmfs", "-n", "-f", path).returncode == MADE
    assert digest(path) == before


@claim("mkfs refuses impossible values with a sentence, and leaves no file behind", alone=True)
def _(maker):
    path = maker.directory / "image"
    refused(tool("mkfs.pmfs", path), MKFS_FAILED, "does not exist", "--size")
    refused(tool("mkfs.pmfs", "--size", "1M", path), MKFS_FAILED, "4 MiB")
    refused(tool("mkfs.pmfs", "--size", "8M", "--journal-size", "8M", path), MKFS_FAILED, "journal")
    refused(tool("mkfs.pmfs", "--size", "8M", "--mapping-unit", "3K", path), MKFS_FAILED, "unit")
    refused(tool("mkfs.pmfs", "--size", "8M", maker.directory / "no" / "folder"), MKFS_FAILED)
    assert not path.exists()
    refused(tool("mkfs.pmfs", "/dev/null"), MKFS_FAILED)
    refused(tool("mkfs.pmfs", maker.directory), MKFS_FAILED, "directory")
    assert tool("mkfs.pmfs", "--no-such-word").returncode == MKFS_USAGE
    assert tool("mkfs.pmfs").returncode == MKFS_USAGE
    assert tool("mkfs.pmfs", "-U", "nonsense", "--size", "8M", path).returncode == MKFS_USAGE
    assert tool("mkfs.pmfs", "--help").returncode == MADE
    assert not path.exists()


@claim("an image that does not fit is refused before any of the space is taken from others", alone=True)
def _(maker):
    small = maker.directory / "small"
    small.mkdir()
    # (tmpfs itself refuses what cannot fit; ext4 does not.)
    if os.access("/dev/loop-control", os.W_OK):
        with open(maker.directory / "disk", "wb") as disk:
            disk.truncate(512 << 20)
        run("mkfs.ext4", "-q", maker.directory / "disk")
        run("mount", "-o", "loop", maker.directory / "disk", small)
    else:
        run("mount", "-t", "tmpfs", "-o", "size=512M", "none", small)
    try:
        path, least, ended = small / "image", [1 << 60], threading.Event()

        def watch():
            while not ended.is_set():
                least[0] = min(least[0], shutil.disk_usage(small).free)

        def refused_and_unseen(*words):
            watcher = threading.Thread(target=watch)
            watcher.start()
            try:
                refused(tool("mkfs.pmfs", *words, path), MKFS_FAILED, "enough space", "--sparse")
            finally:
                ended.set()
                watcher.join()
                ended.clear()
            assert least[0] > 400 << 20, f"only {least[0]} bytes were free meanwhile"
        refused_and_unseen("--size", "1G")
        assert not path.exists()
        with open(path, "wb") as file:
            file.write(b"what was there")
            file.truncate(1 << 30)
        refused_and_unseen("-f")
        refused_and_unseen("-f", "--size", "2G")
        assert path.stat().st_size == 1 << 30 and path.read_bytes()[:14] == b"what was there"
        run(program("mkfs.pmfs"), "-q", "-f", "--size", "256M", path)
        run(program("mkfs.pmfs"), "-q", "-f", "--size", "400M", path)  # 144 MiB more, of 256 that are free
    finally:
        run("umount", small)


@claim("mkfs of a sparse volume of 1 TiB takes at most 2 s, and fsck of it too", alone=True)
def _(maker):
    path = maker.directory / "image"
    run(program("mkfs.pmfs"), "-q", "--sparse", "--size", "1T", path, timeout=2)
    run(program("fsck.pmfs"), "-q", path, timeout=2)


@claim("fsck of something that is not a volume, or cannot be read, is exit 8 and one sentence", alone=True)
def _(maker):
    refused(tool("fsck.pmfs", maker.directory / "none"), FSCK_FAILED, "no such")
    refused(tool("fsck.pmfs", "/dev/null"), FSCK_FAILED)
    path = maker.directory / "zeroes"
    path.write_bytes(bytes(8 << 20))
    refused(tool("fsck.pmfs", path), FSCK_FAILED, "not a pmfs volume")
    path.write_bytes(b"")
    refused(tool("fsck.pmfs", path), FSCK_FAILED)
    path.write_bytes(bytes(4096))
    refused(tool("fsck.pmfs", path), FSCK_FAILED, "not a pmfs volume")
    path = image(maker)
    edit(path, 32, struct.pack("<I", 3))
    refused(tool("fsck.pmfs", path), FSCK_FAILED, "newer")
    edit(path, 32, struct.pack("<I", 2))
    edit(path, 48, struct.pack("<Q", 1 << 40))
    refused(tool("fsck.pmfs", path), FSCK_FAILED, "feature")
    edit(path, 48, struct.pack("<Q", 0))
    edit(path, 56, struct.pack("<Q", 1 << 40))
    refused(tool("fsck.pmfs", path), FSCK_FAILED, "feature", "-n")
    assert tool("fsck.pmfs", "-n", path).returncode == CLEAN
    edit(path, 56, struct.pack("<Q", 0))
    assert tool("fsck.pmfs", path).returncode == CLEAN
    os.truncate(path, 6 << 20)
    refused(tool("fsck.pmfs", path), FSCK_FAILED, "larger", "truncated")
    assert tool("fsck.pmfs").returncode == FSCK_USAGE
    assert tool("fsck.pmfs", "--repair-it-all", path).returncode == FSCK_USAGE


@claim("a newer minor version is checked like this one", alone=True)
def _(maker):
    path = image(maker)
    with open(path, "rb") as region:
        region.seek(32)
        assert struct.unpack("<III", region.read(12)) == (2, 0, 0), "mkfs writes 2.0"
    for newest, oldest in ((1, 0), (1, 1)):
        edit(path, 36, struct.pack("<II", newest, oldest))
        done = tool("fsck.pmfs", path)
        assert done.returncode == CLEAN, done.stdout + done.stderr


@claim("a volume of format 1 is refused by fsck and mount, with advice, and not overwritten by mkfs", alone=True)
def _(maker):
    path = image(maker)
    edit(path, 32, struct.pack("<III", 1, 2, 2))
    before = digest(path)
    for words in ([], ["-n"], ["-p"]):
        refused(tool("fsck.pmfs", *words, path), FSCK_FAILED, "format 1", "mkfs.pmfs")
    where = maker.directory / "mnt"
    where.mkdir(exist_ok=True)
    done = tool("mount.pmfs", path, where)
    assert done.returncode != 0 and "format 1" in done.stderr, done.stderr
    refused(tool("mkfs.pmfs", path), MKFS_FAILED, "pmfs volume", "-f")
    assert digest(path) == before
    assert tool("mkfs.pmfs", "-q", "-f", path).returncode == MADE
    assert tool("fsck.pmfs", path).returncode == CLEAN


@claim("mkfs reserves for root what --reserve says, and prints it", alone=True)
def _(maker):
    path = maker.directory / "image"
    for words, parts, text in (([], 100, "1.00 %"), (["--reserve", "0"], 0, "0.00 %"),
                               (["--reserve", "2.5"], 250, "2.50 %"), (["--reserve", "50"], 5000, "50.00 %"),
                               (["--reserve", "0.01"], 1, "0.01 %")):
        done = tool("mkfs.pmfs", "-f", "--size", "8M", *words, path)
        assert done.returncode == MADE and text in done.stdout, done.stdout + done.stderr
        with open(path, "rb") as region:
            region.seek(104)
            assert struct.unpack("<I", region.read(4)) == (parts,)
    before = digest(path)
    for wrong in ("50.01", "-1", "1.234", "1.", ".", "many", "1e1"):
        refused(tool("mkfs.pmfs", "-f", f"--reserve={wrong}", path), MKFS_USAGE, "--reserve", "50")
    assert digest(path) == before


@claim("a user without permission is told so", alone=True)
def _(maker):
    path = image(maker)
    os.chmod(path, 0o600)

    def try_it():
        refused(tool("fsck.pmfs", "-n", path), FSCK_FAILED, "permission")
        refused(tool("mkfs.pmfs", "-f", path), MKFS_FAILED, "permission")
    as_user(try_it)


@claim("fsck names each problem by code, in words and in JSON, and accepts the options of fsck(8)", alone=True)
def _(maker):
    path = image(maker)
    with open(path, "r+b") as region:  # both summaries
        for block in (1, 21):
            region.seek(block * 4096 + 2000)
            region.write(b"x")
    before = digest(path)
    for words in ([], ["-n"], ["-a"], ["-p"], ["-y", "-C", "0"], ["-T", "-f"]):
        done = tool("fsck.pmfs", *words, path)
        assert done.returncode == BROKEN, (words, done.stdout, done.stderr)
        assert "PM0403: block 1:" in done.stdout and "1 problem" in done.stdout, done.stdout
    assert "cannot repair all of these problems" in tool("fsck.pmfs", "-y", path).stderr
    for flag in ("-a", "-p", "-y"):
        refused(tool("fsck.pmfs", "-n", flag, path), FSCK_USAGE, "-n writes nothing")
    lines = [json.loads(line)
             for line in tool("fsck.pmfs", "--json", path).stdout.splitlines()]
    assert [line["type"] for line in lines] == ["problem", "summary"]
    assert lines[0]["code"] == "PM0403" and lines[0]["block"] == 1
    assert lines[0]["name"] == "summary_lost"
    assert lines[1]["problems"] == 1 and lines[1]["clean"] is False
    assert digest(path) == before


@claim("a volume whose block 0 is damaged mounts with a warning; fsck -n only checks, fsck -p repairs", alone=True)
def _(maker):
    volume = maker.volume(size="64M")
    (volume.mnt / "file").write_text("still there")
    assert volume.unmount() == 0
    whole = volume.region.read_bytes()
    for flag in ("-p", "-a", "-y"):
        with open(volume.region, "r+b") as region:
            region.seek(3000)
            region.write(b"x")
        before = digest(volume.region)
        for words in (["-n"], []):
            done = tool("fsck.pmfs", *words, volume.region)
            assert done.returncode == BROKEN and "PM0101: block 0:" in done.stdout, done.stdout
            assert digest(volume.region) == before
        assert "pmfs volume" in tool("mkfs.pmfs", volume.region).stderr
        volume.mount()
        maker.watch()
        assert "is used" in volume.log_text()
        assert (volume.mnt / "file").read_text() == "still there"
        assert volume.unmount() == 0
        done = tool("fsck.pmfs", flag, volume.region)
        assert done.returncode == CORRECTED and "repaired" in done.stdout, done.stdout
        assert volume.region.read_bytes()[:4096] == whole[:4096]
        assert tool("fsck.pmfs", volume.region).returncode == CLEAN


def damaged(region, whole, lot):
    """Overwrites pieces of one or two blocks that fsck can make again; says which."""
    # Of group 0: a summary, bitmaps of blocks and of classes (of chunks that exist), the inode map.
    either = lot.choice((1, 21))
    blocks = lot.sample((either, lot.choice((2, 11)), 20, 10, 19), lot.randint(1, 2))
    if 20 in blocks:  # it is found again with the help of the bitmaps
        blocks = [block for block in blocks if block not in (2, 11)]
    region.write_bytes(whole)
    with open(region, "r+b") as file:
        for block in blocks:
            file.seek(block * 4096 + lot.randrange(4000))
            file.write(lot.randbytes(lot.randint(1, 96)))
    return blocks


@claim("bitmaps, summaries and inode maps that are damaged anywhere are repaired, and no file is lost", alone=True,
       seconds=300)
def _(maker):
    volume = maker.volume(size="64M")
    contents = {}
    for number in range(60):
        name = f"d{number % 7}/f{number}"
        (volume.mnt / name).parent.mkdir(exist_ok=True)
        contents[name] = os.urandom(random.choice((0, 10, 5000, 200_000)))
        (volume.mnt / name).write_bytes(contents[name])
    os.link(volume.mnt / "d1/f1", volume.mnt / "d2/again")
    assert volume.unmount() == 0
    whole = volume.region.read_bytes()
    lot = random.Random(int(os.environ.get("PMFS_SEED", "1")))
    for _ in range(int(os.environ.get("PMFS_STEPS", "12"))):
        where = damaged(volume.region, whole, lot)
        assert tool("fsck.pmfs", "-n", volume.region).returncode == BROKEN, where
        done = tool("fsck.pmfs", "-y", volume.region)
        assert done.returncode == CORRECTED, (where, done.stdout, done.stderr)
        assert tool("fsck.pmfs", volume.region).returncode == CLEAN, where
        volume.mount()
        maker.watch()
        for name, content in contents.items():
            assert (volume.mnt / name).read_bytes() == content, (where, name)
        (volume.mnt / "new").write_bytes(b"n" * 3_000_000)
        assert os.stat(volume.mnt / "d2/again").st_nlink == 2
        assert volume.unmount() == 0
        assert tool("fsck.pmfs", volume.region).returncode == CLEAN, where


@claim("every problem that fsck knows is in docs/fsck.md, in the same words", alone=True)
def _(maker):
    done = tool("fsck.pmfs", "--codes")
    assert done.returncode == CLEAN
    rows = {line for line in (ROOT / "docs" / "fsck.md").read_text().splitlines()
            if line.startswith("| PM")}
    known = {"| {} | {} |".format(*line.split(" ", 1)) for line in done.stdout.splitlines()}
    assert rows == known, f"{sorted(rows ^ known)}"


@claim("a mounted volume is refused by mkfs, by fsck and by fsck -n", alone=True)
def _(maker):
    volume = maker.volume(size="64M")
    refused(tool("fsck.pmfs", volume.region), FSCK_FAILED, "mounted")
    refused(tool("fsck.pmfs", "-n", volume.region), FSCK_FAILED, "mounted")
    refused(tool("mkfs.pmfs", "-f", volume.region), MKFS_FAILED, "mounted")
    refused(tool("mkfs.pmfs", "-f", "--size", "128M", volume.region), MKFS_FAILED, "mounted")
    assert volume.region.stat().st_size == 64 << 20
    (volume.mnt / "file").write_text("still there")
    assert volume.unmount() == 0
    volume.fsck()


@claim("after a crash fsck -n writes nothing, fsck replays, and the mount finds everything there", alone=True)
def _(maker):
    volume = maker.volume(size="64M")
    for number in range(100):
        (volume.mnt / f"file{number}").write_text(f"content {number}" * 100)
    volume.kill()
    before = digest(volume.region)
    done = tool("fsck.pmfs", "-n", volume.region)
    assert done.returncode == CLEAN, done.stdout
    assert "in memory" in done.stdout or volume.kind == "memory", done.stdout
    assert digest(volume.region) == before, "fsck -n wrote"
    done = tool("fsck.pmfs", volume.region)
    assert done.returncode == CLEAN, done.stdout
    assert "replayed" not in tool("fsck.pmfs", volume.region).stdout
    volume.mount()
    maker.watch()
    for number in range(100):
        assert (volume.mnt / f"file{number}").read_text() == f"content {number}" * 100
    assert volume.unmount() == 0
    volume.fsck()


if __name__ == "__main__":
    run_claims()
