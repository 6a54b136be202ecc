#!/usr/bin/env python3
"""Finding a volume by its name, saying that it is served, and what pmfsctl doctor makes of a machine."""
# Holds docs/devdax.md "When it does not work".
import json
import os
import socket
import subprocess
import uuid
from pathlib import Path

from fixture import claim, program, run, run_claims

LINKS = Path("/dev/pmfs/by-label")


def doctor(root, device):
    done = subprocess.run([program("pmfsctl"), "doctor", "--json", "--root", root, device],
                          capture_output=True, text=True, check=False, timeout=20)
    found = json.loads(done.stdout)
    assert done.returncode == (1 if found["wrong"] else 0), done
    return {one["about"]: one for one in found["findings"]}


class Machine:
    """A /sys, /proc and /dev with one device-DAX node, dax0.0, in which nothing is wrong."""

    def __init__(self, root):
        self.root = Path(root)
        self.put("dev/fuse")
        self.put("dev/dax0.0")
        self.put("proc/sys/kernel/io_uring_disabled", "0\n")
        self.limit("unlimited")
        self.node = "sys/devices/ndbus0/region0/dax0.1/dax0/dax0.0"
        self.put("sys/devices/ndbus0/region0/dax0.1/namespace", "namespace0.0\n")
        self.put("sys/devices/ndbus0/region0/dax0.1/dax0/namespace", "namespace0.0\n")
        self.put(self.node + "/size", f"{64 << 20}\n")
        self.put(self.node + "/align", f"{2 << 20}\n")
        self.put(self.node + "/dev", "252:3\n")
        self.link("sys/bus/dax/devices/dax0.0", self.node)
        self.drive("device_dax")

    def put(self, name, text=""):
        path = self.root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)

    def link(self, name, to):
        path = self.root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.unlink(missing_ok=True)
        path.symlink_to(self.root / to)

    def drive(self, driver):
        self.link(self.node + "/driver", f"sys/bus/dax/drivers/{driver}")

    def limit(self, value):
        self.put("proc/self/limits", f"Max locked memory         {value:<20} {value:<20} bytes\n")

    def about(self, key, device="/dev/dax0.0"):
        return doctor(self.root, device)[key]


def check_named(name, number, region):
    """fsck.pmfs finds the volume by the same names, and says which device it is."""
    for source in (f"label:{name}", f"uuid:{number.upper()}"):
        assert run(program("fsck.pmfs"), "-n", source).stdout.startswith(f"{region}: clean; "), source
    missing = subprocess.run([program("fsck.pmfs"), "label:nobody has it"], capture_output=True, text=True,
                             check=False)
    assert missing.returncode == 8 and "no volume has the label nobody has it" in missing.stderr, missing


@claim("a volume is mounted and checked by its label and by its UUID, wherever its link leads", alone=True)
def _(maker):
    name, number = f"pmfs-test-{os.getpid()}", str(uuid.uuid4())
    region, mnt = maker.directory / "region", maker.directory / "mnt"
    mnt.mkdir()
    run(program("mkfs.pmfs"), "-q", "--size", "64M", "-L", name, "-U", number, region)
    LINKS.mkdir(parents=True, exist_ok=True)
    # (What a link is called does not count: a superblock does.)
    link = LINKS / f"{name}-renumbered"
    link.symlink_to(region)
    try:
        escaped = name.replace("-", r"\x2d")
        for source in (f"label:{name}", f"label:{escaped}", f"LABEL={name}", f"uuid:{number.upper()}", f"UUID={number}"):
            run(program("mount.pmfs"), source, mnt)
            shown = run("findmnt", "--noheadings", "--output", "SOURCE", mnt).stdout.strip()
            run("umount", mnt)
            assert shown == str(region), shown
        refused = subprocess.run([program("mount.pmfs"), "label:nobody has it", mnt],
                                 capture_output=True, text=True, check=False)
        assert refused.returncode == 32 and "no volume has the label nobody has it" in refused.stderr
        assert name in refused.stderr, refused  # it says what it found instead
        check_named(name, number, region)
        other = maker.directory / "other"
        run("cp", "--sparse=always", region, other)
        second = LINKS / f"{name}-second"
        second.symlink_to(other)
        try:
            refused = subprocess.run([program("mount.pmfs"), f"label:{name}", mnt],
                                     capture_output=True, text=True, check=False)
            assert refused.returncode == 32 and "both" in refused.stderr, refused
            refused = subprocess.run([program("fsck.pmfs"), f"uuid:{number}"],
                                     capture_output=True, text=True, check=False)
            assert refused.returncode == 8 and "both" in refused.stderr, refused
        finally:
            second.unlink()
    finally:
        subprocess.run(["umount", "-q", mnt], check=False)
        link.unlink()


