#!/usr/bin/env python3
"""The flags of chattr(1): i, a, d and A."""
# Holds docs/posix.md "Files and names".
import contextlib
import errno
import fcntl
import mmap
import os
import struct

from fixture import as_user, c_call, claim, fails, run, run_claims, wait_for

FS_IOC_GETFLAGS, FS_IOC_FSGETXATTR, FS_IOC_FSSETXATTR = 0x80086601, 0x801c581f, 0x401c5820
FS_IOC32_SETFLAGS = 0x40046602


def chattr(*words):
    run("chattr", *words)


def flags_of(path):
    return set(run("lsattr", "-d", path).stdout.split()[0]) - {"-"}


NOW, OMIT = (1 << 30) - 1, (1 << 30) - 2  # in the nanoseconds of utimensat(2)


def set_one_time(path, atime, mtime):
    c_call("utimensat", -100, os.fsencode(path), struct.pack("4q", 0, atime, 0, mtime), 0)  # AT_FDCWD


@contextlib.contextmanager
def flagged(flags, *paths):
    """Whatever becomes of the claim, the files can be removed afterwards."""
    chattr("+" + flags, *paths)
    try:
        yield
    finally:
        chattr("-ia", *paths)


@claim("chattr sets i, a, d and A of files and directories, lsattr shows them, and other flags are refused")
def _(here):
    (here / "f").touch()
    (here / "d").mkdir()
    for path in (here / "f", here / "d"):
        assert flags_of(path) - {"e"} == set()
        with flagged("iadA", path):
            assert flags_of(path) - {"e"} == set("iadA")
        assert flags_of(path) - {"e"} == set("dA")
        assert run("chattr", "+c", path, ok=False).returncode != 0
        chattr("-dA", path)
    fd = os.open(here / "f", os.O_RDONLY)
    got = bytearray(fcntl.ioctl(fd, FS_IOC_FSGETXATTR, bytes(28)))
    assert struct.unpack_from("I", got)[0] & 0xff == 0
    struct.pack_into("I", got, 0, 0x80)  # FS_XFLAG_NODUMP
    fcntl.ioctl(fd, FS_IOC_FSSETXATTR, bytes(got))
    assert flags_of(here / "f") - {"e"} == set("d")
    os.close(fd)


@claim("files that are made in a directory have its d and A, and not its a")
def _(here):
    (here / "d").mkdir()
    with flagged("adA", here / "d"):
        (here / "d" / "f").touch()
        (here / "d" / "sub").mkdir()
        assert flags_of(here / "d" / "f") - {"e"} == flags_of(here / "d" / "sub") - {"e"} == set("dA")


@claim("nothing of an immutable file can be changed, not even by root")
def _(here):
    path = here / "f"
    path.write_bytes(b"words" * 2000)
    os.setxattr(path, "user.kept", b"value")
    writer = os.open(path, os.O_RDWR)
    before = os.stat(path)
    with flagged("i", path):
        attempts = (
            lambda: os.open(path, os.O_WRONLY), lambda: os.open(path, os.O_RDWR | os.O_APPEND),
            lambda: os.open(path, os.O_RDONLY | os.O_TRUNC), lambda: os.truncate(path, 3),
            lambda: os.pwrite(writer, b"x", 0), lambda: os.pwrite(writer, b"x", 20000),
            lambda: os.ftruncate(writer, 3), lambda: os.posix_fallocate(writer, 0, 30000),
            lambda: os.chmod(path, 0o600), lambda: os.chown(path, 1, 1), lambda: os.utime(path),
            lambda: os.utime(path, (1, 1)), lambda: os.setxattr(path, "user.kept", b"x"),
            lambda: os.removexattr(path, "user.kept"), lambda: os.link(path, here / "l"),
            lambda: os.rename(path, here / "g"), lambda: os.unlink(path))
        for number, attempt in enumerate(attempts):
            with fails(errno.EPERM, errno.EACCES if number < 4 else errno.EPERM):
                attempt()
        (here / "other").touch()
        with fails(errno.EPERM):
            os.rename(here / "other", path)
        assert path.read_bytes() == b"words" * 2000 and os.getxattr(path, "user.kept") == b"value"
        after = os.stat(path)
        assert (after.st_mode, after.st_nlink, after.st_mtime_ns) == (before.st_mode, 1, before.st_mtime_ns)
    os.pwrite(writer, b"WORDS", 0)
    os.close(writer)
    assert path.read_bytes()[:5] == b"WORDS"
    os.unlink(path)


