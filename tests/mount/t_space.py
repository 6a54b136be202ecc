#!/usr/bin/env python3
"""Space: a volume is full when its space is used, not before, and what must work on a full one does."""
import errno
import os

import filling
from fixture import as_user, claim, fails, program, run, run_claims

MIB = 1 << 20
NOBODY = 65534
NAMES, ALLOCATED = 300, 4 * MIB


def near(got, wanted, percent=1.0):
    assert abs(got - wanted) <= wanted * percent / 100, f"{got}, not {wanted} within {percent} %"


def end(volume):
    assert volume.unmount() == 0, volume.log_text()
    volume.fsck()


def open_to_all(path):
    path.mkdir(exist_ok=True)
    path.chmod(0o777)
    return path


def mine_on(volume):
    """The directory `mine`, which a user may change: with names in it, and a file that is allocated."""
    mine = open_to_all(volume.mnt / "mine")
    filling.make_files(mine / "names", NAMES)
    with open(mine / "allocated", "wb") as file:
        os.posix_fallocate(file.fileno(), 0, ALLOCATED)
    for path in (mine, mine / "names", mine / "allocated", *(mine / "names").iterdir()):
        os.chown(path, NOBODY, NOBODY)
    return mine


def full_of_data(volume):
    mine = mine_on(volume)
    filling.write_until_full(volume.mnt / "data")
    filling.make_files(volume.mnt / "empty")
    return mine


def full_of_names(volume):
    """Empty files have used it up, also the inodes."""
    mine = mine_on(volume)
    filling.make_files(volume.mnt / "empty")
    return mine


FULL = {"full of data": full_of_data, "full of names": full_of_names}
WHO = {"root": lambda function: function(), "another user": lambda function: as_user(function, NOBODY, NOBODY)}


def on_full_volumes(check):
    """check(directory, who) on a volume full of data and on one full of names, as root and as another user."""
    def claims(maker):
        for make_full in FULL.values():
            for who in WHO.values():
                volume = maker.volume(size="16M")
                mine = make_full(volume)
                who(lambda place=mine: check(place))
                end(volume)
    return claims


# --- nothing says ENOSPC early


@claim("on 512 MiB with 260 files of 300 KB, 256 MiB can be prepared as one file", alone=True, seconds=120)
def _(maker):
    volume = maker.volume(size="512M", mkfs=["--sparse"])
    filling.make_sized(volume.mnt / "small", 260, 300 * 1000)
    with open(volume.mnt / "large", "wb") as file:
        file.truncate(256 * MIB)
    run(program("pmfsctl"), "seal", "--prepare", volume.mnt / "large")
    end(volume)


@claim("on 512 MiB with 260 files of 300 KB, ten thousand directories can be made", alone=True, seconds=120)
def _(maker):
    volume = maker.volume(size="512M", mkfs=["--sparse"])
    filling.make_sized(volume.mnt / "small", 260, 300 * 1000)
    assert (made := filling.make_directories(volume.mnt / "directories", 10_000)) == 10_000, made
    os.setxattr(volume.mnt / "directories", "user.x", b"v" * 1000)
    end(volume)


@claim("small files leave room for small files: a volume holds nearly its size in files of 300 KB", alone=True,
       seconds=120)
def _(maker):
    volume = maker.volume(size="64M")
    space = os.statvfs(volume.mnt)
    data, count = b"x" * 300_000, 0
    with filling.until_full():
        while True:
            (volume.mnt / f"{count:05}").write_bytes(data)
            count += 1
    near(count * 74 * filling.BLOCK, space.f_bfree * space.f_frsize, 3)
    end(volume)


# --- statfs


@claim("statfs shows how much data root and others can store, within 1 %", alone=True, seconds=120)
def _(maker):
    for who, field in (("root", "f_bfree"), ("another user", "f_bavail")):
        volume = maker.volume(size="64M")
        data = open_to_all(volume.mnt / "all") / "data"
        said = getattr(os.statvfs(volume.mnt), field) * filling.BLOCK
        WHO[who](lambda path=data: filling.write_until_full(path))
        near(data.stat().st_size, said)
        end(volume)


@claim("statfs shows how many empty files can be made, within 1 %", alone=True, seconds=180)
def _(maker):
    volume = maker.volume(size="16M", options="allow_other")
    volume.mnt.chmod(0o755)
    empty = open_to_all(volume.mnt / "empty")
    said = os.statvfs(volume.mnt).f_ffree
    as_user(lambda: near(filling.make_files(empty), said), NOBODY, NOBODY)  # without a reserve
    end(volume)


