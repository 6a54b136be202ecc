"""Where a run of the rig works, and what it counts.

    place.initramfs("b-6.12", kernel, modules, script, programs)    the path of an image with pmfs in it
    place.judge("B 6.12", outcome)        a guest's results become results of the run
    place.report("B: a claim")            passed;  place.report("B: a claim", "why not")  failed
    place.together([function, ...])       each in a thread: a guest uses one CPU
"""
import concurrent.futures
import os
import re
import shutil
import tempfile
import threading
from pathlib import Path

import packages
from initramfs import Initramfs

ROOT = Path(__file__).resolve().parents[2]
BUILD = Path(os.environ.get("PMFS_BUILD", ROOT / "build"))
HERE = Path(__file__).resolve().parent
LINES_SHOWN = 60  # of a failed guest's log

# What guests run besides busybox and pmfs.
TOOLS = ["busybox-static", "dash", "ndctl", "daxctl", "mount", "util-linux", "iproute2", "ibverbs-providers",
         "e2fsprogs", "xfsprogs", "attr", "jq", "dmsetup"]
PMFS = {"mkfs.pmfs": "mkfs", "mount.pmfs": "fs/front", "fsck.pmfs": "fsck", "pmfsctl": "tools/pmfsctl"}


class Workplace:
    def __init__(self, build):
        self.build = Path(build)
        self.passed = self.failed = 0
        self._lock = threading.Lock()
        self._memory = None

    def __enter__(self):
        self.scratch = Path(tempfile.mkdtemp(prefix="pmfs-rig-", dir=os.environ.get("TMPDIR", "/var/tmp")))
        return self

    def __exit__(self, *_):
        shutil.rmtree(self.scratch, ignore_errors=True)
        if self._memory:
            shutil.rmtree(self._memory, ignore_errors=True)

    def memory(self, name):
        """A path in a folder that lies in memory, and is gone at the end."""
        if self._memory is None:
            self._memory = Path(tempfile.mkdtemp(prefix="pmfs-rig-", dir="/dev/shm"))
        return self._memory / name

    def tools(self):
        """The tree of packages that guests' programs come from."""
        return packages.tree(packages.STABLE, "guest", TOOLS)

    HERE = HERE

    def program(self, name):
        """The path of a program of pmfs that was built."""
        return self.build / PMFS[name] / name

    def initramfs(self, name, kernel, modules, script, tools=(), programs=(), change=None):
        """An image with the programs of pmfs, `tools` of the tree, `programs` of the build, and `script`
        (a file of guest/) as /test.  change(initramfs, tree) adds what else is wanted."""
        tree = self.tools()
        made = Initramfs(kernel, modules, tree)
        for program, folder in PMFS.items():
            made.add_program(self.build / folder / program)
        for program in programs:
            made.add_program(self.build / program)
        for tool in tools:
            made.add_program(tool, root=tree)
        made.add_file("/test", HERE / "guest" / script, 0o755)
        if change:
            change(made, tree)
        path = self.scratch / f"{name}.initramfs"
        made.write(path)
        return path

    def report(self, words, why=None):
        with self._lock:
            if why is None:
                self.passed += 1
                print(f"ok {words}", flush=True)
            else:
                self.failed += 1
                print(f"not ok {words}: {why}", flush=True)

    def judge(self, name, outcome, show_info=False):
        """Counts what a guest said; shows the log of one that failed."""
        for words in outcome.passed:
            self.report(f"{name}: {words}")
        for words in outcome.failed:
            what, _, why = words.partition(": ")
            self.report(f"{name}: {what}", why or "failed")
        with self._lock:
            if show_info:
                print("".join(f"    {line}\n" for line in outcome.info), end="", flush=True)
            if outcome.failed:
                self._show_log(name, outcome.log)

    def together(self, functions):
        """Runs them at the same time; the first exception comes back to the caller."""
        with concurrent.futures.ThreadPoolExecutor(max(1, os.cpu_count() or 1)) as pool:
            for future in [pool.submit(function) for function in functions]:
                future.result()

    @staticmethod
    def _show_log(name, log):
        if not log.exists():
            return
        kept = packages.cache() / "logs" / (re.sub(r"\W+", "-", name) + ".log")
        kept.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(log, kept)
        lines = log.read_text(errors="replace").splitlines()
        print(f"{'-' * 20} {name}: serial log (whole: {kept}) {'-' * 20}")
        print("\n".join(lines[-LINES_SHOWN:]) + "\n" + "-" * 60, flush=True)