@claim("an append-only file grows and nothing else of it changes")
def _(here):
    path = here / "log"
    path.write_bytes(b"one\n")
    os.link(path, here / "before")
    with flagged("a", path):
        for flags in (os.O_WRONLY, os.O_RDWR, os.O_WRONLY | os.O_APPEND | os.O_TRUNC):
            with fails(errno.EPERM):
                os.open(path, flags)
        fd = os.open(path, os.O_RDWR | os.O_APPEND)
        os.write(fd, b"two\n")
        for number in range(100):
            os.write(fd, b"%d\n" % number)
        with fails(errno.EPERM):
            os.ftruncate(fd, 2)
        with fails(errno.EACCES, errno.ENODEV):
            mmap.mmap(fd, 4, mmap.MAP_SHARED, mmap.PROT_READ | mmap.PROT_WRITE)
        os.close(fd)
        for attempt in (lambda: os.chmod(path, 0o600), lambda: os.truncate(path, 0),
                        lambda: os.setxattr(path, "user.x", b"x"), lambda: os.link(path, here / "l"),
                        lambda: os.rename(path, here / "g"), lambda: os.unlink(here / "before")):
            with fails(errno.EPERM):
                attempt()
        assert path.read_bytes() == b"one\ntwo\n" + b"".join(b"%d\n" % number for number in range(100))


@claim("in an immutable directory no name comes or goes, and in an append-only one none goes")
def _(here):
    for flag in "ia":
        directory = here / flag
        directory.mkdir()
        (directory / "f").write_text("f")
        (directory / "sub").mkdir()
        os.mkdir(here / f"out-{flag}")
        with flagged(flag, directory):
            for attempt in (lambda: os.unlink(directory / "f"), lambda: os.rmdir(directory / "sub"),
                            lambda: os.rename(directory / "f", here / "f"),
                            lambda: os.rename(directory / "f", directory / "g")):
                with fails(errno.EPERM):
                    attempt()
            makes = (lambda: os.mkdir(directory / "new"), lambda: os.symlink("x", directory / "link"),
                     lambda: os.mknod(directory / "node"), lambda: os.link(directory / "f", directory / "l"),
                     lambda: os.close(os.open(directory / "made", os.O_CREAT | os.O_WRONLY)),
                     lambda: os.rename(here / f"out-{flag}", directory / "in"))
            for make in makes:
                if flag == "a":
                    make()
                    continue
                with fails(errno.EPERM, errno.EACCES):
                    make()
            if flag == "i":
                with fails(errno.EPERM):
                    os.open(directory, os.O_TMPFILE | os.O_RDWR)
            (directory / "f").write_text("its content is another matter")


@claim("only CAP_LINUX_IMMUTABLE sets i and a, and only the owner d, by whatever number the ioctl goes")
def _(here):
    os.chmod(here, 0o777)
    (here / "theirs").touch()

    def as_owner():
        (here / "mine").touch()
        assert run("chattr", "+i", here / "mine", ok=False).returncode != 0
        assert run("chattr", "+a", here / "mine", ok=False).returncode != 0
        run("chattr", "+d", here / "mine")
        assert run("chattr", "+d", here / "theirs", ok=False).returncode != 0
        fd = os.open(here / "mine", os.O_RDWR)
        with fails(errno.ENOTTY, errno.EOPNOTSUPP, errno.EPERM):
            fcntl.ioctl(fd, FS_IOC32_SETFLAGS, struct.pack("I", 0x10))
        os.close(fd)
    as_user(as_owner)
    assert flags_of(here / "mine") - {"e"} == set("d") and flags_of(here / "theirs") - {"e"} == set()


@claim("what is stored through a mapping that is older than the flag is refused when it is written back, and not kept")
def _(here):
    for flag in "ia":
        path = here / flag
        path.write_bytes(b"words" * 2000)
        fd = os.open(path, os.O_RDWR)
        with mmap.mmap(fd, 10000) as pages:
            pages[:5] = b"WORDS"  # before: it is written back first
            with flagged(flag, path):
                pages[5000:5005] = b"later"
                with fails(errno.EPERM, errno.EIO):
                    pages.flush()
        os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)
        assert os.pread(fd, 10000, 0) == b"WORDS" + b"words" * 1999, flag
        os.close(fd)


