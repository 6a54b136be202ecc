"""Random system calls, the same ones on two filesystems: what each says of them, and what is there afterwards.

A sequence is a list of tuples, made before anything runs, so that any part of it can be run again: (user, name of
the call, arguments).  Each side runs it in a process of its own whose root is an empty directory of that filesystem.
What a call gives is its value or errno, the attributes of all that it named, and which of their times it moved.
DEVIATIONS says where the two may differ.
"""
import errno
import os
import pickle
import resource
import shutil
import signal
import tempfile
import traceback

from differ_calls import SLOTS, Side, Slot

BIG = 1 << 43  # bytes; ext4 has no larger files, and pmfs none of more than 2^50

# (what may differ and why; whether this does; whether what follows may differ for that reason, so that nothing is said
# of it).  A call is (user, name, arguments); each side's result is (value, attributes, times moved).
DEVIATIONS = [
    ("where data and holes begin: each filesystem has blocks of its own",
     lambda call, here, there: call[1] == "lseek" and call[4] in (os.SEEK_DATA, os.SEEK_HOLE), True),
    ("how long a file may be",
     lambda call, here, there: "EFBIG" in (here[0], there[0]) and goes_far(call), True),
    ("how far lseek goes",
     lambda call, here, there: call[1] == "lseek" and "EINVAL" in (here[0], there[0]), True),
    ("tmpfs looks at RLIMIT_FSIZE before an allocation behind the end, and before it says that it does not know a mode",
     lambda call, here, there: call[1] == "fallocate" and there[0] == "EFBIG", True),
    ("a shared mapping of what is open with O_DIRECT (docs/posix.md, Mappings)",
     lambda call, here, there: call[1] == "map" and here[0] == "ENODEV", True),
    ("a write past the cache keeps set-group-ID where the group may not execute (docs/posix.md, Permissions)",
     lambda call, here, there: here[0] == there[0] and only_setgid(here[1], there[1]), True),
    ("chown(path, -1, -1) while the file is open for writing (docs/posix.md, Permissions)",
     lambda call, here, there: there[0] == "EPERM" and changes_no_owner(call), True),
    ("which of two errors, where chattr(1) forbids it: the kernel does not know that, and checks the rest first",
     lambda call, here, there: there[0] == "EPERM" and is_error(here[0]) and here[1:] == there[1:], False),
    ("a write of no bytes to an immutable file: the server hears nothing of it",
     lambda call, here, there: here[0] == 0 and there[0] == "EPERM" and writes(call), False),
    ("tmpfs lets whoever had a file open before chattr(1) protected it write on; ext4 does not",
     lambda call, here, there: here[0] == "EPERM" and not is_error(there[0]) and writes(call), True),
    ("chown(path, -1, -1) of an immutable file is EPERM on ext4, and not on tmpfs",
     lambda call, here, there: here[0] == "EPERM" and there[0] is None and changes_no_owner(call), True),
    ("fcntl(2) does not know chattr's flags: O_APPEND may come and go (docs/posix.md, Files and names)",
     lambda call, here, there: call[1] == "setfl" and here[0] is None and there[0] == "EPERM", True),
    ("mmap(2) does not know them: a descriptor that is older than +a is mapped (docs/posix.md, Files and names)",
     lambda call, here, there: call[1] == "map" and not is_error(here[0]) and there[0] == "EACCES", True),
    ("a default list is taken from what is no directory, and protected: the server hears nothing of it",
     lambda call, here, there: call[1] in ("setacl", "removeacl") and call[3] and here[0] is None and there[0] == "EPERM",
     False),
    ("what was followed on the way to a file has another atime: reading sets none (docs/posix.md, Times)",
     lambda call, here, there: call[1] == "utimens" and "/" in call[2] and here[1:] == there[1:]
     and isinstance(here[0], list) and isinstance(there[0], list) and here[0][1] == there[0][1], False),
    ("access(2) does not know chattr's flags: the kernel checks it, and knows none (docs/posix.md, Files and names)",
     lambda call, here, there: call[1] == "access" and here[0] is None and there[0] == "EPERM", False),
    ("with -o writeback a file that is open for writing gets no flag (docs/posix.md, Files and names)",
     lambda call, here, there: call[1] == "chattr" and here[0] == "EBUSY", True),
    ("the ctime after a list was removed where there was none",
     lambda call, here, there: call[1] in ("setacl", "removeacl") and here[:2] == there[:2], False),
]


def is_error(value):
    return isinstance(value, str) and value in errno.errorcode.values()


def writes(call):
    return "write" in call[1] or call[1] in ("copy", "sendfile", "splice", "splice_in", "ftruncate", "map")


