"""A file of the tree as the rules see it."""
import functools
import re
import subprocess
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
C_ENDINGS = (".cc", ".c", ".h")
# A number comes before a character: 1'000 holds no string.
_TOKEN = re.compile(r"""
    (?P<comment> //[^\n]* | /\*.*?\*/ )
  | (?P<raw> R"(?P<mark>[^\s()\\]{0,16})\( .*? \)(?P=mark)" )
  | (?P<number> \b\d[\w'.]* )
  | (?P<string> "(?:\\.|[^"\\\n])*" | '(?:\\.|[^'\\\n])+' )
""", re.S | re.X)


class Source:
    """One file: where it is and what it says.  `code` has blanks for comments and strings."""

    def __init__(self, path, text):
        self.path, self.text = str(path), text

    def __repr__(self):
        return self.path

    @property
    def is_c(self):
        return self.path.endswith(C_ENDINGS)

    @property
    def is_python(self):
        return self.path.endswith(".py") or self._shebang("python")

    @property
    def is_shell(self):
        return self.path.endswith(".sh") or self._shebang("sh")

    def _shebang(self, word):
        return self.text.startswith("#!") and word in self.text.partition("\n")[0]

    @functools.cached_property
    def lines(self):
        return self.text.splitlines()

    @functools.cached_property
    def code(self):
        def blank(found):
            if found.group("number"):
                return found.group()
            body = re.sub(r"[^\n]", " ", found.group())
            return body if found.group("comment") else '"' + body[1:-1] + '"'
        return _TOKEN.sub(blank, self.text)

    def line_of(self, position):
        return self.text.count("\n", 0, position) + 1

    def find_code(self, pattern):
        """(line, words) of each place in the code where a pattern is found."""
        for found in re.finditer(pattern, self.code):
            yield self.line_of(found.start()), found.group().strip()

    def within(self, *places):
        """True when the file is one of these, or in one of these folders (they end with /)."""
        return any(self.path.startswith(place) if place.endswith("/") else self.path == place
                   for place in places)


def git(*words):
    """Git's answer as lines, or nothing where this is no checkout."""
    done = subprocess.run(["git", "-c", f"safe.directory={ROOT}", "-C", str(ROOT), *words],
                          capture_output=True, text=True, check=False)
    return done.stdout.splitlines() if done.returncode == 0 else []


def read_tree():
    """Every text file that git has or would take."""
    paths = git("ls-files", "--cached", "--others", "--exclude-standard")
    found = []
    for path in sorted(set(paths)):
        try:
            found.append(Source(path, (ROOT / path).read_text()))
        except (OSError, UnicodeDecodeError):
            continue  # deleted in the work tree; an image
    return found
