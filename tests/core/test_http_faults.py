"""Appends over real HTTP, with every request of an append going wrong in turn.

After each case the table is read whole, an acknowledged append is in it, one that was reported as
failed is not and never shows up, and calling again with the same id makes it once in any case.
"""

from __future__ import annotations

import itertools
import os
import queue
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from typing import get_args

import pytest
from datashard_testkit.fault_proxy import FaultProxy, Kind, Plan
from datashard_testkit.s3_server import S3Server
from datashard_testkit.sampling import THOROUGH

from datashard_core import Schema, connect
from datashard_core.errors import CommitStateUnknownError, DataShardError
from datashard_core.table.table import CommitMode
from datashard_core.table.warehouse import Warehouse

KINDS = tuple(kind for kind in get_args(Kind) if kind not in ("none", "501"))  # 501: see test_refused_stores.py
LOSSES: tuple[Kind, ...] = ("reset", "reply lost", "late")
AT_ONCE = 4
MOST_REQUESTS = 16
SCHEMA = Schema(schema_id=1, fields=[{"id": 1, "name": "n", "type": "long", "required": True}])
SEED = [{"n": 0}, {"n": 1}]
ROWS = [{"n": 10}, {"n": 11}, {"n": 12}]
SAME = "the same"

_names = itertools.count()


@dataclass(frozen=True)
class Place:
    """One warehouse, seen directly and through a proxy."""

    direct: Warehouse
    faulty: Warehouse
    proxy: FaultProxy

    def table(self) -> str:
        """A table with rows in it, known to nobody yet."""
        name = f"t{next(_names)}"
        self.direct.create_table(name, SCHEMA).append(SEED)
        return name

    def numbers(self, name: str) -> list[int]:
        """Every row there is, by a reader that knows nothing yet; every file that is named is read."""
        return sorted(row["n"] for row in self.direct.load_table(name).scan().to_records())

    def calm(self) -> None:
        """No more faults, and none under way."""
        self.proxy.plan = Plan()
        self.proxy.require_live()


@pytest.fixture(scope="module")
def places(s3_server: S3Server) -> Iterator[queue.SimpleQueue[Place]]:
    """Several places, so that the waits of one case are another's time."""
    free: queue.SimpleQueue[Place] = queue.SimpleQueue()
    quick = {"connect_timeout": 2.0, "read_timeout": 5.0, "max_attempts": 2}
    with ExitStack() as stack:
        for number in range(AT_ONCE):
            proxy = stack.enter_context(FaultProxy(s3_server.endpoint))
            prefix = f"faults-{os.urandom(6).hex()}-{number}"
            direct = connect(config=s3_server.config(prefix))
            free.put(Place(direct, connect(config=s3_server.config(prefix, endpoint=proxy.endpoint, **quick)), proxy))
        yield free


def at_once(places: queue.SimpleQueue[Place], cases: Iterable[Callable[[Place], bool]]) -> list[bool]:
    """Run cases side by side, each in a place of its own."""

    def one(case: Callable[[Place], bool]) -> bool:
        place = places.get()
        try:
            return case(place)
        finally:
            place.calm()
            places.put(place)

    with ThreadPoolExecutor(AT_ONCE) as pool:
        return list(pool.map(one, cases))


def requests_of(places: queue.SimpleQueue[Place], work: Callable[[Place], object]) -> list[tuple[str, str]]:
    """The requests of some work when nothing goes wrong."""
    place = places.get()
    try:
        place.calm()
        plan = place.proxy.plan
        work(place)
        return list(plan.seen)
    finally:
        places.put(place)


def an_append(mode: CommitMode) -> Callable[[Place], object]:
    def work(place: Place) -> None:
        name = place.table()
        table = place.faulty.load_table(name)
        place.proxy.plan.seen.clear()
        table.append(ROWS, append_id=SAME, commit=mode)

    return work


