"""The runner's own tests: what it must count, and what must not outlive a program."""
import contextlib
import io
import os
import subprocess
import sys
import tempfile
import time
import traceback
from pathlib import Path

import counting
import coverage
import main as runner
import program
import suites
from program import Ended, Program

_tests = []


def test(words):
    return lambda function: _tests.append((words, function))


def judged(kind, output, code=0, timed_out=False, reports=(), left=()):
    ended = Ended(output, code, timed_out, 1.0, list(reports), list(left))
    count = counting.count(Program("x", [], kind), ended)
    return count.passed, count.failed


SUMMARY = "[doctest] test cases:  12 |  {} passed | {} failed | 0 skipped\n"


@test("doctest's summary is counted")
def _():
    assert judged("doctest", SUMMARY.format(12, 0)) == (12, 0)
    assert judged("doctest", SUMMARY.format(10, 2), code=1) == (10, 2)


@test("lines are counted, wherever they stand")
def _():
    assert judged("lines", "ok a\nnoise\nnot ok b: why\nok   c: d\n", code=1) == (2, 1)
    assert judged("lines", "token a\nok\n", code=1) == (0, 1)


@test("a program that dies after its last test has failed")
def _():
    assert judged("doctest", SUMMARY.format(12, 0), code=-11) == (12, 1)
    assert judged("lines", "ok a\n", code=1) == (1, 1)
    assert judged("doctest", "terminated\n", code=-6) == (0, 1)


@test("no test is a failure, and so are a hang, a sanitizer's report and a process left behind")
def _():
    assert judged("doctest", "") == (0, 1)
    assert judged("doctest", SUMMARY.format(0, 0)) == (0, 1)
    assert judged("lines", "ok a\n", timed_out=True, code=-9) == (1, 1)
    assert judged("lines", "ok a\n", reports=["ERROR: AddressSanitizer"]) == (1, 1)
    assert judged("lines", "ok a\n", left=["mount.pmfs"]) == (1, 1)


@test("what a machine cannot do may be skipped, and only by saying so")
def _():
    assert judged("lines", "skip rig B: no apt here\n") == (0, 0)
    assert judged("lines", "skip rig B: no apt here\n", code=1) == (0, 1)
    assert judged("lines", "skip rig B: no apt here\nnot ok a: b\n", code=1) == (0, 1)
    assert judged("doctest", "skip all: why\n") == (0, 1)


LONG = 60  # nothing takes that many seconds but what hangs: the programs sleep for 77


def shell(script, seconds=20):
    return program.run(Program("x", ["sh", "-c", script]), seconds)


@test("coverage counts lines by folder, lists those that never ran, and has a goal")
def _():
    total = {"fs/pm/a.cc": {1: 1, 2: 0, 3: 0, 5: 0}, "mkfs/b.cc": {number: 7 for number in range(16)}}
    with contextlib.redirect_stdout(io.StringIO()) as output:
        assert coverage.report(total, 85) and not coverage.report(total, 86)
    words = output.getvalue()
    assert "fs/pm/a.cc: 25.0 %, never ran: 2-3 5" in words and "17 of 20 lines" in words, words
    assert counting.count(Program("x", []), Ended(words, 1, False, 1, [], [])).failed == 1


@test("a suite that takes long runs only when it is named")
def _():
    assert [suite.name for suite in suites.ALL if suite.named_only] == ["coverage"]


@test("output and exit code come back")
def _():
    ended = shell("echo ok a; echo b >&2; exit 3")
    assert (ended.output, ended.code, ended.timed_out) == ("ok a\nb\n", 3, False), ended


@test("a program that hangs is ended, with everything that it started")
def _():
    begin = time.monotonic()
    ended = shell("setsid sleep 77 & (trap '' TERM; sleep 77) & sleep 77", seconds=0.5)
    assert ended.timed_out and time.monotonic() - begin < LONG
    assert not program._descendants()


@test("a daemon that is left running is named and ended")
def _():
    program.GRACE_SECONDS, was = 1, program.GRACE_SECONDS
    try:
        ended = shell("setsid sleep 77 > /dev/null 2>&1 &")
    finally:
        program.GRACE_SECONDS = was
    assert ended.left_behind == ["sleep"] and not program._descendants(), ended


@test("a build beside the programs is left alone, with what it started, and its exit code is not lost")
def _():
    beside = program.start_beside(["sh", "-c", "sleep 77 & wait"])
    short = program.start_beside(["sh", "-c", "exit 3"])
    ended = shell("setsid sleep 77 > /dev/null 2>&1 & sleep 0.2; kill $!")
    assert not ended.left_behind and not program._descendants(), ended
    assert beside.poll() is None and short.wait() == 3
    program.end_all(beside=True)
    assert beside.wait() != 0 and not program._descendants(beside=True)
    with contextlib.suppress(InterruptedError):
        program.start_beside(["true"])
        raise AssertionError("a build began while the runner was ending")
    program._ending.clear()


