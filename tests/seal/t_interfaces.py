#!/usr/bin/env python3
"""The interfaces of the seal through a real mount: setfattr, pmfsctl, the library; and what a seal forbids
to ordinary programs."""
# Holds docs/seal.md "The interfaces" and docs/grants.md "Backups".
import errno
import fcntl
import mmap
import os
import shutil

from libpmfs import (AS_IS, FULL, KEEP_SIZE, SEAL_MODE, UNSEAL_MODE, ctl, fallocate, info, ioc,
                     make_file, open_direct, pattern, seal, seal_ioctl, seal_of, unseal)
from fixture import as_user, c_call, claim, fails, run, run_claims

MIB = 1 << 20


def by_setfattr(name):
    def close(path, level):
        run("setfattr", "-n", name, "-v", level, path)

    def open_again(path):
        run("setfattr", "-x", name, path)
    return close, open_again


def by_pmfsctl():
    return (lambda path, level: ctl("seal", f"--{level}", path), lambda path: ctl("unseal", path))


def with_handle(path, function):
    fd = open_direct(path)
    try:
        function(fd)
    finally:
        os.close(fd)


def by_library():
    def close(path, level):
        with_handle(path, lambda fd: seal(fd, FULL if level == "full" else AS_IS))

    return close, lambda path: with_handle(path, unseal)


def by_fallocate():
    def close(path, level):
        assert level == "full"
        with_handle(path, lambda fd: fallocate(fd, SEAL_MODE | KEEP_SIZE, 0, 1 << 40))

    return close, lambda path: with_handle(
        path, lambda fd: fallocate(fd, UNSEAL_MODE | KEEP_SIZE, 0, 1 << 40))


INTERFACES = {"trusted": by_setfattr("trusted.pmfs.seal"), "user": by_setfattr("user.pmfs.seal"),
         "pmfsctl": by_pmfsctl(), "library": by_library(), "fallocate": by_fallocate()}


@claim("every interface seals and unseals, and all of them see it")
def _(here):
    make_file(here / "f", MIB)
    digest = info(here / "f")["map_digest"]
    for interface, (close, open_again) in INTERFACES.items():
        for level in ("full",) if interface == "fallocate" else ("as-is", "full"):
            close(here / "f", level)
            assert seal_of(here / "f") == level, f"{interface} {level}"
            text = run("getfattr", "--only-values", "-n", "user.pmfs.seal", here / "f").stdout
            assert text.split()[0] == level
            assert "pmfs.seal" not in run("getfattr", "-d", "-m-", here / "f").stdout
            assert info(here / "f")["map_digest"] == digest
            with fails(errno.ETXTBSY):
                os.truncate(here / "f", 5)
            open_again(here / "f")
            assert seal_of(here / "f") == "none", interface


@claim("a seal that one interface made can be ended by every other one; sealing or unsealing twice succeeds")
def _(here):
    make_file(here / "f", MIB)
    for close, _ in INTERFACES.values():
        for _, open_again in INTERFACES.values():
            close(here / "f", "full")
            close(here / "f", "full")
            assert seal_of(here / "f") == "full"
            open_again(here / "f")
            open_again(here / "f")
            assert seal_of(here / "f") == "none"


@claim("what ordinary programs do to a sealed file fails with ETXTBSY and changes nothing")
def _(here):
    data = make_file(here / "f", MIB)
    ctl("seal", here / "f")
    before = ctl("map", "--json", here / "f").stdout
    fd = os.open(here / "f", os.O_RDWR)
    with fails(errno.ETXTBSY):
        os.truncate(here / "f", 5)
    with fails(errno.ETXTBSY):
        os.ftruncate(fd, 2 * MIB)
    with fails(errno.ETXTBSY):
        os.pwrite(fd, b"x", MIB)
    with fails(errno.ETXTBSY):
        os.open(here / "f", os.O_RDWR | os.O_TRUNC)
    append = os.open(here / "f", os.O_WRONLY | os.O_APPEND)
    with fails(errno.ETXTBSY):
        os.write(append, b"more")
    os.close(append)
    for mode in (0, KEEP_SIZE, 0x3, 0x10, 0x11):
        with fails(errno.ETXTBSY):
            fallocate(fd, mode, 0, 8192)
    with fails(errno.ETXTBSY):
        os.posix_fallocate(fd, 0, 2 * MIB)
    run("cp", "/etc/passwd", here / "f", ok=False)
    for command in (["bash", "-c", f"echo more >> {here}/f"], ["truncate", "-s", "0", here / "f"],
                    ["fallocate", "-p", "-o", "0", "-l", "4096", here / "f"]):
        done = run(*command, ok=False)
        assert done.returncode != 0 and "Text file busy" in done.stderr, done.stderr
    os.close(fd)
    assert (here / "f").read_bytes() == data
    assert ctl("map", "--json", here / "f").stdout == before


