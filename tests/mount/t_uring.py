#!/usr/bin/env python3
"""Requests over io_uring: that the transport is used, every kind of end, and every kind of waiting."""
import ctypes
import errno
import fcntl
import mmap
import os
import random
import shutil
import signal
import struct
import subprocess
import sys
import threading
import time
from pathlib import Path

os.environ["PMFS_TRANSPORT"] = "io_uring"

from fixture import CONNECTIONS, ROOT, claim, instrumented, program, run, run_claims, wait_for  # noqa: E402

CPU = min(os.sched_getaffinity(0))
LOCKS = "local_lock=none"


def child(function, *arguments, cpu=CPU):
    """A process that runs it on the one CPU, and ends with 0 when it returns."""
    pid = os.fork()
    if pid == 0:
        code = 1
        try:
            os.sched_setaffinity(0, {cpu})
            function(*arguments)
            code = 0
        finally:
            os._exit(code)
    return pid


def end_of(pid, seconds=20):
    """The exit code of a child; None: it is still there, and killed."""
    for _ in range(seconds * 50):
        done, status = os.waitpid(pid, os.WNOHANG)
        if done:
            return os.waitstatus_to_exitcode(status)
        time.sleep(0.02)
    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)
    return None


def lock_and_unlock(path):
    with open(path, "r+b") as file:
        fcntl.lockf(file, fcntl.LOCK_EX)
        fcntl.lockf(file, fcntl.LOCK_UN)


def waits_in_kernel(pid):
    """A process sleeps in a request (it has no CPU time to use, and is not about to exec)."""
    return "S" == Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0]


def says(volume, words):
    """The server's log, sooner or later: it speaks when all is served."""
    return wait_for(lambda: words in (volume.directory / "server.log").read_text())


def homes(volume):
    """The CPUs of the rings' threads."""
    tasks = [Path(f"/proc/{volume.pid}/task", task) for task in os.listdir(f"/proc/{volume.pid}/task")]
    rings = [task for task in tasks if (task / "comm").read_text() == "pmfs-ring\n"]
    return sorted(line.split()[1] for ring in rings for line in (ring / "status").read_text().splitlines()
                  if line.startswith("Cpus_allowed_list:"))


def use(directory, number):
    """Calls of many kinds without end."""
    name = directory / f"used{number}"
    while True:
        name.write_bytes(os.urandom(30000))
        assert len(name.read_bytes()) == 30000
        os.rename(name, directory / f"moved{number}")
        os.listdir(directory)
        os.unlink(directory / f"moved{number}")


@claim("the log says that requests come over io_uring, from a queue for each possible CPU", alone=True)
def _(maker):
    volume = maker.volume(size="64M")
    (volume.mnt / "file").write_text("x" * 5000)
    assert (volume.mnt / "file").read_text() == "x" * 5000
    queues = os.sysconf("SC_NPROCESSORS_CONF")
    assert says(volume, f"requests come over io_uring, from {queues} queues"), volume.log_text()
    found = homes(volume)
    assert len(set(found)) == len(found) == len(os.sched_getaffinity(0)), found
    assert volume.unmount() == 0, volume.log_text()
    volume.fsck()


@claim("transport=dev_fuse uses no ring", alone=True)
def _(maker):
    volume = maker.volume(size="64M", options="transport=dev_fuse")
    assert says(volume, "requests come by /dev/fuse"), volume.log_text()
    assert volume.unmount() == 0


@claim("a server that may not run on every CPU uses /dev/fuse and says why; with transport=io_uring it does not mount",
       alone=True)
