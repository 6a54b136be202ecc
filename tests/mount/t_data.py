#!/usr/bin/env python3
"""Data: read, write, holes, allocation, mappings, times."""
# Holds docs/posix.md "Times", "Mappings".
import contextlib
import ctypes
import errno
import fcntl
import hashlib
import json
import mmap
import os
import random
import signal
import subprocess
import time

from fixture import c_call, claim, fails, program, run, run_claims

KEEP_SIZE, PUNCH_HOLE, COLLAPSE, ZERO_RANGE, INSERT, UNSHARE = 1, 2, 8, 16, 32, 64
MIB = 1 << 20


def fallocate(fd, mode, offset, length):
    c_call("fallocate64", fd, mode, ctypes.c_int64(offset), ctypes.c_int64(length))


def segments(path):
    """[(is data, start, end)] by SEEK_DATA and SEEK_HOLE."""
    found, offset = [], 0
    with open(path, "rb") as file:
        size = os.fstat(file.fileno()).st_size
        while offset < size:
            try:
                data = os.lseek(file.fileno(), offset, os.SEEK_DATA)
            except OSError as error:
                assert error.errno == errno.ENXIO
                data = size
            if data > offset:
                found.append((False, offset, data))
            if data == size:
                break
            hole = os.lseek(file.fileno(), data, os.SEEK_HOLE)
            assert hole > data
            found.append((True, data, hole))
            offset = hole
    return found


@claim("what is written is read, in any pieces and at any offsets")
def _(here):
    source = random.Random(1)
    model = bytearray()
    fd = os.open(here / "f", os.O_CREAT | os.O_RDWR)
    for _ in range(400):
        offset = source.randrange(0, 3 * MIB)
        piece = source.randbytes(source.choice((1, 7, 511, 4096, 5000, 65536, 300000)))
        assert os.pwrite(fd, piece, offset) == len(piece)
        model.extend(bytes(max(0, offset + len(piece) - len(model))))
        model[offset:offset + len(piece)] = piece
    for _ in range(400):
        offset, size = source.randrange(0, len(model) + 1000), source.randrange(1, 200000)
        assert os.pread(fd, size, offset) == model[offset:offset + size]
    assert os.fstat(fd).st_size == len(model)
    os.close(fd)
    assert (here / "f").read_bytes() == model


@claim("one write of 16 MiB, one byte off every boundary, comes back whole")
def _(here):
    data = random.Random(2).randbytes(16 * MIB + 3)
    with open(here / "f", "wb", buffering=0) as file:
        file.seek(4095)
        assert file.write(data) == len(data)
    found = (here / "f").read_bytes()
    assert found[:4095] == bytes(4095) and found[4095:] == data


@claim("O_APPEND appends, from two descriptors in turns")
def _(here):
    one = os.open(here / "log", os.O_CREAT | os.O_WRONLY | os.O_APPEND)
    two = os.open(here / "log", os.O_WRONLY | os.O_APPEND)
    for number in range(100):
        os.write(one if number % 2 else two, f"{number:03}\n".encode())
    assert (here / "log").read_text() == "".join(f"{number:03}\n" for number in range(100))
    os.close(one)
    os.close(two)


@claim("O_TRUNC empties a file, O_CREAT alone does not")
def _(here):
    (here / "f").write_text("content")
    os.close(os.open(here / "f", os.O_CREAT | os.O_RDWR))
    assert (here / "f").read_text() == "content"
    os.close(os.open(here / "f", os.O_TRUNC | os.O_WRONLY))
    assert os.stat(here / "f").st_size == 0 and os.stat(here / "f").st_blocks == 0


