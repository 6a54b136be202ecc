#!/usr/bin/env python3
"""A holder is more than a process number: holders whose first thread has ended, that call exec, live in another
namespace or share their memory; rows that end with the last mapping; and root, which can end any grant."""
import contextlib
import ctypes
import errno
import json
import os
import signal
import threading
import time

from holding import Child, check, fill, kinds, quarantine, status, until
from libpmfs import (BREAKABLE, BREAKABLE_MAP, ENDED, PINNED_MAP, READ, Lease, Map, ctl, grant, holders, make_file,
                     open_direct, pin, seal, seal_of, unseal)
from fixture import as_user, claim, fails, run_claims

MIB = 1 << 20
IN_ANOTHER_PID_NAMESPACE = ("unshare", "--pid", "--fork", "--kill-child=KILL")
SYS_EXIT = 60 if os.uname().machine == "x86_64" else 93
_libc = ctypes.CDLL(None, use_errno=True)


class Process:
    """A process that runs `act` until it is killed; `act` gets a function that says it is ready."""

    def __init__(self, act):
        said, say = os.pipe()
        self.pid = os.fork()
        if self.pid == 0:
            with contextlib.suppress(BaseException):
                signal.alarm(120)
                os.close(said)
                act(lambda: os.write(say, b"+"))
            os._exit(1)
        os.close(say)
        word = os.read(said, 1)
        os.close(said)
        if word != b"+":
            self.reap()
            raise AssertionError("the process did not get ready")

    def reap(self):
        if self.pid:
            os.waitpid(self.pid, 0)
            self.pid = 0

    def kill(self):
        if self.pid:
            os.kill(self.pid, signal.SIGKILL)
            self.reap()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.kill()


def map_file(path, flags=0, prot=None):
    fd = open_direct(path)
    m = Map(fd, flags=flags) if prot is None else Map(fd, flags=flags, prot=prot)
    os.close(fd)
    return m


def store_for_ever(m):
    while True:
        m.store(0, b"\xee" * m.length)
        time.sleep(0.01)


def without_first_thread(path):
    """The first thread ends; another one maps the file and stores."""

    def act(ready):
        def work():
            m = map_file(path)
            threading.Timer(0.3, ready).start()
            store_for_ever(m)

        threading.Thread(target=work).start()
        _libc.syscall(SYS_EXIT, 0)

    return act


def mapping(path):
    def act(ready):
        m = map_file(path)
        ready()
        store_for_ever(m)

    return act


def stays_held(volume, path, process):
    """Blocks that the file gives up are not reused while the process stores, and become free when it is gone."""
    assert len(quarantine(volume.mnt)["holders"]) == 1
    os.truncate(path, 0)
    until(lambda: status(volume.mnt)["quarantined"] == 8 * MIB)
    made = fill(volume.mnt)
    time.sleep(0.2)
    check(made)
    process.kill()
    until(lambda: status(volume.mnt)["quarantines"] == 0)
    check(made)
    assert volume.unmount() == 0
    volume.fsck()


@claim("a holder whose first thread has ended keeps its blocks when its server dies", alone=True, seconds=120)
def _(maker):
    volume = maker.volume(size="64M")
    path = volume.mnt / "held"
    make_file(path, 8 * MIB)
    with Process(without_first_thread(path)) as process:
        assert "\nState:\tZ" in open(f"/proc/{process.pid}/status").read()
        volume.kill()
        volume.mount()
        maker.watch()
        stays_held(volume, path, process)


@claim("a holder whose first thread has ended keeps its blocks when its grant is revoked", alone=True, seconds=120)
def _(maker):
    volume = maker.volume(size="64M")
    path = volume.mnt / "held"
    make_file(path, 8 * MIB)
    with Process(without_first_thread(path)) as process:
        ctl("revoke", "--all", path)
        stays_held(volume, path, process)


@claim("a holder keeps its blocks when the next server lives in another PID namespace", alone=True, seconds=120)
def _(maker):
    volume = maker.volume(size="64M")
    path = volume.mnt / "held"
    make_file(path, 8 * MIB)
    with Process(mapping(path)) as process:
        volume.kill()
        volume.mount(inside=IN_ANOTHER_PID_NAMESPACE)
        maker.watch()
        row = quarantine(volume.mnt)["holders"][0]
        assert (row["alive"], row["mapped"], row["reason"]) == (False, True, "server_died"), row
        stays_held(volume, path, process)


@claim("holders outside of the server's PID namespace leave no row behind: exit, exec, kill, unmap", alone=True,
       seconds=120)
