#!/usr/bin/env python3
"""A full volume: ENOSPC with nothing half done, and deleting always works."""
import errno
import mmap
import os
import random
import time

from fixture import claim, fails, run_claims


def fill_up(path, piece):
    """Writes until ENOSPC; gives the file's size, which is what was written."""
    fd = os.open(path, os.O_CREAT | os.O_WRONLY)
    written = 0
    try:
        while True:
            written += os.pwrite(fd, b"x" * piece, written)
    except OSError as error:
        assert error.errno == errno.ENOSPC, error
    size = os.fstat(fd).st_size
    os.close(fd)
    assert size == written
    return size


def wait_for_room(mnt, blocks):
    for _ in range(10_000):
        if os.statvfs(mnt).f_bavail >= blocks:
            return
        time.sleep(0.001)
    raise AssertionError(f"{os.statvfs(mnt).f_bavail} blocks are free, not {blocks}")


@claim("a write that does not fit is ENOSPC, and the file holds what was written before", alone=True)
def _(maker):
    volume = maker.volume(size="16M")
    free = os.statvfs(volume.mnt).f_bavail
    size = fill_up(volume.mnt / "big", 1 << 20)
    fill_up(volume.mnt / "small", 4096)
    assert os.statvfs(volume.mnt).f_bavail < 64
    assert (volume.mnt / "big").read_bytes() == b"x" * size
    os.unlink(volume.mnt / "big")
    os.unlink(volume.mnt / "small")
    wait_for_room(volume.mnt, free - 16)
    assert volume.unmount() == 0
    volume.fsck()


@claim("on a volume full of names nothing is half made, and all of them can be removed", alone=True,
       seconds=180)
def _(maker):
    volume = maker.volume(size="8M")
    free = os.statvfs(volume.mnt).f_bavail
    fill_up(volume.mnt / "data", 4096)
    made = []
    source = random.Random(3)
    try:
        while True:
            name = volume.mnt / ("n" * source.randrange(1, 200) + str(len(made)))
            if len(made) % 3 == 0:
                os.mkdir(name)
            elif len(made) % 3 == 1:
                os.symlink("t" * source.randrange(1, 4096), name)
            else:
                os.close(os.open(name, os.O_CREAT | os.O_EXCL | os.O_WRONLY))
                os.setxattr(name, "user.x", b"v" * source.randrange(2000))
            made.append(name)
    except OSError as error:
        assert error.errno == errno.ENOSPC, error
        last = name
    found = set(os.listdir(volume.mnt)) - {"data"}
    assert found - {last.name} == {name.name for name in made}
    with fails(errno.ENOSPC):
        for number in range(100000):
            os.link(volume.mnt / "data", volume.mnt / f"link{number}")
    for name in os.listdir(volume.mnt):
        path = volume.mnt / name
        os.rmdir(path) if path.is_dir() and not path.is_symlink() else os.unlink(path)
    assert os.listdir(volume.mnt) == []
    wait_for_room(volume.mnt, free - 64)
    assert volume.unmount() == 0
    volume.fsck()


