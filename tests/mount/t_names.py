#!/usr/bin/env python3
"""Names: lookup, make, link, rename, remove, and the reading of directories."""
# Holds docs/posix.md "Files and names".
import ctypes
import errno
import os
import random
import stat
import struct
from pathlib import Path

from fixture import as_user, c_call, claim, fails, link_open, run_claims, wait_for

NOREPLACE, EXCHANGE, WHITEOUT = 1, 2, 4
AT_FDCWD = -100


def renameat2(old, new, flags):
    c_call("renameat2", AT_FDCWD, os.fsencode(old), AT_FDCWD, os.fsencode(new), flags)


@claim("a name that is not there is ENOENT, also the second time, and is seen as soon as it is made")
def _(here):
    for _ in range(3):
        with fails(errno.ENOENT):
            os.stat(here / "x")
    (here / "x").touch()
    os.stat(here / "x")
    os.unlink(here / "x")
    with fails(errno.ENOENT):
        os.stat(here / "x")


@claim("every type of file can be created, and stat shows its type")
def _(here):
    made = {"file": stat.S_IFREG, "fifo": stat.S_IFIFO, "socket": stat.S_IFSOCK,
            "char": stat.S_IFCHR, "block": stat.S_IFBLK}
    for name, kind in made.items():
        os.mknod(here / name, kind | 0o640, os.makedev(7, 1234) if name in ("char", "block") else 0)
    os.mkdir(here / "dir", 0o750)
    os.symlink("nowhere", here / "symlink")
    for name, kind in {**made, "dir": stat.S_IFDIR, "symlink": stat.S_IFLNK}.items():
        st = os.lstat(here / name)
        assert stat.S_IFMT(st.st_mode) == kind, name
    assert os.stat(here / "char").st_rdev == os.makedev(7, 1234)
    assert stat.S_IMODE(os.stat(here / "dir").st_mode) == 0o750
    types = {entry.name: entry for entry in os.scandir(here)}
    assert types["dir"].is_dir() and types["symlink"].is_symlink() and types["file"].is_file()


@claim("creating what exists is EEXIST")
def _(here):
    (here / "x").touch()
    with fails(errno.EEXIST):
        os.open(here / "x", os.O_CREAT | os.O_EXCL | os.O_WRONLY)
    with fails(errno.EEXIST):
        os.mkdir(here / "x")
    with fails(errno.EEXIST):
        os.symlink("a", here / "x")
    with fails(errno.EEXIST):
        os.link(here / "x", here / "x")
    with fails(errno.EEXIST):
        os.mknod(here / "x", stat.S_IFIFO | 0o600)


@claim("a name may have 255 bytes and not 256")
def _(here):
    for name in ("n" * 255, "\u00e9" * 127 + "x", "\udcff" * 255):
        (here / name).touch()
        assert name in os.listdir(here)
        os.rename(here / name, here / "short")
        os.rename(here / "short", here / name)
        os.unlink(here / name)
    long = here / ("n" * 256)
    for make in (lambda: os.open(long, os.O_CREAT | os.O_WRONLY), lambda: os.mkdir(long),
                 lambda: os.symlink("x", long), lambda: os.stat(long), lambda: os.unlink(long)):
        with fails(errno.ENAMETOOLONG):
            make()
    (here / "x").touch()
    with fails(errno.ENAMETOOLONG):
        os.rename(here / "x", long)
    with fails(errno.ENAMETOOLONG):
        os.link(here / "x", long)
    assert os.listdir(here) == ["x"]


@claim("a name is bytes: case, spaces, newlines and what is not UTF-8 all differ")
def _(here):
    names = [b"a", b"A", b" ", b"a ", b"\n", b"\xff\xfe", "\u00e4".encode(), b"a\xcc\x88", b"...", b"-rf"]
    for name in names:
        with open(os.path.join(os.fsencode(here), name), "wb") as file:
            file.write(name)
    assert sorted(os.listdir(os.fsencode(here))) == sorted(names)
    for name in names:
        with open(os.path.join(os.fsencode(here), name), "rb") as file:
            assert file.read() == name


@claim("a symlink gives back its target, up to 4095 bytes")
def _(here):
    for size in (1, 59, 60, 100, 272, 273, 1023, 1024, 4000, 4001, 4032, 4033, 4095):
        target = "t" * size
        os.symlink(target, here / f"s{size}")
        assert os.readlink(here / f"s{size}") == target
        assert os.lstat(here / f"s{size}").st_size == size
    with fails(errno.ENAMETOOLONG):
        os.symlink("t" * 4096, here / "long")
    with fails(errno.ENOENT):
        os.symlink("", here / "empty")
    (here / "dir").mkdir()
    (here / "dir" / "file").write_text("deep")
    os.symlink("dir", here / "way")
    assert (here / "way" / "file").read_text() == "deep"


