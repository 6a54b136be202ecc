#!/usr/bin/env python3
"""Who may do what: mode bits, owners, set-id bits, sticky and set-gid directories."""
# Holds docs/posix.md "Permissions".
import ctypes
import errno
import mmap
import os
import shutil
import stat
import struct
import subprocess

from fixture import as_user, c_call, claim, fails, program, run_claims


def mode_of(path):
    return stat.S_IMODE(os.stat(path).st_mode)


@claim("another user may read, write and enter what the mode bits allow, and nothing else")
def _(here):
    os.chmod(here, 0o755)
    (here / "secret").write_text("root's")
    os.chmod(here / "secret", 0o600)
    (here / "open").write_text("all")
    os.chmod(here / "open", 0o666)
    os.mkdir(here / "closed", 0o700)
    os.mkdir(here / "shared")
    os.chmod(here / "shared", 0o777)

    def user():
        assert (here / "open").read_text() == "all"
        (here / "open").write_text("written")
        for path in (here / "secret", here / "closed" / "x"):
            with fails(errno.EACCES):
                open(path)
        with fails(errno.EACCES):
            (here / "new").touch()
        (here / "shared" / "mine").touch()
        st = os.stat(here / "shared" / "mine")
        assert (st.st_uid, st.st_gid) == (1000, 1000)
        with fails(errno.EPERM):
            os.chmod(here / "open", 0o777)
        with fails(errno.EPERM):
            os.chown(here / "shared" / "mine", 0, 0)
        os.chmod(here / "shared" / "mine", 0o640)
    as_user(user)
    assert (here / "open").read_text() == "written"
    as_user(lambda: (here / "shared" / "mine").read_text(), uid=2000, gid=1000)

    def stranger():
        with fails(errno.EACCES):
            (here / "shared" / "mine").read_text()
    as_user(stranger, uid=2000, gid=2000)
    as_user(lambda: (here / "shared" / "mine").read_text(), uid=2000, gid=2000, groups=[1000])


@claim("in a sticky directory only the owner removes a file")
def _(here):
    os.chmod(here, 0o1777)
    as_user(lambda: (here / "f").touch())

    def other():
        with fails(errno.EPERM):
            os.unlink(here / "f")
        with fails(errno.EPERM):
            os.rename(here / "f", here / "g")
    as_user(other, uid=2000, gid=2000)
    as_user(lambda: os.unlink(here / "f"))


@claim("umask applies")
def _(here):
    old = os.umask(0o027)
    try:
        os.mkdir(here / "d")
        (here / "f").touch()
    finally:
        os.umask(old)
    assert mode_of(here / "d") == 0o750 and mode_of(here / "f") == 0o640


@claim("in a set-gid directory files get its group, and directories the bit too")
def _(here):
    os.chown(here, 0, 3000)
    os.chmod(here, 0o2777)
    as_user(lambda: ((here / "f").touch(), os.mkdir(here / "d"), os.symlink("x", here / "s")))
    assert os.stat(here / "f").st_gid == 3000 and os.lstat(here / "s").st_gid == 3000
    assert os.stat(here / "d").st_gid == 3000 and os.stat(here / "d").st_mode & stat.S_ISGID
    assert not os.stat(here / "f").st_mode & stat.S_ISGID


def set_id_file(here, mode, name="f"):
    (here / name).write_bytes(b"x" * 8192)
    os.chown(here / name, 1000, 1000)
    os.chmod(here / name, mode)
    return here / name


@claim("a write by a user without privilege clears set-id bits, through the cache and past it")
def _(here):
    os.chmod(here, 0o777)
    for flags in (os.O_WRONLY, os.O_WRONLY | os.O_DIRECT):
        path = set_id_file(here, 0o6777)

        def user():
            fd = os.open(path, flags)
            memory = mmap.mmap(-1, 4096)
            os.pwritev(fd, [memory], 0)
        as_user(user, uid=2000, gid=2000)
        assert mode_of(path) == 0o777, oct(mode_of(path))


@claim("truncation and O_TRUNC by a user without privilege clear set-id bits")
def _(here):
    os.chmod(here, 0o777)
    path = set_id_file(here, 0o6777)
    as_user(lambda: os.truncate(path, 10), uid=2000, gid=2000)
    assert mode_of(path) == 0o777
    path = set_id_file(here, 0o6777)
    as_user(lambda: os.close(os.open(path, os.O_WRONLY | os.O_TRUNC)), uid=2000, gid=2000)
    assert mode_of(path) == 0o777


