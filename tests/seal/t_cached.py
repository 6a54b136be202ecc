#!/usr/bin/env python3
"""Files that are sealed full are cached for those who only read them: who sees what, and who excludes whom."""
# Holds docs/seal.md "Mappings and the page cache".
import contextlib
import ctypes
import errno
import mmap
import os
import shutil
import subprocess
import sys

from holding import Child, status, until
from libpmfs import (READ, TEMPORARY, Map, ctl, grant, holders, info, make_file, open_direct, pattern, prepare, seal,
                     unseal)
from fixture import c_call, claim, fails, libc, run, run_claims

MIB = 1 << 20
PAGE = 4096


def sealed_file(path, size=MIB, seed=1):
    data = make_file(path, size, seed)
    ctl("seal", path)
    until(lambda: info(path)["handles_direct"] <= 1 and info(path)["handles_cached"] == 0)
    return data


@contextlib.contextmanager
def mapped(path, flags=mmap.MAP_SHARED, prot=mmap.PROT_READ):
    """The file, mapped through the mount by a descriptor for reading that was closed again."""
    fd = os.open(path, os.O_RDONLY)
    pages = mmap.mmap(fd, 0, flags, prot)
    os.close(fd)
    try:
        yield pages
    finally:
        pages.close()


def let_go(path):
    """Waits until the server knows that the file is not open through the cache."""
    until(lambda: info(path)["handles_cached"] == 0)


