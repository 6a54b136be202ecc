"""The rules of the house, each with samples that it must refuse.

    tests/lint/lint.py [PATTERN]      only rules whose name matches

Prints `ok NAME` or `not ok NAME: why`, for each rule and for each rule's own test.
"""
import re
import sys

import calls
import documents
import includes
import promises
import shape
import source
import tools
import words

MODULES = (includes, shape, calls, words, documents, promises, tools)


def main():
    pattern = sys.argv[1] if len(sys.argv) > 1 else ""
    tree = source.read_tree()
    failed = False
    for rule in (rule for module in MODULES for rule in module.RULES):
        if not re.search(pattern, rule.name):
            continue
        for name, findings in ((f"the rule's own test: {rule.name}", list(rule.self_test())),
                               (rule.name, [f"{path}:{line}: {what}"
                                            for path, line, what in rule.check(tree)])):
            failed |= bool(findings)
            if findings:
                print(f"not ok {name}: {len(findings)} violations")
                print("".join(f"    {finding}\n" for finding in findings), end="", flush=True)
            else:
                print(f"ok {name}", flush=True)
    sys.exit(failed)


if __name__ == "__main__":
    main()
