"""Processes that lock when they are told to, and say what came of it.

    with Lockers(path) as lockers:
        a, b = lockers.new(), lockers.new()
        a("open", 0, "rw"); b("open", 0, "rw")
        a("range", 0, "set", "w", 0, 10)        0, or the name of an errno
        b.start("range", 0, "wait", "w", 0, 0)  does not wait for the answer
        b.waits()                               whether it still waits
        a("close", 0); b.finish()

Each is a process of its own, with descriptors by small numbers.  C's own fcntl(2) is called, for Python's
begins anew after a signal.
"""
import contextlib
import ctypes
import errno
import fcntl
import os
import pickle
import select
import signal
import struct
import time

TYPES = {"r": fcntl.F_RDLCK, "w": fcntl.F_WRLCK, "u": fcntl.F_UNLCK}
COMMANDS = {"set": fcntl.F_SETLK, "wait": fcntl.F_SETLKW, "get": fcntl.F_GETLK, "ofd set": fcntl.F_OFD_SETLK,
            "ofd wait": fcntl.F_OFD_SETLKW, "ofd get": fcntl.F_OFD_GETLK}
WHOLE = {"sh": fcntl.LOCK_SH, "ex": fcntl.LOCK_EX, "un": fcntl.LOCK_UN}
MODES = {"r": os.O_RDONLY, "w": os.O_WRONLY, "rw": os.O_RDWR}
ANSWER_SECONDS, WAITING_SECONDS, SOON_SECONDS = 20, 0.05, 10
_libc = ctypes.CDLL(None, use_errno=True)


class _Flock(ctypes.Structure):
    _fields_ = [("type", ctypes.c_short), ("whence", ctypes.c_short), ("start", ctypes.c_int64),
                ("length", ctypes.c_int64), ("pid", ctypes.c_int)]


def _done(result):
    return 0 if result == 0 else errno.errorcode[ctypes.get_errno()]


class _Orders:
    """What such a process can do; in that process."""

    def __init__(self, path):
        self.path, self.fds = path, {}

    def open(self, slot, mode):
        self.fds[slot] = os.open(self.path, MODES[mode])

    def dup(self, slot, to):
        self.fds[to] = os.dup(self.fds[slot])

    def close(self, slot):
        os.close(self.fds.pop(slot))

    def range(self, slot, command, kind, start, length):
        lock = _Flock(TYPES[kind], os.SEEK_SET, start, length, 0)
        result = _done(_libc.fcntl(self.fds[slot], COMMANDS[command], ctypes.byref(lock)))
        if result != 0 or not command.endswith("get"):
            return result
        found = next(name for name, value in TYPES.items() if value == lock.type)
        return (found, lock.start, lock.length, lock.pid) if found != "u" else found

    def whole(self, slot, kind, waits=False):
        return _done(_libc.flock(self.fds[slot], WHOLE[kind] | (0 if waits else fcntl.LOCK_NB)))

    def alarm(self, seconds):
        signal.signal(signal.SIGALRM, lambda *_: None)
        signal.siginterrupt(signal.SIGALRM, True)
        signal.setitimer(signal.ITIMER_REAL, seconds)

    def child(self, *order):
        """A child, with copies of the descriptors, does that and ends."""
        read_end, write_end = os.pipe()
        pid = os.fork()
        if pid == 0:
            with contextlib.suppress(BaseException):
                os.write(write_end, pickle.dumps(self.obey(order)))
            os._exit(0)
        os.close(write_end)
        with os.fdopen(read_end, "rb") as answer:
            result = pickle.loads(answer.read())
        os.waitpid(pid, 0)
        return result

    def obey(self, order):
        return getattr(self, order[0])(*order[1:])


class Locker:
    def __init__(self, path):
        orders_out, self._orders = os.pipe()
        self._answers, answers_in = os.pipe()
        self.pid = os.fork()
        if self.pid == 0:
            try:
                os.close(self._orders)
                os.close(self._answers)
                self._serve(_Orders(path), orders_out, answers_in)
            finally:
                os._exit(1)
        os.close(orders_out)
        os.close(answers_in)

    @staticmethod
    def _serve(orders, orders_out, answers_in):
        while size := os.read(orders_out, 4):
            order = pickle.loads(os.read(orders_out, struct.unpack("i", size)[0]))
            answer = pickle.dumps(orders.obey(order))
            os.write(answers_in, struct.pack("i", len(answer)) + answer)
        os._exit(0)

    def start(self, *order):
        text = pickle.dumps(order)
        os.write(self._orders, struct.pack("i", len(text)) + text)

    def waits(self):
        return not select.select([self._answers], [], [], WAITING_SECONDS)[0]

    def finish(self):
        assert select.select([self._answers], [], [], ANSWER_SECONDS)[0], "no answer"
        return pickle.loads(os.read(self._answers, struct.unpack("i", os.read(self._answers, 4))[0]))

    def __call__(self, *order):
        self.start(*order)
        return self.finish()

    def kill(self):
        if self.pid == 0:
            return
        os.kill(self.pid, signal.SIGKILL)
        os.waitpid(self.pid, 0)
        os.close(self._orders)
        os.close(self._answers)
        self.pid = 0


class Lockers:
    """All on one file, which they make."""

    def __init__(self, path):
        self.path, self.all = path, []
        with open(path, "wb") as file:
            file.write(bytes(100))

    def __enter__(self):
        return self

    def __exit__(self, *_):
        for locker in self.all:
            locker.kill()
        with contextlib.suppress(OSError):  # the mount has ended
            os.unlink(self.path)

    def new(self, *modes):
        """One that has opened the file so, as its descriptors 0, 1..."""
        made = Locker(self.path)
        self.all.append(made)
        for slot, mode in enumerate(modes):
            made("open", slot, mode)
        return made


def soon(try_it, wanted):
    """What it gives: the kernel of a FUSE mount tells of the end of an open file a moment after it."""
    deadline = time.monotonic() + SOON_SECONDS
    while (result := try_it()) != wanted and time.monotonic() < deadline:
        time.sleep(0.005)
    return result