@claim("truncate shortens and lengthens, and what was cut off never comes back")
def _(here):
    with open(here / "f", "wb+", buffering=0) as file:
        file.write(b"x" * 10000)
        file.truncate(5000)
        file.truncate(20000)
        assert os.pread(file.fileno(), 20000, 0) == b"x" * 5000 + bytes(15000)
        file.truncate(3 * MIB + 1)
        assert os.fstat(file.fileno()).st_size == 3 * MIB + 1
        file.truncate(0)
        assert os.fstat(file.fileno()).st_blocks == 0
    with fails(errno.EINVAL):
        os.truncate(here / "f", -1)
    os.truncate(here / "f", 1 << 40)
    assert os.stat(here / "f").st_size == 1 << 40 and os.stat(here / "f").st_blocks < 64
    with fails(errno.EFBIG, errno.EINVAL):
        os.truncate(here / "f", (1 << 62))


@claim("holders of fcntl leases are told of an open or a truncation, which waits for them")
def _(here):
    set_lease, get_lease = 1024, 1025
    path = here / "f"
    path.write_bytes(b"x")
    breaks = [(os.O_RDONLY, fcntl.F_RDLCK, lambda: os.open(path, os.O_WRONLY)),
              (os.O_RDWR, fcntl.F_WRLCK, lambda: os.open(path, os.O_RDONLY)),
              (os.O_RDWR, fcntl.F_WRLCK, lambda: os.truncate(path, 0))]
    for flags, kind, opens in breaks:
        fd = os.open(path, flags)
        was = signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGIO])
        try:
            fcntl.fcntl(fd, set_lease, kind)
            assert fcntl.fcntl(fd, get_lease) == kind
            child = os.fork()
            if child == 0:
                opens()
                os._exit(0)
            assert signal.sigtimedwait([signal.SIGIO], 10) is not None
            assert os.waitpid(child, os.WNOHANG) == (0, 0), "it waits"
            fcntl.fcntl(fd, set_lease, fcntl.F_UNLCK)
            assert os.waitpid(child, 0)[1] == 0
        finally:
            os.close(fd)
            signal.pthread_sigmask(signal.SIG_SETMASK, was)


def birth(path):
    return run("stat", "-c", "%.9W", path).stdout.strip()


@claim("statx gives the birth time of a file of any type, which nothing moves, and a mount keeps", alone=True)
def _(maker):
    volume = maker.volume(size="64M")
    here = volume.mnt
    before = time.time() - 0.1
    (here / "file").write_bytes(b"x" * 5000)
    (here / "directory").mkdir()
    os.symlink("file", here / "link")
    os.mkfifo(here / "fifo")
    os.mknod(here / "device", 0o60600, os.makedev(259, 70000))
    after = time.time() + 0.1
    names = ("file", "directory", "link", "fifo", "device", ".")
    births = {name: birth(here / name) for name in names}
    assert all(before < float(births[name]) < after for name in names[:-1]), (before, births, after)
    assert before - 60 < float(births["."]) < after
    time.sleep(0.02)
    (here / "file").write_bytes(b"more")
    os.chmod(here / "file", 0o600)
    os.utime(here / "file", (1, 1))
    os.link(here / "file", here / "other")
    os.rename(here / "directory", here / "directory2")
    os.rename(here / "directory2", here / "directory")
    for remounted in (False, True):
        if remounted:
            assert volume.unmount() == 0
            volume.mount()
            maker.watch()
        assert {name: birth(here / name) for name in names} == births
        assert birth(here / "other") == births["file"]
        # The same request brings all the rest.
        for name in names:
            said = run("stat", "-c", "%f %h %u %g %s %b %B %i %t %T %X %Y", here / name).stdout.split()
            st = os.lstat(here / name)
            assert said == [f"{st.st_mode:x}", *(str(value) for value in (
                st.st_nlink, st.st_uid, st.st_gid, st.st_size, st.st_blocks, 512, st.st_ino)),
                f"{os.major(st.st_rdev):x}", f"{os.minor(st.st_rdev):x}",
                str(int(st.st_atime)), str(int(st.st_mtime))], name


