"""Boots a guest under QEMU's own emulation (TCG), reads its serial line, ends it whatever happens.

    machine = qemu()                                    QEMU of Debian 12, out of the cache
    guest = Guest(machine, kernel, initramfs_path, log=path, seconds=120, nvdimms=[Nvdimm(path, size)])
    outcome = guest.run()                               to its power-off, or until time is up
    outcome.passed, outcome.failed, outcome.info        words of PASS, FAIL and INFO lines

or, to stop it in the middle: guest.start(); guest.wait_for("READY"); guest.kill().  With answers={"word":
function}, a line "ASK word ..." of the guest calls function(...) here while somebody waits for the guest,
and the guest reads "ok" with what it returned, or "no" with the words of its exception.

KVM is not used: nested, it does not work on the machines that this was made for.  A guest that panics,
hangs or ends without "rig: end" has failed.  QEMU dies with this process.
"""
import contextlib
import ctypes
import dataclasses
import os
import queue
import signal
import subprocess
import threading
import time
from pathlib import Path

import initramfs
import packages
from packages import Unavailable

PR_SET_PDEATHSIG = 1
# no_timer_check: on a busy host the emulated timer may look broken to the kernel, which panics then.
# mitigations=off: a tenth of the time of a boot.
KERNEL_WORDS = "console=ttyS0 panic=-1 rdinit=/init quiet net.ifnames=0 no_timer_check mitigations=off"
_libc = ctypes.CDLL(None)


def ends_with_us(number):
    """For Popen's preexec_fn: the child gets that signal when the thread that starts it ends, however."""
    parent = os.getpid()

    def before_exec():
        _libc.prctl(PR_SET_PDEATHSIG, number)
        if os.getppid() != parent:
            os._exit(1)

    return before_exec


@dataclasses.dataclass
class Qemu:
    """Words that start a QEMU, and its environment."""
    command: list
    environment: dict

    def version(self):
        return subprocess.run([*self.command, "--version"], env=self.environment, text=True,
                              capture_output=True, check=False).stdout.partition("\n")[0]

    def need_device(self, name):
        """Unavailable, unless this QEMU has such a device."""
        known = subprocess.run([*self.command, "-device", "help"], env=self.environment, text=True,
                               capture_output=True, check=False).stdout
        if f'"{name}"' not in known:
            raise Unavailable(f"{self.version()} has no device {name}")


def qemu(suite=packages.STABLE):
    """QEMU of a Debian suite, unpacked into the cache; this machine needs none of its own."""
    wanted = ["qemu-system-x86"] + (["libc6"] if suite != packages.STABLE else [])
    root = packages.tree(suite, "qemu", wanted)
    binary = root / "usr/bin/qemu-system-x86_64"
    if not binary.exists():
        raise Unavailable(f"{suite}'s qemu-system-x86 has no {binary.name} in it")
    loader, *words = initramfs.loaded_by(root)
    command = [loader, "--argv0", binary.name, *words, str(binary)]
    for folder in ("usr/share/qemu", "usr/share/seabios", "usr/lib/ipxe/qemu"):
        command += ["-L", str(root / folder)]
    modules = root / "usr/lib/x86_64-linux-gnu/qemu"
    return Qemu(command, {**os.environ, "QEMU_MODULE_DIR": str(modules)})


@dataclasses.dataclass
class Nvdimm:
    """Emulated persistent memory: a backing file, that grows to its size sparsely and stays."""
    path: Path
    size: int  # N x 16 MiB + 2 MiB, or the kernel makes the namespace smaller
    label_size: int = 128 << 10


@dataclasses.dataclass
class Outcome:
    passed: list
    failed: list
    info: list
    seconds: float
    log: Path

    @property
    def well(self):
        return not self.failed


