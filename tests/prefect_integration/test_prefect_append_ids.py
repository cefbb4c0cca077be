"""Retried tasks and flows append once, and nothing that was meant twice is taken for once."""

from __future__ import annotations

import asyncio
import contextvars
import multiprocessing
import os
import re
import sys
import threading
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import cloudpickle
import pytest
from prefect import flow, task
from prefect.cache_policies import INPUTS, NO_CACHE
from prefect.client.orchestration import get_client
from prefect.context import FlowRunContext, TaskRunContext, serialize_context, with_context
from prefect.flow_engine import run_flow
from prefect.states import AwaitingRetry
from prefect.task_engine import run_task_sync
from prefect.task_runners import ProcessPoolTaskRunner, ThreadPoolTaskRunner
from prefect.transactions import transaction
from prefect_dask import DaskTaskRunner

from datashard_core.errors import CommitTimeoutError, InvalidRecordsError
from prefect_datashard import DataShardBlock

cloudpickle.register_pickle_by_value(sys.modules[__name__])

ID = re.compile(r"prefect:flow-run:([0-9a-f-]{36}):([^:]+):([0-9a-f]{32}):(\d+)")


class Failure(Exception):
    """What these tests raise on purpose."""


class Tries:
    """Raises in the first so many calls."""

    def __init__(self, failures: int = 1) -> None:
        self.left = failures
        self.calls = 0

    def __call__(self) -> None:
        self.calls += 1
        if self.left:
            self.left -= 1
            raise Failure("on purpose")


def rows(block: DataShardBlock) -> list[int]:
    return sorted(block.scan("events").to_arrow()["n"].to_pylist())


def flow_run_id() -> str:
    context = FlowRunContext.get()
    assert context is not None and context.flow_run is not None
    return str(context.flow_run.id)


# -- one task -----------------------------------------------------------------------------------------


def test_a_retried_task_appends_once(block: DataShardBlock) -> None:
    fail = Tries()
    results = []

    @task(retries=1)
    def load() -> None:
        results.append(block.append("events", [{"n": 1}]))
        fail()

    @flow
    def etl() -> str:
        load()
        return flow_run_id()

    run_id = etl()
    assert rows(block) == [1]
    assert [result.already_appended for result in results] == [False, True]
    found = ID.fullmatch(results[0].append_id)
    assert found and results[1].append_id == results[0].append_id
    assert (found[1], found[2].split(".")[-1], found[4]) == (run_id, "load", "0")


def test_equal_rows_in_one_task_are_two_appends_and_a_retry_knows_both(block: DataShardBlock) -> None:
    fail = Tries()

    @task(retries=1)
    def load() -> list[str]:
        ids = [block.append("events", [{"n": n}]).append_id for n in (1, 1, 2)]
        fail()
        return ids

    @flow
    def etl() -> list[str]:
        return load()  # type: ignore[no-any-return]

    ids = etl()
    assert rows(block) == [1, 1, 2]
    assert [one.rsplit(":", 1)[1] for one in ids] == ["0", "1", "0"]


def test_each_table_counts_by_itself(block: DataShardBlock) -> None:
    block.create_table("more", [{"id": 1, "name": "n", "type": "long"}])

    @flow
    def etl() -> list[str]:
        return [block.append(name, [{"n": 1}]).append_id for name in ("events", "more")]

    first, second = etl()
    assert first == second
    assert rows(block) == [1] and block.scan("more").count() == 1


def test_a_call_that_failed_is_the_same_append_when_it_is_tried_again(block: DataShardBlock) -> None:
    """A loop within the task: its second call has the first one's id, in whichever try it succeeds."""
    fail = Tries()
    give_up = Tries()

    @task(retries=1)
    def load() -> str:
        for timeout in (0.0, 60.0) if give_up.calls == 0 else (60.0,):
            try:
                found = block.append("events", [{"n": 1}], timeout=timeout).append_id
            except CommitTimeoutError:
                with pytest.raises(Failure):
                    give_up()
        fail()
        return found

    @flow
    def etl() -> str:
        return load()  # type: ignore[no-any-return]

    assert etl().endswith(":0")
    assert give_up.calls == 1
    assert rows(block) == [1]


