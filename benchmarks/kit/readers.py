"""Processes that read, seen from the program that measures; see ``systems/scans.py``."""

from __future__ import annotations

import json
import os
import subprocess
import threading
import time
from collections import defaultdict
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from kit.start import BENCHMARKS, python_of
from kit.statistics import median

READERS = {
    "ours": "bench-core",
    "pyarrow": "bench-core",
    "deltalake": "bench-deltalake",
    "pyiceberg": "bench-pyiceberg",
    "duckdb": "interop",
}
NAMES = {
    "ours": "datashard-core",
    "pyarrow": "pyarrow.dataset",
    "deltalake": "deltalake",
    "pyiceberg": "pyiceberg",
    "duckdb": "DuckDB iceberg_scan",
}
ANSWER_SECONDS = 600.0


class Reader:
    """One process that reads one table.

    Args:
        name: of the system.
        root: the table's URI.
        place: where it is; see :meth:`kit.store.Store.place`.
        warm: URI of another table, which it reads before it opens that one.
        python: another Python than that of the system's environment.

    Attributes:
        opened: seconds that it took to open the table.
        begun: when the process was started, by ``time.monotonic()``.
    """

    def __init__(self, name: str, root: str, place: dict[str, str], warm: str = "", python: str = "") -> None:
        self.name = name
        order = json.dumps({"reader": name, "root": root, "place": place, "warm": warm})
        command = [python or python_of(READERS[name]), str(BENCHMARKS / "systems" / "scans.py"), order]
        kept = {key: value for key, value in os.environ.items() if not key.startswith(("AWS_", "DATASHARD_", "PYTHON"))}
        self.begun = time.monotonic()
        self._process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env={**kept, "AWS_EC2_METADATA_DISABLED": "true"},
        )
        said = self._read()
        self._failure = said.get("failure", "")
        self.opened = float(said.get("opened", 0.0))

    @classmethod
    @contextmanager
    def each(cls, names: Sequence[str], root: str, place: dict[str, str], warm: str = "") -> Iterator[list[Reader]]:
        """A process of each system; they are gone after the block."""
        readers: list[Reader] = []
        try:
            readers += [cls(name, root, place, warm) for name in names]
            yield readers
        finally:
            for reader in readers:
                reader.end()

    def do(self, order: dict[str, Any]) -> dict[str, Any]:
        """What it says of an order: ``seconds``, ``cpu``, ``found``, and so on, or ``failure``."""
        if self._failure:
            return {"failure": self._failure}
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps(order) + "\n")
        self._process.stdin.flush()
        return self._read()

    def end(self) -> None:
        """Kill it and wait until it is gone."""
        self._process.kill()
        self._process.wait()
        for stream in (self._process.stdin, self._process.stdout):
            if stream is not None:
                stream.close()

    def _read(self) -> dict[str, Any]:
        assert self._process.stdout is not None
        timer = threading.Timer(ANSWER_SECONDS, self._process.kill)
        timer.start()
        line = self._process.stdout.readline()
        timer.cancel()
        said: dict[str, Any] = json.loads(line) if line else {"failure": "it ended without a word"}
        return said


class Answers:
    """What the systems said, round after round."""

    def __init__(self) -> None:
        self._said: dict[str, list[dict[str, Any]]] = defaultdict(list)

    def add(self, name: str, said: dict[str, Any]) -> None:
        """Keep an answer."""
        self._said[name].append(said)

    def failure(self, name: str) -> str:
        """Why a system could not answer; empty if it could."""
        return next((one["failure"] for one in self._said[name] if "failure" in one), "")

    def found(self, name: str) -> int:
        """What it found, the same in every round."""
        found = {int(one["found"]) for one in self._said[name]}
        if len(found) != 1:
            raise RuntimeError(f"{name} found {sorted(found)}")
        return found.pop()

    def median(self, name: str, key: str) -> float:
        """The median of a figure."""
        return median([float(one[key]) for one in self._said[name]])

    def least(self, name: str, key: str) -> float:
        """The least of a figure."""
        return min(float(one[key]) for one in self._said[name])

    def ratio(self, name: str, other: str, key: str) -> float:
        """The median of a figure of another system over that of this one."""
        return self.median(other, key) / self.median(name, key)


def make_tables(place: dict[str, str], tables: Sequence[dict[str, Any]]) -> str:
    """Write tables, and return the URI of their folder; see ``systems/scan_tables.py``."""
    script = str(BENCHMARKS / "systems" / "scan_tables.py")
    command = [python_of("bench-core"), script, json.dumps({"place": place, "tables": list(tables)})]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
    root: str = json.loads(done.stdout)["root"]
    return root