@claim("flags survive a server that is killed, and they refuse pmfs's own calls", alone=True)
def _(maker):
    volume = maker.volume(size="16M")
    path = volume.mnt / "f"
    path.write_bytes(b"words" * 2000)
    chattr("+iA", path)
    with fails(errno.EPERM):
        os.setxattr(path, "trusted.pmfs.seal", b"as-is")
    volume.kill()
    volume.mount()
    maker.watch()
    assert flags_of(path) == set("iA")
    with fails(errno.EPERM):
        os.unlink(path)
    chattr("-i", path)
    os.setxattr(path, "trusted.pmfs.seal", b"as-is")
    chattr("+i", path)
    with fails(errno.EPERM):
        os.removexattr(path, "trusted.pmfs.seal")
    volume.unmount()
    volume.fsck()


@claim("with -o writeback no write is lost to a flag: a process that may write prevents +i and +a", alone=True)
def _(maker):
    volume = maker.volume(size="16M", options="writeback")
    path = volume.mnt / "f"
    fd = os.open(path, os.O_CREAT | os.O_RDWR)
    os.write(fd, b"in the kernel's cache")
    for flag in "ia":
        assert "busy" in run("chattr", "+" + flag, path, ok=False).stderr
    os.write(fd, b", and more")
    os.close(fd)
    assert wait_for(lambda: run("chattr", "+a", path, ok=False).returncode == 0)
    fd = os.open(path, os.O_WRONLY | os.O_APPEND)
    os.write(fd, b", appended")
    os.close(fd)
    assert path.read_bytes() == b"in the kernel's cache, and more, appended"
    chattr("-a", path)
    chattr("+i", path)
    with fails(errno.EPERM):
        os.open(path, os.O_WRONLY)
    chattr("-i", path)
    volume.unmount()
    volume.fsck()


@claim("the owner cannot set times of a protected file, nor clear set-id bits of an immutable one", alone=True)
def _(maker):
    for options in ("", "writeback"):
        volume = maker.volume(size="16M", options=options)
        path = volume.mnt / "f"
        path.write_bytes(b"words")
        os.chown(path, 1000, 1000)
        os.chmod(path, 0o6755)
        writer = os.open(path, os.O_WRONLY) if not options else None  # (it would keep the flag away)
        before = os.stat(path)

        def fail(*attempts):
            for attempt in attempts:
                with fails(errno.EPERM):
                    attempt()

        def set_times():
            fail(lambda: os.utime(path, (1, 1)), lambda: os.utime(path, ns=(before.st_atime_ns, 7)),
                 lambda: set_one_time(path, NOW, OMIT), lambda: set_one_time(path, OMIT, NOW))

        def set_all():
            set_times()
            fail(lambda: os.utime(path), lambda: os.chown(path, -1, -1))
            if writer is not None:
                fail(lambda: os.pwrite(writer, b"x", 0))
        for flag, attempts in (("a", set_times), ("i", set_all)):
            with flagged(flag, path):
                as_user(attempts)
                after = os.stat(path)
                assert (after.st_mode, after.st_atime_ns, after.st_mtime_ns) == (
                    before.st_mode, before.st_atime_ns, before.st_mtime_ns)
        with flagged("a", path):
            as_user(lambda: os.utime(path))  # the time it is may be set
            assert os.stat(path).st_mtime_ns > before.st_mtime_ns
        if writer is not None:
            os.close(writer)
        volume.unmount()
        volume.fsck()


@claim("an append-only file that fallocate made longer can be synced, with -o writeback as well", alone=True)
def _(maker):
    for options in ("", "writeback"):
        volume = maker.volume(size="64M", options=options)
        path = volume.mnt / "log"
        path.write_bytes(b"hello")
        run("chattr", "+a", path)
        fd = os.open(path, os.O_WRONLY | os.O_APPEND)
        os.posix_fallocate(fd, 0, 200_000)
        os.fsync(fd)
        os.close(fd)
        os.utime(path)
        with fails(errno.EPERM):
            os.utime(path, (1, 1))
        run("chattr", "-a", path)
        assert volume.unmount() == 0, volume.log_text()
        volume.fsck()


if __name__ == "__main__":
    run_claims()
