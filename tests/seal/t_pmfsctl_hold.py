#!/usr/bin/env python3
"""pmfsctl's verbs that go on: lease, pin and watch, unseal that waits, and what is quarantined."""
import contextlib
import errno
import json
import os
import select
import signal
import subprocess
import time

from libpmfs import READ, Lease, Map, ctl, holders, make_file, open_direct, seal_of
from fixture import claim, fails, program, run_claims

MIB = 1 << 20


# (truncate(1) opens with O_NONBLOCK, and would not wait.)
TRUNCATE = "import os, sys; os.truncate(sys.argv[1], int(sys.argv[2])); print('truncated')"


def truncate(path, size):
    return subprocess.Popen(["python3", "-c", TRUNCATE, str(path), str(size)],
                            stdout=subprocess.DEVNULL)


class Going:
    """A pmfsctl that goes on; its lines come one by one."""

    def __init__(self, *words):
        self.process = subprocess.Popen([program("pmfsctl"), *map(str, words)],
                                        stdout=subprocess.PIPE, stderr=subprocess.PIPE)
        self.said = b""

    def line(self, seconds=10):
        pipe = self.process.stdout.fileno()
        while b"\n" not in self.said:
            assert select.select([pipe], [], [], seconds)[0], f"it says only {self.said}"
            got = os.read(pipe, 65536)
            assert got, f"it ended: {self.said} {self.process.stderr.read()}"
            self.said += got
        line, _, self.said = self.said.partition(b"\n")
        return line.decode()

    def json(self):
        return json.loads(self.line())

    def end(self, number=signal.SIGINT):
        """Interrupts it; its exit code and what it still said."""
        self.process.send_signal(number)
        return self.wait()

    def wait(self):
        out, err = self.process.communicate(timeout=20)
        return self.process.returncode, (self.said + out).decode(), err.decode()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait()


def kinds(path):
    return [holder["kind"] for holder in holders(path)]


@claim("watch prints a line for each holder that exists, appears or ends, and ends by Ctrl-C with exit code 0")
def _(here):
    make_file(here / "f", MIB)
    first = open_direct(here / "f")
    with Going("watch", "--json", here / "f") as watch:
        line = watch.json()
        assert line["event"] == "holds" and line["kind"] == "handle_direct"
        assert line["pid"] == os.getpid() and abs(line["time"] - time.time()) < 60
        second = open_direct(here / "f", os.O_RDONLY)
        line = watch.json()
        assert line["event"] == "comes" and line["kind"] == "handle_direct" and not line["stores"]
        os.close(second)
        assert watch.json()["event"] == "goes"
        with Map(first):
            line = watch.json()
            assert (line["event"], line["kind"], line["length"]) == ("comes", "temporary", MIB)
        assert watch.json()["event"] == "goes"
        code, out, err = watch.end()
        assert (code, out, err) == (0, "", "")
    with Going("watch", here / "f") as watch:
        assert watch.line().startswith(f"holds  open file, direct of process {os.getpid()}")
        assert watch.end(signal.SIGTERM)[0] == 0
    os.close(first)


@claim("watch shows that a lease is being broken, and that it has ended")
def _(here):
    make_file(here / "f", MIB)
    fd = open_direct(here / "f")
    with Lease(fd) as lease, Going("watch", "--json", here / "f") as watch:
        assert {watch.json()["kind"] for _ in range(2)} == {"handle_direct", "breakable"}
        breaker = truncate(here / "f", 5)
        lease.wait()
        seen = {}
        while "asked" not in seen:
            line = watch.json()
            seen[line["event"]] = line
        assert seen["asked"]["kind"] == "breakable" and seen["asked"]["breaking"]
        assert ", asked to give it back" in ctl("holders", here / "f").stdout
        lease.end()
        assert breaker.wait(10) == 0
        while line["event"] != "goes" or line["kind"] != "breakable":
            line = watch.json()
    os.close(fd)


@claim("unseal --wait waits for the holder, and --wait=SECONDS not longer")
def _(here):
    make_file(here / "f", MIB)
    ctl("seal", here / "f")
    fd = open_direct(here / "f")
    mapping = Map(fd)
    start = time.monotonic()
    done = ctl("unseal", "--wait=0.5", here / "f", ok=False)
    assert 0.4 < time.monotonic() - start < 10
    assert done.returncode == 1 and "stays sealed" in done.stderr and "held by" in done.stderr
    with Going("unseal", "--wait", here / "f") as waiting:
        with contextlib.suppress(subprocess.TimeoutExpired):
            waiting.process.wait(0.4)
        assert waiting.process.poll() is None and seal_of(here / "f") == "full"
        mapping.unmap()
        assert waiting.wait()[0] == 0
    assert seal_of(here / "f") == "none"
    os.close(fd)


