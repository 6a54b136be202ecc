"""Part C: a guest in a guest, which maps a real device-DAX namespace through virtiofs.

The outer guest is as those of part B: it has an emulated NVDIMM and its kernel's own /dev/dax0.0, with
pmfs on it.  In it runs Debian's newest QEMU with another kernel, whose DAX window has the device's own pages
(QEMU maps windows at 4 KiB, so the namespace is aligned to that).  Emulation of an emulation: minutes, so
it runs only when it is named.
"""
import re
import subprocess

import kernel as kernels
import packages
from guest import Guest, Nvdimm, qemu
from initramfs import Initramfs, loaded_by
from part_b import MODULES, TOOLS

MIB = 1 << 20
NVDIMM_SIZE = (8 * 16 + 2) * MIB
BOOT_SECONDS = 800
FIRMWARE = ["usr/share/seabios/bios-256k.bin", "usr/share/qemu/kvmvapic.bin", "usr/share/qemu/linuxboot_dma.bin"]


def run(place):
    outer_kernel = kernels.debian(packages.STABLE, kernels.STABLE_RELEASE)
    inner_kernel = kernels.debian(packages.NEWEST, kernels.NEWEST_CLOUD_RELEASE)
    outer = qemu()
    print(f"rig: C: Linux {inner_kernel.release} in Linux {outer_kernel.release}; {outer.version()}", flush=True)
    inner = inner_image(place, inner_kernel)

    def add_inner(made, _):
        add_qemu(made)
        made.add_file("/qemu/vmlinuz", inner_kernel.image)
        made.add_file("/qemu/initramfs", inner)

    image = place.initramfs("c", outer_kernel, MODULES, "c.sh", TOOLS, change=add_inner)
    nvdimm = Nvdimm(place.scratch / "c.nvdimm", NVDIMM_SIZE)
    outcome = Guest(outer, outer_kernel, image, log=place.scratch / "c.log", seconds=BOOT_SECONDS, memory="2G",
                    nvdimms=[nvdimm]).run()
    place.judge("C", outcome, show_info=True)


def inner_image(place, kernel):
    made = Initramfs(kernel, ["virtio_pci", "virtiofs"], place.tools())
    made.add_program(place.build / "tests/rig/file_calls")
    made.add_file("/test", place.HERE / "guest/c_inner.sh", 0o755)
    path = place.scratch / "c-inner.initramfs"
    made.write(path)
    return path


def add_qemu(made):
    """Debian's newest QEMU below /qemu, with its own loader and libraries."""
    root = packages.tree(packages.NEWEST, "qemu", ["qemu-system-x86", "libc6"])
    binary = root / "usr/bin/qemu-system-x86_64"
    loader, *words = loaded_by(root)
    listed = subprocess.run([loader, *words, "--list", binary], capture_output=True, text=True, check=True).stdout
    for name, path in re.findall(r"(\S+) => (/\S+) \(0x", listed):
        made.add_file(f"/qemu/lib/{name}", path)
    made.add_file("/qemu/loader", loader, 0o755)
    made.add_file("/qemu/qemu-system-x86_64", binary, 0o755)
    for path in FIRMWARE:
        made.add_file("/qemu/share/" + path.rpartition("/")[2], root / path)
