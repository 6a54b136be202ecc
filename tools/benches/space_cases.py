"""Volumes that get full: what must fit, what statfs says of it, and what must work on a full one.

rows(context, volume): volume(size) is a context manager that gives a mounted volume.
"""
import os
import subprocess

import ageing
import fixture
import filling

MIB = 1 << 20
SMALL_FILES, SMALL_SIZE = 260, 300 * 1000
DIRECTORIES = 100_000
NAMES_FULL = 3_000


def rows(context, volume):
    pmfsctl = context.program("pmfsctl")
    yield from after_small_files(volume, pmfsctl)
    yield from emptied(volume)
    yield from told(volume)
    yield from seventy_five(volume)
    yield from full(volume)


def percent(part, whole):
    return 100 * part / whole if whole else 0.0


def largest_prepared(volume, pmfsctl, most):
    """The largest of most, most / 2, ... bytes that can be prepared as one file; 0: none."""
    size = most
    path = volume.mnt / "prepared"
    while size >= ageing.CHUNK:
        with open(path, "wb") as file:
            file.truncate(size)
        done = subprocess.run([pmfsctl, "prepare", str(path)], check=False, capture_output=True)
        whole = ageing.whole_bytes(ageing.pmfs_extents(pmfsctl)(str(path))) if done.returncode == 0 else 0
        path.unlink()
        if whole == size:
            return size
        filling.settle(volume.mnt)
        size //= 2
    return 0


def after_small_files(volume, pmfsctl):
    """512 MiB with 260 files of 300 KB, 15 % full."""
    with volume("512M") as here:
        filling.make_sized(here.mnt / "small", SMALL_FILES, SMALL_SIZE)
        told_blocks = os.statvfs(here.mnt)
        yield {"name": "space.small_prepare", "unit": "MiB",
               "value": largest_prepared(here, pmfsctl, 256 * MIB) / MIB}
        filling.settle(here.mnt)
        yield {"name": "space.small_mkdirs", "unit": "dirs",
               "value": filling.make_directories(here.mnt / "directories", DIRECTORIES)}
    with volume("512M") as here:
        filling.make_sized(here.mnt / "small", SMALL_FILES, SMALL_SIZE)
        yield off("space.small_told_data", told_blocks.f_bfree * told_blocks.f_frsize,
                  filling.write_until_full(here.mnt / "data"))


def emptied(volume):
    """64 MiB full of empty files, all deleted: how much data can be stored, beside a fresh volume."""
    with volume("64M") as here:
        fresh = filling.write_until_full(here.mnt / "data")
    with volume("64M") as here:
        filling.make_files(here.mnt / "empty")
        filling.remove_names(here.mnt / "empty")
        filling.settle(here.mnt)
        data = filling.write_until_full(here.mnt / "data")
    yield {"name": "space.emptied", "value": data / MIB, "unit": "MiB", "peer": fresh / MIB,
           "ratio": data / fresh}


def off(name, said, had):
    """By how many per cent what statfs said is beside what could be had."""
    return {"name": name, "value": percent(abs(said - had), max(had, 1)), "unit": "% off"}


def told(volume):
    """What statfs says of a fresh volume of 64 MiB: for root, for others, and in inodes."""
    with volume("64M") as here:
        space = os.statvfs(here.mnt)
        yield off("space.told_data", space.f_bfree * space.f_frsize, filling.write_until_full(here.mnt / "data"))
    with volume("64M") as here:
        (here.mnt / "users").mkdir()
        (here.mnt / "users").chmod(0o777)
        space = os.statvfs(here.mnt)
        path = here.mnt / "users" / "data"
        fixture.as_user(lambda: filling.write_until_full(path), 65534, 65534)
        yield off("space.told_data_user", space.f_bavail * space.f_frsize, path.stat().st_size)
    with volume("64M") as here:
        (here.mnt / "empty").mkdir()
        space = os.statvfs(here.mnt)
        yield off("space.told_inodes", space.f_ffree, filling.make_files(here.mnt / "empty"))


def empty_files(here, most):
    """How many empty files can be made, at most that many; they are removed again."""
    made = filling.make_files(here.mnt / "empty", most)
    filling.remove_names(here.mnt / "empty")
    return made


def seventy_five(volume):
    """2 GiB filled to 75 % with mixed sizes, then 100,000 empty files."""
    with volume("2G") as here:
        (here.mnt / "mixed").mkdir()
        ageing.Ageing(here.mnt / "mixed", 99, None).fill()
        yield {"name": "space.empty_files_75", "unit": "files", "value": empty_files(here, 100_000)}


def full(volume):
    """What must work on a full volume: full of data, and with its inodes used up."""
    for kind in ("data", "inodes"):
        with volume("128M") as here:
            filling.make_files(here.mnt / "names", NAMES_FULL)
            allocated = here.mnt / "allocated"
            with open(allocated, "wb") as file:
                os.posix_fallocate(file.fileno(), 0, 32 * MIB)
            # Full of data is full of metadata as well: what is left takes names until it takes none.
            if kind == "data":
                filling.write_until_full(here.mnt / "data")
            filling.make_files(here.mnt / "empty")
            yield {"name": f"space.full_{kind}_rename", "unit": "%",
                   "value": percent(*filling.rename_longer(here.mnt / "names"))}
            yield {"name": f"space.full_{kind}_allocated", "unit": "%",
                   "value": percent(*filling.write_allocated(allocated))}
            yield {"name": f"space.full_{kind}_truncate", "unit": "%", "value": truncated(allocated)}
            count = len(os.listdir(here.mnt / "names"))
            yield {"name": f"space.full_{kind}_unlink", "unit": "%",
                   "value": percent(count - filling.remove_names(here.mnt / "names"), count)}


def truncated(path, steps=64):
    """Cuts a file shorter in odd steps; the per cent of the calls that worked."""
    size, worked = path.stat().st_size, 0
    for step in range(1, steps + 1):
        with filling.until_full():
            os.truncate(path, size - step * (size // (steps + 1)) - step % 3)
            worked += 1
    return percent(worked, steps)
