#!/usr/bin/env python3
"""What `meson install` puts where, and whether mount(8), fsck(8) and compilers find it there."""
import os
import shlex
from pathlib import Path

from fixture import BUILD, claim, program, run, run_claims

# Below DESTDIR, with the default prefix; LIB is the machine's library folder.
INSTALLED = """
usr/bin/pmfsctl
usr/include/pmfs.h
usr/include/pmfs_ioctl.h
LIB/libpmfs-preload.so
LIB/libpmfs.so
LIB/libpmfs.so.1
LIB/libpmfs.so.1.1.0
LIB/pkgconfig/libpmfs.pc
usr/lib/systemd/system/pmfs@.service
usr/lib/udev/rules.d/60-pmfs.rules
usr/sbin/fsck.pmfs
usr/sbin/mkfs.pmfs
usr/sbin/mount.fuse.pmfs
usr/sbin/mount.pmfs
usr/share/bash-completion/completions/fsck.pmfs
usr/share/bash-completion/completions/mkfs.pmfs
usr/share/bash-completion/completions/mount.pmfs
usr/share/bash-completion/completions/pmfsctl
""".split()

USER = """
#include <errno.h>
#include <fcntl.h>
#include <pmfs.h>
int main(void) { return pmfs_open("/nowhere/at/all", O_RDONLY, 0) == -ENOENT ? 0 : 1; }
"""

# A namespace of its own, in which /usr/sbin holds the machine's programs and the installed ones, these
# in place of any that the machine has already.
AS_INSTALLED = """
set -eu
# No copies of other tests' mounts, whose servers would wait for this namespace to end.
grep ' - fuse.pmfs ' /proc/self/mountinfo | cut -d' ' -f5 | xargs -r umount -l
mkdir -p "$1/sbin-was"
mount --bind /usr/sbin "$1/sbin-was"
mount -t tmpfs none /usr/sbin
ln -s "$1"/sbin-was/* /usr/sbin
ln -sf "$1"/dest/usr/sbin/* /usr/sbin
cd "$1"
"""


def installed(maker):
    root = maker.directory / "dest"
    run("meson", "install", "-C", BUILD, "--no-rebuild", "--quiet", "--destdir", root)
    lib = "usr/lib/" + run("gcc", "-print-multiarch").stdout.strip()
    return root, lib


def as_installed(maker, script):
    return run("unshare", "--mount", "--propagation", "private", "--", "sh", "-c",
               AS_INSTALLED + script, "sh", maker.directory)


@claim("the programs, the library, its headers and the manual are where Debian has them", alone=True,
       seconds=120)
def _(maker):
    root, lib = installed(maker)
    found = {str(path.relative_to(root)) for path in root.rglob("*") if not path.is_dir()}
    manual = {name for name in found if name.startswith("usr/share/man/")}
    assert found - manual == {name.replace("LIB", lib) for name in INSTALLED}, found - manual
    for name in found - manual:
        page = Path(name).name
        if page.partition(".")[0] in ("mount", "mkfs", "fsck") and "fuse" not in page:
            assert f"usr/share/man/man8/{page}.8" in manual, (page, manual)
    for name in ("usr/sbin/mount.pmfs", "usr/bin/pmfsctl", f"{lib}/libpmfs.so.1"):
        dynamic = run("readelf", "-d", root / name).stdout
        assert "RUNPATH" not in dynamic and "RPATH" not in dynamic, dynamic


@claim("a C and a C++ program build and run with only pkg-config's flags", alone=True, seconds=120)
def _(maker):
    root, lib = installed(maker)
    settings = {**os.environ, "PKG_CONFIG_SYSROOT_DIR": str(root),
                "PKG_CONFIG_LIBDIR": str(root / lib / "pkgconfig"), "LD_LIBRARY_PATH": str(root / lib)}
    words = shlex.split(run("pkg-config", "--cflags", "--libs", "libpmfs", env=settings).stdout)
    for compiler, ending in (("gcc", "c"), ("g++", "cc")):
        source = maker.directory / f"user.{ending}"
        source.write_text(USER)
        run(compiler, "-Wall", "-Wextra", "-Werror", "-pedantic", source, *words, "-o",
            maker.directory / "user")
        run(maker.directory / "user", env=settings)


@claim("mount -t pmfs, a line of fstab, umount and fsck -t pmfs find the programs", alone=True,
       seconds=120)
def _(maker):
    installed(maker)
    (maker.directory / "mnt").mkdir()
    run(program("mkfs.pmfs"), "-q", "--size", "64M", maker.directory / "image")
    (maker.directory / "fstab").write_text(
        f"{maker.directory}/image {maker.directory}/mnt pmfs ro,noauto 0 2\n")
    done = as_installed(maker, """
        mount -t pmfs image mnt
        echo kept > mnt/file
        findmnt --noheadings --output FSTYPE mnt
        umount mnt
        mount --fstab fstab mnt
        cat mnt/file
        ! touch mnt/file 2>/dev/null
        umount mnt
        fsck -t pmfs image -n >&2
    """)
    assert done.stdout.split() == ["fuse.pmfs", "kept"], done


if __name__ == "__main__":
    run_claims(media=("image",))
