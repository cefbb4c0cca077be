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
from functools import partial
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
from datashard_core.effects.scheduler import Scheduler, Waiting
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

    def start(self, work: Callable[[], None]) -> None:
        """Run a call in some thread; it raises nothing, and tells how it ended itself."""
        self._work.put(work)
        if not self._idle.acquire(blocking=False):
            self._start_one()

    def submit(self, work: Callable[..., T], *arguments: Any) -> Future[T]:
        """Run a call in some thread; its result or error is the future's."""
        future: Future[T] = Future()

        def run_it() -> None:
            if not future.set_running_or_notify_cancel():
                return
            try:
                result = work(*arguments)
            except BaseException as error:  # noqa: BLE001 - the future raises it
                future.set_exception(error)
            else:
                future.set_result(result)

        self.start(run_it)
        return future

    def map(self, work: Callable[[Any], T], arguments: Iterable[Any]) -> list[T]:
        """Run a call for each argument, side by side; their results in order, or the first error."""
        return [future.result() for future in [self.submit(work, argument) for argument in arguments]]

    def _start_one(self) -> None:
        with self._lock:
            if self._threads == self._most:
                return  # the first thread that is free takes it
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
            waiting = _step(scheduler, flight, waiting)
    finally:
        flight.abandon()


def _step(scheduler: Scheduler[Any], flight: _Flight, waiting: Waiting) -> Waiting:
    """Carry out a batch that needs no waiting, or wait for the next answers; what is asked for after that."""
    quick = [one for one in waiting if all(isinstance(request, LOCAL) for request in one[1])]
    if quick:
        for task, batch in waiting:
            if (task, batch) not in quick:
                flight.send(task, batch)
        return [one for task, batch in quick for one in scheduler.resume(task, flight.perform_here(batch))]
    if len(waiting) == 1 and not flight.under_way and flight.stays(waiting[0][1]):
        task, batch = waiting[0]
        return scheduler.resume(task, flight.perform_here(batch))
    for task, batch in waiting:
        flight.send(task, batch)
    if not flight.under_way:
        raise RuntimeError("the tasks wait for each other, and none for a request")
    return scheduler.resume(*flight.next_answered())


class _Flight:
    """Batches whose requests are under way."""

    def __init__(self, storage: Storage, clock: Clock, until: float | None) -> None:
        self._storage, self._clock, self._until = storage, clock, until
        self._answered: queue.SimpleQueue[_Sent] = queue.SimpleQueue()
        self.under_way: set[_Sent] = set()

    def stays(self, batch: Batch) -> bool:
        """Whether the only batch is carried out by this thread.

        That saves a hand-over. A sleep can be interrupted in any thread. A request cannot, so only a thread that
        gets no interrupts, and has no deadline, carries one out itself.
        """
        return len(batch) == 1 and (isinstance(batch[0], Sleep) or (self._until is None and not _is_main()))

    def perform_here(self, batch: Batch) -> list[Any]:
        """The outcomes of a batch, carried out by this thread."""
        return [_perform(request, self._storage, self._clock) for request in batch]

    def send(self, task: Task[Any], batch: Batch) -> None:
        """Send the requests of a task."""
        last = inf if self._until is None else max(self._until, self._clock.monotonic()) + GRACE
        remote = [index for index, request in enumerate(batch) if not isinstance(request, LOCAL)]
        outcomes = [
            _perform(request, self._storage, self._clock) if isinstance(request, LOCAL) else _PENDING
            for request in batch
        ]
        sent = _Sent(task, batch, outcomes, len(remote), last)
        self.under_way.add(sent)
        pool = shared_pool()
        for index in remote:
            pool.start(partial(self._perform, sent, index))

    def _perform(self, sent: _Sent, index: int) -> None:
        """Carry out one request, in a thread of the pool."""
        if sent.missing < 0:
            return  # given up before its turn came
        try:
            sent.outcomes[index] = _perform(sent.batch[index], self._storage, self._clock)
        except BaseException as error:  # noqa: BLE001 - it is raised where the batch is waited for
            sent.failure = error
        with sent.lock:
            sent.missing -= 1
            if sent.missing == 0:
                self._answered.put(sent)

    def next_answered(self) -> tuple[Task[Any], list[Any]]:
        """Wait for the next batch all of whose requests are answered, or whose time is over."""
        sent = self._next()
        self.under_way.discard(sent)
        if sent.failure is not None:
            raise sent.failure
        return sent.task, sent.outcomes

    def _next(self) -> _Sent:
        while self._until is not None:
            overdue = min(self.under_way, key=lambda sent: sent.last)
            try:
                sent = self._answered.get(timeout=max(overdue.last - self._clock.monotonic(), 0.0))
            except queue.Empty:
                if overdue.give_up(self._storage):
                    return overdue
                continue  # its last answer came in this moment
            return sent
        return self._answered.get()

    def abandon(self) -> None:
        """Send no request that no thread has begun: no task waits any longer."""
        for sent in self.under_way:
            sent.give_up(self._storage)


class _Sent:
    """One batch under way.

    Attributes:
        task: the task that waits for it.
        batch: the requests.
        outcomes: theirs, as far as they are answered.
        missing: how many are not answered yet; negative once the batch was given up.
        last: the time until when it is waited for; infinite: without bound.
        failure: what is no error of the library, and is raised where the batch is waited for.
    """

    __slots__ = ("batch", "failure", "last", "lock", "missing", "outcomes", "task")

    def __init__(self, task: Task[Any], batch: Batch, outcomes: list[Any], missing: int, last: float) -> None:
        self.task, self.batch, self.outcomes, self.missing, self.last = task, batch, outcomes, missing, last
        self.failure: BaseException | None = None
        self.lock = threading.Lock()

    def give_up(self, storage: Storage) -> bool:
        """Take what was not answered for not answered before the deadline; False if all was answered meanwhile."""
        with self.lock:
            if self.missing == 0:
                return False
            self.missing = -1
        self.outcomes = [
            _no_answer(request, storage) if outcome is _PENDING else outcome
            for request, outcome in zip(self.batch, list(self.outcomes), strict=True)
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
    """The result of one request, or the library's error that it ended with (as a value)."""
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

    A thread that waits for that work takes part in it, so there is one fewer than there are processors.
    """
    with _Shared.lock:
        if _Shared.decoders is None:
            _Shared.decoders = Pool(max(1, (os.cpu_count() or 1) - 1))
        return _Shared.decoders
