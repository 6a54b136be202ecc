"""A whole Debian 12 as a guest: systemd and udevd of a bare system, on a disk, and a test that runs at each boot.

    tar = bare()                                         from the cache; mmdebstrap makes it once
    system = System(place, "name", directory, kernel)    a directory in which that tar was unpacked
    system.add_modules(["nfit", "fuse"])                 udevd loads them by itself when there is a device
    system.add_test("installed.sh", "more.sh")           of guest/: a unit that runs when the system is up; what it sources
    system.guest(machine, seconds=300, ...).run()

The test's output is the serial line; it ends the guest itself.
"""
import hashlib
import os
import shutil
import subprocess
from pathlib import Path

import kernel as kernels
from guest import Guest
from initramfs import Initramfs, loaded_by
from packages import Unavailable
from workplace import HERE

INCLUDE = "man-db,bash-completion,systemd,udev,kmod,mount,ndctl,daxctl"
SECONDS = 600
DISK_SIZE = "900M"
ROOT_MODULES = ["virtio_pci", "virtio_blk", "ext4", "?crc32c_generic"]
# Nobody logs in, and nothing is to be fetched in the middle of a test.
MASKED = ["serial-getty@ttyS0.service", "getty@tty1.service", "apt-daily.timer", "apt-daily-upgrade.timer",
          "man-db.timer", "dpkg-db-backup.timer", "e2scrub_all.timer", "fstrim.timer"]
UNIT = """[Unit]
Description=What the rig tests
Requires=multi-user.target
After=multi-user.target
[Service]
Type=oneshot
ExecStart=/rig/test
StandardOutput=tty
StandardError=tty
TTYPath=/dev/ttyS0
Environment=LC_ALL=C.UTF-8
"""


def bare(include=INCLUDE):
    """A tar of a bare Debian 12 with these packages, from the cache."""
    if not shutil.which("mmdebstrap"):
        raise Unavailable("mmdebstrap is not installed (tools/setup packages)")
    cache = Path(os.environ.get("PMFS_CACHE") or Path.home() / ".cache/pmfs") / "rig"
    cache.mkdir(parents=True, exist_ok=True)
    tar = cache / f"bookworm-{hashlib.sha256(include.encode()).hexdigest()[:8]}.tar"
    if not tar.exists():
        made = subprocess.run(["mmdebstrap", "--quiet", "--variant=minbase", f"--include={include}", "bookworm",
                               f"{tar}.new.tar"], check=False, timeout=SECONDS)
        if made.returncode != 0:
            raise Unavailable("mmdebstrap could not make a bare Debian 12")
        Path(f"{tar}.new.tar").rename(tar)
    return tar


class System:
    def __init__(self, place, name, directory, kernel):
        self.place, self.name, self.directory, self.kernel = place, name, Path(directory), kernel
        units = self.directory / "etc/systemd/system"
        for unit in MASKED:
            (units / unit).unlink(missing_ok=True)
            (units / unit).symlink_to("/dev/null")
        (units / "rig.service").write_text(UNIT)
        (self.directory / "etc/machine-id").write_text("5" * 32 + "\n")
        (self.directory / "rig").mkdir(exist_ok=True)

    def add_modules(self, names):
        """Where the system's own programs look for them."""
        modules = self.directory / "usr/lib/modules" / self.kernel.release
        (modules / "kernel").mkdir(parents=True)
        for path in self.kernel.closure(names):
            (modules / "kernel" / f"{path.name.partition('.ko')[0]}.ko").write_bytes(kernels.module_bytes(path))
        for listed in ("modules.builtin", "modules.order", "modules.builtin.modinfo"):
            if (self.kernel.modules / listed).exists():
                shutil.copy(self.kernel.modules / listed, modules)
        subprocess.run(["chroot", self.directory, "depmod", self.kernel.release], check=True)

    def add_test(self, script, *sourced):
        for source, target in ((script, "test"), ("rig.sh", "rig.sh"), *((name, name) for name in sourced)):
            shutil.copy(HERE / "guest" / source, self.directory / "rig" / target)
            (self.directory / "rig" / target).chmod(0o755)

    def guest(self, machine, **more):
        """The directory is gone into a disk then."""
        tree = self.place.tools()
        disk = self.place.scratch / f"{self.name}.disk"
        subprocess.run([*loaded_by(tree), str(tree / "usr/sbin/mke2fs"), "-q", "-t", "ext4", "-d", self.directory, disk,
                        DISK_SIZE], check=True, capture_output=True)
        made = Initramfs(self.kernel, ROOT_MODULES, tree)
        made.add_file("/init", HERE / "guest/switch.sh", 0o755)
        image = self.place.scratch / f"{self.name}.initramfs"
        made.write(image)
        append = f"systemd.unit=rig.service systemd.show_status=no {more.pop('append', '')}"
        return Guest(machine, self.kernel, image, log=self.place.scratch / f"{self.name}.log", append=append,
                     devices=["-drive", f"file={disk},if=none,format=raw,cache=unsafe,id=root",
                              "-device", "virtio-blk-pci,drive=root"], **more)