def test_rows_that_are_refused_draw_no_number(block: DataShardBlock) -> None:
    @flow
    def etl() -> str:
        with pytest.raises(InvalidRecordsError):
            block.append("events", [{"n": "one"}])
        return block.append("events", [{"n": 1}]).append_id

    assert etl().endswith(":0")


def test_the_deployment_is_in_the_id(block: DataShardBlock) -> None:
    named = DataShardBlock(folder=block.folder, deployment="north")

    @flow
    def etl() -> str:
        return named.append("events", [{"n": 1}]).append_id

    assert etl().startswith("prefect:north:flow-run:")


def test_a_task_without_a_flow_has_its_own_run(block: DataShardBlock) -> None:
    fail = Tries()

    @task(retries=1)
    def load() -> str:
        run = TaskRunContext.get()
        found = block.append("events", [{"n": 1}]).append_id
        fail()
        assert run is not None
        assert found.startswith(f"prefect:task-run:{run.task_run.id}:")
        return found

    first, second = load(), load()
    assert first != second
    assert rows(block) == [1, 1]


# -- flow retries -------------------------------------------------------------------------------------


def test_a_retried_flow_appends_once(block: DataShardBlock) -> None:
    """In tasks, mapped tasks with equal rows, and its own body; the last task fails first."""
    fail = Tries()
    task_runs: list[UUID] = []

    @task
    def load(n: int) -> None:
        context = TaskRunContext.get()
        assert context is not None
        task_runs.append(context.task_run.id)
        block.append("events", [{"n": n}])

    @task
    def last() -> None:
        fail()

    @flow(retries=1)
    def etl() -> None:
        block.append("events", [{"n": 100}])
        block.append("events", [{"n": 100}])
        load(7)
        load.map([1, 1, 1, 2]).wait()
        last()

    etl()
    assert fail.calls == 2
    assert len(set(task_runs)) == 10
    assert rows(block) == [1, 1, 1, 2, 7, 100, 100]


def test_a_flow_run_again_later_appends_once(block: DataShardBlock) -> None:
    """As the button "Retry" does it: the same flow run, and nothing left of the first attempt's process."""
    fail = Tries()

    @task
    def load(n: int) -> None:
        block.append("events", [{"n": n}])

    @flow
    def etl() -> str:
        load.map([1, 1]).wait()
        fail()
        return flow_run_id()

    state = etl(return_state=True)
    assert state.is_failed()
    with get_client(sync_client=True) as client:
        run_id = state.state_details.flow_run_id
        assert run_id is not None
        client.set_flow_run_state(run_id, AwaitingRetry(), force=True)
        assert run_flow(etl, flow_run=client.read_flow_run(run_id)) == str(run_id)
    assert rows(block) == [1, 1]


def test_another_run_of_the_flow_appends_again(block: DataShardBlock) -> None:
    @flow
    def etl() -> None:
        block.append("events", [{"n": 1}])

    etl()
    etl()
    assert rows(block) == [1, 1]


def test_equal_rows_where_some_tasks_failed_before_they_appended(block: DataShardBlock) -> None:
    """Which task got which number differs from attempt to attempt; how many there are does not."""
    fail = Tries(3)

    @task
    def load(n: int) -> None:
        if n % 2:
            fail()
        block.append("events", [{"n": 1}])

    @flow(retries=1)
    def etl() -> None:
        futures = load.map(list(range(6)))
        futures.wait()
        futures.result()

    etl()
    assert rows(block) == [1] * 6


@pytest.mark.parametrize("inner_retries", [0, 1])
def test_a_task_that_a_retried_task_calls(block: DataShardBlock, inner_retries: int) -> None:
    """The inner one has a new task run in each try of the outer one."""
    fail_inner, fail_outer = Tries(inner_retries), Tries()

    @task(retries=inner_retries)
    def inner() -> None:
        block.append("events", [{"n": 1}])
        fail_inner()

    @task(retries=1)
    def outer() -> None:
        inner()
        inner.submit().result()
        block.append("events", [{"n": 1}])
        fail_outer()

    @flow
    def etl() -> None:
        outer()
        inner()

    etl()
    assert rows(block) == [1] * 4


