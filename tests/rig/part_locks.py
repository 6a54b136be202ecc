"""Locks that hold between guests and this machine: tests/rig/run A, or tests/rig/run locks.

Two guests without a window, each with its kernel and its kind of device, and this machine, whose mount has
joined by local_lock=none: all three count in one SQLite database and in one file under flock(1), so that an
update which is lost is seen.  Then one guest is killed with a lock that the other and this machine wait for.
"""
# Holds docs/guests.md "File locks".
import contextlib
import fcntl
import sqlite3
import threading
import time

import kernel as kernels
import packages
from guest import Guest, qemu
from initramfs import Initramfs
from served import Served, Unserved

TRANSACTIONS, ROUNDS = 100, 20
BOOT_SECONDS = 150
CALL_SECONDS = 60


def run(place):
    machines = {"fs": qemu(packages.STABLE), "test": qemu(packages.NEWEST)}
    chosen = {"6.12": kernels.debian(packages.STABLE, kernels.STABLE_CLOUD_RELEASE),
              "newest": kernels.debian(packages.NEWEST, kernels.NEWEST_CLOUD_RELEASE)}
    claims(place, machines, chosen)


def claims(place, machines, chosen):
    """machines: by kind of device; chosen: the kernels."""
    with Served(place, "locks") as served:
        try:
            served.start("local_lock=none", guests=2)
        except Unserved as why:
            place.report("locks: the server starts", str(why))
            return
        Counting(place, served, machines, chosen).run()
        served.end("locks")


class Counting:
    def __init__(self, place, served, machines, chosen):
        self.place, self.served = place, served
        self.holding, self.counted = threading.Event(), threading.Event()
        self.by_host, self.host_failed = {"database": 0, "file": 0}, []
        database = self.database()
        with contextlib.closing(database):
            database.executescript("create table counter(n integer); insert into counter values (0);"
                                   "create table log(n integer primary key, who text);")
        (served.mnt / "counter").write_text("0\n")
        self.guests = [self.guest(1, "fs", machines["fs"], chosen["6.12"]),
                       self.guest(2, "test", machines["test"], chosen["newest"])]

    def database(self):
        return sqlite3.connect(self.served.mnt / "database", timeout=CALL_SECONDS, isolation_level=None)

    def guest(self, role, kind, machine, kernel):
        answers = {**self.served.answers(), "holding": self.holding.set, "held": self.wait_until_held,
                   "kill_the_other": self.kill_the_other}
        return Guest(machine, kernel, self.initramfs(f"locks-{kind}", kernel), answers=answers, shared=True,
                     log=self.place.scratch / f"locks-{kind}.log", seconds=BOOT_SECONDS, memory="512M",
                     devices=self.served.device(kind, role - 1), append=f"rig_role={role} rig_transactions={TRANSACTIONS} rig_rounds={ROUNDS}")

    def initramfs(self, name, kernel):
        tree = self.place.tools()
        made = Initramfs(kernel, ["virtio_pci", "virtiofs"], tree)
        made.add_program("usr/bin/flock", root=tree)
        made.add_program("usr/bin/sqlite3", root=packages.tree(packages.STABLE, "programs", ["git", "sqlite3"]))
        made.add_program(self.place.build / "tests/rig/file_calls")
        made.add_file("/test", self.place.HERE / "guest/locks.sh", 0o755)
        path = self.place.scratch / f"{name}.initramfs"
        made.write(path)
        return path

    def wait_until_held(self):
        assert self.holding.wait(CALL_SECONDS), "nobody holds it"

    def kill_the_other(self):
        """While this machine waits for the lock, too."""
        got = threading.Event()

        def wait():
            with open(self.served.mnt / "held", "wb") as file:
                fcntl.flock(file, fcntl.LOCK_EX)
            got.set()

        waiter = threading.Thread(target=wait, daemon=True)
        waiter.start()
        time.sleep(0.2)
        assert not got.is_set(), "the host has a lock that a guest holds"
        self.guests[1].kill()
        waiter.join(CALL_SECONDS)
        assert got.is_set(), "the host does not get the lock"

    def count_here(self):
        """Beside the guests, until they have counted."""
        try:
            with contextlib.closing(self.database()) as database:
                while not self.counted.wait(0.02):
                    database.executescript("begin immediate; update counter set n = n + 1;"
                                           "insert into log select n, 'host' from counter; commit;")
                    self.by_host["database"] += 1
                    self.count_under_flock()
        except (sqlite3.Error, OSError, ValueError) as error:
            self.host_failed.append(f"{type(error).__name__}: {error}")

    def count_under_flock(self):
        with open(self.served.mnt / "lock", "wb") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            counter = self.served.mnt / "counter"
            counter.write_text(f"{int(counter.read_text()) + 1}\n")
            self.by_host["file"] += 1

    def run(self):
        begin = time.monotonic()
        first, second = self.guests
        host = threading.Thread(target=self.count_here)
        other = threading.Thread(target=lambda: (second.wait_for("HELD"), self.counted.set()))
        for guest in self.guests:
            guest.start()
        for thread in (host, other):
            thread.start()
        outcome = first.wait()
        self.counted.set()
        second.kill()
        for thread in (host, other):
            thread.join()
        self.place.judge("locks: guest 1", outcome)
        self.place.judge("locks: guest 2", second.outcome(ended="HELD"))
        self.look()
        print(f"rig: locks: {time.monotonic() - begin:.1f} s; the host counted {self.by_host}", flush=True)

    def look(self):
        report = self.place.report
        report("locks: the host counts beside two guests",
               self.host_failed[0] if self.host_failed else None if min(self.by_host.values()) else "it did not")
        with contextlib.closing(self.database()) as database:
            def one(words):
                return database.execute(words).fetchone()[0]

            wanted = 2 * TRANSACTIONS + self.by_host["database"]
            for words, got, right in (
                    ("SQLite finds the database whole", one("pragma integrity_check"), "ok"),
                    ("SQLite: no transaction of two guests and the host was lost", one("select n from counter"), wanted),
                    ("SQLite: each of them saw the one before", one("select count(*) from log"), wanted)):
                report(f"locks: {words}", None if got == right else f"{got!r} instead of {right!r}")
        got, right = int((self.served.mnt / "counter").read_text()), 2 * ROUNDS + self.by_host["file"]
        report("locks: under flock no count was lost", None if got == right else f"{got} instead of {right}")