@claim("every truncation moves mtime and ctime, also to the same size, and of an empty file")
def _(here):
    def by_descriptor(path, size):
        fd = os.open(path, os.O_RDWR)
        os.ftruncate(fd, size)
        os.close(fd)

    def by_open(path, size):
        assert size == 0
        os.close(os.open(path, os.O_WRONLY | os.O_TRUNC))

    for way, sizes in ((os.truncate, (5000, 5000, 100, 8192, 0, 0)), (by_open, (0, 0)),
                       (by_descriptor, (5000, 5000, 100, 8192, 0, 0))):
        (here / "f").write_bytes(b"x" * 5000)
        for size in sizes:
            old = os.stat(here / "f")
            time.sleep(0.01)
            way(here / "f", size)
            new = os.stat(here / "f")
            assert new.st_size == size
            assert new.st_mtime_ns > old.st_mtime_ns and new.st_ctime_ns > old.st_ctime_ns, (way, size)
            assert new.st_atime_ns == old.st_atime_ns


@claim("a truncation to the same size gives back what was allocated behind the end")
def _(here):
    def by_descriptor(path, size):
        with open(path, "r+b", buffering=0) as file:
            file.truncate(size)

    for size in (0, 1, 4096, 5000):
        for way in (os.truncate, by_descriptor, lambda path, size: open(path, "wb").close()):
            fd = os.open(here / "f", os.O_RDWR | os.O_CREAT | os.O_TRUNC)
            os.write(fd, b"x" * size)
            fallocate(fd, KEEP_SIZE, 0, MIB)
            os.close(fd)
            assert os.stat(here / "f").st_blocks == MIB // 512
            if way not in (os.truncate, by_descriptor) and size != 0:
                continue
            way(here / "f", size)
            assert os.stat(here / "f").st_blocks == -(-size // 4096) * 8
            assert (here / "f").read_bytes() == b"x" * size


@claim("a hole takes no space, reads as zeroes, and SEEK_DATA and SEEK_HOLE find it")
def _(here):
    fd = os.open(here / "f", os.O_CREAT | os.O_RDWR)
    os.pwrite(fd, b"a" * 4096, 0)
    os.pwrite(fd, b"b" * 8192, 1 * MIB)
    os.ftruncate(fd, 2 * MIB)
    assert os.fstat(fd).st_blocks * 512 <= 128 * 1024
    assert segments(here / "f") == [(True, 0, 4096), (False, 4096, MIB),
                                    (True, MIB, MIB + 8192), (False, MIB + 8192, 2 * MIB)]
    assert os.pread(fd, 4096, 500000) == bytes(4096)
    with fails(errno.ENXIO):
        os.lseek(fd, 2 * MIB, os.SEEK_DATA)
    with fails(errno.ENXIO):
        os.lseek(fd, 2 * MIB, os.SEEK_HOLE)
    assert os.lseek(fd, 2 * MIB - 1, os.SEEK_HOLE) == 2 * MIB - 1
    os.close(fd)


@claim("fallocate allocates: with and without KEEP_SIZE, and reads as zeroes")
def _(here):
    fd = os.open(here / "f", os.O_CREAT | os.O_RDWR)
    fallocate(fd, KEEP_SIZE, 0, MIB)
    assert os.fstat(fd).st_size == 0 and os.fstat(fd).st_blocks * 512 >= MIB
    fallocate(fd, 0, 0, MIB)
    assert os.fstat(fd).st_size == MIB
    assert os.pread(fd, MIB, 0) == bytes(MIB)
    os.pwrite(fd, b"x" * 100, 5000)
    assert os.pread(fd, 8192, 4096) == bytes(904) + b"x" * 100 + bytes(7188)
    fallocate(fd, 0, 0, 2 * MIB)
    assert os.pread(fd, 100, 5000) == b"x" * 100 and os.fstat(fd).st_size == 2 * MIB
    os.close(fd)


@claim("punching a hole zeroes its range, frees whole blocks and keeps the size")
def _(here):
    fd = os.open(here / "f", os.O_CREAT | os.O_RDWR)
    data = random.Random(3).randbytes(MIB)
    os.pwrite(fd, data, 0)
    before = os.fstat(fd).st_blocks
    fallocate(fd, PUNCH_HOLE | KEEP_SIZE, 100000, 300000)
    expected = data[:100000] + bytes(300000) + data[400000:]
    assert os.pread(fd, MIB, 0) == expected
    assert os.fstat(fd).st_size == MIB and before - os.fstat(fd).st_blocks >= 70 * 8
    fallocate(fd, PUNCH_HOLE | KEEP_SIZE, MIB - 10, 100000)
    assert os.pread(fd, MIB, 0) == expected[:-10] + bytes(10) and os.fstat(fd).st_size == MIB
    os.close(fd)


@claim("zeroing a range zeroes it, with and without KEEP_SIZE")
def _(here):
    fd = os.open(here / "f", os.O_CREAT | os.O_RDWR)
    os.pwrite(fd, b"x" * 100000, 0)
    fallocate(fd, ZERO_RANGE, 10000, 50000)
    assert os.pread(fd, 100000, 0) == b"x" * 10000 + bytes(50000) + b"x" * 40000
    fallocate(fd, ZERO_RANGE | KEEP_SIZE, 90000, 50000)
    assert os.fstat(fd).st_size == 100000
    fallocate(fd, ZERO_RANGE, 90000, 50000)
    assert os.fstat(fd).st_size == 140000
    assert os.pread(fd, 200000, 0) == b"x" * 10000 + bytes(50000) + b"x" * 30000 + bytes(50000)
    os.close(fd)


@claim("modes that the kernel does not pass on are EOPNOTSUPP and change nothing")
def _(here):
    fd = os.open(here / "f", os.O_CREAT | os.O_RDWR)
    os.pwrite(fd, b"x" * 65536, 0)
    for mode in (COLLAPSE, INSERT, UNSHARE):
        with fails(errno.EOPNOTSUPP):
            fallocate(fd, mode, 4096, 4096)
    assert os.pread(fd, 70000, 0) == b"x" * 65536
    os.close(fd)


@claim("a shared mapping writes the file and sees what is written to it")
def _(here):
    fd = os.open(here / "f", os.O_CREAT | os.O_RDWR)
    os.ftruncate(fd, MIB)
    with mmap.mmap(fd, MIB) as mapping:
        mapping[1000:1005] = b"hello"
        mapping[MIB - 5:] = b"world"
        mapping.flush()
        assert os.pread(fd, 5, 1000) == b"hello"
        os.pwrite(fd, b"other", 500000)
        assert mapping[500000:500005] == b"other"
        mapping[200000:200003] = b"one"
        assert os.pread(fd, 3, 200000) == b"one"
    os.close(fd)
    data = (here / "f").read_bytes()
    assert data[1000:1005] == b"hello" and data[-5:] == b"world" and data[200000:200003] == b"one"


@claim("a private mapping reads the file and leaves it alone")
def _(here):
    (here / "f").write_bytes(b"original" * 1000)
    with open(here / "f", "rb") as file:
        with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_COPY) as mapping:
            mapping[0:4] = b"mine"
            assert mapping[:8] == b"mineinal"
    assert (here / "f").read_bytes() == b"original" * 1000


