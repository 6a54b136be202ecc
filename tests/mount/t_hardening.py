#!/usr/bin/env python3
"""The privileges that a running server has given up; and that it serves without them."""
# Holds docs/security.md "What the server itself can do".
import contextlib
import os
import re
import resource
import signal
import subprocess
import sys
from pathlib import Path

from fixture import ROOT, c_call, claim, instrumented, program, run, run_claims, wait_for

SETS = ("CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb")
# linux/capability.h
DAC_OVERRIDE, DAC_READ_SEARCH, FOWNER, SYS_CHROOT, SYS_PTRACE, SYS_ADMIN, SYS_RESOURCE = 1, 2, 3, 18, 19, 21, 24
PIDFD_GETFD = 438
FILTERED = "2"  # proc(5), Seccomp
WITHOUT = ("setpriv", "--bounding-set=-all", "--inh-caps=-all")  # root, but for its capabilities


def fields(path):
    return dict(re.findall(r"^(\w+):\s*(\S+)", path.read_text(), re.M))


def has_ended(pid):
    """Whether its parent has already asked for it, or has yet to."""
    try:
        return fields(Path(f"/proc/{pid}/status"))["State"] == "Z"
    except FileNotFoundError:
        return True


def threads(pid):
    """The status of each thread, the kernel's workers of io_uring among them."""
    for task in Path(f"/proc/{pid}/task").iterdir():
        with contextlib.suppress(FileNotFoundError):  # it has just ended
            yield task.name, fields(task / "status")


def library():
    """libpmfs, which a build with sanitizers does not let python load."""
    sys.path.insert(0, str(ROOT / "tests/seal"))
    import libpmfs
    return libpmfs


def bits(*capabilities):
    return sum(1 << capability for capability in capabilities)


def helper_of(pid):
    """The one child of a server."""
    child, = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    return int(child)


def use(mnt):
    """Requests of many kinds, so that every thread has had work."""
    for number in range(20):
        (mnt / f"f{number}").write_bytes(b"x" * 100_000)
        with open(mnt / f"f{number}", "rb+") as file:
            file.truncate(5000)
            os.fsync(file.fileno())
    os.mkdir(mnt / "d")
    os.rename(mnt / "f0", mnt / "d/f")
    os.setxattr(mnt / "f1", "user.a", b"b")
    run(program("pmfsctl"), "seal", "--prepare", mnt / "f2")
    run(program("pmfsctl"), "info", mnt / "f2")
    run(program("pmfsctl"), "holders", mnt / "f2")
    run(program("pmfsctl"), "unseal", mnt / "f2")
    os.sync()


@claim("no thread of a server has a capability, or can get one", alone=True)
def _(maker):
    volume = maker.volume(size="64M")
    use(volume.mnt)
    seen = list(threads(volume.pid))
    assert len(seen) > 10, seen
    for name, status in seen:
        for one in SETS:
            assert int(status[one], 16) == 0, (name, one, status[one])
        assert status["NoNewPrivs"] == "1", name
    assert volume.unmount() == 0


@claim("every thread of a server is under the filter of system calls, and serves under it", alone=True)
def _(maker):
    volume = maker.volume(size="64M")
    use(volume.mnt)
    expected = "0" if instrumented() else FILTERED
    for name, status in threads(volume.pid):
        assert status["Seccomp"] == expected, (name, status["Seccomp"])
    assert "not filtered" not in volume.log_text(), volume.log_text()
    assert volume.unmount() == 0
    volume.fsck()


@claim("no other process may read a server's memory, not even one of root", alone=True)
def _(maker):
    volume = maker.volume(size="64M")
    with subprocess.Popen([*WITHOUT, "sleep", "60"]) as other:  # (who has more is not to be looked at anyway)
        try:
            assert wait_for(lambda: fields(Path(f"/proc/{other.pid}/status"))["Name"] == "sleep")
            for name in ("environ", "mem", "maps", "auxv"):
                look = [*WITHOUT, "head", "-c", "0"]
                assert run(*look, f"/proc/{other.pid}/{name}", ok=False).returncode == 0, name
                denied = run(*look, f"/proc/{volume.pid}/{name}", ok=False)
                assert "Permission denied" in denied.stderr or instrumented(), (name, denied)
                denied = run(*look, f"/proc/{helper_of(volume.pid)}/{name}", ok=False)
                assert "Permission denied" in denied.stderr or instrumented(), (name, denied)
        finally:
            other.kill()
    assert volume.unmount() == 0


