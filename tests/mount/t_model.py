#!/usr/bin/env python3
"""Random operations on a volume and on a plain filesystem, side by side: both must say the same.

A failure prints the seed and the number of the step; PMFS_SEED=N runs it again, PMFS_STEPS=N longer.
"""
import ctypes
import errno
import mmap
import os
import random
import stat
import tempfile
from pathlib import Path

from fixture import c_call, claim, run_claims

SEED = int(os.environ.get("PMFS_SEED", "0")) or random.SystemRandom().randrange(1, 1 << 32)
STEPS = int(os.environ.get("PMFS_STEPS", "3000"))
SIZE_MAX = 1 << 20
KEEP_SIZE, PUNCH_HOLE = 1, 2


class Twin:
    """Does each operation in two directories and compares what comes of it."""

    def __init__(self, here, there, seed):
        self.sides = (Path(here), Path(there))
        self.source = random.Random(seed)
        self.open_files = []  # [(fd here, fd there)]

    def both(self, act):
        """Runs act(side number) on each side; the results or the errno values must be equal."""
        results = []
        for number in (0, 1):
            try:
                results.append(("value", act(number)))
            except OSError as error:
                results.append(("errno", errno.errorcode[error.errno]))
        assert results[0] == results[1], f"here {str(results[0])[:300]}, there {str(results[1])[:300]}"
        return results[0]

    def name(self):
        """A path that may or may not be there: few names, so that operations meet."""
        depth = self.source.choice((1, 1, 1, 2, 2, 3))
        return "/".join(self.source.choice("abcdef") for _ in range(depth))

    def path(self, number, name):
        return self.sides[number] / name

    def step(self):
        act = self.source.choice(self.ACTIONS)
        getattr(self, act)()
        return act

    # --- names

    def do_create(self):
        name, flags = self.name(), self.source.choice((0, os.O_EXCL, os.O_TRUNC))
        mode = self.source.choice((0o644, 0o600, 0o755))
        fds = []

        def act(number):
            fds.append(os.open(self.path(number, name), os.O_CREAT | os.O_RDWR | flags, mode))
        if self.both(act)[0] == "value":
            self.open_files.append(tuple(fds))
            if len(self.open_files) > 12:
                self.close(self.source.randrange(len(self.open_files)))

    def close(self, index):
        for fd in self.open_files.pop(index):
            os.close(fd)

    def do_mkdir(self):
        name = self.name()
        self.both(lambda n: os.mkdir(self.path(n, name)))

    def do_rmdir(self):
        name = self.name()
        self.both(lambda n: os.rmdir(self.path(n, name)))

    def do_unlink(self):
        name = self.name()
        self.both(lambda n: os.unlink(self.path(n, name)))

    def do_symlink(self):
        name, target = self.name(), self.source.choice(("a", "b/c", "../a", "nowhere"))
        self.both(lambda n: os.symlink(target, self.path(n, name)))

    def do_link(self):
        name, other = self.name(), self.name()
        self.both(lambda n: os.link(self.path(n, name), self.path(n, other), follow_symlinks=False))

    def do_rename(self):
        name, other, flags = self.name(), self.name(), self.source.choice((0, 0, 1, 2))

        def act(number):
            c_call("renameat2", -100, os.fsencode(self.path(number, name)), -100,
                   os.fsencode(self.path(number, other)), flags)
        self.both(act)

    def do_list(self):
        name = self.source.choice(("", self.name()))
        self.both(lambda n: sorted((e.name, e.is_dir(follow_symlinks=False), e.is_symlink())
                                   for e in os.scandir(self.path(n, name))))

    def do_stat(self):
        name = self.name()
        self.both(lambda n: self.seen(os.lstat(self.path(n, name))))

    @staticmethod
    def seen(st):
        size = st.st_size if not stat.S_ISDIR(st.st_mode) else 0
        nlink = st.st_nlink if not stat.S_ISDIR(st.st_mode) else 0  # filesystems differ
        return (st.st_mode, nlink, st.st_uid, st.st_gid, size)

    def do_chmod(self):
        name, mode = self.name(), self.source.choice((0o644, 0o755, 0o600, 0o7777))
        self.both(lambda n: os.chmod(self.path(n, name), mode))

    def do_chown(self):
        name, uid, gid = self.name(), self.source.randrange(3), self.source.randrange(3)
        self.both(lambda n: os.lchown(self.path(n, name), uid, gid))

    def do_utime(self):
        name, at = self.name(), self.source.randrange(1 << 61)

        def act(number):
            os.utime(self.path(number, name), ns=(at, at + 1), follow_symlinks=False)
            return os.lstat(self.path(number, name)).st_mtime_ns
        self.both(act)

    def do_xattr(self):
        name, key = self.name(), "user." + self.source.choice("xyz")
        value = self.source.randbytes(self.source.choice((0, 10, 300, 1000)))  # ext4 takes 4000 in all
        flags = self.source.choice((0, os.XATTR_CREATE, os.XATTR_REPLACE))
        self.both(lambda n: os.setxattr(self.path(n, name), key, value, flags, follow_symlinks=False))

    def do_removexattr(self):
        name, key = self.name(), "user." + self.source.choice("xyz")
        self.both(lambda n: os.removexattr(self.path(n, name), key, follow_symlinks=False))

    def do_getxattrs(self):
        name = self.name()

        def act(number):
            path = self.path(number, name)
            return sorted((key, os.getxattr(path, key, follow_symlinks=False))
                          for key in os.listxattr(path, follow_symlinks=False)
                          if key.startswith("user."))
        self.both(act)

    # --- data

    def range(self):
        offset = self.source.choice((0, 1, 4095, 4096, 10000, 65536,
                                     self.source.randrange(SIZE_MAX)))
        return offset, self.source.choice((1, 100, 4096, 5000, 50000, self.source.randrange(1, 200000)))

    def on_open(self, act):
        """act(fd) on both sides of a file that is open, maybe removed."""
        if self.open_files:
            pair = self.source.choice(self.open_files)
            self.both(lambda n: act(pair[n]))

    def do_write(self):
        offset, size = self.range()
        data = self.source.randbytes(size)
        self.on_open(lambda fd: os.pwrite(fd, data, offset))

    def do_read(self):
        offset, size = self.range()
        self.on_open(lambda fd: os.pread(fd, size, offset))

    def do_truncate(self):
        size = self.source.choice((0, 1, 4096, self.source.randrange(SIZE_MAX)))
        self.on_open(lambda fd: os.ftruncate(fd, size))

    def do_truncate_by_name(self):
        name, size = self.name(), self.source.randrange(SIZE_MAX)
        self.both(lambda n: os.truncate(self.path(n, name), size))

    def do_allocate(self):
        offset, size = self.range()
        mode = self.source.choice((0, KEEP_SIZE, PUNCH_HOLE | KEEP_SIZE))
        self.on_open(lambda fd: c_call("fallocate64", fd, mode, ctypes.c_int64(offset),
                                       ctypes.c_int64(size)))

    def do_fstat(self):
        self.on_open(lambda fd: self.seen(os.fstat(fd)))

    def do_fsync(self):
        self.on_open(os.fsync)

    def do_close(self):
        if self.open_files:
            self.close(self.source.randrange(len(self.open_files)))

    def do_read_whole(self):
        name = self.name()
        self.both(lambda n: self.path(n, name).read_bytes())

    def do_map(self):
        """A store through a shared mapping."""
        if not self.open_files:
            return
        pair = self.source.choice(self.open_files)
        size = os.fstat(pair[1]).st_size
        if size == 0:
            return
        offset = self.source.randrange(size)
        data = self.source.randbytes(min(self.source.randrange(1, 5000), size - offset))

        def act(number):
            with mmap.mmap(pair[number], size) as mapping:
                mapping[offset:offset + len(data)] = data
        self.both(act)

    ACTIONS = [name for name in dir() if name.startswith("do_")] + [
        "do_write", "do_write", "do_read", "do_create", "do_create", "do_rename"]

    def end(self):
        while self.open_files:
            self.close(0)


