"""Which suites there are: what each builds, runs and may take."""
import dataclasses
import subprocess
import sys
from typing import Callable

from program import Program


@dataclasses.dataclass
class Suite:
    name: str
    what: str
    seconds: int  # without builds
    builds: list  # words for tools/setup
    programs: Callable  # root -> [Program]
    named_only: bool = False  # not among those that run when none is named
    lane: int = 0  # suites of one lane run one after another, beside those of the others


def _doctest(root, build, name, *words, before=(), **environment):
    command = [*before, root / build / "tests" / name, "--no-colors=true", "--no-intro=true",
               *words]
    return Program(f"{name}", command, "doctest", environment)


def _python(root, build, path, *words, before=(), **environment):
    return Program(path.stem.removeprefix("t_"), [*before, sys.executable, path, *words],
                   environment={"PMFS_BUILD": str(root / build), **environment})


def _mount(root, build="build", names=None, without=(), words=(), before=(), **environment):
    programs = [_python(root, build, path, *words, before=before, **environment)
                for path in sorted((root / "tests/mount").glob("t_*.py"))]
    return [program for program in programs
            if (names is None or program.name in names) and program.name not in without]


def _seal(root):
    return [_doctest(root, "build", "seal"),
            *(_python(root, "build", path) for path in sorted((root / "tests/seal").glob("t_*.py")))]


def _asan(root):
    build = "build-asan"
    return [_doctest(root, build, "unit"), _doctest(root, build, "crash", PMFS_CRASH_SHORT="4"),
            *(_doctest(root, build, name) for name in ("front", "seal", "virtio")),
            # (An instrumented library is not what is installed, nor does it let others be loaded before it.)
            *_mount(root, build, without={"install", "limits"}, words=("--media", "memory"))]


def _tsan(root):
    # This ThreadSanitizer knows where things are mapped only without address randomization.
    fixed = ["setarch", "-R"]
    if subprocess.run([*fixed, "true"], check=False, capture_output=True).returncode != 0:
        fixed = []
    build = "build-tsan"
    # Sweeps of damage by one thread: minutes, for nothing that threads could do.  And a child with
    # our memory (CLONE_VM), which the sanitizer does not know of and may crash on.
    without = ("--test-case-exclude=journal:*,format:*,fsck:*,hostile:*,mkfs:*,model:*,repair:*,space map:*,superblock:*,"
               "lent: a process that shares*")
    return [_doctest(root, build, "unit", without, before=fixed),
            *(_doctest(root, build, name, before=fixed) for name in ("front", "seal", "virtio")),
            *_mount(root, build, names={"model"}, words=("--media", "memory"), before=fixed)]


def _rig(root):
    # (What takes minutes, or a kernel of its own, is not for every run.)
    return [Program(f"rig {part}", [sys.executable, root / "tests/rig/run", part],
                    environment={"PMFS_BUILD": str(root / "build")}) for part in ("A", "B", "pmem", "rdma")]


def _lint(root):
    return [Program("lint", [sys.executable, root / "tests/lint/lint.py"]),
            Program("runner", [sys.executable, root / "tests/runner/t_runner.py"])]


def _coverage(root):
    build = "build-coverage"
    tool = [sys.executable, root / "tests/runner/coverage.py", root / build]
    return [Program("begin", [*tool, "--begin"]),
            *(_doctest(root, build, name) for name in ("unit", "front", "seal", "virtio")),
            *(_python(root, build, path) for path in sorted((root / "tests/seal").glob("t_*.py"))),
            # (The programs themselves: what they do is seen on real mounts only.)
            *_mount(root, build, without={"install", "limits", "model"}, words=("--media", "memory")),
            # (The longest, and by now there is little left that only a sweep reaches.)
            _doctest(root, build, "crash", PMFS_CRASH_SHORT="1"),
            Program("lines", tool, shown=True)]


ALL = [
    Suite("unit", "functions and classes", 600, ["release"],
          lambda root: [_doctest(root, "build", name) for name in ("unit", "front", "virtio")]),
    Suite("seal", "the table of docs/seal.md", 900, ["release"], _seal),
    Suite("crash", "power cuts and kills at every event", 900, ["release"],
          lambda root: [_doctest(root, "build", "crash")]),
    Suite("mount", "real programs on a real mount", 900, ["release"], _mount, lane=1),
    # (They print why, and pass, where the kernel does not offer that.)
    Suite("uring", "the mount suite's again, with requests over io_uring", 900, ["release"],
          lambda root: [*_mount(root, without={"uring", "install", "vhost", "programs"}, words=("--media", "memory"),
                                PMFS_TRANSPORT="io_uring"),
                        *_mount(root, names={"programs"}, PMFS_TRANSPORT="io_uring")], lane=1),
    Suite("rig", "guests: files over vhost-user and as virtio-pmem, a real device-DAX namespace, RDMA", 1200, ["release"],
          _rig, lane=1),
    Suite("lint", "the rules of the house", 600, ["clang"], _lint),
    Suite("asan", "AddressSanitizer and UBSan", 2400, ["asan"], _asan),
    Suite("tsan", "ThreadSanitizer", 2400, ["tsan"], _tsan, lane=1),
    Suite("coverage", "which lines of fs/, mkfs/ and fsck/ the tests run", 2400, ["coverage"], _coverage,
          named_only=True),
]
