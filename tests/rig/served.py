"""A volume on this machine, mounted here and served to guests over a socket.

    with Served(place, "a0") as served:
        served.start("window=1G,dax")    mount.pmfs REGION DIR -o vhost=SOCKET,window=1G,dax
        Guest(..., devices=served.device("test"), shared=True, answers=served.answers()).run()
        served.kill()                    as by a crash; start() again mounts the volume
        served.end()                     umount, exit code, fsck

The answers are what guest/a.sh asks this machine to do, through its own mount of the same volume.  A
server that hangs is killed, by a process that does not touch the mount (python may wait there).
"""
import contextlib
import hashlib
import json
import os
import re
import signal
import sqlite3
import subprocess
import threading
import time
from pathlib import Path

from guest import ends_with_us

START_SECONDS, END_SECONDS, CALL_SECONDS = 20, 30, 60
SIZE = "512M"
TAG = "pmfs"
# How QEMU connects a guest: the device of QEMU up to 11 has no window, and the tag comes from QEMU; the
# generic one asks the server for both.
DEVICES = {
    "fs": "vhost-user-fs-pci,chardev=files{n},tag=" + TAG,
    "test": "vhost-user-test-device-pci,chardev=files{n},virtio-id=26,num_vqs=2,vq_size=128,config_size=40",
}


