"""Runs a coroutine and the tasks that it starts, as far as they go without an answer. Pure: it sends nothing."""

from __future__ import annotations

from collections import deque
from collections.abc import Coroutine, Sequence
from typing import Any, Generic, TypeVar

from datashard_core.effects.requests import Batch
from datashard_core.effects.tasks import Join, Ready, Start, Task
from datashard_core.errors import DataShardError

T = TypeVar("T")
Waiting = list[tuple[Task[Any], Batch]]
"""Tasks, each with the requests that it waits for."""


class Scheduler(Generic[T]):
    """One coroutine, with all the tasks that come of it.

    Args:
        coroutine: not yet awaited.

    Attributes:
        main: its task; when it is done, tasks that still run are cancelled.
    """

    def __init__(self, coroutine: Coroutine[Any, Any, T]) -> None:
        self._ready: Ready = deque()
        self._started: list[Task[Any]] = []
        self.main: Task[T] = Task(coroutine, self._ready)

    def begin(self) -> Waiting:
        """Run to the first requests.

        Returns:
            What is to be sent. Empty if the coroutine is done.

        Raises:
            DataShardError: the coroutine ended with it.
        """
        return self._run(self.main, None)

    def resume(self, task: Task[Any], outcomes: Sequence[Any]) -> Waiting:
        """Go on with the outcomes of a task's requests.

        Args:
            task: the task that waited for them; a cancelled one is passed over.
            outcomes: in the order of the requests, errors as values.

        Returns, raises: as :meth:`begin`.
        """
        return self._run(task, outcomes)

    def close(self) -> None:
        """Cancel whatever still runs."""
        self.main.cancel()
        for task in self._started:
            task.cancel()

    def _run(self, task: Task[Any], value: Any) -> Waiting:
        ready = self._ready
        ready.append((task, value))
        waiting: Waiting = []
        try:
            while ready:
                task, value = ready.popleft()
                if not task.done:
                    self._step(task, value, waiting)
                    if self.main.done:
                        break
        except BaseException:
            self.close()
            raise
        if self.main.done:
            self.close()
            return []
        return waiting

    def _step(self, task: Task[Any], value: Any, waiting: Waiting) -> None:
        """Let a task go on to what it awaits next, or to its end."""
        try:
            asked = task.step(value)
        except StopIteration as stop:
            task.end(stop.value)
            return
        except DataShardError as error:
            if task is self.main:
                raise
            task.end(error)
            return
        if isinstance(asked, Start):
            self._started.append(task.start(asked.coroutine))
        elif isinstance(asked, Join):
            task.join(asked)
        elif asked:
            waiting.append((task, asked))
        else:
            self._ready.append((task, asked))  # no requests, no outcomes
