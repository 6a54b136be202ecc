#!/usr/bin/env python3
"""POSIX access control lists: those of acl(5), as other local filesystems keep them."""
# Holds docs/posix.md "Permissions".
import errno
import mmap
import os
import stat
import struct

from fixture import as_user, c_call, claim, fails, link_open, run, run_claims

ACCESS, DEFAULT = "system.posix_acl_access", "system.posix_acl_default"


AT_FDCWD, WHITEOUT = -100, 4


def renameat2(old, new, flags):
    c_call("renameat2", AT_FDCWD, os.fsencode(old), AT_FDCWD, os.fsencode(new), flags)


def acl_of(path, *options):
    """The lines of getfacl, without comments."""
    lines = run("getfacl", "-cEnp", *options, path).stdout.split("\n")
    return [line for line in lines if line]


def setfacl(path, *words):
    run("setfacl", *words, path)


@claim("a list allows those that it names, within its mask, and no others")
def _(here):
    os.chmod(here, 0o755)
    (here / "f").write_text("words")
    os.chmod(here / "f", 0o600)
    setfacl(here / "f", "-m", "u:1000:rw,g:2000:r,u:1001:rw,m::r")
    assert acl_of(here / "f") == ["user::rw-", "user:1000:rw-", "user:1001:rw-", "group::---",
                                  "group:2000:r--", "mask::r--", "other::---"]
    assert stat.S_IMODE(os.stat(here / "f").st_mode) == 0o640

    def reads():
        assert (here / "f").read_text() == "words"
        with fails(errno.EACCES):
            os.open(here / "f", os.O_WRONLY)

    def refused():
        with fails(errno.EACCES):
            (here / "f").read_text()
    as_user(reads, 1000, 1000)
    as_user(reads, 1002, 1002, groups=(2000,))
    as_user(refused, 1002, 1002)
    as_user(refused, 1003, 0)  # the owning group has nothing, whatever the mode's bits show
    setfacl(here / "f", "-m", "m::rw")

    def writes():
        (here / "f").write_text("more")
    as_user(writes, 1000, 1000)
    setfacl(here / "f", "-x", "u:1000")
    as_user(refused, 1000, 1000)
    setfacl(here / "f", "-b")
    assert acl_of(here / "f") == ["user::rw-", "group::---", "other::---"]
    assert os.listxattr(here / "f") == []


@claim("chmod changes the mask, and setting a list changes the mode")
def _(here):
    (here / "f").touch()
    setfacl(here / "f", "-m", "u:1000:rwx,m::rwx")
    os.chmod(here / "f", 0o751)
    assert acl_of(here / "f") == ["user::rwx", "user:1000:rwx", "group::r--", "mask::r-x", "other::--x"]
    setfacl(here / "f", "-m", "m::-")
    assert stat.S_IMODE(os.stat(here / "f").st_mode) == 0o701
    setfacl(here / "f", "-n", "-m", "u::rw,o::-")
    assert stat.S_IMODE(os.stat(here / "f").st_mode) == 0o600


@claim("new files in a directory with a default list inherit it, whatever the umask")
def _(here):
    (here / "d").mkdir()
    setfacl(here / "d", "-d", "-m", "u::rwx,u:1000:rwx,g::rx,o::-")
    before = os.umask(0o077)
    try:
        os.close(os.open(here / "d" / "f", os.O_CREAT | os.O_WRONLY, 0o666))
        (here / "d" / "sub").mkdir()
        os.mkfifo(here / "d" / "fifo", 0o666)
        os.symlink("f", here / "d" / "link")
        fd = os.open(here / "d", os.O_TMPFILE | os.O_RDWR, 0o666)
        link_open(fd, here / "d" / "nameless")
        os.close(fd)
        os.close(os.open(here / "plain", os.O_CREAT | os.O_WRONLY, 0o666))
    finally:
        os.umask(before)
    wanted = ["user::rw-", "user:1000:rwx", "group::r-x", "mask::rw-", "other::---"]
    for name in ("f", "fifo", "nameless"):
        assert acl_of(here / "d" / name) == wanted, (name, acl_of(here / "d" / name))
    assert acl_of(here / "d" / "sub", "-d") == acl_of(here / "d", "-d")
    assert acl_of(here / "d" / "sub", "-a")[1] == "user:1000:rwx"
    assert stat.S_IMODE(os.stat(here / "plain").st_mode) == 0o600
    assert stat.S_IMODE(os.lstat(here / "d" / "link").st_mode) == 0o777


