"""Worker processes, seen from the program that measures."""

from __future__ import annotations

import json
import os
import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from kit.start import python_of

WORKER = str(Path(__file__).with_name("worker.py"))
ENVIRONMENTS = {
    "ours": "bench-core",
    "deltalake": "bench-deltalake",
    "pyiceberg": "bench-pyiceberg",
    "datashard": "bench-datashard",
}
SYSTEMS = tuple(ENVIRONMENTS)


class Worker:
    """One process under way.

    Args:
        order: what it is to do: ``system``, ``place``, ``do`` and what that needs; ``python`` is another Python than
            that of the system's environment.
    """

    def __init__(self, order: dict[str, Any]) -> None:
        python = order.get("python") or python_of(ENVIRONMENTS[order["system"]])
        command = [python, WORKER, json.dumps(order)]
        kept = {key: value for key, value in os.environ.items() if not key.startswith(("AWS_", "DATASHARD_", "PYTHON"))}
        self.order = order
        self._process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL if order.get("quiet") else None,
            env={**kept, "AWS_EC2_METADATA_DISABLED": "true"},
        )

    def read(self) -> dict[str, Any]:
        """The next thing that it says; empty if it ended without a word."""
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        found: dict[str, Any] = json.loads(line) if line else {}
        return found

    def go(self) -> None:
        """Let it begin."""
        assert self._process.stdin is not None
        self._process.stdin.write(b"go\n")
        self._process.stdin.flush()

    def stop(self) -> None:
        """Kill it, if it still runs."""
        if self._process.poll() is None:
            self._process.kill()

    def end(self) -> None:
        """Kill it, if it still runs, and wait until it is gone."""
        self.stop()
        self._process.wait()
        for stream in (self._process.stdin, self._process.stdout):
            if stream is not None:
                stream.close()

    def used_by_its_end(self) -> tuple[float, float]:
        """Wait for its own end: CPU seconds, imports and all, and the most MB of memory that it had."""
        _, status, used = os.wait4(self._process.pid, 0)
        self._process.returncode = os.waitstatus_to_exitcode(status)
        return used.ru_utime + used.ru_stime, used.ru_maxrss / 1024


@contextmanager
def ended(workers: list[Worker], seconds: float) -> Iterator[None]:
    """Whatever happens, the workers are gone after the block; those that are not done in time are ended."""
    timer = threading.Timer(seconds, lambda: [worker.stop() for worker in workers])
    timer.start()
    try:
        yield
    finally:
        timer.cancel()
        for worker in workers:
            worker.end()


def ask(order: dict[str, Any], seconds: float = 300.0) -> dict[str, Any]:
    """Run one order to its end and return what it says.

    Raises:
        RuntimeError: it said nothing.
    """
    worker = Worker(order)
    with ended([worker], seconds):
        said = worker.read()
        if not said and order["do"] != "create":
            raise RuntimeError(f"{order['system']} could not do {order['do']!r}")
        return said