@claim("a program runs from the volume")
def _(here):
    subprocess.run(["cp", "/bin/echo", str(here / "echo")], check=True)
    done = subprocess.run([str(here / "echo"), "it runs"], capture_output=True, text=True)
    assert done.stdout == "it runs\n"


@claim("a handle that bypasses the cache has no shared mapping: ENODEV")
def _(here):
    (here / "f").write_bytes(b"x" * 8192)
    fd = os.open(here / "f", os.O_RDWR | os.O_DIRECT)
    with fails(errno.ENODEV):
        mmap.mmap(fd, 8192)
    with mmap.mmap(fd, 8192, flags=mmap.MAP_PRIVATE) as mapping:
        assert mapping[:] == b"x" * 8192
    os.close(fd)


@claim("reading does not change atime, because the server does not learn of reads")
def _(here):
    (here / "f").write_text("x")
    before = os.stat(here / "f").st_atime_ns
    time.sleep(0.02)
    (here / "f").read_text()
    os.listdir(here)
    assert os.stat(here / "f").st_atime_ns == before


@claim("O_DIRECT reads and writes any size, and agrees with cached handles")
def _(here):
    fd = os.open(here / "f", os.O_CREAT | os.O_RDWR | os.O_DIRECT)
    cached = os.open(here / "f", os.O_RDWR)
    memory = mmap.mmap(-1, 2 * MIB)
    memory.write(random.Random(4).randbytes(2 * MIB))
    assert os.pwritev(fd, [memory], 0) == 2 * MIB
    assert os.pread(cached, 2 * MIB, 0) == memory[:]
    os.pwrite(cached, b"cached", 4096)
    back = mmap.mmap(-1, 8192)
    assert os.preadv(fd, [back], 0) == 8192
    assert back[4096:4102] == b"cached"
    assert os.pread(cached, 4096, 0) == memory[:4096]
    back[:6] = b"direct"
    os.pwritev(fd, [memoryview(back)[:4096]], 0)
    assert os.pread(cached, 6, 0) == b"direct"
    os.close(fd)
    os.close(cached)