@claim("a hard link is the same file under another name, and is counted in st_nlink")
def _(here):
    (here / "a").write_text("one")
    os.link(here / "a", here / "b")
    assert os.stat(here / "a").st_ino == os.stat(here / "b").st_ino
    assert os.stat(here / "a").st_nlink == 2
    (here / "b").write_text("two")
    assert (here / "a").read_text() == "two"
    before = os.stat(here / "b").st_ctime_ns
    os.unlink(here / "a")
    assert os.stat(here / "b").st_nlink == 1 and os.stat(here / "b").st_ctime_ns >= before
    assert (here / "b").read_text() == "two"
    os.mkdir(here / "dir")
    with fails(errno.EPERM):
        os.link(here / "dir", here / "dir2")


@claim("directories count their subdirectories in st_nlink")
def _(here):
    assert os.stat(here).st_nlink == 2
    os.mkdir(here / "a")
    os.mkdir(here / "b")
    assert os.stat(here).st_nlink == 4
    os.rename(here / "a", here / "b" / "a")
    assert os.stat(here).st_nlink == 3 and os.stat(here / "b").st_nlink == 3
    os.rmdir(here / "b" / "a")
    os.rmdir(here / "b")
    assert os.stat(here).st_nlink == 2


@claim("unlink removes no directory; rmdir removes only empty directories")
def _(here):
    os.mkdir(here / "dir")
    (here / "file").touch()
    with fails(errno.EISDIR, errno.EPERM):
        os.unlink(here / "dir")
    with fails(errno.ENOTDIR):
        os.rmdir(here / "file")
    (here / "dir" / "x").touch()
    with fails(errno.ENOTEMPTY):
        os.rmdir(here / "dir")
    os.unlink(here / "dir" / "x")
    os.rmdir(here / "dir")
    with fails(errno.ENOENT):
        os.rmdir(here / "dir")


@claim("a removed file lives on while it is open, and a removed directory while it is a working directory")
def _(here):
    fd = os.open(here / "x", os.O_CREAT | os.O_RDWR)
    os.write(fd, b"still here")
    os.unlink(here / "x")
    assert os.fstat(fd).st_nlink == 0
    assert os.pread(fd, 100, 0) == b"still here"
    os.ftruncate(fd, 5)
    os.pwrite(fd, b"again", 5)
    assert os.pread(fd, 100, 0) == b"stillagain"
    (here / "x").write_text("another")
    assert os.pread(fd, 100, 0) == b"stillagain"
    os.close(fd)

    os.mkdir(here / "dir")
    fd = os.open(here / "dir", os.O_RDONLY | os.O_DIRECTORY)
    os.rmdir(here / "dir")
    assert os.fstat(fd).st_nlink == 0
    assert os.listdir(fd) == []
    with fails(errno.ENOENT):
        os.open("y", os.O_CREAT | os.O_WRONLY, dir_fd=fd)
    os.close(fd)


@claim("rename replaces a file and an empty directory, and nothing of another type or that is not empty")
def _(here):
    (here / "a").write_text("a")
    (here / "b").write_text("b")
    os.rename(here / "a", here / "b")
    assert (here / "b").read_text() == "a" and not (here / "a").exists()
    os.mkdir(here / "d1")
    os.mkdir(here / "d2")
    (here / "d1" / "x").touch()
    os.rename(here / "d1", here / "d2")
    assert os.listdir(here / "d2") == ["x"]
    os.mkdir(here / "d3")
    with fails(errno.ENOTEMPTY, errno.EEXIST):
        os.rename(here / "d3", here / "d2")
    with fails(errno.ENOTDIR):
        os.rename(here / "d3", here / "b")
    with fails(errno.EISDIR):
        os.rename(here / "b", here / "d3")
    with fails(errno.EINVAL):
        os.rename(here / "d2", here / "d2" / "x2")
    with fails(errno.ENOENT):
        os.rename(here / "none", here / "b")
    os.link(here / "b", here / "same")
    os.rename(here / "b", here / "same")
    assert (here / "b").exists() and (here / "same").exists()


@claim("rename moves a directory with all below it, and `..` goes to its new parent")
def _(here):
    os.makedirs(here / "from" / "dir" / "deep")
    (here / "from" / "dir" / "deep" / "file").write_text("x")
    os.mkdir(here / "to")
    os.rename(here / "from" / "dir", here / "to" / "moved")
    assert (here / "to" / "moved" / "deep" / "file").read_text() == "x"
    assert os.stat(here / "to" / "moved" / "..").st_ino == os.stat(here / "to").st_ino
    entries = {e: os.stat(here / "to" / "moved" / e).st_ino for e in (".", "..")}
    assert entries["."] == os.stat(here / "to" / "moved").st_ino


