"""Coroutines side by side: ``gather``, ``start`` and ``join``, as in asyncio and without it.

An asyncio import would cost a process that appends once a third of its time, and its event loop has no virtual
time. What a coroutine awaits here is a batch of requests, or one of the two instructions of this module;
:mod:`datashard_core.effects.scheduler` carries the instructions out.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Coroutine, Generator, Sequence
from typing import Any, Generic, TypeVar, cast

from datashard_core.effects.requests import Batch, Request
from datashard_core.errors import DataShardError

T = TypeVar("T")


Ready = deque[tuple["Task[Any]", Any]]
"""Tasks that can go on, each with what it goes on with: an outcome, or a :class:`Failure`."""


class Failure:
    """An error on its way into a task."""

    __slots__ = ("error",)

    def __init__(self, error: DataShardError) -> None:
        self.error = error


class Task(Generic[T]):
    """A coroutine that runs beside the one that started it.

    Attributes:
        done: whether it has ended, or was cancelled.
        outcome: then, its result, or the :class:`DataShardError` that it ended with; None if it was cancelled.
    """

    __slots__ = ("_children", "_coroutine", "_joins", "_ready", "done", "outcome")

    def __init__(self, coroutine: Coroutine[Any, Any, T], ready: Ready) -> None:
        self._coroutine = coroutine
        self._ready = ready
        self._children: list[Task[Any]] = []
        self._joins: list[tuple[Task[Any], Join]] = []
        self.done = False
        self.outcome: T | DataShardError | None = None

    def step(self, value: Any) -> Any:
        """Go on with an outcome or a :class:`Failure`; what the coroutine awaits next."""
        if isinstance(value, Failure):
            return self._coroutine.throw(value.error)
        return self._coroutine.send(value)

    def start(self, coroutine: Coroutine[Any, Any, Any]) -> Task[Any]:
        """A task beside this one; it is cancelled with this one."""
        child = Task(coroutine, self._ready)
        self._children.append(child)
        self._ready.append((self, child))
        self._ready.append((child, None))
        return child

    def join(self, join: Join) -> None:
        """Wait for tasks."""
        if not join.tell(self, self._ready):
            for task in join.tasks:
                task._joins.append((self, join))

    def end(self, outcome: T | DataShardError) -> None:
        """Record the outcome, and let the tasks that wait for it go on."""
        self.done, self.outcome = True, outcome
        self._children.clear()
        self._tell()

    def cancel(self) -> None:
        """End it here; requests that were sent may still have their effect."""
        if self.done:
            return
        self.done = True
        for child in self._children:
            child.cancel()
        self._coroutine.close()
        self._tell()

    def _tell(self) -> None:
        joins, self._joins = self._joins, []
        for joiner, join in joins:
            if not (joiner.done or join.over):
                join.tell(joiner, self._ready)


class Start:
    """Instruction: run a coroutine beside this one. Outcome: its :class:`Task`."""

    __slots__ = ("coroutine",)

    def __init__(self, coroutine: Coroutine[Any, Any, Any]) -> None:
        self.coroutine = coroutine

    def __await__(self) -> Generator[Start, Any, Task[Any]]:
        task: Task[Any] = yield self
        return task


class Join:
    """Instruction: wait until tasks are done. Outcome: theirs, in order.

    Attributes:
        tasks: what is waited for.
        fail_fast: raise the first error as soon as it is there, and cancel the others.
        over: whether the wait has ended.
    """

    __slots__ = ("fail_fast", "over", "tasks")

    def __init__(self, tasks: Sequence[Task[Any]], fail_fast: bool) -> None:
        self.tasks = tasks
        self.fail_fast = fail_fast
        self.over = False

    def __await__(self) -> Generator[Join, Any, list[Any]]:
        outcomes: list[Any] = yield self
        return outcomes

    def tell(self, joiner: Task[Any], ready: Ready) -> bool:
        """Whether the wait is over; then the task that waits is ready to go on."""
        failed = [one.outcome for one in self.tasks if self.fail_fast and isinstance(one.outcome, DataShardError)]
        self.over = bool(failed) or all(one.done for one in self.tasks)
        if self.over:
            error = failed[0] if failed else None
            ready.append((joiner, Failure(error) if error is not None else [one.outcome for one in self.tasks]))
            for one in self.tasks:
                one.cancel()  # those that still run after a failure
        return self.over


class _Outcomes:
    """A batch whose errors are values."""

    __slots__ = ("batch",)

    def __init__(self, batch: Batch) -> None:
        self.batch = batch

    def __await__(self) -> Generator[Batch, Sequence[Any], Sequence[Any]]:
        return (yield self.batch)


async def start(coroutine: Coroutine[Any, Any, T]) -> Task[T]:
    """Run a coroutine beside this one, and go on at once.

    Args:
        coroutine: not yet awaited.

    Example:
        >>> hint = await start(read_hint())
        >>> state = await newest(target, seen)
        >>> await join(hint)
    """
    return cast("Task[T]", await Start(coroutine))


async def join(*tasks: Task[Any]) -> None:
    """Wait until tasks are done; how each ended is its ``outcome``, errors included."""
    if not all(task.done for task in tasks):
        await Join(tasks, fail_fast=False)


async def outcomes_of(batch: Batch) -> Sequence[Any]:
    """Send requests side by side; for each its result, or the error that it ended with as a value."""
    return await _Outcomes(batch)


async def gather(*parts: Request[Any] | Coroutine[Any, Any, Any]) -> list[Any]:
    """Run requests and coroutines side by side.

    Args:
        parts: requests, and coroutines that were not awaited yet.

    Returns:
        Their results, in order.

    Raises:
        DataShardError: the first error of a part. Coroutines that still run are cancelled; what they had sent
            may have its effect.
    """
    if all(isinstance(part, Request) for part in parts):
        outcomes = list(await _Outcomes(cast("Batch", parts)))
        for outcome in outcomes:
            if isinstance(outcome, BaseException):
                raise outcome
        return outcomes
    coroutines = [_one(part) if isinstance(part, Request) else part for part in parts]
    try:
        tasks = [await Start(coroutine) for coroutine in coroutines]
    except GeneratorExit:
        for coroutine in coroutines:
            coroutine.close()  # cancelled before all of them were started
        raise
    return await Join(tasks, fail_fast=True)


async def _one(request: Request[T]) -> T:
    return await request


def result_of(outcome: Any) -> Any:
    """The result of a request, or its error raised."""
    if isinstance(outcome, BaseException):
        raise outcome
    return outcome
