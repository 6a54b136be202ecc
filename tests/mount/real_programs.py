"""Real programs, each with steps that can be timed and a check of its own of what it left behind.

tests/mount/t_programs.py runs them short on mounts, tools/bench programs longer and beside other filesystems.  They
read what they need from a Stock, which lies elsewhere.  A check raises: AssertionError, or what the program said.
"""
import os
import shutil
import sqlite3
import struct
import subprocess
import sys
import sysconfig
import zlib
from pathlib import Path

from fixture import run

GIT = ("git", "-c", "user.name=t", "-c", "user.email=t@t", "-c", "safe.directory=*", "-c", "gc.auto=0")


# (A window of -1 is nanoseconds.  XFS shows ACLs a second time, as attributes of its own.)
RSYNC = ("rsync", "-aAXH", "--modify-window=-1", "--filter=-x trusted.SGI_ACL_*")
TAR = ("tar", "--format=posix", "--acls", "--xattrs", "--sparse")


def same_tree(one, other):
    """Two trees have the same names, bytes, kinds, links, modes, owners, times, ACLs and attributes."""
    said = run(*RSYNC, "-n", "--checksum", "--delete", "--itemize-changes", f"{one}/", f"{other}/").stdout
    assert said == "", f"{one} and {other} differ: {said[:500]}"


class Stock:
    """What the programs read: made when first asked for, in a directory that is not on the mount."""

    def __init__(self, place, small):
        self.place, self.small = Path(place), small
        self.made = {}

    def get(self, name):
        if name not in self.made:
            self.made[name] = getattr(self, f"_{name}")(self.place / name)
        return self.made[name]

    def _tree(self, place):
        """Some thousands of files (of the short form: some hundreds), and one of each kind of thing."""
        library = Path(sysconfig.get_path("stdlib"))
        leave = shutil.ignore_patterns("__pycache__", "*-packages", "*.so")
        shutil.copytree(library / "asyncio" if self.small else library, place, symlinks=True, ignore=leave)
        kinds = place / "kinds"
        kinds.mkdir()
        (kinds / "empty").touch()
        (kinds / "program").write_text("#!/bin/sh\n")
        (kinds / "program").chmod(0o4755)
        os.link(kinds / "program", kinds / "the same program")
        os.symlink("program", kinds / "link")
        os.symlink("x" * 1000, kinds / "long link")
        os.mkfifo(kinds / "pipe", 0o620)
        with open(kinds / "sparse", "wb") as file:
            file.truncate(10 << 20)
            file.seek(5 << 20)
            file.write(b"in the middle")
        (kinds / ("n" * 255)).write_bytes(os.urandom(100_001))
        (kinds / "d\u00fcrftig \n").mkdir(0o1777)
        os.setxattr(kinds / "empty", "user.words", b"some\0bytes")
        run("setfacl", "-m", "u:12345:rw,g:54321:r", kinds / "empty")
        run("setfacl", "-d", "-m", "u:12345:rwx", kinds / "d\u00fcrftig \n")
        if os.geteuid() == 0:
            os.chown(kinds / "pipe", 12345, 54321)
        for number, path in enumerate(sorted(kinds.iterdir())):
            os.utime(path, ns=(0, 1_000_000_000_123_456_789 + number), follow_symlinks=False)
        return place

    def _archive(self, place):
        run(*TAR, "-C", self.get("tree"), "-cf", place, ".")
        return place

    def _repository(self, place):
        """A repository of the tree, with changes of many of its files, in one pack: what takes time is not the packing."""
        run(*GIT, "init", "-q", place)
        work = place / "work"
        shutil.copytree(self.get("tree"), work, symlinks=True, ignore=shutil.ignore_patterns("kinds"))
        texts = sorted(path for path in work.rglob("*.py") if path.stat().st_size)
        for number in range(3 if self.small else 30):
            for path in texts[number::30]:
                path.write_bytes(path.read_bytes() + b"# more\n" * number)
            run(*GIT, "-C", place, "add", "-A")
            run(*GIT, "-C", place, "commit", "-q", "-m", f"change {number}")
        run(*GIT, "-C", place, "gc", "-q", "--prune=now")
        return place

    def _project(self, place):
        """A project in C: a library of some modules, and a program that tests it."""
        place.mkdir()
        count = 12 if self.small else 100
        (place / "all.h").write_text("".join(f"int f{number}(int);\n" for number in range(count)))
        for number in range(count):
            (place / f"f{number}.c").write_text(f'#include "all.h"\n#include <stdio.h>\nint f{number}(int x) '
                                                f'{{ return x + {number}; }}\n')
        calls = "".join(f"    x = f{number}(x);\n" for number in range(count))
        (place / "test.c").write_text(f'#include "all.h"\n#include <stdio.h>\nint main(void) {{\n    int x = 0;\n'
                                      f'{calls}    printf("%d\\n", x);\n    return x != {sum(range(count))};\n}}\n')
        objects = " ".join(f"f{number}.o" for number in range(count))
        (place / "Makefile").write_text(
            f"CFLAGS = -O1 -MMD\nall: test\ntest: test.o liball.a\n\t$(CC) -o $@ test.o liball.a\n"
            f"liball.a: {objects}\n\tar rcs $@ $^\ncheck: test\n\t./test\n-include *.d\n")
        return place


