#!/usr/bin/env python3
"""What a server keeps of the environment in which it was started: no descriptors, no mounts, no mount namespace."""
import contextlib
import fcntl
import os
import select
import signal
import subprocess
import time
from pathlib import Path

from fixture import claim, program, run, run_claims, wait_for

FAILED = 32


def servers_of(region):
    """Process ids of background servers of a region."""
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            words = (process / "cmdline").read_bytes().split(b"\0")
            if words[0].endswith(b"mount.pmfs") and os.fsencode(str(region)) in words:
                found.append(int(process.name))
    return found


def ended(region, seconds=20):
    return wait_for(lambda: not servers_of(region), seconds)


def mounted(path, process="self"):
    return any(line.split()[4] == str(path)
               for line in Path(f"/proc/{process}/mountinfo").read_text().splitlines())


@contextlib.contextmanager
def idle(maker):
    """A volume without a server; there is none afterwards, either."""
    volume = maker.volume(size="64M")
    assert volume.unmount() == 0, volume.log_text()
    try:
        yield volume
    finally:
        subprocess.run(["umount", "-l", str(volume.mnt)], check=False, capture_output=True)
        for pid in servers_of(volume.region):
            os.kill(pid, signal.SIGKILL)


@contextlib.contextmanager
def other_namespace():
    """A process in a mount namespace of its own."""
    # (Without copies of the mounts of other tests, whose servers would wait for it.)
    script = ("grep ' - fuse.pmfs ' /proc/self/mountinfo | cut -d' ' -f5 | xargs -r umount -l; "
              "exec sleep 60")
    sleeper = subprocess.Popen(["unshare", "-m", "--propagation", "private", "sh", "-c", script])
    mine = os.readlink("/proc/self/ns/mnt")
    try:
        assert wait_for(lambda: os.readlink(f"/proc/{sleeper.pid}/ns/mnt") != mine)
        yield sleeper.pid
    finally:
        sleeper.kill()
        sleeper.wait()


def mount_pmfs(volume, *words, **settings):
    return subprocess.run([program("mount.pmfs"), str(volume.region), str(volume.mnt), *words],
                          capture_output=True, text=True, timeout=30, **settings)


@claim("a server keeps no pipe and no lock that its parent had open", alone=True)
def _(maker):
    with idle(maker) as volume:
        lock = open(volume.directory / "lock", "w")
        read_end, write_end = os.pipe()
        fcntl.flock(lock, fcntl.LOCK_EX)
        command = [program("mount.pmfs"), str(volume.region), str(volume.mnt)]
        done = subprocess.run(command, stdin=subprocess.DEVNULL, stdout=write_end, stderr=write_end,
                              pass_fds=(lock.fileno(), write_end), timeout=30, check=False)
        assert done.returncode == 0
        os.close(write_end)
        said = None
        while said != b"":  # the end, which does not come as long as a process could write
            assert select.select([read_end], [], [], 10)[0], "the server holds the pipe"
            said = os.read(read_end, 4096)
        os.close(read_end)
        lock.close()
        with open(volume.directory / "lock", "w") as again:
            fcntl.flock(again, fcntl.LOCK_EX | fcntl.LOCK_NB)
        run("umount", volume.mnt)
        assert ended(volume.region)


@claim("a source may be a descriptor, and it is the only one that stays", alone=True)
def _(maker):
    with idle(maker) as volume:
        fd = os.open(volume.region, os.O_RDWR)
        high = fcntl.fcntl(fd, fcntl.F_DUPFD, 70)
        os.unlink(volume.region)  # so that it has no name
        volume.region = f"/proc/self/fd/{high}"
        assert mount_pmfs(volume, pass_fds=(fd, high)).returncode == 0
        (volume.mnt / "f").write_text("here")
        run("umount", volume.mnt)
        assert ended(volume.region)


@claim("the end of a mount namespace is the end of the servers that were started in it", alone=True,
       seconds=90)
def _(maker):
    with idle(maker) as volume, idle(maker) as other:
        script = "".join(f"{program('mount.pmfs')} {one.region} {one.mnt} && echo new > {one.mnt}/f && "
                         for one in (other, volume))
        run("unshare", "-m", "--propagation", "private", "sh", "-c", script + "true", timeout=60)
        for one in (volume, other):
            assert ended(one.region), "a server holds the namespace in which it was started"
            one.fsck()
        assert mount_pmfs(volume).returncode == 0
        assert (volume.mnt / "f").read_text() == "new\n"
        run("umount", volume.mnt)
        assert ended(volume.region)


