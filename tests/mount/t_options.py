#!/usr/bin/env python3
"""Mount options that change how a mount behaves."""
# Holds docs/man/mount.pmfs.8.
import errno
import mmap
import os
import random
import time

from fixture import as_user, claim, fails, program, run, run_claims


@claim("-o writeback: data is right through cache, mapping and remount", alone=True)
def _(maker):
    volume = maker.volume(size="64M", options="writeback")
    data = random.Random(1).randbytes(3000000)
    fd = os.open(volume.mnt / "f", os.O_CREAT | os.O_RDWR)
    for offset in range(0, len(data), 777):
        os.pwrite(fd, data[offset:offset + 777], offset)
    assert os.fstat(fd).st_size == len(data)
    assert os.pread(fd, len(data), 0) == data
    with mmap.mmap(fd, len(data)) as mapping:
        mapping[5:10] = b"store"
    log = os.open(volume.mnt / "log", os.O_CREAT | os.O_WRONLY | os.O_APPEND)
    for number in range(100):
        os.write(log, b"%03d\n" % number)
    os.close(log)
    os.close(fd)
    assert volume.unmount() == 0, volume.log_text()
    volume.fsck()
    volume.mount()
    maker.watch()
    assert (volume.mnt / "f").read_bytes() == data[:5] + b"store" + data[10:]
    assert (volume.mnt / "log").read_text() == "".join(f"{number:03}\n" for number in range(100))


@claim("-o writeback: the times of what was written are not those of writing it back", alone=True)
def _(maker):
    volume = maker.volume(size="64M", options="writeback")

    def nothing(path, _):
        assert path.exists()

    # What makes the kernel send the times before the bytes.
    between = {"nothing": nothing, "link": lambda path, _: os.link(path, f"{path}-2"),
               "rename": lambda path, _: path.rename(f"{path}-new").rename(path),
               "unlink": lambda path, _: os.unlink(f"{path}-1"),
               "setxattr": lambda path, _: os.setxattr(path, "user.a", b"x"),
               "chmod": lambda path, _: path.chmod(0o600), "fsync": lambda _, fd: os.fsync(fd)}
    times = {}
    for store in ("write", "overwrite", "mapping"):
        for name, act in between.items():
            path = volume.mnt / f"{store}-{name}"
            path.write_bytes(b"x" * 5000 if store != "write" else b"")
            os.link(path, f"{path}-1")
            os.sync()
            fd = os.open(path, os.O_RDWR)
            time.sleep(0.02)
            if store == "mapping":
                with mmap.mmap(fd, 5000) as mapping:
                    mapping[5:10] = b"store"
            else:
                os.write(fd, b"y" * 4097)
            written = os.fstat(fd).st_mtime_ns
            time.sleep(0.02)
            act(path, fd)
            os.close(fd)
            times[path] = written
    assert volume.unmount() == 0, volume.log_text()
    volume.mount("writeback")
    maker.watch()
    late = {path.name: (os.stat(path).st_mtime_ns - was) / 1e6 for path, was in times.items()}
    assert not any(late.values()), f"milliseconds: {late}"


@claim("timeouts of zero change nothing but speed", alone=True)
def _(maker):
    volume = maker.volume(size="64M", options="attr_timeout=0,entry_timeout=0")
    (volume.mnt / "a").write_text("one")
    os.link(volume.mnt / "a", volume.mnt / "b")
    os.truncate(volume.mnt / "b", 1)
    assert (volume.mnt / "a").read_text() == "o" and os.stat(volume.mnt / "a").st_nlink == 2
    os.rename(volume.mnt / "a", volume.mnt / "c")
    assert sorted(os.listdir(volume.mnt)) == ["b", "c"]
    assert volume.unmount() == 0


@claim("-o seal=owner lets the owner seal, and without it only root may", alone=True)
def _(maker):
    volume = maker.volume(size="64M")
    os.chmod(volume.mnt, 0o777)

    def make():
        (volume.mnt / "f").write_bytes(b"x" * 8192)
    as_user(make)

    def refused():
        with fails(errno.EPERM, errno.EACCES):
            os.setxattr(volume.mnt / "f", "user.pmfs.seal", b"as-is")
    as_user(refused)
    assert volume.unmount() == 0
    volume.mount("seal=owner")
    maker.watch()

    def allowed():
        os.setxattr(volume.mnt / "f", "user.pmfs.seal", b"as-is")
        with fails(errno.ETXTBSY):
            os.truncate(volume.mnt / "f", 0)
        os.removexattr(volume.mnt / "f", "user.pmfs.seal")
        os.truncate(volume.mnt / "f", 0)
    as_user(allowed)
    assert volume.unmount() == 0


