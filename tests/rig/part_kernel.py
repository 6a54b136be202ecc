"""Part kernel: plain fallocate(2) seals, in a kernel that lets the two modes through.

Two guests run guest/fallocate.sh: one with the rig's own kernel (own_kernel.py), in which a program that
knows nothing of pmfs goes through the P column of docs/seal.md by system calls, on device-DAX, on memory
and on an image file, and in which filesystems that do not know seals refuse them; and one with Debian's
kernel, in which the same program must fail: the proof that the first one tests the patch.
"""
import kernel as kernels
import own_kernel
import packages
from guest import Guest, Nvdimm, qemu

MIB = 1 << 20
NVDIMM_SIZE = (16 * 16 + 2) * MIB
TOOLS = ["usr/bin/ndctl", "usr/bin/mount", "usr/bin/umount", "usr/sbin/losetup", "usr/bin/jq",
         "usr/sbin/mkfs.ext4", "usr/sbin/mkfs.xfs"]
PROGRAMS = ["tests/rig/fallocate_seal", "tests/rig/server_without_seals", "tests/rig/map_holder"]
BOOT_SECONDS = 300


def run(place):
    emulator = qemu()
    own = own_kernel.built()
    stock = kernels.debian(packages.STABLE, kernels.STABLE_RELEASE)
    print(f"rig: kernel: Linux {own.release} with seals, {stock.release} without; {emulator.version()}",
          flush=True)

    def boot(name, kernel, modules, nvdimms):
        image = place.initramfs(f"kernel-{name}", kernel, modules, "fallocate.sh", TOOLS, PROGRAMS)
        guest = Guest(emulator, kernel, image, log=place.scratch / f"kernel-{name}.log",
                      seconds=BOOT_SECONDS, nvdimms=nvdimms, append=f"rig_kernel={name}")
        place.judge(f"kernel: {name}", guest.run())

    nvdimm = Nvdimm(place.scratch / "kernel.nvdimm", NVDIMM_SIZE)
    place.together([lambda: boot("patched", own, [], [nvdimm]),
                    lambda: boot("stock", stock, ["fuse"], [])])
