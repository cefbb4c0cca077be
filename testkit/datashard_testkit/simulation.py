"""A seeded scheduler that runs the real commit code in virtual time.

The commit layer yields batches of requests; in life threads carry them out, here a heap of events
does: each request takes effect at one instant and is answered at a later one, and between any two
of them anything else may happen. Every choice comes from one seed, so a run replays exactly.

Faults are those that object stores and their clients are known for: a request that fails before its
effect, one whose reply is lost, one that lands minutes later, one that the HTTP client sends twice,
409, bursts of 503, a stale hint, a stale listing, lost and late deletes, skewed clocks, clients
that are suspended for hours, and a crash between any two requests.
"""

from __future__ import annotations

import heapq
import itertools
import math
import random
from collections import Counter
from collections.abc import Callable, Coroutine
from dataclasses import dataclass, field
from typing import Any

from datashard_core.commit.core.version_file import HINT_KEY
from datashard_core.commit.staging.key import PREFIX as STAGED
from datashard_core.effects.requests import (
    Delete,
    Get,
    Head,
    Instant,
    KeepsVersions,
    ListPage,
    Now,
    Put,
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
from datashard_core.storage.base import OutcomeUnknownError, PreconditionFailedError, StoredObject
from datashard_testkit.faults import Faults, Latency, Throttle
from datashard_testkit.model_store import ModelStore

START_MS = 1_700_000_000_000
SIGMA = 0.35


class Crashed(DataShardError):
    """A simulated process died here."""


@dataclass(slots=True)
class Process:
    """One simulated process: its own clock, its own CPU, and whether it still lives."""

    name: str
    skew: float = 0.0
    cpu_free: float = 0.0
    suspended_until: float = 0.0
    alive: bool = True
    requests: dict[str, int] = field(default_factory=dict)


@dataclass(slots=True)
class _Running:
    scheduler: Scheduler[Any]
    process: Process
    store: ModelStore
    done: Callable[[Any], None]
    over: bool = False


@dataclass(slots=True)
class _Sent:
    """A batch of a task's requests under way."""

    running: _Running
    task: Task[Any]
    outcomes: list[Any]
    missing: int


class Simulation:
    """Virtual time, one store, any number of processes.

    Args:
        seed: everything random follows from it.
        latency: medians of the requests.
        faults: how often what goes wrong.
        cpu: seconds of a client's CPU that each request takes, one at a time in a process.
        store: the store; a fresh one if left out.
    """

    def __init__(
        self,
        seed: int,
        *,
        latency: Latency | None = None,
        faults: Faults | None = None,
        cpu: float = 0.0,
        store: ModelStore | None = None,
        throttle: Throttle | None = None,
    ) -> None:
        self.seed = seed
        self.random = random.Random(seed)
        self.latency = latency or Latency()
        self.faults = faults or Faults()
        self.cpu = cpu
        self.store = store or ModelStore()
        self.now = 0.0
        self.throttle = throttle
        self._events: list[tuple[float, int, Callable[[], None]]] = []
        self._order = itertools.count()
        self._bursts_until = 0.0
        self._calm_after = math.inf
        self.trace: list[str] | None = None
        self.counts: Counter[str] = Counter()

    def calm_after(self, seconds: float) -> None:
        """From that time on nothing fails any more (progress is then to be expected)."""
        self._calm_after = seconds

    @property
    def store_now(self) -> float:
        """The store's clock, in seconds since 1970: the true one."""
        return START_MS / 1000.0 + self.now

    def process(self, name: str) -> Process:
        """A new process, its clock off by up to the skew."""
        skew = self.random.uniform(-1, 1) * self.faults.skew_seconds
        self.counts["clock off by a second or more"] += abs(skew) >= 1.0
        return Process(name, skew=skew)

    def at(self, when: float, action: Callable[[], None]) -> None:
        """Do something at a time."""
        heapq.heappush(self._events, (max(when, self.now), next(self._order), action))

    def start(
        self,
        steps: Coroutine[Any, Any, Any],
        process: Process,
        done: Callable[[Any], None],
        store: ModelStore | None = None,
    ) -> None:
        """Begin to run a coroutine in a process; ``done`` gets its result, its error or a Crashed.

        A process may run several at once, as threads, and each of them may speak to another store.
        """
        self._advance(_Running(Scheduler(steps), process, store or self.store, done), None)

    def run(self, until: float = math.inf) -> None:
        """Let time pass until nothing is left to happen, or until then."""
        while self._events and self._events[0][0] <= until:
            when, _, action = heapq.heappop(self._events)
            self.now = when
            action()
        if math.isfinite(until):
            self.now = max(self.now, until)

    # One batch -------------------------------------------------------------------------------

    def _advance(self, running: _Running, sent: _Sent | None) -> None:
        process = running.process
        if running.over:
            return
        if not process.alive:
            running.over = True
            running.scheduler.close()
            running.done(Crashed(process.name))
            return
        if process.suspended_until > self.now:
            self.at(process.suspended_until, lambda: self._advance(running, sent))
            return
        if self._happens(self.faults.suspend):
            seconds = self.random.uniform(1.0, self.faults.suspend_seconds)
            self.counts["process suspended for an hour or more"] += seconds >= 3600.0
            process.suspended_until = self.now + seconds
            self.at(process.suspended_until, lambda: self._advance(running, sent))
            return
        try:
            scheduler = running.scheduler
            waiting = scheduler.begin() if sent is None else scheduler.resume(sent.task, sent.outcomes)
        except DataShardError as error:
            running.over = True
            running.done(error)
            return
        if scheduler.main.done:
            running.over = True
            running.done(scheduler.main.outcome)
            return
        for task, batch in waiting:
            following = _Sent(running, task, [None] * len(batch), len(batch))
            for index, request in enumerate(batch):
                self._send(following, index, request)

    def _send(self, batch: _Sent, index: int, request: Request[Any]) -> None:
        process = batch.running.process
        local = self._local(request, batch.running)
        if local is not _REMOTE:
            self._answer(batch, index, local, self.now)
            return
        if isinstance(request, Sleep):
            self._answer(batch, index, None, self.now + request.seconds)
            return
        kind = type(request).__name__
        process.requests[kind] = process.requests.get(kind, 0) + 1
        started = max(self.now, process.cpu_free)
        process.cpu_free = started + self.cpu
        if self._happens(self.faults.crash):
            # The request may be on the wire already when the process dies.
            self.at(started + self._sample(request) * self.random.random(), lambda: self._kill(process))
        took = self._sample(request)
        self._fate(batch, index, request, process.cpu_free, took)

    def _local(self, request: Request[Any], running: _Running) -> Any:
        if isinstance(request, Now):
            return Instant(int(START_MS + (self.now + running.process.skew) * 1000), self.now)
        if isinstance(request, Unique):
            return f"{self.random.getrandbits(128):032x}"
        if isinstance(request, Random):
            return self.random.random()
        if isinstance(request, KeepsVersions):
            return running.store.keeps_versions
        return _REMOTE

    def _fate(self, batch: _Sent, index: int, request: Request[Any], sent: float, took: float) -> None:
        """Decide what becomes of a request, and schedule its effect and its answer."""
        faults, effect, reply = self.faults, sent + took * 0.5, sent + took
        store = batch.running.store
        if (self.throttle is not None and not self.throttle.admits(request, effect)) or self._in_burst(effect):
            self.counts["503"] += 1
            self._answer(batch, index, _failed(request, "503 SlowDown", throttled=True), reply)
        elif self._happens(faults.before):
            self.counts["fails before its effect"] += 1
            self._answer(batch, index, _failed(request, "connection reset"), reply)
        elif self._happens(faults.conflict) and isinstance(request, PutIfAbsent):
            self.counts["409"] += 1
            self._answer(batch, index, OutcomeUnknownError(f"409 on {request.key}", key=request.key), reply)
        elif self._happens(faults.after):
            self.counts["reply lost"] += 1
            self.at(effect, lambda: self._apply(store, request, None))
            self._answer(batch, index, _failed(request, "reply lost"), reply)
        elif self._happens(faults.late) and not isinstance(request, (Get, Head, ListPage)):
            self.counts["lands late"] += 1
            late = effect + self.random.uniform(0.1, faults.late_seconds)
            self.at(late, lambda: self._apply(store, request, None))
            self._answer(batch, index, _failed(request, "time-out"), reply + 1.0)
        elif isinstance(request, PutIfAbsent) and self._happens(faults.check_then_write):
            self.at(sent, lambda: self._check_then_write(batch, index, request, effect, reply))
        elif self._happens(faults.twice) and isinstance(request, (PutIfAbsent, Delete, Replace)):
            self.at(effect, lambda: self._apply(store, request, None))
            self.counts["sent twice"] += 1
            second = effect + self.random.uniform(0.0, 2.0)
            self.at(second, lambda: self._apply(store, request, (batch, index, second + took * 0.5), again=True))
        else:
            self.at(effect, lambda: self._apply(store, request, (batch, index, reply)))

    def _check_then_write(self, batch: _Sent, index: int, request: PutIfAbsent, effect: float, reply: float) -> None:
        """A store that is not atomic: two that check before either has written are both told that they created it."""
        store = batch.running.store
        if request.key in store.objects:
            self._answer(batch, index, PreconditionFailedError(f"{request.key} is taken", key=request.key), reply)
            return

        def write() -> None:
            self.counts["created twice"] += request.key in store.objects
            self._apply(store, Put(request.key, request.data), (batch, index, reply))

        self.at(effect, write)

    def _apply(
        self, store: ModelStore, request: Request[Any], answer: tuple[_Sent, int, float] | None, *, again: bool = False
    ) -> None:
        outcome = self._perform(store, request)
        self.counts["taken by oneself"] += again and isinstance(outcome, PreconditionFailedError)
        if self.trace is not None:
            self.trace.append(f"{self.now:.4f} {_short(request)} -> {_short(outcome)}")
        if answer is not None:
            batch, index, reply = answer
            self._answer(batch, index, outcome, reply)

    def _perform(self, store: ModelStore, request: Request[Any]) -> Any:
        if isinstance(request, Delete) and self._happens(self.faults.lost_delete):
            self.counts["delete lost"] += 1
            return None
        if isinstance(request, Delete) and self._happens(self.faults.late_delete):
            self.counts["deleted late"] += 1
            late = self.now + self.random.uniform(0.1, self.faults.late_seconds)
            self.at(late, lambda: store.perform(request, self.store_now))
            return None
        if isinstance(request, Put) and request.key.startswith(STAGED) and self._happens(self.faults.spoilt):
            self.counts["staged body damaged on its way"] += 1
            return store.perform(Put(request.key, request.data[: len(request.data) // 2]), self.store_now)
        if isinstance(request, Get) and request.key == HINT_KEY and self._happens(self.faults.stale_hint):
            older = [held for when, held in store.hints if when >= self.now - 60.0]
            if older:
                stale = self.random.choice(older)
                self.counts["stale hint"] += stale is not older[-1]
                return stale
        if isinstance(request, ListPage) and self._happens(self.faults.stale_list):
            since = self.store_now - self.random.uniform(0.0, self.faults.stale_seconds)
            fresh = frozenset(key for key, held in store.objects.items() if held.last_modified > since)
            self.counts["stale listing"] += any(key.startswith(request.prefix) for key in fresh)
            return store.page(request, fresh)
        outcome = store.perform(request, self.store_now)
        if not isinstance(outcome, DataShardError) and getattr(request, "key", None) == HINT_KEY:
            held = store.objects[HINT_KEY]
            store.hints.append((self.now, StoredObject(held.body, held.version, held.last_modified)))
        return outcome

    def _answer(self, batch: _Sent, index: int, outcome: Any, when: float) -> None:
        def deliver() -> None:
            batch.outcomes[index] = outcome
            batch.missing -= 1
            if batch.missing == 0:
                self._advance(batch.running, batch)

        self.at(when, deliver)

    def _kill(self, process: Process) -> None:
        self.counts["process crashes"] += process.alive
        process.alive = False

    def _sample(self, request: Request[Any]) -> float:
        return self.latency.of(request) * math.exp(self.random.gauss(0.0, SIGMA))

    def _happens(self, probability: float) -> bool:
        return probability > 0.0 and self.now < self._calm_after and self.random.random() < probability

    def _in_burst(self, when: float) -> bool:
        if self.now >= self._calm_after:
            return False
        if when < self._bursts_until:
            return True
        # Asked once per request: the rate is per second of some hundred requests.
        if self._happens(self.faults.burst / 100.0):
            self._bursts_until = when + 1.0
        return False


_REMOTE = object()


def _failed(request: Request[Any], why: str, *, throttled: bool = False) -> StorageError:
    key = getattr(request, "key", "")
    if isinstance(request, (PutIfAbsent, Replace)):
        return OutcomeUnknownError(f"{why}: {key}", key=key)
    return StorageError(f"{why}: {key}", reason="throttled" if throttled else "unreachable", key=key)


def _short(thing: Any) -> str:
    text = f"{type(thing).__name__} {getattr(thing, 'key', getattr(thing, 'keys', ''))}"
    return text[:160]
