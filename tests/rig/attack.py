"""The attack that a window allows, as a test: root in a guest stores into all of it, past every filesystem.

QEMU does not enforce a read-only range (docs/security.md), so what a guest may not write must never be in its
window: a file outside of its guest_root, a file of another socket that has no window; and a guest that may
write nothing gets no window at all.
"""
# Holds docs/security.md "Guests".
import hashlib
import json
import os

from served import Served, Unserved

NAME = "A: attack"
WINDOW = ["dax", "window=64M", "guest_root=/tenant"]
READ_ONLY = ["tag=plain", "guest_ro", "guest_root=/other"]
APPEND = "iomem=relaxed"  # whoever chooses the kernel's words may map what a driver uses
OWN = "tenant/own"
NOT_ITS_OWN = ["outside", "other/file"]


def run(place, guest):
    """guest(served, devices, answers): boots guest/attack.sh; gives its outcome."""
    with Served(place, "a-attack") as served:
        try:
            served.start()
        except Unserved as why:
            place.report(f"{NAME}: the server starts", str(why))
            return
        for folder in ("tenant", "other"):
            (served.mnt / folder).mkdir()
        served.ask("sealed_of", OWN, 8)
        for name in NOT_ITS_OWN:
            served.ask("sealed", name)
        places = {name: pieces(served, name) for name in [OWN, *NOT_ITS_OWN]}
        served.stop()
        try:
            served.start("dax", "guest_ro")
            place.report(f"{NAME}: a guest that may not write can have no window", "the server starts")
            served.stop()
        except Unserved as why:
            refused = "may not write" in str(why)
            place.report(f"{NAME}: a guest that may not write can have no window", None if refused else str(why))
        try:
            served.start(each=[WINDOW, READ_ONLY])
        except Unserved as why:
            place.report(f"{NAME}: the server starts", str(why))
            return
        before = digests(served, places)

        def changed():
            now = digests(served, places)
            return [name for name in places if now[name] != before[name]]

        def untouched():
            # Its own file shows that a store which arrives is seen.
            assert changed() == [OWN], f"bytes of these files changed: {changed()}"

        outcome = guest(served, served.device("test", 0) + served.device("test", 1),
                        {**served.answers(), "untouched": untouched})
        place.judge(NAME, outcome, show_info=True)
        served.end(NAME)


def pieces(served, name):
    """Where a sealed file's bytes are on the medium."""
    told = json.loads(served.pmfsctl("map", "--json", served.mnt / name))
    return [(extent["device"], extent["length"]) for extent in told["extents"]]


def digests(served, places):
    """Of what is on the medium itself: no cache is in between."""
    with open(served.region, "rb") as region:
        return {name: hashlib.sha256(b"".join(os.pread(region.fileno(), length, device)
                                              for device, length in found)).hexdigest()
                for name, found in places.items()}