@claim("a large write past the end of a sealed file may be short, and never grows it")
def _(here):
    make_file(here / "f", 4 * MIB)
    ctl("seal", here / "f")
    fd = os.open(here / "f", os.O_RDWR)
    data = pattern(4 * MIB, 7)
    try:
        written = os.pwrite(fd, data, MIB)
    except OSError as error:
        assert error.errno == errno.ETXTBSY
        written = 0
    assert written <= 3 * MIB
    assert os.fstat(fd).st_size == 4 * MIB
    assert os.pread(fd, written, MIB) == data[:written]
    os.close(fd)


@claim("everything that does not touch the map is allowed: attributes, names, reading, writing in place")
def _(here):
    data = bytearray(make_file(here / "f", MIB))
    ctl("seal", here / "f")
    before = info(here / "f")["map_digest"]
    os.chmod(here / "f", 0o600)
    os.chown(here / "f", 5, 6)
    os.utime(here / "f", (1, 2))
    os.setxattr(here / "f", "user.x", b"y")
    os.removexattr(here / "f", "user.x")
    os.link(here / "f", here / "g")
    os.rename(here / "g", here / "h")
    os.unlink(here / "f")
    fd = os.open(here / "h", os.O_RDWR)
    os.pwrite(fd, b"in place", 12345)
    data[12345:12345 + 8] = b"in place"
    os.ftruncate(fd, MIB)
    os.fsync(fd)
    os.close(fd)
    assert (here / "h").read_bytes() == bytes(data)
    assert info(here / "h")["map_digest"] == before


@claim("a sealed file can be copied from, and be copied over in place")
def _(here):
    data = make_file(here / "f", MIB)
    ctl("seal", here / "f")
    source = os.open(here / "f", os.O_RDONLY)
    target = os.open(here / "copy", os.O_RDWR | os.O_CREAT)
    left = MIB
    while left:
        copied = os.copy_file_range(source, target, left)
        assert copied > 0
        left -= copied
    os.close(source)
    os.close(target)
    assert (here / "copy").read_bytes() == data
    shutil.copyfile(here / "f", here / "second")
    assert (here / "second").read_bytes() == data
    other = pattern(MIB, 3)
    source = os.open(here / "copy", os.O_RDWR)
    os.pwrite(source, other, 0)
    target = os.open(here / "f", os.O_RDWR)
    assert os.copy_file_range(source, target, MIB, 0, 0) > 0
    with fails(errno.ETXTBSY):
        os.copy_file_range(source, target, 4096, 0, MIB)
    os.close(source)
    os.close(target)


@claim("a sealed file can be sent, copied and mapped privately while a process has it open through the cache",
       seconds=20)
def _(here):
    for name in ("sendfile", "copy_file_range", "private mapping"):
        data = make_file(here / name, MIB)
        cached = os.open(here / name, os.O_RDWR)
        ctl("seal", here / name)
        fd = os.open(here / name, os.O_RDWR)  # past the cache; but the kernel fills pages for these
        os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)
        out = os.open(here / "out", os.O_RDWR | os.O_CREAT | os.O_TRUNC)
        if name == "sendfile":
            assert os.sendfile(out, fd, 0, 8192) == 8192
        elif name == "copy_file_range":
            assert os.copy_file_range(fd, out, 8192, 0, 0) == 8192
        else:
            with mmap.mmap(fd, MIB, mmap.MAP_PRIVATE, mmap.PROT_READ) as pages:
                os.pwrite(out, pages[:8192], 0)
        assert os.pread(out, 8192, 0) == data[:8192], name
        os.close(out), os.close(fd), os.close(cached)


