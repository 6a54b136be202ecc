"""Arrows between folders never turn round."""
import posixpath
import re

from rule import Rule

# Folder: what its files may include, by folder (ends with /) or by file.  A folder may include itself.
LAYERS = {
    "fs/base/": [],
    "fs/media/": ["fs/base/"],
    "fs/pm/": ["fs/base/"],
    "fs/probe/": ["fs/base/", "fs/media/", "fs/pm/"],
    "fs/journal/": ["fs/base/", "fs/media/", "fs/pm/"],
    "fs/core/": ["fs/base/", "fs/media/", "fs/pm/", "fs/journal/"],
    "fs/holders/": ["fs/base/", "fs/media/", "fs/pm/", "fs/journal/", "fs/core/"],
    "fs/volume/": ["fs/base/", "fs/media/", "fs/pm/", "fs/journal/", "fs/core/", "fs/holders/"],
    "fs/front/clients/": ["fs/base/", "fs/volume/"],
    "fs/front/broker/": ["fs/base/", "fs/pm/", "fs/volume/", "fs/client/broker_protocol.h"],
    "fs/front/requests/": ["fs/base/", "fs/media/", "fs/pm/", "fs/volume/",
                           "fs/client/pmfs_ioctl.h", "fs/front/clients/",
                           "fs/front/broker/broker.h", "fs/front/transports/transport.h"],
    "fs/front/transports/": ["fs/base/", "fs/media/", "fs/pm/", "fs/volume/", "fs/virtio/", "fs/front/clients/",
                             "fs/front/requests/"],
    "fs/front/mount/": ["fs/base/", "fs/pm/", "fs/probe/", "fs/volume/", "fs/virtio/listener.h", "fs/front/",
                        "fs/client/pmfs_ioctl.h"],
    "fs/virtio/": ["fs/base/"],
    "fs/client/": [],
    "mkfs/": ["fs/base/", "fs/media/", "fs/pm/"],
    # fsck shares the format and the reading of the journal, never the engine; a repair writes through the journal.
    "fsck/repair.cc": ["fs/base/", "fs/media/", "fs/pm/", "fs/journal/", "fsck/"],
    "fsck/": ["fs/base/", "fs/media/", "fs/pm/", "fs/probe/", "fs/journal/replay.h", "fs/journal/recover.h"],
    "tools/pmfsctl/": ["fs/client/pmfs.h", "fs/client/pmfs_ioctl.h", "fs/base/hex.h", "fs/base/units.h",
                       "fs/base/printable.h", "fs/probe/"],
    "tools/examples/": ["fs/client/pmfs.h", "fs/client/pmfs_ioctl.h"],
    "tools/benches/": ["fs/", "mkfs/"],
    "tests/": ["fs/", "mkfs/", "fsck/"],
}
# Headers of libraries: where they may be used.
LIBRARIES = {
    "libpmem2.h": ["fs/pm/", "tools/benches/"],  # (a floor to compare with)
    "isa-l/": ["fs/base/"],
    "liburing.h": ["fs/pm/", "fs/front/transports/fuse_ring.h", "tools/examples/", "tests/"],
    "fuse3/": ["fs/front/"],
    "spdlog/": ["fs/front/", "tests/front/"],
    "libmount/": ["fs/front/", "mkfs/"],
    "seccomp.h": ["fs/front/mount/"],
    "cap-ng.h": ["fs/front/mount/", "tests/"],
    "blkid/": ["mkfs/"],
}
# Where #include "x" is looked for, behind the file's own folder.
ROOTS = ("fs/", "", "tests/", "fs/client/")
# All of a volume's parts together: for the files that implement Volume, which have no header of
# their own.  What has one is a part, and includes what it may call.
ALL_PARTS = "fs/volume/parts.h"
VOLUME = "fs/volume/volume.cc"
_INCLUDE = re.compile(r'^\s*#\s*include\s*(?:"([^"]+)"|<([^>]+)>)', re.M)


