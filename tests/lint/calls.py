"""One place to be right: who may store, flush and fence, and who may change an extent map."""
import re

from rule import Rule, each

DURABLE = ("fs/pm/", "fs/journal/", "mkfs/", "fsck/repair.cc", "tests/", "tools/benches/")
_REGION = (r"\bregion\w*(\(\))?\s*(\.|->)\s*"
           r"(write|zero|store_meta|fence|defer|fence_everywhere|sync|store_home|drop_private)\s*\(")
_OWN_NAMES = r"(\.|->)\s*(store_meta|fence|defer|fence_everywhere|store_home|drop_private)\s*\("
_MACHINE = (r"\b(_mm_(clflush|clflushopt|clwb|sfence|mfence)|_mm\d*_stream_\w+|pmem2_\w+|msync"
            r"|__builtin_ia32_\w+|__builtin_nontemporal_store)\s*\(")


def check_durable(source):
    """Stores, flushes and fences: fs/pm, fs/journal, mkfs, fsck's repairs, tests.  libpmfs flushes what is not ours."""
    if not source.is_c or source.within(*DURABLE):
        return
    for pattern in (_REGION, _OWN_NAMES):
        for line, words in source.find_code(pattern):
            yield line, f"{words}...): only in {', '.join(DURABLE)}"
    if not source.within("fs/client/persist.c"):
        for line, words in source.find_code(_MACHINE):
            yield line, f"{words}...): only in {', '.join(DURABLE)} and fs/client/persist.c"


# What: (pattern, where it may stand).
MAPS = {
    "a permit is asked for in": (r"\bpermit\s*\(", ("fs/core/seal.h", "fs/core/seal.cc", "fs/holders/", "fs/volume/")),
    "a MapPermit is made in": (r"(?<!using core::)\bMapPermit\s*(\w+\s*)?(\{|\(|;)",
                               ("fs/core/seal.h", "fs/core/seal.cc")),
    "map_insert_unchecked is for": (r"\bmap_insert_unchecked\b",
                                    ("fs/core/extent_map.h", "fs/core/extent_map.cc",
                                     "fs/core/inode.cc")),
    # reaper.cc frees what is left of the tree when the last name and the last handle are gone.
    "the map's tree is named in": (r"\bTreeKind::map\b",
                                   ("fs/media/", "fs/core/extent_map.cc", "fs/volume/reaper.cc",
                                    "fs/volume/for_holders.cc",
                                    "fsck/", "mkfs/")),
    "inline extents are counted in": (r"\binline_count\s*(\.\s*set\b|=[^=])",
                                      ("fs/media/", "fs/core/extent_map.cc", "mkfs/")),
    "the map's root is set in": (r"\bmap_root\s*(\.\s*set\b|=[^=])", ("fs/media/", "mkfs/")),
}


def check_maps(source):
    """Only extent_map changes a map; only the seal module says that it may."""
    if not source.is_c or source.within("tests/"):
        return
    for words, (pattern, places) in MAPS.items():
        if not source.within(*places):
            for line, _ in source.find_code(pattern):
                yield line, f"{words} {', '.join(places)}"


def check_mutexes(source):
    """std::mutex carries no annotation on Debian, so clang would not see what it guards."""
    if source.is_c and not source.within("fs/base/mutex.h", "tests/"):
        for line, words in source.find_code(
                r"\bstd::(recursive_|shared_|timed_)?(mutex|lock_guard|unique_lock|scoped_lock"
                r"|shared_lock|condition_variable(_any)?)\b"):
            yield line, f"{words}: use base/mutex.h, which clang checks"


def check_numbers(source):
    """In the engine only; its border with mkfs, in superblocks.cc, has plain numbers."""
    engine = ("fs/core/", "fs/journal/", "fs/holders/", "fs/volume/")
    if source.is_c and source.within(*engine) and not source.within("fs/journal/superblocks.cc"):
        for line, words in source.find_code(r"\bstd::uint64_t\s+(\w+_)?(block|chunk|group)_?\b"):
            yield line, f"{words}: it is a BlockNo, FileBlock, ChunkNo or GroupNo (base/ids.h)"


_SHOWN = r"(?:PMFS_EXPORT|__attribute__\(\(visibility\(\"\s*\"\)\)\))\s[^;{(]*?\b(?!__)(\w+)\("