@claim("a filesystem that was mounted before can go: the server has no copy of it", alone=True)
def _(maker):
    with idle(maker) as before, idle(maker) as volume:
        assert mount_pmfs(before).returncode == 0
        assert mount_pmfs(volume).returncode == 0
        run("umount", before.mnt)
        assert ended(before.region), "another server holds the mount"
        (volume.mnt / "f").write_text("lives")
        server, = servers_of(volume.region)
        assert os.readlink(f"/proc/{server}/ns/mnt") != os.readlink("/proc/self/ns/mnt")
        run("umount", volume.mnt)
        assert ended(volume.region)


@claim("SIGTERM finds the mount wherever it was moved or copied to", alone=True)
def _(maker):
    with idle(maker) as volume, other_namespace() as stranger:
        there = volume.directory / "there"
        there.mkdir()
        assert mount_pmfs(volume, "-N", f"/proc/{stranger}/ns/mnt").returncode == 0
        assert mounted(volume.mnt, stranger) and not mounted(volume.mnt)
        enter = ("nsenter", f"--mount=/proc/{stranger}/ns/mnt")
        run(*enter, "mount", "--move", volume.mnt, there)
        run(*enter, "mount", "--bind", there, volume.mnt)
        run(*enter, "sh", "-c", f"echo words > {there}/f")
        server, = servers_of(volume.region)
        os.kill(server, signal.SIGTERM)
        assert ended(volume.region)
        assert not mounted(there, stranger) and not mounted(volume.mnt, stranger)
        volume.fsck()


@claim("a second mount of a volume is refused with the namespace that has it", alone=True)
def _(maker):
    with idle(maker) as volume, other_namespace() as stranger:
        assert mount_pmfs(volume, "-N", f"/proc/{stranger}/ns/mnt").returncode == 0
        server, = servers_of(volume.region)
        start = time.monotonic()
        again = mount_pmfs(volume)
        assert again.returncode == FAILED and time.monotonic() - start < 8
        assert f"(pid {server}); process {stranger}, in another mount namespace" in again.stderr, again
        assert f"on {volume.mnt}" in again.stderr, again
        os.kill(server, signal.SIGTERM)
        assert ended(volume.region)


@claim("a server that is alone in its namespace stays there, because no other process would keep the mount",
       alone=True)
def _(maker):
    with idle(maker) as volume:
        command = ["unshare", "-m", "--propagation", "private", program("mount.pmfs"),
                   str(volume.region), str(volume.mnt), "--foreground"]
        with subprocess.Popen(command, stderr=subprocess.DEVNULL) as server:
            try:
                assert wait_for(lambda: mounted(volume.mnt, server.pid))
                time.sleep(0.2)
                Path(f"/proc/{server.pid}/root{volume.mnt}/f").write_text("words")
                server.terminate()
                assert server.wait(20) == 0
            finally:
                server.kill()
        volume.fsck()


@claim("a server finds its devices if /dev/log is a link that leads out of /dev, as systemd makes it", alone=True)
def _(maker):
    with idle(maker) as volume:
        dev = volume.directory / "dev"
        dev.mkdir()
        script = f"""set -e
            mount -t tmpfs dev {dev}
            cp -a /dev/null /dev/zero /dev/random /dev/urandom /dev/fuse {dev}
            mkdir {dev}/shm && mount --rbind /dev/shm {dev}/shm
            ln -s {volume.directory}/journal {dev}/log && : >{volume.directory}/journal
            mount --rbind {dev} /dev
            {program('mount.pmfs')} {volume.region} {volume.mnt}
            echo words >{volume.mnt}/f
            umount {volume.mnt}"""
        done = subprocess.run(["unshare", "-m", "--propagation", "private", "sh", "-c", script], capture_output=True,
                              text=True, check=False, timeout=60)
        assert done.returncode == 0, done
        assert ended(volume.region)
        volume.fsck()


if __name__ == "__main__":
    run_claims()

