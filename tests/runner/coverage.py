"""Which lines of fs/, mkfs/ and fsck/ the tests ran: coverage.py BUILD [--goal PERCENT] [--begin]

Reads what a build with --coverage counted (tools/setup coverage), by gcov, which comes with the compiler.
Prints the share of each folder and of all, and the lines of each file that never ran.  The exit code is 1
when the whole is below the goal.  --begin forgets what was counted before.

A line counts once, however many templates and inlined copies of it there are, and has run if one of them
has.  A file that is built and linked into nothing that ran counts with all its lines.  Lines that say nothing
of their own do not count: those of braces, where the compiler puts what it adds for an early return or an
exception, and the heads of classes, where it puts the members that nobody wrote.
"""
import argparse
import collections
import concurrent.futures
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
FOLDERS = ("fs/", "mkfs/", "fsck/")
GOAL = 95.0
SAYS_NOTHING = re.compile(r"[\s(){}\[\];,]*(//.*)?|(class|struct)\s[^;()]*\{(\s*//.*)?")


def counts(build, notes):
    """{file: {line: times}} of one object file's notes."""
    found = collections.defaultdict(dict)
    # gcov leaves no files behind with --stdout; in a folder of its own it cannot touch others' either.
    with tempfile.TemporaryDirectory() as scratch:
        counted = Path(notes).with_suffix(".gcda")
        if counted.exists() and counted.stat().st_size == 0:  # as begin() left it; gcov refuses that
            notes = shutil.copy(notes, scratch)
        done = subprocess.run(["gcov", "--json-format", "--stdout", notes], cwd=scratch, capture_output=True,
                              text=True, check=False)
    if done.returncode != 0:
        sys.exit(f"coverage: gcov could not read {notes}: {done.stderr.strip()}")
    for text in done.stdout.splitlines():
        unit = json.loads(text)
        folder = unit.get("current_working_directory", build)
        for file in unit["files"]:
            name = os.path.relpath(os.path.join(folder, file["file"]), ROOT)
            if name.startswith(FOLDERS):
                lines = found[name]
                for line in file["lines"]:
                    number = line["line_number"]
                    lines[number] = max(lines.get(number, 0), line["count"])
    return found


def without_silent_lines(name, lines):
    text = (ROOT / name).read_text().splitlines()
    return {number: times for number, times in lines.items()
            if number > len(text) or not SAYS_NOTHING.fullmatch(text[number - 1])}


def all_counts(build):
    notes = sorted(str(path) for path in build.rglob("*.gcno"))
    if not notes:
        sys.exit(f"coverage: {build} was not built for it; tools/setup coverage does that")
    total = collections.defaultdict(dict)
    with concurrent.futures.ThreadPoolExecutor(os.cpu_count()) as pool:
        for found in pool.map(lambda one: counts(build, one), notes):
            for name, lines in found.items():
                for number, times in lines.items():
                    total[name][number] = max(total[name].get(number, 0), times)
    return {name: without_silent_lines(name, lines) for name, lines in total.items()}


def ranges(numbers):
    """[3, 4, 5, 9] as 3-5 9."""
    runs = []
    for number in numbers:
        if runs and runs[-1][1] == number - 1:
            runs[-1][1] = number
        else:
            runs.append([number, number])
    return " ".join(f"{first}" if first == last else f"{first}-{last}" for first, last in runs)


def report(total, goal):
    """Prints it; True when the goal is reached."""
    folders = collections.defaultdict(lambda: [0, 0])
    for name, lines in total.items():
        ran = sum(times > 0 for times in lines.values())
        for key in (os.path.dirname(name), "all"):
            folders[key][0] += ran
            folders[key][1] += len(lines)
    for name in sorted(total):
        missed = sorted(number for number, times in total[name].items() if times == 0)
        if missed:
            share = 100 * (1 - len(missed) / len(total[name]))
            print(f"{name}: {share:.1f} %, never ran: {ranges(missed)}")
    for name in sorted(folders, key=lambda name: (name == "all", name)):
        ran, lines = folders[name]
        print(f"{name:14} {100 * ran / lines:6.1f} %  {ran:6} of {lines} lines")
    share = 100 * folders["all"][0] / folders["all"][1]
    claim = f"coverage: at least {goal:g} % of the lines of {', '.join(FOLDERS)} ran"
    print(f"ok   {claim}: {share:.1f} %" if share >= goal else f"not ok {claim}: {share:.1f} %")
    return share >= goal


def begin(build):
    """Forgets what was counted.  Programs that run as other users count, too: into files that are there and
    theirs to write."""
    for path in build.rglob("*.gcda"):
        path.unlink()
    for notes in build.rglob("*.gcno"):
        counted = notes.with_suffix(".gcda")
        counted.touch()
        counted.chmod(0o666)


def main():
    parser = argparse.ArgumentParser(description="Which lines the tests ran.")
    parser.add_argument("build", type=Path)
    parser.add_argument("--goal", type=float, default=GOAL, metavar="PERCENT")
    parser.add_argument("--begin", action="store_true", help="forget what was counted before")
    arguments = parser.parse_args()
    if arguments.begin:
        begin(arguments.build)
        print("ok   coverage: counts begin anew")
        return
    sys.exit(not report(all_counts(arguments.build.resolve()), arguments.goal))


if __name__ == "__main__":
    main()
