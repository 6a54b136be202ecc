#!/usr/bin/env python3
"""overlayfs with a volume as its lower half, as its upper half, and as both."""
# Holds docs/posix.md "Files and names".
import contextlib
import ctypes
import hashlib
import os
import stat

from fixture import c_call, claim, link_open, run, run_claims

AT_FDCWD, EXCHANGE = -100, 2
ALL_FEATURES = "index=on,redirect_dir=on,metacopy=on,xino=on"


@contextlib.contextmanager
def overlay(place, lower, upper, work, options=""):
    """A mounted overlay."""
    place.mkdir(exist_ok=True)
    words = f"lowerdir={lower},upperdir={upper},workdir={work}"
    run("mount", "-t", "overlay", "overlay", "-o", f"{words},{options}" if options else words, place)
    try:
        yield place
    finally:
        run("umount", place)


@contextlib.contextmanager
def memory(place):
    """Another filesystem, to be the other half."""
    place.mkdir()
    run("mount", "-t", "tmpfs", "none", place)
    try:
        yield place
    finally:
        run("umount", place)


def halves(directory):
    """An upper half and its work directory."""
    for name in ("upper", "work"):
        (directory / name).mkdir(exist_ok=True)
    return directory / "upper", directory / "work"


def is_whiteout(path):
    found = os.lstat(path)
    return stat.S_ISCHR(found.st_mode) and found.st_rdev == 0


def digests(directory):
    """Every file below, by its path."""
    found = {}
    for base, _, names in os.walk(directory):
        for name in names:
            path = os.path.join(base, name)
            content = os.readlink(path).encode() if os.path.islink(path) else open(path, "rb").read()
            found[os.path.relpath(path, directory)] = hashlib.sha256(content).hexdigest()
    return found


def fill_lower(lower):
    lower.mkdir(exist_ok=True)
    (lower / "file").write_bytes(b"lower" * 50_000)
    os.setxattr(lower / "file", "user.kept", b"value")
    os.link(lower / "file", lower / "linked")
    for name in ("gone", "moved", "made-anew"):
        (lower / name).mkdir()
        (lower / name / "below").write_text(name)
    os.symlink("file", lower / "symlink")


def change_all(merged, upper):
    """What makes each kind of thing in an upper half; ends with what must be seen."""
    with open(merged / "file", "ab") as file:
        file.write(b"more")
    assert (merged / "linked").read_bytes() == b"lower" * 50_000 + b"more", "index: links stay one file"
    assert os.stat(merged / "file").st_ino == os.stat(merged / "linked").st_ino
    assert os.getxattr(merged / "file", "user.kept") == b"value"
    os.unlink(merged / "symlink")
    assert is_whiteout(upper / "symlink") and not os.path.lexists(merged / "symlink")
    run("rm", "-r", merged / "gone")
    assert is_whiteout(upper / "gone")
    run("rm", "-r", merged / "made-anew")
    (merged / "made-anew").mkdir()
    assert os.listdir(merged / "made-anew") == []
    assert os.getxattr(upper / "made-anew", "trusted.overlay.opaque") == b"y"
    os.rename(merged / "moved", merged / "elsewhere")
    assert (merged / "elsewhere" / "below").read_text() == "moved" and is_whiteout(upper / "moved")
    assert os.getxattr(upper / "elsewhere", "trusted.overlay.redirect") == b"moved"
    (merged / "a").write_text("a")
    (merged / "b").write_text("b")
    c_call("renameat2", AT_FDCWD, os.fsencode(merged / "a"), AT_FDCWD, os.fsencode(merged / "b"),
           ctypes.c_uint(EXCHANGE))
    assert (merged / "a").read_text() == "b"
    fd = os.open(merged, os.O_TMPFILE | os.O_RDWR)
    os.write(fd, b"nameless")
    link_open(fd, merged / "named")
    os.close(fd)
    os.chmod(merged / "elsewhere" / "below", 0o600)
    check_all(merged)


def check_all(merged):
    assert sorted(os.listdir(merged)) == ["a", "b", "elsewhere", "file", "linked", "made-anew", "named"]
    assert (merged / "named").read_text() == "nameless" and os.listdir(merged / "made-anew") == []
    assert (merged / "linked").read_bytes() == b"lower" * 50_000 + b"more"
    assert (merged / "elsewhere" / "below").read_text() == "moved"
    assert stat.S_IMODE(os.stat(merged / "elsewhere" / "below").st_mode) == 0o600


def features_of(place):
    """The options that the kernel did not take back."""
    for line in open("/proc/self/mounts", encoding="utf-8"):
        fields = line.split()
        if fields[1] == str(place):
            return fields[3].split(",")
    raise AssertionError(f"{place} is not mounted")


