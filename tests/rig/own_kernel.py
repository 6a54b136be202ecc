"""The rig's own kernel: Debian's source with the patches of kernel/ and the options of kernel/config.

    kernel = own_kernel.built()      a kernel.Kernel without modules; 8 minutes on two cores, once

Kept in the cache under a name made of the source's version, the patches and the options, so a change of
any of them builds anew.  The sources are thrown away after that; compiled objects stay in ccache.
The tools that a kernel wants beyond those of pmfs are unpacked beside it, not installed.
"""
import hashlib
import os
import shutil
import subprocess
import tempfile
import time
from pathlib import Path

import packages
from kernel import Kernel
from packages import Unavailable

HERE = Path(__file__).resolve().parent
SOURCE = "linux-source-6.12"
BUILD_TOOLS = ["bison", "flex", "m4", "bc", "libelf-dev", "libelf1", "zlib1g-dev"]
LINES_SHOWN = 30  # of the log of a build that failed


def recipe():
    """What is made of Debian's source, in the order in which it is done."""
    return [*sorted((HERE / "kernel").glob("*.patch")), HERE / "kernel/config"]


def built():
    """The kernel; builds it when the cache lacks it."""
    if shutil.which("gcc") is None or shutil.which("make") is None:
        raise Unavailable("there is no compiler here to build a kernel with (tools/setup packages)")
    with packages.locked(packages.cache() / "own-kernel.lock"):
        version = _source_version()
        words = hashlib.sha256(version.encode())
        for path in recipe():
            words.update(path.read_bytes())
        folder = packages.cache() / "own-kernel" / f"{version}-{words.hexdigest()[:12]}"
        release = folder / "release"
        if not release.exists():
            _build(folder, version)
            for other in folder.parent.iterdir():  # of sources and patches that are no more
                if other != folder:
                    shutil.rmtree(other)
        return Kernel(release.read_text().strip(), folder / "bzImage")


def _source_tree():
    return packages.tree(packages.STABLE, "linux-source", [SOURCE], closure=False)


def _source_version():
    listed = (_source_tree().parent / "versions.txt").read_text()
    return listed.strip().split("_")[1].replace("%3a", ":")


def _source_archive():
    """The sources.  (After a build only their version is left in the cache.)"""
    archive = _source_tree() / f"usr/src/{SOURCE}.tar.xz"
    if not archive.exists():
        shutil.rmtree(_source_tree().parent)
        archive = _source_tree() / f"usr/src/{SOURCE}.tar.xz"
    return archive


def _build(folder, version):
    print(f"rig: building {SOURCE} {version} with our patches (once; about 8 minutes on two cores)",
          flush=True)
    begin = time.monotonic()
    folder.mkdir(parents=True, exist_ok=True)
    archive = _source_archive()
    with tempfile.TemporaryDirectory(prefix="pmfs-kernel-", dir=os.environ.get("TMPDIR", "/var/tmp")) as scratch:
        source = Path(scratch)
        with open(folder / "build.log", "wb") as log:
            def step(*command):
                done = subprocess.run([str(word) for word in command], cwd=source, stdin=subprocess.DEVNULL,
                                      stdout=log, stderr=log, env=_environment(), check=False)
                if done.returncode != 0:
                    raise RuntimeError(f"{' '.join(map(str, command[:4]))}: exit code {done.returncode}; "
                                       f"the end of {log.name}:\n{_tail(log.name)}")

            step("tar", "--strip-components=1", "--no-same-owner", "-xf", archive)
            *patches, config = recipe()
            for patch in patches:  # no fuzz: a source that moved wants eyes
                step("patch", "--strip=1", "--fuzz=0", "--no-backup-if-mismatch", "--input", patch)
            make = ["nice", "-n", "10", "make", "-s", *_compilers()]
            step(*make, f"KCONFIG_ALLCONFIG={config}", "allnoconfig")
            _check_options(config, source / ".config")
            step(*make, f"-j{os.cpu_count()}", "bzImage")
        shutil.copyfile(source / "arch/x86/boot/bzImage", folder / "bzImage")
        # Last: a folder with this file in it is whole.
        shutil.copyfile(source / "include/config/kernel.release", folder / "release")
    archive.unlink()
    print(f"rig: built in {time.monotonic() - begin:.0f} s", flush=True)


def _compilers():
    """Words for make: with ccache where that is, as for pmfs itself."""
    tools = packages.tree(packages.STABLE, "kernel-build", BUILD_TOOLS, closure=False)
    before = "ccache " if shutil.which("ccache") else ""
    return [f"CC={before}gcc", f"HOSTCC={before}gcc", f"HOSTCFLAGS=-I{tools}/usr/include",
            f"HOSTLDFLAGS=-L{tools}/usr/lib/x86_64-linux-gnu"]


def _environment():
    tools = packages.tree(packages.STABLE, "kernel-build", BUILD_TOOLS, closure=False)
    return {**os.environ, "LC_ALL": "C", "PATH": f"{tools}/usr/bin:{os.environ['PATH']}",
            "M4": f"{tools}/usr/bin/m4", "BISON_PKGDATADIR": f"{tools}/usr/share/bison",
            "LD_LIBRARY_PATH": f"{tools}/usr/lib/x86_64-linux-gnu",
            "CCACHE_DIR": str(packages.cache().parent / "ccache"),
            # The same sources give the same kernel, wherever and whenever it is built.
            "KBUILD_BUILD_TIMESTAMP": "@0", "KBUILD_BUILD_USER": "pmfs", "KBUILD_BUILD_HOST": "rig"}


def _check_options(wanted, got):
    """Kconfig drops an option silently when something that it depends on is missing."""
    lines = set(got.read_text().splitlines())
    dropped = [line for line in wanted.read_text().splitlines()
               if line.startswith("CONFIG_") and line not in lines]
    if dropped:
        raise RuntimeError(f"this source does not take {' '.join(dropped)}")


def _tail(path):
    return "\n".join(Path(path).read_text(errors="replace").splitlines()[-LINES_SHOWN:])
