"""Documents that a program can check: links lead somewhere, and lists of words are those of the code."""
import posixpath
import re

from rule import Rule

_LINK = re.compile(r"\]\(([^)\s#]+)(?:#[^)\s]*)?\)")
_CODE = re.compile(r'PMFS_CODE\(\s*(\w+),\s*((?:"[^"]*"\s*)+)\)')


def text_of(tree, path):
    return next((source.text for source in tree if source.path == path), "")


def check_links(tree):
    """A link from a page leads to a file or a folder of the tree."""
    paths = {source.path for source in tree}
    folders = {path[:at] for path in paths for at in range(len(path)) if path[at] == "/"}
    for source in tree:
        if not source.path.endswith(".md"):
            continue
        for found in _LINK.finditer(source.text):
            target = found.group(1)
            if re.match(r"[a-z]+:", target):
                continue
            place = posixpath.normpath(posixpath.join(posixpath.dirname(source.path), target))
            if place not in paths and place not in folders:
                yield source.path, source.line_of(found.start()), f"no such file: {target}"


def check_index(tree):
    """docs/README.md names every page and every manual page."""
    index = text_of(tree, "docs/README.md")
    for source in tree:
        folder, name = posixpath.split(source.path)
        page = folder == "docs" and name.endswith(".md") and name != "README.md"
        manual = folder == "docs/man" and re.search(r"\.\d$", name)
        if (page or manual) and f"({posixpath.relpath(source.path, 'docs')})" not in index:
            yield source.path, 1, "docs/README.md does not name it"


def check_codes(tree):
    """docs/fsck.md has each code of fsck.pmfs with its sentence, and no other."""
    numbers = dict(re.findall(r"(\w+) = (\d+)", text_of(tree, "fsck/problem.h")))
    known = set()
    for name, words in _CODE.findall(text_of(tree, "fsck/problem.cc")):
        sentence = "".join(re.findall(r'"([^"]*)"', words))
        known.add(f"| PM{int(numbers.get(name, 0)):04} | {sentence} |")
    page = "docs/fsck.md"
    rows = {line for line in text_of(tree, page).splitlines() if line.startswith("| PM")}
    for row in sorted(known - rows):
        yield page, 1, f"lacks the row {row}"
    for row in sorted(rows - known):
        yield page, 1, f"has a row that fsck.pmfs does not know: {row}"


def check_manuals(tree):
    """Manual pages name each verb of pmfsctl, each option of a mount, and each function of libpmfs."""
    verbs = re.findall(r'(?:add_verb\(\s*app, |add_subcommand\(\s*|^        \{)"([a-z]+)"',
                       text_of(tree, "tools/pmfsctl/main.cc"), re.M)
    options = re.findall(r'OwnOption\{"(\w+)"', text_of(tree, "fs/front/mount/options.cc"))
    functions = re.findall(r"\b(pmfs_\w+)\(", re.sub(r"/\*.*?\*/", "", text_of(tree, "fs/client/pmfs.h"),
                                                     flags=re.S))
    manuals = "".join(source.text for source in tree if source.path.endswith(".3"))
    for page, words, text in (
            ("docs/man/pmfsctl.8", verbs, text_of(tree, "docs/man/pmfsctl.8")),
            ("docs/man/mount.pmfs.8", options, text_of(tree, "docs/man/mount.pmfs.8")),
            ("docs/man", functions, manuals)):
        for word in dict.fromkeys(words):
            if not re.search(rf"\b{word}\b", text):
                yield page, 1, f"does not name {word}"


_PROBLEM_H = "    block_leaked = 408,\n"
_PROBLEM_CC = '    PMFS_CODE(block_leaked, "marked in use, "\n              "but nobody owns it"),\n'
_ROW = "| PM0408 | marked in use, but nobody owns it |\n"
RULES = [
    Rule("links in documents lead somewhere", check_links,
         bad=[{"docs/a.md": "see [b](b.md)"}, {"docs/a.md": "[b](../fs/b.h)", "docs/b.md": ""}],
         good=[{"docs/a.md": "[b](b.md#part), [c](decisions), [d](https://a.b/c)", "docs/b.md": "",
                "docs/decisions/0001.md": ""}]),
    Rule("docs/README.md names every page", check_index,
         bad=[{"docs/README.md": "[a](a.md)", "docs/a.md": "", "docs/b.md": ""},
              {"docs/README.md": "a.8", "docs/man/a.8": ""}],
         good=[{"docs/README.md": "[a](a.md) [b](man/b.8)", "docs/a.md": "", "docs/man/b.8": ""}]),
    Rule("docs/fsck.md has the codes of fsck.pmfs", check_codes,
         bad=[{"fsck/problem.h": _PROBLEM_H, "fsck/problem.cc": _PROBLEM_CC, "docs/fsck.md": ""},
              {"fsck/problem.h": _PROBLEM_H, "fsck/problem.cc": _PROBLEM_CC,
               "docs/fsck.md": _ROW + "| PM0409 | owned a second time |\n"}],
         good=[{"fsck/problem.h": _PROBLEM_H, "fsck/problem.cc": _PROBLEM_CC, "docs/fsck.md": _ROW}]),
    Rule("manual pages name verbs, options and functions", check_manuals,
         bad=[{"tools/pmfsctl/main.cc": 'add_verb(app, "info", "help");', "docs/man/pmfsctl.8": ""},
              {"fs/front/mount/options.cc": 'OwnOption{"commit", true, f},',
               "docs/man/mount.pmfs.8": "commits"},
              {"fs/client/pmfs.h": "int pmfs_map(int fd);\n", "docs/man/pmfs.3": "pmfs_mapped"}],
         good=[{"fs/client/pmfs.h": "/* pmfs_old() */\nint pmfs_map(int fd);\n",
                "docs/man/pmfs_map.3": ".BR pmfs_map ()"}]),
]
