#!/usr/bin/env python3
"""libpmfs-preload.so with PMFS_PRELOAD_MMAP=1: mmap(2) of a sealed file by programs that know nothing is a direct mapping."""
# Holds docs/seal.md "Programs that know nothing of pmfs" and docs/man/libpmfs-preload.7.
import os
import subprocess
import sys
import tempfile

from holding import until
from libpmfs import ctl, holders, info, make_file, seal_of
from fixture import claim, program, run_claims

MIB = 1 << 20
PAGE = 4096
PRELOAD = program("libpmfs-preload.so")

# What each of the programs begins with.  direct(): how many bytes of the region are mapped.
BEGIN = """
import ctypes, errno, mmap, os, signal, sys
PAGE, MIB = 4096, 1 << 20
libc = ctypes.CDLL(None, use_errno=True)
libc.mmap.restype = libc.mremap.restype = ctypes.c_void_p
libc.mmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int, ctypes.c_int, ctypes.c_int, ctypes.c_int64]
libc.munmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t]
libc.mremap.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_size_t, ctypes.c_int]
libc.madvise.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int]
path = sys.argv[1]
FAILED = ctypes.c_void_p(-1).value

def direct():
    total = 0
    for line in open("/proc/self/maps"):
        if line.rstrip().endswith("/region"):
            start, end = (int(word, 16) for word in line.split()[0].split("-"))
            total += end - start
    return total

def peek(address, size):
    return ctypes.string_at(address, size)

def dies(function):
    child = os.fork()
    if child == 0:
        function()
        os._exit(0)
    return os.WIFSIGNALED(os.waitpid(child, 0)[1])

def map_it(length, prot=mmap.PROT_READ, flags=mmap.MAP_SHARED, offset=0, how=os.O_RDONLY):
    fd = os.open(path, how)
    address = libc.mmap(None, length, prot, flags, fd, offset)
    os.close(fd)
    assert address != FAILED, os.strerror(ctypes.get_errno())
    return address

def held():
    sys.stdout.write("held\\n"); sys.stdout.flush()
    assert sys.stdin.readline() == "go on\\n"
"""


def environment(word="1"):
    return {**os.environ, "LD_PRELOAD": PRELOAD, **({"PMFS_PRELOAD_MMAP": word} if word else {})}


def does(script, path, word="1"):
    """The program says nothing and ends with 0: its assertions hold."""
    done = subprocess.run([sys.executable, "-c", BEGIN + script, str(path)], env=environment(word), timeout=60,
                          capture_output=True, text=True, check=False)
    assert done.returncode == 0 and done.stdout == "", f"{done.returncode}: {done.stderr[-1500:]}"


class Held:
    """A program that stops at each held(), until it is to go on."""

    def __init__(self, script, path):
        self.process = subprocess.Popen([sys.executable, "-c", BEGIN + script, str(path)], env=environment(),
                                        stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)

    def __enter__(self):
        self.wait()
        return self

    def wait(self):
        assert self.process.stdout.readline() == "held\n", self.process.wait(10)

    def go_on(self, ends=True):
        self.process.stdin.write("go on\n")
        self.process.stdin.flush()
        if ends:
            assert self.process.wait(20) == 0
        else:
            self.wait()

    def __exit__(self, *_):
        self.process.kill()
        self.process.wait()
        self.process.stdin.close(), self.process.stdout.close()


def sealed_file(path, size=MIB, seed=1):
    data = make_file(path, size, seed)
    ctl("seal", path)
    until(lambda: info(path)["handles_cached"] == 0)
    return data


def grants(path):
    return [h for h in holders(path) if h["kind"] == "temporary"]


@claim("Python's mmap of a sealed file is direct with the option, and is not without it")
def _(here):
    (here / "copy").write_bytes(sealed_file(here / "f", MIB + 5000))
    script = ("with open(path, 'rb') as f, mmap.mmap(f.fileno(), 0, access=mmap.ACCESS_READ) as m:\n"
              "    assert m[:] == open(path.replace('/f', '/copy'), 'rb').read()\n"
              "    assert (direct() >= MIB) == (sys.argv[0] == '-c' and os.environ.get('PMFS_PRELOAD_MMAP') == '1')\n"
              "assert direct() == 0\n")
    for word in ("1", "0", "", None):
        does(script, here / "f", word)