def resident(path, size=MIB):
    """How many pages of the file are in the page cache, by mincore(2) of a mapping that touches none."""
    libc.mmap.restype = ctypes.c_void_p
    fd = os.open(path, os.O_RDONLY)
    address = libc.mmap(None, ctypes.c_size_t(size), 1, mmap.MAP_SHARED, fd, ctypes.c_int64(0))
    os.close(fd)
    assert address != ctypes.c_void_p(-1).value, "not mapped"
    there = ctypes.create_string_buffer(size // PAGE)
    c_call("mincore", ctypes.c_void_p(address), ctypes.c_size_t(size), there)
    c_call("munmap", ctypes.c_void_p(address), ctypes.c_size_t(size))
    return sum(byte & 1 for byte in there.raw)


def reads_sent(here):
    """How many FUSE_READ requests this mount has sent."""
    return sum(client["requests"].get("read", 0) for client in status(here)["clients"])


@claim("a process that only reads a file sealed full can map it shared through the mount, and reads the same")
def _(here):
    data = sealed_file(here / "f")
    with mapped(here / "f") as pages:
        assert pages[:] == data
        assert (here / "f").read_bytes() == data
        assert [h["kind"] for h in holders(here / "f") if h["kind"] == "handle_cached"], holders(here / "f")
    for name in ("shared", "private"):
        kind = {"shared": mmap.MAP_SHARED, "private": mmap.MAP_PRIVATE}[name]
        with mapped(here / "f", kind) as pages:
            assert pages[MIB - 100:] == data[-100:], name


@claim("pages of a file that is sealed full are kept from one open to the next, and are read ahead")
def _(here):
    sealed_file(here / "f", 4 * MIB)
    fd = os.open(here / "f", os.O_RDONLY)
    before = reads_sent(here)
    for offset in range(0, MIB, PAGE):
        os.pread(fd, PAGE, offset)
    assert reads_sent(here) - before < 64, "256 small reads are that many requests"
    os.close(fd)
    let_go(here / "f")
    assert resident(here / "f") == 256, resident(here / "f")
    before = reads_sent(here)
    with open(here / "f", "rb", buffering=0) as file:
        assert len(file.read(MIB)) == MIB
    assert reads_sent(here) == before


@claim("a grant that may store is EBUSY while a sealed file is open through the cache, or only mapped, and pmfsctl names the process")
def _(here):
    data = sealed_file(here / "f")
    fd = open_direct(here / "f")

    def maps():
        pages = mapped(here / "f")
        pages.__enter__()
        return lambda: pages.__exit__(None, None, None)
    with Child(maps) as child:
        with fails(errno.EBUSY):
            Map(fd)
        told = ctl("holders", here / "f").stdout
        assert "open file, cached" in told and str(child.pid) in told, told
        with Map(fd, prot=READ) as m:  # one that only reads does not mind
            assert m.load(0, m.length) == data
    let_go(here / "f")
    own = os.open(here / "f", os.O_RDONLY)
    with fails(errno.EBUSY):
        Map(fd)
    os.close(own)
    let_go(here / "f")
    Map(fd).unmap()
    os.close(fd)


@claim("whoever closed a file is in nobody's way: it may be mapped for storing, sealed and unsealed right after")
def _(here):
    for number in range(100):
        path = here / f"f{number}"
        make_file(path, 4 * PAGE, number)
        fd = open_direct(path)
        prepare(fd)
        path.read_bytes()  # through the cache
        Map(fd).unmap()
        seal(fd)
        other = open_direct(path)
        grant(other, TEMPORARY)
        os.close(other)
        unseal(fd)
        os.close(fd)


@claim("the last munmap counts: of two mappings, of a part, and of a child that was forked")
def _(here):
    sealed_file(here / "f")
    fd = open_direct(here / "f")
    libc.mmap.restype = ctypes.c_void_p
    reader = os.open(here / "f", os.O_RDONLY)
    address = libc.mmap(None, ctypes.c_size_t(MIB), 1, mmap.MAP_SHARED, reader, ctypes.c_int64(0))
    os.close(reader)
    c_call("munmap", ctypes.c_void_p(address), ctypes.c_size_t(MIB - PAGE))
    with fails(errno.EBUSY):
        Map(fd)
    read_end, write_end = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(write_end)
        os.read(read_end, 1)
        os._exit(0)
    c_call("munmap", ctypes.c_void_p(address + MIB - PAGE), ctypes.c_size_t(PAGE))
    with fails(errno.EBUSY):  # the child has it
        Map(fd)
    os.close(write_end)
    os.waitpid(child, 0)
    os.close(read_end)
    let_go(here / "f")
    Map(fd).unmap()
    os.close(fd)


@claim("while a grant may store, new descriptors of the file bypass the cache, and see what is stored")
def _(here):
    data = sealed_file(here / "f")
    assert (here / "f").read_bytes() == data  # pages are kept
    let_go(here / "f")
    fd = open_direct(here / "f")
    with Map(fd) as m:
        reader = os.open(here / "f", os.O_RDONLY)
        with fails(errno.ENODEV):
            mmap.mmap(reader, MIB, mmap.MAP_SHARED, mmap.PROT_READ)
        for word in (b"one", b"two"):
            m.store(10, word)
            assert os.pread(reader, 3, 10) == word
        os.close(reader)
    with mapped(here / "f") as pages:  # and afterwards there is no old page
        assert pages[10:13] == b"two" and pages[20:] == data[20:]
    os.close(fd)


@claim("after a grant that may store was revoked, readers are cached again and see what it stored before")
def _(here):
    sealed_file(here / "f")
    assert len((here / "f").read_bytes()) == MIB
    let_go(here / "f")
    fd = open_direct(here / "f")
    with Map(fd) as m:
        m.store(0, b"before")
        ctl("revoke", "--all", here / "f")
        with mapped(here / "f") as pages:
            assert pages[:6] == b"before"
    os.close(fd)


@claim("a write goes past the cache, and readers and mappings see it when it returns")
def _(here):
    sealed_file(here / "f")
    with mapped(here / "f") as pages, open(here / "f", "rb", buffering=0) as reader:
        for flags in (os.O_WRONLY, os.O_RDWR, os.O_WRONLY | os.O_APPEND):
            fd = os.open(here / "f", flags)
            with fails(errno.ENODEV, errno.EACCES):  # (the latter where it cannot read)
                mmap.mmap(fd, MIB, mmap.MAP_SHARED)
            if flags & os.O_APPEND:
                with fails(errno.ETXTBSY):
                    os.write(fd, b"more")
                os.close(fd)
                continue
            for turn in range(50):
                at = 7 * PAGE * turn % (MIB - 2 * PAGE)
                text = b"%d %d" % (flags, turn)
                assert pages[at:at + 1] and os.pwrite(fd, text, at) == len(text)
                assert pages[at:at + len(text)] == text, (flags, turn)
                assert os.pread(reader.fileno(), len(text), at) == text, (flags, turn)
            os.close(fd)


@claim("a private mapping that is written to changes neither the file nor the pages of others")
def _(here):
    data = sealed_file(here / "f")
    with mapped(here / "f", mmap.MAP_PRIVATE, mmap.PROT_READ | mmap.PROT_WRITE) as own, \
            mapped(here / "f") as pages:
        own[:5] = b"owned"
        assert own[:5] == b"owned" and pages[:] == data and (here / "f").read_bytes() == data


@claim("a sealed program runs, and cannot be written to meanwhile")
def _(here):
    program = here / "sleep"
    shutil.copy(shutil.which("sleep"), program)
    program.chmod(0o755)
    ctl("seal", "--prepare", program)
    with subprocess.Popen([str(program), "60"]) as child:
        try:
            until(lambda: os.readlink(f"/proc/{child.pid}/exe") == str(program))
            with fails(errno.ETXTBSY):
                os.open(program, os.O_WRONLY)
            assert "open file, cached" in ctl("holders", program).stdout
        finally:
            child.kill()


@claim("sendfile, splice, copy_file_range and O_DIRECT read the current bytes, before a write and after it")
def _(here):
    data = sealed_file(here / "f")
    writer = os.open(here / "f", os.O_WRONLY)
    for turn in range(3):
        text = b"turn %d" % turn
        os.pwrite(writer, text, 100)
        data = data[:100] + text + data[100 + len(text):]
        fd = os.open(here / "f", os.O_RDONLY)
        got = {}
        for way in ("sendfile", "copy_file_range"):
            out = os.open(here / way, os.O_RDWR | os.O_CREAT | os.O_TRUNC)
            done = 0
            while done < MIB:
                done += os.sendfile(out, fd, done, MIB - done) if way == "sendfile" else \
                    os.copy_file_range(fd, out, MIB - done, done, done)
            os.close(out)
            got[way] = (here / way).read_bytes()
        ends = os.pipe()
        count = os.splice(fd, ends[1], 8192, offset_src=0) if hasattr(os, "splice") else 0
        assert os.read(ends[0], count or 1) == data[:count] if count else True
        os.close(ends[0]), os.close(ends[1]), os.close(fd)
        direct = os.open(here / "f", os.O_RDONLY | os.O_DIRECT)
        with mmap.mmap(-1, MIB) as page:
            assert os.preadv(direct, [page], 0) == MIB
            got["O_DIRECT"] = page[:]
        os.close(direct)
        assert all(value == data for value in got.values()), [k for k, v in got.items() if v != data]
    os.close(writer)


@claim("a sealed file can be unsealed while it is mapped through the cache, and the mapping still shows it")
def _(here):
    data = sealed_file(here / "f")
    with mapped(here / "f") as pages:
        ctl("unseal", here / "f")
        writer = os.open(here / "f", os.O_RDWR)
        os.pwrite(writer, b"unsealed", 0)
        assert pages[:8] == b"unsealed" and pages[8:] == data[8:]
        seal(writer)
        os.pwrite(writer, b"sealed  ", 0)  # through the cache, for that is how it was opened
        assert pages[:8] == b"sealed  "
        os.close(writer)
        fd = open_direct(here / "f")
        os.pwrite(fd, b"direct  ", 0)
        assert pages[:8] == b"direct  "
        unseal(fd)
        os.close(fd)


@claim("pages of a file that was open for writing when it was sealed are right for all readers")
def _(here):
    make_file(here / "f", MIB)
    cached = os.open(here / "f", os.O_RDWR)
    shared = mmap.mmap(cached, MIB, mmap.MAP_SHARED)
    shared[0:5] = b"dirty"
    ctl("seal", here / "f")
    with mapped(here / "f") as pages:
        assert pages[:5] == b"dirty"
        shared[0:5] = b"later"
        assert pages[:5] == b"later"
        past = open_direct(here / "f")
        assert os.pread(past, 5, 0) == b"later"
        os.pwrite(past, b"third", 0)
        assert pages[:5] == b"third" and shared[:5] == b"third"
        os.close(past)
    shared.close()
    os.close(cached)


@claim("a new server does not know who had it open, and caches as before", alone=True)
def _(maker):
    volume = maker.volume(size="64M")
    data = sealed_file(volume.mnt / "f")
    with mapped(volume.mnt / "f") as pages:
        assert pages[:] == data
        volume.kill()
    volume.mount()
    maker.watch()
    fd = open_direct(volume.mnt / "f")
    with Map(fd) as m:
        m.store(0, b"new")
    with mapped(volume.mnt / "f") as pages:
        assert pages[:3] == b"new" and pages[3:] == data[3:]
        with fails(errno.EBUSY):
            Map(fd)
    os.close(fd)
    assert volume.unmount() == 0
    volume.fsck()


@claim("with -o sealed_reads=direct a sealed file is not cached, and readers do not prevent grants", alone=True)
def _(maker):
    volume = maker.volume(size="64M", options="sealed_reads=direct")
    data = sealed_file(volume.mnt / "f")
    reader = os.open(volume.mnt / "f", os.O_RDONLY)
    with fails(errno.ENODEV):
        mmap.mmap(reader, MIB, mmap.MAP_SHARED, mmap.PROT_READ)
    fd = open_direct(volume.mnt / "f")
    with Map(fd) as m:
        m.store(0, b"stored")
        assert os.pread(reader, 6, 0) == b"stored"
    os.close(fd), os.close(reader)
    until(lambda: ctl("unseal", volume.mnt / "f", ok=False).returncode == 0)
    with mapped(volume.mnt / "f") as pages:
        assert pages[:6] == b"stored" and pages[6:] == data[6:]
    assert volume.unmount() == 0


def python_reads(script, *words):
    return run(sys.executable, "-c", script, *words, timeout=60).stdout.strip()


@claim("Python's mmap and numpy's memmap read a sealed file as they read any other")
def _(here):
    data = sealed_file(here / "f")
    total = str(sum(data))
    script = ("import mmap, sys\n"
              "with open(sys.argv[1], 'rb') as f, mmap.mmap(f.fileno(), 0, access=mmap.ACCESS_READ) as m:\n"
              "    print(sum(m[:]))\n")
    assert python_reads(script, here / "f") == total
    if python_reads("import importlib.util as u; print(u.find_spec('numpy') is not None)") == "True":
        script = ("import numpy, sys\n"
                  "print(numpy.memmap(sys.argv[1], dtype='u1', mode='r').sum(dtype='u8'))\n")
        assert python_reads(script, here / "f") == total
    assert run("cmp", here / "f", "-", input=None, stdin=open(here / "f", "rb")).returncode == 0


if __name__ == "__main__":
    run_claims()
