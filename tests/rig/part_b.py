"""Part B: pmfs on a real device-DAX namespace, in guests with an emulated NVDIMM.

Each row of GUESTS is one NVDIMM in three boots of guest/b.sh: everything on a fresh namespace; copies
until QEMU is killed in the middle (its backing file keeps what the page cache of this machine has, so this
is a test of recovery, not a power cut); what is there afterwards.  Alignment, eADR and kernel are spread
over the rows so that each value of each meets each value of the others.  Another guest shows what pmfs
says to namespaces in the wrong mode.
"""
# Holds docs/devdax.md "In short", "What the modes of a namespace mean", "Alignment" and docs/man/pmfs_persist.3.
import dataclasses

import kernel as kernels
import packages
from guest import Guest, Nvdimm, qemu

MIB = 1 << 20
NVDIMM_SIZE = (8 * 16 + 2) * MIB
MODES_NVDIMM_SIZE = (3 * 1024 + 2) * MIB  # an alignment of 1 GiB wants whole gigabytes
MODULES = ["nfit", "nd_pmem", "nd_btt", "dax_pmem", "device_dax", "kmem", "fuse", "?crc32c_generic"]
TOOLS = ["usr/bin/ndctl", "usr/bin/daxctl", "usr/bin/mount", "usr/bin/umount", "usr/bin/fallocate",
         "usr/bin/jq"]
PROGRAMS = ["tests/rig/device_map", "tools/examples/map_store", "tests/unit"]
COPIES_BEFORE_KILL = 25
BOOT_SECONDS = 240


@dataclasses.dataclass
class Row:
    kernel: str
    align: str
    eadr: bool

    def __str__(self):
        return f"B: Linux {self.kernel}, {self.align} alignment, {'eADR' if self.eadr else 'ADR'}"


GUESTS = [Row("6.12", "2M", False), Row("6.12", "4K", True), Row("newest", "2M", True),
          Row("newest", "4K", False)]


def run(place):
    emulator = qemu()
    images = {}
    for name, suite, release in (("6.12", packages.STABLE, kernels.STABLE_RELEASE),
                                 ("newest", packages.NEWEST, kernels.NEWEST_RELEASE)):
        kernel = kernels.debian(suite, release)
        print(f"rig: B: {name} is Linux {kernel.release}; {emulator.version()}", flush=True)
        images[name] = kernel, place.initramfs(f"b-{name}", kernel, MODULES, "b.sh", TOOLS, PROGRAMS)
    place.together([lambda row=row: three_boots(place, emulator, *images[row.kernel], row)
                    for row in GUESTS] + [lambda: wrong_modes(place, emulator, images["6.12"][0])])


def wrong_modes(place, emulator, kernel):
    """What is almost a device-DAX node: guest/b_modes.sh."""
    image = place.initramfs("b-modes", kernel, MODULES, "b_modes.sh", TOOLS)
    nvdimm = Nvdimm(place.scratch / "b-modes.nvdimm", MODES_NVDIMM_SIZE)
    place.judge("B: modes", Guest(emulator, kernel, image, log=place.scratch / "b-modes.log",
                                  seconds=BOOT_SECONDS, nvdimms=[nvdimm]).run(), show_info=True)


def three_boots(place, emulator, kernel, image, row):
    slug = f"b-{row.kernel}-{row.align}"
    nvdimm = Nvdimm(place.scratch / f"{slug}.nvdimm", NVDIMM_SIZE)

    def guest(boot, words=""):
        return Guest(emulator, kernel, image, log=place.scratch / f"{slug}-{boot}.log",
                     seconds=BOOT_SECONDS, nvdimms=[nvdimm], eadr=row.eadr,
                     append=f"rig_boot={boot} rig_align={row.align} {words}")

    outcome = guest(1).run()
    place.judge(f"{row}: first boot", outcome)
    domain = "cpu_cache" if row.eadr else "memory_controller"
    if not any(domain in line for line in outcome.info):
        place.report(f"{row}: persistence domain", f"not {domain}")
    if not outcome.well:
        return
    second = guest(2)
    second.start()
    returned = second.wait_for(f"RETURNED {COPIES_BEFORE_KILL}")
    second.kill()
    outcome = second.outcome()
    place.judge(f"{row}: second boot", outcome)
    if not returned:
        place.report(f"{row}: copies until the kill", f"not {COPIES_BEFORE_KILL} of them")
        return
    # What came over the serial line after we decided to kill it had returned, too.
    place.judge(f"{row}: third boot", guest(3, f"rig_returned={second.last_number('RETURNED')}").run())
    nvdimm.path.unlink()