@claim("a shared mapping for writing stores into the file, where the kernel would say ENODEV")
def _(here):
    sealed_file(here / "f")
    script = """
with open(path, 'r+b') as f, mmap.mmap(f.fileno(), 0) as m:
    assert direct() >= MIB
    m[100:106] = b'stored'
    assert os.pread(f.fileno(), 6, 100) == b'stored'
    os.pwrite(f.fileno(), b'written', 200)
    assert m[200:207] == b'written'
    m.flush()
"""
    does(script, here / "f")
    assert (here / "f").read_bytes()[100:106] == b"stored"
    done = subprocess.run([sys.executable, "-c", BEGIN + script, str(here / "f")], env=environment(None), timeout=60,
                          capture_output=True, text=True, check=False)
    assert "No such device" in done.stderr


@claim("the grant of such a mapping outlives the descriptor, ends with the mapping, and is shown with its process id")
def _(here):
    sealed_file(here / "f")
    with Held("address = map_it(MIB)\nheld()\nlibc.munmap(address, MIB)\nheld()\n", here / "f") as user:
        assert [h["pid"] for h in grants(here / "f")] == [user.process.pid]
        assert ctl("unseal", here / "f", ok=False).returncode == 1 and seal_of(here / "f") == "full"
        user.go_on(ends=False)
        assert not grants(here / "f")
        until(lambda: ctl("unseal", here / "f", ok=False).returncode == 0)
        user.go_on()


@claim("a process that is killed, or executes another program, gives its grant back")
def _(here):
    sealed_file(here / "f")
    with Held("address = map_it(MIB)\nheld()\n", here / "f"):
        assert len(grants(here / "f")) == 1
    until(lambda: not grants(here / "f"))
    with Held("address = map_it(MIB)\nheld()\nos.execlp('sleep', 'sleep', '30')\n", here / "f") as user:
        user.process.stdin.write("go on\n")
        user.process.stdin.flush()
        until(lambda: not grants(here / "f"))
    until(lambda: ctl("unseal", here / "f", ok=False).returncode == 0)


@claim("parts of a direct mapping can be unmapped; the rest stays, and the grant ends with the last part")
def _(here):
    sealed_file(here / "f")
    with Held("""
data = open(path, 'rb').read()
address = map_it(MIB)
assert direct() >= MIB
assert libc.munmap(address + 16 * PAGE, 4 * PAGE) == 0
assert libc.munmap(address, PAGE) == 0 and libc.munmap(address + MIB - PAGE, PAGE) == 0
assert libc.munmap(address + 17 * PAGE, PAGE) == 0  # as munmap(2): nothing is there
assert peek(address + PAGE, 15 * PAGE) == data[PAGE:16 * PAGE]
assert peek(address + 20 * PAGE, PAGE) == data[20 * PAGE:21 * PAGE]
for page in (0, 16, 17, 19, 255):
    assert dies(lambda: peek(address + page * PAGE, 1)), page
assert libc.munmap(address + PAGE, 100 * PAGE) == 0
assert peek(address + 101 * PAGE, PAGE) == data[101 * PAGE:102 * PAGE]
held()
# The addresses around it are freed, too, and not used twice.
assert libc.munmap(address - 0, MIB) == 0
assert direct() == 0
held()
""", here / "f") as user:
        assert len(grants(here / "f")) == 1
        user.go_on(ends=False)
        assert not grants(here / "f")
        user.go_on()


@claim("MAP_FIXED over a part of a direct mapping replaces that part, and the rest stays")
def _(here):
    sealed_file(here / "f")
    does("""
data = open(path, 'rb').read()
address = map_it(MIB)
fixed = 0x10
got = libc.mmap(address + 8 * PAGE, 2 * PAGE, 3, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | fixed, -1, 0)
assert got == address + 8 * PAGE and peek(got, 2 * PAGE) == bytes(2 * PAGE)
ctypes.memset(got, 7, PAGE)
assert peek(address + 7 * PAGE, PAGE) == data[7 * PAGE:8 * PAGE]
assert libc.munmap(address, 8 * PAGE) == 0 and libc.munmap(address + 10 * PAGE, MIB - 10 * PAGE) == 0
assert peek(got, PAGE) == b'\\7' * PAGE, 'somebody else took it away'
""", here / "f")
    assert not grants(here / "f")


