"""Storage requests as values.

A commit is written as a generator that yields batches of these and receives one outcome for each:
the result, or the :class:`~datashard_core.errors.DataShardError` that the request ended with. In
life :mod:`datashard_core.storage.driver` carries them out with threads; in the simulation a seeded
scheduler does, over a model of S3 in virtual time. So the code that is simulated is the code that
runs.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Sequence
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from msgspec import Struct

from datashard_core.errors import DataShardError
from datashard_core.storage.base import Version

if TYPE_CHECKING:
    import pyarrow as pa


class Get(Struct, frozen=True):
    """Outcome: :class:`~datashard_core.storage.base.StoredObject`."""

    key: str
    byte_range: tuple[int, int] | None = None


class Head(Struct, frozen=True):
    """Outcome: :class:`~datashard_core.storage.base.ObjectInfo`."""

    key: str


class ListPage(Struct, frozen=True):
    """Outcome: at most ``limit`` :class:`~datashard_core.storage.base.ObjectInfo`, sorted by key."""

    prefix: str
    after: str | None = None
    limit: int = 1000


class Put(Struct, frozen=True):
    """Outcome: the new version."""

    key: str
    data: bytes


class PutData(Struct, frozen=True):
    """A data file; on S3 a large one is sent by Arrow's own client. Outcome: None."""

    key: str
    data: bytes | pa.Buffer


class PutIfAbsent(Struct, frozen=True):
    """Sent once. Outcome: the new version."""

    key: str
    data: bytes


class Replace(Struct, frozen=True):
    """Overwrite on condition. Outcome: the new version."""

    key: str
    data: bytes
    version: Version


class KeepsVersions(Struct, frozen=True):
    """Whether :class:`Replace` can be relied on in this store; asks it once in a process. Outcome: a bool."""


class Delete(Struct, frozen=True):
    """Outcome: None."""

    keys: tuple[str, ...]


class Sleep(Struct, frozen=True):
    """Outcome: None, after that many seconds."""

    seconds: float


class Now(Struct, frozen=True):
    """Outcome: :class:`Instant`."""


class Unique(Struct, frozen=True):
    """Outcome: 32 hexadecimal characters that nobody else will ever make."""


class Random(Struct, frozen=True):
    """Outcome: a number in [0, 1)."""


class Instant(Struct, frozen=True):
    """The moment of asking, by the client's two clocks."""

    wall_ms: int
    monotonic: float


LOCAL = (Now, Unique, Random)
"""Requests that no store is asked."""

Request = (
    Get
    | Head
    | ListPage
    | Put
    | PutData
    | PutIfAbsent
    | Replace
    | KeepsVersions
    | Delete
    | Sleep
    | Now
    | Unique
    | Random
)
Batch = Sequence[Request]

T = TypeVar("T")
# Outcomes are Any because each belongs to its request; `want` and `value` below narrow them.
Steps = Generator[Batch, Sequence[Any], T]


def value(outcome: Any) -> Any:
    """The result of a request, or its error raised."""
    if isinstance(outcome, BaseException):
        raise outcome
    return outcome


def ask(request: Request) -> Steps[Any]:
    """Yield one request; return its result, raise its error."""
    outcomes = yield (request,)
    return value(outcomes[0])


def together(*parts: Steps[Any]) -> Steps[list[Any]]:
    """Run several generators side by side, in lockstep: each round is one joint batch.

    Returns:
        Their results, in order.

    Raises:
        DataShardError: the first error of a part, after the round in which it arose. The other
            parts are closed there; what they had sent may land.
    """
    results: list[Any] = [None] * len(parts)
    waiting: dict[int, Batch] = {}
    try:
        for index, part in enumerate(parts):
            _advance(index, lambda part=part: next(part), waiting, results)  # type: ignore[misc]
        while waiting:
            order = list(waiting.items())
            outcomes = yield [request for _, batch in order for request in batch]
            position = 0
            waiting.clear()
            for index, batch in order:
                mine = outcomes[position : position + len(batch)]
                position += len(batch)
                _advance(index, lambda i=index, mine=mine: parts[i].send(mine), waiting, results)  # type: ignore[misc]
    finally:
        for part in parts:
            part.close()
    return results


def _advance(index: int, step: Callable[[], Batch], waiting: dict[int, Batch], results: list[Any]) -> None:
    try:
        waiting[index] = step()
    except StopIteration as stop:
        results[index] = stop.value


def each(requests: Batch) -> Steps[Sequence[Any]]:
    """One batch; every result, or the first error raised."""
    outcomes = yield requests
    return [value(outcome) for outcome in outcomes]


class Beside(Generic[T]):
    """Work that goes on beside somebody else's batches: each of its rounds joins one of theirs.

    Attributes:
        batch: what it asks for next; None once it has ended.
        outcome: then, its result, or the error of ours that it ended with.
    """

    def __init__(self, steps: Steps[T]) -> None:
        self._steps = steps
        self.batch: Batch | None = None
        self.outcome: T | DataShardError | None = None
        self._advance(lambda: next(steps))

    def take(self, outcomes: Sequence[Any]) -> None:
        """Hand over the outcomes of :attr:`batch`."""
        self._advance(lambda: self._steps.send(outcomes))

    def _advance(self, step: Callable[[], Batch]) -> None:
        try:
            self.batch = step()
        except StopIteration as stop:
            self.batch, self.outcome = None, stop.value
        except DataShardError as error:
            self.batch, self.outcome = None, error


def joined(batch: Batch, *beside: Beside[Any]) -> Steps[Sequence[Any]]:
    """One batch together with the next round of what goes on beside it; the outcomes of the batch."""
    rounds = [(part, part.batch) for part in beside if part.batch is not None]
    outcomes = yield [*batch, *(request for _, theirs in rounds for request in theirs)]
    position = len(batch)
    for part, theirs in rounds:
        part.take(outcomes[position : position + len(theirs)])
        position += len(theirs)
    return outcomes[: len(batch)]


def with_beside(steps: Steps[T], *beside: Beside[Any]) -> Steps[T]:
    """Run a generator to its end, with what goes on beside it; what is left of that is not waited for."""
    try:
        batch = next(steps)
        while True:
            for part in beside:
                while part.batch is not None and all(isinstance(request, LOCAL) for request in part.batch):
                    yield from joined((), part)  # it waits for nobody, and need not wait for a round
            batch = steps.send((yield from joined(batch, *beside)))
    except StopIteration as stop:
        result: T = stop.value
        return result
    finally:
        steps.close()


def rest(*beside: Beside[Any]) -> Steps[None]:
    """The rounds that are left of what went on beside."""
    while any(part.batch is not None for part in beside):
        yield from joined((), *beside)
