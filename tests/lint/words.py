"""The tree is the same everywhere: nothing of one machine in it; every source file is built; and words that
must not come back."""
import posixpath
import re

from rule import Rule, each

# Put together from pieces, so that this file may hold them.
_MACHINE = re.compile("|".join([
    r"(?<![\w.])/" + r"work/", r"(?<![\w.])/" + r"home/\w", r"(?<![\w.])/" + r"root/\w",
    r"/tmp/" + r"build\b", r"deb\." + r"debian\.org", r"pypi\." + r"org",
    r"files\.python" + r"hosted", r"registry\.\w+\.\w", r"crates\." + r"io", r"proxy\." + r"golang"]))


def check_machine(source):
    for found in _MACHINE.finditer(source.text):
        yield source.line_of(found.start()), f"of one machine: {found.group()}"


# Words of ours that have a better one: a process or a user is "it" or "they", an interface is an interface, and a fence
# that must follow is an obligation.  (In pieces, as above.)
_WORDS = re.compile(r"\b(?:" + "|".join(["h" + "e", "h" + "is", "h" + "im", "h" + "imself", "do" + "ors?",
                                         "du" + "ty", "du" + "ties", "put " + "aside"]) + r")\b", re.I)


def check_words(source):
    for found in _WORDS.finditer(source.text):
        yield source.line_of(found.start()), f"another word is better: {found.group()}"


def check_built(tree):
    """Every .cc and .c stands in a meson.build of its folder or above."""
    builds = {posixpath.dirname(source.path): source.text for source in tree
              if posixpath.basename(source.path) == "meson.build"}
    if not builds:
        return
    for source in tree:
        if not source.path.endswith((".cc", ".c")):
            continue
        folder, listed = posixpath.dirname(source.path), False
        while not listed:
            stem, ending = posixpath.splitext(posixpath.relpath(source.path, folder or "."))
            # 'NAME.cc', or 'NAME' in a list to which a loop adds '.cc'
            pattern = rf"['/]{re.escape(stem)}({re.escape(ending)}'|'(?=.*\+ '{re.escape(ending)}'))"
            listed = re.search(pattern, builds.get(folder, ""), re.S) is not None
            if not folder:
                break
            folder = posixpath.dirname(folder)
        if not listed:
            yield source.path, 1, "is in no meson.build: nothing compiles it"


def check_scripts(source):
    """What python would refuse at once."""
    if source.is_python:
        try:
            compile(source.text, source.path, "exec")
        except SyntaxError as error:
            yield error.lineno, error.msg


RULES = [
    Rule("nothing of one machine", each(check_machine),
         bad=[{"a.md": "see /" + "work/x\n"}, {"a.py": "P = '/" + "home/me'\n"},
              {"a.sh": "pip -i https://pypi." + "org\n"}],
         good=[{"a.cc": "// a network/work/flow, the root/ folder, its registry.\n// Then\n"}]),
    Rule("words that must not come back", each(check_words),
         bad=[{"a.cc": "// The holder and h" + "is grant.\n"}, {"a.md": "The do" + "ors of a seal\n"}],
         good=[{"a.md": "The shell reads the history of indoor things; she/they.\n"}]),
    Rule("every source file is built", check_built,
         bad=[{"fs/meson.build": "'pm/b.cc'", "fs/pm/a.cc": "// A.\n"},
              {"fs/meson.build": "'pm/aa.cc'", "fs/pm/a.cc": "// A.\n"}],
         good=[{"fs/meson.build": "'pm/a.cc'", "fs/pm/a.cc": "// A.\n"},
               {"fs/pm/meson.build": "'a.cc'", "fs/pm/a.cc": "// A.\n"},
               {"meson.build": "foreach n : ['a']\nexecutable(n, n + '.c')", "a.c": "// A.\n"}]),
    Rule("scripts parse", each(check_scripts),
         bad=[{"a.py": "def f(:\n"}], good=[{"a.py": "def f():\n    pass\n"}]),
]
