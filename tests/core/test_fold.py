"""Which staged appends a commit carries, refuses or leaves alone, and what their callers are told."""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from typing import Any

import pytest
from datashard_testkit.answered import perform, run_answered

import datashard_core as ds
from datashard_core.commit.append.protocol import append
from datashard_core.commit.core.state import Append, Committed
from datashard_core.commit.core.version_file import version_key
from datashard_core.commit.staging.body import StagedBody, encode_body
from datashard_core.commit.staging.key import PREFIX, StagedName
from datashard_core.effects.driver import run
from datashard_core.effects.requests import Put, PutIfAbsent
from datashard_core.errors import (
    AppendRefusedError,
    CommitStateUnknownError,
    ConfigurationError,
    DataShardError,
    NoSuchTableError,
    StorageError,
)
from datashard_core.format.rows.digest import id_digest, rows_digest
from datashard_core.storage.memory import MemoryStorage
from datashard_core.table.table import Table
from datashard_core.table.warehouse import Warehouse

SCHEMA = ds.Schema(schema_id=0, fields=[{"id": 1, "name": "n", "type": "long", "required": True}])


@pytest.fixture
def home() -> Warehouse:
    return Warehouse(MemoryStorage())


@pytest.fixture
def table(home: Warehouse) -> Table:
    """A table with one append."""
    made = home.create_table("t", SCHEMA)
    made.append([{"n": 0}])
    return made


def _rows(number: int) -> Any:
    import pyarrow as pa

    return pa.table({"n": [number]}, schema=SCHEMA.to_arrow())


def _item(own: str, number: int, base: int | None = None) -> Append:
    return Append(own, id_digest(own), rows_digest(_rows(number), SCHEMA), _rows(number), (), SCHEMA, base)


def _stage(table: Table, own: str, nonce: int, number: int | None, base: int | None = None) -> StagedName:
    """Put a staged object beside the table; a damaged one where there is no number."""
    name = StagedName(table.version if base is None else base, "d", id_digest(own), f"{nonce:032x}")
    data = b"damaged"
    if number is not None:
        digest = rows_digest(_rows(number), SCHEMA)
        uuid = table._seen.body.table.table_uuid
        data = encode_body(StagedBody(uuid, own, digest, SCHEMA.schema_id, _rows(number), ()))
    table._storage.put(name.key, data)
    return name


def _numbers(table: Table) -> list[int]:
    return sorted(row["n"] for row in table.refresh().scan().to_records())


def _staged(table: Table) -> list[str]:
    return [info.key for info in table._storage.list(PREFIX)]


def test_a_damaged_body_gives_way_to_a_good_one_of_the_same_id(table: Table) -> None:
    _stage(table, "a", 1, None)
    _stage(table, "a", 2, 5)
    assert [row["n"] for row in table.scan(include_staged=True).to_records()] == [0, 5]
    table.flush()
    assert _numbers(table) == [0, 5]
    assert _staged(table) == []


def test_an_id_all_of_whose_bodies_are_damaged_is_refused_and_a_flush_says_so(table: Table) -> None:
    _stage(table, "a", 1, None)
    _stage(table, "a", 2, None)
    _stage(table, "b", 3, 7)
    before = table.version
    with pytest.raises(AppendRefusedError, match=rf"table t.*1 of the staged appends.*decoded.*{id_digest('a')}"):
        table.flush()
    assert _numbers(table) == [0, 7]
    assert _staged(table) == []
    with pytest.raises(AppendRefusedError, match="refuses append 'a'"):
        table.append([{"n": 5}], append_id="a", base=before)  # with the base: what became of it?
    with pytest.raises(AppendRefusedError, match="refuses append 'a'"):
        table.append([{"n": 5}], append_id="a", base=before, commit="deferred")
    assert table.append([{"n": 5}], append_id="a").already_appended is False  # the id alone: once more
    assert _numbers(table) == [0, 5, 7]


def test_an_append_whose_history_cannot_be_read_is_left_alone_and_holds_nobody_up(table: Table) -> None:
    for number in range(1, 36):
        table.append([{"n": number}])
    old = _stage(table, "old", 1, 99, base=2)
    _stage(table, "new", 2, 77)
    nodes = [info.key for info in table._storage.list("_datashard/ids/")]
    table._storage.delete([version_key(15), *nodes])
    table.append([{"n": 36}])
    assert 77 in _numbers(table) and 99 not in _numbers(table)
    assert _staged(table) == [old.key]


def test_a_base_that_is_too_new_fails_that_append_alone(table: Table) -> None:
    items = [_item("a", 1, base=table.version + 5), _item("b", 2)]
    results, _ = run(append(items, table._target, table._seen, 10.0), table._storage)
    assert isinstance(results[items[0].id], ConfigurationError)
    assert isinstance(results[items[1].id], Committed)
    assert _numbers(table) == [0, 2]


def _answered(coroutine: Coroutine[Any, Any, Any], storage: MemoryStorage, answer: Callable[[Any], Any]) -> Any:
    """Run a coroutine; ``answer`` may take a request over, by returning an outcome for it."""

    def outcome_of(request: Any) -> Any:
        taken_over = answer(request)
        return taken_over if taken_over is not None else perform(request, storage)

    return run_answered(coroutine, outcome_of)


def test_a_group_of_which_one_is_staged_and_one_is_denied_is_not_reported_as_failed(table: Table) -> None:
    items = [_item("a", 1), _item("b", 2)]
    staged: list[str] = []

    def answer(request: Any) -> Any:
        if isinstance(request, PutIfAbsent) and request.key == version_key(table.version + 1):
            table._storage.put(request.key, table._storage.get(version_key(table.version)).body)
            return None  # somebody else was faster, with a version that names nobody
        if isinstance(request, Put) and request.key.startswith(PREFIX):
            staged.append(request.key)
            if len(staged) == 1:
                return StorageError("denied", reason="access-denied", key=request.key)
        return None

    results, _ = _answered(append(items, table._target, table._seen, 10.0), table._storage, answer)
    assert len(staged) == 2
    assert {type(result) for result in results.values()} == {CommitStateUnknownError}


def test_a_waiter_of_a_table_that_was_dropped_and_purged_learns_that(home: Warehouse, table: Table) -> None:
    seen = table._seen
    for number in range(1, 4):
        table.append([{"n": number}])
    home.drop_table("t", purge=True)
    results, _ = run(append([_item("a", 9)], table._target, seen, 10.0), table._storage)
    [result] = results.values()
    assert isinstance(result, NoSuchTableError)
    assert isinstance(result, DataShardError)
