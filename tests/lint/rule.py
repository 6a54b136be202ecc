"""A rule of the house: a check, and samples that prove that the check can fail."""
import dataclasses
from typing import Callable

from source import Source


@dataclasses.dataclass
class Rule:
    name: str
    check: Callable  # [Source] -> (path, line, words) of each violation
    bad: list = dataclasses.field(default_factory=list)  # {path: text}: each must be refused
    good: list = dataclasses.field(default_factory=list)  # and each of these not

    def self_test(self):
        """Sentences about samples that were judged wrongly."""
        if not self.bad:
            yield "no bad sample"
        for sample in self.bad:
            if not list(self.check(_tree(sample))):
                yield f"accepts {sample}"
        for sample in self.good:
            for _, line, words in self.check(_tree(sample)):
                yield f"refuses {sample}: line {line}: {words}"


def _tree(sample):
    return [Source(path, text) for path, text in sample.items()]


def each(check):
    """A check of one file at a time, as a check of a tree."""
    def over(tree):
        for source in tree:
            for line, words in check(source):
                yield source.path, line, words
    return over