def try_upper(maker, lower, volume, place):
    upper, work = halves(volume.mnt)
    with overlay(place, lower, upper, work, ALL_FEATURES) as merged:
        assert {"index=on", "redirect_dir=on", "metacopy=on"} <= set(features_of(place)), features_of(place)
        change_all(merged, upper)
    # Handles of the lower half are kept in the upper one: they hold through another server.
    volume.unmount()
    volume.mount()
    maker.watch()
    with overlay(place, lower, upper, work, ALL_FEATURES) as merged:
        check_all(merged)
        os.rename(merged / "elsewhere", merged / "moved")
        assert (merged / "moved" / "below").read_text() == "moved"
        run("rm", "-r", *merged.iterdir())
        assert os.listdir(merged) == []
    volume.unmount()
    volume.fsck()


@claim("a volume is the upper half of an overlay, with index, redirect_dir and metacopy", alone=True)
def _(maker):
    volume = maker.volume(size="64M")
    with memory(maker.directory / "tmpfs") as other:
        fill_lower(other / "lower")
        try_upper(maker, other / "lower", volume, maker.directory / "merged")


@claim("a volume is both halves of an overlay", alone=True)
def _(maker):
    volume = maker.volume(size="64M")
    fill_lower(volume.mnt / "lower")
    before = digests(volume.mnt / "lower")
    place = maker.directory / "merged"
    upper, work = halves(volume.mnt)
    with overlay(place, volume.mnt / "lower", upper, work, ALL_FEATURES) as merged:
        change_all(merged, upper)
    assert digests(volume.mnt / "lower") == before
    volume.unmount()
    volume.fsck()


@claim("a volume is the lower half of an overlay whose upper half is in memory", alone=True)
def _(maker):
    volume = maker.volume(size="64M")
    fill_lower(volume.mnt / "lower")
    os.setxattr(volume.mnt / "lower" / "file", "trusted.pmfs.seal", b"as-is")
    before = digests(volume.mnt / "lower")
    with memory(maker.directory / "tmpfs") as other:
        upper, work = halves(other)
        with overlay(maker.directory / "merged", volume.mnt / "lower", upper, work, ALL_FEATURES) as merged:
            change_all(merged, upper)
    assert digests(volume.mnt / "lower") == before


@claim("an overlay of two volumes whose upper server was killed comes back with all changes", alone=True)
def _(maker):
    volume = maker.volume(size="64M")
    with memory(maker.directory / "tmpfs") as other:
        fill_lower(other / "lower")
        upper, work = halves(volume.mnt)
        place = maker.directory / "merged"
        place.mkdir()
        run("mount", "-t", "overlay", "overlay", "-o",
            f"lowerdir={other}/lower,upperdir={upper},workdir={work},{ALL_FEATURES}", place)
        try:
            change_all(place, upper)
            os.open(place, os.O_TMPFILE | os.O_RDWR)
        finally:
            volume.kill()
            run("umount", "-l", place)
        volume.mount()
        maker.watch()
        with overlay(place, other / "lower", upper, work, ALL_FEATURES) as merged:
            check_all(merged)
    volume.unmount()
    volume.fsck()


@claim("a tree unpacked, committed to git, cloned and collected in an overlay is what it was", alone=True,
       seconds=180)
def _(maker):
    volume = maker.volume(size="256M")
    lower = volume.mnt / "lower"
    lower.mkdir()
    for number in range(300):
        directory = lower / f"d{number % 20}"
        directory.mkdir(exist_ok=True)
        (directory / f"f{number}").write_bytes(os.urandom(number * 37))
    wanted = digests(lower)
    upper, work = halves(volume.mnt)
    with overlay(maker.directory / "merged", lower, upper, work, ALL_FEATURES) as merged:
        archive = maker.directory / "tree.tar"
        run("tar", "-C", merged, "-cf", archive, ".")
        (merged / "unpacked").mkdir()
        run("tar", "-C", merged / "unpacked", "-xf", archive)
        assert digests(merged / "unpacked") == wanted
        git = ("git", "-c", "user.name=n", "-c", "user.email=n@example.org", "-c", "gc.auto=0")
        run(*git, "init", "-q", merged / "unpacked")
        run(*git, "-C", merged / "unpacked", "add", "-A")
        run(*git, "-C", merged / "unpacked", "commit", "-qm", "all")
        run(*git, "clone", "-q", "--no-local", merged / "unpacked", merged / "clone")
        run(*git, "-C", merged / "clone", "gc", "-q")
        run(*git, "-C", merged / "clone", "fsck", "--full")
        run("rm", "-rf", merged / "clone" / ".git")
        assert digests(merged / "clone") == wanted
        run("rm", "-r", merged / "d3", merged / "unpacked")
        (merged / "d4" / "f4").write_bytes(b"changed")
    assert digests(lower) == wanted
    volume.unmount()
    volume.fsck()


if __name__ == "__main__":
    run_claims()
