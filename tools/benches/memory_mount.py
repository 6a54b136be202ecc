"""A volume with room for a file of 1 GiB, on memory or in an image, mounted for a part of the benchmark."""
import contextlib
import shutil
import tempfile
from pathlib import Path

import fixture

SECONDS_MAX = 300


@contextlib.contextmanager
def mounted(context, kind="memory"):
    """Gives the directory it is mounted on; nothing is left of it at the end."""
    fixture.BUILD = context.build
    watchdog = fixture.Watchdog()
    place = Path(tempfile.mkdtemp(prefix="pmfs-bench-"))
    volume = None
    try:
        volume = fixture.Mounted(place, kind, size="1200M", mkfs=["--sparse"])
        watchdog.arm(SECONDS_MAX, [volume])
        yield volume.mnt
    finally:
        watchdog.disarm()
        if volume is not None:
            volume.end()
        watchdog.end()
        shutil.rmtree(place, ignore_errors=True)