def test_subflows_of_a_retried_flow(block: DataShardBlock) -> None:
    """They get new flow runs, whether they were complete or not."""
    fail = Tries()
    runs = []

    @task
    def load() -> None:
        block.append("events", [{"n": 1}])

    @flow
    def sub(breaks: bool) -> None:
        runs.append(flow_run_id())
        load()
        block.append("events", [{"n": 2}])
        if breaks:
            fail()

    @flow(retries=1)
    def etl() -> None:
        sub(False)
        sub(True)

    etl()
    assert len(set(runs)) == 4
    assert rows(block) == [1, 1, 2, 2]


def test_a_subflow_that_is_retried_by_itself(block: DataShardBlock) -> None:
    fail = Tries()

    @flow(retries=1)
    def sub() -> None:
        block.append("events", [{"n": 1}])
        fail()

    @flow
    def etl() -> None:
        sub()
        block.append("events", [{"n": 1}])

    etl()
    assert rows(block) == [1, 1]


# -- what Prefect skips -------------------------------------------------------------------------------


def test_a_task_that_is_skipped_leaves_its_number_to_nobody(block: DataShardBlock, run_log: list[str]) -> None:
    """The first task's result is kept. In the second attempt the other one, with equal rows, runs alone."""
    fail = Tries()
    ran = []

    @task(cache_policy=INPUTS, persist_result=True)
    def load(run: str, part: int) -> None:
        ran.append(part)
        if part == 2:
            fail()
        block.append("events", [{"n": 1}])

    @flow(retries=1)
    def etl() -> None:
        load(flow_run_id(), 1)
        load(flow_run_id(), 2)

    etl()
    assert ran == [1, 2, 2]
    assert rows(block) == [1, 1]
    assert any("keeps its results" in message for message in run_log)


def test_a_task_whose_caller_is_skipped(block: DataShardBlock) -> None:
    fail = Tries()

    @task(cache_policy=NO_CACHE)
    def inner() -> None:
        block.append("events", [{"n": 1}])

    @task(cache_policy=INPUTS, persist_result=True)
    def outer(run: str, part: int) -> None:
        if part == 2:
            fail()
        inner()

    @flow(retries=1)
    def etl() -> None:
        outer(flow_run_id(), 1)
        outer(flow_run_id(), 2)

    etl()
    assert rows(block) == [1, 1]


def test_a_transaction_that_is_skipped(block: DataShardBlock) -> None:
    fail = Tries()

    @flow(retries=1)
    def etl() -> None:
        for part in (1, 2):
            with transaction(key=f"{flow_run_id()}-{part}") as opened:
                if not opened.is_committed():
                    if part == 2:
                        fail()
                    block.append("events", [{"n": 1}])
                    opened.stage("done")

    etl()
    assert rows(block) == [1, 1]


def test_a_subflow_that_is_skipped(block: DataShardBlock) -> None:
    fail = Tries()
    ran = []

    @flow(persist_result=True)
    def sub(part: int) -> str:
        ran.append(part)
        if part == 2:
            fail()
        block.append("events", [{"n": 1}])
        return "done"

    @flow(retries=1)
    def etl() -> None:
        sub(1)
        sub(2)

    etl()
    assert ran == [1, 2, 2]
    assert rows(block) == [1, 1]


# -- many at once -------------------------------------------------------------------------------------


def test_many_equal_tasks_at_once(block: DataShardBlock) -> None:
    """Twice, and the second attempt in another order."""
    fail = Tries()
    gate = threading.Barrier(8)

    @task
    def load(n: int) -> None:
        gate.wait(60)
        block.append("events", [{"n": 1}])

    @flow(retries=1, task_runner=ThreadPoolTaskRunner(max_workers=8))
    def etl() -> None:
        load.map(list(range(8))).wait()
        fail()

    etl()
    assert rows(block) == [1] * 8