@claim("a write by root keeps set-id bits, and a new owner clears them")
def _(here):
    path = set_id_file(here, 0o6777)
    with open(path, "r+b", buffering=0) as file:
        file.write(b"y")
    assert mode_of(path) == 0o6777
    os.chown(path, 2000, 2000)
    assert mode_of(path) == 0o777
    os.mkdir(here / "d")
    os.chmod(here / "d", 0o2775)
    os.chown(here / "d", 2000, 2000)
    assert mode_of(here / "d") == 0o2775, "directories keep theirs"


@claim("a new owner, also the same one or none, clears set-id bits of all but directories")
def _(here):
    kinds = {"file": stat.S_IFREG, "fifo": stat.S_IFIFO, "socket": stat.S_IFSOCK, "chr": stat.S_IFCHR,
             "blk": stat.S_IFBLK, "directory": 0}
    os.chmod(here, 0o777)
    for name, kind in kinds.items():
        if kind:
            os.mknod(here / name, kind | 0o600, os.makedev(1, 3))
        else:
            os.mkdir(here / name)

        def chown(uid, gid):
            os.chown(here / name, uid, gid)
        for change in ((1000, 1000), (-1, 3000), (1000, -1), (-1, -1)):
            for user in (False, True):
                os.chown(here / name, 1000, 3000 if user else 0)
                os.chmod(here / name, 0o6777)
                if user and change != (-1, 3000):
                    as_user(lambda: chown(*change))
                elif user:
                    as_user(lambda: chown(*change), groups=[3000])
                else:
                    chown(*change)
                assert mode_of(here / name) == (0o777 if kind else 0o6777), (name, change, user)
        os.chmod(here / name, 0o6767)
        chown(-1, -1)
        assert mode_of(here / name) == (0o2767 if kind else 0o6767), "no group may execute it"


@claim("chown(-1, -1) by a stranger is EPERM if it would clear set-id bits")
def _(here):
    os.chmod(here, 0o777)

    def stranger():
        with fails(errno.EPERM):
            os.chown(path, -1, -1)
    for mode in (0o4755, 0o2755, 0o6777):
        path = set_id_file(here, mode)  # of user 1000
        as_user(stranger, uid=2000, gid=2000)
        assert mode_of(path) == mode
        as_user(lambda: os.chown(path, -1, -1))
        assert mode_of(path) == mode & 0o777
    path = set_id_file(here, 0o755)
    as_user(lambda: os.chown(path, -1, -1), uid=2000, gid=2000)


@claim("a file capability is lost even if chown(-1, -1) by a stranger is EPERM: the kernel removes it first")
def _(here):
    os.chmod(here, 0o777)
    path = set_id_file(here, 0o4755)
    capability = struct.pack("<5I", 0x02000001, 1 << 10, 0, 0, 0)  # revision 2, CAP_NET_BIND_SERVICE
    os.setxattr(path, "security.capability", capability)

    def stranger():
        with fails(errno.EPERM):
            os.chown(path, -1, -1)

    as_user(stranger, uid=2000, gid=2000)
    assert mode_of(path) == 0o4755 and os.listxattr(path) == []


@claim("write(2) removes a file capability, a store by mmap does not, and one that is set after a write stays", alone=True)
def _(maker):
    capability = struct.pack("<5I", 0x02000001, 1 << 10, 0, 0, 0)
    for options in ("", "writeback"):
        volume = maker.volume(size="16M", options=options)
        path = volume.mnt / "f"
        fd = os.open(path, os.O_CREAT | os.O_RDWR)

        def has():
            os.fsync(fd)
            return os.listxattr(path) == ["security.capability"]
        for offset in (0, 0, 9000):
            os.pwrite(fd, b"words", offset)
            os.setxattr(path, "security.capability", capability)
            assert has(), (options, offset)
        with mmap.mmap(fd, 0) as pages:
            pages[0:5] = b"WORDS"
            pages.flush()
        assert has(), options
        for offset in (0, 20_000):
            os.setxattr(path, "security.capability", capability)
            os.pwrite(fd, b"words", offset)
            assert not has(), (options, offset)
        os.close(fd)


def without_the_right_to_truncate():
    """Landlock: this process may do anything but truncate.  False: this kernel does not offer that."""
    truncate = struct.pack("Q", 1 << 14)
    try:
        rules = c_call("syscall", 444, truncate, ctypes.c_size_t(8), 0)
    except OSError:
        return False
    c_call("prctl", 38, 1, 0, 0, 0)
    c_call("syscall", 446, rules, 0)
    return True