@claim("unlink of a sealed file is allowed, and processes that have it open keep it")
def _(here):
    data = make_file(here / "f", MIB)
    ctl("seal", here / "f")
    fd = os.open(here / "f", os.O_RDWR)
    os.unlink(here / "f")
    assert os.pread(fd, MIB, 0) == data
    with fails(errno.ETXTBSY):
        os.ftruncate(fd, 0)
    os.close(fd)


@claim("the first unsuitable offset comes back with EINVAL, in one call")
def _(here):
    fd = os.open(here / "f", os.O_RDWR | os.O_CREAT | os.O_DIRECT)
    os.pwrite(fd, b"x" * 8192, 0)
    os.pwrite(fd, b"x", 5 * 4096)
    assert seal_ioctl(fd) == (errno.EINVAL, 8192)
    assert seal_ioctl(fd, version=7)[0] == errno.EINVAL
    assert seal_ioctl(fd, level=9)[0] == errno.EINVAL
    assert "at offset 8192, there is a hole" in ctl("seal", here / "f", ok=False).stderr
    os.close(fd)


@claim("an empty file, a directory and an unknown word are EINVAL; a handle for reading is EBADF")
def _(here):
    (here / "empty").write_bytes(b"")
    (here / "d").mkdir()
    for path in (here / "empty", here / "d"):
        for name in ("trusted.pmfs.seal", "user.pmfs.seal"):
            with fails(errno.EINVAL):
                os.setxattr(path, name, b"full")
    make_file(here / "f", MIB)
    for word in (b"", b"Full", b"full as-is", b"none", b"0"):
        for name in ("trusted.pmfs.seal", "user.pmfs.seal"):
            with fails(errno.EINVAL):
                os.setxattr(here / "f", name, word)
    fd = os.open(here / "f", os.O_RDONLY)
    assert seal_ioctl(fd)[0] == errno.EBADF
    with fails(errno.EBADF):
        unseal(fd)
    with fails(errno.EBADF):
        fallocate(fd, SEAL_MODE | KEEP_SIZE, 0, MIB)
    os.close(fd)
    fd = open_direct(here / "f")
    for mode, offset, length in ((SEAL_MODE, 0, MIB), (SEAL_MODE | KEEP_SIZE, 1, MIB),
                                 (SEAL_MODE | KEEP_SIZE, 0, MIB - 1),
                                 (SEAL_MODE | UNSEAL_MODE | KEEP_SIZE, 0, MIB)):
        with fails(errno.EINVAL):
            fallocate(fd, mode, offset, length)
    os.close(fd)
    assert seal_of(here / "f") == "none"


@claim("the stock kernel refuses the fallocate modes itself, and the library uses the ioctl")
def _(here):
    make_file(here / "f", MIB)
    fd = open_direct(here / "f")
    with fails(errno.EOPNOTSUPP):
        c_call("fallocate", fd, SEAL_MODE | KEEP_SIZE, libc_off(0), libc_off(MIB))
    fallocate(fd, SEAL_MODE | KEEP_SIZE, 0, MIB)
    assert seal_of(here / "f") == "full"
    os.close(fd)
    with open("/dev/shm/not-pmfs", "w+b") as other:  # a file elsewhere: as any unknown mode
        os.unlink("/dev/shm/not-pmfs")
        with fails(errno.EOPNOTSUPP):
            fallocate(other.fileno(), SEAL_MODE | KEEP_SIZE, 0, 1)


def libc_off(value):
    import ctypes
    return ctypes.c_int64(value)


@claim("an unknown ioctl is ENOTTY, also on a directory; VOLUME works on both")
def _(here):
    (here / "f").write_bytes(b"x")
    for path, flags in ((here / "f", os.O_RDONLY), (here, os.O_RDONLY | os.O_DIRECTORY)):
        fd = os.open(path, flags)
        with fails(errno.ENOTTY):
            fcntl.ioctl(fd, ioc(0x7F, 8), bytearray(8))
        volume = bytearray(792)
        volume[0] = 1
        fcntl.ioctl(fd, ioc(0x30, 792), volume)
        assert int.from_bytes(volume[16:24], "little") == 256 * MIB
        os.close(fd)