@claim("a server that crashes leaves no core, whatever its limit was", alone=True)
def _(maker):
    if instrumented():
        return
    before = resource.getrlimit(resource.RLIMIT_CORE)
    resource.setrlimit(resource.RLIMIT_CORE, (before[1], before[1]))
    try:
        volume = maker.volume(size="64M")
    finally:
        resource.setrlimit(resource.RLIMIT_CORE, before)
    limits = Path(f"/proc/{volume.pid}/limits").read_text()
    assert re.search(r"^Max core file size +0 +0 ", limits, re.M), limits
    os.kill(volume.pid, signal.SIGSEGV)
    _, status = os.waitpid(volume.pid, 0)
    volume.server.returncode = -signal.SIGSEGV
    assert os.WIFSIGNALED(status) and not os.WCOREDUMP(status), status
    run("umount", "-l", volume.mnt)
    volume.fsck()


@claim("no mapping of the medium would be in a core dump", alone=True)
def _(maker):
    for options in ("", "ro"):
        volume = maker.volume(size="64M", options=options)
        maps, mapped = Path(f"/proc/{volume.pid}/smaps").read_text(), 0
        for one in re.split(r"\n(?=[0-9a-f]+-[0-9a-f]+ )", maps):
            if not one.partition("\n")[0].endswith(str(volume.region)):
                continue
            mapped += 1
            flags = re.search(r"^VmFlags: (.*)$", one, re.M).group(1).split()
            assert "dd" in flags, one
        assert mapped == (2 if volume.kind == "image" and not options else 1), maps
        assert volume.unmount() == 0


@claim("one process keeps the privileges for mounting, has nothing open but the medium, and ends with its server",
       alone=True)
def _(maker):
    volume = maker.volume(size="64M")
    helper = helper_of(volume.pid)
    assert wait_for(lambda: fields(Path(f"/proc/{helper}/status"))["Name"] == "pmfs-helper")
    status = fields(Path(f"/proc/{helper}/status"))
    kept = bits(SYS_ADMIN, SYS_CHROOT, SYS_PTRACE, DAC_OVERRIDE, DAC_READ_SEARCH, FOWNER)
    assert int(status["CapEff"], 16) & ~kept == 0 and int(status["CapBnd"], 16) == 0, status
    assert status["Threads"] == "1" and status["NoNewPrivs"] == "1" and status["Name"] == "pmfs-helper", status

    def descriptors():
        return [os.readlink(link) for link in Path(f"/proc/{helper}/fd").iterdir()]

    (volume.mnt / "f").write_text("words")  # it has mounted, and opened the medium for the broker
    assert wait_for(lambda: descriptors().count(str(volume.region)) == 1), descriptors()
    held = descriptors()
    assert not any(name.startswith(("pipe:", "mnt:", "/dev/fuse")) or "server.log" in name for name in held), held
    assert str(volume.region) not in Path(f"/proc/{helper}/maps").read_text()
    volume.kill()
    assert wait_for(lambda: has_ended(helper))
    volume.mount()
    maker.watch()
    helper = helper_of(volume.pid)
    assert volume.unmount() == 0
    assert has_ended(helper), "it outlives a server that has ended"


@claim("only the borrower has a descriptor that was lent: the helper has closed it", alone=True)
def _(maker):
    # (The lock on it tells whether any process maps: docs/decisions/0009.)
    if instrumented():
        return
    libpmfs = library()
    volume = maker.volume(size="64M")
    (volume.mnt / "f").write_bytes(b"m" * 4096)
    helper = helper_of(volume.pid)
    os.sched_setscheduler(helper, os.SCHED_IDLE, os.sched_param(0))  # so that it closes late, if it does so
    fd = libpmfs.open_direct(volume.mnt / "f")
    busy = [subprocess.Popen(["sh", "-c", "while :; do :; done"]) for _ in range(2 * os.cpu_count())]
    try:
        for _ in range(20):
            with libpmfs.Map(fd):
                held = [os.readlink(link) for link in Path(f"/proc/{helper}/fd").iterdir()]
                assert held.count(str(volume.region)) == 1, held
    finally:
        for one in busy:
            one.kill()
            one.wait()
    os.close(fd)
    assert volume.unmount() == 0