def positions(count: int, kind: Kind) -> range:
    """Which of the requests go wrong: all; or every second, and with the next kind of fault the others."""
    if THOROUGH:
        return range(1, count + 1)
    return range(1 + KINDS.index(kind) % 2, count + 1, 2)


@pytest.mark.parametrize("kind", KINDS)
def test_every_request_of_an_append_may_go_wrong(places: queue.SimpleQueue[Place], kind: Kind) -> None:
    seen = requests_of(places, an_append("now"))
    assert 6 <= len(seen) <= MOST_REQUESTS
    cases = [partial(_one_append, plan=Plan(kind, at=k), mode="now") for k in positions(len(seen), kind)]
    acknowledged = at_once(places, cases)
    assert acknowledged == [True] * len(cases) and len(cases) >= 3, (
        "one fault is the library's business, not the caller's"
    )


@pytest.mark.parametrize("kind", LOSSES)
def test_from_any_request_on_everything_may_go_wrong(places: queue.SimpleQueue[Place], kind: Kind) -> None:
    count = len(requests_of(places, an_append("now")))
    acknowledged = at_once(
        places, [partial(_one_append, plan=Plan(kind, at=k, lasting=True), mode="now") for k in range(1, count + 1)]
    )
    assert not acknowledged[0], "nothing gets through, and something is acknowledged"


@pytest.mark.parametrize("kind", KINDS)
def test_every_request_of_a_deferred_append_may_go_wrong(places: queue.SimpleQueue[Place], kind: Kind) -> None:
    count = len(requests_of(places, an_append("deferred")))
    cases = [partial(_one_append, plan=Plan(kind, at=k), mode="deferred") for k in positions(count, kind)]
    assert len(at_once(places, cases)) == len(cases) >= 1


def _one_append(place: Place, plan: Plan, mode: CommitMode) -> bool:
    """Append once under a fault, judge what came of it, and append again; whether it was acknowledged."""
    name = place.table()
    table = place.faulty.load_table(name)
    place.proxy.plan = plan
    error: DataShardError | None = None
    try:
        table.append(ROWS, append_id=SAME, commit=mode, timeout=1.5)
    except DataShardError as raised:
        error = raised
    place.calm()
    case = f"{plan.kind} at {plan.at} of {plan.seen}, ended with {error!r}"
    unknown = isinstance(error, CommitStateUnknownError)
    if not unknown:
        place.direct.load_table(name).flush()
    whole, without = [0, 1, 10, 11, 12], [0, 1]
    found = place.numbers(name)
    # Reported as failed means that it never shows up.
    assert found in ([whole] if error is None else [whole, without] if unknown else [without]), case
    options = {"base": error.base} if isinstance(error, CommitStateUnknownError) else {}
    place.faulty.load_table(name).append(ROWS, append_id=SAME, **options)
    # What was staged on the way is recognised by the next commit, and carried by none.
    place.direct.load_table(name).append([{"n": 99}])
    assert place.numbers(name) == [*whole, 99], case
    return error is None


@pytest.mark.parametrize("kind", LOSSES)
def test_every_request_of_a_creation_may_go_wrong(places: queue.SimpleQueue[Place], kind: Kind) -> None:
    def work(place: Place) -> None:
        place.faulty.create_table(f"t{next(_names)}", SCHEMA)

    requests_of(places, work)  # the store is proved once for each place: not a part of every creation
    at_once(places, [lambda place: work(place) is None] * AT_ONCE)
    count = len(requests_of(places, work))

    def one(place: Place, at: int) -> bool:
        name = f"t{next(_names)}"
        place.proxy.plan = Plan(kind, at=at)
        try:
            place.faulty.create_table(name, SCHEMA, timeout=1.5)
        except DataShardError:
            place.calm()
            place.faulty.create_table(name, SCHEMA, if_exists="open")
        place.calm()
        place.faulty.load_table(name).append(ROWS)
        assert place.numbers(name) == [10, 11, 12], f"{kind} at {at}"
        return True

    assert all(at_once(places, [partial(one, at=k) for k in range(1, count + 1)]))
