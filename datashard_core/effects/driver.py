"""Carries out, in life, the request batches that a commit yields.

Requests run in daemon threads of a pool that the process shares while the main thread waits for
them, so an interrupt (Ctrl-C, a cancelled task) ends the wait at once. Nothing is undone then: what
was sent may land, and the commit protocol is built for that.
"""

from __future__ import annotations

import os
import queue
import threading
from collections.abc import Callable, Coroutine, Iterable
from concurrent.futures import Future
from itertools import islice
from math import inf
from typing import Any, TypeVar, cast

from datashard_core.clock import SYSTEM_CLOCK, Clock
from datashard_core.effects.requests import (
    LOCAL,
    Batch,
    Delete,
    Get,
    Head,
    Instant,
    KeepsVersions,
    ListPage,
    Now,
    Put,
    PutData,
    PutIfAbsent,
    Random,
    Replace,
    Request,
    Sleep,
    Unique,
)
from datashard_core.effects.scheduler import Scheduler
from datashard_core.effects.tasks import Task
from datashard_core.errors import DataShardError, StorageError
from datashard_core.storage.base import OutcomeUnknownError, Storage
from datashard_core.storage.if_match import keeps_versions

T = TypeVar("T")
MAX_THREADS = 32
GRACE = 0.5
"""Seconds that a request is given once the deadline of its work has passed."""


class Pool:
    """Daemon threads that run calls.

    Unlike those of :class:`concurrent.futures.ThreadPoolExecutor` they are not waited for when the
    process ends: after an interrupt a request may hang for as long as its time-out.

    Args:
        most: how many threads there are at the most; one is started when none is idle.
    """

    def __init__(self, most: int) -> None:
        self._most = most
        self._lock = threading.Lock()
        self._threads = 0
        self._idle = threading.Semaphore(0)
        self._work: queue.SimpleQueue[Callable[[], None]] = queue.SimpleQueue()

    def submit(self, work: Callable[..., T], *arguments: Any) -> Future[T]:
        """Run a call in some thread; its result or error is the future's."""
        future: Future[T] = Future()

        def run_it() -> None:
            if not future.set_running_or_notify_cancel():
                return
            try:
                result = work(*arguments)
            except BaseException as error:  # noqa: BLE001 - it belongs to whoever asks the future
                future.set_exception(error)
            else:
                future.set_result(result)

        self._work.put(run_it)
        if not self._idle.acquire(blocking=False):
            self._start_one()
        return future

    def map(self, work: Callable[[Any], T], arguments: Iterable[Any]) -> list[T]:
        """Run a call for each argument, side by side; their results in order, or the first error."""
        return [future.result() for future in [self.submit(work, argument) for argument in arguments]]

    def _start_one(self) -> None:
        with self._lock:
            if self._threads == self._most:
                return  # whoever is done first takes it
            self._threads += 1
        threading.Thread(target=self._serve, name="datashard", daemon=True).start()

    def _serve(self) -> None:
        while True:
            try:
                run_it = self._work.get_nowait()
            except queue.Empty:
                self._idle.release()
                run_it = self._work.get()
            run_it()


class _Shared:
    """The pools of this process."""

    pool: Pool | None = None
    decoders: Pool | None = None
    lock = threading.Lock()

    @classmethod
    def forget(cls) -> None:
        """In a forked child: threads do not survive a fork, and another one may have held the lock."""
        cls.pool, cls.decoders, cls.lock = None, None, threading.Lock()


os.register_at_fork(after_in_child=_Shared.forget)


def run(
    coroutine: Coroutine[Any, Any, T], storage: Storage, clock: Clock = SYSTEM_CLOCK, timeout: float | None = None
) -> T:
    """Run a coroutine to its end and return what it returns.

    Args:
        coroutine: not yet awaited.
        storage: where the requests go.
        clock: time and randomness for :class:`Now`, :class:`Sleep`, :class:`Unique`, :class:`Random`.
        timeout: seconds after which no request is waited for any longer than :data:`GRACE`: a store that
            does not answer is not waited for as long as its client has patience. None: for as long as that.

    Raises:
        DataShardError: whatever the coroutine raises.
    """
    until = None if timeout is None else clock.monotonic() + timeout
    scheduler = Scheduler(coroutine)
    try:
        _drive(scheduler, storage, clock, until)
    finally:
        scheduler.close()
    return cast("T", scheduler.main.outcome)