@claim("a whiteout gets no list, even in a directory with a default list")
def _(here):
    (here / "d").mkdir()
    setfacl(here / "d", "-d", "-m", "u:1000:rwx")
    (here / "d" / "f").write_text("words")
    renameat2(here / "d" / "f", here / "d" / "g", WHITEOUT)
    assert stat.S_ISCHR(os.lstat(here / "d" / "f").st_mode) and os.listxattr(here / "d" / "f") == []
    assert os.listxattr(here / "d" / "g") == [ACCESS]


@claim("setting a list clears set-group-ID unless the user is in the group")
def _(here):
    os.chmod(here, 0o777)
    for gid, left in ((3000, 0), (1000, stat.S_ISGID), (2000, stat.S_ISGID)):
        path = here / f"f{gid}"
        path.touch()
        os.chown(path, 1000, gid)
        os.chmod(path, 0o2770)
        as_user(lambda: setfacl(path, "-m", "u:1001:rx"), 1000, 1000, groups=(2000,))
        assert os.stat(path).st_mode & stat.S_ISGID == left, gid


@claim("only the owner sets a list, and an invalid list is EINVAL")
def _(here):
    (here / "f").touch()
    os.chmod(here, 0o777)
    before = acl_of(here / "f")

    def entry(tag, allowed, number=0xffffffff):
        return struct.pack("<HHI", tag, allowed, number)
    version = struct.pack("<I", 2)
    whole = version + entry(1, 6) + entry(4, 4) + entry(0x20, 4)

    def by_another():
        with fails(errno.EPERM):
            os.setxattr(here / "f", ACCESS, whole)
    as_user(by_another)
    for value in (b"x", version + b"x" * 7, struct.pack("<I", 1) + whole[4:], version + entry(1, 6),
                  version + entry(4, 4) + entry(1, 6) + entry(0x20, 4),
                  version + entry(1, 6) + entry(2, 6, 1000) + entry(4, 4) + entry(0x20, 4),
                  version + entry(1, 8) + entry(4, 4) + entry(0x20, 4)):
        with fails(errno.EINVAL, errno.EOPNOTSUPP):  # (a wrong version is EOPNOTSUPP to the kernel)
            os.setxattr(here / "f", ACCESS, value)
    with fails(errno.EACCES):
        os.setxattr(here / "f", DEFAULT, whole)
    assert acl_of(here / "f") == before


@claim("cp -a, mv, tar and rsync -A bring lists from elsewhere and take them there", seconds=120)
def _(here):
    source = here / "source"
    away = None
    for candidate in ("/var/tmp", "/dev/shm"):
        probe = f"{candidate}/pmfs-acl-{os.getpid()}"
        os.mkdir(probe)
        if os.stat(probe).st_dev == os.stat(here).st_dev:
            os.rmdir(probe)
            continue
        away = probe
        break
    try:
        source.mkdir()
        (source / "d").mkdir()
        (source / "d" / "f").write_text("words")
        setfacl(source / "d", "-m", "u:1000:rwx,d:u:1001:rx,d:g::-")
        setfacl(source / "d" / "f", "-m", "u:1002:r")
        wanted = (acl_of(source / "d"), acl_of(source / "d" / "f"))

        def same(place):
            assert (acl_of(f"{place}/d"), acl_of(f"{place}/d/f")) == wanted, place
        run("cp", "-a", source, f"{away}/cp")
        same(f"{away}/cp")
        run("cp", "-a", f"{away}/cp", here / "cp-back")
        same(here / "cp-back")
        run("mv", f"{away}/cp", here / "mv-back")
        same(here / "mv-back")
        run("rsync", "-aA", f"{source}/", f"{away}/rsync/")
        same(f"{away}/rsync")
        run("rsync", "-aA", f"{away}/rsync/", here / "rsync-back/")
        same(here / "rsync-back")
        run("tar", "-C", source, "--acls", "-cf", f"{away}/tar", ".")
        (here / "tar-back").mkdir()
        run("tar", "-C", here / "tar-back", "--acls", "-xf", f"{away}/tar")
        same(here / "tar-back")
    finally:
        run("rm", "-rf", away)