def folder_of(path):
    return next((folder for folder in LAYERS if path.startswith(folder)), None)


def resolve(path, name, exists):
    """The file of ours that is meant, or None for a library's."""
    places = [posixpath.dirname(path) + "/", *ROOTS]
    return next((found for place in places
                 if exists(found := posixpath.normpath(place + name))), None)


def check(tree):
    paths = {source.path for source in tree}
    for source in tree:
        folder = folder_of(source.path)
        if not source.is_c or folder is None:
            continue
        for found in _INCLUDE.finditer(source.text):
            ours, library = found.groups()
            line = source.line_of(found.start(1 if ours else 2))
            target = resolve(source.path, ours or library, paths.__contains__)
            if target:
                allowed = [folder, *LAYERS[folder]]
                if not any(target == place or place.endswith("/") and target.startswith(place)
                           for place in allowed):
                    yield source.path, line, f"{folder} may not include {target}"
                if target == ALL_PARTS and source.path != VOLUME and (
                        source.path.endswith(".h") or source.path[:-3] + ".h" in paths):
                    yield source.path, line, f"a part of the volume may not include {target}"
            elif ours:
                yield source.path, line, f"no such file: {ours}"
            else:
                for name, places in LIBRARIES.items():
                    if library.startswith(name) and not source.within(*places):
                        yield source.path, line, f"<{library}> is for {', '.join(places)} only"


_HEADERS = {"fs/pm/region.h": "", "fs/core/dir.h": "", "fs/volume/volume.h": "",
            "fs/journal/replay.h": "", "fs/journal/journal.h": "", "fs/client/pmfs.h": "",
            "fs/front/transports/dev_fuse.h": "", "fs/front/requests/dispatcher.h": ""}


_PARTS = {ALL_PARTS: ""}


def _with(path, text):
    return {**_HEADERS, path: text}


RULES = [Rule(
    "includes go one way", check,
    bad=[_with("fs/base/x.h", '#include "pm/region.h"\n'),
         _with("fs/pm/x.cc", '#include "core/dir.h"\n'),
         _with("fs/core/x.cc", '#include "volume/volume.h"\n'),
         _with("fs/holders/x.cc", '#include "volume/volume.h"\n'),
         _with("fs/front/requests/x.cc", '#include "journal/journal.h"\n'),
         _with("fs/front/requests/x.cc", '#include "client/pmfs.h"\n'),
         _with("fs/front/requests/x.cc", '#include "front/transports/dev_fuse.h"\n'),
         _with("fs/front/clients/x.cc", '#include "front/requests/dispatcher.h"\n'),
         _with("fs/client/x.c", '#include "../base/ids.h"\n'),
         _with("fsck/x.cc", '#include "journal/journal.h"\n'),
         _with("fsck/x.cc", '#  include "core/dir.h"\n'),
         _with("mkfs/x.cc", '#include "journal/replay.h"\n'),
         _with("tools/pmfsctl/x.cc", '#include "volume/volume.h"\n'),
         _with("fs/core/x.cc", "#include <libpmem2.h>\n"),
         {**_PARTS, "fs/volume/reaper.h": '#include "volume/parts.h"\n'},
         {**_PARTS, "fs/volume/reaper.h": "", "fs/volume/reaper.cc": '#include "volume/parts.h"\n'}],
    good=[_with("fs/core/x.cc", '#include "pm/region.h"\n#include "journal/journal.h"\n'),
          _with("fsck/x.cc", '#include "journal/replay.h"\n'),
          _with("tools/pmfsctl/x.cc", "#include <pmfs.h>\n"),
          _with("fs/pm/x.cc", "#include <libpmem2.h>\n"),
          {**_PARTS, "fs/volume/names.cc": '#include "volume/parts.h"\n',
           "fs/volume/volume.h": "", VOLUME: '#include "volume/parts.h"\n'}])]
