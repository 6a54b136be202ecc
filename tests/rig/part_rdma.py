"""Part rdma: a sealed file as the target of RDMA, beside what other filesystems answer to the same.

One guest, guest/rdma.sh: soft RoCE on a network interface that goes nowhere, pmfs on a device-DAX
namespace, ext4 and XFS with DAX on two more NVDIMMs.  Prints who accepts a long-term pin.
"""
# Holds docs/grants.md "Registered memory".
import kernel as kernels
import packages
from guest import Guest, Nvdimm, qemu

MIB = 1 << 20
BOOT_SECONDS = 240
# Three of one size, for the kernel may number them in any order; XFS wants 300 MiB at least.
NVDIMMS, SIZE = 3, (21 * 16 + 2) * MIB
MODULES = ["nfit", "nd_pmem", "dax_pmem", "device_dax", "fuse", "dummy", "rdma_rxe", "ib_uverbs",
           "?crc32_generic", "?crc32c_generic", "ext4", "xfs"]
TOOLS = ["usr/bin/ndctl", "usr/bin/daxctl", "usr/bin/mount", "usr/bin/umount", "usr/bin/jq",
         "usr/bin/setfattr", "usr/bin/ip", "usr/bin/rdma", "usr/sbin/mkfs.ext4", "usr/sbin/mkfs.xfs"]
PROGRAMS = ["tests/rig/rdma_file", "tests/rig/pin_table", "tools/examples/uring_fixed"]
NAMES = {"pmfs": "pmfs, sealed file on device-DAX (pmfs_map)", "ext4-dax": "ext4, dax=always",
         "xfs-dax": "XFS, dax=always", "fuse": "FUSE page cache (pmfs through its mount)",
         "tmpfs": "tmpfs", "anonymous": "anonymous memory"}


def run(place):
    missing = [name for name in PROGRAMS if not (place.build / name).exists()]
    if missing:
        raise packages.Unavailable(f"{missing[0]} was not built (libibverbs-dev)")
    kernel = kernels.debian(packages.STABLE, kernels.STABLE_RELEASE)
    image = place.initramfs("rdma", kernel, MODULES, "rdma.sh", TOOLS, PROGRAMS,
                            change=add_soft_roce)
    nvdimms = [Nvdimm(place.scratch / f"rdma-{number}.nvdimm", SIZE) for number in range(NVDIMMS)]
    outcome = Guest(qemu(), kernel, image, log=place.scratch / "rdma.log",
                    seconds=BOOT_SECONDS, nvdimms=nvdimms).run()
    place.judge("rdma", outcome)
    print_table([line.split()[1:] for line in outcome.info if line.startswith("ROW ")])


def add_soft_roce(made, tree):
    """libibverbs looks for its drivers by a file of settings, and loads them itself."""
    made.add_text("/etc/libibverbs.d/rxe.driver", "driver rxe\n")
    driver = next((tree / "usr/lib/x86_64-linux-gnu/libibverbs").glob("librxe-rdmav*.so"), None)
    if driver is None:
        raise packages.Unavailable("ibverbs-providers has no driver of soft RoCE in it")
    made.add_file(f"/usr/lib/x86_64-linux-gnu/libibverbs/{driver.name}", driver, 0o755)
    made.add_libraries_of(driver, tree)


def print_table(rows):
    print(f"    {'who lets a shared mapping be pinned':45} {'io_uring':>12} {'ibv_reg_mr':>12}")
    for name, uring, rdma in rows:
        print(f"    {NAMES.get(name, name):45} {uring:>12} {rdma:>12}", flush=True)