@claim("a server in the foreground tells NOTIFY_SOCKET when the mount can be used", alone=True)
def _(maker):
    region, mnt, path = (maker.directory / name for name in ("region", "mnt", "notify"))
    mnt.mkdir()
    run(program("mkfs.pmfs"), "-q", "--size", "64M", region)
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as notified:
        notified.bind(str(path))
        notified.settimeout(20)
        server = subprocess.Popen([program("mount.pmfs"), region, mnt, "--foreground"],
                                  env={**os.environ, "NOTIFY_SOCKET": str(path)})
        try:
            assert b"READY=1" in notified.recv(200).split(b"\n")[:1], "not ready first"
            (mnt / "file").write_text("usable")
        finally:
            subprocess.run(["umount", "-q", mnt], check=False)
            if server.poll() is None:
                server.terminate()
            assert server.wait(20) == 0


@claim("pmfsctl probe names the volume on a region, also for udev", alone=True)
def _(maker):
    region, number = maker.directory / "region", str(uuid.uuid4())
    run(program("mkfs.pmfs"), "-q", "--size", "64M", "-L", "a/b ../c", "-U", number, region)
    found = json.loads(run(program("pmfsctl"), "probe", "--json", region).stdout)
    assert (found["uuid"], found["label"], found["size"]) == (number, "a/b ../c", 64 << 20), found
    lines = run(program("pmfsctl"), "probe", "--udev", region).stdout.splitlines()
    assert "ID_FS_TYPE=pmfs" in lines and f"ID_FS_UUID_ENC={number}" in lines, lines
    assert r"ID_FS_LABEL_ENC=a\x2fb\x20..\x2fc" in lines, lines  # no way out of /dev/pmfs/by-label
    run(program("mkfs.pmfs"), "-q", "-f", "-L", " " * 64, region)
    lines = run(program("pmfsctl"), "probe", "--udev", region).stdout
    assert "ID_FS_UUID_ENC=" in lines and "LABEL" not in lines, lines  # too long for a link
    region.write_bytes(bytes(64 << 20))
    done = subprocess.run([program("pmfsctl"), "probe", "--udev", region], capture_output=True,
                          text=True, check=False)
    assert done.returncode == 1 and not done.stdout and "mkfs.pmfs" in done.stderr, done


@claim("doctor finds nothing wrong with a machine that has all it needs", alone=True)
def _(maker):
    found = doctor(Machine(maker.directory).root, "/dev/dax0.0")
    assert {one["grade"] for one in found.values()} == {"good"}, found
    assert set(found) == {"fuse", "io_uring", "memlock", "mode", "align", "size"}, found


