"""How many requests were made, of which kind, and how many bytes they carried."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from msgspec import Struct
from msgspec.structs import asdict

from datashard_core.forks import ProcessLock


class StorageMetrics(Struct, frozen=True):
    """Requests of one table object since it was opened.

    Attributes:
        transport: "obstore" or "boto3" on S3; "local" or "memory" elsewhere, where nothing is counted.
        requests: kind of request -> how many were sent, every try counted. The kinds are get, head,
            list, put, put_if_absent, replace and delete (one for up to 1,000 objects).
        bytes_up: bytes of bodies that were sent, in whole or in part.
        bytes_down: bytes of bodies that were received.

    Requests that Arrow makes by itself, for data files of more than 16 MB, are not among them.
    """

    transport: str
    requests: Mapping[str, int]
    bytes_up: int
    bytes_down: int

    def to_dict(self) -> dict[str, Any]:
        """The metrics as plain values that JSON can hold."""
        return asdict(self)


class Meter:
    """Counts, from any thread."""

    __slots__ = ("_down", "_lock", "_requests", "_up")

    def __init__(self) -> None:
        self._lock = ProcessLock()
        self._requests: dict[str, int] = {}
        self._up = 0
        self._down = 0

    def sent(self, kind: str, size: int = 0) -> None:
        """One request goes out, with a body of ``size`` bytes."""
        with self._lock:
            self._requests[kind] = self._requests.get(kind, 0) + 1
            self._up += size

    def received(self, size: int) -> None:
        """A body of ``size`` bytes came back."""
        with self._lock:
            self._down += size

    def read(self, transport: str) -> StorageMetrics:
        """The counts so far."""
        with self._lock:
            return StorageMetrics(transport, dict(sorted(self._requests.items())), self._up, self._down)
