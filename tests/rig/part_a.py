"""Part A: guests that have files of this machine, over vhost-user.

A0 needs no window: Debian 12's QEMU with its vhost-user-fs-pci, and QEMU 11's generic device, each with
another stock kernel: everything of guest/a.sh in one boot, then a reboot; and a guest that is killed while
it writes, a new one on the same socket, the server killed under it, and a guest after that.
"""
import kernel as kernels
import packages
from guest import Guest, qemu
from initramfs import Initramfs
from served import Served, Unserved

MODULES = ["virtio_pci", "virtiofs"]
TOOLS = ["usr/bin/setfattr", "usr/bin/getfattr"]
PROGRAMS = ["file_calls", "fallocate_door"]
LARGE = 64 << 20
BOOT_SECONDS = 150
MEMORY = "512M"
RETURNED_BEFORE_KILL = 25


def run(place):
    machines = {"fs": qemu(packages.STABLE), "test": qemu(packages.NEWEST)}
    machines["fs"].need_device("vhost-user-fs-pci")
    machines["test"].need_device("vhost-user-test-device-pci")
    images = {}
    for name, suite, release in (("6.12", packages.STABLE, kernels.STABLE_CLOUD_RELEASE),
                                 ("newest", packages.NEWEST, kernels.NEWEST_CLOUD_RELEASE)):
        kernel = kernels.debian(suite, release)
        print(f"rig: A: {name} is Linux {kernel.release}", flush=True)
        images[name] = kernel, initramfs(place, f"a-{name}", kernel)
    for machine in machines.values():
        print(f"rig: A: {machine.version()}", flush=True)
    place.together([
        lambda: everything(place, "fs", machines["fs"], *images["6.12"]),
        lambda: everything(place, "test", machines["test"], *images["newest"]),
        lambda: killed(place, "fs", machines["fs"], *images["6.12"]),
    ])


def initramfs(place, name, kernel):
    tree = place.tools()
    made = Initramfs(kernel, MODULES, tree)
    for tool in TOOLS:
        made.add_program(tool, root=tree)
    for program in PROGRAMS:
        made.add_program(place.build / "tests/rig" / program)
    made.add_file("/test", place.HERE / "guest/a.sh", 0o755)
    path = place.scratch / f"{name}.initramfs"
    made.write(path)
    return path


def guest(place, served, name, kind, machine, kernel, image, words, **more):
    return Guest(machine, kernel, image, log=place.scratch / f"{name}.log", seconds=BOOT_SECONDS, shared=True,
                 memory=MEMORY, devices=served.device(kind), answers=served.answers(), append=words, **more)


def everything(place, kind, machine, kernel, image):
    name = f"A0: {'vhost-user-fs' if kind == 'fs' else 'generic device'}, Linux {kernel.release.split('+')[0]}"
    with Served(place, f"a0-{kind}") as served:
        if not started(place, name, served):
            return
        fill(served)
        outcome = guest(place, served, f"a0-{kind}", kind, machine, kernel, image, "rig_boot=everything",
                        reboots=True).run()
        place.judge(name, outcome)
        print(f"rig: {name}: {outcome.seconds:.1f} s in two boots", flush=True)
        served.end(name)


def killed(place, kind, machine, kernel, image):
    """Guests and the server die; a guest comes after each."""
    name = "A0: killed"
    with Served(place, "a0-killed") as served:
        if not started(place, name, served):
            return

        def boot(number, words):
            return guest(place, served, f"a0-killed-{number}", kind, machine, kernel, image, words)

        first = boot(1, "rig_boot=writer")
        first.start()
        returned = first.wait_for(f"RETURNED {RETURNED_BEFORE_KILL}")
        first.kill()
        place.judge(name, first.outcome())
        if not returned:
            place.report(f"{name}: writes until the kill", f"not {RETURNED_BEFORE_KILL} of them")
            return
        second = boot(2, f"rig_boot=after rig_returned={first.last_number('RETURNED')}")
        second.start()
        second.wait_for("rig: end")
        second.kill()  # its requests wait for ever
        place.judge(name, second.outcome(ended="rig: end"))
        if started(place, f"{name}: after a crash", served):
            place.judge(name, boot(3, "rig_boot=again").run())
            served.end(name)


def started(place, name, served, *words):
    try:
        served.start(*words)
    except Unserved as why:
        place.report(f"{name}: the server starts", str(why))
        return False
    return True


def fill(served):
    """What the host has written before a guest comes."""
    (served.mnt / "host/below").mkdir(parents=True)
    (served.mnt / "host/text").write_text("".join(f"line {number}\n" for number in range(20000)))
    (served.mnt / "host/link").symlink_to("text")
    block = bytes(range(256)) * 4096
    with open(served.mnt / "host/large", "wb") as file:
        for number in range(LARGE // len(block)):
            file.write(number.to_bytes(8, "little") + block[8:])