class Served:
    def __init__(self, place, name, *, size=SIZE, in_memory=False):
        self.place = place
        self.size = size
        self.sparse = ["--sparse"] if in_memory else []
        self.directory = place.scratch / name
        self.mnt = self.directory / "mnt"
        self.region = place.memory(name) if in_memory else self.directory / "region"
        self.log = self.directory / "server.log"
        self.mnt.mkdir(parents=True)
        self.server = None
        self.sockets = []
        self._meeting = threading.Barrier(2)

    def __enter__(self):
        self._call("mkfs.pmfs", "-q", *self.sparse, "--size", self.size, self.region)
        return self

    def __exit__(self, *_):
        if os.path.ismount(self.mnt):
            subprocess.run(["umount", "-l", self.mnt], check=False)
        if self.server and self.server.poll() is None:
            with contextlib.suppress(subprocess.TimeoutExpired):
                self.server.wait(END_SECONDS)
        self._kill_server()

    def start(self, *words, guests=1, each=None):
        """Mounts the volume, with a socket for each of so many guests; words stand behind each vhost=.
        each=[WORDS, ...]: other words for each."""
        each = each or [words] * guests
        self.sockets = [self.directory / f"socket-{number}" for number in range(len(each))]
        options = ",".join(",".join([f"vhost={socket}", *own]) for socket, own in zip(self.sockets, each))
        with open(self.log, "ab") as log:
            # Ends late rather than never: what hangs in the kernel for it would hang for ever.
            self.server = subprocess.Popen(
                ["timeout", "--signal=KILL", "--foreground", "600", self._program("mount.pmfs"), self.region,
                 self.mnt, "--foreground", "-o", options],
                stdin=subprocess.DEVNULL, stdout=log, stderr=log, preexec_fn=ends_with_us(signal.SIGTERM))
        deadline = time.monotonic() + START_SECONDS
        while not (os.path.ismount(self.mnt) and all(socket.exists() for socket in self.sockets)):
            if self.server.poll() is not None or time.monotonic() > deadline:
                raise Unserved(f"mount.pmfs -o {options}: {self.said()}")
            time.sleep(0.02)

    def said(self):
        return self.log.read_text(errors="replace")[-2000:].strip().replace("\n", " | ")

    def device(self, kind, socket=0):
        """Words for QEMU."""
        return ["-chardev", f"socket,id=files{socket},path={self.sockets[socket]}",
                "-device", DEVICES[kind].format(n=socket)]

    def stop(self):
        """As an administrator does."""
        subprocess.run(["umount", self.mnt], check=True)
        self.server.wait(END_SECONDS)

    def kill(self):
        self._kill_server()
        subprocess.run(["umount", "-l", self.mnt], check=False)

    def _kill_server(self):
        """(timeout(1) would die of SIGKILL alone.)"""
        if not self.server or self.server.poll() is not None:
            return
        children = Path(f"/proc/{self.server.pid}/task/{self.server.pid}/children").read_text().split()
        for pid in children:
            with contextlib.suppress(ProcessLookupError):
                os.kill(int(pid), 9)
        self.server.wait()

    def end(self, name):
        """Unmounts and checks the volume; counts what is wrong."""
        subprocess.run(["umount", self.mnt], check=False)
        try:
            code = self.server.wait(END_SECONDS)
        except subprocess.TimeoutExpired:
            code = f"it did not end within {END_SECONDS} s"
        self.place.report(f"{name}: the server ends well", None if code == 0 else f"{code}: {self.said()}")
        for socket in self.sockets:
            self.place.report(f"{name}: its socket is gone", f"{socket}" if socket.exists() else None)
        done = subprocess.run([self._program("fsck.pmfs"), "-n", self.region], capture_output=True, text=True,
                              check=False, timeout=CALL_SECONDS)
        self.place.report(f"{name}: fsck.pmfs finds nothing",
                          None if done.returncode == 0 else f"{done.returncode}: {done.stdout[-1000:]}")

    def clients(self):
        """Who uses it: the rows of `pmfsctl status --json`."""
        return json.loads(self.pmfsctl("status", "--json", self.mnt))["clients"]

    def pmfsctl(self, *words):
        return self._call("pmfsctl", *words)

    def _program(self, name):
        return self.place.program(name)

    def _call(self, name, *words):
        done = subprocess.run([self._program(name), *words], capture_output=True, text=True, check=False,
                              timeout=CALL_SECONDS)
        if done.returncode != 0:
            raise AssertionError(f"{name} {' '.join(map(str, words))}: {done.stderr.strip()}")
        return done.stdout

    def holders(self, name):
        return self.pmfsctl("holders", self.mnt / name)

    # What a guest asks for (its words are the names of these functions).

    def ask(self, word, *words):
        """As a guest does."""
        return self.answers()[word](*map(str, words))

    def answers(self):
        return {name.removeprefix("_on_"): getattr(self, name) for name in dir(self)
                if name.startswith("_on_")}

    def _on_md5(self, name):
        with open(self.mnt / name, "rb") as file:
            return hashlib.file_digest(file, "md5").hexdigest()

    def _on_names(self, name):
        listed = "".join(f"{found}\n" for found in sorted(os.listdir(self.mnt / name)))
        return hashlib.md5(listed.encode()).hexdigest()

    def _on_attributes(self, name):
        is_ = os.lstat(self.mnt / name)
        return (f"{is_.st_mode & 0o7777:o} {is_.st_nlink} {is_.st_uid} {is_.st_gid} {is_.st_size} "
                f"{int(is_.st_mtime)} {is_.st_ino}")

    def _on_space(self):
        is_ = os.statvfs(self.mnt)
        return f"{is_.f_blocks} {is_.f_bsize} {is_.f_files}"

    def _on_xattr(self, name, key, value):
        got = os.getxattr(self.mnt / name, key).decode()
        assert got == value, got

    def _on_append(self, name, text):
        with open(self.mnt / name, "a", encoding="ascii") as file:
            file.write(text + "\n")

    def _on_rename(self, old, new):
        os.rename(self.mnt / old, self.mnt / new)

    def _on_truncate(self, name, size):
        os.truncate(self.mnt / name, int(size))

    def _on_unlink(self, name):
        os.unlink(self.mnt / name)

    def _on_prepared(self, name):
        """A file that is fit to be sealed."""
        with open(self.mnt / name, "wb") as file:
            file.write(os.urandom((4 << 20) - 100))
        self.pmfsctl("prepare", self.mnt / name)

    def _on_sealed(self, name):
        self._on_prepared(name)
        self.pmfsctl("seal", self.mnt / name)

    def _on_seal(self, name, wanted):
        got = json.loads(self.pmfsctl("info", "--json", self.mnt / name))["seal"]
        assert got == wanted, got

    def _on_unseal(self, name):
        self.pmfsctl("unseal", self.mnt / name)

    def _on_database(self, name, rows):
        database = sqlite3.connect(self.mnt / name)
        with contextlib.closing(database):
            assert database.execute("pragma integrity_check").fetchone() == ("ok",)
            got = database.execute("select count(*) from t").fetchone()[0]
        assert got == int(rows), got

    def _on_kill(self):
        self.kill()

    # With a window.

    def _on_sealed_of(self, name, mib):
        with open(self.mnt / name, "wb") as file:
            for _ in range(int(mib)):
                file.write(bytes(1 << 20))
        self.pmfsctl("seal", "--prepare", self.mnt / name)

    def _on_protected(self, name):
        """Sealed, and immutable until `unprotected`."""
        self._on_sealed_of(name, 2)
        self._chattr("+i", name)

    def _on_unprotected(self, name):
        self._chattr("-i", name)

    def _chattr(self, change, name):
        subprocess.run(["chattr", change, self.mnt / name], check=True, timeout=CALL_SECONDS)

    def _on_words(self, name, mib, seed):
        """Checked by the guest's own program."""
        done = subprocess.run([self.place.build / "tests/rig/file_calls", "words", self.mnt / name, mib, seed],
                              capture_output=True, text=True, check=False, timeout=CALL_SECONDS)
        assert done.returncode == 0, done.stdout

    def _on_counted(self, role):
        """Requests that carried bytes of the guest at that socket, 1 or 2."""
        socket = str(self.sockets[int(role) - 1])
        (requests,) = [client["requests"] for client in self.clients() if client["socket"] == socket]
        return f"{requests.get('read', 0)} reads, {requests.get('write', 0)} writes"

    def _on_held(self, name):
        """By a virtual machine that is connected to us."""
        told = self.holders(name)
        held = re.findall(r"pin of process (\d+)", told)
        assert held, f"nobody holds it: {told}"
        for pid in held:
            assert str(self.directory) in Path(f"/proc/{pid}/cmdline").read_text(), told

    def _on_stays_sealed(self, name):
        with contextlib.suppress(AssertionError):
            self.pmfsctl("unseal", self.mnt / name)
            raise LookupError("it was unsealed")

    def _on_same_head(self, one, other, size):
        assert self._bytes(one, 0, int(size)) == self._bytes(other, 0, int(size)), "they differ"

    def _on_grown(self, name, piece, pieces):
        """Pieces of bytes 1, 2, 3..."""
        for number in range(int(pieces)):
            got = self._bytes(name, number * int(piece), int(piece))
            assert got == bytes([1 + number]) * int(piece), f"piece {number}"

    def _on_reads(self, name, offset, word):
        got = self._bytes(name, int(offset), len(word))
        assert got == word.encode(), got

    def _on_writes(self, name, offset, word):
        with open(self.mnt / name, "r+b", buffering=0) as file:
            file.seek(int(offset))
            file.write(word.encode())

    def _bytes(self, name, offset, size):
        with open(self.mnt / name, "rb") as file:
            file.seek(offset)
            return file.read(size)

    def _on_meet(self):
        """Until the other guest is there, too."""
        self._meeting.wait(CALL_SECONDS)


class Unserved(Exception):
    """The server refused what was asked for: a failure, not a machine that cannot run the rig."""
