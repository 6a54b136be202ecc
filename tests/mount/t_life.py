#!/usr/bin/env python3
"""The life of a mount: how it begins, every kind of end, and the message when it cannot begin."""
# Holds docs/posix.md "Durability", "When the server is gone" and docs/man/mount.pmfs.8.
import contextlib
import errno
import mmap
import os
import shutil
import signal
import subprocess
import time
from pathlib import Path

from fixture import claim, fails, program, run, run_claims, wait_for

USAGE, FAILED = 1, 32


@claim("a server that ends leaves no file without a name, also one that was open", alone=True)
def _(maker):
    volume = maker.volume(size="64M")
    fd = os.open(volume.mnt / "f", os.O_CREAT | os.O_RDWR)
    os.write(fd, b"x" * 300_000)
    os.unlink(volume.mnt / "f")
    os.kill(volume.server.pid, signal.SIGTERM)
    assert volume.server.wait(60) == 0, volume.log_text()
    with contextlib.suppress(OSError):  # ENOTCONN
        os.close(fd)
    done = run(program("fsck.pmfs"), "-n", volume.region)
    assert "orphans: 0" in done.stdout, done.stdout


def mount_pmfs(*arguments):
    return subprocess.run([program("mount.pmfs"), *map(str, arguments)], capture_output=True,
                          text=True, timeout=60)


def refused(done, code, *words):
    """One sentence on standard error that holds these words, and this exit code."""
    assert done.returncode == code, f"exit {done.returncode}: {done.stderr}"
    sentences = done.stderr.strip().splitlines()
    assert len(sentences) == 1 and sentences[0].startswith("mount.pmfs: "), done.stderr
    for word in words:
        assert word.lower() in sentences[0].lower(), f"{word!r} is not in: {sentences[0]}"


def mounts_of(path):
    return [line for line in Path("/proc/self/mountinfo").read_text().splitlines()
            if line.split()[4] == str(path)]


def fill(directory):
    """Some files whose content follows from their names."""
    for number in range(50):
        (directory / f"file{number}").write_text(f"content {number}\n" * 100)
    os.makedirs(directory / "a" / "b")
    os.symlink("../file1", directory / "a" / "link")


def check(directory):
    for number in range(50):
        assert (directory / f"file{number}").read_text() == f"content {number}\n" * 100
    assert os.readlink(directory / "a" / "link") == "../file1" and (directory / "a" / "b").is_dir()


@claim("umount ends the server with exit code 0, and the next mount has the same contents", alone=True)
def _(maker):
    volume = maker.volume(size="64M")
    fill(volume.mnt)
    assert volume.unmount() == 0, volume.log_text()
    volume.fsck()
    volume.mount()
    maker.watch()
    check(volume.mnt)


@claim("SIGKILL of the server loses nothing that returned, and fsck finds no problem", alone=True)
def _(maker):
    volume = maker.volume(size="64M")
    fill(volume.mnt)
    volume.kill()
    volume.fsck()
    volume.mount()
    maker.watch()
    check(volume.mnt)
    (volume.mnt / "more").write_text("after")
    volume.kill()
    volume.mount()
    maker.watch()
    check(volume.mnt)
    assert (volume.mnt / "more").read_text() == "after"
    assert volume.unmount() == 0
    volume.fsck()


@claim("SIGKILL in the middle of a copy keeps every file whose copy had returned", alone=True,
       seconds=120)
def _(maker):
    volume = maker.volume(size="256M")
    script = (f'i=0; while :; do head -c $((i * 97 % 60000)) /dev/zero | tr "\\0" "x" '
              f'> {volume.mnt}/f$i || exit; mkdir -p {volume.mnt}/d$((i % 10))/$i || exit; '
              f'ln {volume.mnt}/f$i {volume.mnt}/d$((i % 10))/$i/ln || exit; '
              f'echo $i; i=$((i + 1)); done')
    for round_number in range(3):
        writer = subprocess.Popen(["sh", "-c", script], stdout=subprocess.PIPE, text=True,
                                  stderr=subprocess.DEVNULL)
        first = [writer.stdout.readline() for _ in range(11)]
        time.sleep(0.5 + 0.3 * round_number)
        volume.server.kill()
        finished = len(first + writer.stdout.readlines())
        writer.wait()
        volume.server.wait()
        run("umount", "-l", volume.mnt)
        volume.fsck()
        volume.mount()
        maker.watch()
        for number in range(finished):
            data = (volume.mnt / f"f{number}").read_bytes()
            assert data == b"x" * (number * 97 % 60000), number
            assert os.stat(volume.mnt / f"d{number % 10}" / str(number) / "ln").st_nlink == 2
        run("rm", "-rf", *(str(p) for p in volume.mnt.iterdir()))
    assert volume.unmount() == 0
    volume.fsck()