@claim("overwriting, truncating and renaming work on a full volume", alone=True)
def _(maker):
    volume = maker.volume(size="8M")
    size = fill_up(volume.mnt / "data", 65536)
    fill_up(volume.mnt / "rest", 4096)
    with open(volume.mnt / "data", "r+b", buffering=0) as file:
        file.write(b"overwritten")
    os.rename(volume.mnt / "rest", volume.mnt / "data2")
    os.chmod(volume.mnt / "data2", 0o600)
    os.truncate(volume.mnt / "data", size // 2)
    (volume.mnt / "new").write_bytes(b"y" * 100000)
    assert (volume.mnt / "data").read_bytes()[:12] == b"overwrittenx"
    assert volume.unmount() == 0
    volume.fsck()


@claim("fallocate that does not fit is ENOSPC and takes nothing", alone=True)
def _(maker):
    volume = maker.volume(size="16M")
    free = os.statvfs(volume.mnt).f_bavail
    fd = os.open(volume.mnt / "f", os.O_CREAT | os.O_WRONLY)
    with fails(errno.ENOSPC):
        os.posix_fallocate(fd, 0, 64 << 20)
    assert os.fstat(fd).st_size == 0
    os.close(fd)
    os.unlink(volume.mnt / "f")
    wait_for_room(volume.mnt, free - 8)
    assert volume.unmount() == 0
    volume.fsck()


@claim("a store through a mapping for which there is no space is reported by msync, once", alone=True)
def _(maker):
    volume = maker.volume(size="8M")
    fd = os.open(volume.mnt / "sparse", os.O_CREAT | os.O_RDWR)
    os.ftruncate(fd, 1 << 20)
    fill_up(volume.mnt / "data", 65536)
    fill_up(volume.mnt / "rest", 4096)
    with mmap.mmap(fd, 1 << 20) as mapping:
        for page in range(256):
            mapping[page * 4096] = 1
        with fails(errno.ENOSPC, errno.EIO):
            mapping.flush()
    os.close(fd)
    os.unlink(volume.mnt / "data")
    wait_for_room(volume.mnt, 500)
    (volume.mnt / "sparse").write_bytes(b"y" * (1 << 20))
    assert (volume.mnt / "sparse").read_bytes() == b"y" * (1 << 20)
    assert volume.unmount() == 0
    volume.fsck()


@claim("a server that dies on a full volume comes back, and can delete", alone=True)
def _(maker):
    volume = maker.volume(size="8M")
    fill_up(volume.mnt / "a", 65536)
    fill_up(volume.mnt / "b", 4096)
    volume.kill()
    volume.mount()
    maker.watch()
    with fails(errno.ENOSPC):
        (volume.mnt / "c").write_bytes(b"z" * (4 << 20))
    os.unlink(volume.mnt / "a")
    wait_for_room(volume.mnt, 100)
    (volume.mnt / "d").write_bytes(b"d" * 100000)
    assert (volume.mnt / "d").read_bytes() == b"d" * 100000
    assert volume.unmount() == 0
    volume.fsck()


@claim("creating and removing five thousand files again and again loses no space", alone=True, seconds=240)
def _(maker):
    volume = maker.volume(size="64M")
    free = []
    for _ in range(4):
        for number in range(1250):
            with open(volume.mnt / f"f{number}", "wb", buffering=0) as file:
                file.write(b"x" * (number % 9 * 1000))
        for number in range(1250):
            os.unlink(volume.mnt / f"f{number}")
        time.sleep(0.2)
        free.append(os.statvfs(volume.mnt).f_bfree)
    assert free[-1] >= free[0] - 8, free
    assert volume.unmount() == 0
    volume.fsck()


@claim("statvfs counts what a large file gives back as soon as it is unlinked", alone=True)
def _(maker):
    here = maker.volume(size="64M").mnt
    for round_ in range(40):
        free = os.statvfs(here).f_bavail
        with open(here / "large", "wb", buffering=0) as file:
            os.posix_fallocate(file.fileno(), 0, (free - 100) * 4096)
            assert os.statvfs(here).f_bavail < 200
            if round_ % 2:  # open, it stays
                os.unlink(here / "large")
                assert os.statvfs(here).f_bavail < 200
        if round_ % 2 == 0:
            os.unlink(here / "large")
        else:
            wait_for_room(here, free - 200)  # close(2) does not wait for the server
        left = os.statvfs(here)
        assert left.f_bavail > free - 200 and left.f_bavail <= left.f_bfree, (round_, left, free)


@claim("what statvfs says an unlinked file gives back can be had at once", alone=True)
def _(maker):
    here = maker.volume(size="64M").mnt
    free = os.statvfs(here).f_bavail
    for _ in range(200):
        with open(here / "large", "wb", buffering=0) as file:
            os.posix_fallocate(file.fileno(), 0, (free - 100) * 4096)
        os.unlink(here / "large")
        wait_for_room(here, free - 50)  # the server has heard of the close


if __name__ == "__main__":
    run_claims()