def tree(base):
    """All that can be known of a tree, but for what filesystems may choose."""
    found = {}
    for directory, subdirectories, files in os.walk(base):
        for name in sorted(subdirectories + files):
            path = Path(directory) / name
            st = os.lstat(path)
            content = None
            if stat.S_ISREG(st.st_mode):
                content = path.read_bytes()
            elif stat.S_ISLNK(st.st_mode):
                content = os.readlink(path)
            xattrs = {key: os.getxattr(path, key, follow_symlinks=False)
                      for key in os.listxattr(path, follow_symlinks=False)}
            found[str(path.relative_to(base))] = (Twin.seen(st), content, xattrs)
    return found


def compare(here, there):
    one, two = tree(here), tree(there)
    assert one.keys() == two.keys(), set(one) ^ set(two)
    for name in one:
        assert one[name] == two[name], f"{name}: {str(one[name])[:300]} and {str(two[name])[:300]}"


def twins(here, there):
    """One level down, so that a symlink to `../a` stays inside."""
    pair = Path(here) / "twin", Path(there) / "twin"
    for side in pair:
        side.mkdir(exist_ok=True)
    return pair


def run_twins(here, there, seed, steps):
    here, there = twins(here, there)
    twin = Twin(here, there, seed)
    done = []
    try:
        for number in range(steps):
            done.append("?")
            done[-1] = twin.step()
    except BaseException as error:
        raise AssertionError(f"seed {seed}, step {len(done)} of {steps}, after {done[-6:-1]}: {error}") from error
    finally:
        twin.end()
    compare(here, there)