@claim("msync and fsync fail for what cannot be stored any more because the server died, each time, by whatever way it "
       "was written", alone=True)
def _(maker):
    for options in ("", "writeback"):
        volume = maker.volume(size="64M", options=options)
        fd = os.open(volume.mnt / "x", os.O_CREAT | os.O_RDWR)
        os.write(fd, b"old " * 1024)
        memory = mmap.mmap(fd, 4096)
        memory[:4] = b"aged"
        memory.flush()
        os.fsync(fd)
        volume.kill()
        for number in range(3):
            memory[4 * number:4 * number + 4] = b"lost"
            with fails(errno.ENOTCONN, errno.EIO):
                memory.flush()
            memory[100:104] = b"lost"
            with fails(errno.ENOTCONN, errno.EIO):
                os.fsync(fd)
            if options:
                os.pwrite(fd, b"lost", 200)  # (the page cache takes it)
                with fails(errno.ENOTCONN, errno.EIO):
                    os.fdatasync(fd)
        memory.close()
        with contextlib.suppress(OSError):
            os.close(fd)
        volume.mount(options)
        maker.watch()
        assert (volume.mnt / "x").read_bytes() == b"aged" + b"old " * 1023
        assert volume.unmount() == 0
        volume.fsck()


@claim("files that were open and removed when the server died do not take space for ever", alone=True)
def _(maker):
    volume = maker.volume(size="64M")
    free = os.statvfs(volume.mnt).f_bfree
    fd = os.open(volume.mnt / "x", os.O_CREAT | os.O_WRONLY)
    os.write(fd, b"x" * (8 << 20))
    os.unlink(volume.mnt / "x")
    volume.kill()
    with fails(errno.ENOTCONN):
        os.close(fd)
    volume.mount()
    maker.watch()
    assert wait_for(lambda: os.statvfs(volume.mnt).f_bfree >= free - 64, seconds=5), \
        f"{free - os.statvfs(volume.mnt).f_bfree} blocks are lost"
    assert volume.unmount() == 0
    volume.fsck()


@claim("umount of a busy mount is EBUSY and harms nothing", alone=True)
def _(maker):
    volume = maker.volume(size="64M")
    with open(volume.mnt / "f", "w") as file:
        done = run("umount", volume.mnt, ok=False)
        assert done.returncode != 0 and "busy" in done.stderr, done.stderr
        file.write("still")
    assert (volume.mnt / "f").read_text() == "still"
    assert volume.unmount() == 0


@claim("SIGTERM unmounts and ends with exit code 0", alone=True)
def _(maker):
    volume = maker.volume(size="64M")
    fill(volume.mnt)
    volume.server.send_signal(signal.SIGTERM)
    assert volume.server.wait(20) == 0, volume.log_text()
    assert not mounts_of(volume.mnt)
    volume.fsck()
    volume.mount()
    maker.watch()
    check(volume.mnt)


@claim("SIGTERM of a busy server saves dirty pages, detaches, and its users get ENOTCONN", alone=True)
def _(maker):
    import mmap
    volume = maker.volume(size="64M")
    fd = os.open(volume.mnt / "f", os.O_CREAT | os.O_RDWR)
    os.ftruncate(fd, 1 << 20)
    with mmap.mmap(fd, 1 << 20) as mapping:
        mapping[1000:1005] = b"dirty"
        volume.server.send_signal(signal.SIGTERM)
        assert volume.server.wait(20) == 0, volume.log_text()
    assert not mounts_of(volume.mnt)
    with fails(errno.ENOTCONN):
        os.pread(fd, 10, 500000)
    with fails(errno.ENOTCONN):
        os.close(fd)
    volume.fsck()
    volume.mount()
    maker.watch()
    assert (volume.mnt / "f").read_bytes()[1000:1005] == b"dirty"


@claim("a second mount of a mounted volume is refused, and so are mkfs and a repair", alone=True)
def _(maker):
    volume = maker.volume(size="64M")
    other = volume.directory / "other"
    other.mkdir()
    refused(mount_pmfs(volume.region, other), FAILED, str(volume.region), "mounted")
    assert run(program("mkfs.pmfs"), "-f", volume.region, ok=False).returncode != 0
    assert run(program("fsck.pmfs"), volume.region, ok=False).returncode not in (0, 1)
    (volume.mnt / "f").write_text("unharmed")
    assert volume.unmount() == 0
    volume.fsck()


