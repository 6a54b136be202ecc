"""System calls by name, as differ.py makes them: each in the place of some process, and what is seen afterwards."""
import contextlib
import ctypes
import errno
import fcntl
import hashlib
import mmap
import os
import pickle
import resource
import stat
import struct
import time

libc = ctypes.CDLL(None, use_errno=True)
AT_FDCWD, AT_EMPTY_PATH, AT_SYMLINK_FOLLOW, AT_SYMLINK_NOFOLLOW = -100, 0x1000, 0x400, 0x100
AT_REMOVEDIR, AT_EACCESS = 0x200, 0x200
SYS_STATX = 332
FS_IOC_GETFLAGS, FS_IOC_SETFLAGS = 0x80086601, 0x40086602
IMMUTABLE, APPEND_ONLY, NO_DUMP, NO_ACCESS_TIME = 0x10, 0x20, 0x40, 0x80
KNOWN_FLAGS = IMMUTABLE | APPEND_ONLY | NO_DUMP | NO_ACCESS_TIME
UTIME_NOW, UTIME_OMIT = (1 << 30) - 1, (1 << 30) - 2
SLOTS = 6
TICK = 0.0045  # seconds after which the kernel's coarse clock has moved
UNTIMED = {"umask", "limit", "getfl", "flock", "lockf", "lease", "getlease", "statfs", "access", "list", "list_open"}


def check(result):
    if result == -1:
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code))
    return result


def digest(data):
    return (len(data), hashlib.blake2b(data, digest_size=6).hexdigest())


