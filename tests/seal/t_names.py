#!/usr/bin/env python3
"""What happens to a held file's name, owner and mount: unlink, rename over, chown, remount, umount.

Each with every kind of holder: a temporary grant, a breakable lease and a range pin, with a mapping.
"""
import json
import os

from holding import kinds, until
from libpmfs import BREAKABLE_MAP, PINNED_MAP, READ, WRITE, Map, ctl, make_file, open_direct, pattern
from fixture import claim, run, run_claims

MIB = 1 << 20
KINDS = {"temporary": 0, "breakable": BREAKABLE_MAP, "pin": PINNED_MAP}


def free(path):
    return json.loads(ctl("status", "--json", path).stdout)["bytes_available"]


def hold(path, flags, prot=WRITE):
    """A mapping, and no other descriptor of the file."""
    fd = open_direct(path, os.O_RDWR if prot == WRITE else os.O_RDONLY)
    try:
        return Map(fd, prot=prot, flags=flags)
    finally:
        os.close(fd)


@claim("unlink and rename over it remove the name; the blocks stay until the holder gives them up", alone=True)
def _(maker):
    volume = maker.volume()
    here = volume.mnt
    for kind, flags in KINDS.items():
        for way in ("unlink", "rename"):
            before = free(here)
            data = make_file(here / "f", 8 * MIB)
            m = hold(here / "f", flags)
            if way == "unlink":
                os.unlink(here / "f")
            else:
                (here / "other").write_bytes(b"other")
                os.rename(here / "other", here / "f")
                assert (here / "f").read_bytes() == b"other"
            assert m.event() is None, f"{kind}: {way} is no break"
            (here / "filler").write_bytes(pattern(32 * MIB, 9))
            assert m.load(0, m.length) == data, (kind, way)
            m.store(0, b"still here")
            os.unlink(here / "filler")
            assert free(here) <= before - 8 * MIB, (kind, way)
            m.unmap()
            if way == "rename":
                assert (here / "f").read_bytes() == b"other"
                os.unlink(here / "f")
            until(lambda: free(here) >= before - MIB)
    assert volume.unmount() == 0
    volume.fsck()


@claim("chmod, chown, times, xattrs, link and rename work as usual under each kind")
def _(here):
    for kind, flags in KINDS.items():
        make_file(here / kind, MIB)
        with hold(here / kind, flags) as m:
            os.chown(here / kind, 1000, 1000)
            os.chmod(here / kind, 0o600)
            os.utime(here / kind, (1, 1))
            os.setxattr(here / kind, "user.note", b"held")
            os.link(here / kind, here / "link")
            os.rename(here / kind, here / "elsewhere")
            assert kinds(here / "elsewhere") == [kind] and m.event() is None
            status = os.stat(here / "elsewhere")
            assert (status.st_uid, status.st_nlink) == (1000, 2)
            m.store(0, b"x")
        os.unlink(here / "link"), os.unlink(here / "elsewhere")


@claim("remounting read-only is refused while a process may store, and does not affect readers", alone=True)
def _(maker):
    volume = maker.volume()
    path = volume.mnt / "f"
    data = make_file(path, MIB)
    for kind, flags in KINDS.items():
        with hold(path, flags):
            done = run("mount", "-i", "-o", "remount,ro", volume.mnt, ok=False)
            assert done.returncode != 0 and "busy" in done.stderr, (kind, done)
        with hold(path, flags, READ) as m:
            run("mount", "-i", "-o", "remount,ro", volume.mnt)
            assert kinds(path) == [kind] and m.load(0, MIB) == data and m.event() is None
            run("mount", "-i", "-o", "remount,rw", volume.mnt)


@claim("umount is busy while a grant is held; after umount -l the holder keeps it until it gives it back",
       alone=True)
def _(maker):
    volume = maker.volume()
    data = make_file(volume.mnt / "f", MIB)
    for kind, flags in KINDS.items():
        m = hold(volume.mnt / "f", flags)
        done = run("umount", volume.mnt, ok=False)
        assert done.returncode != 0 and "busy" in done.stderr, (kind, done)
        run("umount", "-l", volume.mnt)
        assert not (volume.mnt / "f").exists() and volume.server.poll() is None
        assert m.load(0, MIB) == data and m.event() is None, kind
        m.store(0, data[:4096])
        m.unmap()
        assert volume.server.wait(20) == 0  # the last one has gone
        volume.fsck()
        volume.mount()
        maker.watch()
        assert (volume.mnt / "f").read_bytes() == data


if __name__ == "__main__":
    run_claims(media=("memory",))