def _(maker):
    if len(os.sched_getaffinity(0)) < 2:
        return
    volume = maker.volume(size="64M")
    assert volume.unmount() == 0
    volume.mount("transport=auto", inside=["taskset", "-c", str(CPU)])
    maker.watch()
    assert says(volume, "requests come by /dev/fuse: the server may not run on all CPUs"), volume.log_text()
    (volume.mnt / "file").write_text("served all the same")
    assert volume.unmount() == 0
    refused = subprocess.run(["taskset", "-c", str(CPU), program("mount.pmfs"), str(volume.region),
                              str(volume.mnt), "-o", "transport=io_uring"], capture_output=True,
                             text=True, timeout=30)
    assert refused.returncode == 32 and "may not run on all CPUs" in refused.stderr, refused.stderr
    assert not os.path.ismount(volume.mnt)


@claim("an unknown transport is refused", alone=True)
def _(maker):
    done = subprocess.run([program("mount.pmfs"), "/none", str(maker.directory), "-o", "transport=rdma"],
                          capture_output=True, text=True, timeout=30)
    assert done.returncode == 1 and "transport= takes 'auto', 'dev_fuse' or 'io_uring'" in done.stderr, done


@claim("SIGKILL of the server in the middle of requests: all callers get an error, and fsck finds nothing", alone=True)
def _(maker):
    volume = maker.volume(size="64M")
    users = [child(use, volume.mnt, number) for number in range(6)]
    time.sleep(1)
    volume.kill()
    assert [end_of(pid) for pid in users] == [1] * len(users)
    volume.fsck()
    volume.mount()
    maker.watch()
    os.listdir(volume.mnt)
    assert volume.unmount() == 0, volume.log_text()


@claim("an aborted connection ends the server, and all waiting requests", alone=True)
def _(maker):
    volume = maker.volume(size="64M")
    users = [child(use, volume.mnt, number) for number in range(6)]
    time.sleep(1)
    CONNECTIONS.joinpath(str(volume.connection), "abort").write_text("1")
    assert [end_of(pid) for pid in users] == [1] * len(users)
    assert volume.server.wait(20) == 0, volume.log_text()
    run("umount", "-l", volume.mnt)
    volume.fsck()


@claim("a ring that fails aborts the connection: no request waits for ever, and the server says so and ends with "
       "32", alone=True)
def _(maker):
    if not shutil.which("gdb") or instrumented():
        print("skipped: no gdb here can break the ring of this build")
        return
    volume = maker.volume(size="64M", options="seccomp=none")
    users = [child(use, volume.mnt, number) for number in range(4)]
    time.sleep(0.5)
    open_files = Path(f"/proc/{volume.pid}/fd")
    # (An image has one for fdatasync, made before.)
    ring = max(int(name) for name in os.listdir(open_files) if "io_uring" in os.readlink(open_files / name))
    run("gdb", "-p", volume.pid, "-batch", "-ex", f"call (int)close({ring})", timeout=60)
    assert [end_of(pid) for pid in users] == [1] * len(users)
    assert volume.server.wait(20) == 32, volume.log_text()
    assert "aborting the connection to the kernel" in volume.log_text()
    run("umount", "-l", volume.mnt, ok=False)
    volume.fsck()


@claim("SIGTERM while it is used detaches it, and all answered changes are there", alone=True)
def _(maker):
    volume = maker.volume(size="64M")
    (volume.mnt / "kept").write_text("kept")
    held = os.open(volume.mnt / "kept", os.O_RDONLY)
    volume.server.send_signal(signal.SIGTERM)
    assert volume.server.wait(30) == 0, volume.log_text()
    os.close(held)
    volume.fsck()
    volume.mount()
    maker.watch()
    assert (volume.mnt / "kept").read_text() == "kept"
    assert volume.unmount() == 0


@claim("a request for a lock that waits is interrupted by a signal", alone=True)
def _(maker):
    volume = maker.volume(size="64M", options=LOCKS)
    path = volume.mnt / "locked"
    path.write_text("x")
    with open(path, "r+b") as mine:
        fcntl.lockf(mine, fcntl.LOCK_EX)
        waiter = child(lock_and_unlock, path)
        assert wait_for(lambda: waits_in_kernel(waiter))
        time.sleep(0.3)
        os.kill(waiter, signal.SIGTERM)
        assert end_of(waiter) == -signal.SIGTERM
    assert volume.unmount() == 0, volume.log_text()