def test_threads_with_the_run_s_context(block: DataShardBlock) -> None:
    fail = Tries()

    @task(retries=1)
    def load() -> None:
        with ThreadPoolExecutor(4) as pool:
            contexts = [contextvars.copy_context() for _ in range(4)]
            list(pool.map(lambda context: context.run(block.append, "events", [{"n": 1}]), contexts))
        fail()

    @flow
    def etl() -> None:
        load()

    etl()
    assert rows(block) == [1] * 4


def test_async_flows_and_tasks(block: DataShardBlock) -> None:
    fail_task, fail_flow = Tries(), Tries()

    @task(retries=1)
    async def load(n: int) -> None:
        await asyncio.gather(*(block.aappend("events", [{"n": n}]) for _ in range(2)))
        if n == 2:
            fail_task()

    @task
    def load_sync() -> None:
        block.append("events", [{"n": 3}])

    @flow(retries=1)
    async def etl() -> None:
        await asyncio.gather(load(1), load(1), load(2))
        load_sync()
        await block.aappend("events", [{"n": 4}])
        block.append("events", [{"n": 4}])
        fail_flow()

    asyncio.run(etl())
    assert rows(block) == [1, 1, 1, 1, 2, 2, 3, 4, 4]


def test_a_cancelled_append_is_found_by_the_retry(block: DataShardBlock) -> None:
    cancelled = []

    @task(retries=1)
    async def load() -> bool:
        if not cancelled:
            running = asyncio.create_task(block.aappend("events", [{"n": 1}]))
            await asyncio.sleep(0.01)
            cancelled.append(running.cancel())
            await asyncio.wait([running])
            raise Failure("cancelled on purpose")
        while not rows(block):
            await asyncio.sleep(0.05)
        return (await block.aappend("events", [{"n": 1}])).already_appended

    @flow
    async def etl() -> bool:
        return await load()

    assert asyncio.run(etl()) is True
    assert rows(block) == [1]


def test_a_sync_hook_appends(block: DataShardBlock) -> None:
    """Also in an async flow, where Prefect's own dispatch would hand back a coroutine."""

    def hook(*_: Any) -> None:
        block.append("events", [{"n": 1}])

    @task(on_completion=[hook])
    async def work() -> None:
        await asyncio.sleep(0)

    @flow(on_completion=[hook])
    async def etl() -> None:
        await work()

    asyncio.run(etl())
    assert rows(block) == [1, 1]


# -- elsewhere ----------------------------------------------------------------------------------------


def _load_tasks(folder: str, marks: Path) -> tuple[Any, Any]:
    """Tasks for other processes, which do not know this module."""

    @task(retries=1)
    def load(part: int) -> str:
        from prefect_datashard import DataShardBlock

        found = DataShardBlock(folder=folder).append("events", [{"n": 1}]).append_id
        mark = marks / f"{os.getppid()}-{part}"
        if part == 2 and not mark.exists():
            mark.touch()
            raise ValueError("on purpose, after the append")
        return found

    @task
    def passes_on(part: int) -> str:
        return load(part)  # type: ignore[no-any-return]

    return load, passes_on


def process_pool() -> Any:
    return ProcessPoolTaskRunner(max_workers=2)


def dask() -> Any:
    cluster = {"n_workers": 2, "threads_per_worker": 1, "processes": True, "dashboard_address": None}
    return DaskTaskRunner(cluster_kwargs=cluster)