@claim("O_TRUNC empties no file that may not be truncated: a running program, one that Landlock protects", alone=True)
def _(maker):
    for options in ("", "writeback"):
        volume = maker.volume(size="16M", options=options)
        path = volume.mnt / "sleep"
        shutil.copy("/bin/sleep", path)
        before = path.read_bytes()
        running = subprocess.Popen([path, "60"])
        try:
            for how in (os.O_WRONLY, os.O_RDONLY, os.O_RDWR | os.O_CREAT):
                with fails(errno.ETXTBSY):
                    os.open(path, how | os.O_TRUNC)
        finally:
            running.kill()
            running.wait()

        def confined(path=path):
            if without_the_right_to_truncate():
                for how in (os.O_WRONLY, os.O_RDONLY, os.O_RDWR | os.O_CREAT):
                    with fails(errno.EACCES):
                        os.open(path, how | os.O_TRUNC)
        as_user(confined, uid=0, gid=0)
        assert path.read_bytes() == before, options


@claim("O_TRUNC with O_NONBLOCK does not wait for a lease, without O_NONBLOCK it does", alone=True)
def _(maker):
    for options in ("", "writeback"):
        volume = maker.volume(size="16M", options=f"lease_break_time=1,{options}".rstrip(","))
        path = volume.mnt / "f"
        path.write_bytes(b"x" * 4096)
        held = subprocess.Popen([program("pmfsctl"), "lease", path], stdout=subprocess.PIPE)
        try:
            held.stdout.readline()
            with fails(errno.EAGAIN):
                os.open(path, os.O_WRONLY | os.O_TRUNC | os.O_NONBLOCK)
            assert path.stat().st_size == 4096
            os.close(os.open(path, os.O_WRONLY | os.O_NONBLOCK))
            os.close(os.open(path, os.O_WRONLY | os.O_TRUNC))
            assert path.stat().st_size == 0
        finally:
            held.kill()
            held.wait()


@claim("set-group-ID without execution by the group is cleared unless the caller that writes, truncates or "
       "allocates is in the group")
def _(here):
    os.chmod(here, 0o777)

    def write(path):
        fd = os.open(path, os.O_WRONLY)
        os.write(fd, b"x")
        os.close(fd)

    def allocate(path):
        fd = os.open(path, os.O_WRONLY)
        os.posix_fallocate(fd, 0, 5000)
        os.close(fd)

    def empty(path):
        os.close(os.open(path, os.O_WRONLY | os.O_TRUNC))
    for change in (write, allocate, empty, lambda path: os.truncate(path, 1)):
        for user, groups, after in ((2000, (), 0o666), (2000, (3000,), 0o2666), (1000, (), 0o666), (0, (), 0o2666)):
            path = set_id_file(here, 0o2666)
            os.chown(path, 1000, 3000)
            os.chmod(path, 0o2666)
            as_user(lambda: change(path), uid=user, gid=user, groups=groups)
            assert mode_of(path) == after, (user, groups, oct(mode_of(path)))


@claim("fallocate by a user without privilege clears set-id bits, and root's keeps them")
def _(here):
    os.chmod(here, 0o777)
    keep, punch, zero = 0x1, 0x2, 0x10
    for mode in (0, keep, punch | keep, zero, zero | keep):
        def allocate():
            fd = os.open(path, os.O_RDWR)
            c_call("fallocate64", fd, mode, ctypes.c_int64(0), ctypes.c_int64(20000))
            os.close(fd)
        for uid in (2000, 1000):
            path = set_id_file(here, 0o6777)
            as_user(allocate, uid=uid, gid=uid)
            assert mode_of(path) == 0o777, (mode, oct(mode_of(path)))
        path = set_id_file(here, 0o6777)
        allocate()
        assert mode_of(path) == 0o6777, (mode, oct(mode_of(path)))


@claim("chmod by a member of no group of the file drops set-gid")
def _(here):
    os.chmod(here, 0o777)
    (here / "f").touch()
    os.chown(here / "f", 1000, 3000)
    as_user(lambda: os.chmod(here / "f", 0o2755))
    assert mode_of(here / "f") == 0o755


@claim("a set-uid program gives its owner's rights")
def _(here):
    os.chmod(here, 0o755)
    subprocess.run(["cp", "/usr/bin/id", str(here / "id")], check=True)
    os.chown(here / "id", 3456, 3456)
    os.chmod(here / "id", 0o4755)

    def user():
        done = subprocess.run([str(here / "id"), "-u"], capture_output=True, text=True, check=True)
        assert done.stdout == "3456\n", done.stdout
    as_user(user)


if __name__ == "__main__":
    run_claims()