@claim("a mount right after umount waits for the old server to close", alone=True)
def _(maker):
    volume = maker.volume(size="64M")
    for number in range(5):
        (volume.mnt / f"f{number}").write_text("x" * 1000000)
        run("umount", volume.mnt)
        old = volume.server
        volume.mount()
        maker.watch()
        assert old.wait(20) == 0
        assert (volume.mnt / f"f{number}").read_text() == "x" * 1000000


@claim("fsck and mkfs right after umount wait for the old server to close, not for a mount", alone=True)
def _(maker):
    volume = maker.volume(size="64M")
    for command in ("fsck.pmfs", "-q"), ("mkfs.pmfs", "-qf"):
        (volume.mnt / "f").write_bytes(os.urandom(1 << 20))
        done = run(program(command[0]), *command[1:], volume.region, ok=False)
        assert done.returncode != 0 and "is mounted" in done.stderr, done.stderr
        run("umount", volume.mnt)
        run(program(command[0]), *command[1:], volume.region)
        assert volume.server.wait(30) == 0, volume.log_text()
        volume.mount()
        maker.watch()


@claim("a dead mount says which umount to run", alone=True)
def _(maker):
    volume = maker.volume(size="64M")
    os.stat(volume.mnt)  # which the kernel can answer by itself from now on
    volume.server.kill()
    volume.server.wait()
    refused(mount_pmfs(volume.region, volume.mnt), FAILED, f"umount -l {volume.mnt}")
    run("umount", "-l", volume.mnt)
    volume.mount()
    maker.watch()


@claim("a directory that is missing or is a file is refused", alone=True)
def _(maker):
    volume = maker.volume(size="64M")
    refused(mount_pmfs(volume.region, volume.directory / "none"), FAILED, "no such directory")
    (volume.directory / "file").touch()
    refused(mount_pmfs(volume.region, volume.directory / "file"), FAILED, "not a directory")


@claim("a medium without a volume, with a part of one, or with a newer one is refused, and not changed", alone=True)
def _(maker):
    place = maker.directory
    target = place / "target"
    target.mkdir()
    refused(mount_pmfs(place / "none", target), FAILED, str(place / "none"))
    (place / "empty").touch()
    refused(mount_pmfs(place / "empty", target), FAILED)
    (place / "zeroes").write_bytes(bytes(8 << 20))
    refused(mount_pmfs(place / "zeroes", target), FAILED, "pmfs")
    (place / "text").write_bytes(b"this is no volume\n" * 500000)
    refused(mount_pmfs(place / "text", target), FAILED, "pmfs")

    image = place / "image"
    run(program("mkfs.pmfs"), "-q", "--size", "64M", image)
    shutil.copy(image, place / "short")
    os.truncate(place / "short", 32 << 20)
    refused(mount_pmfs(place / "short", target), FAILED)
    for name in ("empty", "zeroes", "text", "short"):
        before = (place / name).read_bytes()
        mount_pmfs(place / name, target)
        assert (place / name).read_bytes() == before, name
    assert not mounts_of(target)


@claim("an unknown option and a bad value are one sentence and exit code 1; -s ignores them", alone=True)
def _(maker):
    volume = maker.volume(size="64M")
    assert volume.unmount() == 0
    for options, word in (("zonk", "zonk"), ("seal=nobody", "seal="), ("commit=never", "commit="),
                          ("group=no-such-group", "no-such-group"), ("writeback=1", "writeback"),
                          ("seal", "seal"), ("sealed_reads=maybe", "sealed_reads=")):
        refused(mount_pmfs(volume.region, volume.mnt, "-o", options), USAGE, word)
    assert mount_pmfs(volume.region).returncode == USAGE
    assert mount_pmfs().returncode == USAGE
    refused(mount_pmfs(volume.region, volume.mnt, "-t", "ext4"), USAGE, "ext4")
    assert mount_pmfs(volume.region, volume.mnt, "-f", "-o", "ro,seal=owner").returncode == 0
    assert not mounts_of(volume.mnt)
    done = mount_pmfs(volume.region, volume.mnt, "-s", "-n", "-v", "-o",
                      "zonk,rw,nosuid,noexec,_netdev,nofail,x-systemd.automount,commit=1,"
                      "attr_timeout=1,entry_timeout=0.5,lease_break_time=5,seal=owner")
    assert done.returncode == 0, done.stderr
    line = mounts_of(volume.mnt)[0]
    assert "nosuid" in line and "noexec" in line and " fuse.pmfs " in line and str(volume.region) in line
    run("umount", volume.mnt)


@claim("the daemon returns when the mount can be used, and mounts are not nosuid unless asked", alone=True)
def _(maker):
    volume = maker.volume(size="64M")
    assert volume.unmount() == 0
    for _ in range(3):
        done = mount_pmfs(volume.region, volume.mnt)
        assert done.returncode == 0 and done.stderr == "", done.stderr
        (volume.mnt / "f").write_text("at once")
        line = mounts_of(volume.mnt)[0]
        assert "nosuid" not in line and "nodev" not in line
        run("umount", volume.mnt)


