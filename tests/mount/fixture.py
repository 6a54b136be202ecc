"""A mounted volume for tests, and claims about it.

    @claim("a hard link is the same file under another name")
    def _(here): ...            # `here`: an empty directory on a mounted volume

    if __name__ == "__main__":
        run_claims()

Each file of claims runs on an image file and on a region in memory.  `--on DIR` runs the claims in a
directory of any filesystem instead, which tests the tests.  Nothing outlives a run: servers are ended
by their process id and mounts taken down, also after a failure.  A server that hangs would leave its
users unkillable, so a process of its own (python may hold its lock while it waits for a page) cuts
the connection when a claim takes too long.

With PMFS_TRANSPORT=io_uring (or dev_fuse) in the environment requests come that way.
"""
import argparse
import contextlib
import ctypes
import errno
import json
import os
import re
import select
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import traceback
from pathlib import Path

import rings

ROOT = Path(__file__).resolve().parents[2]
BUILD = Path(os.environ.get("PMFS_BUILD", ROOT / "build"))
CONNECTIONS = Path("/sys/fs/fuse/connections")
CLAIM_SECONDS = 60
TRANSPORT = os.environ.get("PMFS_TRANSPORT", "")
_claims = []


def program(name):
    """The path of a program that was built."""
    for path in sorted(BUILD.rglob(name)):
        if path.is_file() and os.access(path, os.X_OK):
            return str(path)
    sys.exit(f"{name} was not built in {BUILD}")


def claim(words, *, seconds=CLAIM_SECONDS, alone=False):
    """Registers a claim.  With alone=True it gets a maker of volumes instead of a directory."""
    def register(function):
        _claims.append((words, function, seconds, alone))
        return function
    return register


class Watchdog:
    """Cuts FUSE connections and kills servers when time is up, from a process that touches neither."""

    def __init__(self):
        if not CONNECTIONS.joinpath("..").resolve().exists() or not os.path.ismount(CONNECTIONS):
            subprocess.run(["mount", "-t", "fusectl", "none", str(CONNECTIONS)], check=False)
        read_end, self._pipe = os.pipe()
        self.pid = os.fork()
        if self.pid == 0:
            os.close(self._pipe)
            try:
                self._watch(read_end)
            finally:
                os._exit(0)
        os.close(read_end)

    def arm(self, seconds, mounts):
        words = " ".join(f"{m.connection}:{m.pid}:{getattr(m, 'mnt', '')}" for m in mounts)
        os.write(self._pipe, f"{seconds} {words}\n".encode())

    def disarm(self):
        os.write(self._pipe, b"0\n")

    def end(self):
        os.close(self._pipe)
        os.waitpid(self.pid, 0)

    @staticmethod
    def _watch(pipe):
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        deadline, targets, text = None, [], b""
        while True:
            left = None if deadline is None else max(0, deadline - time.monotonic())
            ready = select.select([pipe], [], [], left)[0]
            if not ready:
                Watchdog._cut(targets)
                deadline = None
                continue
            got = os.read(pipe, 4096)
            if not got:  # the process that armed us was killed, by SIGBUS for instance: clean up here
                Watchdog._cut(targets)
                for _, _, mnt in targets:
                    subprocess.run(["umount", "-l", mnt], check=False)
                return
            text += got
            *lines, text = text.split(b"\n")
            for line in lines:
                words = line.decode().split()
                deadline = time.monotonic() + float(words[0]) if words[0] != "0" else None
                targets = [word.split(":", 2) for word in words[1:]]

    @staticmethod
    def _cut(targets):
        for connection, pid, _ in targets:
            print(f"watchdog: cutting connection {connection}", file=sys.stderr, flush=True)
            with contextlib.suppress(OSError):
                CONNECTIONS.joinpath(connection, "abort").write_text("1")
            with contextlib.suppress(OSError):
                os.kill(int(pid), signal.SIGKILL)


