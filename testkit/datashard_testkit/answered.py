"""Runs a coroutine of the commit layer request by request, so that a test can answer some of them itself."""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from typing import Any

from datashard_core.effects.driver import run
from datashard_core.effects.requests import Request
from datashard_core.effects.scheduler import Scheduler
from datashard_core.effects.tasks import outcomes_of
from datashard_core.storage.base import Storage


def run_answered(coroutine: Coroutine[Any, Any, Any], answer: Callable[[Request[Any]], Any]) -> Any:
    """Run a coroutine and its tasks, one request after the other, in the order in which they are asked.

    Args:
        coroutine: not yet awaited.
        answer: called for each request; its outcome, errors as values.

    Raises:
        DataShardError: whatever the coroutine raises.
    """
    scheduler = Scheduler(coroutine)
    waiting = scheduler.begin()
    while not scheduler.main.done:
        task, batch = waiting.pop(0)
        outcomes = [answer(request) for request in batch]
        waiting = [one for one in waiting if not one[0].done] + scheduler.resume(task, outcomes)
    return scheduler.main.outcome


def perform(request: Request[Any], storage: Storage) -> Any:
    """The outcome of a request over a storage, an error as a value."""

    async def one() -> Any:
        return (await outcomes_of((request,)))[0]

    return run(one(), storage)
