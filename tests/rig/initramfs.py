"""Makes an initramfs: programs with their shared libraries, modules, files, and the test that runs.

    initramfs = Initramfs(kernel, ["dax_pmem", "fuse"], tools=tree)
    initramfs.add_program(build / "mkfs/mkfs.pmfs")                  to /usr/bin; libraries by ldd
    initramfs.add_program("usr/bin/ndctl", root=tree)                from an unpacked tree of packages
    initramfs.add_text("/test", script, mode=0o755)                  what guest/init.sh runs
    initramfs.write(path)

Not compressed: a guest under TCG would unpack slower than QEMU loads.  Modules are loaded by init in the
order of /modules.  Busybox is every small program that no real one is added for; the shell is not its
own, which would prefer its own programs to real ones.
"""
import os
import re
import subprocess
import tempfile
from pathlib import Path

import kernel as kernels
from packages import Unavailable

HERE = Path(__file__).resolve().parent
LIBRARIES = "/usr/lib/x86_64-linux-gnu"
LOADER = "ld-linux-x86-64.so.2"


def library_folders(root):
    """Where a tree of packages has shared libraries (some in folders of their own)."""
    base = Path(root) / LIBRARIES[1:]
    own = {path.parent for above in (base, base.parent) for path in above.glob("*/lib*.so*")}
    return [base, *sorted(own - {base})]


def loaded_by(root):
    """Words that start a program of a tree with that tree's own libraries."""
    folders = ":".join(map(str, library_folders(root)))
    return [str(Path(root) / LIBRARIES[1:] / LOADER), "--library-path", folders]


class Initramfs:
    def __init__(self, kernel, modules, tools):
        self._entries = {}  # path -> (mode, bytes or Path)
        self._scratch = tempfile.TemporaryDirectory(prefix="pmfs-initramfs-")
        for folder in ("/proc", "/sys", "/dev", "/tmp", "/run", "/mnt", "/etc", "/root", "/usr/bin",
                       LIBRARIES, "/usr/lib64", "/var/tmp"):
            self._add_folders(folder + "/x")
        for name in ("bin", "sbin", "lib", "lib64"):
            self.add_link("/" + name, "usr/bin" if "bin" in name else "usr/" + name)
        self.add_link("/usr/sbin", "bin")
        self._entries["/dev/console"] = (0o020600, b"")
        self.add_file("/usr/bin/busybox", Path(tools) / "usr/bin/busybox", 0o755)
        self.add_program("usr/bin/dash", root=tools, name="sh")
        self.add_file("/init", HERE / "guest/init.sh", 0o755)
        self.add_file("/lib/rig.sh", HERE / "guest/rig.sh")
        self.add_text("/etc/passwd", "root:x:0:0:root:/root:/bin/sh\n")
        self.add_text("/etc/group", "root:x:0:\n")
        loaded = []
        for path in kernel.closure(modules):
            loaded.append("/modules.d/" + path.name.partition(".ko")[0] + ".ko")
            self._put(loaded[-1], 0o100644, kernels.module_bytes(path))
        self.add_text("/modules", "".join(f"{path}\n" for path in loaded))

    def add_text(self, path, text, mode=0o644):
        self._put(path, 0o100000 | mode, text.encode())

    def add_file(self, path, source, mode=0o644):
        """A file of the host; a link is followed."""
        if not Path(source).is_file():
            raise Unavailable(f"there is no {source}")
        self._put(path, 0o100000 | mode, Path(source).resolve())

    def add_link(self, path, target):
        self._put(path, 0o120777, target.encode())

    def add_program(self, source, *, root=None, name=None):
        """A program and its libraries: of this machine, or out of an unpacked tree."""
        source = Path(root, source) if root else Path(source)
        self.add_libraries_of(source, root)
        if not root:
            source = self._stripped(source)
        self.add_file(f"/usr/bin/{name or source.name}", source, 0o755)

    def add_matching(self, pattern, *, root):
        """The files of a tree of packages that match."""
        found = [path for path in sorted(Path(root).glob(pattern)) if path.is_file()]
        if not found:
            raise Unavailable(f"there is no {pattern} in {root}")
        for path in found:
            self.add_file(f"/{path.relative_to(root)}", path)

    def add_libraries_of(self, source, root=None):
        """The first library of a name stays: pmfs is linked to this machine's."""
        with open(source, "rb") as file:
            if file.read(4) != b"\x7fELF":
                return
        command = [*loaded_by(root), "--list", source] if root else ["ldd", source]
        done = subprocess.run(command, capture_output=True, text=True, check=False,
                              env={**os.environ, "LD_PRELOAD": ""})
        if "not found" in done.stdout:
            raise Unavailable(f"{source} lacks a library:\n{done.stdout}")
        for soname, path in re.findall(r"(?:(\S+) => )?(/\S+) \(0x", done.stdout):
            if (soname or path).endswith(LOADER):
                self._put_once(f"/usr/lib64/{LOADER}", path)
            else:
                self._put_once(f"{LIBRARIES}/{os.path.basename(soname or path)}", path)

    def _stripped(self, source):
        """Without what is for a debugger: a guest's memory is small, and loading takes time."""
        out = Path(self._scratch.name) / source.name
        done = subprocess.run(["strip", "-o", out, source], capture_output=True, check=False)
        return out if done.returncode == 0 else source

    def write(self, path):
        """In the format that the kernel calls newc."""
        with open(path, "wb") as out:
            for number, (name, (mode, content)) in enumerate(sorted(self._entries.items()), 1):
                data = content.read_bytes() if isinstance(content, Path) else content
                device = (5, 1) if name == "/dev/console" else (0, 0)
                _write_entry(out, number, name[1:], mode, data, device)
            _write_entry(out, 0, "TRAILER!!!", 0, b"", (0, 0))

    def _put_once(self, path, source):
        if path not in self._entries:
            self.add_file(path, source, 0o755)

    def _put(self, path, mode, content):
        # Not through the links of the root: what they point to may come later in the archive.
        path = re.sub(r"^/(?:usr/)?s?bin/", "/usr/bin/", path)
        path = re.sub(r"^/lib(64)?/", r"/usr/lib\1/", path)
        self._add_folders(path)
        self._entries[path] = (mode, content)

    def _add_folders(self, path):
        for parent in list(Path(path).parents)[:-1]:
            self._entries.setdefault(str(parent), (0o040755, b""))


def _write_entry(out, number, name, mode, data, device):
    encoded = name.encode() + b"\0"
    fields = [number, mode, 0, 0, 1, 0, len(data), 0, 0, *device, len(encoded), 0]
    header = b"070701" + b"".join(b"%08x" % field for field in fields) + encoded
    out.write(header + bytes(-len(header) % 4) + data + bytes(-len(data) % 4))
