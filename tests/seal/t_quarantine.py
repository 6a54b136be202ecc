#!/usr/bin/env python3
"""Quarantine: a holder that outlives its server goes on storing, and never hits another's block."""
# Holds docs/seal.md "Quarantine", "Ending grants of others" and docs/security.md "What a holder that lost its grant
# can do".
import json
import os
import signal

from holding import Child, check, fill, quarantine, status, until
from libpmfs import (BREAKABLE_MAP, ENDED, PINNED_MAP, READ, Map, ctl, make_file, open_direct, pattern)
from fixture import as_user, claim, program, run, run_claims

MIB = 1 << 20
KINDS = {"temporary": 0, "breakable": BREAKABLE_MAP, "pin": PINNED_MAP}


def storing(path, flags=0):
    """A process that stores to all of its mapping, on and on."""

    def take():
        fd = open_direct(path)
        m = Map(fd, flags=flags)
        os.close(fd)
        return m

    def store(m, numbers=iter(range(1 << 60))):
        m.store(0, bytes([0x80 | next(numbers) & 0x7f]) * m.length)

    return Child(take, store)


@claim("the server is killed, the volume mounted again, the file deleted and the volume filled: a holder "
       "that keeps storing damages no file, and its blocks become free when it is gone",
       alone=True, seconds=240)
def _(maker):
    volume = maker.volume(size="96M")
    for kind, flags in KINDS.items():
        before = status(volume.mnt)["bytes_available"]
        make_file(volume.mnt / "held", 16 * MIB)
        with storing(volume.mnt / "held", flags) as holder:
            volume.kill()
            volume.mount()
            maker.watch()
            found = quarantine(volume.mnt)
            assert [(h["pid"], h["alive"], h["stores"], h["reason"]) for h in found["holders"]] == [
                (holder.pid, True, True, "server_died")], (kind, found)
            assert found["holders"][0]["total"] == 16 * MIB
            os.unlink(volume.mnt / "held")
            until(lambda: status(volume.mnt)["quarantined"] == 16 * MIB)
            assert f"process {holder.pid}" in ctl("quarantine", volume.mnt).stdout
            assert "held back" in ctl("status", volume.mnt).stdout
            made = fill(volume.mnt)
            assert sum(size for _, size in made) > 32 * MIB
            check(made)
            check(made)
            holder.kill()
            until(lambda: status(volume.mnt)["quarantines"] == 0)
        assert status(volume.mnt)["quarantined"] == 0
        check(made)
        make_file(volume.mnt / "again", 15 * MIB, prepared=False)  # there is room for it now
        for name in os.listdir(volume.mnt):
            os.unlink(volume.mnt / name)
        until(lambda: status(volume.mnt)["bytes_available"] >= before - MIB)
    assert volume.unmount() == 0
    volume.fsck()


@claim("the file may shrink and grow under quarantine; other blocks than the holder's are used",
       alone=True, seconds=120)
def _(maker):
    volume = maker.volume(size="96M")
    path = volume.mnt / "held"
    make_file(path, 8 * MIB)
    with storing(path) as holder:
        volume.kill()
        volume.mount()
        maker.watch()
        os.truncate(path, 0)
        data = pattern(8 * MIB, 77)
        path.write_bytes(data)
        made = fill(volume.mnt)
        check(made)
        assert path.read_bytes() == data
        holder.end()
    until(lambda: status(volume.mnt)["quarantines"] == 0)
    assert path.read_bytes() == data
    assert volume.unmount() == 0
    volume.fsck()


@claim("quarantine outlives more than one crash", alone=True, seconds=120)
def _(maker):
    volume = maker.volume(size="96M")
    make_file(volume.mnt / "held", 8 * MIB)
    with storing(volume.mnt / "held") as holder:
        for unlinked in (False, True, True):
            volume.kill()
            volume.mount()
            maker.watch()
            if not unlinked:
                os.unlink(volume.mnt / "held")
            assert [h["pid"] for h in quarantine(volume.mnt)["holders"]] == [holder.pid]
            until(lambda: status(volume.mnt)["quarantined"] == 8 * MIB)
        assert volume.unmount() == 0
        volume.fsck()
        volume.mount()
        maker.watch()
        assert [h["pid"] for h in quarantine(volume.mnt)["holders"]] == [holder.pid]
        check(fill(volume.mnt))
        holder.kill(signal.SIGTERM)
        until(lambda: status(volume.mnt)["quarantines"] == 0)
    assert volume.unmount() == 0
    volume.fsck()