def content(mark, size):
    """Bytes that are never zero, so that they are not taken for a hole."""
    return bytes((mark + i * 7) % 255 + 1 for i in range(min(size, 4099))).ljust(min(size, 4099), b"x") * (size // 4099 + 1)


def acl_bytes(entries):
    """The value of system.posix_acl_*: (tag, permissions, id)."""
    return struct.pack("<I", 2) + b"".join(struct.pack("<HHI", tag, bits, who & 0xffffffff) for tag, bits, who in entries)


class Slot(int):
    """An argument that names an open file."""


class Text:
    """An argument that names no path."""

    def __init__(self, s):
        self.s = s

    def __repr__(self):
        return repr(self.s) if len(self.s) < 60 else f"{self.s[:8]!r} * ({len(self.s)} bytes)"


class Side:
    """Runs calls in the directory that is its root."""

    def __init__(self, timed):
        self.timed = timed  # whether to look which times each call moves
        self.slots = [None] * SLOTS

    def fd(self, slot):
        if self.slots[slot] is None:
            raise OSError(errno.EBADF, "nothing is open there")
        return self.slots[slot]

    # --- what is seen of a file

    def seen(self, target):
        try:
            st = os.fstat(target) if isinstance(target, int) else os.lstat(target)
        except OSError as error:
            return errno.errorcode[error.errno], None
        except ValueError:
            return "ValueError", None
        known = (oct(st.st_mode), st.st_nlink, st.st_uid, st.st_gid,
                 st.st_size if not stat.S_ISDIR(st.st_mode) else "", st.st_rdev)
        return known, (st.st_ino, st.st_mtime_ns, st.st_ctime_ns)

    def watched(self, call):
        """All that a call names, and the directories above it."""
        found = {}
        for word in call[2:]:
            if isinstance(word, str) and 0 < len(word) < 200 and not word.startswith("user.") and "\0" not in word:
                found[word] = word
                found[os.path.dirname(word.rstrip("/")) or "."] = os.path.dirname(word.rstrip("/")) or "."
            if isinstance(word, Slot) and self.slots[word] is not None:
                found[f"[{int(word)}]"] = self.slots[word]
        return found

    def run(self, call):
        user, name, *arguments = call
        watched = self.watched(call)
        before = {}
        if self.timed and name not in UNTIMED:
            time.sleep(TICK)
            before = {label: self.seen(target) for label, target in watched.items()}
        try:
            if user:
                os.setgroups([100] if user == 1000 else [])
                os.setresgid(user, user, 0)
                os.setresuid(user, user, 0)
            try:
                value = getattr(self, "do_" + name)(*arguments)
            finally:
                if user:
                    os.setresuid(0, 0, 0)
                    os.setresgid(0, 0, 0)
                    os.setgroups([])
        except OSError as error:
            value = errno.errorcode.get(error.errno, error.errno)
        except ValueError as error:
            value = f"ValueError {error}"
        after = {label: self.seen(target) for label, target in self.watched(call).items()}
        moved = {}
        for label, (_, times) in before.items():
            now = after.get(label, (None, None))[1]
            if times and now and times[0] == now[0]:
                moved[label] = ("m" * (times[1] != now[1])) + ("c" * (times[2] != now[2]))
        return value, {label: known for label, (known, _) in after.items()}, moved

    # --- names

    def do_open(self, slot, path, flags, mode):
        fd = os.open(path, flags, mode)
        self.do_close(slot)
        self.slots[slot] = fd

    def do_openat(self, slot, at, path, flags, mode):
        fd = os.open(path, flags, mode, dir_fd=self.fd(at))
        self.do_close(slot)
        self.slots[slot] = fd

    def do_close(self, slot):
        fd, self.slots[slot] = self.slots[slot], None
        if fd is not None:
            os.close(fd)

    def do_mkdir(self, path, mode):
        os.mkdir(path, mode)

    def do_rmdir(self, path):
        os.rmdir(path)

    def do_unlink(self, path):
        os.unlink(path)

    def do_mknod(self, path, mode, device):
        os.mknod(path, mode, device)

    def do_symlink(self, target, path):
        os.symlink(target.s, path)

    def do_readlink(self, path):
        return digest(os.fsencode(os.readlink(path)))

    def do_link(self, path, other, follow):
        check(libc.linkat(AT_FDCWD, os.fsencode(path), AT_FDCWD, os.fsencode(other), AT_SYMLINK_FOLLOW if follow else 0))

    def do_link_open(self, slot, path):
        check(libc.linkat(self.fd(slot), b"", AT_FDCWD, os.fsencode(path), AT_EMPTY_PATH))

    def do_rename(self, path, other, flags):
        check(libc.renameat2(AT_FDCWD, os.fsencode(path), AT_FDCWD, os.fsencode(other), flags))

    def do_list(self, path):
        return sorted((e.name, e.is_dir(follow_symlinks=False), e.is_symlink(), e.is_file(follow_symlinks=False)) for e in os.scandir(path))

    def do_list_open(self, slot):
        return sorted(os.listdir(self.fd(slot)))

    # --- attributes

    def do_stat(self, path):
        st = os.stat(path)
        return oct(st.st_mode), st.st_uid, st.st_gid

    def do_chmod(self, path, mode):
        os.chmod(path, mode)

    def do_fchmod(self, slot, mode):
        os.fchmod(self.fd(slot), mode)

    def do_fchmodat2(self, path, mode):
        check(libc.syscall(452, AT_FDCWD, os.fsencode(path), mode, AT_SYMLINK_NOFOLLOW))

    def do_chown(self, path, uid, gid, follow):
        os.chown(path, uid, gid, follow_symlinks=follow)

    def do_fchown(self, slot, uid, gid):
        os.fchown(self.fd(slot), uid, gid)

    def do_utimens(self, path, times, follow):
        packed = struct.pack("4q", *times)
        check(libc.utimensat(AT_FDCWD, os.fsencode(path), packed, 0 if follow else AT_SYMLINK_NOFOLLOW))
        st = os.stat(path, follow_symlinks=follow)
        return [at if asked not in (UTIME_NOW, UTIME_OMIT) else asked
                for asked, at in zip(times[1::2], (st.st_atime_ns, st.st_mtime_ns))]

    def do_futimens(self, slot, times):
        check(libc.futimens(self.fd(slot), struct.pack("4q", *times)))

    def do_access(self, path, mode, effective, follow):
        flags = (AT_EACCESS if effective else 0) | (0 if follow else AT_SYMLINK_NOFOLLOW)
        check(libc.syscall(439, AT_FDCWD, os.fsencode(path), mode, flags))

    @staticmethod
    def flags(fd):
        word = ctypes.c_long(0)
        check(libc.ioctl(fd, ctypes.c_ulong(FS_IOC_GETFLAGS), ctypes.byref(word)))
        return word.value

    def do_chattr(self, path, flags):
        fd = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
        try:
            all_flags = self.flags(fd)
            was = all_flags & KNOWN_FLAGS
            word = ctypes.c_long(all_flags & ~KNOWN_FLAGS | flags)
            check(libc.ioctl(fd, ctypes.c_ulong(FS_IOC_SETFLAGS), ctypes.byref(word)))
            return was
        finally:
            os.close(fd)

    def do_umask(self, mask):
        os.umask(mask)

    def do_statfs(self, path):
        st = os.statvfs(path)
        return st.f_namemax

    def do_setxattr(self, path, name, mark, size, flags, follow):
        os.setxattr(path, name.s, content(mark, size)[:size], flags, follow_symlinks=follow)

    def do_fsetxattr(self, slot, name, mark, size, flags):
        os.setxattr(self.fd(slot), name.s, content(mark, size)[:size], flags)

    def do_getxattr(self, path, name, room, follow):
        buffer = ctypes.create_string_buffer(max(room, 1))
        call = libc.getxattr if follow else libc.lgetxattr
        got = check(call(os.fsencode(path), os.fsencode(name.s), buffer if room else None, room))
        return got, digest(buffer.raw[:got]) if room else None

    def do_listxattr(self, path, room, follow):
        if room is not None:
            buffer = ctypes.create_string_buffer(max(room, 1))
            call = libc.listxattr if follow else libc.llistxattr
            return check(call(os.fsencode(path), buffer if room else None, room)) > 0
        return sorted(os.listxattr(path, follow_symlinks=follow))

    def do_removexattr(self, path, name, follow):
        os.removexattr(path, name.s, follow_symlinks=follow)

    def do_setacl(self, path, default, entries):
        os.setxattr(path, "system.posix_acl_" + ("default" if default else "access"), acl_bytes(entries))

    def do_getacl(self, path, default):
        return os.getxattr(path, "system.posix_acl_" + ("default" if default else "access")).hex()

    def do_removeacl(self, path, default):
        os.removexattr(path, "system.posix_acl_" + ("default" if default else "access"))

    # --- data

    def do_read(self, slot, size):
        return digest(os.read(self.fd(slot), size))

    def do_pread(self, slot, size, offset):
        return digest(os.pread(self.fd(slot), size, offset))

    def do_write(self, slot, mark, size):
        return os.write(self.fd(slot), content(mark, size)[:size])

    def do_pwrite(self, slot, mark, size, offset):
        return os.pwrite(self.fd(slot), content(mark, size)[:size], offset)

    def do_pwritev2(self, slot, mark, size, offset, flags):
        return os.pwritev(self.fd(slot), [content(mark, size)[:size]], offset, flags)

    def do_preadv2(self, slot, size, offset, flags):
        buffer = bytearray(size)
        got = os.preadv(self.fd(slot), [buffer], offset, flags)
        return digest(bytes(buffer[:got]))

    def do_lseek(self, slot, offset, whence):
        if whence == os.SEEK_END and stat.S_ISDIR(os.fstat(self.fd(slot)).st_mode):
            return "a directory has no end"
        return os.lseek(self.fd(slot), offset, whence)

    def do_truncate(self, path, size):
        os.truncate(path, size)

    def do_ftruncate(self, slot, size):
        os.ftruncate(self.fd(slot), size)

    def do_fallocate(self, slot, mode, offset, size):
        check(libc.fallocate64(self.fd(slot), mode, ctypes.c_int64(offset), ctypes.c_int64(size)))

    def do_fsync(self, slot, data_only):
        (os.fdatasync if data_only else os.fsync)(self.fd(slot))

    def do_sync_file_range(self, slot, offset, size, flags):
        check(libc.sync_file_range(self.fd(slot), ctypes.c_int64(offset), ctypes.c_int64(size), flags))

    def do_fadvise(self, slot, offset, size, advice):
        check_positive(libc.posix_fadvise(self.fd(slot), ctypes.c_int64(offset), ctypes.c_int64(size), advice))

    def do_readahead(self, slot, offset, size):
        check(libc.readahead(self.fd(slot), ctypes.c_int64(offset), ctypes.c_size_t(size)))

    def do_copy(self, slot, to, offset, at, size):
        return os.copy_file_range(self.fd(slot), self.fd(to), size, offset, at)

    def do_sendfile(self, slot, to, offset, size):
        if os.path.sameopenfile(self.fd(slot), self.fd(to)):
            return "a file into itself: whether it sees what it writes is anybody's choice"
        return os.sendfile(self.fd(to), self.fd(slot), offset, size)

    def do_splice(self, slot, offset, size):
        ends = os.pipe()
        try:
            return os.splice(self.fd(slot), ends[1], min(size, 4096), offset_src=offset)
        finally:
            for end in ends:
                os.close(end)

    def do_splice_in(self, slot, mark, offset, size):
        ends = os.pipe()
        try:
            os.write(ends[1], content(mark, size)[:min(size, 4096)])
            return os.splice(ends[0], self.fd(slot), min(size, 4096), offset_dst=offset)
        finally:
            for end in ends:
                os.close(end)

    def do_map(self, slot, store, shared, offset, size, mark):
        fd = self.fd(slot)
        end = os.fstat(fd).st_size
        protection = mmap.PROT_READ | (mmap.PROT_WRITE if store else 0)
        with mmap.mmap(fd, size, mmap.MAP_SHARED if shared else mmap.MAP_PRIVATE, protection, offset=offset) as mapping:
            inside = max(0, min(size, end - offset))
            if store and inside:
                mapping[inside // 2:inside] = content(mark, inside)[:inside - inside // 2]
                if shared and self.flags(fd) & (IMMUTABLE | APPEND_ONLY):
                    mapping.flush()  # else it would be refused later, and nobody would hear of it
            return digest(mapping[:inside])

    def do_setfl(self, slot, flags):
        fd = self.fd(slot)
        if stat.S_ISFIFO(os.fstat(fd).st_mode):
            flags |= os.O_NONBLOCK  # it must not wait
        fcntl.fcntl(fd, fcntl.F_SETFL, flags)

    def do_getfl(self, slot):
        return fcntl.fcntl(self.fd(slot), fcntl.F_GETFL) & ~0o100000

    def do_flock(self, slot, how):
        fcntl.flock(self.fd(slot), how | fcntl.LOCK_NB)

    def do_lockf(self, slot, how, offset, size):
        fcntl.fcntl(self.fd(slot), fcntl.F_SETLK, struct.pack("hhqqi4x", how, os.SEEK_SET, offset, size, 0))

    def do_lease(self, slot, how):
        fcntl.fcntl(self.fd(slot), fcntl.F_SETLEASE, how)

    def do_getlease(self, slot):
        return fcntl.fcntl(self.fd(slot), fcntl.F_GETLEASE)

    def do_limit(self, size):
        resource.setrlimit(resource.RLIMIT_FSIZE, (size, resource.RLIM_INFINITY))

    def do_statx(self, path, flags, mask):
        buffer = ctypes.create_string_buffer(256)
        check(libc.syscall(SYS_STATX, AT_FDCWD, os.fsencode(path), flags, mask, buffer))
        return struct.unpack_from("I", buffer.raw)[0] & 0x7ff & mask

    def do_ioctl(self, slot, number):
        buffer = ctypes.create_string_buffer(64)
        check(libc.ioctl(self.fd(slot), ctypes.c_ulong(number), buffer))

    # --- all of it

    def free_all(self):
        """Nothing is immutable any more, so that it can be removed."""
        for directory, below, files in os.walk("/"):
            for name in [".", *below, *files]:
                path = os.path.join(directory, name)
                if stat.S_IFMT(os.lstat(path).st_mode) in (stat.S_IFREG, stat.S_IFDIR):
                    with contextlib.suppress(OSError):
                        self.do_chattr(path, 0)

    def tree(self):
        found = {}
        for directory, below, files in os.walk("/"):
            for name in sorted(below + files):
                path = os.path.join(directory, name)
                st = os.lstat(path)
                data = None
                if stat.S_ISREG(st.st_mode):
                    data = file_digest(path)
                elif stat.S_ISLNK(st.st_mode):
                    data = digest(os.fsencode(os.readlink(path)))
                names = sorted(os.listxattr(path, follow_symlinks=False))
                found[path] = (self.seen(path)[0], data,
                               [(key, digest(os.getxattr(path, key, follow_symlinks=False))) for key in names])
        return found


def file_digest(path):
    """Of what is not a hole, for files may be as long as can be."""
    found = []
    with open(path, "rb", buffering=0) as file:
        at = 0
        with contextlib.suppress(OSError):  # ENXIO: no more
            while True:
                data = os.lseek(file.fileno(), at, os.SEEK_DATA)
                at = os.lseek(file.fileno(), data, os.SEEK_HOLE)
                for piece in range(data, at, 4096):
                    block = os.pread(file.fileno(), min(4096, at - piece), piece)
                    if any(block):
                        found.append((piece, block.rstrip(b"\0")))
    return digest(pickle.dumps(found))


def check_positive(code):
    if code != 0:
        raise OSError(code, os.strerror(code))
