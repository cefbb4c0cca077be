"""A pytest plugin that notes how long each test takes; run as a script, it prints which tests reach which lines."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

_seconds: dict[str, float] = {}


@pytest.hookimpl(wrapper=True)
def pytest_runtest_logreport(report: Any) -> Iterator[None]:
    """Add up set-up, call and tear-down."""
    _seconds[report.nodeid] = _seconds.get(report.nodeid, 0.0) + report.duration
    yield


def pytest_sessionfinish(session: Any) -> None:
    """Write what was noted, once: where tests are spread over processes, their head hears of all of them."""
    if not hasattr(session.config, "workerinput"):
        Path(os.environ["MUTATION_DURATIONS"]).write_text(json.dumps(_seconds))


def lines_of(data_file: str, root: str) -> dict[str, dict[int, list[str]]]:
    """Of each file below a root, the tests that reach each line; "" stands for its import."""
    import coverage

    data = coverage.CoverageData(data_file)
    data.read()
    found: dict[str, dict[int, list[str]]] = {}
    for file in data.measured_files():
        lines: dict[int, list[str]] = {}
        for line, contexts in data.contexts_by_lineno(file).items():
            names = {name.rpartition("|")[0] for name in contexts if name}
            if names:
                lines[line] = sorted(names)
        if lines:
            found[str(Path(file).relative_to(root))] = lines
    return found


if __name__ == "__main__":
    json.dump(lines_of(sys.argv[1], sys.argv[2]), sys.stdout)
