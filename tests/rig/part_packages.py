"""Part packages: what tools/package makes is installed on a bare Debian 12, and works there.

mmdebstrap makes the bare system once, into the cache; each run unpacks it, installs the packages with
apt in it, and runs guest/packages.sh in a chroot with this machine's /dev and kernel.
"""
import os
import shutil
import subprocess
from pathlib import Path

from packages import Unavailable
from workplace import HERE, ROOT

INCLUDE = "man-db,bash-completion,systemd,udev,kmod,mount"
SECONDS = 600


def bare_system():
    """A tar of a bare Debian 12, from the cache."""
    if not shutil.which("mmdebstrap"):
        raise Unavailable("mmdebstrap is not installed (tools/setup packages)")
    cache = Path(os.environ.get("PMFS_CACHE") or Path.home() / ".cache/pmfs") / "rig"
    cache.mkdir(parents=True, exist_ok=True)
    tar = cache / "bookworm.tar"
    if not tar.exists():
        made = subprocess.run(["mmdebstrap", "--quiet", "--variant=minbase", f"--include={INCLUDE}", "bookworm",
                               f"{tar}.new.tar"], check=False, timeout=SECONDS)
        if made.returncode != 0:
            raise Unavailable("mmdebstrap could not make a bare Debian 12")
        Path(f"{tar}.new.tar").rename(tar)
    return tar


def run(place):
    packages = place.scratch / "packages"
    made = subprocess.run([ROOT / "tools/package", packages], capture_output=True, text=True, check=False)
    if made.returncode != 0:
        place.report("packages: tools/package makes packages that lintian accepts", made.stderr)
        return
    place.report("packages: tools/package makes packages that lintian accepts")
    system = place.scratch / "system"
    system.mkdir()
    subprocess.run(["tar", "-C", system, "--exclude=./dev/*", "-xf", bare_system()], check=True)
    shutil.copytree(packages, system / "packages")
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
