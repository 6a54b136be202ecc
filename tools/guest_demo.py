#!/usr/bin/env python3
"""Shows a sealed file of this machine inside a virtual machine, in a minute: sudo tools/demo --guest

QEMU and a kernel come from Debian into the cache (tests/rig); nothing is installed.  Works in a directory of
its own and takes everything away at the end.  Every command of this machine that it shows is run as shown.
"""
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "tests" / "rig"))

import kernel as kernels  # noqa: E402  (the path above comes first)
import packages  # noqa: E402
from guest import Guest, qemu  # noqa: E402
from initramfs import Initramfs  # noqa: E402
from workplace import BUILD, PMFS, Workplace  # noqa: E402

FILE_MIB = 64
SECONDS_MAX, END_SECONDS = 180, 20
MODULES = ["virtio_pci", "virtiofs"]
SOCKET = "guest.sock"
DEVICE = "vhost-user-test-device-pci,chardev=fs,virtio-id=26,num_vqs=2,vq_size=128,config_size=40"
COLOURS = sys.stdout.isatty() and not os.environ.get("NO_COLOR")


class Failed(Exception):
    """A step did not come out as it should."""


def coloured(code, text):
    return f"\x1b[{code}m{text}\x1b[0m" if COLOURS else text


class Demo:
    def __init__(self, place):
        self.place = place
        self.here = place.scratch
        self.steps = 0
        self.table = []
        self.sum, self.before, self.guest = "", {}, None
        path = ":".join(str(BUILD / folder) for folder in PMFS.values())
        self.environment = {**os.environ, "PATH": f"{path}:{os.environ['PATH']}:/usr/sbin:/sbin", "LC_ALL": "C"}

    # --- how it looks

    def step(self, title, why=""):
        self.steps += 1
        print("\n" + coloured(1, f"{self.steps:2}  {title}"))
        if why:
            print(f"    {why}")
        sys.stdout.flush()

    def says(self, text):
        for line in text.splitlines():
            print("      " + coloured(2, line), flush=True)

    def run(self, command, quietly=False):
        print(f"    $ {command}", flush=True)
        done = subprocess.run(command, shell=True, cwd=self.here, env=self.environment, text=True,
                              stdout=subprocess.PIPE, stderr=subprocess.STDOUT, check=False, timeout=60)
        if done.returncode != 0:
            raise Failed(f"this command failed: {command}\n{done.stdout}")
        if not quietly:
            self.says(done.stdout)
        return done.stdout

    def shown(self, what, result):
        print(f"    {coloured(32, 'ok')}  {result}", flush=True)
        self.table.append(f"{what:42}  {result}")

    # --- the story

    def story(self):
        begin = time.monotonic()
        self.step("Fetch QEMU and a kernel into the cache (nothing is installed)")
        machine = qemu(packages.NEWEST)
        machine.need_device("vhost-user-test-device-pci")
        kernel = kernels.debian(packages.NEWEST, kernels.NEWEST_CLOUD_RELEASE)
        image = self.initramfs(kernel)
        self.shown("a stock virtual machine", f"{machine.version().partition(' (')[0]}, Linux {kernel.release}")

        self.step("Make a volume, seal a file on it, offer it to a guest",
                  "The server of the mount is also the guest's: there is no other daemon.")
        self.run("mkfs.pmfs -q --size 256M volume")
        (self.here / "mnt").mkdir()
        self.run(f"mount.pmfs volume mnt -o vhost=$PWD/{SOCKET},dax,window=1G", quietly=True)
        self.run(f"head -c {FILE_MIB}M /dev/urandom > mnt/weights")
        self.run("pmfsctl seal --prepare mnt/weights", quietly=True)
        self.sum = self.run("sha256sum mnt/weights").split()[0]

        self.step("Boot a virtual machine and read the file in it",
                  "Its kernel maps the file's place on the medium: 'mount -o dax'.  (Emulated, so that it runs "
                  "anywhere.)")
        print(f"    $ qemu-system-x86_64 ... -chardev socket,id=fs,path={SOCKET} -device {DEVICE}")
        answers = {name: getattr(self, "on_" + name)
                   for name in ("runs", "says", "begin", "digest", "with_dax", "without_dax")}
        self.guest = Guest(machine, kernel, image, log=self.here / "guest.log", seconds=SECONDS_MAX, shared=True,
                           memory="512M", answers=answers,
                           devices=["-chardev", f"socket,id=fs,path={self.here / SOCKET}", "-device", DEVICE])
        outcome = self.guest.run()
        if not outcome.well:
            raise Failed("; ".join(outcome.failed) + "\n" + outcome.log.read_text(errors="replace")[-2000:])

        self.step("Unmount, check")
        self.run("pmfsctl unseal mnt/weights", quietly=True)
        server = json.loads(self.status())["server_pid"]
        self.run("umount mnt")
        self.wait_for_end(server)
        self.run("fsck.pmfs volume")
        self.shown("fsck", "clean")
        print("\n" + coloured(1, "What was shown") + f" (in {time.monotonic() - begin:.0f} seconds)\n")
        print("".join(f"    {line}\n" for line in self.table), end="")

    def initramfs(self, kernel):
        made = Initramfs(kernel, MODULES, self.place.tools())
        made.add_program(BUILD / "tests/rig/file_calls")
        made.add_file("/test", self.place.HERE / "guest/demo.sh", 0o755)
        made.write(self.here / "initramfs")
        return self.here / "initramfs"

    # --- what the guest asks for

    def on_runs(self, *words):
        print(f"    guest# {' '.join(words)}", flush=True)

    def on_says(self, *words):
        self.says(" ".join(words))

    def on_begin(self):
        self.before = self.requests()

    def on_digest(self, digest):
        if digest != self.sum:
            raise Failed(f"the guest reads other bytes: {digest}")
        self.shown("the file's digest in the guest", "the same as on the host")

    def on_with_dax(self):
        counts = self.since()
        stored = self.stored()
        if stored != b"a-word-of-the-guest":
            raise Failed(f"the host does not see what the guest stored, but {stored!r}")
        self.shown("a word that the guest stored", "is there on the host")
        self.says(self.run("pmfsctl status mnt | grep guest", quietly=True))
        if counts["read"] or counts["write"] or not counts["setupmapping"]:
            raise Failed(f"the server's counts are {counts}")
        self.shown("requests for that, with DAX",
                   f"{counts['read']} FUSE_READ, {counts['write']} FUSE_WRITE; {counts['setupmapping']} times 2 MiB "
                   f"were mapped")
        self.step("The same without DAX, to compare")

    def on_without_dax(self):
        counts = self.since()
        if not counts["read"]:
            raise Failed(f"the server's counts are {counts}")
        self.shown("the same without DAX", f"{counts['read']} FUSE_READ, each of which copies")

    def stored(self):
        with open(self.here / "mnt/weights", "rb") as file:
            file.seek(4096)
            return file.read(19)

    def status(self):
        return subprocess.run(["pmfsctl", "status", "--json", "mnt"], cwd=self.here, env=self.environment, text=True,
                              capture_output=True, check=True).stdout

    def requests(self):
        (guest,) = [client for client in json.loads(self.status())["clients"] if client["guest"]]
        return guest["requests"]

    def since(self):
        now = self.requests()
        return {kind: now.get(kind, 0) - self.before.get(kind, 0) for kind in ("read", "write", "setupmapping")}

    # --- the end

    @staticmethod
    def wait_for_end(pid):
        deadline = time.monotonic() + END_SECONDS
        while Path(f"/proc/{pid}").exists():
            if time.monotonic() > deadline:
                raise Failed("the server did not end after umount")
            time.sleep(0.05)

    def clean_up(self):
        if os.path.ismount(self.here / "mnt"):
            subprocess.run(["umount", "-l", self.here / "mnt"], check=False)


def main():
    if os.getuid() != 0:
        sys.exit("The demo mounts filesystems, so it is for root: sudo tools/demo --guest")
    with Workplace(BUILD) as place:
        print(coloured(1, "pmfs: one copy of a sealed file, mapped into a virtual machine"))
        print(f"Everything here happens in {place.scratch} and is gone at the end.")
        demo = Demo(place)
        try:
            demo.story()
        except packages.Unavailable as why:
            sys.exit(f"\nThis machine cannot show it: {why}")
        except (Failed, subprocess.SubprocessError) as why:
            sys.exit(f"\n{coloured(31, f'The demo failed in step {demo.steps}:')} {why}")
        finally:
            demo.clean_up()


if __name__ == "__main__":
    main()
