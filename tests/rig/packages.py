"""Debian packages for the rig, unpacked into the cache: the machine's own packages stay as they are.

    tree("bookworm", "qemu", ["qemu-system-x86"])        a folder with the whole closure in it
    tree("sid", "ndctl", ["ndctl"], closure=False)       just these packages
    names("bookworm", r"linux-image-(.*)")               what a pattern finds among all packages

Everything lies below ${PMFS_CACHE:-${XDG_CACHE_HOME:-~/.cache}/pmfs}/rig, one folder for each suite and
name; what is there already is used and needs no network (remove the folder to fetch anew).  apt runs
with a state of its own and an empty dpkg status file, so that it resolves every dependency; the mirror is
the one that this machine's apt uses.  `versions.txt` beside a tree says what is in it.  What cannot be
had is Unavailable, with one sentence why.
"""
import concurrent.futures
import contextlib
import fcntl
import hashlib
import os
import re
import shutil
import subprocess
from pathlib import Path

KEYRING = Path("/usr/share/keyrings/debian-archive-keyring.gpg")
STABLE = "bookworm"  # what pmfs is built on: its programs run in guests with these libraries
NEWEST = "sid"  # Debian's newest suite: QEMU 11, the newest kernel
FETCH_SECONDS = 420


class Unavailable(Exception):
    """This machine cannot run that part of the rig; the words say why."""


def cache():
    """The rig's part of the cache."""
    home = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(os.environ.get("PMFS_CACHE") or Path(home) / "pmfs") / "rig"


@contextlib.contextmanager
def locked(path):
    """One process at a time: two runs share one cache."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with open(path, "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def tree(suite, name, packages, *, closure=True):
    """The folder in which these packages are unpacked; with closure, all that they depend on, too."""
    words = hashlib.sha256(repr((sorted(packages), closure)).encode()).hexdigest()[:8]
    folder = cache() / suite / f"{name}-{words}"
    if (folder / "versions.txt").exists():
        return folder / "root"
    with locked(cache() / f"{suite}.lock"):
        if (folder / "versions.txt").exists():  # somebody else was quicker
            return folder / "root"
        shutil.rmtree(folder, ignore_errors=True)
        archives = _fetch(suite, packages, closure)
        _unpack(archives, folder)
        shutil.rmtree(archives)
    return folder / "root"


def names(suite, pattern):
    """[match] for every package of the suite whose whole name matches, lowest version first."""
    with locked(cache() / f"{suite}.lock"):
        listed = _run(_settings(suite), "apt-cache", "pkgnames").split()
    found = [match for name in listed if (match := re.fullmatch(pattern, name))]
    return sorted(found, key=lambda match: _version_order(match[0]))


def _version_order(name):
    return [int(part) if part.isdigit() else -1 for part in re.split(r"(\d+)", name)]


def mirror_lines(suite):
    """The lines of a sources.list for one suite, from what this machine's apt is told already."""
    if shutil.which("apt-get") is None:
        raise Unavailable("there is no apt-get here: the rig gets QEMU and kernels from Debian")
    asked = subprocess.run(
        ["apt-get", "indextargets", "--format",
         "$(ORIGIN)|$(RELEASE)|$(COMPONENT)|$(REPO_URI)", "Created-By: Packages"],
        capture_output=True, text=True, check=False)
    known = [line.split("|") for line in asked.stdout.splitlines() if line.count("|") == 3]
    # A machine that never ran `apt-get update` knows its mirrors, but not their origin.
    debian = [words for words in known
              if words[0] in ("Debian", "", "$(ORIGIN)") and words[2] == "main"]
    base = [uri for _, code, _, uri in debian if code == STABLE]
    if not base:
        raise Unavailable(f"apt knows no Debian mirror with {STABLE} here (apt-get update?)")
    signed = f"[signed-by={KEYRING}]"
    if suite == NEWEST:
        return [f"deb {signed} {base[0]} {suite} main"]
    wanted = {(uri, code) for _, code, _, uri in debian if code.startswith(suite)}
    return [f"deb {signed} {uri} {code} main" for uri, code in sorted(wanted)]


