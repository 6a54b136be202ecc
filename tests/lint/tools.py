"""What clang's tools say: layout, lock annotations, and bugs that a reader overlooks."""
import concurrent.futures
import hashlib
import json
import os
import re
import subprocess
import tempfile
import time
from pathlib import Path

from rule import Rule
from source import ROOT, git

BUILD = ROOT / "build-clang"
WORKERS = max(1, os.cpu_count() or 1)
TIDY_SECONDS = 240  # PMFS_TIDY_ALL=1: all files, however long it takes
TIDY_COMMITS = 20
_FINDING = re.compile(r"^(?P<path>[^\s:]+):(?P<line>\d+):\d+: (warning|error): (?P<words>.*)$", re.M)


def run(*command, text=None):
    return subprocess.run([str(word) for word in command], input=text, capture_output=True,
                          text=True, check=False, cwd=ROOT)


def check_format(tree):
    """clang-format would change nothing."""
    def findings(source):
        # By standard input, so that samples are judged like files.
        done = run("clang-format", f"--assume-filename={ROOT / source.path}", text=source.text)
        if done.returncode != 0:
            return [(source.path, 1, done.stderr.strip())]
        for number, (is_now, should) in enumerate(
                zip(source.text.split("\n"), done.stdout.split("\n")), 1):
            if is_now != should:
                return [(source.path, number, f"clang-format would write: {should.strip()}")]
        return [] if source.text == done.stdout else [(source.path, 1, "another length")]

    with concurrent.futures.ThreadPoolExecutor(WORKERS) as pool:
        for found in pool.map(findings, [source for source in tree if source.is_c]):
            yield from found


# --- lock annotations: the build with clang checks the tree; the samples check the compiler's flags

_CLANG = ["clang++", "-std=c++20", "-fsyntax-only", "-Wall", "-Wthread-safety", "-Werror",
          f"-I{ROOT}/fs"]


def check_locks(tree):
    """The tree is checked by the build (tools/setup clang); here are only samples."""
    for source in tree:
        if "#include" in source.text and len(tree) == 1:
            done = run(*_CLANG, "-xc++", "-", text=source.text)
            if done.returncode != 0:
                yield source.path, 1, done.stderr.partition("\n")[0]
    flags = (ROOT / "meson.build").read_text()
    if "-Wthread-safety" not in flags or "werror=true" not in flags:
        yield "meson.build", 1, "clang is not asked for -Wthread-safety with werror"


_LOCKED = """#include "base/mutex.h"
struct A {{
    pmfs::Mutex mutex_;
    int count_ GUARDED_BY(mutex_) = 0;
    void add() {{ {lock} ++count_; }}
}};
"""

# --- clang-tidy, on what changed


def changed_files():
    """What differs from the merge base, or from some commits ago on the main line itself."""
    base = next(iter(git("merge-base", "HEAD", "origin/HEAD")), "")
    head = next(iter(git("rev-parse", "HEAD")), "")
    if not base or base == head:
        history = git("rev-list", f"--max-count={TIDY_COMMITS + 1}", "HEAD")
        base = history[-1] if len(history) > TIDY_COMMITS else ""
    if not base:
        return set(git("ls-files"))
    return {*git("diff", "--name-only", base), *git("ls-files", "--others", "--exclude-standard")}


def compiled_files():
    """{path: its entry in the compilation database}"""
    database = BUILD / "compile_commands.json"
    if not database.exists():
        return {}
    found = {}
    for entry in json.loads(database.read_text()):
        path = os.path.relpath(os.path.join(entry["directory"], entry["file"]), ROOT)
        found[path] = entry
    return found


def headers_of(entries):
    """{path: headers of ours that it includes}, as ninja knows since the last build."""
    outputs = {entry["output"]: path for path, entry in entries.items() if "output" in entry}
    found, current = {path: set() for path in entries}, None
    for line in run("ninja", "-C", BUILD, "-t", "deps").stdout.splitlines():
        if line and not line.startswith(" "):
            current = outputs.get(line.partition(":")[0])
        elif line.strip() and current:
            path = os.path.relpath(os.path.join(BUILD, line.strip()), ROOT)
            if not path.startswith(".."):
                found[current].add(path)
    return found


