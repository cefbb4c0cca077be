"""Coroutines of requests: side by side, with errors, cancellation and deadlines, over a real storage."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from typing import Any

import pytest

from datashard_core.effects.driver import GRACE, run
from datashard_core.effects.requests import Get, Head, Now, Put, PutIfAbsent, Sleep, Unique
from datashard_core.effects.scheduler import Scheduler
from datashard_core.effects.tasks import Task, gather, join, outcomes_of, start
from datashard_core.errors import StorageError
from datashard_core.storage.base import ObjectNotFoundError, OutcomeUnknownError, StoredObject
from datashard_core.storage.memory import MemoryStorage


@pytest.fixture
def storage() -> MemoryStorage:
    return MemoryStorage()


@pytest.fixture(params=["main thread", "another thread"])
def anywhere(request: pytest.FixtureRequest) -> Iterator[Any]:
    """Runs a call in the main thread or in another one, where the driver goes other ways."""
    if request.param == "main thread":
        yield lambda work: work()
        return

    def elsewhere(work: Any) -> Any:
        ended: list[Any] = []

        def carry_out() -> None:
            try:
                ended.append((work(), None))
            except BaseException as error:  # noqa: BLE001 - it is raised in the test
                ended.append((None, error))

        thread = threading.Thread(target=carry_out)
        thread.start()
        thread.join(30)
        result, error = ended[0]
        if error is not None:
            raise error
        return result

    yield elsewhere


def test_a_request_returns_its_result_or_raises_its_error(storage: MemoryStorage, anywhere: Any) -> None:
    async def work() -> tuple[bytes, str]:
        await Put("a", b"1")
        with pytest.raises(ObjectNotFoundError) as raised:
            await Get("b")
        return (await Get("a")).body, raised.value.key

    assert anywhere(lambda: run(work(), storage)) == (b"1", "b")


def test_gather_keeps_the_order_of_requests_and_coroutines(storage: MemoryStorage, anywhere: Any) -> None:
    async def slowly(number: int) -> int:
        await Sleep(0.05 * (3 - number))
        return number

    async def work() -> list[Any]:
        return await gather(slowly(0), Put("a", b""), slowly(1), Unique(), slowly(2))

    begun = time.monotonic()
    first, version, second, unique, third = anywhere(lambda: run(work(), storage))
    assert (first, second, third) == (0, 1, 2)
    assert storage.head("a").version == version
    assert len(unique) == 32
    assert time.monotonic() - begun < 0.29, "they wait side by side"


def test_a_branch_goes_on_while_another_waits(storage: MemoryStorage, anywhere: Any) -> None:
    steps: list[str] = []

    async def quick() -> None:
        for number in range(3):
            await Put(f"quick-{number}", b"")
        steps.append("quick")

    async def slow() -> None:
        await Sleep(0.2)
        steps.append("slow")

    async def work() -> None:
        await gather(slow(), quick())

    anywhere(lambda: run(work(), storage))
    assert steps == ["quick", "slow"]


def test_gather_raises_the_first_error_and_cancels_the_others(storage: MemoryStorage, anywhere: Any) -> None:
    closed: list[str] = []

    async def long() -> None:
        try:
            await Sleep(0.3)
            await Put("never", b"")
        finally:
            closed.append("long")

    async def fails() -> None:
        await Get("absent")

    async def work() -> str:
        with pytest.raises(ObjectNotFoundError):
            await gather(long(), fails())
        await Sleep(0.5)
        return "went on"

    assert anywhere(lambda: run(work(), storage)) == "went on"
    assert closed == ["long"]
    assert list(storage.list("")) == []


def test_outcomes_tell_errors_as_values(storage: MemoryStorage, anywhere: Any) -> None:
    storage.put("a", b"1")

    async def work() -> Any:
        return await outcomes_of([Get("a"), Get("b"), Now()])

    found, absent, now = anywhere(lambda: run(work(), storage))
    assert isinstance(found, StoredObject)
    assert isinstance(absent, ObjectNotFoundError)
    assert abs(now.wall_ms - 1000 * time.time()) < 60_000
    assert anywhere(lambda: run(outcomes_of([]), storage)) == []


def test_a_started_task_goes_on_beside_and_is_joined_later(storage: MemoryStorage, anywhere: Any) -> None:
    async def beside() -> int:
        await Put("beside", b"")
        await Put("beside-2", b"")
        return 7

    async def fails() -> None:
        await Head("absent")

    async def work() -> tuple[Task[int], Task[None]]:
        good, bad = await start(beside()), await start(fails())
        await Put("own", b"")
        await join(good, bad)
        await join(good, bad)  # again is fine
        return good, bad

    good, bad = anywhere(lambda: run(work(), storage))
    assert good.done and good.outcome == 7
    assert bad.done and isinstance(bad.outcome, ObjectNotFoundError)
    assert [info.key for info in storage.list("")] == ["beside", "beside-2", "own"]


def test_a_cancelled_task_sends_nothing_more_and_is_not_waited_for(storage: MemoryStorage, anywhere: Any) -> None:
    async def inner() -> None:
        await Sleep(0.2)
        await Put("inner", b"")

    async def outer() -> None:
        await start(inner())
        await Sleep(0.2)
        await Put("outer", b"")

    async def work() -> None:
        task = await start(outer())
        await Put("own", b"")
        task.cancel()
        await join(task)
        assert task.done and task.outcome is None
        await Sleep(0.5)

    anywhere(lambda: run(work(), storage))
    assert [info.key for info in storage.list("")] == ["own"]


def test_tasks_end_with_the_coroutine_that_started_them(storage: MemoryStorage, anywhere: Any) -> None:
    closed: list[str] = []

    async def beside() -> None:
        try:
            await Sleep(5)
        finally:
            closed.append("beside")

    async def work() -> str:
        await start(beside())
        return (await Unique())[:0]

    begun = time.monotonic()
    assert anywhere(lambda: run(work(), storage)) == ""
    assert closed == ["beside"]
    assert time.monotonic() - begun < 2


@pytest.mark.parametrize("raised", [KeyError("a fault of the code"), KeyboardInterrupt()])
def test_what_is_no_error_of_the_library_ends_everything(
    storage: MemoryStorage, anywhere: Any, raised: BaseException
) -> None:
    closed: list[str] = []

    async def beside() -> None:
        await Put("a", b"")
        raise raised

    async def work() -> None:
        try:
            await gather(beside(), Sleep(0.1))
        finally:
            closed.append("work")

    with pytest.raises(type(raised)):
        anywhere(lambda: run(work(), storage))
    assert closed == ["work"]


class _Silent(MemoryStorage):
    """Answers no get and no conditional put before it is let go."""

    def __init__(self) -> None:
        super().__init__()
        self.answer = threading.Event()

    def get(self, key: str, byte_range: tuple[int, int] | None = None) -> StoredObject:
        self.answer.wait(30)
        return super().get(key, byte_range)

    def put_if_absent(self, key: str, data: bytes) -> Any:
        self.answer.wait(30)
        return super().put_if_absent(key, data)


def test_after_the_deadline_no_answer_is_waited_for(anywhere: Any) -> None:
    storage = _Silent()

    async def work() -> list[Any]:
        quick = await start(outcomes_of([Put("quick", b"")]))
        silent = await start(outcomes_of([Get("a"), Put("b", b"")]))
        outcomes = await outcomes_of([PutIfAbsent("c", b""), Put("d", b"")])
        await join(quick, silent)
        return [quick.outcome, silent.outcome, outcomes]

    begun = time.monotonic()
    try:
        quick, silent, own = anywhere(lambda: run(work(), storage, timeout=0.2))
    finally:
        storage.answer.set()
    assert time.monotonic() - begun < 0.2 + 4 * GRACE
    assert quick == [storage.head("quick").version]
    assert isinstance(silent[0], StorageError) and silent[0].reason == "unreachable"
    assert isinstance(own[0], OutcomeUnknownError), "a conditional put may have landed"
    assert silent[1] == storage.head("b").version and own[1] == storage.head("d").version


def test_tasks_that_wait_for_each_other_are_an_error(storage: MemoryStorage) -> None:
    async def work() -> None:
        mine: list[Task[None]] = []

        async def other() -> None:
            await join(mine[0])

        mine.append(await start(other()))
        await join(mine[0])

    with pytest.raises(RuntimeError, match="wait for each other"):
        run(work(), storage)


def test_the_scheduler_sends_nothing_itself() -> None:
    async def work() -> str:
        first, second = await gather(Get("a"), Get("b"))
        return f"{first}{second}"

    scheduler = Scheduler(work())
    ((task, batch),) = scheduler.begin()
    assert [request.key for request in batch] == ["a", "b"]  # type: ignore[attr-defined]
    assert scheduler.resume(task, [1, 2]) == []
    assert scheduler.main.done and scheduler.main.outcome == "12"
