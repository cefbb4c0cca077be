"""The benchmarks' S3 server as a process, seen from the program that measures."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any
from urllib.parse import urlencode
from urllib.request import Request, urlopen

from kit.latency import NONE, Latency
from kit.statistics import LoggedRequest

START_SECONDS = 30.0


@dataclass(frozen=True, slots=True)
class Moment:
    """Where the server stood: requests so far, its monotonic clock, and the CPU seconds that it has used."""

    requests: int
    monotonic: float
    cpu: float


class Store:
    """A server process; use it as a context manager.

    Attributes:
        endpoint: its URL.
        bucket: its one bucket.
        latency: what it takes to answer, as last set.

    Raises:
        RuntimeError: it ended before it was ready.
    """

    def __init__(self, bucket: str = "bench") -> None:
        self.bucket = bucket
        self.endpoint = ""
        self.latency = NONE
        self._process: subprocess.Popen[str] | None = None

    def __enter__(self) -> Store:
        command = [sys.executable, str(Path(__file__).with_name("s3_server.py")), self.bucket]
        process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        self._process = process
        assert process.stdout is not None
        timer = threading.Timer(START_SECONDS, process.kill)
        timer.start()
        line = process.stdout.readline()
        timer.cancel()
        if not line:
            raise RuntimeError(f"the S3 server ended with exit code {process.wait()} before it was ready")
        self.endpoint = json.loads(line)["endpoint"]
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        assert self._process is not None and self._process.stdin is not None and self._process.stdout is not None
        self._process.stdin.close()
        try:
            self._process.wait(10)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._process.stdout.close()

    @property
    def pid(self) -> int:
        """Id of the process."""
        assert self._process is not None
        return self._process.pid

    def place(self, prefix: str) -> dict[str, str]:
        """Where a system under test puts its table: what ``systems`` are made from."""
        return {
            "endpoint": self.endpoint,
            "bucket": self.bucket,
            "prefix": prefix,
            "key": "bench",
            "secret": "benchbench",
        }

    def set_latency(self, latency: Latency) -> None:
        """Answer at that pace from now on."""
        self._control("latency", latency.to_dict())
        self.latency = latency

    def set_clock(self, ahead: float = 0.0, speed: float = 1.0) -> None:
        """Let the store's clock run ahead of the machine's by so many seconds, and so much faster from now on."""
        self._control("clock", {"ahead": ahead, "speed": speed})

    def clear(self) -> None:
        """Drop all objects and the log."""
        self._control("clear", {})

    def now(self) -> Moment:
        """Where the server stands."""
        return Moment(**self._control("now"))

    def requests(self, since: Moment | None = None) -> list[LoggedRequest]:
        """The requests since a moment, in the order of their answers."""
        first = since.requests if since is not None else 0
        return [LoggedRequest(*entry) for entry in self._control("log", since=str(first))]

    def keys(self, prefix: str = "") -> list[tuple[str, int]]:
        """Key and size of every object below a prefix."""
        return [(key, size) for key, size in self._control("keys", prefix=prefix)]

    def _control(self, what: str, body: Any = None, **query: str) -> Any:
        url = f"{self.endpoint}/_control/{what}?{urlencode(query)}"
        data = None if body is None else json.dumps(body).encode()
        with urlopen(Request(url, data=data, method="GET" if data is None else "POST"), timeout=60) as answer:
            return json.load(answer)