@claim("only root seals; with -o seal=owner the owner does, too", alone=True)
def _(maker):
    for options, owner_may in (("", False), ("seal=owner", True)):
        volume = maker.volume(options=options)
        volume.mnt.chmod(0o777)
        volume.directory.chmod(0o755)
        path = volume.mnt / "f"
        make_file(path, MIB)
        os.chown(path, 1000, 1000)

        def stranger():
            with fails(errno.EACCES):  # the kernel: the file is another user's
                os.setxattr(path, "user.pmfs.seal", b"full")
            with fails(errno.EPERM):
                os.setxattr(path, "trusted.pmfs.seal", b"full")

        def owner():
            with fails(errno.EPERM):  # the kernel: CAP_SYS_ADMIN
                os.setxattr(path, "trusted.pmfs.seal", b"full")
            for close, open_again in (INTERFACES["user"], INTERFACES["pmfsctl"]):
                if owner_may:
                    close(path, "full")
                    assert seal_of(path) == "full"
                    open_again(path)
                else:
                    try:
                        close(path, "full")
                    except AssertionError:
                        continue
                    raise AssertionError("the owner sealed")

        as_user(stranger, uid=1001, gid=1001)
        as_user(owner)
        assert seal_of(path) == "none"


@claim("a seal, its level and its digest survive SIGKILL, a clean unmount, and both in turn", alone=True)
def _(maker):
    volume = maker.volume()
    data = make_file(volume.mnt / "full", 3 * MIB)
    fd = os.open(volume.mnt / "as-is", os.O_RDWR | os.O_CREAT)
    os.pwrite(fd, b"x", 5 * MIB)
    os.close(fd)
    ctl("seal", volume.mnt / "full")
    ctl("seal", "--as-is", volume.mnt / "as-is")
    was = {name: info(volume.mnt / name) for name in ("full", "as-is")}
    for killed in (True, False, True):
        if killed:
            volume.kill()
        else:
            assert volume.unmount() == 0
        volume.mount()
        maker.watch()
        for name, before in was.items():
            now = info(volume.mnt / name)
            assert now["seal"] == name and now["map_digest"] == before["map_digest"]
            with fails(errno.ETXTBSY):
                os.truncate(volume.mnt / name, 1)
        assert (volume.mnt / "full").read_bytes() == data
    assert volume.unmount() == 0
    volume.fsck()


@claim("no program that copies attributes seals the copy, whatever the level and wherever to", alone=True)
def _(maker):
    here, there = (maker.volume(size="64M").mnt for _ in range(2))
    words = ["--xattrs", "--xattrs-include=*"]
    for level in ("as-is", "full"):
        sealed = here / level
        data = make_file(sealed, MIB)
        os.setxattr(sealed, "user.kept", b"value")
        ctl("seal", f"--{level}", sealed)
        run("tar", "-C", here, *words, "-cf", maker.directory / "all.tar", level)
        dump = run("getfattr", "-d", "-m-", "-R", level, cwd=here).stdout
        for place in (here, there):
            (place / "tar").mkdir(exist_ok=True)
            run("tar", "-C", place / "tar", *words, "-xpf", maker.directory / "all.tar")
            run("cp", "-a", sealed, place / f"cp-{level}")
            run("cp", "--preserve=all", "--reflink=auto", sealed, place / f"preserve-{level}")
            run("rsync", "-aX", sealed, place / f"rsync-{level}")
            shutil.copy2(sealed, place / f"python-{level}")
            for copy in (place / "tar" / level, *place.glob(f"*-{level}")):
                assert seal_of(copy) == "none", copy
                assert copy.read_bytes() == data and os.getxattr(copy, "user.kept") == b"value", copy
        run("mv", sealed, there / "moved")
        assert seal_of(there / "moved") == "none" and (there / "moved").read_bytes() == data
        (here / level).write_bytes(data)
        run("setfattr", "--restore=-", cwd=here, input=dump)
        assert seal_of(here / level) == "none"


@claim("a read-only mount refuses to seal", alone=True)
def _(maker):
    volume = maker.volume()
    make_file(volume.mnt / "f", MIB)
    assert volume.unmount() == 0
    volume.mount("ro")
    maker.watch()
    with fails(errno.EROFS):
        os.setxattr(volume.mnt / "f", "trusted.pmfs.seal", b"full")
    done = ctl("seal", volume.mnt / "f", ok=False)
    assert done.returncode == 1 and "read-only" in done.stderr


if __name__ == "__main__":
    run_claims()