@claim("more requests of one CPU wait than its ring began with, and others of that CPU are still served", alone=True)
def _(maker):
    volume = maker.volume(size="64M", options=LOCKS)
    path = volume.mnt / "locked"
    path.write_text("x")
    before = os.sched_getaffinity(0)
    with open(path, "r+b") as mine:
        fcntl.lockf(mine, fcntl.LOCK_EX)
        os.sched_setaffinity(0, {CPU})
        waiters = [child(lock_and_unlock, path) for _ in range(100)]
        try:
            time.sleep(0.5)
            assert all(waits_in_kernel(pid) for pid in waiters)
            begin = time.monotonic()
            for number in range(20):
                (volume.mnt / f"other{number}").write_text("comes through")
            assert time.monotonic() - begin < 30
            fcntl.lockf(mine, fcntl.LOCK_UN)
        finally:
            os.sched_setaffinity(0, before)
            ends = [end_of(pid) for pid in waiters]
        assert ends == [0] * len(waiters), ends
    assert volume.unmount() == 0, volume.log_text()


def fetched_behind_many(volume, cpu, last=lambda: None, then=lambda: None):
    """Requests of a CPU take all entries of its ring; the one that they wait for comes last.  `last` is called before
    the server sees them, and `then` after that."""
    path, count = volume.mnt / "locked", 12
    path.write_text("x")
    asked = CONNECTIONS / str(volume.connection) / "waiting"

    def holder(told, holds):
        with open(path, "r+b") as file:
            fcntl.lockf(file, fcntl.LOCK_EX)
            os.write(holds, b"1")
            os.read(told, 1)
            fcntl.lockf(file, fcntl.LOCK_UN)
            os.read(told, 1)  # a close would unlock, too

    def waiter(told, ready):
        with open(path, "r+b") as file:
            os.write(ready, b"1")
            os.read(told, 1)
            fcntl.lockf(file, fcntl.LOCK_EX)
            fcntl.lockf(file, fcntl.LOCK_UN)
    told_holder, told_waiters, ready = os.pipe(), os.pipe(), os.pipe()
    children = [child(holder, told_holder[0], ready[1], cpu=cpu)]
    os.read(ready[0], 1)
    children += [child(waiter, told_waiters[0], ready[1], cpu=cpu) for _ in range(count)]
    for _ in range(count):
        os.read(ready[0], 1)
    try:
        volume.server.send_signal(signal.SIGSTOP)
        # (Other requests come and go, and are counted: so this says when it is likely, and no more.)
        os.write(told_waiters[1], b"1" * count)
        wait_for(lambda: int(asked.read_text()) >= count, 5)
        os.write(told_holder[1], b"1")
        wait_for(lambda: int(asked.read_text()) > count, 5)
        last()
    finally:
        volume.server.send_signal(signal.SIGCONT)
    then()
    ends = [end_of(pid, 10) for pid in children[1:]]
    os.write(told_holder[1], b"1")
    ends.append(end_of(children[0]))
    assert ends == [0] * len(children), ends


@claim("a request that waits in the kernel behind more than the ring began with is fetched, though none of "
       "those is answered",
       alone=True)
def _(maker):
    volume = maker.volume(size="64M", options=LOCKS)
    fetched_behind_many(volume, CPU)
    assert volume.unmount() == 0, volume.log_text()


