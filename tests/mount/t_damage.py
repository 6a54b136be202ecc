#!/usr/bin/env python3
"""Volumes that are newer than the program, or damaged: refused with a sentence, or used with care."""
import errno
import os
import struct
import subprocess
import time
from pathlib import Path

from fixture import claim, fails, program, run_claims

BLOCK = 4096
FAILED = 32
SUPERBLOCK, NODE, INODE = b"pmSB", b"pmNT", b"pmIN"
TABLE = []
for number in range(256):
    for _ in range(8):
        number = number >> 1 ^ (0x82f63b78 if number & 1 else 0)
    TABLE.append(number)


def crc32c(data):
    crc = 0xffffffff
    for byte in data:
        crc = crc >> 8 ^ TABLE[(crc ^ byte) & 0xff]
    return crc ^ 0xffffffff


def edit_superblock(region, offset, value, size):
    """Writes a field of the superblock, and its checksum as a newer program would."""
    with open(region, "r+b") as file:
        block = bytearray(file.read(BLOCK))
        assert block[:4] == SUPERBLOCK
        block[offset:offset + size] = value.to_bytes(size, "little")
        block[4:8] = bytes(4)
        block[4:8] = crc32c(block).to_bytes(4, "little")
        file.seek(0)
        file.write(block)


def blocks_with(region, magic, text):
    """Numbers of the metadata blocks of a kind that hold this text."""
    found = []
    with open(region, "rb") as file:
        number = 0
        while block := file.read(BLOCK):
            if block[:4] == magic and text in block:
                found.append(number)
            number += 1
    return found


def flip(region, offset):
    with open(region, "r+b") as file:
        file.seek(offset)
        byte = file.read(1)[0]
        file.seek(offset)
        file.write(bytes([byte ^ 0x10]))


def refused(volume, *words, options=""):
    command = [program("mount.pmfs"), str(volume.region), str(volume.mnt)]
    done = subprocess.run(command + (["-o", options] if options else []), capture_output=True,
                          text=True, timeout=60)
    assert done.returncode == FAILED, done
    assert len(done.stderr.strip().splitlines()) == 1, done.stderr
    for word in words:
        assert word in done.stderr, f"{word!r} is not in: {done.stderr}"


def closed(maker):
    """A volume with some files, unmounted."""
    volume = maker.volume(size="64M")
    for directory in ("good", "bad"):
        (volume.mnt / directory).mkdir()
        for number in range(20):
            (volume.mnt / directory / f"{directory}-name-{number}").write_text(f"{directory} {number}")
    assert volume.unmount() == 0
    return volume


@claim("a newer major version and an unknown incompat feature are refused, whatever is asked", alone=True)
def _(maker):
    volume = closed(maker)
    whole = Path(volume.region).read_bytes()
    edit_superblock(volume.region, 32, 99, 4)
    for options in ("", "ro"):
        refused(volume, "newer", options=options)
    Path(volume.region).write_bytes(whole)
    edit_superblock(volume.region, 48, 1 << 40, 8)
    for options in ("", "ro"):
        refused(volume, "feature", options=options)


@claim("an unknown ro-compat feature mounts read-only and no other way; an unknown compat one mounts", alone=True)
def _(maker):
    volume = closed(maker)
    edit_superblock(volume.region, 56, 1 << 40, 8)
    refused(volume, "read-only")
    volume.mount("ro")
    maker.watch()
    assert (volume.mnt / "good" / "good-name-7").read_text() == "good 7"
    assert volume.unmount() == 0
    edit_superblock(volume.region, 56, 0, 8)
    edit_superblock(volume.region, 64, 1 << 40, 8)
    volume.mount()
    maker.watch()
    (volume.mnt / "new").touch()
    assert volume.unmount() == 0


@claim("a superblock that is damaged with its copy is refused in a sentence", alone=True)
def _(maker):
    volume = closed(maker)
    flip(volume.region, 100)
    flip(volume.region, volume.region.stat().st_size - BLOCK + 100)
    refused(volume, "superblock", "copy")


