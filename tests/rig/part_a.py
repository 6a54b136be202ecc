"""Part A: guests that have files of this machine, over vhost-user.

A0 needs no window: Debian 12's QEMU with its vhost-user-fs-pci, and QEMU 11's generic device, each with
another stock kernel: everything of guest/a.sh in one boot, then a reboot; and a guest that is killed while
it writes, a new one on the same socket, the server killed under it, and a guest after that.

A has a window: two guests at once, with dax=always and dax=inode, which share a sealed file with each
other and with this machine; a window that is smaller than the files; a guest, and the server, killed while
ranges are mapped; a guest whose root attacks (attack.py).
"""
# Holds docs/guests.md "Setting it up", "What works with what", "With a window", "One copy of model weights for a
# fleet", "When something dies".
import json
import threading
import time

import attack
import kernel as kernels
import packages
import part_locks
from guest import Guest, qemu
from initramfs import LIBRARIES, LOADER, Initramfs
from served import Served, Unserved
from workplace import HERE

MODULES = ["virtio_pci", "virtiofs"]
TOOLS = ["usr/bin/setfattr", "usr/bin/getfattr", "usr/bin/flock"]
REAL_PROGRAMS = ["git", "sqlite3", "make", "tcc"]  # packages, and their programs
COMPILER_NEEDS = ["libc6-dev"]  # packages
LINUX_HEADERS = ["close_range", "errno", "falloc", "fs", "fscrypt", "ioctl", "limits", "mount", "posix_types", "stat",
                 "stddef", "types"]
COMPILER_FILES = ["usr/include/*.h", "usr/include/asm-generic/*.h", "usr/include/x86_64-linux-gnu/**/*.h",
                  *(f"usr/include/linux/{name}.h" for name in LINUX_HEADERS), f"{LIBRARIES[1:]}/tcc/**/*",
                  *(f"{LIBRARIES[1:]}/{name}" for name in ("crt1.o", "crti.o", "crtn.o", "libc.so", "libc_nonshared.a"))]
SOURCES = ["file_calls.c", "fallocate_seal.c", "claims.h", "project.mk"]  # what a guest builds
PROGRAMS = ["file_calls", "fallocate_seal", "window_attack"]
LARGE = 64 << 20
BOOT_SECONDS = 150
MEMORY = "512M"
RETURNED_BEFORE_KILL = 25
SETTLE_SECONDS = 10


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
        lambda: two_guests(place, machines["test"], images),
        lambda: killed_with_a_window(place, machines["test"], *images["newest"]),
        lambda: part_locks.claims(place, machines, {name: kernel for name, (kernel, _) in images.items()}),
        lambda: attacked(place, machines["test"], images["newest"][0]),
    ])


def add_real_programs(made):
    """What people work with, and a project to build with it."""
    real = packages.tree(packages.STABLE, "programs", REAL_PROGRAMS + COMPILER_NEEDS)
    for program in REAL_PROGRAMS:
        made.add_program(f"usr/bin/{program}", root=real)
    made.add_link("/usr/bin/git-upload-pack", "git")
    for pattern in COMPILER_FILES:
        made.add_matching(pattern, root=real)
    made.add_link(f"{LIBRARIES}/{LOADER}", f"/usr/lib64/{LOADER}")  # (libc.so names it)
    for file in SOURCES:
        made.add_file(f"/project/{file}", HERE / "guest" / file)


def initramfs(place, name, kernel, script="a.sh"):
    tree = place.tools()
    made = Initramfs(kernel, MODULES, tree)
    for tool in TOOLS:
        made.add_program(tool, root=tree)
    add_real_programs(made)
    for program in PROGRAMS:
        made.add_program(place.build / "tests/rig" / program)
    made.add_file("/test", place.HERE / "guest" / script, 0o755)
    path = place.scratch / f"{name}.initramfs"
    made.write(path)
    return path


def guest(place, served, name, kind, machine, kernel, image, words, socket=0, **more):
    return Guest(machine, kernel, image, **{
        "log": place.scratch / f"{name}.log", "seconds": BOOT_SECONDS, "shared": True, "memory": MEMORY,
        "devices": served.device(kind, socket), "answers": served.answers(), "append": words, **more})


def everything(place, kind, machine, kernel, image):
    name = f"A0: {'vhost-user-fs' if kind == 'fs' else 'generic device'}, Linux {release(kernel)}"
    with Served(place, f"a0-{kind}") as served:
        if not started(place, name, served):
            return
        fill(served)
        outcome = guest(place, served, f"a0-{kind}", kind, machine, kernel, image, "rig_boot=everything",
                        reboots=True, seconds=2 * BOOT_SECONDS).run()
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


