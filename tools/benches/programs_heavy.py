"""Programs of tools/bench programs that take packages which nothing else here needs, or long: RocksDB, PostgreSQL,
Redis, and the build of zlib."""
import os
import pwd
import re
import shutil
import subprocess
import sys
import time
from pathlib import Path

import real_programs
from fixture import run


class RocksDb(real_programs.Case):
    """db_bench, which reads all that it wrote, with its checksums, in the check."""

    name = "rocksdb"
    needs = ("db_bench",)
    COUNT, SYNCED = 200_000, 3000

    def steps(self, here):
        return [("rocksdb_fillsync", lambda: self._bench(here, "synced", "fillsync", self.SYNCED)),
                ("rocksdb_fillseq", lambda: self._bench(here, "filled", "fillseq", self.COUNT)),
                ("rocksdb_readrandom", lambda: self._read(here)),
                ("rocksdb_mmap_read", lambda: self._read(here, "--mmap_read=1"))]

    @staticmethod
    def _bench(here, database, what, count, *words):
        return run("db_bench", f"--benchmarks={what}", f"--db={here / database}", f"--num={count}", "--seed=1",
                   "--histogram=0", *words).stdout

    def _read(self, here, *words):
        reads = 50_000
        said = self._bench(here, "filled", "readrandom", self.COUNT, "--use_existing_db=1", f"--reads={reads}", *words)
        assert f"({reads} of {reads} found)" in said, said[-500:]

    def check(self, here):
        said = self._bench(here, "filled", "verifychecksum,readseq", self.COUNT, "--use_existing_db=1",
                           "--verify_checksum=1")
        assert re.search(r"readseq +:", said) and "orruption" not in said, said[-500:]
        found = run("ldb", f"--db={here / 'filled'}", "dump", "--count_only").stdout
        assert f"Keys in range: {self.COUNT}" in found, found[-500:]
        run("ldb", f"--db={here / 'synced'}", "checkconsistency")


class Postgres(real_programs.Case):
    """initdb with checksums, pgbench, and both checked by PostgreSQL's own programs after a restart."""

    name = "postgres"
    CLIENTS, EACH, SCALE = 4, 500, 5

    def __init__(self, stock):
        super().__init__(stock)
        self.server = None
        found = sorted(Path("/usr/lib/postgresql").glob("*/bin/postgres"))
        self.programs = found[-1].parent if found else None

    def missing(self):
        if self.programs is None or not (self.programs / "pg_amcheck").exists():
            return "postgresql not installed"
        try:
            self.user = pwd.getpwnam("postgres")
        except KeyError:
            return "there is no user postgres"
        return None

    def _run(self, name, *words):
        return run(self.programs / name, *words, user=self.user.pw_uid, group=self.user.pw_gid, extra_groups=[],
                   env={"PATH": "/usr/bin:/bin", "PGHOST": str(self.socket), "LC_ALL": "C"}, cwd="/").stdout

    def _start(self, here):
        self.log = open(self.socket / "log", "ab")
        self.server = subprocess.Popen(
            [self.programs / "postgres", "-D", here / "data", "-k", self.socket, "-c", "listen_addresses="],
            user=self.user.pw_uid, group=self.user.pw_gid, extra_groups=[], env={"LC_ALL": "C"}, cwd="/",
            stdout=self.log, stderr=self.log)
        for _ in range(1000):
            if subprocess.run([self.programs / "pg_isready", "-q", "-h", self.socket], check=False).returncode == 0:
                return
            assert self.server.poll() is None, (self.socket / "log").read_text()[-500:]
            time.sleep(0.01)
        raise AssertionError("PostgreSQL does not start")

    def _stop(self):
        self.server.send_signal(2)  # SIGINT: "fast"
        assert self.server.wait(60) == 0
        self.log.close()
        self.server = None

    def steps(self, here):
        self.socket = self.stock.place / "socket"
        self.socket.mkdir(exist_ok=True)
        for place in (here, self.socket):
            os.chown(place, self.user.pw_uid, self.user.pw_gid)
        return [("postgres_initdb", lambda: self._run("initdb", "-D", here / "data", "--data-checksums", "-A", "trust",
                                                      "--no-instructions", "--no-sync")),
                ("", lambda: self._start(here)),
                ("postgres_load", lambda: self._run("pgbench", "-q", "-i", "-s", self.SCALE, "postgres")),
                ("postgres_pgbench", lambda: self._run("pgbench", "-n", "-c", self.CLIENTS, "-j", "2", "-t",
                                                       self.EACH, "postgres"))]

    def check(self, here):
        self._stop()
        self._run("pg_checksums", "--check", "-D", here / "data")
        self._start(here)
        self._run("pg_amcheck", "--install-missing", "--heapallindexed", "--all")
        found = self._run("psql", "-At", "-c", "select (select count(*) from pgbench_history), (select count(*) from "
                          "pgbench_accounts), (select sum(delta) from pgbench_history) = (select sum(abalance) "
                          "from pgbench_accounts)", "postgres").strip()
        assert found == f"{self.CLIENTS * self.EACH}|{self.SCALE * 100_000}|t", found
        self._stop()

    def end(self):
        if self.server is not None:
            self.server.send_signal(3)  # SIGQUIT: at once
            self.server.wait(60)
            self.server = None
        shutil.rmtree(self.stock.place / "socket", ignore_errors=True)