@claim("a volume that was full of empty files and is emptied stores as much data as a new one, within 1 %",
       alone=True, seconds=180)
def _(maker):
    volume = maker.volume(size="16M")
    new = filling.write_until_full(volume.mnt / "data")
    end(volume)
    volume = maker.volume(size="16M")
    filling.make_files(volume.mnt / "empty")
    assert filling.remove_names(volume.mnt / "empty") == 0
    filling.settle(volume.mnt)
    near(filling.write_until_full(volume.mnt / "data"), new)
    end(volume)


@claim("an emptied volume reports as much free space as a new one, within 1 %", alone=True, seconds=180)
def _(maker):
    volume = maker.volume(size="16M")
    new = os.statvfs(volume.mnt)
    filling.make_files(volume.mnt / "empty")
    assert filling.remove_names(volume.mnt / "empty") == 0
    filling.settle(volume.mnt)
    now = os.statvfs(volume.mnt)
    near(now.f_bfree, new.f_bfree)
    near(now.f_bavail, new.f_bavail)
    near(now.f_ffree, new.f_ffree)
    end(volume)


# --- the reserve of root


@claim("a user finds the volume full while root can still write, and df shows the difference", alone=True)
def _(maker):
    volume = maker.volume(size="64M")
    open_to_all(volume.mnt / "all")
    space = os.statvfs(volume.mnt)
    assert space.f_bfree - space.f_bavail >= space.f_blocks // 200, (space.f_bfree, space.f_bavail)
    as_user(lambda: filling.write_until_full(volume.mnt / "all" / "data"), NOBODY, NOBODY)
    space = os.statvfs(volume.mnt)
    assert space.f_bavail == 0 and space.f_bfree > 0, (space.f_bavail, space.f_bfree)
    near(filling.write_until_full(volume.mnt / "root"), space.f_bfree * filling.BLOCK, 10)
    end(volume)


@claim("the reserve of root is what mkfs.pmfs --reserve says", alone=True)
def _(maker):
    for percent in (0, 10):
        volume = maker.volume(size="64M", mkfs=["--reserve", str(percent)])
        space = os.statvfs(volume.mnt)
        kept = 100 * (space.f_bfree - space.f_bavail) / space.f_blocks
        assert abs(kept - percent) < 0.5, (percent, kept)
        end(volume)


# --- what must work on a full volume


def rename_all(mine):
    worked, count = filling.rename_longer(mine / "names")
    assert worked == count == NAMES, f"{worked} of {count} renames to longer names"


def write_all(mine):
    worked, count = filling.write_allocated(mine / "allocated")
    assert worked == count, f"{worked} of {count} writes into allocated space"


def cut(mine):
    path = mine / "allocated"
    for size in (ALLOCATED - MIB + 1, 2 * MIB - 4097, 1, 0):
        os.truncate(path, size)
        assert path.stat().st_size == size


def remove(mine):
    assert filling.remove_names(mine / "names") == 0
    os.unlink(mine / "allocated")
    assert os.listdir(mine) == []


def overwrite(mine):
    fd = os.open(mine / "allocated", os.O_WRONLY)
    os.pwrite(fd, b"first", 0)
    for number in range(100):
        os.pwrite(fd, b"again", number)
    os.close(fd)


for words, check in (("a file can be renamed to a longer name on a full volume", rename_all),
                     ("what posix_fallocate allocated can be written on a full volume", write_all),
                     ("a file can be cut shorter on a full volume", cut),
                     ("files can be removed from a full volume", remove),
                     ("a block that is written can be overwritten on a full volume", overwrite)):
    claim(f"{words}: full of data or of names, by root and by others", alone=True, seconds=180)(
        on_full_volumes(check))


@claim("what was removed from a full volume can be used again at once", alone=True, seconds=120)
def _(maker):
    volume = maker.volume(size="16M")
    mine = full_of_data(volume)
    with fails(errno.ENOSPC):
        (mine / "more").write_bytes(b"x" * MIB)
    (mine / "more").unlink(missing_ok=True)
    os.unlink(mine / "allocated")
    (mine / "again").write_bytes(b"y" * 3 * MIB)
    assert (mine / "again").read_bytes() == b"y" * 3 * MIB
    end(volume)


if __name__ == "__main__":
    run_claims()