@claim("lease holds until a break: it says so, gives the lease back, and the breaker goes on")
def _(here):
    make_file(here / "f", MIB)
    with Going("lease", here / "f") as held:
        assert held.line().endswith("leased")
        assert kinds(here / "f").count("breakable") == 1
        os.truncate(here / "f", 5)
        assert "asked to give the lease back within" in held.line()
        assert held.line().endswith("the lease was given back")
        assert held.wait() == (0, "", "")
    assert (here / "f").stat().st_size == 5
    assert "breakable" not in kinds(here / "f")


@claim("lease --json has a line for each event; Ctrl-C gives the lease back")
def _(here):
    make_file(here / "f", MIB)
    with Going("lease", "--json", here / "f") as held:
        assert held.json() == {"event": "taken", "kind": "lease", "path": str(here / "f")}
        code, out, err = held.end()
        assert code == 0 and json.loads(out)["event"] == "released" and err == ""
    with Going("lease", "--json", here / "f") as held:
        held.json()
        os.truncate(here / "f", 5)
        assert held.json()["milliseconds"] > 0
        assert held.json()["event"] == "released"


@claim("lease and pin hold while a command runs, and end with its exit code")
def _(here):
    make_file(here / "f", MIB)
    for verb, kind in (("lease", "breakable"), ("pin", "pin")):
        script = f"{program('pmfsctl')} holders --json {here / 'f'}; exit 3"
        done = ctl(verb, here / "f", "--", "sh", "-c", script, ok=False)
        assert done.returncode == 3, done
        assert [h["kind"] for h in json.loads(done.stdout)["holders"]].count(kind) == 1
        assert "given back" in done.stderr
        assert kind not in kinds(here / "f")
        assert ctl(verb, here / "f", "--", "/nowhere/at/all", ok=False).returncode == 127
        assert ctl(verb, here / "f", "--", "sh", "-c", "kill -9 $$", ok=False).returncode == 137


@claim("a command goes on when its lease is broken")
def _(here):
    make_file(here / "f", MIB)
    done = ctl("lease", here / "f", "--", "python3", "-c", TRUNCATE, here / "f", 7)
    assert done.stdout == "truncated\n" and "asked to give the lease back" in done.stderr
    assert (here / "f").stat().st_size == 7


@claim("pin takes a range, and keeps that range only")
def _(here):
    make_file(here / "f", 4 * MIB)
    with Going("pin", "--offset", "1MiB", "--length", "1MiB", here / "f") as held:
        assert held.line().endswith("pinned")
        pinned = [holder for holder in holders(here / "f") if holder["kind"] == "pin"]
        assert (pinned[0]["offset"], pinned[0]["length"]) == (MIB, MIB)
        with fails(errno.ETXTBSY):
            os.truncate(here / "f", MIB + 1)
        os.truncate(here / "f", 2 * MIB)
        assert held.end()[0] == 0
    os.truncate(here / "f", 5)


@claim("leasing or pinning what is not possible fails with a sentence")
def _(here):
    make_file(here / "f", MIB)
    (here / "empty").write_bytes(b"")
    fd = open_direct(here / "f")
    for verb in ("lease", "pin"):
        for words in ((here / "empty",), ("--offset", "2MiB", here / "f"), (here,)):
            done = ctl(verb, *words, ok=False)
            assert done.returncode == 1 and done.stderr.startswith("pmfsctl: "), done
    with Map(fd, prot=READ):
        done = ctl("lease", here / "f", ok=False)
        assert done.returncode == 1 and "cannot be leased" in done.stderr and "held by" in done.stderr
    os.close(fd)
    for words in (("lease",), ("pin", "--length", "many", here / "f"), ("watch",),
                  ("quarantine", "--release", "0", here), ("unseal", "--wait=soon", here / "f"),
                  ("quarantine", "--release", "1", "--release-all", here)):
        assert ctl(*words, ok=False).returncode == 2, words


@claim("a lease and a pin end when the server does, and pmfsctl says so", alone=True)
def _(maker):
    volume = maker.volume()
    make_file(volume.mnt / "f", MIB)
    with Going("lease", volume.mnt / "f") as lease, Going("pin", volume.mnt / "f") as pinned, \
            Going("watch", volume.mnt / "f") as watch:
        lease.line(), pinned.line(), watch.line()
        volume.kill()
        for held in (lease, pinned):
            code, out, _ = held.wait()
            assert code == 1 and "has ended" in out, (code, out)
        assert watch.wait()[0] == 1


@claim("a volume whose holders are alive has no quarantine, and only root may release one")
def _(here):
    assert ctl("quarantine", here).stdout == "nothing is in quarantine\n"
    assert json.loads(ctl("quarantine", "--json", here).stdout) == {"held": 0, "holders": []}
    assert json.loads(ctl("status", "--json", here).stdout)["quarantined"] == 0
    done = ctl("quarantine", "--release", "12345", here, ok=False)
    assert done.returncode == 1 and "no quarantine with this number" in done.stderr
    ctl("quarantine", "--release-all", here)


if __name__ == "__main__":
    run_claims(media=("memory",))