@claim("a seal writes dirty pages of a mapping back first, and does not deadlock", alone=True)
def _(maker):
    volume = maker.volume(size="64M")
    for number, seal in enumerate((b"as-is", b"full")):
        path = volume.mnt / f"f{number}"
        path.write_bytes(bytes(1 << 20))
        fd = os.open(path, os.O_RDWR)
        mapping = mmap.mmap(fd, 1 << 20)
        for page in range(256):
            mapping[page * 4096:page * 4096 + 5] = b"dirty"
        os.close(fd)  # the mapping keeps the file open and its pages dirty
        os.setxattr(path, "trusted.pmfs.seal", seal)
        direct = os.open(path, os.O_RDONLY | os.O_DIRECT)
        page = mmap.mmap(-1, 1 << 20)
        assert os.preadv(direct, [page], 0) == 1 << 20
        assert all(page[n * 4096:n * 4096 + 5] == b"dirty" for n in range(256))
        mapping[8192:8196] = b"more"
        mapping.flush()
        assert os.preadv(direct, [page], 0) == 1 << 20 and page[8192:8196] == b"more"
        mapping.close()
        os.close(direct)
        os.removexattr(path, "trusted.pmfs.seal")
    assert volume.unmount() == 0
    volume.fsck()


def mount_options(volume, options):
    return run(program("mount.pmfs"), volume.region, volume.mnt, "-o", options, ok=False)


@claim("a remount refuses what only a new mount can change, and accepts what is set already", alone=True)
def _(maker):
    volume = maker.volume(size="64M", options="commit=7,seal=owner,pin_quota=1M")
    table = "rw,relatime,user_id=0,group_id=0,default_permissions,allow_other"
    for same in ("ro", "rw", "noexec", "commit=7", "seal=owner", "pin_quota=1024K", "entry_timeout=3600",
                 "nofail", f"{table},commit=7", "x-systemd.automount"):
        done = mount_options(volume, f"remount,{same}")
        assert done.returncode == 0, (same, done)
    for other in ("commit=8", "seal=root", "pin_quota=2M", "attr_timeout=1", "writeback", "group=0", "sync",
                  "dirsync", "lease_break_time=1", "local_lock=none", "sealed_reads=direct"):
        done = mount_options(volume, f"remount,{other}")
        if other.startswith("group"):
            done = mount_options(volume, "remount,group=root")
        word = other.split("=")[0]
        assert done.returncode == 32 and f"cannot change '{word}'" in done.stderr, (other, done)
    for wrong in ("nonsense", "commit=never"):
        assert mount_options(volume, f"remount,{wrong}").returncode == 1, wrong
    assert volume.unmount() == 0
    volume.mount("ro")
    maker.watch()
    done = mount_options(volume, "remount,rw")
    assert done.returncode == 32 and "opened read-only" in done.stderr, done
    assert mount_options(volume, "remount,ro,nosuid").returncode == 0
    assert volume.unmount() == 0


@claim("common options of fstab work, or are refused with a sentence", alone=True)
def _(maker):
    volume = maker.volume(size="64M")
    passed = ("acl,user_xattr,errors=remount-ro,nodiscard,barrier,barrier=1,data=ordered,noquota,nofail,"
              "_netdev,comment=words,users,auto,noauto,x-systemd.requires=a,x-gvfs-hide,defaults,relatime,"
              "lazytime,iversion,nomand,noatime,nodiratime,allow_other")
    for word in passed.split(",") + [passed]:
        done = mount_options(volume, f"remount,{word}")
        assert done.returncode == 0, (word, done)
    for word in ("noacl", "nouser_xattr", "errors=continue", "errors=panic", "discard", "barrier=0", "nobarrier",
                 "data=journal", "data=writeback", "usrquota", "usrjquota=aquota.user", "dax", "dax=always"):
        done = mount_options(volume, word)
        sentences = done.stderr.strip().splitlines()
        assert done.returncode == 1 and len(sentences) == 1, (word, done)
        assert f"remove the option '{word}'" in sentences[0], done
        assert mount_options(volume, f"{word},remount").returncode == 1
    assert volume.unmount() == 0
    volume.mount(passed)
    maker.watch()
    (volume.mnt / "f").write_text("words")
    assert volume.unmount() == 0


@claim("a wrong value of an option is one sentence that says what is valid", alone=True)
def _(maker):
    volume = maker.volume(size="64M")
    for wrong in ("lease_break_time=soon", "lease_break_time=3601", "lease_break_time=-1", "mappings=15",
                  "mappings=many", "mappings=1000001", "pin_quota=64X", "pin_quota=lots", "commit=0x",
                  "group=no-such-group", "seal=everybody", "attr_timeout=1h", "local_lock=some", "vhost=/g,guest_locks=x",
                  "vhost=/g,guest_inodes=0", "vhost=/g,guest_files=many", "vhost=/g,guest_grants=-1"):
        done = mount_options(volume, wrong)
        sentences = done.stderr.strip().splitlines()
        value = wrong.rpartition("=")[2]
        assert done.returncode == 1 and len(sentences) == 1, (wrong, done)
        assert value in sentences[0], (wrong, done)
    for whole in ("seal=owner,\"half", "commit=5,context=\"a"):
        done = mount_options(volume, whole)
        assert done.returncode == 1 and len(done.stderr.strip().splitlines()) == 1, (whole, done)
    assert volume.unmount() == 0


if __name__ == "__main__":
    run_claims()