def killed_with_files(volume):
    """40 files are synced, one by one, and then the server is killed."""
    for number in range(40):
        with open(volume.mnt / f"file{number}", "w", encoding="ascii") as file:
            file.write(f"content {number}")
            file.flush()
            os.fsync(file.fileno())
    volume.kill()


def records(region):
    """Place and size of each journal record that would be replayed."""
    data = Path(region).read_bytes()
    start, blocks = struct.unpack_from("<QQ", data, 80)
    ring, size = (start + 2) * BLOCK, (blocks - 2) * BLOCK
    _, seq, at = max(struct.unpack_from("<QQQ", data, (start + slot) * BLOCK + 32) for slot in (0, 1))
    found = []
    while data[ring + at:ring + at + 4] == b"pmJR":
        number, length = struct.unpack_from("<QI", data, ring + at + 8)
        if number != seq:
            break
        found.append((ring + at, length))
        seq, at = seq + 1, (at + length) % size
    return found


@claim("a flipped bit in a journal record that is not the last one: refused, named, nothing written", alone=True)
def _(maker):
    volume = maker.volume(size="64M")
    killed_with_files(volume)
    whole = Path(volume.region).read_bytes()
    found = records(volume.region)
    assert len(found) > 40
    for place, length in (found[0], found[len(found) // 4], found[-4]):
        flip(volume.region, place + length - 40)
        damaged = Path(volume.region).read_bytes()
        refused(volume, "journal", "fsck.pmfs")
        refused(volume, "journal", options="ro")
        for words in (["-n"], [], ["-p"], ["-y"]):
            done = subprocess.run([program("fsck.pmfs"), *words, str(volume.region)],
                                  capture_output=True, text=True, timeout=60)
            assert done.returncode == 4 and "PM0204" in done.stdout, done
        assert Path(volume.region).read_bytes() == damaged
        Path(volume.region).write_bytes(whole)
    volume.mount()
    maker.watch()
    assert len(os.listdir(volume.mnt)) == 40
    assert volume.unmount() == 0


@claim("a journal that cannot be replayed: ro,norecovery shows what was there before, and writes nothing", alone=True)
def _(maker):
    volume = closed(maker)
    volume.mount()
    maker.watch()
    killed_with_files(volume)
    place, length = records(volume.region)[0]
    flip(volume.region, place + length - 40)
    damaged = Path(volume.region).read_bytes()
    refused(volume, "journal", "-o ro,norecovery")
    done = subprocess.run([program("mount.pmfs"), str(volume.region), str(volume.mnt), "-o", "norecovery"],
                          capture_output=True, text=True, timeout=60)
    assert done.returncode == 1 and "norecovery needs ro" in done.stderr, done
    volume.mount("ro,norecovery")
    maker.watch()
    assert (volume.mnt / "good" / "good-name-7").read_text() == "good 7"
    with fails(errno.EROFS):
        (volume.mnt / "new").touch()
    assert volume.unmount() == 0
    assert Path(volume.region).read_bytes() == damaged


@claim("both summaries of a group are damaged: refused, but read-only its files can be had", alone=True)
def _(maker):
    volume = closed(maker)
    summaries = [block for block in (1, 21) if volume.region.read_bytes()[block * BLOCK:][:4] == b"pmGS"]
    assert len(summaries) == 2
    for block in summaries:
        flip(volume.region, block * BLOCK + 50)
    refused(volume, "summaries", "-o ro")
    volume.mount("ro")
    maker.watch()
    assert (volume.mnt / "good" / "good-name-7").read_text() == "good 7"
    assert os.statvfs(volume.mnt).f_bfree == 0
    assert volume.unmount() == 0


@claim("an image that is truncated while it is mounted: EIO, read-only, and the unmount fails", alone=True)
def _(maker):
    if maker.kind != "image":
        return
    volume = maker.volume(size="64M")
    for number in range(20):
        with open(volume.mnt / f"file{number}", "wb") as file:
            file.write(bytes([number + 1]) * (1 << 20))
            os.fsync(file.fileno())
    os.truncate(volume.region, 32 << 20)
    with fails(errno.EIO, errno.EROFS):
        with open(volume.mnt / "file0", "r+b") as file:
            file.write(b"x" * (1 << 20))
            file.flush()
            os.fsync(file.fileno())
    with fails(errno.EIO, errno.EROFS, errno.EUCLEAN):  # the directory's node may be gone as well
        (volume.mnt / "new").touch()
    assert volume.unmount() != 0
    assert volume.region.stat().st_size == 32 << 20
    done = subprocess.run([program("fsck.pmfs"), "-n", str(volume.region)], capture_output=True,
                          text=True, timeout=60)
    assert done.returncode == 8 and "truncated" in done.stderr, done


@claim("a damaged directory is EUCLEAN for what is in it, and nothing else suffers", alone=True)
def _(maker):
    volume = closed(maker)
    for block in blocks_with(volume.region, NODE, b"bad-name-7"):
        flip(volume.region, block * BLOCK + 2000)
    volume.mount()
    maker.watch()
    with fails(errno.EUCLEAN):
        os.listdir(volume.mnt / "bad")
    with fails(errno.EUCLEAN):
        os.stat(volume.mnt / "bad" / "bad-name-7")
    with fails(errno.EUCLEAN):
        (volume.mnt / "bad" / "new").touch()
    for number in range(20):
        assert (volume.mnt / "good" / f"good-name-{number}").read_text() == f"good {number}"
    (volume.mnt / "good" / "new").write_text("works")
    assert volume.unmount() == 0, volume.log_text()
    done = subprocess.run([program("fsck.pmfs"), "-n", str(volume.region)], capture_output=True)
    assert done.returncode == 4, done


def with_bad_inode(maker):
    volume = maker.volume(size="64M")
    for name in ("good", "bad"):
        (volume.mnt / name).write_text(name)
    bad = os.stat(volume.mnt / "bad").st_ino
    assert volume.unmount() == 0
    data = Path(volume.region).read_bytes()
    places = [place for place in range(0, len(data), 512)
              if data[place:place + 4] == INODE and int.from_bytes(data[place + 16:place + 24], "little") == bad]
    assert places
    for place in places:
        flip(volume.region, place + 100)
    volume.mount()
    maker.watch()
    return volume


@claim("a damaged inode is EUCLEAN for its file, and nothing else suffers", alone=True)
def _(maker):
    volume = with_bad_inode(maker)
    with fails(errno.EUCLEAN):
        os.stat(volume.mnt / "bad")
    assert (volume.mnt / "good").read_text() == "good"
    (volume.mnt / "new").write_text("works")
    assert sorted(os.listdir(volume.mnt)) == ["bad", "good", "new"]
    assert volume.unmount() == 0, volume.log_text()


@claim("the same damage is logged ten times in five seconds, and then how often it was met", alone=True)
def _(maker):
    volume = with_bad_inode(maker)

    def meet(times):
        for _ in range(times):
            with fails(errno.EUCLEAN):
                os.stat(volume.mnt / "bad")
        return (volume.directory / "server.log").read_text()
    begun = time.monotonic()
    lines = [line for line in meet(200).splitlines() if "inode" in line]
    assert time.monotonic() - begun < 4 and len(lines) == 10, (len(lines), lines[:3])
    time.sleep(5)
    assert "190 similar messages suppressed" in meet(1)
    assert volume.unmount() == 0, volume.log_text()


@claim("reads of an image that was truncated while it is mounted are EIO, and the server lives", alone=True)
def _(maker):
    volume = maker.volume(size="64M")
    (volume.mnt / "f").write_bytes(b"x" * (4 << 20))
    assert volume.unmount() == 0
    volume.mount()
    maker.watch()
    size = os.stat(volume.region).st_size
    fd = os.open(volume.mnt / "f", os.O_RDONLY | os.O_DIRECT)  # before its name is cut off, too
    os.truncate(volume.region, size // 64)
    try:
        with fails(errno.EIO):
            os.pread(fd, 1 << 20, 0)
            os.pread(fd, 1 << 20, 3 << 20)
        os.close(fd)
    finally:
        os.truncate(volume.region, size)
    os.statvfs(volume.mnt)
    assert volume.server.poll() is None, volume.log_text()


if __name__ == "__main__":
    run_claims()
