"""Grants, seals and breaks: inside the server, and through a mount on memory."""
import shutil
import tempfile
from pathlib import Path

import fixture

SECONDS_MAX = 300


def rows(context):
    fixture.BUILD = context.build
    yield from context.json_rows(context.program("bench_seal"), "engine")
    watchdog = fixture.Watchdog()
    place = Path(tempfile.mkdtemp(prefix="pmfs-bench-"))
    mounted = None
    try:
        mounted = fixture.Mounted(place, "memory", size="1200M", mkfs=["--sparse"])
        watchdog.arm(SECONDS_MAX, [mounted])
        yield from context.json_rows(context.program("bench_seal"), mounted.mnt)
    finally:
        watchdog.disarm()
        if mounted is not None:
            mounted.end()
        watchdog.end()
        shutil.rmtree(place, ignore_errors=True)
