"""Requests as values: what a coroutine of the commit layer may await.

``stored = await Get(key)`` asks the runner for an object and returns it, or raises the
:class:`~datashard_core.errors.DataShardError` that the request ended with. The runner is
:mod:`datashard_core.effects.driver`, or the simulation.
"""

from __future__ import annotations

from collections.abc import Generator, Sequence
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from msgspec import Struct

from datashard_core.storage.base import ObjectInfo, StoredObject, Version

if TYPE_CHECKING:
    import pyarrow as pa

Result = TypeVar("Result")


class Request(Struct, Generic[Result], frozen=True):
    """One request; awaiting it returns its result or raises the error that it ended with."""

    def __await__(self) -> Generator[Batch, Sequence[Any], Result]:
        (outcome,) = yield (self,)
        if isinstance(outcome, BaseException):
            raise outcome
        result: Result = outcome
        return result


Batch = Sequence[Request[Any]]
"""Requests that are sent side by side; the coroutine goes on when all of them are answered."""


class Get(Request[StoredObject], frozen=True):
    """The body of an object, or of the bytes ``[start, end)`` of it."""

    key: str
    byte_range: tuple[int, int] | None = None


class Head(Request[ObjectInfo], frozen=True):
    """What the store knows of an object without its body."""

    key: str


class ListPage(Request[list[ObjectInfo]], frozen=True):
    """At most ``limit`` objects whose key begins with ``prefix`` and sorts after ``after``, sorted by key."""

    prefix: str
    after: str | None = None
    limit: int = 1000


class Put(Request[Version], frozen=True):
    """Write an object under a fresh name, or one whose bytes are always equal."""

    key: str
    data: bytes


class PutData(Request[None], frozen=True):
    """Write a data file; on S3, Arrow's own client sends a large one."""

    key: str
    data: bytes | pa.Buffer


class PutIfAbsent(Request[Version], frozen=True):
    """Create an object on condition that it is absent. Sent once."""

    key: str
    data: bytes


class Replace(Request[Version], frozen=True):
    """Overwrite an object on condition of its version."""

    key: str
    data: bytes
    version: Version


class KeepsVersions(Request[bool], frozen=True):
    """Whether :class:`Replace` can be relied on in this store, which is asked once in a process."""


class Delete(Request[None], frozen=True):
    """Delete objects; absent ones are fine."""

    keys: tuple[str, ...]


class Sleep(Request[None], frozen=True):
    """Wait for some seconds."""

    seconds: float


class Instant(Struct, frozen=True):
    """The moment of asking, by the client's two clocks."""

    wall_ms: int
    monotonic: float


class Now(Request[Instant], frozen=True):
    """The present moment."""


class Unique(Request[str], frozen=True):
    """32 hexadecimal characters that are never made again."""


class Random(Request[float], frozen=True):
    """A number in [0, 1)."""


LOCAL = (Now, Unique, Random)
"""Requests that the runner answers without the store."""