def _(maker):
    volume = maker.volume(size="64M")
    assert volume.unmount() == 0
    volume.mount(inside=IN_ANOTHER_PID_NAMESPACE)
    maker.watch()
    path = volume.mnt / "f"
    make_file(path, MIB)

    def in_good_order(ready):
        map_file(path).unmap()
        ready()
        os._exit(0)

    def by_exit(ready):
        map_file(path)
        ready()
        os._exit(0)

    for act in (in_good_order, by_exit):
        with Process(act) as process:
            process.reap()
            until(lambda: kinds(path) == [] and status(volume.mnt)["quarantines"] == 0)
    with Process(mapping(path)) as process:
        assert kinds(path) == ["temporary"]
        process.kill()
        until(lambda: kinds(path) == [] and status(volume.mnt)["quarantines"] == 0)
    with exec_after_mapping(path):
        until(lambda: kinds(path) == [] and status(volume.mnt)["quarantines"] == 0)
    assert volume.unmount() == 0
    volume.fsck()


def exec_after_mapping(path):
    def act(ready):
        map_file(path)
        ready()
        os.execvp("sleep", ["sleep", "100"])

    return Process(act)


@claim("a holder that calls exec loses its mapping, and leaves no row", alone=True)
def _(maker):
    volume = maker.volume()
    path = volume.mnt / "f"
    make_file(path, MIB)
    with exec_after_mapping(path):
        until(lambda: kinds(path) == [] and status(volume.mnt)["quarantines"] == 0)
        os.truncate(path, 0)
        assert status(volume.mnt)["quarantined"] == 0


@claim("a daemon that unmaps and maps again after its server came back loses the old row then, not at its end",
       alone=True)
def _(maker):
    volume = maker.volume()
    path = volume.mnt / "f"
    make_file(path, MIB)
    old = map_file(path)
    volume.kill()
    assert old.wait().kind == ENDED
    volume.mount()
    maker.watch()
    assert [row["pid"] for row in quarantine(volume.mnt)["holders"]] == [os.getpid()]
    assert kinds(path) == ["quarantined"]
    old.unmap()
    new = map_file(path)
    until(lambda: quarantine(volume.mnt) == {"held": 0, "holders": []})
    assert kinds(path) == ["temporary"]
    new.unmap()
    # And while there is no server.
    old = map_file(path)
    volume.kill()
    old.unmap()
    volume.mount()
    maker.watch()
    assert quarantine(volume.mnt) == {"held": 0, "holders": []}


@claim("after a crash UNSEAL is EBUSY while a mapping lives, with a sentence that says how root ends it", alone=True)
def _(maker):
    volume = maker.volume()
    path = volume.mnt / "f"
    make_file(path, MIB)
    fd = open_direct(path)
    seal(fd)
    os.close(fd)
    with Child(lambda: map_file(path)) as holder:
        volume.kill()
        volume.mount()
        maker.watch()
        assert seal_of(path) == "full"
        assert kinds(path) == ["quarantined"]
        row = next(h for h in holders(path) if h["kind"] == "quarantined")
        assert (row["pid"], row["stores"], row["maps"], row["offset"], row["length"]) == (
            holder.pid, True, True, 0, MIB), row
        refused = ctl("unseal", path, ok=False)
        assert refused.returncode == 1, refused
        release = f"pmfsctl quarantine --release {row['quarantine']} {path}"
        assert f"quarantined mapping of process {holder.pid}" in refused.stderr, refused.stderr
        assert release in refused.stderr, refused.stderr
        fd = open_direct(path)
        with fails(errno.EBUSY):
            unseal(fd)
        os.close(fd)
        ctl(*release.split()[1:])
        ctl("unseal", path)
        ctl("seal", path)
        # What comes to be mapped by the new server is its own.
        second = map_file(path)
        assert kinds(path) == ["temporary"]
        second.unmap()
        holder.end()
    ctl("unseal", path)


@claim("UNSEAL is allowed again when the mapping that outlived the server is gone", alone=True)
def _(maker):
    volume = maker.volume()
    for name in "ab":
        make_file(volume.mnt / name, MIB)
    path = volume.mnt / "a"
    ctl("seal", path), ctl("seal", volume.mnt / "b")
    with Child(lambda: map_file(path, prot=READ)) as holder:
        volume.kill()
        volume.mount()
        maker.watch()
        ctl("unseal", volume.mnt / "b")  # that one is not mapped
        assert ctl("unseal", path, ok=False).returncode == 1
        holder.kill()
    ctl("unseal", "--wait=10", path)
    assert seal_of(path) == "none"


