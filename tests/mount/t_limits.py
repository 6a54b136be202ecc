#!/usr/bin/env python3
"""A server to which the system refuses threads, addresses, or protection when memory is short; and how much
memory it takes."""
import os
import re
import subprocess
import time
from pathlib import Path

from fixture import claim, program, run, run_claims, wait_for

CAP_SYS_RESOURCE = 1 << 24

# Lets every thread but the n-th be created.
NO_THREAD = r"""
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdlib.h>
static atomic_int count;
int pthread_create(pthread_t *thread, const pthread_attr_t *attr, void *(*body)(void *), void *argument) {
    int (*next)(pthread_t *, const pthread_attr_t *, void *(*)(void *), void *) =
        (int (*)(pthread_t *, const pthread_attr_t *, void *(*)(void *), void *))dlsym(RTLD_NEXT, "pthread_create");
    if (++count == atoi(getenv("FAIL_THREAD"))) return EAGAIN;
    return next(thread, attr, body, argument);
}
"""


@claim("whichever thread cannot be created, the mount fails with a sentence, or does without", alone=True,
       seconds=120)
def _(maker):
    volume = maker.volume(size="64M")
    assert volume.unmount() == 0
    (volume.directory / "no_thread.c").write_text(NO_THREAD)
    library = volume.directory / "no_thread.so"
    run("gcc", "-shared", "-fPIC", "-o", library, volume.directory / "no_thread.c", "-ldl")
    refused = 0
    for number in range(1, 100):
        done = subprocess.run([program("mount.pmfs"), str(volume.region), str(volume.mnt)],
                              capture_output=True, text=True, timeout=30, check=False,
                              env={**os.environ, "LD_PRELOAD": str(library), "FAIL_THREAD": str(number)})
        sentences = [line for line in done.stderr.splitlines() if "oom_score_adj" not in line]
        if done.returncode == 0:
            (volume.mnt / f"f{number}").write_text("words")
            run("umount", volume.mnt)
            if not sentences:  # there was no such thread
                break
            assert "no direct mappings" in sentences[0], done
            continue
        refused += 1
        assert done.returncode == 2 and len(sentences) == 1, done
        assert "gives no more threads" in sentences[0], done
        assert not os.path.ismount(volume.mnt)
    assert refused >= 4 and number < 99, (refused, number)
    volume.mount()
    maker.watch()
    assert volume.unmount() == 0
    volume.fsck()


@claim("the server is never killed when memory is short, or warns that it may be", alone=True)
def _(maker):
    volume = maker.volume(size="64M")
    (volume.mnt / "f").write_text("words")
    spared = Path(f"/proc/{volume.server.pid}/oom_score_adj").read_text().strip() == "-1000"
    assert volume.unmount() == 0
    capable = int(re.search("CapEff:\t(.*)", Path("/proc/self/status").read_text())[1], 16) & CAP_SYS_RESOURCE
    assert spared or not capable
    assert spared == ("OOMScoreAdjust=-1000" not in volume.log_text()), volume.log_text()
    server = subprocess.Popen(["setpriv", "--bounding-set=-sys_resource", program("mount.pmfs"),
                               str(volume.region), str(volume.mnt), "--foreground"],
                              stderr=subprocess.PIPE, text=True)
    while not os.path.ismount(volume.mnt):
        assert server.poll() is None
        time.sleep(0.02)
    (volume.mnt / "f").read_text()
    run("umount", volume.mnt)
    said = server.communicate(timeout=30)[1]
    if Path("/proc/self/oom_score_adj").read_text().strip() != "-1000":
        assert "OOMScoreAdjust=-1000" in said and "CAP_SYS_RESOURCE" in said, said


@claim("the server has less than 1 KiB of memory for each inode that the kernel knows, and none for those it forgot",
       alone=True)
def _(maker):
    def anonymous():
        status = Path(f"/proc/{volume.pid}/status").read_text()
        return int(re.search(r"RssAnon:\s*(\d+) kB", status)[1]) << 10

    count = 20000
    volume = maker.volume(size="128M")
    before = anonymous()
    for number in range(count):
        (volume.mnt / f"f{number}").touch()
    most = anonymous()
    assert 100 < (most - before) / count < 1024, (before, most)
    for number in range(count):
        (volume.mnt / f"f{number}").unlink()
    # (The last FORGET comes behind the last answer.)
    assert wait_for(lambda: anonymous() - before < (most - before) / 2, seconds=10), \
        f"{before} bytes, {most}, now {anonymous()}"
    assert volume.unmount() == 0
    volume.fsck()


@claim("without reserved addresses grow needs a new mount, and says so", alone=True)
def _(maker):
    def grow():
        return subprocess.run([program("pmfsctl"), "grow", volume.mnt], capture_output=True, text=True,
                              timeout=60, check=False)

    def size():
        status = os.statvfs(volume.mnt)
        return status.f_blocks * status.f_frsize

    volume = maker.volume(size="16M")
    assert volume.unmount() == 0
    little = ["prlimit", f"--as={40 << 30}"]
    volume.mount(inside=little)
    maker.watch()
    before = size()
    os.truncate(volume.region, 20 << 20)
    said = grow()
    assert said.returncode == 1 and said.stdout == "" and said.stderr.count("\n") == 1, said
    assert said.stderr.startswith("pmfsctl: ") and "mount it again" in said.stderr, said
    assert size() == before
    (volume.mnt / "f").write_text("some words")
    assert volume.unmount() == 0
    volume.mount(inside=little)
    maker.watch()
    said = grow()
    assert said.returncode == 0 and said.stderr == "", said
    assert size() > before + (3 << 20)
    assert (volume.mnt / "f").read_text() == "some words"


if __name__ == "__main__":
    run_claims()