@claim("mkfs makes no new volume, not even with -f, while a holder of the old one may store to it", alone=True)
def _(maker):
    volume = maker.volume()
    make_file(volume.mnt / "held", MIB)
    again = (program("mkfs.pmfs"), "-q", "-f", volume.region)
    with storing(volume.mnt / "held") as holder:
        volume.kill()
        done = run(*again, ok=False)
        assert done.returncode != 0 and "still maps the volume" in done.stderr, done
        holder.kill()
    run(*again)
    volume.mount()
    maker.watch()
    assert not (volume.mnt / "held").exists()
    assert volume.unmount() == 0
    volume.fsck()


@claim("a holder that is gone when the volume is mounted again is not quarantined", alone=True)
def _(maker):
    volume = maker.volume()
    make_file(volume.mnt / "held", MIB)
    with storing(volume.mnt / "held") as holder:
        volume.kill()
        holder.kill()
    volume.mount()
    maker.watch()
    until(lambda: status(volume.mnt)["quarantines"] == 0)
    os.truncate(volume.mnt / "held", 0)
    assert volume.unmount() == 0
    volume.fsck()


@claim("root releases one, or all of them; other users cannot", alone=True)
def _(maker):
    volume = maker.volume()
    for name in "ab":
        make_file(volume.mnt / name, MIB)
    volume.mnt.chmod(0o755), volume.directory.chmod(0o755)
    with storing(volume.mnt / "a"), storing(volume.mnt / "b"):
        volume.kill()
        volume.mount()
        maker.watch()
        for name in "ab":
            os.unlink(volume.mnt / name)
        until(lambda: status(volume.mnt)["quarantined"] == 2 * MIB)
        first, second = quarantine(volume.mnt)["holders"]

        def user():
            done = ctl("quarantine", "--release", first["id"], volume.mnt, ok=False)
            assert done.returncode == 1 and "only root" in done.stderr, done

        as_user(user)
        left = json.loads(ctl("quarantine", "--json", "--release", first["id"], volume.mnt).stdout)
        assert [h["id"] for h in left["holders"]] == [second["id"]] and left["held"] == MIB
        assert ctl("quarantine", "--release", first["id"], volume.mnt, ok=False).returncode == 1
        ctl("quarantine", "--release-all", volume.mnt)
        assert quarantine(volume.mnt) == {"held": 0, "holders": []}
    assert volume.unmount() == 0
    volume.fsck()


@claim("a lease that was not given back in time: its blocks are held until the mapping ends",
       alone=True)
def _(maker):
    volume = maker.volume(options="lease_break_time=0.5")
    path = volume.mnt / "f"
    data = make_file(path, 4 * MIB)
    with Child(lambda: Map(open_direct(path), flags=BREAKABLE_MAP)) as holder:
        os.truncate(path, MIB)  # waits for half a second, and goes on
        found = quarantine(volume.mnt)
        assert [(h["pid"], h["reason"]) for h in found["holders"]] == [(holder.pid, "revoked")]
        assert found["held"] == 3 * MIB
        assert path.read_bytes() == data[:MIB]
        holder.end()  # unmaps, and says so
        until(lambda: status(volume.mnt)["quarantined"] == 0)

    fd = open_direct(path, os.O_RDONLY)
    m = Map(fd, prot=READ, flags=BREAKABLE_MAP)
    Child(lambda: os.truncate(path, 4096)).end()
    until(lambda: m.event().kind == ENDED)
    assert quarantine(volume.mnt)["held"] == MIB - 4096
    m.unmap()  # our process goes on, and the blocks come back
    until(lambda: quarantine(volume.mnt) == {"held": 0, "holders": []})
    os.close(fd)


if __name__ == "__main__":
    run_claims()
