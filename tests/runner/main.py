"""Runs suites of tests: sudo tools/test [SUITE...]

Builds what a suite needs (tools/setup), runs its programs, counts their tests.  A suite has a time
limit, and behind it stands a watchdog that cuts FUSE connections and ends every process that the
suite started.  A green program is one line; a red one is shown whole.

Suites run in lanes, side by side, each in a process of its own: so what is left of a program belongs to
its lane.  Lanes report to this process, which alone prints.
"""
import argparse
import multiprocessing
import multiprocessing.connection
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import counting
import program
import suites

ROOT = Path(__file__).resolve().parents[2]


class Total:
    """What was counted, and how it is said."""

    def __init__(self):
        self.passed = self.failed = 0

    def add(self, suite, name, count, seconds, output="", shown=False):
        self.passed += count.passed
        self.failed += count.failed
        line = f"{suite}: {name}"
        if count.passed or count.failed or count.skipped:
            line += f": {count.passed} passed"
        if count.failed:
            print(f"{'-' * 20} {suite}: {name} {'-' * 20}\n{output.rstrip()}\n{'-' * 60}")
            line += f", {count.failed} failed"
        elif shown:
            print(output.rstrip())
        for why in count.skipped:
            print(f"{suite}: {name}: skipped: {why}")
        for why in count.reasons:
            print(f"{suite}: {name}: {why}")
        print(f"{line} ({seconds:.1f} s)", flush=True)


class Builds:
    """Builds what the chosen suites need, in their order, while the suites before them run.

    Tests leave a CPU idle for much of the time; a build takes what is left over."""

    def __init__(self, kinds):
        self.ended = {kind: threading.Event() for kind in kinds}
        self.results = {}  # kind: (built, seconds)
        threading.Thread(target=self._build, daemon=True).start()

    def _build(self):
        for kind, ended in self.ended.items():
            begin = time.monotonic()
            built = False
            try:
                built = program.run_beside(["nice", "-n", "19", ROOT / "tools/setup", kind]) == 0
            finally:
                self.results[kind] = built, time.monotonic() - begin
                ended.set()

    def wait(self, kind, report, suite):
        """True when tools/setup could build; a failure to build counts as one failed test."""
        self.ended[kind].wait()
        built, seconds = self.results[kind]
        if not built:
            report(suite, f"build of {kind}", counting.Count(0, 1, ["did not build"]), seconds)
        elif seconds > 5:
            report(suite, f"build of {kind}", counting.Count(0, 0), seconds)
        return built


def run_suite(suite, builds, report):
    for kind in suite.builds:
        if not builds.wait(kind, report, suite.name):
            return
    deadline = time.monotonic() + suite.seconds
    for test in suite.programs(ROOT):
        left = deadline - time.monotonic()
        begin = time.monotonic()
        if left <= 1:
            count = counting.Count(0, 1, [f"the suite's {suite.seconds} seconds are used up"])
            report(suite.name, test.name, count, 0)
            continue
        ended = program.run(test, left)
        count = counting.count(test, ended)
        report(suite.name, test.name, count, time.monotonic() - begin, ended.output, test.shown)


def run_lane(wanted, reports):
    """In a process of its own: what it reports are the arguments of Total.add, and None at its end."""
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    program.prepare()
    try:
        builds = Builds(dict.fromkeys(kind for suite in wanted for kind in suite.builds))
        for suite in wanted:
            run_suite(suite, builds, lambda *report: reports.send(report))
        reports.send(None)
    except KeyboardInterrupt:
        pass
    finally:
        program.end_all(beside=True)


def run_lanes(lanes, total):
    """Each lane is a list of suites.  A lane that dies has failed."""
    running = {}
    for lane in lanes:
        here, there = multiprocessing.Pipe(duplex=False)
        child = multiprocessing.Process(target=run_lane, args=(lane, there))
        child.start()
        there.close()
        running[here] = child
    try:
        while running:
            for pipe in multiprocessing.connection.wait(list(running)):
                try:
                    report = pipe.recv()
                except EOFError:
                    total.failed += 1
                    print("a lane of suites ended early")
                    report = None
                if report is None:
                    running.pop(pipe).join()
                else:
                    total.add(*report)
    finally:
        for child in running.values():
            child.terminate()
            child.join()


def main():
    names = [suite.name for suite in suites.ALL]
    default = [suite.name for suite in suites.ALL if not suite.named_only]
    parser = argparse.ArgumentParser(
        prog="tools/test", description="Builds pmfs and tests it.",
        epilog="Suites: " + "; ".join(f"{suite.name}: {suite.what}" for suite in suites.ALL))
    parser.add_argument("suite", nargs="*", metavar="SUITE", choices=[[], *names],
                        help="one or more of: " + " ".join(names) +
                        f" (default: {' '.join(default)})")
    chosen = parser.parse_args().suite or default
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # the lanes end, too
    sys.stdout.reconfigure(line_buffering=True)
    lanes = {}
    for suite in suites.ALL:
        if suite.name in chosen:
            lanes.setdefault(suite.lane, []).append(suite)
    total = Total()
    begin = time.monotonic()
    try:
        run_lanes(lanes.values(), total)
    except KeyboardInterrupt:
        total.failed += 1
        print("interrupted")
    print(f"all: {time.monotonic() - begin:.0f} s on {os.cpu_count()} CPUs")
    print(f"{total.passed} passed, {total.failed} failed", flush=True)
    sys.exit(1 if total.failed or not total.passed else 0)


if __name__ == "__main__":
    main()