def changes_no_owner(call):
    return call[1] in ("chown", "fchown") and call[3:5] == (-1, -1)


def goes_far(call):
    """By an argument, or it may be by the descriptor's position."""
    return call[1] in ("write", "pwritev2") or any(isinstance(word, int) and word >= BIG for word in call[2:])


def only_setgid(here, there):
    """One side has set-group-ID where the other has not, and that is all."""
    def without(known):
        return (int(known[0], 8) & ~0o2000, *known[1:]) if isinstance(known, tuple) else known
    return here.keys() == there.keys() and all(without(here[name]) == without(there[name]) for name in here)


def deviation(call, here, there):
    """None: they may not differ so.  Else whether to go on: False, what follows is not comparable."""
    for _, applies, ends in DEVIATIONS:
        if applies(call, here, there):
            return not ends
    return None


def run_side(directory, sequence, timed):
    os.chroot(directory)
    os.chdir("/")
    os.umask(0o22)
    for number in (signal.SIGXFSZ, signal.SIGIO):
        signal.signal(number, signal.SIG_IGN)
    side = Side(timed)
    results = [side.run(call) for call in sequence]
    results += [side.run((0, "close", slot)) for slot in range(SLOTS)]
    resource.setrlimit(resource.RLIMIT_FSIZE, (-1, -1))
    try:
        tree = side.tree()
    except OSError as error:
        tree = f"the tree cannot be read: {error}"
    side.free_all()
    return [*results, (tree, {}, {})]


def start_on(base, sequence, timed):
    """Begins to run it on the filesystem of that directory."""
    directory = tempfile.mkdtemp(prefix="side-", dir=base)
    os.chmod(directory, 0o755)
    read_end, write_end = os.pipe()
    child = os.fork()
    if child == 0:
        code = 1
        try:
            os.close(read_end)
            results = run_side(directory, sequence, timed)
            with os.fdopen(write_end, "wb") as out:
                pickle.dump(results, out)
            code = 0
        except BaseException:
            traceback.print_exc()
        os._exit(code)
    os.close(write_end)
    return child, read_end, directory


def both(bases, sequence, timed):
    """What each call gives on each side, and last of all the tree."""
    running = [start_on(base, sequence, timed) for base in bases]
    results = []
    for child, pipe, directory in running:
        with os.fdopen(pipe, "rb") as file:
            text = file.read()
        status = os.waitpid(child, 0)[1]
        shutil.rmtree(directory, ignore_errors=True)
        assert status == 0, f"a side ended with {status:#x}"
        results.append(pickle.loads(text))
    return results


def first_difference(bases, sequence, timed=False):
    """(number of the call, the call, its result here, and there); None: there is none."""
    for number, (here, there) in enumerate(zip(*both(bases, sequence, timed))):
        if here == there:
            continue
        after = number - len(sequence)
        call = sequence[number] if after < 0 else (0, "close", Slot(after)) if after < SLOTS else (0, "tree")
        allowed = deviation(call, here, there)
        if allowed is None:
            return number, call, here, there
        if not allowed:
            return None
    return None


def kind_of(difference):
    """Two differences of one kind are taken for the same fault."""
    _, call, one, two = difference
    return call[1], one[0] == two[0], one[1] == two[1], str(one[0])[:12] if one[0] != two[0] and call[1] != "tree" else ""


def shortest(bases, sequence, difference, timed=False):
    """As short a sequence as can be found in which the same call differs in the same way."""
    kind = kind_of(difference)
    sequence = sequence[:difference[0] + 1]
    piece = max(1, len(sequence) // 2)
    while True:
        at = 0
        while at < len(sequence):
            shorter = sequence[:at] + sequence[at + piece:]
            found = first_difference(bases, shorter, timed)
            if found and kind_of(found) == kind:
                sequence, difference = shorter[:found[0] + 1], found
            else:
                at += piece
        if piece == 1:
            return sequence, difference
        piece //= 2


def told(sequence, difference):
    """The calls, a line each, and what differs."""
    _, call, here, there = difference
    lines = [f"  {number}: user {user}: {name}{tuple(words)!r}" for number, (user, name, *words) in enumerate(sequence)]
    parts = [("result", here[0], there[0]), ("attributes", here[1], there[1]), ("times moved", here[2], there[2])]
    for what, one, two in parts:
        if one != two and isinstance(one, dict) and isinstance(two, dict):
            names = [name for name in sorted({*one, *two}) if one.get(name) != two.get(name)]
            one, two = ({name: side.get(name) for name in names} for side in (one, two))
        if one != two:
            lines.append(f"  {what} of {call[1]}: here {one}, there {two}")
    return "\n".join(lines)