@claim("when a server is killed its connection is aborted, even if something keeps it open", alone=True)
def _(maker):
    # As does a thread of the server that waits in the kernel for a page that only the server could have written.
    volume = maker.volume(size="64M")
    pidfd = os.pidfd_open(volume.pid)
    ours = [c_call("syscall", PIDFD_GETFD, pidfd, int(link.name), 0)
            for link in Path(f"/proc/{volume.pid}/fd").iterdir() if os.readlink(link) == "/dev/fuse"]
    os.close(pidfd)
    assert ours
    try:
        volume.server.kill()
        volume.server.wait()
        # (In a process that can be killed if it hangs.)
        done = subprocess.run(["stat", "-f", str(volume.mnt)], capture_output=True, text=True, timeout=20, check=False)
        assert "not connected" in done.stderr, done
    finally:
        for fd in ours:
            os.close(fd)
    run("umount", "-l", volume.mnt)


@claim("seccomp= accepts each of its words, and a wrong one is refused with a sentence", alone=True)
def _(maker):
    volume = maker.volume(size="64M")
    assert volume.unmount() == 0
    for word in ("errno", "kill", "log", "trap", "none"):
        volume.mount(f"seccomp={word}")
        maker.watch()
        expected = "0" if word == "none" or instrumented() else FILTERED
        (volume.mnt / word).write_text("words")
        assert fields(Path(f"/proc/{volume.pid}/status"))["Seccomp"] == expected, word
        assert volume.unmount() == 0, word
    wrong = run(program("mount.pmfs"), volume.region, volume.mnt, "-o", "seccomp=some", ok=False)
    assert wrong.returncode == 1 and "'some'" in wrong.stderr and wrong.stderr.count("\n") == 1, wrong


def lend_and_look(libpmfs, path):
    path.write_bytes(b"m" * 4096)
    fd = libpmfs.open_direct(path)
    for protection in (libpmfs.READ, libpmfs.WRITE):
        with libpmfs.Map(fd, prot=protection) as mapped:
            assert mapped.load(0, 4096) == b"m" * 4096
    os.close(fd)


@claim("an image of another user can be mounted, written, and lent to a process that maps it", alone=True)
def _(maker):
    volume = maker.volume(size="64M")
    assert volume.unmount() == 0
    os.chown(volume.region, 1000, 1000)
    volume.region.chmod(0o600)
    volume.mount("seal=owner")
    maker.watch()
    for name, status in threads(volume.pid):
        assert int(status["CapEff"], 16) & ~bits(FOWNER, SYS_RESOURCE) == 0, (name, status)
        assert int(status["CapBnd"], 16) == 0, (name, status)
    use(volume.mnt)
    if not instrumented():
        lend_and_look(library(), volume.mnt / "mapped")
    assert volume.unmount() == 0
    volume.fsck()


@claim("if /proc hides the processes of others, a server may see them, and has no other privilege", alone=True)
def _(maker):
    volume = maker.volume(size="64M")
    assert volume.unmount() == 0
    script = 'mount -t proc -o hidepid=2 proc /proc && exec "$@"'
    command = ["unshare", "-m", "--propagation", "private", "sh", "-c", script, "sh", program("mount.pmfs"),
               volume.region, volume.mnt, "--foreground"]
    with subprocess.Popen(command, stderr=subprocess.DEVNULL) as server:
        try:
            table = Path(f"/proc/{server.pid}/mountinfo")
            assert wait_for(lambda: f" {volume.mnt} " in table.read_text())
            Path(f"/proc/{server.pid}/root{volume.mnt}/f").write_text("words")
            for name, status in threads(server.pid):
                assert int(status["CapEff"], 16) == bits(SYS_PTRACE), (name, status)
            server.terminate()
            assert server.wait(20) == 0
        finally:
            server.kill()
    volume.fsck()


@claim("the socket of a guest is removed, in a directory of another user as well", alone=True)
def _(maker):
    volume = maker.volume(size="64M")
    assert volume.unmount() == 0
    place = volume.directory / "machines"
    place.mkdir(mode=0o755)
    os.chown(place, 1000, 1000)
    volume.mount(f"vhost={place}/socket")
    maker.watch()
    assert wait_for((place / "socket").exists)
    assert volume.unmount() == 0
    assert not (place / "socket").exists()


if __name__ == "__main__":
    run_claims()
