"""LMDB, for real_programs.py.

    fill DIRECTORY COUNT AT_A_TIME
    check DIRECTORY COUNT
    grow DIRECTORY MAPPED       until the filesystem is gone: prints the number of each transaction that is committed
    grown DIRECTORY LAST        all is there up to that one; one more may be

With MAPPED 1 it stores through its mapping (MDB_WRITEMAP), else it writes past the mapping.

A program of its own, for the python3 that has the module is Debian's, which may not be the one that runs the tests.
"""
import sys

import lmdb

SIZE_MAX = 256 << 20


def key(number):
    return f"{number:08}".encode()


def value(number):
    return f"value {number * number}".encode() * 4


def fill(place, count, at_a_time):
    """With a sync for each transaction if there is one entry in each."""
    with lmdb.open(place, map_size=SIZE_MAX, sync=at_a_time == 1) as database:
        for begin in range(0, count, at_a_time):
            with database.begin(write=True) as transaction:
                for number in range(begin, begin + at_a_time):
                    transaction.put(key(number), value(number))


def grow(place, mapped):
    with lmdb.open(place, map_size=SIZE_MAX, writemap=bool(mapped)) as database:
        for number in range(1_000_000):
            with database.begin(write=True) as transaction:
                transaction.put(key(number), value(number))
            print(number, flush=True)


def grown(place, last):
    with lmdb.open(place, map_size=SIZE_MAX) as database:
        count = database.stat()["entries"]
        assert count in (last + 1, last + 2), (count, last)
    check(place, count)
    with lmdb.open(place, map_size=SIZE_MAX) as database, database.begin(write=True) as transaction:
        transaction.put(key(count), value(count))
    check(place, count + 1)


def check(place, count):
    with lmdb.open(place, readonly=True) as database, database.begin() as transaction:
        assert database.stat()["entries"] == count, database.stat()
        for number, found in enumerate(transaction.cursor()):
            assert found == (key(number), value(number)), found


if __name__ == "__main__":
    {"fill": fill, "check": check, "grow": grow, "grown": grown}[sys.argv[1]](sys.argv[2], *map(int, sys.argv[3:]))