@claim("fsync, fdatasync and fsync of a directory return 0")
def _(here):
    fd = os.open(here / "f", os.O_CREAT | os.O_RDWR)
    for number in range(20):
        os.pwrite(fd, b"x" * 5000, number * 5000)
        os.fsync(fd)
        os.fdatasync(fd)
    os.close(fd)
    fd = os.open(here, os.O_RDONLY | os.O_DIRECTORY)
    os.fsync(fd)
    os.close(fd)
    fd = os.open(here / "g", os.O_CREAT | os.O_WRONLY | os.O_SYNC)
    os.write(fd, b"synchronous")
    os.close(fd)


@claim("writes move mtime and ctime, chmod moves ctime, and utimens sets what it is told, to the nanosecond")
def _(here):
    (here / "f").write_text("x")
    def times():
        st = os.stat(here / "f")
        return st.st_atime_ns, st.st_mtime_ns, st.st_ctime_ns
    a, m, c = times()
    assert abs(m / 1e9 - time.time()) < 5
    time.sleep(0.02)
    with open(here / "f", "r+b", buffering=0) as file:
        file.write(b"yy")
    a2, m2, c2 = times()
    assert m2 > m and c2 > c
    time.sleep(0.02)
    os.chmod(here / "f", 0o600)
    a3, m3, c3 = times()
    assert m3 == m2 and c3 > c2
    os.utime(here / "f", ns=(1234567890_123456789, 987654321_987654321))
    a4, m4, c4 = times()
    assert (a4, m4) == (1234567890_123456789, 987654321_987654321) and c4 >= c3
    os.utime(here / "f", ns=(-5_000_000_001, 1 << 60))
    assert times()[0] == -5_000_000_001
    os.utime(here / "f")
    assert abs(times()[1] / 1e9 - time.time()) < 5
    before = os.stat(here).st_mtime_ns
    time.sleep(0.02)
    (here / "g").touch()
    assert os.stat(here).st_mtime_ns > before


