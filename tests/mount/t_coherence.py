#!/usr/bin/env python3
"""What the kernel caches and the server knows are the same: docs/coherence.md, row by row."""
# Holds docs/coherence.md "The server changes something", "The kernel has changes that the server does not know".
import contextlib
import ctypes
import errno
import fcntl
import mmap
import os
import random
import stat
import struct
import subprocess
import threading
import time

from fixture import as_user, c_call, claim, fails, libc, program, run, run_claims, wait_for

MIB = 1 << 20
PAGE = 4096


@contextlib.contextmanager
def stored_into_hole(path, size=MIB, at=MIB // 2, byte=b"x"):
    """A file that is one hole, and a byte of it stored through a shared mapping that lives on."""
    fd = os.open(path, os.O_CREAT | os.O_RDWR)
    os.ftruncate(fd, size)
    memory = mmap.mmap(fd, size)
    os.close(fd)
    memory[at:at + 1] = byte
    try:
        yield memory
    finally:
        memory.close()


@contextlib.contextmanager
def another_stores_into_hole(path):
    """The same by a process of its own: a program that we start closes our descriptors in its
    copy of them, and the kernel writes back at each close."""
    stored, go = os.pipe(), os.pipe()
    child = os.fork()
    if child == 0:
        with stored_into_hole(path):
            os.write(stored[1], b"!")
            os.read(go[0], 1)
        os._exit(0)
    try:
        assert os.read(stored[0], 1) == b"!"
        yield
    finally:
        os.write(go[1], b"!")
        os.waitpid(child, 0)
        for end in (*stored, *go):
            os.close(end)


def fill_up(directory, leave):
    """Fills the volume until `leave` bytes are left."""
    fd = os.open(directory / "filler", os.O_CREAT | os.O_WRONLY)
    for size in (MIB, 64 << 10, PAGE):
        block = bytes(size)
        while os.statvfs(directory).f_bavail * PAGE >= leave + size:
            try:
                os.write(fd, block)
            except OSError as error:
                assert error.errno == errno.ENOSPC
                break
    os.close(fd)


def sync_error(memory, fd):
    """The first error of msync and fsync, or 0."""
    for call in (memory.flush, lambda: os.fsync(fd)):
        try:
            call()
        except OSError as error:
            return error.errno
    return 0


# --- written back, and not stored whole

@claim("stores through a mapping for which there is no space are an error of msync or fsync",
       alone=True)
def _(make):
    here = make.volume(size="32M").mnt
    fd = os.open(here / "f", os.O_CREAT | os.O_RDWR)
    fill_up(here, 128 << 10)
    os.ftruncate(fd, 512 << 10)
    with mmap.mmap(fd, 512 << 10) as memory:
        memory[:] = b"m" * len(memory)
        assert sync_error(memory, fd) in (errno.ENOSPC, errno.EIO)
    with contextlib.suppress(OSError):
        os.close(fd)


@claim("a listing that begins after a change is complete and new, whoever is in the middle of an older one")
def _(here):
    padding = "n" * 60
    old = {f"{padding}{number}" for number in range(3000)}
    for name in old:
        (here / name).touch()
    made, removed = {f"made-{number}" for number in range(100)}, set(sorted(old)[::30])
    first = os.scandir(here)
    for _ in range(2500):
        next(first)
    for name in made:
        (here / name).touch()
    for name in removed:
        (here / name).unlink()
    second = os.scandir(here)
    names = [next(second).name]
    list(first)
    names += [entry.name for entry in second]
    assert len(names) == len(set(names)) and set(names) == old - removed | made
    first.close()
    second.close()


@claim("with -o writeback a read past the cache finds the zeroes in front of what was just written", alone=True)
def _(maker):
    volume = maker.volume(size="64M", options="writeback")
    fd = os.open(volume.mnt / "f", os.O_CREAT | os.O_RDWR)
    os.pwrite(fd, b"x" * 4096, 1 << 20)
    direct = os.open(volume.mnt / "f", os.O_RDONLY | os.O_DIRECT)
    page = mmap.mmap(-1, 8192)
    page.write(b"?" * 8192)
    assert os.preadv(direct, [page], 4096) == 8192 and page[:] == bytes(8192)
    os.close(direct)
    os.close(fd)


@claim("a write(2) from a mapping of the same file leaves no old bytes in the cache while others ask for attributes")
def _(here):
    pages, path = 16, here / "f"
    fd = os.open(path, os.O_CREAT | os.O_RDWR)
    os.ftruncate(fd, (pages + 1) * 4096)  # the first page is a hole, so that stat drops pages
    os.pwrite(fd, b"x" * pages * 4096, 4096)
    ended = threading.Event()

    def ask():
        while not ended.is_set():
            os.stat(path)
    other = threading.Thread(target=ask)
    other.start()
    wrong = 0
    direct = os.open(path, os.O_RDONLY | os.O_DIRECT)
    with mmap.mmap(fd, 0, prot=mmap.PROT_READ) as mapped, memoryview(mapped) as source, mmap.mmap(-1, MIB) as stored:
        for number in range(1, 3000):
            os.pwrite(fd, number.to_bytes(4096, "little"), 4096)
            os.pwrite(fd, source[4096:pages * 4096], 8192)  # each page from the one before it
            cached = os.pread(fd, pages * 4096, 4096)
            length = os.preadv(direct, [stored], 4096)
            wrong += cached != stored[:length]
    os.close(direct)
    ended.set()
    other.join()
    os.close(fd)
    assert wrong == 0, wrong


@claim("with -o writeback the size is right after O_TRUNC beside a program that appends", alone=True)
def _(maker):
    volume = maker.volume(size="64M", options="writeback")
    path = volume.mnt / "f"
    path.touch()
    gate, through = threading.Barrier(2), threading.Barrier(2)
    rounds = 2000

    def empty():
        for _ in range(rounds):
            gate.wait()
            os.close(os.open(path, os.O_RDWR | os.O_TRUNC))
            through.wait()

    other = threading.Thread(target=empty)
    other.start()
    wrong = 0
    for _ in range(rounds):
        gate.wait()
        fd = os.open(path, os.O_WRONLY | os.O_APPEND)
        os.write(fd, b"b" * 5000)
        os.fsync(fd)
        os.close(fd)
        through.wait()
        fd = os.open(path, os.O_RDONLY)
        try:
            size = os.lseek(fd, 0, os.SEEK_HOLE)  # the server's
        except OSError:
            size = 0
        wrong += size != os.fstat(fd).st_size
        os.close(fd)
    other.join()
    assert wrong == 0, f"{wrong} of {rounds}"


@claim("with -o writeback, written data for which there is no space is an error of fsync", alone=True)
def _(make):
    volume = make.volume(size="32M")
    fill_up(volume.mnt, 128 << 10)
    assert volume.unmount() == 0
    volume.mount("writeback")
    make.watch()
    fd = os.open(volume.mnt / "f", os.O_CREAT | os.O_RDWR)
    os.pwrite(fd, b"w" * (512 << 10), 0)
    with fails(errno.ENOSPC, errno.EIO):
        os.fsync(fd)
    with contextlib.suppress(OSError):
        os.close(fd)


# --- dirty pages that the block map does not know

@claim("cp copies a byte that was just stored into a hole through a mapping")
def _(here):
    with another_stores_into_hole(here / "f"):
        run("cp", here / "f", here / "copy")
    assert (here / "copy").read_bytes() == bytes(MIB // 2) + b"x" + bytes(MIB // 2 - 1)


@claim("tar -S archives a byte that was just stored into a hole through a mapping")
def _(here):
    with another_stores_into_hole(here / "f"):
        run("tar", "-S", "-cf", here / "f.tar", "-C", here, "f")
    os.mkdir(here / "to")
    run("tar", "-xf", here / "f.tar", "-C", here / "to")
    assert (here / "to" / "f").read_bytes()[MIB // 2:MIB // 2 + 1] == b"x"


@claim("st_blocks counts a block as soon as a mapping stores into it, also when it was asked before")
def _(here):
    (here / "f").touch()
    os.truncate(here / "f", MIB)
    assert os.stat(here / "f").st_blocks == 0  # now the kernel may keep that
    with stored_into_hole(here / "f"):
        assert os.stat(here / "f").st_blocks == 8
        assert os.stat(here / "f").st_blocks == 8


@claim("SEEK_DATA and SEEK_HOLE know what a mapping has stored, in holes and in unwritten blocks")
def _(here):
    with stored_into_hole(here / "f") as memory:
        fd = os.open(here / "f", os.O_RDONLY)
        assert os.lseek(fd, 0, os.SEEK_DATA) == MIB // 2
        assert os.lseek(fd, MIB // 2, os.SEEK_HOLE) == MIB // 2 + PAGE
        memory[10:11] = b"y"
        assert os.lseek(fd, 0, os.SEEK_HOLE) == PAGE
        os.close(fd)
    fd = os.open(here / "unwritten", os.O_CREAT | os.O_RDWR)
    os.posix_fallocate(fd, 0, MIB)
    with mmap.mmap(fd, MIB) as memory:
        memory[3 * PAGE:3 * PAGE + 1] = b"z"
        assert os.lseek(fd, 0, os.SEEK_DATA) == 3 * PAGE
    os.close(fd)


@claim("a hole that is punched or cut off and stored into again is found again")
def _(here):
    fd = os.open(here / "f", os.O_CREAT | os.O_RDWR)
    os.pwrite(fd, b"d" * MIB, 0)
    assert os.fstat(fd).st_blocks == MIB // 512  # known to have no gaps
    c_call("fallocate64", fd, 3, ctypes.c_int64(8 * PAGE), ctypes.c_int64(8 * PAGE))
    with mmap.mmap(fd, MIB) as memory:
        memory[9 * PAGE:9 * PAGE + 1] = b"p"
        assert os.fstat(fd).st_blocks == (MIB - 7 * PAGE) // 512
        os.ftruncate(fd, MIB // 2)
        os.ftruncate(fd, MIB)
        memory[MIB - 1:MIB] = b"q"
        assert os.lseek(fd, MIB // 2, os.SEEK_DATA) == MIB - PAGE
    os.close(fd)


@claim("with -o writeback, a file that was just written is never without blocks, and none is missing when it is "
       "closed", alone=True)
def _(make):
    here = make.volume(options="writeback").mnt
    (here / "old").write_bytes(b"")
    os.stat(here / "old")
    for name in ("new", "old"):
        fd = os.open(here / name, os.O_CREAT | os.O_RDWR)
        os.pwrite(fd, b"w" * (3 * PAGE), 0)
        assert os.stat(here / name).st_blocks > 0, name
        os.pwrite(fd, b"w" * PAGE, 8 * PAGE)
        assert os.lseek(fd, 3 * PAGE, os.SEEK_DATA) == 8 * PAGE, name
        assert os.lseek(fd, 0, os.SEEK_HOLE) == 3 * PAGE, name
        run("tar", "-S", "-cf", here / "archive", "-C", here, name)
        os.mkdir(here / f"{name}.d")
        run("tar", "-S", "-xf", here / "archive", "-C", here / f"{name}.d")
        assert (here / f"{name}.d" / name).read_bytes() == b"w" * 3 * PAGE + bytes(5 * PAGE) + b"w" * PAGE
        os.close(fd)
        assert os.stat(here / name).st_blocks == 32, name
    (here / "empty").touch()
    assert os.stat(here / "empty").st_blocks == 0


@claim("a read past the page cache sees what a mapping has just stored")
def _(here):
    with stored_into_hole(here / "f") as memory:
        fd = os.open(here / "f", os.O_RDONLY | os.O_DIRECT)
        with mmap.mmap(-1, PAGE) as page:
            for byte in b"abc":
                memory[MIB // 2:MIB // 2 + 1] = bytes([byte])
                assert os.preadv(fd, [page], MIB // 2) == PAGE
                assert page[:1] == bytes([byte])
        os.close(fd)


# --- pages under a direct write

class Ring:
    """Asynchronous writes, by io_submit(2)."""

    class Control(ctypes.Structure):
        _fields_ = [("data", ctypes.c_uint64), ("key", ctypes.c_uint32), ("flags", ctypes.c_uint32),
                    ("opcode", ctypes.c_uint16), ("priority", ctypes.c_int16),
                    ("fd", ctypes.c_uint32), ("buffer", ctypes.c_uint64),
                    ("size", ctypes.c_uint64), ("offset", ctypes.c_int64),
                    ("reserved", ctypes.c_uint64), ("more", ctypes.c_uint64)]

    SETUP, DESTROY, GETEVENTS, SUBMIT, PWRITE = 206, 207, 208, 209, 1

    def __init__(self, size=1):
        self.context, self.events = ctypes.c_uint64(), (ctypes.c_int64 * (4 * size))()
        c_call("syscall", self.SETUP, size, ctypes.byref(self.context))

    def write_many(self, fd, memory, offsets):
        """The results of writes of the whole memory to each of the offsets, all under way at once."""
        buffer = (ctypes.c_char * len(memory)).from_buffer(memory)
        writes = [self.Control(opcode=self.PWRITE, fd=fd, buffer=ctypes.addressof(buffer),
                               size=len(memory), offset=offset) for offset in offsets]
        pointers = (ctypes.POINTER(self.Control) * len(writes))(*map(ctypes.pointer, writes))
        done = 0
        while done < len(writes):  # it may take a part only
            rest = ctypes.byref(pointers, done * ctypes.sizeof(pointers[0]))
            done += c_call("syscall", self.SUBMIT, self.context, len(writes) - done, rest)
        count = ctypes.c_long(len(writes))
        c_call("syscall", self.GETEVENTS, self.context, count, count, self.events, None)
        del buffer
        return [self.events[4 * i + 2] for i in range(len(writes))]

    def write(self, fd, memory, offset):
        return self.write_many(fd, memory, [offset])[0]

    def end(self):
        c_call("syscall", self.DESTROY, self.context)


def direct_writes_beside_readers(here, write, rounds, sealed=False):
    """Stale rounds: buffered reads that differ from what a direct write has stored before."""
    size = 160 * PAGE
    (here / "f").write_bytes(b"\x01" * size)
    if sealed:
        run(program("pmfsctl"), "seal", "--prepare", here / "f")
    fd = os.open(here / "f", os.O_RDWR | os.O_DIRECT)
    cached = os.open(here / "f", os.O_RDONLY)
    stop = False

    def reader():
        while not stop:
            other = os.open(here / "f", os.O_RDONLY)
            os.pread(other, size, 0)
            os.close(other)

    threads = [threading.Thread(target=reader) for _ in range(2)]
    stale = 0
    try:
        for thread in threads:
            thread.start()
        memory = mmap.mmap(-1, size)
        for turn in range(2, rounds):
            memory[:] = bytes([turn & 255]) * size
            assert write(fd, memory) == size
            stale += os.pread(cached, size, 0) != memory[:]
    finally:
        stop = True
        for thread in threads:
            thread.join()
    os.close(cached)
    os.close(fd)
    # Nor do later opens find pages that were written over while the file was not open.
    with open(here / "f", "rb", buffering=0) as file:
        stale += file.read() != memory[:]
    return stale


@claim("a buffered read after an asynchronous direct write sees it, whoever reads beside", seconds=120)
def _(here):
    ring = Ring()
    assert direct_writes_beside_readers(here, lambda fd, m: ring.write(fd, m, 0), 250) == 0
    ring.end()


@claim("a buffered read after a direct write sees it, whoever reads beside", seconds=120)
def _(here):
    assert direct_writes_beside_readers(here, lambda fd, m: os.pwritev(fd, [m], 0), 250) == 0


@claim("a buffered read after any kind of write to a file that is sealed full sees it, whoever reads beside", seconds=120)
def _(here):
    ring = Ring()
    assert direct_writes_beside_readers(here, lambda fd, m: ring.write(fd, m, 0), 120, sealed=True) == 0
    ring.end()
    run(program("pmfsctl"), "unseal", here / "f")
    os.unlink(here / "f")
    assert direct_writes_beside_readers(here, lambda fd, m: os.pwritev(fd, [m], 0), 120, sealed=True) == 0


def buffered_writes_beside_drops(path, at, size):
    """How many reads right after a buffered write of these bytes found old ones, and how many found them for good."""
    path.write_bytes(bytes(64 * PAGE))

    def again_and_again(act):
        child = os.fork()
        if child == 0:
            try:
                fd = os.open(path, os.O_RDWR)
                while True:
                    act(fd)
            finally:
                os._exit(1)
        return child
    # PMFS_IOC_PREPARE asks for what mappings store, so all pages go; and it changes nothing.
    prepare, command = struct.pack("IIQQQ", 1, 0, 0, 0, 0), 1 << 30 | 32 << 16 | 0xD5 << 8 | 0x12
    children = [again_and_again(lambda fd: os.pread(fd, size, at)),
                again_and_again(lambda fd: fcntl.ioctl(fd, command, prepare))]
    stale, for_good, turn, fd, end = 0, 0, 0, os.open(path, os.O_RDWR), time.monotonic() + 1.5
    try:
        while time.monotonic() < end:
            turn += 1
            data = bytes([turn % 255 + 1]) * size
            assert os.pwrite(fd, data, at) == size
            if os.pread(fd, size, at) != data:
                stale += 1
                for_good += not wait_for(lambda data=data: os.pread(fd, size, at) == data)
    finally:
        for child in children:
            os.kill(child, 9)
            os.waitpid(child, 0)
        os.close(fd)
    return stale, for_good


@claim("a buffered read after a buffered write sees it, whoever reads beside, and whatever drops pages meanwhile")
def _(here):
    assert buffered_writes_beside_drops(here / "f", 15 * PAGE, 6 * PAGE) == (0, 0)
    # A page that is written in part may take a moment on a busy machine (docs/coherence.md).
    for size in (5 * PAGE, 100):
        assert buffered_writes_beside_drops(here / "f", 15 * PAGE + 100, size)[1] == 0


@claim("hundreds of asynchronous direct writes beside a mapping that stores into the same pages all end")
def _(here):
    # Each waits for pages that are written back, and write-back needs a request that the kernel can
    # send: one more than those.
    count, size = 300, PAGE
    (here / "f").write_bytes(bytes(count * size))
    child = os.fork()
    if child == 0:
        with open(here / "f", "r+b") as file, mmap.mmap(file.fileno(), 0) as memory:
            while True:
                for page in range(count):
                    memory[page * size] ^= 1
    try:
        fd = os.open(here / "f", os.O_RDWR | os.O_DIRECT)
        memory = mmap.mmap(-1, size)
        ring = Ring(count)
        for _ in range(5):
            assert ring.write_many(fd, memory, [page * size for page in range(count)]) == [size] * count
        ring.end()
        os.close(fd)
    finally:
        os.kill(child, 9)
        os.waitpid(child, 0)


# --- mode bits that a write takes away

SET_ID = stat.S_ISUID | stat.S_ISGID


def takes_set_id_away(here, name, act, setup=None):
    """A set-user-ID file that a user may write to; stat as the kernel keeps it; then `act`."""
    path = here / name
    path.write_bytes(b"#!" + bytes(2 * PAGE - 2))
    os.chown(path, 0, 0)
    os.chmod(path, 0o6777)
    if setup:
        setup(path)
    assert os.stat(path).st_mode & SET_ID == SET_ID
    as_user(lambda: act(path))
    assert os.stat(path).st_mode & SET_ID == 0, name


def direct_write(path):
    fd = os.open(path, os.O_WRONLY | os.O_DIRECT)
    with mmap.mmap(-1, PAGE) as page:
        os.pwritev(fd, [page], 0)
    os.close(fd)


def with_fd(act, flags=os.O_RDWR):
    def run_it(path):
        fd = os.open(path, flags)
        act(fd)
        os.close(fd)
    return run_it


def copy_range(path):
    fd = os.open(path, os.O_RDWR)
    os.copy_file_range(fd, fd, 10, 0, PAGE)
    os.close(fd)


@claim("stat sees at once that set-id bits were cleared, whatever the kernel has cached")
def _(here):
    here.chmod(0o777)
    acts = {
        "write": with_fd(lambda fd: os.pwrite(fd, b"w", 0)),
        "append": with_fd(lambda fd: os.write(fd, b"w"), os.O_WRONLY | os.O_APPEND),
        "direct": direct_write,
        "copy_file_range": copy_range,
        "truncate": lambda path: os.truncate(path, 10),
        "open with O_TRUNC": with_fd(lambda fd: None, os.O_WRONLY | os.O_TRUNC),
        "fallocate": with_fd(lambda fd: os.posix_fallocate(fd, 0, 4 * PAGE)),
        "punch": with_fd(lambda fd: c_call("fallocate64", fd, 3, ctypes.c_int64(0),
                                           ctypes.c_int64(PAGE))),
    }
    for name, act in acts.items():
        takes_set_id_away(here, name, act)


@claim("a set-user-ID program that a user has just written to runs with that user's rights")
def _(here):
    here.chmod(0o777)
    for name, write in {
        "write": with_fd(lambda fd: os.pwrite(fd, b"\0", os.fstat(fd).st_size - 1)),
        "direct": None,
        "fallocate": with_fd(lambda fd: os.posix_fallocate(fd, 0, os.fstat(fd).st_size + PAGE)),
    }.items():
        program = here / f"id-{name}"
        run("cp", "/usr/bin/id", program)
        with open(program, "ab") as file:  # behind its sections, where nothing is read
            file.write(bytes(-program.stat().st_size % PAGE + PAGE))
        os.chmod(program, 0o4777)
        end = program.stat().st_size

        def last_page(path):
            fd = os.open(path, os.O_WRONLY | os.O_DIRECT)
            with mmap.mmap(-1, PAGE) as page:
                os.pwritev(fd, [page], end - PAGE)
            os.close(fd)

        def runs_as(expected):
            told = subprocess.run([str(program), "-u"], capture_output=True, text=True, check=True)
            assert told.stdout.strip() == expected, f"{name}: runs as {told.stdout}"

        as_user(lambda: runs_as("0"))
        as_user(lambda: (write or last_page)(program))
        as_user(lambda: runs_as("1000"))


# --- listings

@claim("a listing of a directory that was moved names its new parent")
def _(here):
    for name in ("one", "two", "one/moved", "one/moved/x"):
        os.mkdir(here / name)

    def parent_in_listing(path):
        # (Libraries that list a directory look `..` up.)  struct linux_dirent64 of getdents64(2).
        fd, listing = os.open(path, os.O_RDONLY | os.O_DIRECTORY), ctypes.create_string_buffer(4096)
        size, at = c_call("syscall", 217, fd, listing, 4096), 0
        kept = listing.raw
        assert c_call("syscall", 217, fd, listing, 4096) == 0  # whole: so the kernel keeps it
        os.close(fd)
        while at < size:
            ino, _, length = struct.unpack_from("=QqH", kept, at)
            if kept[at + 19:at + 22] == b"..\0":
                return ino
            at += length
        raise AssertionError("a listing without ..")

    assert parent_in_listing(here / "one/moved") == os.stat(here / "one").st_ino
    os.rename(here / "one/moved", here / "two/moved")
    assert parent_in_listing(here / "two/moved") == os.stat(here / "two").st_ino


if __name__ == "__main__":
    run_claims()
