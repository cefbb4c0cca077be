"""What becomes of requests whose batch is given up: at the deadline, at a failure, at an interrupt."""

from __future__ import annotations

import gc
import threading
import time
import warnings
from collections.abc import Iterator
from typing import Any

import pytest

from datashard_core.effects import driver
from datashard_core.effects.driver import Pool, run
from datashard_core.effects.requests import Get, Now, PutIfAbsent
from datashard_core.effects.tasks import gather, outcomes_of, start
from datashard_core.errors import StorageError
from datashard_core.storage.base import ObjectNotFoundError, OutcomeUnknownError, StoredObject, Version
from datashard_core.storage.memory import MemoryStorage


class Hanging(MemoryStorage):
    """A store that does not answer requests for some keys until it is released."""

    def __init__(self) -> None:
        super().__init__("memory://hanging")
        self.released = threading.Event()
        self.asked: list[str] = []

    def get(self, key: str, byte_range: tuple[int, int] | None = None) -> StoredObject:
        self.asked.append(key)
        if key.startswith("hangs"):
            self.released.wait(30)
        return super().get(key, byte_range)

    def put_if_absent(self, key: str, data: bytes) -> Version:
        self.asked.append(key)
        self.released.wait(30)
        return super().put_if_absent(key, data)


@pytest.fixture
def store() -> Iterator[Hanging]:
    made = Hanging()
    yield made
    made.released.set()


@pytest.fixture
def few_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(driver._Shared, "pool", Pool(2))


async def _ends_with_error(key: str) -> str:
    (outcome,) = await outcomes_of([Get(key)])
    assert isinstance(outcome, StorageError)
    return outcome.reason


def test_many_that_hang_are_given_up_together(store: Hanging) -> None:
    """One grace after the deadline, not one for each."""
    begun = time.monotonic()
    assert run(gather(*[_ends_with_error(f"hangs/{n}") for n in range(12)]), store, timeout=0.2) == ["unreachable"] * 12
    assert time.monotonic() - begun < 0.2 + 4 * driver.GRACE

    async def batch() -> Any:
        return await outcomes_of([PutIfAbsent(f"hangs/{n}", b"") for n in range(12)])

    begun = time.monotonic()
    assert {type(one) for one in run(batch(), store, timeout=0.2)} == {OutcomeUnknownError}
    assert time.monotonic() - begun < 0.2 + 4 * driver.GRACE


def test_an_answer_at_the_deadline_is_taken_once(store: Hanging, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whichever is first, a batch that is given up and answered in the same moment goes on once, with its answer."""
    store.put("hangs", b"body")

    class Late(driver._Sent):
        def give_up(self, storage: Any) -> bool:
            if self.missing > 0:
                store.released.set()
                while self.missing > 0:
                    time.sleep(0.001)
            return super().give_up(storage)

    monkeypatch.setattr(driver, "_Sent", Late)

    async def asks() -> list[str]:
        first = (await Get("hangs")).body
        second = (await outcomes_of([Get("absent")]))[0]
        return [first.decode(), type(second).__name__]

    expected = ["body", "ObjectNotFoundError"]
    assert run(gather(asks(), asks(), asks()), store, timeout=0.05) == [expected] * 3


@pytest.mark.usefixtures("few_threads")
@pytest.mark.parametrize("how", ("failure", "interrupt", "end"))
def test_what_no_thread_has_begun_is_not_sent_after_the_end(store: Hanging, how: str) -> None:
    async def hangs(n: int) -> None:
        await outcomes_of([PutIfAbsent(f"version/{n}", b"") for n in (n, n + 100)])

    async def fails() -> None:
        await Now()
        for n in range(5):
            await start(hangs(n))
        while len(store.asked) < 2:
            await Now()
        if how == "failure":
            raise ObjectNotFoundError("gone")
        if how == "interrupt":
            raise KeyboardInterrupt

    if how == "end":
        run(fails(), store)
    else:
        with pytest.raises((ObjectNotFoundError, KeyboardInterrupt)):
            run(fails(), store)
    store.released.set()
    assert driver.shared_pool().submit(lambda: "served").result(10) == "served"
    time.sleep(0.05)
    assert len(store.asked) <= 2


def test_a_gather_that_is_cancelled_while_it_starts_leaves_nothing_unawaited(store: Hanging) -> None:
    begun: list[str] = []

    async def part(name: str) -> None:
        begun.append(name)
        await outcomes_of([Get("absent")])

    async def fails() -> None:
        raise ObjectNotFoundError("at once")

    async def slow() -> None:
        await gather(part("a"), part("b"), part("c"))

    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        with pytest.raises(ObjectNotFoundError, match="at once"):
            run(gather(slow(), fails()), store)
        gc.collect()
    assert [str(one.message) for one in caught] == []
    assert "c" not in begun
