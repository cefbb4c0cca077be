"""Runs the tests that reach the lines in which a clone differs from its last commit: Cosmic Ray's test command.

The quick ones run first, and the first that fails ends it. A line that only the import of its module runs (a
constant, a field of a class) is taken to be reached by every test that reaches the module.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from itertools import groupby
from pathlib import Path

sys.path[:0] = [str(Path.cwd() / "tools"), str(Path.cwd() / "tests")]

import run as test_command  # noqa: E402

CHANGED = re.compile(r"^@@ -(\d+)(?:,(\d+))?", re.MULTILINE)
AT_ONCE = 400
"""Tests that one process is told to run: a command line has an end."""


def main() -> int:
    covered = json.loads(Path(os.environ["MUTATION_COVERED"]).read_text())
    names = changed_tests(covered["lines"])
    seconds: dict[str, float] = covered["seconds"]
    names = sorted(names, key=lambda name: (name.partition(" ")[0], seconds.get(name, 1.0)))
    suites = {suite.name: suite for suite in test_command.SUITES}
    print(f"{len(names)} tests, {sum(seconds.get(name, 1.0) for name in names):.0f} s")
    for suite_name, chosen in groupby(names, key=lambda name: name.partition(" ")[0]):
        suite = suites[suite_name]
        tests = [name.partition(" ")[2] for name in chosen]
        asyncio = [option for option in suite.options if "asyncio" in option]
        for start in range(0, len(tests), AT_ONCE):
            command = [
                f".envs/{suite.environment}/bin/python",
                "-P",
                "-m",
                "pytest",
                "-q",
                "-x",
                "-p",
                "no:cacheprovider",
            ]
            command += [*(["-o", *asyncio] if asyncio else []), *tests[start : start + AT_ONCE]]
            variables = {**test_command.clean_environment(), "PYTHONDONTWRITEBYTECODE": "1"}
            if subprocess.run(command, env=variables, check=False).returncode:
                return 1
    return 0


def changed_tests(lines: dict[str, dict[str, list[str]]]) -> set[str]:
    """The tests that reach what differs from the last commit."""
    diff = subprocess.run(["git", "diff", "-U0"], check=True, stdout=subprocess.PIPE, text=True).stdout
    names: set[str] = set()
    for part in diff.split("\ndiff --git "):
        file = re.search(r"^--- a/(.+)$", part, re.MULTILINE)
        if file is None:
            continue
        of_file = lines.get(file[1], {})
        for match in CHANGED.finditer(part):
            first = int(match[1])
            mine = {name for line in range(first, first + int(match[2] or 1)) for name in of_file.get(str(line), ())}
            names |= mine or {name for names_of in of_file.values() for name in names_of}
    return names


if __name__ == "__main__":
    sys.exit(main())