@pytest.mark.parametrize("runner", [process_pool, pytest.param(dask, marks=pytest.mark.thorough)])
def test_workers_elsewhere_use_the_task_run_and_say_so(
    runner: Callable[[], Any], block: DataShardBlock, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """Workers cannot count together: equal rows stay apart, task retries append once, flow retries twice."""
    load, passes_on = _load_tasks(str(block.folder), tmp_path)
    fail = Tries()
    ids: list[list[str]] = []

    @flow(retries=1, task_runner=runner())
    def etl() -> None:
        futures = [load.submit(part) for part in (1, 2, 3)] + [passes_on.submit(4)]
        ids.append([future.result() for future in futures])
        fail()

    etl()
    assert all(one.startswith("prefect:task-run:") for attempt in ids for one in attempt)
    assert Counter(len(set(attempt)) for attempt in ids) == {4: 2}
    assert rows(block) == [1] * 8
    said = capfd.readouterr().err
    assert "a retry of the flow may append its rows twice. Pass append_id=" in said


def test_a_worker_that_takes_the_context_along(block: DataShardBlock, run_log: list[str]) -> None:
    """What the runners for Dask and Ray do in their workers, here in threads."""
    fail = Tries()

    @task(retries=1)
    def load() -> str:
        found = block.append("events", [{"n": 1}]).append_id
        fail()
        return found

    @flow
    def etl() -> list[str]:
        context = serialize_context()
        with ThreadPoolExecutor(3) as pool:
            started = [
                pool.submit(run_task_sync, load, task_run_id=uuid4(), parameters={}, context=context) for _ in range(3)
            ]
        return [one.result() for one in started]

    ids = etl()
    assert len(set(ids)) == 3 and all(one.startswith("prefect:task-run:") for one in ids)
    assert rows(block) == [1] * 3
    assert any("may append its rows twice" in message for message in run_log)


def test_copies_of_a_task_s_context_share_no_numbers(block: DataShardBlock, run_log: list[str]) -> None:
    @task
    def load() -> list[str]:
        append = with_context(lambda: block.append("events", [{"n": 1}]).append_id)
        with ThreadPoolExecutor(2) as pool:
            started = [pool.submit(append) for _ in range(2)]
        return [append(), append(), *(one.result() for one in started)]

    @flow
    def etl() -> list[str]:
        return load()  # type: ignore[no-any-return]

    ids = etl()
    assert len(set(ids)) == 4 and not any(one.startswith("prefect:") for one in ids)
    assert rows(block) == [1] * 4
    assert any("each gets an id of its own" in message for message in run_log)


def test_forked_children_share_no_numbers(block: DataShardBlock) -> None:
    """A child begins with a copy of its parent's counters, as its siblings do."""

    def append() -> None:
        found = block.append("events", [{"n": 1}]).append_id
        os._exit(0 if found.startswith("datashard:") else 1)

    @task
    def load() -> list[int | None]:
        block.append("events", [{"n": 1}])
        children = [multiprocessing.get_context("fork").Process(target=append) for _ in range(2)]
        for child in children:
            child.start()
        for child in children:
            child.join(60)
        return [child.exitcode for child in children]

    @flow
    def etl() -> list[int | None]:
        return load()  # type: ignore[no-any-return]

    assert etl() == [0, 0]
    assert rows(block) == [1] * 3


def test_a_task_that_outlives_its_caller(block: DataShardBlock) -> None:
    """The caller's try is over when it appends, so it goes by its own task run."""
    over = threading.Event()

    @task
    def inner() -> str:
        assert over.wait(60)
        return block.append("events", [{"n": 1}]).append_id

    @task
    def outer() -> Any:
        return [inner.submit()]

    @task
    def outermost() -> Any:
        return outer()

    @flow
    def etl() -> str:
        (future,) = outermost()
        over.set()
        return str(future.result())

    assert etl().startswith("prefect:")
    assert rows(block) == [1]


def test_warnings_come_once(block: DataShardBlock, run_log: list[str]) -> None:
    @task
    def load() -> None:
        block.append("events", [{"n": 1}])

    @flow
    def etl() -> None:
        context = serialize_context()
        with ThreadPoolExecutor(1) as pool:
            for _ in range(3):
                pool.submit(run_task_sync, load, task_run_id=uuid4(), parameters={}, context=context).result()

    etl()
    assert sum("may append its rows twice" in message for message in run_log) == 1


def test_ids_stay_short(block: DataShardBlock) -> None:
    def made(depth: int) -> Callable[[], str]:
        @task
        def a_task_with_quite_a_long_name_that_calls_another_one() -> str:
            return made(depth - 1)() if depth else block.append("events", [{"n": 1}]).append_id

        return a_task_with_quite_a_long_name_that_calls_another_one

    @flow
    def etl() -> str:
        return made(6)()

    found = etl()
    assert len(found) < 200 and ID.fullmatch(found)