class Mounted:
    """A volume on a region of some kind, and a server of it that this process started."""

    def __init__(self, directory, kind="image", size="256M", options="", mkfs=()):
        if kind == "writeback":
            kind, options = "memory", "writeback"
        self.directory = Path(directory)
        self.mnt = self.directory / "mnt"
        self.region = self.directory / "region"
        self.kind = kind
        self.server = None
        self.connection = 0
        if kind == "memory":
            self.shm = Path(tempfile.mkdtemp(prefix="pmfs-test-", dir="/dev/shm"))
            self.shm.chmod(0o755)
            self.region = self.shm / "region"
        self.mnt.mkdir(exist_ok=True)
        run(program("mkfs.pmfs"), "-q", "--size", size, *mkfs, self.region)
        self.mount(options)

    @property
    def pid(self):
        return self.server.pid if self.server else 0

    def mount(self, options="", inside=()):
        """inside: a command that runs another one, in a namespace of its own for instance."""
        command = [*inside, program("mount.pmfs"), str(self.region), str(self.mnt), "--foreground"]
        if TRANSPORT and "transport=" not in options:
            options = ",".join(filter(None, [options, f"transport={TRANSPORT}"]))
        if options:
            command += ["-o", options]
        self.log = open(self.directory / "server.log", "ab")
        self.server = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=self.log,
                                       stderr=self.log)
        for _ in range(2000):
            if self._find_connection():
                break
            if self.server.poll() is not None:
                raise AssertionError(f"no mount: {self.log_text()}")
            time.sleep(0.01)
        else:
            raise AssertionError("the server does not mount")

    def _find_connection(self):
        for line in Path("/proc/self/mountinfo").read_text().splitlines():
            fields = line.split()
            if fields[4] == str(self.mnt):
                self.connection = int(fields[2].split(":")[1])
                return True
        return False

    def log_text(self):
        return (self.directory / "server.log").read_text()[-2000:]

    def kill(self):
        """The server dies as by a crash; the mount is dead until it is taken away."""
        self.server.kill()
        self.server.wait()
        run("umount", "-l", self.mnt)

    def unmount(self):
        """Unmounts and waits until the server has closed the volume; gives its exit code."""
        run("umount", self.mnt)
        code = self.server.wait(30)
        # (Such as a system call that may block under a lock that everybody needs: base/blocking.h.)
        assert "a bug in pmfs" not in (self.directory / "server.log").read_text(), self.log_text()
        return code

    def fsck(self):
        done = subprocess.run([program("fsck.pmfs"), "-n", str(self.region)], capture_output=True,
                              text=True, timeout=300)
        assert done.returncode == 0, f"fsck says {done.returncode}: {done.stdout}{done.stderr}"

    def end(self):
        with contextlib.suppress(Exception):
            if self._find_connection():
                subprocess.run(["umount", "-l", str(self.mnt)], check=False)
        if self.server and self.server.poll() is None:
            try:
                self.server.wait(20)
            except subprocess.TimeoutExpired:
                self.server.kill()
                self.server.wait()
        if self.kind == "memory":
            shutil.rmtree(self.shm, ignore_errors=True)


class Maker:
    """Makes volumes that are gone with the claim."""

    def __init__(self, kind, directory, watchdog, seconds):
        self.kind, self.directory, self.watchdog, self.seconds = kind, directory, watchdog, seconds
        self.made = []

    def volume(self, **settings):
        place = self.directory / f"volume{len(self.made)}"
        place.mkdir()
        made = Mounted(place, self.kind, **settings)
        self.made.append(made)
        self.watch()
        return made

    def watch(self):
        """Call after a mount() of one's own, so that the watchdog knows the new connection."""
        self.watchdog.arm(self.seconds, self.made)

    def end(self):
        for made in self.made:
            made.end()


def run(*command, ok=True, **settings):
    """Runs a program to its end; with ok=True its exit code must be 0."""
    done = subprocess.run([str(word) for word in command], capture_output=True, text=True,
                          **settings)
    if ok and done.returncode != 0:
        raise AssertionError(f"{command}: exit {done.returncode}: {done.stdout}{done.stderr}")
    return done


def instrumented():
    """A build that counts lines or has sanitizers in it: those keep more than a server does."""
    options = json.loads((BUILD / "meson-info/intro-buildoptions.json").read_text())
    value = {option["name"]: option["value"] for option in options}
    return value["b_sanitize"] != "none" or value["b_coverage"]


def wait_for(condition, seconds=20):
    """Until it holds; False: it does not come to hold."""
    give_up = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > give_up:
            return False
        time.sleep(0.02)
    return True


@contextlib.contextmanager
def fails(*codes):
    """The statement raises OSError with one of these errno values."""
    try:
        yield
    except OSError as error:
        assert error.errno in codes, f"{errno.errorcode.get(error.errno)}: {error}"
        return
    raise AssertionError(f"no error, not {[errno.errorcode[code] for code in codes]}")


libc = ctypes.CDLL(None, use_errno=True)