@claim("locks of both kinds work between processes")
def _(here):
    (here / "f").touch()
    one = os.open(here / "f", os.O_RDWR)
    fcntl.flock(one, fcntl.LOCK_EX)
    two = os.open(here / "f", os.O_RDWR)
    with fails(errno.EAGAIN):
        fcntl.flock(two, fcntl.LOCK_EX | fcntl.LOCK_NB)
    fcntl.flock(one, fcntl.LOCK_UN)
    fcntl.lockf(one, fcntl.LOCK_EX)
    child = os.fork()
    if child == 0:
        try:
            fcntl.lockf(os.open(here / "f", os.O_RDWR), fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            os._exit(0)
        os._exit(1)
    assert os.waitpid(child, 0)[1] == 0
    os.close(one)
    os.close(two)


@claim("copy_file_range and sendfile copy, though the server is not asked to")
def _(here):
    data = random.Random(5).randbytes(3 * MIB + 17)
    (here / "a").write_bytes(data)
    subprocess.run(["cp", "--reflink=auto", "--sparse=never", str(here / "a"), str(here / "b")],
                   check=True)
    assert (here / "b").read_bytes() == data
    with open(here / "a", "rb") as a, open(here / "c", "wb") as c:
        copied = 0
        while copied < len(data):
            copied += os.copy_file_range(a.fileno(), c.fileno(), len(data) - copied)
    assert (here / "c").read_bytes() == data
    with open(here / "a", "rb") as a, open(here / "d", "wb") as d:
        os.sendfile(d.fileno(), a.fileno(), 0, len(data))
    assert hashlib.sha256((here / "d").read_bytes()).digest() == hashlib.sha256(data).digest()


@claim("two processes that write different halves of a file at once both get it all there")
def _(here):
    fd = os.open(here / "f", os.O_CREAT | os.O_RDWR | os.O_DIRECT)
    os.ftruncate(fd, 8 * MIB)
    children = []
    for half in range(2):
        child = os.fork()
        if child == 0:
            memory = mmap.mmap(-1, 65536)
            memory.write(bytes([65 + half]) * 65536)
            for piece in range(64):
                os.pwritev(fd, [memory], half * 4 * MIB + piece * 65536)
            os._exit(0)
        children.append(child)
    for child in children:
        assert os.waitpid(child, 0)[1] == 0
    os.close(fd)
    assert (here / "f").read_bytes() == b"A" * (4 * MIB) + b"B" * (4 * MIB)


@claim("killing or interrupting processes in the middle of any call does no harm", seconds=120)
def _(here):
    source = random.Random(6)
    for number in range(40):
        child = os.fork()
        if child == 0:
            signal.signal(signal.SIGALRM, lambda *_: None)
            signal.setitimer(signal.ITIMER_REAL, 0.001, 0.001)
            piece = 0
            while True:
                path = here / f"{number}-{piece % 7}"
                with contextlib.suppress(OSError):
                    path.write_bytes(b"k" * 300000)
                    os.rename(path, here / f"renamed-{number}-{piece % 3}")
                    os.listdir(here)
                    os.setxattr(here / f"renamed-{number}-{piece % 3}", "user.x", b"x" * 5000)
                piece += 1
        time.sleep(source.uniform(0.001, 0.08))
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
    for name in os.listdir(here):
        assert set((here / name).read_bytes()) <= {ord("k")}
        os.unlink(here / name)
    assert os.listdir(here) == []


@claim("statfs returns sizes that change with the stored data")
def _(here):
    before = os.statvfs(here)
    assert before.f_bsize == 4096 and before.f_namemax == 255 and before.f_blocks > 0
    with open(here / "f", "wb") as file:
        file.write(b"x" * (8 * MIB))
        file.flush()
        os.fsync(file.fileno())
    after = os.statvfs(here)
    assert 2048 <= before.f_bavail - after.f_bavail <= 2048 + 1024
    os.unlink(here / "f")
    for _ in range(100):
        if before.f_bavail - os.statvfs(here).f_bavail < 600:
            break
        time.sleep(0.05)
    else:
        raise AssertionError("the room does not come back")


@claim("on a DAX medium the kernel asks for fsync of a directory once, for there is nothing to wait for; of "
       "a file, and"
       "on an image, each time", alone=True)
def _(maker):
    volume = maker.volume(size="64M")

    def asked(what):
        status = run(program("pmfsctl"), "status", "--json", volume.mnt).stdout
        (only,) = json.loads(status)["clients"]
        return only["requests"].get(what, 0)
    directory = os.open(volume.mnt, os.O_RDONLY)
    with open(volume.mnt / "file", "wb", buffering=0) as file:
        for number in range(5):
            file.write(b"x")
            os.fsync(file.fileno())
            os.fsync(directory)
    os.close(directory)
    assert asked("fsync") == 5, asked("fsync")
    assert asked("fsyncdir") == (1 if volume.kind == "memory" else 5), asked("fsyncdir")
    volume.kill()
    volume.fsck()
    volume.mount()
    maker.watch()
    assert (volume.mnt / "file").read_bytes() == b"xxxxx"
    assert volume.unmount() == 0


if __name__ == "__main__":
    run_claims()