@claim("rename with NOREPLACE replaces nothing")
def _(here):
    (here / "a").write_text("a")
    (here / "b").write_text("b")
    with fails(errno.EEXIST):
        renameat2(here / "a", here / "b", NOREPLACE)
    assert (here / "a").read_text() == "a" and (here / "b").read_text() == "b"
    renameat2(here / "a", here / "c", NOREPLACE)
    assert (here / "c").read_text() == "a" and not (here / "a").exists()


@claim("rename with EXCHANGE swaps two names, of any types and in any directories")
def _(here):
    (here / "file").write_text("file")
    os.makedirs(here / "d" / "dir" / "sub")
    renameat2(here / "file", here / "d" / "dir", EXCHANGE)
    assert (here / "d" / "dir").read_text() == "file" and (here / "file" / "sub").is_dir()
    assert os.stat(here / "file" / "..").st_ino == os.stat(here).st_ino
    assert os.stat(here / "d").st_nlink == 2 and os.stat(here).st_nlink == 4
    with fails(errno.ENOENT):
        renameat2(here / "file", here / "none", EXCHANGE)
    with fails(errno.EINVAL):
        renameat2(here / "file", here / "d" / "dir", EXCHANGE | NOREPLACE)
    with fails(errno.EINVAL):
        renameat2(here / "file", here / "file" / "sub", EXCHANGE)


@claim("a directory of 10000 entries lists each once, in whatever pieces it is read", seconds=120)
def _(here):
    names = {f"entry-{number:05}" for number in range(10000)}
    for name in names:
        os.close(os.open(here / name, os.O_CREAT | os.O_EXCL | os.O_WRONLY))
    assert sorted(os.listdir(here)) == sorted(names)
    for size in (280, 4096, 1 << 20):
        found = [name for name, _ in raw_entries(here, size)]
        assert len(found) == len(names) + 2 and set(found) == names | {".", ".."}, size
    assert sum(entry.stat().st_size for entry in os.scandir(here)) == 0
    for name in names:
        os.unlink(here / name)
    assert os.listdir(here) == []


def raw_entries(path, size):
    """(name, offset after it) by getdents64 with a buffer of `size` bytes."""
    fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        yield from entries_of(fd, size)
    finally:
        os.close(fd)


def entries_of(fd, size):
    buffer = ctypes.create_string_buffer(size)
    while True:
        count = c_call("syscall", 217, fd, buffer, size)
        if count == 0:
            return
        position = 0
        while position < count:
            _, offset, length = struct.unpack_from("<QqH", buffer, position)
            name = buffer.raw[position + 19:position + length].split(b"\0")[0]
            yield os.fsdecode(name), offset
            position += length


@claim("a position in a directory (telldir) stays valid while entries around it come and go")
def _(here):
    names = [f"f{number:04}" for number in range(2000)]
    for name in names:
        (here / name).touch()
    order = list(raw_entries(here, 4096))
    middle = order[1000][1]
    rest = {name for name, _ in order[1001:]}
    gone = set(random.Random(7).sample(sorted(rest), 300))
    for name in gone | {name for name, _ in order[500:900] if name.startswith("f")}:
        os.unlink(here / name)
    for number in range(50):
        (here / f"new{number}").touch()
    fd = os.open(here, os.O_RDONLY | os.O_DIRECTORY)
    os.lseek(fd, middle, os.SEEK_SET)
    found = [name for name, _ in entries_of(fd, 4096)]
    os.close(fd)
    old = {name for name in found if name.startswith("f")}
    assert len(found) == len(set(found))
    # The kernel may still list what is gone when it begins in the middle, but skips nothing.
    assert rest - gone <= old <= rest, (len(old), len(rest - gone))


@claim("a position in a directory stays valid across mounts", alone=True)
def _(maker):
    volume = maker.volume(size="64M")
    for number in range(500):
        (volume.mnt / f"f{number}").touch()
    before = list(raw_entries(volume.mnt, 4096))
    assert volume.unmount() == 0
    volume.mount()
    maker.watch()
    assert list(raw_entries(volume.mnt, 4096)) == before


@claim("entries that are not touched are listed exactly once while others are removed and made during the reading")
def _(here):
    keep = {f"keep{number}" for number in range(1500)}
    other = [f"other{number}" for number in range(1500)]
    for name in keep | set(other):
        (here / name).touch()
    fd = os.open(here, os.O_RDONLY | os.O_DIRECTORY)
    seen = []
    for count, (name, _) in enumerate(entries_of(fd, 1024)):
        seen.append(name)
        if count % 10 == 0 and other:
            os.unlink(here / other.pop())
            (here / f"made{count}").touch()
    os.close(fd)
    assert len(seen) == len(set(seen))
    assert keep <= set(seen)