def two_guests(place, machine, images):
    """At once, on one volume: each with its kernel and its kind of DAX."""
    name = "A"
    with Served(place, "a-two") as served:
        if not started(place, name, served, "dax", "window=1G", guests=2):
            return
        served.ask("sealed_of", "shared", 4)

        def boot(role, dax, kernel, image):
            outcome = guest(place, served, f"a-{dax}", "test", machine, kernel, image,
                            f"rig_boot=dax rig_dax={dax} rig_role={role}", socket=role - 1).run()
            place.judge(f"{name}: dax={dax}, Linux {release(kernel)}", outcome, show_info=True)
            print(f"rig: A: dax={dax}: {outcome.seconds:.1f} s", flush=True)

        # (Not place.together: neither may wait for the other's end.)
        other = threading.Thread(target=boot, args=(1, "always", *images["6.12"]))
        other.start()
        boot(2, "inode", *images["newest"])
        other.join()
        served.end(name)


def attacked(place, machine, kernel):
    image = initramfs(place, "a-attack", kernel, "attack.sh")

    def boot(_, devices, answers):
        return Guest(machine, kernel, image, log=place.scratch / "a-attack.log", seconds=BOOT_SECONDS, shared=True,
                     memory=MEMORY, devices=devices, answers=answers, append=attack.APPEND).run()

    attack.run(place, boot)


def killed_with_a_window(place, machine, kernel, image):
    name = "A: small window"
    with Served(place, "a-killed") as served:
        # (With fewer places for other holders than the window has ranges.)
        if not started(place, name, served, "dax", "window=64M", "mappings=16"):
            return

        def boot(number, words):
            return guest(place, served, f"a-killed-{number}", "test", machine, kernel, image, words)

        outcome = boot(1, "rig_boot=small_window").run()
        place.judge(name, outcome)
        print(f"rig: {name}: {outcome.seconds:.1f} s", flush=True)
        name = "A: killed"
        second = boot(2, "rig_boot=dax_until_killed rig_seed=31 rig_then=wait_for_the_end")
        second.start()
        second.wait_for("READY")
        second.kill()
        place.judge(name, second.outcome(ended="READY"))
        soon(place, f"{name}: a killed guest holds nothing", lambda: "has no holders" in served.holders("kept"))
        place.report(f"{name}: what it stored is there", failure(lambda: served.ask("words", "kept", 8, 31)))
        place.report(f"{name}: its file can be unsealed", failure(lambda: served.ask("unseal", "kept")))
        third = boot(3, "rig_boot=dax_until_killed rig_seed=32 rig_then=server_killed")
        third.start()
        third.wait_for("rig: end")
        place.judge(name, third.outcome(ended="rig: end"))
        if started(place, f"{name}: after a crash", served, "dax", "window=64M"):
            quarantined(place, name, served, third)
            served.end(name)
        third.kill()


def quarantined(place, name, served, machine):
    """A virtual machine still maps what the server before this one gave it."""

    def rows():
        return json.loads(served.pmfsctl("quarantine", "--json", served.mnt))["holders"]

    place.report(f"{name}: the next server knows that a guest maps a file", failure(rows, wanted=bool))
    place.report(f"{name}: what it stored without a server is there",
                 failure(lambda: served.ask("words", "kept", 8, 99)))
    place.report(f"{name}: the file cannot be unsealed", failure(lambda: served.ask("stays_sealed", "kept")))
    machine.kill()
    soon(place, f"{name}: when the guest has ended nothing is quarantined", lambda: not rows())
    place.report(f"{name}: then it can be unsealed", failure(lambda: served.ask("unseal", "kept")))


def failure(function, wanted=None):
    """Why it failed, or None."""
    try:
        got = function()
    except (AssertionError, LookupError, OSError, ValueError) as error:
        return f"{type(error).__name__}: {error}"
    return None if wanted is None or wanted(got) else f"got {got!r}"


def soon(place, words, holds):
    deadline = time.monotonic() + SETTLE_SECONDS
    while not holds():
        if time.monotonic() > deadline:
            place.report(words, f"not within {SETTLE_SECONDS} s")
            return
        time.sleep(0.1)
    place.report(words)


def release(kernel):
    return kernel.release.split("+")[0]


def started(place, name, served, *words, guests=1):
    try:
        served.start(*words, guests=guests)
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