def _drive(scheduler: Scheduler[Any], storage: Storage, clock: Clock, until: float | None) -> None:
    """Carry out what the tasks ask for, each batch as soon as it is asked for, until the main one is done."""
    flight = _Flight(storage, clock, until)
    waiting = scheduler.begin()
    try:
        while not scheduler.main.done:
            if len(waiting) == 1 and not flight.batches:
                task, batch = waiting[0]
                waiting = scheduler.resume(task, _perform_all(batch, storage, clock, until))
                continue
            for task, batch in waiting:
                flight.send(task, batch)
            waiting = scheduler.resume(*flight.next_answered())
    finally:
        flight.abandon()


class _Flight:
    """Batches of several tasks whose requests are under way."""

    def __init__(self, storage: Storage, clock: Clock, until: float | None) -> None:
        self._storage, self._clock, self._until = storage, clock, until
        self._answered: queue.SimpleQueue[_Sent] = queue.SimpleQueue()
        self.batches: set[_Sent] = set()

    def send(self, task: Task[Any], batch: Batch) -> None:
        """Send the requests of a task."""
        last = inf if self._until is None else max(self._until, self._clock.monotonic()) + GRACE
        sent = _Sent(task, batch, self._answered, last)
        self.batches.add(sent)
        remote = [index for index, request in enumerate(batch) if not isinstance(request, LOCAL)]
        sent.missing = len(remote) + 1
        for index in remote:
            shared_pool().submit(sent.perform, index, self._storage, self._clock)
        for index, request in enumerate(batch):
            if isinstance(request, LOCAL):
                sent.outcomes[index] = _perform(request, self._storage, self._clock)
        sent.count_down()

    def next_answered(self) -> tuple[Task[Any], list[Any]]:
        """Wait for the next batch all of whose requests are answered, or whose time is over."""
        sent = self._next()
        self.batches.discard(sent)
        if sent.failure is not None:
            raise sent.failure
        return sent.task, sent.outcomes

    def _next(self) -> _Sent:
        while self._until is not None:
            overdue = min(self.batches, key=lambda sent: sent.last)
            try:
                sent = self._answered.get(timeout=max(overdue.last - self._clock.monotonic(), 0.0))
            except queue.Empty:
                if overdue.give_up(self._storage):
                    return overdue
                continue  # its last answer came in this moment
            return sent
        return self._answered.get()

    def abandon(self) -> None:
        """Nobody waits any longer: requests that no thread has begun are not sent."""
        for sent in self.batches:
            sent.give_up(self._storage)


class _Sent:
    """One batch under way.

    Args:
        task: that waits for it.
        batch: the requests.
        answered: where it is put once all of them are answered.
        last: the time until when it is waited for; infinite: for ever.
    """

    def __init__(self, task: Task[Any], batch: Batch, answered: queue.SimpleQueue[_Sent], last: float) -> None:
        self.task, self.last = task, last
        self._batch, self._answered = batch, answered
        self.outcomes: list[Any] = [_PENDING] * len(batch)
        self.failure: BaseException | None = None
        self.missing = 0
        self._lock = threading.Lock()

    def perform(self, index: int, storage: Storage, clock: Clock) -> None:
        """Carry out one request, in a thread of the pool."""
        if self.missing < 0:
            return  # given up before its turn came
        try:
            self.outcomes[index] = _perform(self._batch[index], storage, clock)
        except BaseException as error:  # noqa: BLE001 - it is raised where the batch is waited for
            self.failure = error
        self.count_down()

    def count_down(self) -> None:
        """One request fewer is missing."""
        with self._lock:
            self.missing -= 1
            if self.missing == 0:
                self._answered.put(self)

    def give_up(self, storage: Storage) -> bool:
        """Take what was not answered for not answered before the deadline; False if all was answered meanwhile."""
        with self._lock:
            if self.missing == 0:
                return False
            self.missing = -1
        self.outcomes = [
            _no_answer(request, storage) if outcome is _PENDING else outcome
            for request, outcome in zip(self._batch, self.outcomes, strict=True)
        ]
        return True