@claim("lists survive a server that is killed, and a new mount", alone=True)
def _(maker):
    volume = maker.volume(size="16M")
    (volume.mnt / "d").mkdir()
    setfacl(volume.mnt / "d", "-m", "u:1000:rwx,d:u:1001:rwx")
    (volume.mnt / "d" / "f").touch()
    wanted = (acl_of(volume.mnt / "d"), acl_of(volume.mnt / "d" / "f"))
    assert "user:1001:rwx" in wanted[1]
    volume.kill()
    volume.mount()
    maker.watch()
    assert (acl_of(volume.mnt / "d"), acl_of(volume.mnt / "d" / "f")) == wanted
    volume.unmount()
    volume.fsck()


@claim("a list of more than 112 entries is E2BIG, and one of 112 is kept")
def _(here):
    (here / "f").touch()

    def many(count):
        named = b"".join(struct.pack("<HHI", 2, 4, 1000 + number) for number in range(count - 4))
        return (struct.pack("<I", 2) + struct.pack("<HHI", 1, 6, 0xffffffff) + named +
                struct.pack("<HHI", 4, 4, 0xffffffff) + struct.pack("<HHI", 0x10, 4, 0xffffffff) +
                struct.pack("<HHI", 0x20, 0, 0xffffffff))
    os.setxattr(here / "f", ACCESS, many(112))
    assert os.getxattr(here / "f", ACCESS) == many(112)
    with fails(errno.E2BIG):
        os.setxattr(here / "f", ACCESS, many(113))
    os.chmod(here / "f", 0o604)
    assert acl_of(here / "f")[-2:] == ["mask::---", "other::r--"]


@claim("a list that takes permissions away does so at once, also of a file that is open for writing and has holes")
def _(here):
    os.chmod(here, 0o777)
    path = here / "f"
    fd = os.open(path, os.O_CREAT | os.O_RDWR, 0o666)
    os.fchmod(fd, 0o666)
    os.ftruncate(fd, 1 << 20)  # so st_blocks depends on what the kernel has not written back
    os.stat(path)

    def refused(flags):
        with fails(errno.EACCES):
            os.close(os.open(path, flags))
    try:
        setfacl(path, "-m", "u:1000:---")
        as_user(lambda: refused(os.O_RDONLY))
        setfacl(path, "-b")
        os.setxattr(path, ACCESS, struct.pack("<I", 2) + b"".join(
            struct.pack("<HHI", tag, bits, 0xffffffff) for tag, bits in ((1, 6), (4, 4), (0x20, 0))))
        for _ in range(3):
            as_user(lambda: refused(os.O_RDONLY))
            os.stat(path)
        os.chmod(path, 0o604)
        as_user(lambda: refused(os.O_WRONLY))
        as_user(lambda: os.close(os.open(path, os.O_RDONLY)))
        with mmap.mmap(fd, 4096) as mapping:
            mapping[0] = 1
            assert os.stat(path).st_blocks, "tar takes a file without blocks for one hole"
    finally:
        os.close(fd)


if __name__ == "__main__":
    run_claims()
