#!/usr/bin/env python3
"""pmfsctl compact: data moves together, and nothing of it is lost."""
import errno
import hashlib
import json
import os
import pty
import random
import signal
import subprocess
import time

import filling
from fixture import as_user, claim, program, run, run_claims

MIB = 1 << 20
NOBODY = 65534


def ctl(*words, **settings):
    return run(program("pmfsctl"), *words, **settings).stdout


def answer(*words):
    return json.loads(ctl(*words))


def chunks_of(volume, kind):
    return [one for one in answer("map", "--json", volume.mnt)["chunks"] if one["kind"] == kind]


def broken_volume(maker, seed, size="128M", stay=4):
    """A volume full of small files, of which one in `stay` is left, at random; gives their digests."""
    volume = maker.volume(size=size)
    dice, digests = random.Random(seed), {}
    with filling.until_full():
        for number in range(1 << 20):
            path = volume.mnt / f"f{number:05}"
            path.write_bytes(data := dice.randbytes(dice.randrange(1, 120_000)))
            digests[path] = hashlib.sha256(data).digest()
    for path in volume.mnt.glob("f*"):
        if path not in digests or dice.randrange(stay) != 0:
            path.unlink()
            digests.pop(path, None)
    os.sync()
    return volume, digests


def end(volume, digests):
    for path, digest in digests.items():
        assert hashlib.sha256(path.read_bytes()).digest() == digest, path
    assert volume.unmount() == 0, volume.log_text()
    volume.fsck()


@claim("compact makes chunks whole, map shows it, and every file reads the same", alone=True, seconds=180)
def _(maker):
    volume, digests = broken_volume(maker, 1)
    before = len(chunks_of(volume, "free"))
    done = answer("compact", "--json", volume.mnt)
    after = answer("map", "--json", volume.mnt)["chunks"]
    assert done["free_before"] == before and not done["interrupted"], (done, before)
    assert done["chunks"] > 20 and done["free"] >= before + 20, done
    assert done["free"] == sum(one["kind"] == "free" for one in after), done
    assert all((one["used"] == 0) == (one["kind"] == "free") for one in after), after
    # There is room for no more than a few in what is left.
    gaps = sum(2 * MIB - one["used"] for one in after if one["kind"] == "data")
    assert done["broken"] <= 2 and gaps < 12 * MIB, (done, gaps)
    again = answer("compact", "--json", volume.mnt)
    assert again["chunks"] <= 1, again
    large = volume.mnt / "large"
    with open(large, "wb") as file:
        file.truncate(done["free"] // 2 * 2 * MIB)
    ctl("prepare", large)
    end(volume, digests)


@claim("only root compacts a volume", alone=True)
def _(maker):
    volume = maker.volume(size="16M", options="allow_other")
    volume.mnt.chmod(0o777)

    def refused():
        done = subprocess.run([program("pmfsctl"), "compact", str(volume.mnt)], capture_output=True, text=True)
        assert done.returncode == 1 and "only root" in done.stderr, done
    as_user(refused, NOBODY, NOBODY)


@claim("a path that is not on a volume, and one that does not exist, get a sentence", alone=True)
def _(maker):
    for path in ("/proc", "/does/not/exist"):
        done = subprocess.run([program("pmfsctl"), "compact", path], capture_output=True, text=True)
        assert done.returncode == 1 and path in done.stderr, done


@claim("an interrupt ends compact with status 0, also again and again, and no file is lost", alone=True, seconds=180)
def _(maker):
    volume, digests = broken_volume(maker, 2, size="256M")
    for delay in (0.01, 0.05, 0.1, 0.3):
        compact = subprocess.Popen([program("pmfsctl"), "compact", "--json", str(volume.mnt)],
                                   stdout=subprocess.PIPE, text=True)
        time.sleep(delay)
        compact.send_signal(signal.SIGINT)
        out, _ = compact.communicate(timeout=30)
        if compact.returncode == -signal.SIGINT:
            continue  # it had not begun
        assert compact.returncode == 0, compact.returncode
        assert json.loads(out)["chunks"] >= 0
    end(volume, digests)


@claim("the server is killed while compact runs, and no file is lost", alone=True, seconds=180)
def _(maker):
    volume, digests = broken_volume(maker, 3)
    compact = subprocess.Popen([program("pmfsctl"), "compact", str(volume.mnt)], stdout=subprocess.DEVNULL,
                               stderr=subprocess.DEVNULL)
    time.sleep(0.1)
    volume.kill()
    compact.wait(30)
    volume.mount()
    maker.watch()
    end(volume, digests)


@claim("on a terminal compact shows its progress in one line", alone=True, seconds=120)
def _(maker):
    volume, digests = broken_volume(maker, 4, size="64M")
    top, terminal = pty.openpty()
    done = subprocess.run([program("pmfsctl"), "compact", str(volume.mnt)], stdout=subprocess.PIPE,
                          stderr=terminal, text=True, timeout=60)
    os.close(terminal)
    try:
        text = os.read(top, 65536).decode()
    except OSError as error:
        assert error.errno == errno.EIO
        text = ""
    os.close(top)
    assert done.returncode == 0 and "; free chunks of " in done.stdout, done
    assert "\r" in text and "chunks emptied: " in text, text
    end(volume, digests)


@claim("files are written, read and removed while compact runs", alone=True, seconds=180)
def _(maker):
    volume, digests = broken_volume(maker, 5)
    compact = subprocess.Popen([program("pmfsctl"), "compact", str(volume.mnt)], stdout=subprocess.DEVNULL)
    dice, number = random.Random(6), 0
    while compact.poll() is None or number < 200:
        number += 1
        path = dice.choice(sorted(digests))
        if number % 3 == 0:
            path.unlink()
            del digests[path]
        else:
            path.write_bytes(data := dice.randbytes(dice.randrange(1, 60_000)))
            digests[path] = hashlib.sha256(data).digest()
        if len(digests) < 50:
            break
    assert compact.wait(120) == 0
    end(volume, digests)


if __name__ == "__main__":
    run_claims()