def model_directory():
    return tempfile.TemporaryDirectory(prefix="pmfs-model-")


@claim(f"{STEPS} random operations do what they do on the machine's own filesystem (seed {SEED})",
       seconds=600)
def _(here):
    with model_directory() as there:
        run_twins(here, there, SEED, STEPS)


@claim(f"after the death of the server and a new mount all is as it was (seed {SEED})",
       seconds=600, alone=True)
def _(maker):
    volume = maker.volume(size="128M")
    with model_directory() as there:
        here = volume.mnt / "here"
        here.mkdir()
        for part in range(4):
            run_twins(here, there, SEED + part, STEPS // 8)
            if part % 2:
                volume.kill()
            else:
                assert volume.unmount() == 0, volume.log_text()
                volume.fsck()
            volume.mount()
            maker.watch()
            compare(*twins(here, there))
    assert volume.unmount() == 0
    volume.fsck()


@claim(f"four processes at once, each with its own twins, do not disturb each other (seed {SEED})",
       seconds=600)
def _(here):
    with model_directory() as there:
        children = []
        for number in range(4):
            mine = Path(here) / str(number), Path(there) / str(number)
            for side in mine:
                side.mkdir()
            child = os.fork()
            if child == 0:
                code = 1
                try:
                    run_twins(*mine, SEED + 100 + number, STEPS // 3)
                    code = 0
                except BaseException as error:
                    print(error, flush=True)
                os._exit(code)
            children.append(child)
        results = [os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children]
        assert results == [0] * 4, f"seed {SEED}: {results}"


@claim(f"with the smallest journal, requests wait for a checkpoint and all is the same (seed {SEED})",
       seconds=600, alone=True)
def _(maker):
    volume = maker.volume(size="64M", mkfs=("--journal-size", "256K"), options="commit=0.2")
    with model_directory() as there:
        here = volume.mnt / "here"
        here.mkdir()
        run_twins(here, there, SEED + 7, STEPS // 3)
        volume.kill()
        volume.mount("commit=300")
        maker.watch()
        compare(*twins(here, there))
        run_twins(here, there, SEED + 8, STEPS // 3)
    assert volume.unmount() == 0, volume.log_text()
    volume.fsck()


if __name__ == "__main__":
    run_claims()
