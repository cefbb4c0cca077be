"""Carries out, in life, the request batches that a commit yields.

A batch of one runs in the calling thread; a larger batch runs in threads of a pool that the process
shares, so an interrupt (Ctrl-C, a cancelled task) ends the wait at once. Nothing is undone then:
what was sent may land, and the commit protocol is built for that.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import islice
from typing import Any, TypeVar

from datashard_core.clock import SYSTEM_CLOCK, Clock
from datashard_core.errors import DataShardError
from datashard_core.storage.base import Storage
from datashard_core.storage.requests import (
    Delete,
    Get,
    Head,
    Instant,
    ListPage,
    Now,
    Put,
    PutData,
    PutIfAbsent,
    Random,
    Replace,
    Request,
    Sleep,
    Steps,
    Unique,
)

T = TypeVar("T")
MAX_THREADS = 32

_pools: dict[int, ThreadPoolExecutor] = {}
_pools_lock = threading.Lock()


def run(steps: Steps[T], storage: Storage, clock: Clock = SYSTEM_CLOCK) -> T:
    """Run a generator of request batches to its end and return what it returns.

    Args:
        steps: the generator, not yet started.
        storage: where the requests go.
        clock: time and randomness for :class:`Now`, :class:`Sleep`, :class:`Unique`, :class:`Random`.

    Raises:
        DataShardError: whatever the generator raises.
    """
    try:
        batch = next(steps)
        while True:
            batch = steps.send(_perform_all(batch, storage, clock))
    except StopIteration as stop:
        result: T = stop.value
        return result


def _perform_all(batch: Sequence[Request], storage: Storage, clock: Clock) -> list[Any]:
    remote = [request for request in batch if not isinstance(request, (Now, Unique, Random))]
    if len(remote) <= 1:
        return [_perform(request, storage, clock) for request in batch]
    pool = shared_pool()
    # The first request stays in this thread: one hand-over fewer.
    first = remote[0]
    futures: dict[int, Future[Any]] = {
        index: pool.submit(_perform, request, storage, clock)
        for index, request in enumerate(batch)
        if request is not first
    }
    outcomes: list[Any] = [None] * len(batch)
    for index, request in enumerate(batch):
        if request is first:
            outcomes[index] = _perform(request, storage, clock)
    for index, future in futures.items():
        outcomes[index] = future.result()
    return outcomes


def _perform(request: Request, storage: Storage, clock: Clock) -> Any:
    """The result of one request, or the error of ours that it ended with (as a value)."""
    try:
        return _HANDLERS[type(request)](request, storage, clock)
    except DataShardError as error:
        return error


_HANDLERS: dict[type, Callable[[Any, Storage, Clock], Any]] = {
    Get: lambda request, storage, clock: storage.get(request.key, request.byte_range),
    Head: lambda request, storage, clock: storage.head(request.key),
    ListPage: lambda request, storage, clock: list(islice(storage.list(request.prefix, request.after), request.limit)),
    Put: lambda request, storage, clock: storage.put(request.key, request.data),
    PutData: lambda request, storage, clock: storage.put_data(request.key, request.data),
    PutIfAbsent: lambda request, storage, clock: storage.put_if_absent(request.key, request.data),
    Replace: lambda request, storage, clock: storage.replace(request.key, request.data, request.version),
    Delete: lambda request, storage, clock: storage.delete(request.keys),
    Sleep: lambda request, storage, clock: clock.sleep(request.seconds),
    Now: lambda request, storage, clock: Instant(clock.now_ms(), clock.monotonic()),
    Unique: lambda request, storage, clock: clock.unique(),
    Random: lambda request, storage, clock: clock.random(),
}


def shared_pool() -> ThreadPoolExecutor:
    """The process's thread pool; a forked child makes its own (threads do not survive a fork)."""
    pid = os.getpid()
    with _pools_lock:
        pool = _pools.get(pid)
        if pool is None:
            _pools.clear()
            pool = _pools[pid] = ThreadPoolExecutor(MAX_THREADS, thread_name_prefix="datashard")
        return pool
