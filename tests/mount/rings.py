"""FUSE over io_uring for as long as a test runs: the kernel's switch for it is machine-wide, and off."""
import fcntl
import os
from pathlib import Path

SWITCH = Path("/sys/module/fuse/parameters/enable_uring")
# A process that needs it switched on holds a shared lock of this file, which contains the old
# setting.
USERS = Path("/run/lock/pmfs-test-enable-uring")


class Rings:
    """Switches it on; the last one that is done with it puts it back."""

    def __init__(self):
        self.users = os.open(USERS, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(self.users, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if SWITCH.read_text().strip() != "Y":
                os.pwrite(self.users, b"N", 0)
                SWITCH.write_text("Y")
        except BlockingIOError:
            pass  # it is on: others have it
        fcntl.flock(self.users, fcntl.LOCK_SH)

    def end(self):
        try:
            fcntl.flock(self.users, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if os.pread(self.users, 1, 0) == b"N":
                SWITCH.write_text("N")
                os.ftruncate(self.users, 0)
        except BlockingIOError:
            pass  # another one needs it
        os.close(self.users)


def missing():
    """Why there can be none here; None: there can."""
    if not SWITCH.exists():
        return "this kernel has no FUSE over io_uring"
    if not os.access(SWITCH, os.W_OK) or os.geteuid() != 0:
        return "the kernel's switch for FUSE over io_uring cannot be written"
    return None
