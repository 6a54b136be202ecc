"""Random sequences of system calls for differ.py."""
import fcntl
import os
import random
import stat

from differ_calls import (APPEND_ONLY, AT_EMPTY_PATH, AT_SYMLINK_NOFOLLOW, IMMUTABLE, NO_ACCESS_TIME, NO_DUMP, SLOTS,
                          UTIME_NOW, UTIME_OMIT, Slot, Text)

RWF_HIPRI, RWF_DSYNC, RWF_SYNC, RWF_APPEND, RWF_UNKNOWN = 1, 2, 4, 16, 0x4000


class Maker:
    """Makes random calls."""

    def __init__(self, seed, zeroes=True, direct=True, far=True):
        """Without what the filesystem does not have: FALLOC_FL_ZERO_RANGE, O_DIRECT of any place, offsets of 2^44 and more."""
        self.direct, self.far_away = direct, far
        self.random = random.Random(seed)
        self.modes = (0, 1, 3, 3, 2, 16, 17) if zeroes else (0, 1, 3, 3, 2)

    def any(self, *choices):
        return self.random.choice(choices)

    def path(self):
        r = self.random
        depth = r.choice((1, 1, 1, 1, 2, 2, 2, 3))
        path = "/".join(r.choice("abcdef") for _ in range(depth))
        odd = r.randrange(40)
        if odd == 0:
            path += "/"
        elif odd == 1:
            path += r.choice(("/.", "/..", "/./a"))
        elif odd == 2:
            path = r.choice(("", ".", "..", "/", "./a", "../a", "a//b", "/a/b"))
        elif odd == 3:
            path += "/" + "n" * r.choice((254, 255, 256))
        elif odd == 4:
            path = "n" * r.choice((255, 256))
        elif odd == 5:
            path = "./" * r.choice((2046, 2047, 2048)) + r.choice(("a", ""))
        return path

    def slot(self):
        return Slot(self.random.randrange(SLOTS))

    def user(self):
        return self.random.choice((0, 0, 0, 0, 1000, 1001))

    def place(self):
        r = self.random
        return r.choice((0, 0, 1, 4095, 4096, 4097, 10000, 65536, r.randrange(1 << 18), r.randrange(1 << 18)))

    def size(self):
        r = self.random
        return r.choice((0, 1, 100, 4096, 5000, 8192, 20000, r.randrange(1, 100000)))

    def far(self):
        """An offset or size, which may be too far."""
        r = self.random
        if r.randrange(12) or not self.far_away:
            return self.place()
        return r.choice((-1, -4096, 1 << 31, 1 << 32, (1 << 44) - 4096, 1 << 40, (1 << 63) - 1, (1 << 63) - 4096, 1 << 62))

    def flags(self):
        r = self.random
        flags = r.choice((os.O_RDONLY, os.O_RDWR, os.O_RDWR, os.O_WRONLY, 3))
        for bit, chance in ((os.O_CREAT, 2), (os.O_EXCL, 6), (os.O_TRUNC, 5), (os.O_APPEND, 6), (os.O_NOFOLLOW, 8),
                            (os.O_DIRECTORY, 12), (os.O_PATH, 14), (os.O_SYNC, 12), (os.O_DSYNC, 12), (os.O_NOATIME, 14),
                            (os.O_DIRECT, 30)):
            if bit == os.O_DIRECT and not self.direct:
                continue
            if r.randrange(chance) == 0:
                flags |= bit
        if r.randrange(12) == 0:
            flags |= os.O_TMPFILE
        return flags | os.O_NONBLOCK  # a FIFO must not wait

    def mode(self):
        return self.any(0o644, 0o600, 0o755, 0o777, 0o666, 0o4755, 0o2755, 0o2775, 0o2644, 0o6777, 0o1777, 0o000, 0o7777, 0o640)

    def times(self):
        r = self.random
        one = lambda: r.choice(((0, UTIME_NOW), (0, UTIME_OMIT), (r.randrange(1 << 31), r.randrange(10**9)), (0, 0), (1, 999999999),
                                (r.randrange(1 << 31), 10**9), (-1, 5), (1 << 31, 0), (1 << 33, 7), (5, -1)))
        return one() + one()

    def name(self):
        r = self.random
        key = r.choice(("user.a", "user.b", "user.c", "user.d", "trusted.a", "security.a"))
        odd = r.randrange(25)
        if odd == 0:
            key = r.choice(("user.", "a", "", "other.a", "user", "trusted.", "system.a", "security."))
        elif odd == 1:
            key = "user." + "k" * r.choice((249, 250, 251))
        return Text(key)

    def acl(self):
        r = self.random
        bits = lambda: r.randrange(8)
        entries = [(1, bits(), -1), (4, bits(), -1), (0x20, bits(), -1)]
        if r.randrange(3):
            entries = [entries[0], (2, bits(), r.choice((1000, 1001))), entries[1], (0x10, bits(), -1), entries[2]]
        if r.randrange(4) == 0:
            entries.insert(-2 if len(entries) > 3 else -1, (8, bits(), r.choice((100, 1001))))
        if r.randrange(10) == 0:
            entries = r.sample(entries, r.randrange(len(entries)))
        return entries

    def device(self):
        return self.any(0, os.makedev(1, 3), os.makedev(259, 12345), os.makedev(4095, 1048575))

    # Each: how often, beside the others; and the call's arguments.
    def names(self, slot, path):
        r, flip, mark = self.random, self.flip, self.mark
        return {
            "open": (14, lambda: (slot, path, self.flags(), self.mode())),
            "openat": (2, lambda: (slot, self.slot(), path, self.flags(), self.mode())),
            "close": (4, lambda: (slot,)),
            "mkdir": (6, lambda: (path, self.mode())),
            "rmdir": (3, lambda: (path,)),
            "unlink": (3, lambda: (path,)),
            "mknod": (3, lambda: (path, self.any(stat.S_IFREG, stat.S_IFIFO, stat.S_IFSOCK, stat.S_IFCHR,
                stat.S_IFBLK, 0, stat.S_IFDIR, 0o150000) | self.mode(), self.device())),
            "symlink": (3, lambda: (Text(self.any("a", "b/c", "../a", "nowhere", "/a", ".", "/", "c/",
                "t" * r.choice((1, 59, 60, 127, 128, 255, 256, 4094, 4095, 4096)), "")), path)),
            "readlink": (2, lambda: (path,)),
            "link": (4, lambda: (path, self.path(), flip())),
            "link_open": (2, lambda: (slot, path)),
            "rename": (8, lambda: (path, self.path(), r.choice((0, 0, 0, 1, 2, 3, 6, 8)))),
            "list": (2, lambda: (path,)),
            "list_open": (1, lambda: (slot,)),
        }

    def attributes(self, slot, path):
        r, flip, mark = self.random, self.flip, self.mark
        return {
            "stat": (2, lambda: (path,)),
            "chmod": (4, lambda: (path, self.mode())),
            "fchmod": (2, lambda: (slot, self.mode())),
            "fchmodat2": (1, lambda: (path, self.mode())),
            "chown": (4, lambda: (path, r.choice((-1, 0, 1000, 1001)), r.choice((-1, 0, 100, 1000, 1001)), flip())),
            "fchown": (1, lambda: (slot, r.choice((-1, 0, 1000)), r.choice((-1, 100, 1000)))),
            "utimens": (3, lambda: (path, self.times(), flip())),
            "futimens": (1, lambda: (slot, self.times())),
            "access": (3, lambda: (path, r.randrange(9), flip(), flip())),
            "chattr": (2, lambda: (path, r.choice((0, 0, 0, IMMUTABLE, APPEND_ONLY, NO_DUMP, NO_ACCESS_TIME)))),
            "umask": (1, lambda: (r.choice((0, 0o22, 0o77, 0o777)),)),
            "statfs": (1, lambda: (path,)),
            "setxattr": (4, lambda: (path, self.name(), mark(), r.choice((0, 1, 10, 300, 1000)), r.choice((0, 0, 1,
                2, 3, 4)), flip())),
            "fsetxattr": (1, lambda: (slot, self.name(), mark(), r.choice((0, 10, 100)), r.choice((0, 1, 2)))),
            "getxattr": (2, lambda: (path, self.name(), r.choice((0, 1, 10, 999, 65536, 70000)), flip())),
            "listxattr": (2, lambda: (path, r.choice((None, None, 0, 1, 5, 70000)), flip())),
            "removexattr": (2, lambda: (path, self.name(), flip())),
            "setacl": (4, lambda: (path, flip(), self.acl())),
            "getacl": (2, lambda: (path, flip())),
            "removeacl": (1, lambda: (path, flip())),
            "statx": (1, lambda: (path, r.choice((0, AT_SYMLINK_NOFOLLOW, AT_EMPTY_PATH)), r.choice((0x7ff, 0,
                0x200)))),
        }

    def data(self, slot, path):
        r, flip, mark = self.random, self.flip, self.mark
        return {
            "read": (3, lambda: (slot, self.size())),
            "pread": (3, lambda: (slot, self.size(), self.far())),
            "write": (5, lambda: (slot, mark(), self.size())),
            "pwrite": (6, lambda: (slot, mark(), self.size(), self.far())),
            "pwritev2": (3, lambda: (slot, mark(), self.size(), r.choice((-1, self.place(), self.far())),
                r.choice((0, RWF_DSYNC, RWF_SYNC, RWF_APPEND, RWF_HIPRI, RWF_UNKNOWN)))),
            "preadv2": (2, lambda: (slot, self.size(), r.choice((-1, self.place())), r.choice((0, RWF_HIPRI,
                RWF_UNKNOWN)))),
            "lseek": (3, lambda: (slot, self.far(), r.choice((0, 1, 2, 3, 4, 5)))),
            "truncate": (3, lambda: (path, self.far())),
            "ftruncate": (4, lambda: (slot, self.far())),
            "fallocate": (5, lambda: (slot, r.choice(self.modes), self.place() if r.randrange(8) else self.far(),
                self.size())),
            "fsync": (2, lambda: (slot, flip())),
            "sync_file_range": (1, lambda: (slot, self.far(), self.size(), r.choice((0, 1, 2, 4, 7, 8)))),
            "fadvise": (1, lambda: (slot, self.place(), self.size(), r.randrange(7))),
            "readahead": (1, lambda: (slot, self.place(), self.size())),
            "copy": (3, lambda: (slot, self.slot(), self.place(), self.far(), self.size())),
            "sendfile": (2, lambda: (slot, self.slot(), self.place(), self.size())),
            "splice": (1, lambda: (slot, self.far(), self.size())),
            "splice_in": (1, lambda: (slot, mark(), self.far(), self.size())),
            "map": (3, lambda: (slot, flip(), flip(), r.choice((0, 0, 4096, 65536)), r.choice((1, 4096, 10000,
                70000)), mark())),
            "setfl": (1, lambda: (slot, r.choice((0, os.O_APPEND, os.O_NONBLOCK, os.O_NOATIME)))),
            "getfl": (1, lambda: (slot,)),
            "flock": (1, lambda: (slot, r.choice((fcntl.LOCK_SH, fcntl.LOCK_EX, fcntl.LOCK_UN)))),
            "lockf": (1, lambda: (slot, r.choice((fcntl.F_RDLCK, fcntl.F_WRLCK, fcntl.F_UNLCK)), self.far(),
                self.far())),
            "lease": (1, lambda: (slot, r.choice((fcntl.F_RDLCK, fcntl.F_WRLCK, fcntl.F_UNLCK)))),
            "getlease": (1, lambda: (slot,)),
            "limit": (1, lambda: (r.choice((-1, -1, -1, 100000, 8192, 0)),)),
            "ioctl": (1, lambda: (slot, r.choice((0x541B, 2, 0x80081272, 0x1234)))),
        }

    def flip(self):
        return bool(self.random.randrange(2))

    def mark(self):
        return self.random.randrange(255)

    def call(self):
        slot, path = self.slot(), self.path()
        makers = {**self.names(slot, path), **self.attributes(slot, path), **self.data(slot, path)}
        name = self.random.choices(list(makers), [often for often, _ in makers.values()])[0]
        return (self.user(), name, *makers[name][1]())

    def sequence(self, length):
        # Something to begin with, so that calls meet.
        begin = [(0, "mkdir", "a", 0o777), (0, "mkdir", "b", 0o755),
                 (0, "open", Slot(0), "c", os.O_CREAT | os.O_RDWR, 0o666), (0, "chmod", ".", self.any(0o777, 0o755, 0o1777, 0o2777))]
        return begin + [self.call() for _ in range(length)]