def check_shown(tree):
    """A function that a library is to show, and its linker script does not name, is not there."""
    scripts = [source for source in tree if source.within("fs/client/") and source.path.endswith(".map")]
    named = {name for script in scripts for name in re.findall(r"^\s*(\w+);", script.text, re.M)}
    for source in tree:
        if source.is_c and source.within("fs/client/"):
            for found in re.finditer(_SHOWN, source.code):
                if found.group(1) not in named:
                    yield source.path, source.line_of(found.start()), f"{found.group(1)}: no .map names it"


RULES = [
    Rule("what a library shows is named in its linker script", check_shown,
         bad=[{"fs/client/a.map": "global:\n    a;\n",
               "fs/client/a.c": "PMFS_EXPORT int a(void) {\nPMFS_EXPORT void *b(int i,\n"},
              {"fs/client/a.c": '__attribute__((visibility("default"))) int c(int fd) {\n'}],
         good=[{"fs/client/a.map": "global:\n    a;\n    b;\n    c;\n",
                "fs/client/a.c": 'PMFS_EXPORT int a(void) {\nPMFS_EXPORT void *b(int i,\n'
                                 '__attribute__((visibility("default"))) int c(int fd) {\nint d(void) {\n'}]),
    Rule("block, chunk and group numbers are types", each(check_numbers),
         bad=[{"fs/core/a.h": "Result<> give(std::uint64_t chunk, const Bits &bits);\n"},
              {"fs/volume/a.cc": "const std::uint64_t file_block = at / kBlockSize;\n"},
              {"fs/holders/a.h": "std::uint64_t group_ = 0;\n"}],
         good=[{"fs/core/a.h": "Result<> give(ChunkNo chunk, std::uint64_t blocks);\n"},
               {"fsck/a.cc": "const std::uint64_t block = 0;\n"}]),
    Rule("locks are those of base/mutex.h", each(check_mutexes),
         bad=[{"fs/core/a.h": "std::mutex m_;\n"}, {"fs/pm/a.cc": "std::lock_guard held(m_);\n"}],
         good=[{"fs/core/a.h": "Mutex m_;  // not std::mutex\n"}]),
    Rule("only fs/pm, fs/journal and mkfs store, flush and fence", each(check_durable),
         bad=[{"fs/core/a.cc": "region_.write(1, bytes);\n"},
              {"fs/volume/a.cc": "journal.region().zero(1, 2);\n"},
              {"fs/volume/a.cc": "r->fence(std::move(unfenced));\n"},
              {"fs/core/a.cc": "_mm_sfence();\n"},
              {"fs/front/a.cc": "msync(p, 1, 0);\n"},
              {"fs/core/a.cc": "_mm256_stream_si256(p, v);\n"},
              {"fsck/a.cc": "region.store_meta(1, bytes);\n"}],
         good=[{"fs/pm/a.cc": "_mm_sfence();\n"}, {"fs/journal/a.cc": "region_.fence(unfenced);\n"},
               {"fs/volume/a.cc": "// region_.fence() is called by the journal\njournal.persist(d);\n"},
               {"fs/volume/a.cc": "auto x = region_.size();\n"},
               {"fs/client/persist.c": "_mm_sfence();\n"}]),
    Rule("only fs/core/extent_map changes a map, with a permit of fs/core/seal", each(check_maps),
         bad=[{"fs/front/a.cc": "auto p = core::permit(inode, {}, move, 0, 1);\n"},
              {"fs/core/dir.cc": "return permit(inode, {}, move, 0, 1);\n"},
              {"fs/volume/a.cc": "core::map_insert_unchecked(c, i, n, e);\n"},
              {"fs/volume/a.cc": "const MapPermit mine;\n"},
              {"fs/volume/a.cc": "use(core::MapPermit{});\n"},
              {"fs/volume/a.cc": "use(core::MapPermit());\n"},
              {"fs/core/inode.cc": "i->inline_count.set(1);\n"},
              {"fs/volume/a.cc": "i->map_root = media::le64(1);\n"},
              {"fs/volume/fallocate.cc": "tree_erase(c, i, {n, media::TreeKind::map}, 0);\n"}],
         good=[{"fs/volume/a.cc": "const MapPermit ok = TRY(core::permit(*i, {}, m, 0, 1));\n"},
               {"fs/volume/a.cc": "using core::MapPermit;\n"},
               {"fs/core/a.h": "Result<> map_insert(Change &c, const MapPermit &permit);\n"},
               {"fs/core/seal.cc": "return MapPermit();\n"},
               {"fs/front/a.cc": "if (inode.map_root == 0) return;\n"}]),
]