@claim("rm -r of a directory while it is read leaves nothing")
def _(here):
    for number in range(3000):
        (here / f"f{number}").touch()
    for name, _ in raw_entries(here, 4096):
        if name not in (".", ".."):
            os.unlink(here / name)
    assert os.listdir(here) == []


@claim("a tree may be a thousand directories deep")
def _(here):
    fd = os.open(here, os.O_RDONLY | os.O_DIRECTORY)
    for depth in range(1000):
        os.mkdir("d", dir_fd=fd)
        below = os.open("d", os.O_RDONLY | os.O_DIRECTORY, dir_fd=fd)
        os.close(fd)
        fd = below
    os.close(os.open("bottom", os.O_CREAT | os.O_WRONLY, dir_fd=fd))
    for depth in range(1000):
        up = os.open("..", os.O_RDONLY | os.O_DIRECTORY, dir_fd=fd)
        os.close(fd)
        fd = up
    assert os.fstat(fd).st_ino == os.stat(here).st_ino
    os.close(fd)
    import subprocess
    subprocess.run(["rm", "-rf", str(here / "d")], check=True)


@claim("a file of O_TMPFILE has no name until it is given one, and is gone with its last descriptor otherwise")
def _(here):
    free = os.statvfs(here).f_bfree
    fd = os.open(here, os.O_TMPFILE | os.O_RDWR, 0o640)
    assert os.fstat(fd).st_nlink == 0 and stat.S_IMODE(os.fstat(fd).st_mode) == 0o640
    os.write(fd, b"words" * 100_000)
    os.fsync(fd)
    assert os.listdir(here) == []
    link_open(fd, here / "named")
    assert os.fstat(fd).st_nlink == 1 and os.listdir(here) == ["named"]
    c_call("linkat", fd, b"", AT_FDCWD, os.fsencode(here / "again"), 0x1000)  # AT_EMPTY_PATH
    assert os.fstat(fd).st_nlink == 2
    os.close(fd)
    assert (here / "named").read_bytes() == b"words" * 100_000
    os.unlink(here / "named")
    os.unlink(here / "again")

    fd = os.open(here, os.O_TMPFILE | os.O_RDWR | os.O_EXCL)
    os.write(fd, b"never seen")
    with fails(errno.ENOENT):
        link_open(fd, here / "named")
    os.close(fd)
    assert wait_for(lambda: os.statvfs(here).f_bfree >= free), "what has no name any more keeps its blocks"


@claim("a file that lost its last name does not get another one")
def _(here):
    fd = os.open(here / "f", os.O_CREAT | os.O_RDWR)
    os.unlink(here / "f")
    with fails(errno.ENOENT):
        link_open(fd, here / "f")
    os.close(fd)


@claim("a rename with WHITEOUT leaves a character device 0:0 behind, also for a user, and over what is there")
def _(here):
    def is_whiteout(path):
        found = os.lstat(path)
        return stat.S_ISCHR(found.st_mode) and found.st_rdev == 0 and found.st_nlink == 1

    (here / "a").write_text("a")
    (here / "b").write_text("b")
    (here / "d").mkdir()
    (here / "d" / "sub").mkdir()
    renameat2(here / "a", here / "c", WHITEOUT)
    assert is_whiteout(here / "a") and (here / "c").read_text() == "a"
    renameat2(here / "c", here / "b", WHITEOUT)
    assert is_whiteout(here / "c") and (here / "b").read_text() == "a"
    with fails(errno.EEXIST):
        renameat2(here / "b", here / "c", WHITEOUT | NOREPLACE)
    renameat2(here / "d" / "sub", here / "sub", WHITEOUT | NOREPLACE)
    assert is_whiteout(here / "d" / "sub") and (here / "sub").is_dir()
    assert os.stat(here / "d").st_nlink == 2 and os.stat(here).st_nlink == 4
    kinds = {entry.name: entry.is_char_device() for entry in map(Path, os.scandir(here))}
    assert kinds == {"a": True, "b": False, "c": True, "d": False, "sub": False}, kinds
    os.mknod(here / "by-mknod", stat.S_IFCHR | 0o600, 0)
    assert is_whiteout(here / "by-mknod")
    with fails(errno.EINVAL):
        renameat2(here / "a", here / "b", WHITEOUT | EXCHANGE)

    os.chmod(here, 0o777)

    def as_somebody():
        (here / "mine").write_text("mine")
        renameat2(here / "mine", here / "moved", WHITEOUT)
        assert is_whiteout(here / "mine") and os.lstat(here / "mine").st_uid == 1000
    as_user(as_somebody)


if __name__ == "__main__":
    run_claims()