@claim("mount -t pmfs finds the helper, shows in the table, and remounts read-only and back", alone=True)
def _(maker):
    volume = maker.volume(size="64M")
    assert volume.unmount() == 0
    helpers = [Path("/sbin/mount.pmfs"), Path("/sbin/mount.fuse.pmfs")]
    missing = [helper for helper in helpers if not os.path.lexists(helper)]
    for helper in missing:
        helper.symlink_to(program("mount.pmfs"))
    try:
        run("mount", "-t", "pmfs", "-o", "noatime", volume.region, volume.mnt)
        (volume.mnt / "f").write_text("x")
        found = run("findmnt", "-no", "FSTYPE,SOURCE", volume.mnt).stdout.split()
        assert found == ["fuse.pmfs", str(volume.region)], found
        run("mount", "-o", "remount,ro", volume.mnt)
        with fails(errno.EROFS):
            (volume.mnt / "g").touch()
        run("mount", "-o", "remount,rw", volume.mnt)
        (volume.mnt / "g").touch()
        run("umount", volume.mnt)
        done = run("mount", "-t", "pmfs", "-o", "zonk", volume.region, volume.mnt, ok=False)
        assert done.returncode == 1 and "zonk" in done.stderr, done
    finally:
        for helper in missing:
            helper.unlink()


@claim("a read-only mount reads, and writes nothing to the region", alone=True)
def _(maker):
    volume = maker.volume(size="64M")
    fill(volume.mnt)
    assert volume.unmount() == 0
    before = Path(volume.region).read_bytes()
    volume.mount("ro")
    maker.watch()
    check(volume.mnt)
    for act in (lambda: (volume.mnt / "x").touch(), lambda: os.unlink(volume.mnt / "file1"),
                lambda: os.mkdir(volume.mnt / "d"), lambda: os.chmod(volume.mnt / "file1", 0o600),
                lambda: os.truncate(volume.mnt / "file1", 0),
                lambda: os.setxattr(volume.mnt / "file1", "user.x", b"")):
        with fails(errno.EROFS):
            act()
    assert volume.unmount() == 0
    assert Path(volume.region).read_bytes() == before


@claim("a volume that a crash left behind can be mounted read-only", alone=True)
def _(maker):
    volume = maker.volume(size="64M")
    fill(volume.mnt)
    volume.kill()
    volume.mount("ro")
    maker.watch()
    check(volume.mnt)
    assert volume.unmount() == 0


@claim("without /dev/fuse it says what to do", alone=True)
def _(maker):
    volume = maker.volume(size="64M")
    assert volume.unmount() == 0
    script = (f"mount -t tmpfs none /dev && mkdir /dev/shm && mknod /dev/null c 1 3 && "
              f"mount --bind {volume.directory} /mnt && exec {program('mount.pmfs')} /mnt/image /mnt/mnt")
    shutil.copy(volume.region, volume.directory / "image")
    done = subprocess.run(["unshare", "-m", "sh", "-c", script], capture_output=True, text=True)
    refused(done, FAILED, "modprobe fuse")


@claim("a user other than root is told that only root can mount", alone=True)
def _(maker):
    volume = maker.volume(size="64M")
    assert volume.unmount() == 0
    os.chmod(volume.region, 0o666)
    done = subprocess.run(["setpriv", "--reuid=1000", "--regid=1000", "--clear-groups",
                           "--bounding-set=-all", program("mount.pmfs"), str(volume.region),
                           str(volume.mnt)], capture_output=True, text=True)
    refused(done, FAILED, "root")


@claim("a server that dies before it serves leaves no mount, and is reported", alone=True)
def _(maker):
    volume = maker.volume(size="64M")
    assert volume.unmount() == 0
    done = subprocess.run(["prlimit", "--nofile=4:4", program("mount.pmfs"), str(volume.region),
                           str(volume.mnt)], capture_output=True, text=True)
    assert done.returncode != 0 and done.stderr.strip(), done
    assert not mounts_of(volume.mnt)


@claim("an aborted connection ends the server, and nothing that returned is lost", alone=True)
def _(maker):
    volume = maker.volume(size="64M")
    fill(volume.mnt)
    Path(f"/sys/fs/fuse/connections/{volume.connection}/abort").write_text("1")
    volume.server.wait(20)
    run("umount", "-l", volume.mnt)
    volume.mount()
    maker.watch()
    check(volume.mnt)
    assert volume.unmount() == 0
    volume.fsck()


if __name__ == "__main__":
    run_claims()
