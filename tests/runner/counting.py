"""From what a test program printed to how many tests passed and failed."""
import dataclasses
import re

# [doctest] test cases:  12 |  12 passed | 0 failed | 0 skipped
DOCTEST = re.compile(r"^\[doctest\] test cases:\s*\d+\s*\|\s*(\d+) passed\s*\|\s*(\d+) failed", re.M)
OK = re.compile(r"^ok\s+\S", re.M)
REPORTS_SHOWN = 3  # one bug may be found by every server that is started
SKIP = re.compile(r"^skip\s+(\S.*)$", re.M)
NOT_OK = re.compile(r"^not ok\s+\S", re.M)


@dataclasses.dataclass
class Count:
    passed: int
    failed: int
    reasons: list = dataclasses.field(default_factory=list)  # sentences
    skipped: list = dataclasses.field(default_factory=list)  # what this machine cannot do, and why


def count(test, ended):
    """A program that dies, hangs, counts nothing or hides a failure has failed at least once."""
    result = _count_doctest(ended.output) if test.kind == "doctest" else _count_lines(ended.output)
    if ended.timed_out:
        result.failed += 1
        result.reasons.append(f"time is up after {ended.seconds:.0f} seconds")
    elif ended.code != 0 and result.failed == 0:
        result.failed += 1
        result.reasons.append(f"ended with {_words(ended.code)}")
    result.skipped = SKIP.findall(ended.output) if test.kind == "lines" else []
    if ended.code == 0 and result.passed + result.failed == 0 and not result.skipped:
        result.failed += 1
        result.reasons.append("no test ran")
    result.failed += len(ended.reports)
    for report in ended.reports[:REPORTS_SHOWN]:
        result.reasons.append(f"a sanitizer reports:\n{report.rstrip()}")
    if len(ended.reports) > REPORTS_SHOWN:
        result.reasons.append(f"and {len(ended.reports) - REPORTS_SHOWN} reports more")
    if ended.left_behind:
        result.failed += 1
        result.reasons.append("left running: " + ", ".join(ended.left_behind))
    return result


def _count_doctest(output):
    found = DOCTEST.findall(output)
    return Count(sum(int(p) for p, _ in found), sum(int(f) for _, f in found))


def _count_lines(output):
    return Count(len(OK.findall(output)), len(NOT_OK.findall(output)))


def _words(code):
    return f"signal {-code}" if code < 0 else f"exit code {code}"
