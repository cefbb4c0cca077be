"""The ready-made tasks: by a block or its name, in sync and async flows, retried."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from prefect import flow, task, unmapped
from prefect.cache_policies import NO_CACHE

from datashard_core.errors import ConfigurationError, NoSuchTableError
from prefect_datashard import (
    DataShardBlock,
    datashard_aappend,
    datashard_append,
    datashard_flush,
    datashard_scan,
    datashard_sql,
    flush_at_end,
)

TASKS = (datashard_append, datashard_aappend, datashard_flush, datashard_scan, datashard_sql)
FIELDS = [{"id": 1, "name": "n", "type": "long"}]


@pytest.fixture
def name(block: DataShardBlock) -> str:
    """The name under which the block is saved."""
    block.save("for-tasks", overwrite=True)
    return "for-tasks"


@pytest.mark.parametrize("one", TASKS, ids=lambda one: one.name)
def test_no_task_caches(one: Any) -> None:
    assert one.cache_policy == NO_CACHE
    assert one.description


def test_append_and_read_by_name(name: str) -> None:
    @flow
    def etl() -> list[Any]:
        first = datashard_append(name, "events", [{"n": 1}, {"n": 2}])
        second = datashard_append.submit(
            name, "more", datashard_scan.submit(name, "events", where="n > 1"), schema=FIELDS
        )
        with pytest.raises(NoSuchTableError, match=r"more.*create it first"):
            second.result()
        made = datashard_append(name, "more", [{"n": 3}], schema=FIELDS, create_if_missing=True)
        copied = datashard_append.submit(name, "more", datashard_scan.submit(name, "events", where="n > 1")).result()
        table = datashard_scan(name, "events", columns=["n"])
        return [first.rows, made.rows, copied.rows, table.num_rows, datashard_sql(name, "select sum(n) s from more")]

    *counts, answer = etl()
    assert counts == [2, 1, 1, 2]
    assert answer.to_pylist() == [{"s": 5}]


@pytest.mark.parametrize("by_name", [True, False])
def test_in_async_flows(block: DataShardBlock, name: str, by_name: bool) -> None:
    given = name if by_name else block

    @flow
    async def etl() -> int:
        results = await asyncio.gather(*(datashard_aappend(given, "events", [{"n": 1}]) for _ in range(2)))
        results.append(datashard_append(given, "events", [{"n": 1}]))
        results.append(datashard_append.submit(given, "events", [{"n": 1}]).result())
        assert len({result.append_id for result in results}) == 4
        return int(datashard_scan(given, "events").num_rows)

    assert asyncio.run(etl()) == 4


def test_retries_of_flows_and_tasks(block: DataShardBlock) -> None:
    """Mapped over equal rows, with results kept by default, the flow fails at its end."""
    failures = [1]

    @task
    def last() -> None:
        if failures:
            failures.pop()
            raise ValueError("on purpose")

    @flow(retries=1, persist_result=True)
    def etl() -> list[bool]:
        mapped = datashard_append.with_options(retries=1).map(unmapped(block), "events", [[{"n": 1}]] * 3)
        done = [*mapped.result(), datashard_append(block, "events", [{"n": 1}], append_id="day-1")]
        last()
        return [result.already_appended for result in done]

    assert etl() == [True] * 4
    assert block.load_table("events").count() == 4


def test_what_is_no_block_is_refused(block: DataShardBlock) -> None:
    """A block that went through the parameters of a deployment comes out as a dictionary."""

    @flow
    def etl() -> None:
        datashard_append(block.model_dump(mode="json"), "events", [{"n": 1}])

    with pytest.raises(ConfigurationError, match="pass its name"):
        etl()


def test_what_is_deferred_is_in_the_table_after_a_flush(block: DataShardBlock, name: str) -> None:
    @flow
    def etl() -> list[Any]:
        deferred = [datashard_append.submit(name, "events", [{"n": n}], commit="deferred") for n in (1, 2)]
        counts = [future.result().rows for future in deferred]
        return [counts, datashard_flush(name, "events"), datashard_scan(name, "events").num_rows]

    counts, version, rows = etl()
    assert (counts, rows) == ([1, 1], 2)
    assert version == block.load_table("events").version


@pytest.mark.parametrize("fails", [False, True], ids=["success", "failure"])
def test_a_flow_run_shows_what_it_deferred_when_it_is_over(block: DataShardBlock, name: str, fails: bool) -> None:
    """However it ends, and although one of the tables is not there."""
    log = flush_at_end(name, "missing", "events")

    @flow(on_completion=[log], on_failure=[log])
    def etl() -> None:
        datashard_append(name, "events", [{"n": 1}], commit="deferred")
        if fails:
            raise ValueError("on purpose")

    state = etl(return_state=True)
    assert state.is_failed() == fails
    assert block.scan("events").to_records() == [{"n": 1}]


async def test_an_async_flow_run_shows_it_too(block: DataShardBlock, name: str) -> None:
    @flow(on_completion=[flush_at_end(name, "events")])
    async def etl() -> None:
        await datashard_aappend(name, "events", [{"n": 1}], commit="deferred")

    await etl()
    assert block.scan("events").to_records() == [{"n": 1}]


def test_a_hook_for_no_table_is_refused() -> None:
    with pytest.raises(ConfigurationError, match="name the tables"):
        flush_at_end("warehouse")
