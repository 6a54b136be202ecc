"""Part packages: what tools/package makes is installed on a bare Debian 12, and works there.

First in a chroot with this machine's kernel (guest/packages.sh): apt with all dependencies, an image, the
manual, completion.  Then that system, of which the packages have been removed and the dependencies have stayed,
boots as a guest with systemd and udevd, device-DAX namespaces and memory that memmap= sets aside (guest/installed.sh):
there dpkg installs them once more, and the guest reboots with what was enabled.  PMFS_PACKAGES=DIRECTORY: packages
that were made before.
"""
# Holds docs/devdax.md "Mount it at boot" and docs/man/pmfs.7.
import dataclasses
import os
import shutil
import subprocess

import debian_system
import kernel as kernels
import packages
from guest import Nvdimm, qemu
from workplace import HERE, ROOT

SECONDS = 600
BOOT_SECONDS = 900
NVDIMM_SIZE = (16 * 16 + 2) << 20
MODULES = ["nfit", "nd_e820", "nd_pmem", "dax_pmem", "device_dax", "kmem", "fuse", "?crc32c_generic", "virtio_pci"]
VOLATILE = "memmap=256M!512M"  # zeroes at each boot, since each is another QEMU


def run(place):
    made = os.environ.get("PMFS_PACKAGES")
    if not made:
        made = place.scratch / "packages"
        done = subprocess.run([ROOT / "tools/package", made], capture_output=True, text=True, check=False)
        if done.returncode != 0:
            place.report("packages: tools/package makes packages that lintian accepts", done.stderr)
            return
        place.report("packages: tools/package makes packages that lintian accepts")
    system = place.scratch / "system"
    system.mkdir()
    subprocess.run(["tar", "-C", system, "--exclude=./dev/*", "-xf", debian_system.bare()], check=True)
    shutil.copytree(made, system / "packages")
    in_chroot(place, system)
    in_guest(place, system)


def in_chroot(place, system):
    shutil.copy(HERE / "guest/packages.sh", system / "packages")
    shutil.copy("/etc/resolv.conf", system / "etc/resolv.conf")
    # In a mount namespace of its own, which ends with the last process in it: the server is one that
    # the script unmounts.
    script = ("set -e; mount -t proc proc $1/proc; mount -t sysfs sysfs $1/sys; mount --rbind /dev $1/dev; "
              "mkdir -p $1/dev/pmfs/by-label; exec chroot $1 sh /packages/packages.sh")
    done = subprocess.run(["unshare", "--mount", "--propagation", "private", "sh", "-c", script, "sh", system],
                          capture_output=True, text=True, check=False, timeout=SECONDS)
    for line in done.stdout.splitlines():
        verdict, _, claim = line.partition(" ")
        if verdict in ("PASS", "FAIL"):
            place.report(f"packages: {claim}", *([done.stderr[-2000:] or "no"] if verdict == "FAIL" else []))
    if "DONE" not in done.stdout.split():
        place.report("packages: the script runs to its end", done.stdout[-1000:] + done.stderr[-2000:])


def in_guest(place, directory):
    kernel = kernels.debian(packages.STABLE, kernels.STABLE_RELEASE)
    system = debian_system.System(place, "packages", directory, kernel)
    system.add_modules(MODULES)
    system.add_test("installed.sh", "unlucky.sh", "volatile.sh")
    # The NVDIMM's region is number 0, whichever module udevd loads first.
    (directory / "etc/modprobe.d/rig.conf").write_text("softdep nd_e820 pre: nfit\n")
    nvdimm = Nvdimm(place.scratch / "packages.nvdimm", NVDIMM_SIZE)
    guest = system.guest(qemu(), seconds=BOOT_SECONDS, nvdimms=[nvdimm], append=VOLATILE)
    # A reboot ends this QEMU, and another one has the same disk: emulated, a warm one takes minutes.
    for boot in (guest, dataclasses.replace(guest, log=place.scratch / "packages-2.log")):
        outcome = boot.run()
        place.judge(f"packages: booted, Linux {kernel.release}", outcome, show_info=True)
        print(f"rig: packages: {outcome.seconds:.0f} s", flush=True)
