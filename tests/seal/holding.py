"""Processes that hold something on a file, and waiting for what comes: for tests of holders."""
import contextlib
import errno
import json
import os
import signal
import time

import libpmfs


def until(condition, seconds=10):
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it does not come to be"
        time.sleep(0.01)


def kinds(path):
    """What holds the file, without its open handles."""
    return sorted(h["kind"] for h in libpmfs.holders(path) if not h["kind"].startswith("handle"))


def status(path):
    return json.loads(libpmfs.ctl("status", "--json", path).stdout)


def quarantine(path):
    return json.loads(libpmfs.ctl("quarantine", "--json", path).stdout)


def fill(directory):
    """Files until the last block is taken; gives each one's name and seed."""
    made = []
    size = 8 * (1 << 20)
    while size >= 4096:
        name = directory / f"fill{len(made)}"
        fd = os.open(name, os.O_RDWR | os.O_CREAT)
        try:
            data = libpmfs.pattern(size, len(made))
            assert os.pwrite(fd, data, 0) == size
            os.fsync(fd)
            made.append((name, size))
        except (OSError, AssertionError) as error:
            assert getattr(error, "errno", errno.ENOSPC) == errno.ENOSPC, error
            os.unlink(name)
            size //= 2
        finally:
            os.close(fd)
    return made


def check(made):
    for seed, (name, size) in enumerate(made):
        assert name.read_bytes() == libpmfs.pattern(size, seed), f"{name} was stored to"


class Child:
    """A process that takes what `take` gives, says so, does `meanwhile` again and again until it is
    told to end, and lets go.  It ends with our process at the latest."""

    def __init__(self, take, meanwhile=None, before=None):
        said, self._say = os.pipe()
        self._told, tell = os.pipe()
        self.pid = os.fork()
        if self.pid == 0:
            with contextlib.suppress(BaseException):
                os.close(said), os.close(tell)
                os.set_blocking(self._told, meanwhile is None)
                if before:
                    before()
                held = take()
                os.write(self._say, b"+")
                while not self._ended():
                    meanwhile(held)
                for one in held if isinstance(held, (list, tuple)) else [held]:
                    for let_go in ("unmap", "end"):
                        if hasattr(one, let_go):
                            getattr(one, let_go)()
                os._exit(0)
            os._exit(1)
        os.close(self._say), os.close(self._told)
        self._tell = tell
        word = os.read(said, 1)
        os.close(said)
        if word != b"+":
            self.wait()
            raise AssertionError("the child could not take what it should")

    def _ended(self):
        try:
            os.read(self._told, 1)
        except BlockingIOError:
            return False
        return True

    def wait(self):
        """Its wait status, once it has ended."""
        os.close(self._tell)
        _, status = os.waitpid(self.pid, 0)
        self.pid = 0
        return status

    def end(self):
        """Lets go in good order."""
        assert self.wait() == 0

    def kill(self, number=signal.SIGKILL):
        os.kill(self.pid, number)
        self.wait()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        if self.pid:
            self.kill()
