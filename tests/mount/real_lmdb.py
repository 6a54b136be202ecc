"""LMDB, for real_programs.py: fill DIRECTORY COUNT AT_A_TIME, or check DIRECTORY COUNT.

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


def check(place, count):
    with lmdb.open(place, readonly=True) as database, database.begin() as transaction:
        assert database.stat()["entries"] == count, database.stat()
        for number, found in enumerate(transaction.cursor()):
            assert found == (key(number), value(number)), found


if __name__ == "__main__":
    {"fill": fill, "check": check}[sys.argv[1]](sys.argv[2], *map(int, sys.argv[3:]))
