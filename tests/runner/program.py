"""Runs one test program so that nothing of it survives: no process, no mount, no FUSE connection.

Each program gets a mount namespace of its own where that is allowed.  The mounts in there that the
runner has not are the program's, and so are the FUSE connections under them; they vanish with the
last process.  Processes that lose their parent come to the runner (PR_SET_CHILD_SUBREAPER), which
ends them by their ids.  /proc/PID/stat and mountinfo are read, never environ or cmdline, which wait
for a process that waits for a page of a dead filesystem.
"""
import contextlib
import ctypes
import dataclasses
import os
import shutil
import signal
import subprocess
import tempfile
import threading
import time
from pathlib import Path

CONNECTIONS = Path("/sys/fs/fuse/connections")
PR_SET_CHILD_SUBREAPER = 36
GRACE_SECONDS = 10  # for servers to end after their last mount is gone


@dataclasses.dataclass
class Program:
    name: str
    command: list
    kind: str = "lines"  # "doctest", or "lines": `ok NAME` and `not ok NAME: why`
    environment: dict = dataclasses.field(default_factory=dict)
    shown: bool = False  # what it prints is wanted also when all is well


@dataclasses.dataclass
class Ended:
    output: str
    code: int
    timed_out: bool
    seconds: float
    reports: list  # of sanitizers
    left_behind: list  # names of processes


_isolate = []
_beside = set()  # pids
_starting = threading.Lock()
_ending = []  # something: nothing begins any more


def prepare():
    """Once, before run()."""
    ctypes.CDLL(None, use_errno=True).prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
    private = ["unshare", "--mount", "--propagation", "private", "--"]
    if os.geteuid() == 0:
        if not os.path.ismount(CONNECTIONS):
            subprocess.run(["modprobe", "-q", "fuse"], check=False)
            subprocess.run(["mount", "-t", "fusectl", "none", CONNECTIONS], check=False,
                           stderr=subprocess.DEVNULL)
        if subprocess.run([*private, "true"], check=False, capture_output=True).returncode == 0:
            _isolate.extend(private)


def start_beside(command):
    """Starts a process that belongs to no program: run() leaves it alone.  Gives its Popen."""
    with _starting:
        if _ending:
            raise InterruptedError("the runner ends")
        child = subprocess.Popen([*map(str, command)], stdin=subprocess.DEVNULL)
        _beside.add(child.pid)
    return child


def run_beside(command):
    """The same to its end; gives its exit code."""
    child = start_beside(command)
    try:
        return child.wait()
    finally:
        with _starting:
            _beside.discard(child.pid)


def run(program, seconds):
    """Runs it to its end or for `seconds`."""
    scratch = Path(tempfile.mkdtemp(prefix="pmfs-run-"))
    scratch.chmod(0o755)
    reports = scratch / "reports"
    reports.mkdir()
    reports.chmod(0o1777)
    begin = time.monotonic()
    try:
        with open(scratch / "output", "wb") as output:
            child = subprocess.Popen(
                [*_isolate, *map(str, program.command)], stdin=subprocess.DEVNULL, stdout=output,
                stderr=subprocess.STDOUT, start_new_session=True,
                env=_environment(program, scratch, reports))
            try:
                child.wait(seconds)
                timed_out = False
            except subprocess.TimeoutExpired:
                timed_out = True
                _cut_connections(child.pid)
            finally:
                if child.returncode is None:
                    end_all()
                    with contextlib.suppress(subprocess.TimeoutExpired):
                        child.wait(GRACE_SECONDS)
        left = [] if timed_out else _wait_for_the_rest()
        end_all()
        text = (scratch / "output").read_text(errors="replace")
        found = [path.read_text(errors="replace") for path in sorted(reports.iterdir())]
        return Ended(text, child.returncode, timed_out, time.monotonic() - begin, found, left)
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


def _environment(program, scratch, reports):
    environment = {**os.environ, **program.environment, "TMPDIR": str(scratch), "LC_ALL": "C.UTF-8",
                   "PYTHONDONTWRITEBYTECODE": "1"}
    log = f"log_path={reports}/report"
    # A SIGBUS is ours to handle (fs/pm/fault.h), or kills as ever.
    environment["ASAN_OPTIONS"] = (f"{log}:detect_stack_use_after_return=1:abort_on_error=1"
                                   ":handle_sigbus=0")
    environment["UBSAN_OPTIONS"] = f"{log}:print_stacktrace=1"
    environment["TSAN_OPTIONS"] = f"{log}:second_deadlock_stack=1:handle_sigbus=0"
    return environment


def _wait_for_the_rest():
    """Servers end after their mount has gone with the namespace; names of those that do not."""
    deadline = time.monotonic() + GRACE_SECONDS
    while True:
        rest = _descendants()
        if not rest or time.monotonic() > deadline:
            return sorted(set(rest.values()))
        time.sleep(0.05)


def _descendants(beside=False):
    """{pid: name} of every process below this one; reaps those that have ended."""
    parents, names = {}, {}
    with _starting:
        spared = set() if beside else set(_beside)
        for entry in Path("/proc").iterdir():
            if not entry.name.isdigit():
                continue
            with contextlib.suppress(OSError):
                # pid (name, which may hold anything) state parent ...
                head, _, tail = (entry / "stat").read_text(errors="replace").rpartition(")")
                state, parent = tail.split()[:2]
                pid = int(entry.name)
                if state != "Z":
                    parents[pid] = int(parent)
                    names[pid] = head.partition("(")[2]
                elif int(parent) == os.getpid() and pid not in _beside:
                    os.waitpid(pid, os.WNOHANG)
    below, fresh = {}, {os.getpid()}
    while fresh:
        fresh = {pid for pid, parent in parents.items() if parent in fresh and pid not in spared}
        below.update((pid, names[pid]) for pid in fresh)
    return below


def end_all(beside=False):
    """Kills every process below this one, until none is left; `beside`: of start_beside(), too."""
    if beside:
        with _starting:
            _ending.append(True)
    deadline = time.monotonic() + GRACE_SECONDS
    while (rest := _descendants(beside)) and time.monotonic() < deadline:
        for pid in rest:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        time.sleep(0.05)


def _fuse_mounts(pid):
    """The connection numbers of the FUSE mounts that a process sees."""
    found = set()
    with contextlib.suppress(OSError):
        for line in Path(f"/proc/{pid}/mountinfo").read_text().splitlines():
            if line.partition(" - ")[2].startswith("fuse"):
                found.add(int(line.split()[2].partition(":")[2]))
    return found


def _cut_connections(pid):
    """Cuts every FUSE connection that this program made: what waits for one gets ENOTCONN."""
    if not _isolate:
        return
    for number in _fuse_mounts(pid) - _fuse_mounts(os.getpid()):
        with contextlib.suppress(OSError):
            (CONNECTIONS / str(number) / "abort").write_text("1")