@dataclasses.dataclass
class Guest:
    qemu: Qemu
    kernel: object  # kernel.Kernel, or anything with an .image
    initramfs: Path
    log: Path
    seconds: float = 120
    nvdimms: list = dataclasses.field(default_factory=list)
    eadr: bool = False  # caches are in the persistent domain
    memory: str = "1G"
    cpus: int = 1
    append: str = ""  # words for the kernel's command line
    devices: list = dataclasses.field(default_factory=list)  # more words for QEMU
    shared: bool = False  # its memory can be given to other processes: vhost-user
    reboots: bool = False  # a reboot is one; otherwise it ends QEMU
    answers: dict = dataclasses.field(default_factory=dict)  # word -> function

    @property
    def pid(self):
        return self._process.pid

    def run(self):
        """Starts it and waits for its end."""
        self.start()
        return self.wait()

    def start(self):
        self._begin = time.monotonic()
        self._seen, self._lines = [], queue.Queue()
        self._why = None
        self._process = subprocess.Popen(
            self._command(), stdin=subprocess.PIPE, stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT, env=self.qemu.environment, preexec_fn=ends_with_us(signal.SIGKILL))
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def wait_for(self, text):
        """Until a line of the guest begins with it; False when it ends, or time is up, before that."""
        while (line := self._next_line()) is not None:
            if line.startswith(text):
                return True
        return False

    @property
    def pid(self):
        """Of QEMU."""
        return self._process.pid

    def kill(self):
        """As when its host dies: nothing is written back by the guest."""
        self._process.kill()
        self._process.wait()
        self._reader.join()

    def last_number(self, word):
        """N of the last line `WORD N` that it said, until it was killed."""
        while self._next_line() is not None:
            pass
        return max(int(line.split()[1]) for line in self._seen if line.startswith(word + " "))

    def wait(self):
        while self._next_line() is not None:
            pass
        self._process.wait()
        return self.outcome(ended="rig: end")

    def outcome(self, ended=None):
        """What it said so far; `ended`: a line that must have come."""
        def words(kind):
            return [line[len(kind) + 1:] for line in self._seen if line.startswith(kind + " ")]

        failed = words("FAIL")
        if ended and not any(line.startswith(ended) for line in self._seen):
            failed.append(self._why or f"the guest came to no end (QEMU: exit code "
                                       f"{self._process.returncode})")
        return Outcome(words("PASS"), failed, words("INFO"), time.monotonic() - self._begin, self.log)

    def _next_line(self):
        """None at its end; kills it when time is up."""
        left = self._begin + self.seconds - time.monotonic()
        try:
            line = self._lines.get(timeout=max(0.01, left))
        except queue.Empty:
            self._why = f"time is up after {self.seconds:.0f} s"
            self.kill()
            return None
        if line is not None:
            self._seen.append(line)
            if line.startswith("ASK "):
                self._answer(line.split()[1:])
        return line

    def _answer(self, words):
        try:
            said = f"ok {self.answers[words[0]](*words[1:])}"
        except Exception as error:  # pylint: disable=broad-except  # whatever it was, the guest waits
            said = f"no {type(error).__name__} {error}".replace("\n", " ")
        with contextlib.suppress(BrokenPipeError):  # it has gone
            self._process.stdin.write(said.encode() + b"\n")
            self._process.stdin.flush()

    def _read(self):
        with open(self.log, "wb") as log:
            for raw in self._process.stdout:
                line = raw.replace(b"\r", b"")
                log.write(b"%7.2f  " % (time.monotonic() - self._begin) + line)
                log.flush()
                self._lines.put(line.decode(errors="replace").rstrip("\n"))
        self._lines.put(None)

    def _command(self):
        persistence = "cpu" if self.eadr else "mem-ctrl"
        machine = f"q35,nvdimm=on,nvdimm-persistence={persistence}" if self.nvdimms else "q35"
        if self.shared:
            machine += ",memory-backend=memory"
        memory = [self.memory] + (["slots=4,maxmem=16G"] if self.nvdimms else [])
        words = [*self.qemu.command, "-accel", "tcg", "-cpu", "max", "-machine", machine,
                 "-m", ",".join(memory), "-smp", str(self.cpus), "-nodefaults", "-no-user-config",
                 "-display", "none", "-serial", "stdio", "-kernel", str(self.kernel.image),
                 "-initrd", str(self.initramfs), "-append",
                 f"{KERNEL_WORDS} {self.append}"]
        if not self.reboots:
            words.append("-no-reboot")
        if self.shared:
            words += ["-object", f"memory-backend-memfd,id=memory,size={self.memory},share=on"]
        for number, nvdimm in enumerate(self.nvdimms):
            if not Path(nvdimm.path).exists():
                with open(nvdimm.path, "wb") as file:
                    file.truncate(nvdimm.size)
            words += ["-object", f"memory-backend-file,id=memory{number},share=on,"
                                 f"mem-path={nvdimm.path},size={nvdimm.size},align=2M",
                      "-device", f"nvdimm,id=nvdimm{number},memdev=memory{number},"
                                 f"label-size={nvdimm.label_size}"]
        return words + self.devices