class Hotplug:
    """A CPU that can be taken offline; it is online again at the end."""

    def __init__(self):
        cpus = sorted(os.sched_getaffinity(0) - {CPU, 0})
        self.cpu = cpus[-1] if cpus else None
        self.switch = Path(f"/sys/devices/system/cpu/cpu{self.cpu}/online")

    def missing(self):
        if self.cpu is None or not os.access(self.switch, os.W_OK):
            print("skipped: no CPU here can be taken offline")
            return True
        return False

    def set(self, online):
        self.switch.write_text(str(online))

    def go_and_come(self, path):
        """The CPU is offline while its ring's thread is woken: there is an answer to one of its requests."""
        with open(path, "w+b") as mine:
            fcntl.lockf(mine, fcntl.LOCK_EX)
            waiter = child(lock_and_unlock, path, cpu=self.cpu)
            assert wait_for(lambda: waits_in_kernel(waiter))
            time.sleep(0.3)
            self.set(0)
            fcntl.lockf(mine, fcntl.LOCK_UN)
            assert end_of(waiter) == 0
        self.set(1)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.set(1)


@claim("CPUs that go offline and come back while calls of many kinds run: all go on, and every byte is there",
       seconds=300, alone=True)
def _(maker):
    hotplug = Hotplug()
    if hotplug.missing():
        return
    volume = maker.volume(size="64M")
    turns = mmap.mmap(-1, 4096)

    def count_turns(number):
        name, source = volume.mnt / f"counted{number}", random.Random(number)
        while turns[4095] == 0:
            data = source.randbytes(source.randrange(1, 200000))
            name.write_bytes(data)
            assert name.read_bytes() == data
            os.rename(name, volume.mnt / f"moved{number}")
            name = volume.mnt / f"moved{number}"
            turns[number] = (turns[number] + 1) % 256
            # Without it the kernel's offlining waits for seconds in synchronize_rcu(), with /dev/fuse as well.
            time.sleep(0.003)
    users = []
    for number in range(6):  # half of them stay on that CPU for as long as there is one
        users.append(child(count_turns, number, cpu=hotplug.cpu if number % 2 else CPU))
    try:
        # (Before, a child might find the CPU offline on which it is to stay.)
        assert wait_for(lambda: all(turns[i] != 0 for i in range(6)), 60), turns[:6]
        with hotplug:
            for online in (0, 1) * 6:
                hotplug.set(online)
                before = turns[:6]
                went_on = wait_for(lambda before=before: all(turns[i] != before[i] for i in range(6)), 60)
                assert went_on, (online, before, turns[:6])
    finally:
        turns[4095] = 1
        ends = [end_of(pid) for pid in users]
    assert ends == [0] * len(users), ends
    assert volume.unmount() == 0, volume.log_text()
    volume.fsck()


@claim("a request that waits in the kernel is fetched also on a CPU that was offline, at the start or while serving",
       seconds=300, alone=True)
def _(maker):
    hotplug = Hotplug()
    if hotplug.missing():
        return
    with hotplug:
        volume = maker.volume(size="64M", options=LOCKS)
        hotplug.go_and_come(volume.mnt / "meanwhile")
        fetched_behind_many(volume, hotplug.cpu)
        assert volume.unmount() == 0, volume.log_text()
        hotplug.set(0)
        volume.mount(LOCKS)
        maker.watch()
        hotplug.set(1)
        fetched_behind_many(volume, hotplug.cpu)

        def come_back():
            time.sleep(0.5)
            hotplug.set(1)
            assert end_of(child(os.stat, volume.mnt / "locked", cpu=hotplug.cpu)) == 0
        # Requests that wait in the kernel when their CPU goes offline can only be fetched when it is back.
        fetched_behind_many(volume, hotplug.cpu, lambda: hotplug.set(0), come_back)
    assert volume.unmount() == 0, volume.log_text()
    volume.fsck()


