"""libpmfs as the tests call it: the library itself, by ctypes, and its ioctls as bytes."""
import ctypes
import errno
import fcntl
import json
import mmap
import os
import select
import struct
import subprocess
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "mount"))
from fixture import BUILD, program  # noqa: E402

NONE, AS_IS, FULL = 0, 1, 2
READ, WRITE = mmap.PROT_READ, mmap.PROT_READ | mmap.PROT_WRITE
SEAL_MODE, UNSEAL_MODE, KEEP_SIZE = 0x01000000, 0x02000000, 1
POPULATE, BREAKABLE_MAP, PINNED_MAP, NOWAIT_MAP, FORK_MAP = 1, 2, 4, 8, 16  # PMFS_MAP_*
TEMPORARY, BREAKABLE, PIN = 1, 2, 3
STORE, NOWAIT = 1, 16  # PMFS_GRANT_*
TICKET_SIZE = 216 + 8
BREAK, ENDED = 1, 2  # PMFS_EVENT_*


def _load():
    for path in sorted(BUILD.rglob("libpmfs.so*")):
        if path.is_file() and not path.name.endswith(".p"):
            return ctypes.CDLL(str(path))
    sys.exit(f"libpmfs.so was not built in {BUILD}")


_lib = _load()
_lib.pmfs_lease_end.argtypes = [ctypes.c_void_p]
_lib.pmfs_lease_event_fd.argtypes = [ctypes.c_void_p]
_lib.pmfs_map_address.restype = ctypes.c_void_p
_lib.pmfs_map_length.restype = ctypes.c_size_t


def _checked(name, *arguments):
    result = getattr(_lib, name)(*arguments)
    if result < 0:
        raise OSError(-result, f"{name}: {os.strerror(-result)}")
    return result


def open_direct(path, flags=os.O_RDWR):
    return _checked("pmfs_open", os.fsencode(path), flags, 0)


def seal(fd, level=FULL):
    _checked("pmfs_seal", fd, level)


def unseal(fd):
    _checked("pmfs_unseal", fd)


def prepare(fd, offset=0, length=0, unit=0):
    _checked("pmfs_prepare", fd, ctypes.c_int64(offset), ctypes.c_size_t(length),
             ctypes.c_size_t(unit))


def prepare_contiguous(fd, offset=0, length=0):
    _checked("pmfs_prepare_contiguous", fd, ctypes.c_int64(offset), ctypes.c_size_t(length))


def fallocate(fd, mode, offset, length):
    _checked("pmfs_fallocate", fd, mode, ctypes.c_int64(offset), ctypes.c_int64(length))


def grant(fd, kind=TEMPORARY, offset=0, length=0, flags=0):
    number = ctypes.c_uint64()
    _checked("pmfs_grant", fd, kind, ctypes.c_int64(offset), ctypes.c_size_t(length), flags,
             ctypes.byref(number))
    return number.value


def release(fd, number):
    _checked("pmfs_release", fd, ctypes.c_uint64(number))


def pin(fd, offset=0, length=0):
    number = ctypes.c_uint64()
    _checked("pmfs_pin", fd, ctypes.c_int64(offset), ctypes.c_size_t(length), ctypes.byref(number))
    return number.value


def unpin(fd, number):
    _checked("pmfs_unpin", fd, ctypes.c_uint64(number))


class Event(ctypes.Structure):
    _fields_ = [("kind", ctypes.c_uint32), ("milliseconds", ctypes.c_uint32),
                ("grant", ctypes.c_uint64)]


class _Told:
    """What has events: a mapping or a lease."""

    _events = ""  # the function's name
    _held = None

    def event(self):
        """The next one, or None."""
        event = Event()
        try:
            _checked(self._events, self._held, ctypes.byref(event))
        except OSError as error:
            if error.errno == errno.EAGAIN:
                return None
            raise
        return event

    def wait(self, seconds=10):
        """Until there is an event, which poll(2) must show; gives it."""
        poll = select.poll()
        poll.register(self.event_fd, select.POLLIN)
        assert poll.poll(seconds * 1000), "no event comes"
        return self.event()


