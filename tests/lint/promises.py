"""What a document promises, a test holds.  A comment in a test names what it holds, as in

    Holds docs/seal.md "Pins", "Who may seal" and docs/man/pmfs_grant.3.

Whoever names a section names its parts, too.

A program cannot see whether that is true: it sees which sections and manual pages no test names, and which names
lead nowhere."""
import posixpath
import re

from rule import Rule

# The documents whose sections are promises, and their sections that are none.
_PAGES = {
    "seal": [],
    "posix": [],
    "security": ["What a descriptor of the device lets its holder do"],
    "coherence": [],
    "persistence": ["What is not promised", "How it is tested"],
    "guests": ["Trying it", "Figures", "Not there yet"],
    "grants": [],
    "fsck": [],
    # What no machine of ours has, and what is only explained.
    "devdax": ["Which memory", "What is durable", "What to check", "Without hardware"],
}
_SECTIONS = re.compile(r'docs/(\w+)\.md((?:(?:,| and)? "[^"\n]+")+)')
_MANUALS = re.compile(r"docs/man/([\w-]+(?:\.[a-z]+)?\.\d)\b")
_NEXT_LINE = re.compile(r"\s*\n\s*(?://|#|\*)?\s*")


def headings(source):
    """{section: (its line, the section that it is a part of, or itself)}"""
    found, whole = {}, ""
    for heading in re.finditer(r"^(##|###) (.+)$", source.text, re.M):
        section = heading.group(2).replace("`", "")
        whole = section if heading.group(1) == "##" else whole
        found[section] = source.line_of(heading.start()), whole
    return found


def named_in(source):
    """(page, section) of each reference in a file."""
    for found in _SECTIONS.finditer(_NEXT_LINE.sub(" ", source.text)):
        for section in re.findall(r'"([^"]+)"', found.group(2)):
            yield found.group(1), section


def is_test(source):
    return source.path.startswith("tests/") and not source.path.startswith("tests/lint/")


def check_sections(tree):
    """Each section of these documents is named by a test, and each name is a section's."""
    pages = {posixpath.basename(source.path)[:-3]: source for source in tree
             if posixpath.dirname(source.path) == "docs" and source.path.endswith(".md")}
    known = {page: headings(source) for page, source in pages.items()}
    held = set()
    for source in tree:
        if not is_test(source):
            continue
        for page, section in named_in(source):
            held.add((page, section))
            if section not in known.get(page, {}):
                yield source.path, 1, f'docs/{page}.md has no section "{section}"'
    for page, exempt in _PAGES.items():
        for section in exempt if page in pages else []:
            if section not in known[page]:
                yield f"docs/{page}.md", 1, f'has no section "{section}", which tests/lint exempts'
        for section, (line, whole) in known.get(page, {}).items():
            if whole not in exempt and not held & {(page, section), (page, whole)}:
                yield f"docs/{page}.md", line, f'no test names the section "{section}"'


def check_manuals(tree):
    """Each manual page is named by a test."""
    pages = {source.path for source in tree if re.fullmatch(r"docs/man/[\w.-]+\.\d", source.path)}
    held = set()
    for source in tree:
        if not is_test(source):
            continue
        for name in _MANUALS.findall(source.text):
            held.add(f"docs/man/{name}")
            if f"docs/man/{name}" not in pages:
                yield source.path, 1, f"there is no docs/man/{name}"
    for page in sorted(pages - held):
        yield page, 1, "no test names this manual page"


_PAGE = "# Seals\n\n## Who may seal\n\n## With `-o seal`\n\n### A part\n"
RULES = [
    Rule("a test holds each section that promises something", check_sections,
         bad=[{"docs/seal.md": _PAGE},
              {"docs/seal.md": _PAGE, "tests/t.cc": '// Holds docs/seal.md "Who may seal".\n'},
              {"docs/seal.md": _PAGE, "fs/a.h": '// docs/seal.md "Who may seal", "With -o seal"\n'},
              {"docs/seal.md": "# Seals\n", "tests/t.py": '# docs/seal.md "Who may seal"\n'},
              {"docs/seal.md": "## Seals\n\n### A part\n\n## More\n",
               "tests/t.cc": '// docs/seal.md "A part" and "More"\n'},
              {"docs/guests.md": "## Figures\n"}],
         good=[{"docs/seal.md": _PAGE,
                "tests/t.cc": '// Holds docs/seal.md "Who may seal" and\n// "With -o seal".\n'},
               {"docs/guests.md": "## Trying it\n\n### Alone\n\n## Figures\n\n## Not there yet\n"}]),
    Rule("a test holds each manual page", check_manuals,
         bad=[{"docs/man/a.8": ""}, {"docs/man/a.8": "", "fs/a.h": "// docs/man/a.8\n"},
              {"tests/t.py": "# docs/man/a.8\n"}],
         good=[{"docs/man/a-b.8": "", "docs/man/c.d.8": "",
                "tests/t.py": "# Holds docs/man/a-b.8, docs/man/c.d.8.\n"}]),
]