class Case:
    """One program.  `steps` are done in turn, in one directory; then comes `check`."""

    name = ""
    needs = ()  # programs

    def __init__(self, stock):
        self.stock = stock

    def missing(self):
        """Why it cannot run here; None: it can."""
        absent = [program for program in self.needs if not shutil.which(program)]
        return f"{' and '.join(absent)} not installed" if absent else None

    def steps(self, here):
        """[(name, function)]"""
        raise NotImplementedError

    def check(self, here):
        raise NotImplementedError

    def end(self):
        """Ends processes that are left; also after a failure."""

    # Of those in KILLED:

    def fill_until_the_end(self, here, pipe):
        """In a process of its own: fills, and says each number that is committed, until the filesystem is gone."""

    def check_from(self, here, last):
        """All is there up to the last that was committed; one more may be."""


class Sqlite(Case):
    """Transactions of one row each, synchronous=FULL."""

    mode = ""

    def __init__(self, stock):
        super().__init__(stock)
        self.count = 60 if stock.small else 5000
        self.name = f"sqlite_{self.mode}"

    def _open(self, here):
        database = sqlite3.connect(here / "database", isolation_level=None)
        assert database.execute(f"pragma journal_mode={self.mode}").fetchone()[0] == self.mode
        database.execute("pragma synchronous=full")
        return database

    def steps(self, here):
        return [(self.name, lambda: self._fill(here))]

    @staticmethod
    def _words(number):
        return f"{number * 7919 % 10007} words" * 8

    def _fill(self, here, committed=lambda number: None):
        database = self._open(here)
        database.execute("create table t(number integer primary key, words text, changed integer)")
        database.execute("create index i on t(words)")
        for number in range(self.count):
            database.execute("begin")
            database.execute("insert into t values(?, ?, 0)", (number, self._words(number)))
            database.execute("update t set changed = changed + 1 where number = ?", (number // 2,))
            database.execute("commit")
            committed(number)
        database.close()

    def fill_until_the_end(self, here, pipe):
        self.count = 1_000_000
        self._fill(here, lambda number: os.write(pipe, f"{number}\n".encode()))

    def check_from(self, here, last):
        database = self._open(here)
        self.count = database.execute("select count(*) from t").fetchone()[0]
        database.close()
        assert self.count in (last + 1, last + 2), (self.count, last)
        self.check(here)

    def check(self, here):
        database = self._open(here)
        assert database.execute("pragma integrity_check").fetchall() == [("ok",)]
        # Of each transaction, the row of half its number was changed.
        changes = [2 * (number <= (self.count - 1) // 2) for number in range(self.count)]
        changes[(self.count - 1) // 2] -= self.count % 2
        found = database.execute("select * from t order by number").fetchall()
        assert found == [(number, self._words(number), changes[number]) for number in range(self.count)]
        database.close()


class SqliteWal(Sqlite):
    mode = "wal"


class SqliteDelete(Sqlite):
    mode = "delete"


class Lmdb(Case):
    """A database that is read through a mapping: with a sync for each transaction, and in one large one."""

    name = "lmdb"

    def missing(self):
        self.python = next((python for python in (sys.executable, "/usr/bin/python3")
                            if run(python, "-c", "import lmdb", ok=False).returncode == 0), None)
        return None if self.python else "python3-lmdb not installed"

    def steps(self, here):
        few, many = (60, 3000) if self.stock.small else (3000, 300_000)
        self.sizes = {here / "sync": few, here / "bulk": many}
        return [("lmdb_sync", lambda: self._program("fill", here / "sync", few, 1)),
                ("lmdb_bulk", lambda: self._program("fill", here / "bulk", many, 1000))]

    _file = Path(__file__).with_name("real_lmdb.py")

    def _program(self, *words):
        run(self.python, self._file, *words)

    def check(self, here):
        for place, count in self.sizes.items():
            self._program("check", place, count)
            if shutil.which("mdb_stat"):
                assert f"Entries: {count}\n" in run("mdb_stat", place).stdout

    mapped = False

    def fill_until_the_end(self, here, pipe):
        os.mkdir(here / "grown")
        subprocess.run([self.python, self._file, "grow", here / "grown", str(int(self.mapped))], stdout=pipe,
                       stderr=subprocess.DEVNULL, check=False)

    def check_from(self, here, last):
        self._program("grown", here / "grown", last)


class LmdbMapped(Lmdb):
    """One that stores through the mapping, and syncs it."""

    name = "lmdb_mapped"
    mapped = True


class AppendedLog(Case):
    """A log as Redis keeps its own with appendfsync=always: each command is appended and synced.  Now and then all that
    is known is written to a new base, a new log begins, and a manifest that names both is renamed over the old one."""

    name = "appended_log"
    keys, anew_after = 50, 40

    @staticmethod
    def _text(number):
        return f"{number * 7919 % 10007} words".encode() * (1 + number * 31 % 300)

    @classmethod
    def _record(cls, number):
        text = struct.pack("<I", number) + cls._text(number)
        return struct.pack("<II", len(text), zlib.crc32(text)) + text

    @staticmethod
    def _synced(path, data):
        fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        os.write(fd, data)
        os.fsync(fd)
        os.close(fd)

    def _anew(self, here, count):
        """Another base, of all numbers below that, and another log; gives the log's descriptor."""
        base = b"".join(self._record(number) for number in range(max(0, count - self.keys), count))
        self._synced(here / f"base{count}", base)
        self._synced(here / f"log{count}", b"")
        self._synced(here / "manifest.new", f"{count}".encode())
        os.rename(here / "manifest.new", here / "manifest")
        directory = os.open(here, os.O_RDONLY)
        os.fsync(directory)
        os.close(directory)
        for old in [*here.glob("base*"), *here.glob("log*")]:
            if old.name not in (f"base{count}", f"log{count}"):
                os.unlink(old)
        return os.open(here / f"log{count}", os.O_WRONLY | os.O_APPEND)

    def fill_until_the_end(self, here, pipe):
        log = -1
        for number in range(1_000_000):
            if number % self.anew_after == 0:
                log = self._anew(here, number)
            record = self._record(number)
            assert os.write(log, record) == len(record)
            os.fsync(log)
            os.write(pipe, f"{number}\n".encode())

    def check_from(self, here, last):
        count = int((here / "manifest").read_text(encoding="ascii"))
        base = (here / f"base{count}").read_bytes()
        assert base == b"".join(self._record(number) for number in range(max(0, count - self.keys), count)), count
        found = (here / f"log{count}").read_bytes()
        wanted = b"".join(self._record(number) for number in range(count, last + 1))
        assert found.startswith(wanted), f"of {len(wanted)} bytes that were synced there are {len(found)}, or others"
        # (What was being written may be there in part.)
        assert self._record(max(count, last + 1)).startswith(found[len(wanted):]), "more than one record, or torn"
        assert last + 1 in (count - 1, count) or last + 1 > count, (last, count)


class Log(Case):
    """Appends of 200 bytes, none of them synced."""

    name = "append_200"

    def steps(self, here):
        self.count = 2000 if self.stock.small else 100_000
        return [("append_200", lambda: self._append(here / "log"))]

    @staticmethod
    def _line(number):
        return f"{number:10} ".encode() + b"x" * 188 + b"\n"

    def _append(self, path):
        fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        for number in range(self.count):
            os.write(fd, self._line(number))
        os.close(fd)

    def check(self, here):
        assert (here / "log").read_bytes() == b"".join(map(self._line, range(self.count)))


class Git(Case):
    name = "git"
    needs = ("git",)

    def steps(self, here):
        source = self.stock.get("repository")
        return [("git_clone", lambda: run(*GIT, "clone", "-q", "--no-local", source, here / "clone")),
                ("git_status", lambda: self._clean(here)),
                ("git_gc", lambda: run(*GIT, "-C", here / "clone", "gc", "-q", "--prune=now"))]

    @staticmethod
    def _clean(here):
        said = run(*GIT, "-C", here / "clone", "status", "--porcelain").stdout
        assert said == "", said[:500]

    def check(self, here):
        run(*GIT, "-C", here / "clone", "fsck", "--strict", "--full")
        self._clean(here)
        heads = [run(*GIT, "-C", place, "rev-parse", "HEAD").stdout
                 for place in (self.stock.get("repository"), here / "clone")]
        assert heads[0] == heads[1], heads


class Tar(Case):
    name = "tar"
    needs = ("tar", "rsync", "setfacl")

    def steps(self, here):
        archive = self.stock.get("archive")
        (here / "out").mkdir()
        return [("tar_extract", lambda: run(*TAR, "-C", here / "out", "-xpf", archive)),
                ("tar_create", lambda: run(*TAR, "-C", here / "out", "-cf", here / "again.tar", ".")),
                ("rm_tree", lambda: self._remove(here / "out"))]

    def _remove(self, place):
        os.rename(place, kept := place.parent / "kept")
        run("cp", "-al", kept, place)
        run("rm", "-rf", place)

    def check(self, here):
        same_tree(self.stock.get("tree"), here / "kept")
        (here / "back").mkdir()
        run(*TAR, "-C", here / "back", "-xpf", here / "again.tar")
        same_tree(self.stock.get("tree"), here / "back")


class Rsync(Case):
    """There, and back to where the stock is."""

    name = "rsync"
    needs = ("rsync", "setfacl")

    def steps(self, here):
        tree = self.stock.get("tree")
        self.back = self.stock.place / "back"
        return [("rsync_to", lambda: run(*RSYNC, f"{tree}/", here / "tree/")),
                ("rsync_again", lambda: same_names(tree, here / "tree")),
                ("rsync_from", lambda: run(*RSYNC, f"{here / 'tree'}/", f"{self.back}/"))]

    def check(self, here):
        tree = self.stock.get("tree")
        same_tree(tree, here / "tree")
        same_tree(tree, self.back)

    def end(self):
        shutil.rmtree(self.stock.place / "back", ignore_errors=True)


def same_names(one, other):
    """As rsync looks by default: names, sizes, times and attributes."""
    said = run(*RSYNC, "-i", f"{one}/", f"{other}/").stdout
    assert said == "", said[:500]


class Build(Case):
    """make, and make again, which finds nothing to do; then one file that others need is newer."""

    name = "build"
    needs = ("make", "cc", "ar")

    def steps(self, here):
        shutil.copytree(self.stock.get("project"), here / "project")
        return [("build", lambda: run("make", "-C", here / "project", "-j2"))]

    def check(self, here):
        project = here / "project"
        run("make", "-C", project, "-q")
        run("make", "-C", project, "check")
        before = {path: path.stat().st_mtime_ns for path in project.glob("*.o")}
        os.utime(project / "f3.c")
        assert run("make", "-C", project, "-q", ok=False).returncode == 1
        run("make", "-C", project, "-j2", "check")
        newer = [path.name for path, time in before.items() if path.stat().st_mtime_ns != time]
        assert newer == ["f3.o"], newer


LIGHT = (SqliteWal, SqliteDelete, Lmdb, Log, Git, Tar, Rsync, Build)
KILLED = (SqliteWal, SqliteDelete, Lmdb, LmdbMapped, AppendedLog)  # have a server die under them


def run_case(case, here):
    """All steps and the check, untimed."""
    try:
        for _, step in case.steps(here):
            step()
        case.check(here)
    finally:
        case.end()