# A FUSE mount whose server answers nothing but INIT, and a process that waits for it unkillably.
DEAD_MOUNT = """
import os, struct, sys, threading, ctypes
device = os.open("/dev/fuse", os.O_RDWR)
libc = ctypes.CDLL(None, use_errno=True)
place = sys.argv[1].encode()
options = b"fd=%d,rootmode=40000,user_id=0,group_id=0" % device
assert libc.mount(b"dead", place, b"fuse", 0, options) == 0, os.strerror(ctypes.get_errno())
request = os.read(device, 1 << 17)
unique = struct.unpack_from("<Q", request, 8)[0]
os.write(device, struct.pack("<IiQ", 16 + 64, 0, unique) +
         struct.pack("<IIIIHHIIHH", 7, 31, 0, 0, 12, 9, 4096, 1, 1, 0) + bytes(32))
# The descriptor lives on in a child that ignores everything, and a process waits for an answer.
if os.fork() == 0:
    os.setsid()
    print("ok waits", flush=True)
    os.stat(place)
os.wait()
"""


@test("a mount whose server does not answer is cut")
def _():
    if not program._isolate:
        return
    with contextlib.ExitStack() as stack:
        scratch = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        (scratch / "mnt").mkdir()
        for seconds in (2, 10, 40):  # a busy machine may need some to start it
            begin = time.monotonic()
            ended = program.run(Program("x", [sys.executable, "-c", DEAD_MOUNT, scratch / "mnt"]), seconds)
            assert ended.timed_out and time.monotonic() - begin < seconds + LONG, ended
            if "ok waits" in ended.output:
                break
        assert "ok waits" in ended.output, ended
        assert not program._descendants()
        assert subprocess.run(["ls", scratch / "mnt"], check=False).returncode == 0


@test("a program's mounts are its own")
def _():
    if program._isolate:
        ended = shell("mount -t tmpfs none /mnt && findmnt -n /mnt")
        assert ended.code == 0 and "tmpfs" in ended.output, ended
        assert " /mnt " not in Path("/proc/self/mountinfo").read_text()


def lane(name, script):
    return [suites.Suite(name, "", 20, [], lambda root: [Program(name, ["sh", "-c", script])])]


def in_lanes(*lanes):
    total = runner.Total()
    with contextlib.redirect_stdout(io.StringIO()) as output:
        runner.run_lanes(lanes, total)
    return total, output.getvalue()


@test("lanes run side by side, each ends what is its own, and what they say is added up")
def _():
    with tempfile.TemporaryDirectory() as place:
        # Each waits for the other, and one leaves something behind just then.
        meet = f"touch {place}/$1; for i in $(seq 100); do [ -e {place}/$2 ] && break; sleep 0.1; done"
        total, output = in_lanes(
            lane("a", f"set a b; {meet}; sleep 1; echo ok a"),
            lane("b", f"set b a; {meet}; setsid sleep 0.2 & echo ok b; echo not ok c: d; exit 1"))
    assert (total.passed, total.failed) == (2, 1), output
    assert "a: a: 1 passed (" in output and "b: b: 1 passed, 1 failed (" in output, output


TOLD_TO_END = """
import sys
sys.path.insert(0, sys.argv[1])
import main, suites
from program import Program
loop = Program("a", ["sh", "-c", f"touch {sys.argv[2]}; while :; do sleep 0.1; done"])
suites.ALL[:] = [suites.Suite("a", "", 60, [], lambda root: [loop])]
del sys.argv[1:]
main.main()
"""


@test("a runner that is told to end ends what its lanes started")
def _():
    with tempfile.TemporaryDirectory() as place:
        begun = Path(place) / "begun"
        with subprocess.Popen([sys.executable, "-c", TOLD_TO_END, Path(__file__).parent, begun],
                              stdout=subprocess.DEVNULL) as told:
            until = time.monotonic() + LONG
            while not begun.exists() and time.monotonic() < until:
                time.sleep(0.05)
            told.terminate()
            assert told.wait(LONG) == 1
        for path in Path("/proc").glob("[0-9]*/cmdline"):
            with contextlib.suppress(OSError):
                assert str(begun).encode() not in path.read_bytes(), path


@test("a lane that dies has failed")
def _():
    def die(root):
        os._exit(0)
    total, output = in_lanes([suites.Suite("a", "", 20, [], die)], lane("b", "echo ok b"))
    assert (total.passed, total.failed) == (1, 1) and "ended early" in output, output


def main():
    program.prepare()
    failed = False
    for words, function in _tests:
        try:
            function()
            print(f"ok runner: {words}", flush=True)
        except Exception as error:
            failed = True
            print(f"not ok runner: {words}: {error!r}", flush=True)
            traceback.print_exc()
    sys.exit(failed)


if __name__ == "__main__":
    main()