def _settings(suite):
    """The configuration file of a private apt state, with its package lists fetched."""
    if not KEYRING.exists():
        raise Unavailable(f"there is no {KEYRING} to check packages with")
    state = cache() / suite / "apt"
    for folder in ("lists/partial", "archives/partial"):
        (state / folder).mkdir(parents=True, exist_ok=True)
    (state / "status").touch()
    (state / "sources.list").write_text("\n".join(mirror_lines(suite)) + "\n")
    settings = state / "apt.conf"
    settings.write_text("".join(f'{name} "{value}";\n' for name, value in {
        "Dir::State": state, "Dir::State::status": state / "status",
        "Dir::State::lists": state / "lists", "Dir::Cache": state,
        "Dir::Cache::archives": state / "archives", "Dir::Etc::SourceList": state / "sources.list",
        "Dir::Etc::SourceParts": "/dev/null", "Dir::Etc::Preferences": "/dev/null",
        "Dir::Etc::PreferencesParts": "/dev/null", "APT::Sandbox::User": "root",
        "APT::Install-Recommends": "false", "Acquire::Languages": "none",
        "Acquire::Retries": "3"}.items()) + "#clear APT::Update::Post-Invoke;\n")
    if (suite, "updated") not in _done:
        _run(settings, "apt-get", "-q", "update")
        _done.add((suite, "updated"))
    return settings


_done = set()


def _run(settings, *command, cwd=None):
    try:
        done = subprocess.run(command, env={**os.environ, "APT_CONFIG": str(settings), "LC_ALL": "C"},
                              capture_output=True, text=True, check=False, cwd=cwd,
                              stdin=subprocess.DEVNULL, timeout=FETCH_SECONDS)
    except subprocess.TimeoutExpired as late:
        raise Unavailable(f"{' '.join(command[:3])} took longer than {FETCH_SECONDS} s") from late
    said = [line for line in (done.stdout + done.stderr).splitlines() if line.startswith(("E:", "Err:"))]
    if done.returncode != 0 or (said and "update" in command):
        raise Unavailable(f"{' '.join(command[:3])}: {(said or ['failed'])[0]}")
    return done.stdout


def _fetch(suite, packages, closure):
    """Downloads into a folder of its own."""
    settings = _settings(suite)
    archives = cache() / suite / "fetched"
    shutil.rmtree(archives, ignore_errors=True)
    (archives / "partial").mkdir(parents=True)
    if closure:
        _run(settings, "apt-get", "-q", "-y", "--download-only", "-o", f"Dir::Cache::archives={archives}",
             "install", *packages)
    else:
        _run(settings, "apt-get", "-q", "download", *packages, cwd=archives)
    return archives


def _unpack(archives, folder):
    root = folder / "root"
    root.mkdir(parents=True)
    # As on an installed system: packages put files into /lib, which is a link.
    for name in ("bin", "lib", "lib64", "sbin"):
        (root / "usr" / name).mkdir(parents=True)
        (root / name).symlink_to(f"usr/{name}")
    found = sorted(archives.glob("*.deb"))

    def unpack(deb):
        tar = subprocess.Popen(["dpkg-deb", "--fsys-tarfile", deb], stdout=subprocess.PIPE)
        done = subprocess.run(["tar", "-x", "--keep-directory-symlink", "--no-same-owner", "-C", root],
                              stdin=tar.stdout, capture_output=True, check=False)
        tar.stdout.close()
        if tar.wait() != 0 or done.returncode != 0:
            raise Unavailable(f"cannot unpack {deb.name}: {done.stderr.decode().strip()[:200]}")

    with concurrent.futures.ThreadPoolExecutor(os.cpu_count()) as pool:
        list(pool.map(unpack, found))
    # Last: a tree with this file in it is whole.
    (folder / "versions.new").write_text("".join(f"{deb.stem}\n" for deb in found))
    (folder / "versions.new").rename(folder / "versions.txt")
