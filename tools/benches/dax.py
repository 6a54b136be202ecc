"""pmfs on a device-DAX namespace beside ext4 and XFS with -o dax=always, on emulated persistent memory.

One guest of the rig (tests/rig) has three NVDIMMs of the same size, and bench_dax measures all three in turns.
The guest's processor is emulated, so work of the processor is inflated and the medium costs nothing: the
rows have ratios only, and say how much each does, not how long it takes on real memory.

    append_fsync, overwrite_fsync     4 KiB and fsync(2), through the mount
    create, unlink, read_4k           through the mount; read_4k at random offsets
    first_touch, random_read          of a mapping: pmfs_map(3), and mmap(2) with MAP_SYNC
    store_persist                     4 KiB into that mapping: pmfs_persist(3), and msync(2)
"""
import json
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "tests" / "rig"))

import kernel as kernels  # noqa: E402  (the path above comes first)
import packages  # noqa: E402
from guest import Guest, Nvdimm, qemu  # noqa: E402
from workplace import Workplace  # noqa: E402

NVDIMM_SIZE = (20 * 16 + 2) << 20  # XFS wants 300 MiB
MODULES = ["nfit", "nd_pmem", "nd_btt", "dax_pmem", "device_dax", "fuse", "?crc32c_generic", "ext4", "xfs"]
TOOLS = ["usr/bin/ndctl", "usr/bin/mount", "usr/bin/umount", "usr/sbin/mkfs.ext4", "usr/sbin/mkfs.xfs"]
SECONDS_MAX = 600


def rows(context):
    with Workplace(context.build) as place:
        kernel = kernels.debian(packages.STABLE, kernels.STABLE_RELEASE)
        emulator = qemu()
        image = place.initramfs("dax", kernel, MODULES, "bench_dax.sh", TOOLS, ["tools/benches/bench_dax"])
        nvdimms = [Nvdimm(place.scratch / f"{name}.nvdimm", NVDIMM_SIZE) for name in ("pmfs", "ext4", "xfs")]
        print(f"dax: Linux {kernel.release} under {emulator.version()}: emulated, so ratios only",
              file=sys.stderr, flush=True)
        outcome = Guest(emulator, kernel, image, log=place.scratch / "dax.log", seconds=SECONDS_MAX,
                        nvdimms=nvdimms).run()
        if not outcome.well:
            raise RuntimeError(f"{'; '.join(outcome.failed)}\n{outcome.log.read_text(errors='replace')[-4000:]}")
        for line in outcome.info:
            yield json.loads(line)