@claim("remap_file_pages of a direct mapping is EINVAL, and of any other as without the library")
def _(here):
    data = sealed_file(here / "f")
    does("""
address = map_it(MIB, prot=3, how=os.O_RDWR)
begins = peek(address, 2 * PAGE)
call = libc.remap_file_pages
call.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int, ctypes.c_size_t, ctypes.c_int]
for at, page in ((address, 0), (address + PAGE, 0), (address + PAGE, 5)):
    assert call(at, PAGE, 0, page, 0) == -1 and ctypes.get_errno() == errno.EINVAL
assert peek(address, 2 * PAGE) == begins and direct() == MIB
fd = os.memfd_create('m')
os.write(fd, b'a' * PAGE + b'b' * PAGE)
other = libc.mmap(None, 2 * PAGE, 3, mmap.MAP_SHARED, fd, 0)
assert call(other, PAGE, 0, 1, 0) == 0, os.strerror(ctypes.get_errno())
assert peek(other, 1) == b'b'
""", here / "f")
    assert (here / "f").read_bytes() == data


@claim("memory that mremap moves over a direct mapping takes its place: the grant ends, and the memory can grow")
def _(here):
    sealed_file(here / "f")
    script = """
address = map_it(MIB)
held()
anonymous = libc.mmap(None, MIB, 3, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS, -1, 0)
half = ctypes.c_void_p(address + MIB // 2)
assert libc.mremap(anonymous, MIB // 2, MIB // 2, 3, half) == half.value
assert direct() == MIB // 2
held()
assert libc.mremap(anonymous + MIB // 2, MIB // 2, MIB // 2, 3, ctypes.c_void_p(address)) == address
assert direct() == 0
held()
assert libc.mremap(address, MIB // 2, 4 * MIB, 1) != FAILED, os.strerror(ctypes.get_errno())
"""
    with Held(script, here / "f") as program:
        assert len(grants(here / "f")) == 1
        program.go_on(ends=False)
        assert len(grants(here / "f")) == 1
        program.go_on(ends=False)
        assert grants(here / "f") == []
        program.go_on()


@claim("mremap can shrink a direct mapping, and never lets it grow over the next bytes of the device")
def _(here):
    sealed_file(here / "f")
    sealed_file(here / "next", seed=2)
    does("""
data = open(path, 'rb').read()
address = map_it(MIB)
for flags in (0, 1):
    assert libc.mremap(address, MIB, 2 * MIB, flags) == FAILED and ctypes.get_errno() == errno.ENOMEM
assert libc.mremap(address, MIB, MIB, 3) == FAILED and ctypes.get_errno() == errno.EINVAL
assert libc.mremap(address, MIB, MIB // 2, 0) == address
assert peek(address, MIB // 2) == data[:MIB // 2]
assert dies(lambda: peek(address + MIB // 2, 1))
assert libc.munmap(address, MIB // 2) == 0 and direct() == 0
""", here / "f")


@claim("a child has a mapping for reading, even after its parent has unmapped it; UNSEAL waits for both")
def _(here):
    sealed_file(here / "f")
    with Held("""
data = open(path, 'rb').read()
address = map_it(MIB)
child = os.fork()
if child == 0:
    assert sys.stdin.readline() == 'go on\\n'
    assert peek(address, MIB) == data
    assert libc.munmap(address, MIB) == 0 and direct() == 0
    os._exit(0)
libc.munmap(address, MIB)
assert direct() == 0
sys.stdout.write('held\\n'); sys.stdout.flush()
assert os.waitpid(child, 0)[1] == 0
""", here / "f") as user:
        assert ctl("unseal", here / "f", ok=False).returncode == 1
        user.go_on()
    until(lambda: ctl("unseal", here / "f", ok=False).returncode == 0)


@claim("a child does not have a mapping for writing, and what it maps itself is its own")
def _(here):
    sealed_file(here / "f")
    does("""
address = map_it(MIB, 3, how=os.O_RDWR)
assert direct() >= MIB
assert dies(lambda: peek(address, 1))
child = os.fork()
if child == 0:
    assert direct() == 0
    got = libc.mmap(address, PAGE, 3, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | 0x10, -1, 0)
    assert got == address and libc.munmap(got, PAGE) == 0
    os._exit(0 if map_it(PAGE) else 1)
assert os.waitpid(child, 0)[1] == 0
ctypes.memset(address, 9, 10)
assert peek(address, 10) == bytes([9] * 10) and libc.munmap(address, MIB) == 0
""", here / "f")