@claim("when a CPU is back online, so is the thread of its ring", seconds=300, alone=True)
def _(maker):
    hotplug = Hotplug()
    if hotplug.missing():
        return
    volume = maker.volume(size="64M", options=LOCKS)
    everywhere = sorted(map(str, os.sched_getaffinity(0)))
    assert wait_for(lambda: homes(volume) == everywhere), homes(volume)
    with hotplug:
        hotplug.go_and_come(volume.mnt / "meanwhile")
    users = [child(use, volume.mnt, number, cpu=cpu) for number, cpu in enumerate((CPU, hotplug.cpu))]
    try:
        assert wait_for(lambda: homes(volume) == everywhere), homes(volume)
    finally:
        for pid in users:
            os.kill(pid, signal.SIGKILL)
        assert [end_of(pid) for pid in users] == [-signal.SIGKILL] * 2
    assert volume.unmount() == 0, volume.log_text()


@claim("reads and writes of a mebibyte by many at once bring what was written, and leave little memory", alone=True)
def _(maker):
    volume = maker.volume(size="256M")
    wrong = []

    def one(number):
        data = bytes([number]) * (1 << 20)
        with open(volume.mnt / f"large{number}", "w+b", buffering=0) as file:
            for _ in range(10):
                os.pwrite(file.fileno(), data, 0)
                os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
                if os.pread(file.fileno(), 1 << 20, 0) != data:
                    wrong.append(number)
    threads = [threading.Thread(target=one, args=[number]) for number in range(24)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong, wrong
    status = Path(f"/proc/{volume.pid}/status").read_text()
    anonymous = next(int(line.split()[1]) for line in status.splitlines() if line.startswith("RssAnon:"))
    assert anonymous < 160 << 10, f"{anonymous} KiB"
    assert volume.unmount() == 0, volume.log_text()
    volume.fsck()


def submit_writes(fd, count):
    """Asynchronous direct writes of a block each into holes of a file; what became of them."""
    libc = ctypes.CDLL(None, use_errno=True)
    block = mmap.mmap(-1, 4096)
    address = ctypes.addressof(ctypes.c_char.from_buffer(block))
    context = ctypes.c_ulong()
    assert libc.syscall(206, count, ctypes.byref(context)) == 0  # io_setup(2)
    for number in range(count):
        one = ctypes.create_string_buffer(
            struct.pack("<QIIHhIQQqQII", 0, 0, 0, 1, 0, fd, address, 4096, (1 + number) << 12, 0, 0, 0))
        pointer = ctypes.pointer(one)
        assert libc.syscall(209, context, 1, ctypes.byref(pointer)) == 1  # io_submit(2)
    events = ctypes.create_string_buffer(32 * count)
    assert libc.syscall(208, context, count, count, events, None) == count  # io_getevents(2)
    return {result for _, _, result, _ in struct.iter_unpack("<QQqq", events.raw)}


@claim("a user with too many requests that wait for a lease gets EAGAIN, and others are still served", alone=True)
def _(maker):
    if instrumented():
        return  # (the library)
    sys.path.insert(0, str(ROOT / "tests/seal"))
    import libpmfs
    volume = maker.volume(options="lease_break_time=15")
    path = volume.mnt / "f"
    holder = libpmfs.open_direct(path, os.O_CREAT | os.O_RDWR)
    os.write(holder, bytes(4096))
    os.truncate(path, 1 << 30)
    libpmfs.grant(holder, libpmfs.BREAKABLE, 0, 4096)
    os.chown(path, 1000, 1000)

    def many():
        fd = os.open(path, os.O_RDWR | os.O_DIRECT)
        os.setresuid(1000, 1000, 1000)
        got = submit_writes(fd, 6000)  # more than a queue has entries
        assert got == {4096, -errno.EAGAIN}, got
    writers = child(many)
    try:
        time.sleep(3)
        for number in range(5):
            begun = time.monotonic()
            assert end_of(child(lambda name: os.stat(name), volume.mnt), 10) == 0
            assert time.monotonic() - begun < 30
    finally:
        os.close(holder)
        assert end_of(writers) == 0
    volume.unmount()
    volume.fsck()


if __name__ == "__main__":
    run_claims()