def tidy_one(path, headers):
    """Findings in one file; a clean verdict is remembered for these very bytes."""
    cache = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    cache = Path(os.environ.get("PMFS_CACHE") or Path(cache) / "pmfs") / "tidy"
    digest = hashlib.sha256()
    for name in [".clang-tidy", path, *sorted(headers)]:
        digest.update(name.encode() + b"\0" + (ROOT / name).read_bytes())
    remembered = cache / digest.hexdigest()
    if remembered.exists():
        return []
    done = run("clang-tidy", "--quiet", "-p", BUILD, ROOT / path)
    # Paths are relative to the build where the compiler was called.
    findings = sorted({(os.path.relpath(BUILD / found["path"], ROOT), int(found["line"]),
                        found["words"]) for found in _FINDING.finditer(done.stdout)})
    if not findings and done.returncode != 0:
        findings = [(path, 1, f"clang-tidy failed: {done.stderr.strip()[-300:]}")]
    if not findings:
        cache.mkdir(parents=True, exist_ok=True)
        remembered.touch()
    return findings


def check_tidy(tree):
    """clang-tidy, with .clang-tidy's checks."""
    if len(tree) == 1:
        yield from tidy_sample(tree[0])
        return
    entries = compiled_files()
    if not entries:
        yield "build-clang", 1, "is not there: tools/setup clang"
        return
    headers = headers_of(entries)
    all_of_them = bool(os.environ.get("PMFS_TIDY_ALL"))
    changed = changed_files()
    # A changed header is checked with the file of its name, and with all files when asked.
    chosen = [path for path in entries if all_of_them or path in changed
              or path.rpartition(".")[0] + ".h" in changed]
    chosen.sort(key=lambda path: -(ROOT / path).stat().st_mtime)
    deadline = time.monotonic() + (float("inf") if all_of_them else TIDY_SECONDS)
    left, findings = [], set()

    def work(path):
        if time.monotonic() > deadline:
            left.append(path)
            return []
        return tidy_one(path, headers[path])

    with concurrent.futures.ThreadPoolExecutor(WORKERS) as pool:
        for found in pool.map(work, chosen):
            findings.update(found)
    if left:
        print(f"clang-tidy: {TIDY_SECONDS} s are over: {len(left)} of {len(chosen)} files are left "
              "for the next run, or for PMFS_TIDY_ALL=1", flush=True)
    yield from sorted(findings)


def tidy_sample(source):
    with tempfile.TemporaryDirectory() as scratch:
        path = Path(scratch) / "sample.cc"
        path.write_text(source.text)
        done = run("clang-tidy", "--quiet", f"--config-file={ROOT / '.clang-tidy'}", path, "--",
                   "-std=c++20")
        for found in _FINDING.finditer(done.stdout):
            yield source.path, int(found["line"]), found["words"]


RULES = [
    Rule("clang-format would change nothing", check_format,
         bad=[{"a.cc": "int  a;\n"}, {"a.cc": "void f() {\n  g();\n}\n"}],
         good=[{"a.cc": "void f() {\n    g();\n}\n"}]),
    Rule("clang checks the lock annotations", check_locks,
         bad=[{"a.cc": _LOCKED.format(lock="")}],
         good=[{"a.cc": _LOCKED.format(lock="pmfs::Lock lock(mutex_);")}]),
    Rule("clang-tidy has nothing to say about what changed", check_tidy,
         bad=[{"a.cc": "#include <string>\n#include <utility>\nstd::string f(std::string a) {\n"
                       "    std::string b = std::move(a);\n    return a + b;\n}\n"}],
         good=[{"a.cc": "int twice(int a) { return 2 * a; }\n"}]),
]