_PENDING = object()


def run_beside(
    work: Callable[[], Any], coroutine: Coroutine[Any, Any, T], storage: Storage, clock: Clock = SYSTEM_CLOCK
) -> T:
    """As :func:`run`, in a thread of its own, while this one does some work."""
    future: Future[T] = Pool(1).submit(run, coroutine, storage, clock)
    work()
    return future.result()


def _perform_all(batch: Batch, storage: Storage, clock: Clock, until: float | None) -> list[Any]:
    remote = [index for index, request in enumerate(batch) if not isinstance(request, LOCAL)]
    patient = until is None and not _is_main()
    if remote and (patient or isinstance(batch[remote[0]], Sleep)):
        remote.pop(0)  # stays in this thread: one hand-over fewer, and a sleep can be interrupted
    if not remote:
        return [_perform(request, storage, clock) for request in batch]
    pool = shared_pool()
    futures = {index: pool.submit(_perform, batch[index], storage, clock) for index in remote}
    try:
        outcomes = [None if index in futures else _perform(batch[index], storage, clock) for index in range(len(batch))]
        last = None if until is None else max(until, clock.monotonic()) + GRACE
        for index, future in futures.items():
            outcomes[index] = future.result() if last is None else _awaited(future, batch[index], storage, clock, last)
    except BaseException:
        for future in futures.values():
            future.cancel()  # those that no thread has begun
        raise
    return outcomes


def _awaited(future: Future[Any], request: Request[Any], storage: Storage, clock: Clock, until: float) -> Any:
    """The outcome of a request, or that there was none until then; it may have its effect all the same."""
    try:
        return future.result(max(until - clock.monotonic(), 0.0))
    except TimeoutError:
        if future.done():  # the answer came in the last moment, or is such an error itself
            return future.result()
    future.cancel()
    return _no_answer(request, storage)


def _no_answer(request: Request[Any], storage: Storage) -> StorageError:
    """The outcome of a request that was not answered before the deadline; it may have its effect all the same."""
    key = request.key if isinstance(request, (Get, Head, Put, PutData, PutIfAbsent, Replace)) else ""
    what = f"{type(request).__name__} of {storage.root}/{key}: no answer before the deadline"
    if isinstance(request, (PutIfAbsent, Replace)):
        return OutcomeUnknownError(f"{what}, so the write may have landed or not", key=key)
    return StorageError(what, reason="unreachable", key=f"{storage.root}/{key}")


def call(work: Callable[..., T], *arguments: Any) -> T:
    """Do something that waits for the store, and let an interrupt of the main thread end the wait."""
    return shared_pool().submit(work, *arguments).result() if _is_main() else work(*arguments)


def _is_main() -> bool:
    """Whether signals reach this thread: it waits for its requests, and makes none itself.

    A client written in Rust or C++ sees no signal until its request is over, so Ctrl-C would wait for
    a hanging store.
    """
    return threading.current_thread() is threading.main_thread()


def _perform(request: Request[Any], storage: Storage, clock: Clock) -> Any:
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
    KeepsVersions: lambda request, storage, clock: keeps_versions(storage),
    Delete: lambda request, storage, clock: storage.delete(request.keys),
    Sleep: lambda request, storage, clock: clock.sleep(request.seconds),
    Now: lambda request, storage, clock: Instant(clock.now_ms(), clock.monotonic()),
    Unique: lambda request, storage, clock: clock.unique(),
    Random: lambda request, storage, clock: clock.random(),
}


def shared_pool() -> Pool:
    """The process's thread pool; a forked child makes its own."""
    with _Shared.lock:
        if _Shared.pool is None:
            _Shared.pool = Pool(MAX_THREADS)
        return _Shared.pool


def decoding_pool() -> Pool:
    """A few threads for work that never waits: every thread that ever decoded rows keeps some of their memory.

    Whoever waits for that work takes part in it, so they are one fewer than there are processors.
    """
    with _Shared.lock:
        if _Shared.decoders is None:
            _Shared.decoders = Pool(max(1, (os.cpu_count() or 1) - 1))
        return _Shared.decoders
