"""Guest kernels: an image, and the modules that a test needs with all that those depend on.

    kernel = debian("bookworm", STABLE_RELEASE)
    kernel.closure(["dax_pmem", "fuse"])     paths of .ko files, in the order in which they load
"""
import dataclasses
import functools
import lzma
import re
import subprocess
from pathlib import Path

import packages
from packages import Unavailable


# Debian 12's security suite carries a 6.12 beside its 6.1.  The generic one: the cloud kernel has no
# rdma_rxe, and io_uring of 6.1 registers no file at all.
STABLE_RELEASE = r"6\.12\.\d+\+deb12-amd64"
NEWEST_RELEASE = r"\d[\d.]*\+deb\d+-amd64"
# Virtual machines' own kernels: smaller, and up sooner.
STABLE_CLOUD_RELEASE = r"6\.12\.\d+\+deb12-cloud-amd64"
NEWEST_CLOUD_RELEASE = r"\d[\d.]*\+deb\d+-cloud-amd64"


@dataclasses.dataclass(frozen=True)
class Kernel:
    """A bootable image and the folder of its modules (None: everything is built in)."""
    release: str
    image: Path
    modules: Path = None

    def closure(self, names):
        """The files of these modules and of those that they need, dependencies first.

        A module that is built into the kernel has no file; one that this kernel does not have at all is
        Unavailable.  `?name`: may be missing.
        """
        order = []
        for name in names:
            self._visit(name.lstrip("?"), order, optional=name.startswith("?"))
        return order

    def _visit(self, name, order, optional):
        name = name.replace("-", "_")
        if self.modules is None or name in self._built_in:
            return
        path = self._files.get(name)
        if path is None:
            if optional:
                return
            raise Unavailable(f"kernel {self.release} has no module {name}")
        if path in order:
            return
        wanted = module_words(module_bytes(path))
        for other in wanted["depends"]:
            self._visit(other, order, optional=False)
        for other in wanted["softdep"]:  # may name an alias
            self._visit(other, order, optional=True)
        order.append(path)

    @functools.cached_property
    def _files(self):
        return {path.name.partition(".ko")[0].replace("-", "_"): path
                for path in self.modules.rglob("*.ko*")}

    @functools.cached_property
    def _built_in(self):
        listed = (self.modules / "modules.builtin").read_text().split()
        return {Path(line).name.partition(".ko")[0].replace("-", "_") for line in listed}


def module_bytes(path):
    """A module, unpacked."""
    if path.suffix == ".xz":
        return lzma.decompress(path.read_bytes())
    if path.suffix == ".zst":
        return subprocess.run(["zstd", "-dqc", path], capture_output=True, check=True).stdout
    return path.read_bytes()


def module_words(content):
    """What it says that it needs (its .modinfo section is plain words with NUL between)."""
    depends = re.search(rb"\0depends=([^\0]*)\0", content)
    soft = re.findall(rb"\0softdep=pre: ([^\0]*)\0", content)
    return {"depends": [word for word in (depends[1].decode() if depends else "").split(",") if word],
            "softdep": [word for text in soft for word in text.decode().split()
                        if not word.endswith(":")]}


def debian(suite, pattern):
    """The newest kernel of a suite whose release matches, without what it would want at install."""
    remembered = packages.cache() / suite / "kernels" / re.sub(r"\W+", "-", pattern).strip("-")
    if remembered.exists():
        wanted = remembered.read_text().split()
    else:
        # One package, or (in the newest suite) three: image, modules, list of what is built in.
        found = packages.names(suite, rf"linux-(?:image|binary|modules|base)-({pattern})")
        if not found:
            raise Unavailable(f"{suite} has no kernel like {pattern}")
        wanted = [match[0] for match in found if match[1] == found[-1][1]]
    root = packages.tree(suite, "kernel", wanted, closure=False)
    images = sorted(root.glob("boot/vmlinuz-*")) + sorted(root.glob("usr/lib/modules/*/vmlinuz"))
    modules = sorted((root / "usr/lib/modules").glob("*/kernel"))
    if not images or not modules:
        raise Unavailable(f"no kernel in {' '.join(wanted)}")
    remembered.parent.mkdir(parents=True, exist_ok=True)
    remembered.write_text(" ".join(wanted))
    return Kernel(modules[0].parent.name, images[0], modules[0].parent)