class Lease(_Told):
    """A breakable lease without a mapping; a context manager."""

    _events = "pmfs_lease_event"

    def __init__(self, fd, offset=0, length=0, flags=0):
        self._held = ctypes.c_void_p()
        _checked("pmfs_lease", fd, ctypes.c_int64(offset), ctypes.c_size_t(length), flags,
                 ctypes.byref(self._held))

    @property
    def event_fd(self):
        return _lib.pmfs_lease_event_fd(self._held)

    def end(self):
        if self._held:
            _checked("pmfs_lease_end", self._held)
            self._held = ctypes.c_void_p()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.end()


def make_ticket(fd, offset=0, length=0, prot=WRITE, flags=0):
    """The bytes of a struct pmfs_ticket."""
    ticket = ctypes.create_string_buffer(TICKET_SIZE)
    _checked("pmfs_make_ticket", fd, ctypes.c_int64(offset), ctypes.c_size_t(length), prot, flags,
             ticket)
    return ticket.raw


def borrow(fd, offset=0, length=0):
    """A descriptor of the device, for the program that is executed next."""
    return _checked("pmfs_borrow", fd, ctypes.c_int64(offset), ctypes.c_size_t(length))


class Map(_Told):
    """A direct mapping; a context manager."""

    _events = "pmfs_map_event"

    def __init__(self, fd, offset=0, length=0, prot=WRITE, flags=0, *, ticket=None):
        self._held = ctypes.c_void_p()
        if ticket is not None:
            _checked("pmfs_map_ticket", fd, ticket, ctypes.byref(self._held))
        else:
            _checked("pmfs_map", fd, ctypes.c_int64(offset), ctypes.c_size_t(length), prot, flags,
                     ctypes.byref(self._held))
        self.address = _lib.pmfs_map_address(self._held)
        self.length = _lib.pmfs_map_length(self._held)
        self.bytes = (ctypes.c_char * self.length).from_address(self.address)

    @property
    def event_fd(self):
        return _lib.pmfs_map_event_fd(self._held)

    def load(self, offset, size):
        return self.bytes[offset:offset + size]

    def store(self, offset, data):
        ctypes.memmove(self.address + offset, data, len(data))

    def persist(self, offset=0, length=None):
        length = self.length - offset if length is None else length
        _checked("pmfs_persist", self._held, ctypes.c_size_t(offset), ctypes.c_size_t(length))

    def unmap(self):
        if self._held:
            _checked("pmfs_unmap", self._held)
            self._held = ctypes.c_void_p()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.unmap()


def ioc(number, size, read=True):
    """A command of pmfs_ioctl.h."""
    direction = 3 if read else 1
    return direction << 30 | size << 16 | 0xD5 << 8 | number


def seal_ioctl(fd, level=FULL, version=1):
    """errno (0: none) and the offset that stood in the way: both come back from one call."""
    data = bytearray(struct.pack("<IIIIQ", version, 0, level, 0, 0))
    try:
        fcntl.ioctl(fd, ioc(0x10, 24), data)
        error = 0
    except OSError as raised:
        error = raised.errno
    return error, struct.unpack_from("<Q", data, 16)[0]


def ctl(*words, ok=True):
    """pmfsctl: exit code, standard output, standard error."""
    done = subprocess.run([program("pmfsctl"), *map(str, words)], capture_output=True, text=True,
                          timeout=60)
    assert not ok or done.returncode == 0, f"pmfsctl {words}: {done.returncode} {done.stderr}"
    return done


def info(path):
    return json.loads(ctl("info", "--json", path).stdout)


def seal_of(path):
    return info(path)["seal"]


def holders(path):
    return json.loads(ctl("holders", "--json", path).stdout)["holders"]


def pattern(size, seed=1):
    block = bytes((i * 7 + i // 251 + seed) & 0xFF for i in range(65536))
    return (block * (size // len(block) + 1))[:size]


def make_file(path, size, seed=1, prepared=True):
    """A file with a known content, closed again; gives the content."""
    data = pattern(size, seed)
    path.write_bytes(data)
    if prepared:
        fd = open_direct(path)
        prepare(fd)
        os.close(fd)
    return data