@claim("other mappings are left to the kernel: private, fixed, behind the end, not sealed, elsewhere")
def _(here):
    sealed_file(here / "f", MIB - 1000)
    make_file(here / "unsealed", MIB)
    script = """
data = open(path, 'rb').read()
address = map_it(MIB, 3, mmap.MAP_PRIVATE)
ctypes.memset(address, 1, 5)
assert direct() == 0 and open(path, 'rb').read() == data
for length in (MIB + PAGE, 16 * MIB):
    address = map_it(length)
    assert direct() == 0 and peek(address, len(data)) == data
    assert dies(lambda: peek(address + length - 1, 1))
fd = os.open(path, os.O_RDONLY)
for length, offset in ((0, 0), (PAGE, 100)):
    assert libc.mmap(None, length, 1, mmap.MAP_SHARED, fd, offset) == FAILED
    assert ctypes.get_errno() == errno.EINVAL
assert libc.mmap(None, PAGE, 3, mmap.MAP_SHARED, fd, 0) == FAILED and ctypes.get_errno() == errno.EACCES
spot = libc.mmap(None, PAGE, 0, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS, -1, 0)
assert libc.mmap(spot, PAGE, 1, mmap.MAP_SHARED | 0x10, fd, 0) == spot and direct() == 0
assert peek(spot, PAGE) == data[:PAGE]
"""
    does(script, here / "f")
    plain = "address = map_it(PAGE)\nassert direct() == 0 and len(peek(address, PAGE)) == PAGE\n"
    does(plain, here / "unsealed")
    with tempfile.NamedTemporaryFile(dir="/dev/shm") as file:
        file.write(bytes(MIB))
        file.flush()
        does(plain, file.name)


@claim("offsets and lengths need no alignment: exactly the requested range is mapped, with zeroes behind the end")
def _(here):
    sealed_file(here / "f", 3 * MIB - 1000)
    does("""
data = open(path, 'rb').read()
for offset, length in ((PAGE, 5000), (2 * MIB - PAGE, 2 * PAGE), (3 * MIB - PAGE, PAGE), (MIB, 2 * MIB)):
    address = map_it(length, offset=offset)
    assert direct() >= length, (offset, length)
    expected = data[offset:offset + length]
    assert peek(address, length) == expected + bytes(length - len(expected))
    assert libc.munmap(address, length) == 0 and direct() == 0
""", here / "f")


@claim("a user that may not have the device gets the kernel's mapping")
def _(here):
    sealed_file(here / "f")
    os.chown(here / "f", 1000, 1000)
    does("""
os.setresuid(1000, 1000, 1000)
address = map_it(MIB)
assert direct() == 0 and peek(address, MIB) == open(path, 'rb').read()
fd = os.open(path, os.O_RDWR)
assert libc.mmap(None, MIB, 3, mmap.MAP_SHARED, fd, 0) == FAILED and ctypes.get_errno() == errno.ENODEV
""", here / "f")


@claim("madvise(MADV_REMOVE) punches no hole into the device")
def _(here):
    data = sealed_file(here / "f")
    does("""
address = map_it(MIB, 3, how=os.O_RDWR)
assert libc.madvise(address, MIB, 9) == -1 and ctypes.get_errno() == errno.ETXTBSY
assert libc.madvise(address, MIB, 4) == 0
assert libc.munmap(address, MIB) == 0
""", here / "f")
    assert (here / "f").read_bytes() == data


@claim("threads may map, unmap and fork at the same time")
def _(here):
    sealed_file(here / "f")
    does("""
import threading
data = open(path, 'rb').read()
wrong = []
def work(number):
    for turn in range(30):
        address = map_it(MIB)
        if peek(address + number * PAGE, 100) != data[number * PAGE:number * PAGE + 100]: wrong.append(turn)
        if turn % 5 == 0 and dies(lambda: peek(address, 1)): wrong.append('child')
        libc.munmap(address, MIB // 2)
        libc.munmap(address + MIB // 2, MIB // 2)
threads = [threading.Thread(target=work, args=[number]) for number in range(4)]
for thread in threads: thread.start()
for thread in threads: thread.join()
assert not wrong and direct() == 0, wrong
""", here / "f")


@claim("numpy's memmap is a direct mapping, if numpy is installed")
def _(here):
    data = sealed_file(here / "f")
    if subprocess.run([sys.executable, "-c", "import numpy"], capture_output=True, check=False).returncode == 0:
        does("import numpy\nm = numpy.memmap(path, dtype='u1', mode='r')\nassert direct() >= MIB\n"
             f"assert m.sum(dtype='u8') == {sum(data)}\n", here / "f")


if __name__ == "__main__":
    run_claims()
