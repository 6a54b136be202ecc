#!/usr/bin/env python3
"""pmfsctl grow and tune on a mounted volume: df shows it at once, and it is there after a new mount."""
import json
import os
import subprocess

from fixture import as_user, claim, program, run_claims

MIB, GIB = 1 << 20, 1 << 30


def ctl(*words):
    return subprocess.run([program("pmfsctl"), *map(str, words)], capture_output=True, text=True,
                          timeout=60)


def done(*words):
    result = ctl(*words)
    assert result.returncode == 0 and result.stderr == "", result.stdout + result.stderr
    return result.stdout


def refused(result, *words):
    assert result.returncode == 1 and result.stdout == "", result.stdout + result.stderr
    assert result.stderr.startswith("pmfsctl: ") and result.stderr.count("\n") == 1, result.stderr
    for word in words:
        assert word in result.stderr, f"{word!r} is not in: {result.stderr}"


def size_of(volume):
    return json.loads(done("status", "--json", volume.mnt))["size"]


def df(volume):
    status = os.statvfs(volume.mnt)
    return status.f_blocks * status.f_frsize, status.f_bavail * status.f_frsize


def write(path, size):
    block = os.urandom(MIB)
    with open(path, "wb") as out:
        for _ in range(size // MIB):
            out.write(block)
        out.flush()
        os.fsync(out.fileno())
    return block


def holds(path, block, size):
    with open(path, "rb") as found:
        return all(found.read(MIB) == block for _ in range(size // MIB)) and not found.read(1)


@claim("an image that was made longer under its mount is taken: df shows it, and it holds data", alone=True)
def _(maker):
    volume = maker.volume(size="16M")
    old = write(volume.mnt / "old", 10 * MIB)
    total, free = df(volume)
    os.truncate(volume.region, 80 * MIB)
    assert df(volume) == (total, free)
    text = done("grow", volume.mnt)
    assert "16 MiB" in text and "80 MiB" in text, text
    assert size_of(volume) == 80 * MIB
    assert df(volume)[0] > total + 63 * MIB and df(volume)[1] > free + 62 * MIB
    new = write(volume.mnt / "new", 50 * MIB)
    assert holds(volume.mnt / "old", old, 10 * MIB) and holds(volume.mnt / "new", new, 50 * MIB)
    assert volume.unmount() == 0
    volume.fsck()
    volume.mount()
    maker.watch()
    assert size_of(volume) == 80 * MIB
    assert holds(volume.mnt / "old", old, 10 * MIB) and holds(volume.mnt / "new", new, 50 * MIB)


@claim("a volume grows past a group, in parts with --size, and by any path on it", alone=True)
def _(maker):
    volume = maker.volume(size="16M")
    os.truncate(volume.region, 3 * GIB + 5 * MIB)
    (volume.mnt / "f").write_text("some words")
    answer = json.loads(done("grow", "--json", "--size", "1GiB", volume.mnt / "f"))
    assert answer == {"before": 16 * MIB, "size": GIB, "medium": 3 * GIB + 5 * MIB}, answer
    done("grow", volume.mnt)
    assert size_of(volume) == 3 * GIB + 4 * MIB
    done("map", volume.mnt)
    assert (volume.mnt / "f").read_text() == "some words"
    volume.kill()
    volume.fsck()
    volume.mount()
    maker.watch()
    assert size_of(volume) == 3 * GIB + 4 * MIB
    assert (volume.mnt / "f").read_text() == "some words"


@claim("if there is no space to gain grow says so, and succeeds", alone=True)
def _(maker):
    volume = maker.volume(size="16M")
    assert "there is no more space to use" in done("grow", volume.mnt)
    os.truncate(volume.region, 17 * MIB)  # less than a chunk
    assert "there is no more space to use" in done("grow", volume.mnt)
    assert "there is no more space to use" in done("grow", "--size", "16M", volume.mnt)
    assert size_of(volume) == 16 * MIB


@claim("grow refuses to shrink, to exceed the medium, and users other than root", alone=True)
def _(maker):
    volume = maker.volume(size="16M")
    os.truncate(volume.region, 20 * MIB)
    refused(ctl("grow", "--size", "8M", volume.mnt), "shrink", "16 MiB", "8 MiB")
    refused(ctl("grow", "--size", "1G", volume.mnt), "medium", "20 MiB")
    as_user(lambda: refused(ctl("grow", volume.mnt), "root"))
    as_user(lambda: refused(ctl("tune", "--reserve", "5", volume.mnt), "root"))
    refused(ctl("grow", volume.region), "not on a mounted pmfs volume")
    assert ctl("grow", "--size", "much", volume.mnt).returncode == 2
    assert size_of(volume) == 16 * MIB
    assert volume.unmount() == 0
    volume.mount("ro")
    maker.watch()
    refused(ctl("grow", volume.mnt), "read-only")
    refused(ctl("tune", "--reserve", "5", volume.mnt), "read-only")


@claim("grow refuses a volume whose superblock is damaged", alone=True)
def _(maker):
    volume = maker.volume(size="16M")
    assert volume.unmount() == 0
    os.truncate(volume.region, 20 * MIB)
    with open(volume.region, "r+b") as region:
        region.seek(1000)
        region.write(b"x")
    volume.mount()
    maker.watch()
    refused(ctl("grow", volume.mnt), "damaged", "fsck.pmfs")
    assert size_of(volume) == 16 * MIB


@claim("tune --reserve changes what users other than root may fill, at once and permanently", alone=True)
def _(maker):
    volume = maker.volume(size="64M")
    assert done("tune", volume.mnt) == f"{volume.mnt}: reserved for root: 1 % of the volume\n"
    _, free = df(volume)
    assert "25.5 %" in done("tune", "--reserve", "25.5", volume.mnt)
    assert free - df(volume)[1] >= 15 * MIB, (free, df(volume))
    assert ctl("tune", "--reserve", "51", volume.mnt).returncode == 2
    assert ctl("tune", "--reserve", "some", volume.mnt).returncode == 2
    assert volume.unmount() == 0
    volume.fsck()
    volume.mount()
    maker.watch()
    assert json.loads(done("tune", "--json", volume.mnt)) == {"reserve_percent": 25.5}
    done("tune", "--reserve", "0", volume.mnt)
    assert df(volume)[1] > free


if __name__ == "__main__":
    run_claims()