@claim("doctor names each fault of a device and the command that fixes it", alone=True)
def _(maker):
    machine = Machine(maker.directory)
    remake = "ndctl create-namespace --mode=devdax --align=2M --force --reconfig=namespace0.0"
    for driver, words, command in (
            ("kmem", "system-ram", "daxctl reconfigure-device --mode=devdax --force dax0.0"),
            ("fsdev_dax", "famfs", "daxctl reconfigure-device --mode=devdax dax0.0")):
        machine.drive(driver)
        found = machine.about("mode")
        assert found["grade"] == "wrong" and words in found["sentence"], found
        assert found["command"].startswith(command), found
    (machine.root / machine.node / "driver").unlink()
    assert machine.about("mode")["command"] == "daxctl enable-device dax0.0"
    machine.drive("device_dax")
    machine.put(machine.node + "/align", f"{1 << 30}\n")
    assert (machine.about("align")["grade"], machine.about("align")["command"]) == ("wrong", remake)
    machine.put(machine.node + "/align", "4096\n")
    assert machine.about("align")["grade"] == "note"
    machine.put(machine.node + "/size", f"{2 << 20}\n")
    assert (machine.about("size")["grade"], machine.about("size")["command"]) == ("wrong", remake)
    (machine.root / "dev/dax0.0").unlink()
    assert machine.about("device")["command"] == "mknod -m 600 /dev/dax0.0 c 252 3"
    missing = machine.about("device", "/dev/dax7.0")
    assert missing["command"] == "ndctl create-namespace --mode=devdax --align=2M", missing
    machine.put("sys/devices/ndbus0/region0/pfn0.1/namespace", "namespace0.0\n")
    machine.put("sys/devices/ndbus0/region0/pfn0.1/block/pmem0/size", "1\n")
    machine.link("sys/class/block/pmem0", "sys/devices/ndbus0/region0/pfn0.1/block/pmem0")
    machine.link("sys/devices/ndbus0/region0/pfn0.1/block/pmem0/device", "sys/devices/ndbus0/region0/pfn0.1")
    assert machine.about("mode", "/dev/pmem0")["command"] == remake


@claim("doctor reconfigures memory that has no namespace: daxX.0 cannot be destroyed", alone=True)
def _(maker):
    machine = Machine(maker.directory)
    for name in (machine.root / "sys/devices").rglob("namespace"):
        name.unlink()
    machine.put(machine.node + "/align", f"{1 << 30}\n")
    assert machine.about("align")["command"] == (
        "daxctl disable-device dax0.0 && daxctl reconfigure-device --align=2M dax0.0"
        " && daxctl enable-device dax0.0")
    machine.put(machine.node + "/size", f"{2 << 20}\n")
    assert "reconfigure-device --size=SIZE dax0.0" in machine.about("size")["command"]


@claim("doctor names what the kernel and limits prevent", alone=True)
def _(maker):
    machine = Machine(maker.directory)
    (machine.root / "dev/fuse").unlink()
    assert machine.about("fuse")["command"] == "modprobe fuse"
    (machine.root / "sys/fs/fuse").mkdir(parents=True)
    assert machine.about("fuse")["command"] == "mknod -m 666 /dev/fuse c 10 229"
    for value in ("1", "2"):  # no volume needs it
        machine.put("proc/sys/kernel/io_uring_disabled", value)
        found = machine.about("io_uring")
        assert (found["grade"], found["command"]) == ("note", "sysctl -w kernel.io_uring_disabled=0")
    machine.limit("8388608")
    found = machine.about("memlock")
    assert found["grade"] == "note" and "8 MiB" in found["sentence"], found
    assert "limits.d" in found["command"], found


@claim("doctor checks a mounted volume and a region that is not mounted", alone=True)
def _(maker):
    region, mnt = maker.directory / "region", maker.directory / "mnt"
    mnt.mkdir()
    run(program("mkfs.pmfs"), "-q", "--size", "64M", region)
    words = run(program("pmfsctl"), "doctor", region).stdout
    assert "it contains the volume" in words, words
    run(program("mount.pmfs"), region, mnt)
    try:
        words = run(program("pmfsctl"), "doctor", mnt).stdout
        assert f"the volume on {region} is mounted" in words, words
    finally:
        run("umount", mnt)
    region.write_bytes(bytes(64 << 20))
    done = subprocess.run([program("pmfsctl"), "doctor", region], capture_output=True, text=True,
                          check=False)
    assert done.returncode == 1 and f"mkfs.pmfs {region}" in done.stdout, done


if __name__ == "__main__":
    run_claims(media=("image",))
