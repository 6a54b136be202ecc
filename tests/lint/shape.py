"""A function fits a screen, a file a sitting; every file says what it is."""
import re

from rule import Rule, each

FILE_LINES = 600
FUNCTION_LINES = 70
_SCOPE = re.compile(r"^\s*(template\s*|typedef\s+|static\s+|inline\s+)*"
                    r"(namespace|class|struct|union|enum|extern\s*\"[^\"]*\"\s*$)")
_SIGNATURE_ENDS = re.compile(r"\)\s*(const|noexcept|override|final|mutable|try|\w+\([^()]*\)|\s)*$"
                             r"|\)\s*->[^(]*$|[)}]\s*$")
# Words that wait for somebody, put together here so that this file may hold them.
_WAITING = re.compile(r"\b(" + "|".join(["TO" + "DO", "FIX" + "ME", "X" + "XX"]) + r")\b")


def functions(code):
    """(first line, last line) of each function body at namespace or class level.

    A brace opens a function when its head, the text behind the last ; { or }, has a parenthesis and
    is not the head of a type.  The line count begins where the head begins.
    """
    line, head, head_line = 1, "", None
    body = None  # [depth, first line]
    for char in code:
        if char == "\n":
            line += 1
        if body:
            body[0] += (char == "{") - (char == "}")
            if body[0] == 0:
                if body[1]:
                    yield body[1], line
                body, head, head_line = None, "", None
            continue
        if char in ";}":
            head, head_line = "", None
        elif char == "{":
            # Of a head such as `template <class T> f() `, `class` is no scope.
            plain = re.sub(r"<[^<>]*>", "", re.sub(r"#[^\n]*\n", "", head))
            if _SCOPE.search(plain) and not _SIGNATURE_ENDS.search(plain):
                head, head_line = "", None
            else:
                body = [1, (head_line or line) if "(" in plain else None]  # None: an initializer
        elif not char.isspace() or head:
            head_line = head_line or line
            head += char


def check_functions(source):
    if source.is_c:
        for first, last in functions(source.code):
            if last - first + 1 > FUNCTION_LINES:
                yield first, f"{last - first + 1} lines; a screen has {FUNCTION_LINES}"
    elif source.is_python:
        yield from _python_functions(source)


def _python_functions(source):
    first = indent = last = None
    for number, text in enumerate([*source.lines, "end"], 1):
        here = len(text) - len(text.lstrip())
        if text.strip() and first and here <= indent:
            if last - first + 1 > FUNCTION_LINES:
                yield first, f"{last - first + 1} lines; a screen has {FUNCTION_LINES}"
            first = None
        if text.lstrip().startswith("def ") and not first:
            first, indent = number, here
        if text.strip():
            last = number


def check_files(source):
    if len(source.lines) > FILE_LINES and (source.is_c or source.is_python or source.is_shell):
        yield 1, f"{len(source.lines)} lines; a sitting has {FILE_LINES}"


def check_opening(source):
    text = source.text
    if source.text.startswith("#!"):
        text = text.partition("\n")[2]
    if source.is_c:
        opened = text.startswith(("//", "/*"))
    elif source.is_python:
        opened = text.startswith(('"""', "#"))
    elif source.is_shell or source.path.endswith(("meson.build", "packages.txt")):
        opened = text.startswith("#")
    else:
        return
    if not opened:
        yield 1, "does not open with what it is and why it exists"


def check_waiting(source):
    for found in _WAITING.finditer(source.text):
        yield source.line_of(found.start()), f"{found.group()}: do it, or decide in docs/decisions"


_LONG = "\n".join(["    x();"] * FUNCTION_LINES)
_ROWS = "\n".join(["    {1},"] * FUNCTION_LINES)
_AT_MOST = "\n".join(["    x();"] * (FUNCTION_LINES - 2))
RULES = [
    Rule("a function fits a screen", each(check_functions),
         bad=[{"a.cc": f"void f() {{\n{_LONG}\n}}\n"},
              {"a.cc": f"namespace n {{\nclass A {{\n    int f(int a) const override {{\n{_LONG}\n}}\n}};\n}}\n"},
              {"a.cc": f"namespace n {{\ntemplate <class F>\nA::A(F f) : b_{{f}}, c_(0) {{\n{_LONG}\n}}\n}}\n"},
              {"a.cc": f"int a[] = {{1, 2}};\nTEST_CASE(\"a {{ b\") {{\n{_LONG}\n}}\n"},
              {"a.c": f"static struct a *f(void)\n{{\n{_LONG}\n}}\n"},
              {"a.h": f"class CAPABILITY(\"mutex\") A {{\n  void f() RELEASE() {{\n{_LONG}\n}}\n}};\n"},
              {"a.cc": f"const auto f = [](int a) -> int {{\n{_LONG}\n}};\n"},
              {"a.py": "def f():\n" + "    x()\n" * FUNCTION_LINES}],
         good=[{"a.cc": f"void f() {{\n{_AT_MOST}\n}}\nvoid g() {{\n{_AT_MOST}\n}}\n"},
               {"a.cc": f"namespace n {{\n{_LONG}\nvoid g() {{}}\n}}\n"},
               {"a.cc": f"constexpr Row kRows[] = {{\n{_ROWS}\n}};\n"},
               {"a.py": "def f():\n    x()\n\n\ndef g():\n" + "    x()\n" * (FUNCTION_LINES - 1)}]),
    Rule("a file fits a sitting", each(check_files),
         bad=[{"a.cc": "// A.\n" * (FILE_LINES + 1)}, {"a.py": "# A.\n" * (FILE_LINES + 1)}],
         good=[{"a.cc": "// A.\n" * FILE_LINES}]),
    Rule("every file opens with what it is", each(check_opening),
         bad=[{"a.cc": '#include "a.h"\n'}, {"a.h": "#pragma once\n// A.\n"},
              {"a.py": "import os\n"}, {"a": "#!/bin/sh\nset -e\n"}, {"meson.build": "subdir('a')\n"}],
         good=[{"a.h": "// A.\n#pragma once\n"}, {"a.py": '#!/usr/bin/env python3\n"""A."""\n'},
               {"a.h": "/* A. */\n"}, {"LICENSE": "Anything\n"}]),
    Rule("nothing waits for somebody", each(check_waiting),
         bad=[{"a.cc": "// TO" + "DO: later\n"}, {"a.md": "FIX" + "ME\n"}],
         good=[{"a.cc": "mkstemp(\"XXXXXX\");\n"}]),
]