@claim("root ends any grant of any holder: its event says so, the map may change, and its blocks are held",
       alone=True, seconds=120)
def _(maker):
    volume = maker.volume(size="64M")
    path = volume.mnt / "f"
    for flags, kind in ((0, "temporary"), (BREAKABLE_MAP, "breakable"), (PINNED_MAP, "pin")):
        make_file(path, 8 * MIB)
        m = map_file(path, flags)
        # Another process asks: this one would be told that it holds the file itself.
        assert kinds(path) == [kind]
        assert ctl("revoke", "--all", path).stdout == "1 grant ended\n"
        assert m.wait().kind == ENDED
        assert kinds(path) == ["quarantined"]
        os.truncate(path, 0)
        found = quarantine(volume.mnt)
        assert [(row["pid"], row["reason"], row["mapped"]) for row in found["holders"]] == [
            (os.getpid(), "revoked_by_root", True)], found
        assert found["held"] == 8 * MIB
        made = fill(volume.mnt)
        m.store(0, b"\xdd" * m.length)
        check(made)
        m.unmap()
        until(lambda: quarantine(volume.mnt) == {"held": 0, "holders": []})
        for name, _ in made:
            os.unlink(name)
        os.unlink(path)
    assert volume.unmount() == 0
    volume.fsck()


@claim("grants that map nothing are revoked too, by their number, by their process, or all", alone=True)
def _(maker):
    volume = maker.volume()
    path = volume.mnt / "f"
    make_file(path, MIB)

    def hold():
        fd = open_direct(path)
        grant(fd), pin(fd, 0, 4096), pin(fd, 4096, 4096)
        return fd

    with Child(hold) as first, Child(hold) as second:
        assert kinds(path) == ["pin"] * 4 + ["temporary"] * 2
        one = next(h for h in holders(path) if h["kind"] == "temporary" and h["pid"] == first.pid)
        assert ctl("revoke", "--grant", one["grant"], path).stdout == "1 grant ended\n"
        assert ctl("revoke", "--grant", one["grant"], path, ok=False).returncode == 1
        assert json.loads(ctl("revoke", "--json", "--pid", second.pid, path).stdout) == {"ended": 3}
        assert kinds(path) == ["pin"] * 2
        with fails(errno.ETXTBSY):
            os.truncate(path, 0)
        ctl("revoke", "--all", path)
        assert kinds(path) == []
        refused = ctl("revoke", "--all", path, ok=False)
        assert refused.returncode == 1 and "there is no such grant" in refused.stderr, refused
        os.truncate(path, 0)
    make_file(path, MIB)
    fd = open_direct(path)
    with Lease(fd) as lease:
        ctl("revoke", "--all", path)
        assert lease.wait().kind == ENDED
    os.close(fd)
    assert quarantine(volume.mnt)["holders"] == []


@claim("only root revokes, and says which; a file without a name is named by its inode", alone=True)
def _(maker):
    volume = maker.volume()
    volume.mnt.chmod(0o755), volume.directory.chmod(0o755)
    path = volume.mnt / "f"
    make_file(path, MIB)
    path.chmod(0o666)
    fd = open_direct(path)
    grant(fd, BREAKABLE)

    def user():
        refused = ctl("revoke", "--all", path, ok=False)
        assert refused.returncode == 1 and "only root" in refused.stderr, refused

    as_user(user)
    assert kinds(path) == ["breakable"]
    assert ctl("revoke", path, ok=False).returncode == 2
    assert ctl("revoke", "--all", "--pid", 1, path, ok=False).returncode == 2
    inode = os.fstat(fd).st_ino
    os.unlink(path)
    ctl("revoke", "--all", "--inode", inode, volume.mnt)
    os.close(fd)


@claim("a child that is forked in the middle of pmfs_map does not have the device", alone=True)
def _(maker):
    volume = maker.volume()
    path = volume.mnt / "f"
    make_file(path, MIB)
    fd = open_direct(path)
    stop = threading.Event()

    def map_and_unmap():
        while not stop.is_set():
            Map(fd).unmap()

    mapper = threading.Thread(target=map_and_unmap)
    mapper.start()
    device = os.fsencode(volume.region)
    try:
        have_it = 0
        for _ in range(400):
            pid = os.fork()
            if pid == 0:
                with open("/proc/self/maps", "rb") as maps:
                    os._exit(any(device in line for line in maps))
            have_it += os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
        assert have_it == 0, f"{have_it} of 400 children have the device mapped"
    finally:
        stop.set()
        mapper.join()
    os.close(fd)


if __name__ == "__main__":
    run_claims()