def c_call(name, *arguments):
    """A C function that gives -1 and errno, as an exception."""
    result = getattr(libc, name)(*arguments)
    if result == -1:
        code = ctypes.get_errno()
        raise OSError(code, f"{name}: {os.strerror(code)}")
    return result


def link_open(fd, path):
    """A name for an open file, which may have none."""
    at_fdcwd, at_symlink_follow = -100, 0x400
    c_call("linkat", at_fdcwd, f"/proc/self/fd/{fd}".encode(), at_fdcwd, os.fsencode(path),
           at_symlink_follow)


def as_user(function, uid=1000, gid=1000, groups=()):
    """Runs the function in a child process with no privileges; its exception comes back."""
    read_end, write_end = os.pipe()
    child = os.fork()
    if child == 0:
        text = b""
        try:
            os.setgroups(groups)
            os.setresgid(gid, gid, gid)
            os.setresuid(uid, uid, uid)
            function()
        except BaseException:
            text = traceback.format_exc().encode()
        os.write(write_end, text[-4000:])
        os._exit(0)
    os.close(write_end)
    text = b"".join(iter(lambda: os.read(read_end, 65536), b""))
    os.close(read_end)
    os.waitpid(child, 0)
    if text:
        raise AssertionError(f"as user {uid}: {text.decode()}")


class Runner:
    def __init__(self, arguments):
        self.arguments = arguments
        self.passed = self.failed = 0
        self.watchdog = Watchdog()

    def chosen(self):
        for number, (words, function, seconds, alone) in enumerate(_claims):
            if re.search(self.arguments.only or "", words):
                yield number, words, function, seconds, alone

    def one(self, label, words, function, argument):
        try:
            function(argument)
        except BaseException as error:
            self.failed += 1
            print(f"not ok {label}: {words}: {str(error)[:200]!r}", flush=True)
            traceback.print_exc(file=sys.stdout)
            if isinstance(error, KeyboardInterrupt):
                raise
        else:
            self.passed += 1
            print(f"ok   {label}: {words}", flush=True)

    def on_directory(self, base):
        for number, words, function, seconds, alone in self.chosen():
            if alone:
                continue
            here = Path(base) / f"claim{number}"
            here.mkdir()
            self.one(base, words, function, here)

    def on_volumes(self, kind):
        scratch = Path(tempfile.mkdtemp(prefix="pmfs-mount-"))
        scratch.chmod(0o755)
        shared = None
        try:
            for number, words, function, seconds, alone in self.chosen():
                place = scratch / f"claim{number}"
                place.mkdir()
                if alone and kind == "writeback":
                    continue  # it says itself how its volumes are mounted
                if alone:
                    maker = Maker(kind, place, self.watchdog, seconds)
                    try:
                        self.one(kind, words, function, maker)
                    finally:
                        self.watchdog.disarm()
                        maker.end()
                    continue
                if shared is None:
                    shared = Mounted(place, kind)
                    shared.mnt.chmod(0o755)
                self.watchdog.arm(seconds, [shared])
                here = shared.mnt / f"claim{number}"
                here.mkdir()
                self.one(kind, words, function, here)
                self.watchdog.disarm()
            if shared is not None:
                self.one(kind, "the volume closes and fsck finds nothing", check_end, shared)
        finally:
            self.watchdog.disarm()
            if shared is not None:
                shared.end()
            shutil.rmtree(scratch, ignore_errors=True)


def check_end(shared):
    assert shared.unmount() == 0, shared.log_text()
    shared.fsck()


def run_claims(media=("image", "memory")):
    parser = argparse.ArgumentParser()
    parser.add_argument("--on", help="run the claims in this directory, of any filesystem")
    parser.add_argument("--only", help="claims that match this pattern")
    parser.add_argument("--media", help="image, memory, writeback (memory, with -o writeback), separated by commas")
    arguments = parser.parse_args()
    # A shell starts what it puts in the background with SIGINT ignored, and children would inherit that.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    wanted = TRANSPORT == "io_uring"
    if wanted and (why := rings.missing()):
        print(f"skipped: {why}")
        sys.exit(0)
    runner = Runner(arguments)
    switched = rings.Rings() if wanted else None
    try:
        if arguments.on:
            runner.on_directory(arguments.on)
        else:
            for kind in (arguments.media.split(",") if arguments.media else media):
                runner.on_volumes(kind)
    finally:
        runner.watchdog.end()
        if switched is not None:
            switched.end()
    print(f"{runner.passed} passed, {runner.failed} failed")
    sys.exit(1 if runner.failed else 0)