class Redis(real_programs.Case):
    """An append-only file, synced for each answer and each second; loaded again by the check."""

    name = "redis"
    needs = ("redis-server", "redis-benchmark", "redis-cli", "redis-check-aof")

    def __init__(self, stock):
        super().__init__(stock)
        self.server = None

    def steps(self, here):
        self.socket = self.stock.place / "redis"
        return [("", lambda: self._start(here)),
                ("redis_always", lambda: self._bench("-c", "10", "-n", "20000")),
                ("", lambda: self._ask("config", "set", "appendfsync", "everysec")),
                ("redis_everysec", lambda: self._bench("-c", "10", "-n", "200000"))]

    def _start(self, here):
        self.server = subprocess.Popen(
            ["redis-server", "--port", "0", "--unixsocket", self.socket, "--dir", here, "--save", "", "--appendonly",
             "yes", "--appendfsync", "always", "--enable-debug-command", "yes", "--logfile", "redis.log"])
        for _ in range(1000):
            if self.socket.exists() and run("redis-cli", "-s", self.socket, "ping", ok=False).stdout == "PONG\n":
                return
            assert self.server.poll() is None, (here / "redis.log").read_text()[-500:]
            time.sleep(0.01)
        raise AssertionError("Redis does not start")

    def _ask(self, *words):
        return run("redis-cli", "-s", self.socket, *words).stdout.strip()

    def _bench(self, *words):
        run("redis-benchmark", "-s", self.socket, "-t", "set", "-r", "100000", "-d", "100", "-q", *words)

    def _stop(self):
        run("redis-cli", "-s", self.socket, "shutdown", "nosave", ok=False)
        assert self.server.wait(60) == 0
        self.server = None

    def check(self, here):
        before = self._ask("dbsize"), self._ask("debug", "digest")
        assert int(before[0]) > 10_000, before
        self._stop()
        manifest = next((here / "appendonlydir").glob("*.manifest"))
        said = run("redis-check-aof", manifest).stdout
        assert "All AOF files and manifest are valid" in said, said[-500:]
        self._start(here)
        after = self._ask("dbsize"), self._ask("debug", "digest")
        assert before == after, (before, after)
        self._stop()

    def end(self):
        if self.server is not None:
            self.server.kill()
            self.server.wait()
            self.server = None


class Zlib(real_programs.Case):
    """Debian's source of zlib: configure, make (no optimization: it is not the compiler that is measured), and its
    self test."""

    name = "zlib"
    needs = ("make", "cc", "ar", "apt-get")

    def __init__(self, stock, cache):
        super().__init__(stock)
        self.cache = cache

    def missing(self):
        why = super().missing()
        if why is None and source(self.cache, self.name) is None:
            why = "apt-get source does not bring it"
        return why

    def steps(self, here):
        archive, place = source(self.cache, self.name), here / "zlib"
        place.mkdir()
        return [("build_unpack", lambda: run("tar", "-C", place, "--strip-components=1", "-xf", archive)),
                ("build_configure", lambda: run("./configure", cwd=place, env={**os.environ, "CFLAGS": "-O0"})),
                ("build_make", lambda: run("make", "-j2", cwd=place))]

    def check(self, here):
        place = here / "zlib"
        again = run("make", cwd=place).stdout
        assert " -c " not in again, again[:500]
        said = run("make", "test", cwd=place).stdout
        assert "*** zlib test OK ***" in said and "*** zlib shared test OK ***" in said, said[-500:]


def source(cache, package):
    """The archive of a Debian source package, which apt-get brings from where it has the packages from; None: no."""
    place = cache / "bench" / "source"
    if found := archive_in(place, package):
        return found
    sources = [path for path in (Path("/etc/apt/sources.list.d/debian.sources"), Path("/etc/apt/sources.list"))
               if path.exists()]
    words = "\n".join(path.read_text() for path in sources)
    server = re.search(r"^(?:URIs:|deb(?: \[.*\])?) *(http\S+)", words, re.MULTILINE)
    if server is None:
        return None
    lists = place / "apt"
    (lists / "lists" / "partial").mkdir(parents=True, exist_ok=True)
    (lists / "sources").write_text("deb-src [signed-by=/usr/share/keyrings/debian-archive-keyring.gpg] "
                                   f"{server[1]} bookworm main\n")
    options = ["-qq", "-o", f"Dir::Etc::SourceList={lists / 'sources'}", "-o", "Dir::Etc::SourceParts=-",
               "-o", f"Dir::State::Lists={lists / 'lists'}", "-o", f"Dir::Cache={lists}", "-o", "APT::Sandbox::User=root"]
    for command in (["update"], ["source", "--download-only", package]):
        done = subprocess.run(["apt-get", *options, *command], check=False, cwd=place, capture_output=True, text=True)
        if done.returncode != 0:
            print(f"programs: apt-get {command[0]}: {done.stderr[:300]}", file=sys.stderr)
            return None
    shutil.rmtree(lists)
    return archive_in(place, package)


def archive_in(place, package):
    return next((path for path in place.glob(f"{package}_*.orig.tar.*") if path.suffix != ".asc"), None)


def cases(stock, cache):
    light = [kind(stock) for kind in real_programs.LIGHT]
    return [*light, RocksDb(stock), Postgres(stock), Redis(stock), Zlib(stock, cache)]
