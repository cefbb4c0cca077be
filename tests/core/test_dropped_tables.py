"""Tables that are dropped, purged and made again while appends, flushes and readers are at work on them.

The failures: a writer has read the newest version, and the table is purged before it asks what that
version's history says of its id; what it finds is a damaged table, where the table is only gone. And a
writer of the dropped table leaves a staged body behind; the same task appends to the table made again,
under the same id, and is refused for a body that nobody can commit.
"""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from typing import Any

import pytest
from datashard_testkit.answered import perform, run_answered

import datashard_core as ds
from datashard_core.commit.append.deferred import Deferred, defer, flush
from datashard_core.commit.append.protocol import append
from datashard_core.commit.append.staged_read import WithStaged, read_with_staged
from datashard_core.commit.core.state import Append, Committed, TableState
from datashard_core.commit.staging.body import StagedBody, encode_body
from datashard_core.commit.staging.key import PREFIX, StagedName
from datashard_core.errors import DataShardError, NoSuchTableError
from datashard_core.format.rows.digest import id_digest, rows_digest
from datashard_core.storage.memory import MemoryStorage
from datashard_core.table.table import Table
from datashard_core.table.warehouse import Warehouse

SCHEMA = ds.Schema(schema_id=0, fields=[{"id": 1, "name": "n", "type": "long", "required": True}])
VERSIONS = 40
"""More than a look-up reads from the versions themselves."""


def _rows(number: int) -> Any:
    import pyarrow as pa

    return pa.table({"n": [number]}, schema=SCHEMA.to_arrow())


def _item(own: str, number: int = 99) -> Append:
    return Append(own, id_digest(own), rows_digest(_rows(number), SCHEMA), _rows(number), (), SCHEMA, None)


def _table(home: Warehouse, versions: int = 1) -> Table:
    table = home.create_table("t", SCHEMA)
    for number in range(versions):
        table.append([{"n": number}])
    return table


def _leave_behind(table: Table, own: str, number: int) -> StagedName:
    """What a deferred append, or a writer that died in line, leaves in the table's folder."""
    name = StagedName(table.version, "w", id_digest(own), f"{number:032x}")
    uuid = table._seen.body.table.table_uuid
    body = StagedBody(uuid, own, rows_digest(_rows(number), SCHEMA), SCHEMA.schema_id, _rows(number), ())
    table._storage.put(name.key, encode_body(body))
    return name


def _numbers(table: Table, **scan: Any) -> list[int]:
    return sorted(row["n"] for row in table.refresh().scan(**scan).to_records())


@pytest.mark.parametrize("commit", ["now", "deferred"])
def test_a_body_staged_for_a_dropped_table_does_not_stand_in_the_way_of_its_id(commit: Any) -> None:
    home = Warehouse(MemoryStorage())
    old = _table(home)
    left = _leave_behind(old, "run 7", 7)
    home.drop_table("t")
    new = _table(home)
    assert _numbers(new, include_staged=True) == [0]
    assert new.append([{"n": 7}], append_id="run 7", commit=commit).already_appended is False
    new.flush()
    assert _numbers(new) == [0, 7]
    assert left.key not in {info.key for info in new._storage.list(PREFIX)}


def test_a_flush_says_nothing_of_what_was_staged_for_a_dropped_table() -> None:
    home = Warehouse(MemoryStorage())
    _leave_behind(_table(home), "run 7", 7)
    home.drop_table("t")
    new = _table(home)
    new.flush()
    assert _numbers(new) == [0]


def test_a_deferred_append_with_a_base_of_the_dropped_table_is_not_taken_for_one_of_its() -> None:
    home = Warehouse(MemoryStorage())
    base = _table(home).version
    home.drop_table("t")
    new = _table(home)
    new.append([{"n": 7}], append_id="run 7", base=base, commit="deferred")
    new.flush()
    assert _numbers(new) == [0, 7]


def test_an_append_under_an_id_that_was_staged_for_a_dropped_table_is_never_refused() -> None:
    """Before its k-th request, for every k, somebody else commits whatever is staged."""
    k, requests = 0, 1
    while k < requests:
        home = Warehouse(MemoryStorage())
        left = _leave_behind(_table(home), "a", 99)
        body = home._storage.get(f"t/{left.key}").body
        home._storage.delete([f"t/{left.key}"])
        home.drop_table("t")
        new = _table(home)
        new._storage.put(left.key, body)  # it lands as late as this
        steps = _append(new, new._seen)
        ended, requests = _before(k, steps, new._storage, lambda: home.load_table("t").append([{"n": 1}]))  # noqa: B023
        assert isinstance(ended, Committed), f"at {k}: {ended}"
        assert _numbers(new)[-1] == 99
        k += 1
    assert requests > 5


def test_an_append_to_a_table_that_another_of_its_name_came_after_is_not_said_to_be_in_that_one() -> None:
    """Before its k-th request, for every k: the table is dropped, made again, given the same append, and dropped."""
    told, k = set(), 0
    while True:
        home = Warehouse(MemoryStorage())
        table = _table(home)
        ends: list[int] = []

        def dropped_twice() -> None:
            ends.append(home.load_table("t").version + 1)  # noqa: B023
            home.drop_table("t")  # noqa: B023
            again = home.create_table("t", SCHEMA)  # noqa: B023
            again.append([{"n": 99}], append_id="a")
            home.drop_table("t")  # noqa: B023

        ended, _ = _before(k, _append(table, table._seen), table._storage, dropped_twice)
        if not ends:
            break
        assert isinstance(ended, NoSuchTableError) or ended.version < ends[0], f"at {k}: {ended}"
        told.add(type(ended))
        k += 1
    assert told == {NoSuchTableError, Committed}


Calls = Callable[[Table, Any], Coroutine[Any, Any, Any]]


async def _append(table: Table, seen: Any) -> Any:
    results, _ = await append([_item("a")], table._target, seen, 10.0)
    return results[id_digest("a")]


async def _defer(table: Table, seen: Any) -> Any:
    result, _ = await defer(_item("a"), table._target, seen or table._seen)
    return result


async def _flush(table: Table, seen: Any) -> Any:
    return await flush(table._target, seen, 10.0)


async def _read(table: Table, seen: Any) -> Any:
    return await read_with_staged(table._target, seen)


@pytest.mark.parametrize("knows", ["nothing", "the newest version", "an old version"])
@pytest.mark.parametrize("call", [_append, _defer, _flush, _read], ids=lambda call: call.__name__[1:])
@pytest.mark.parametrize("again", [False, True], ids=["dropped", "dropped and created again"])
def test_whoever_is_at_work_while_a_table_is_purged_learns_that_it_is_gone(
    call: Calls, knows: str, again: bool
) -> None:
    """Before the k-th request of a call, for every k, the table is dropped and purged."""
    store = MemoryStorage()
    home = Warehouse(store)
    table = home.create_table("t", SCHEMA)
    old = table._seen
    for number in range(VERSIONS):
        table.append([{"n": number}])
    seen = {"nothing": None, "the newest version": table._seen, "an old version": old}[knows]
    _leave_behind(table, "b", 8)
    whole = dict(store._objects)

    def purge() -> None:
        home.drop_table("t", purge=True)
        if again:
            home.create_table("t", SCHEMA)

    told, k = set(), 0
    while True:
        store._objects.clear()
        store._objects.update(whole)
        ended, requests = _before(k, call(table, seen), table._storage, purge)
        if requests <= k:
            break
        told.add(type(ended))
        k += 1
    assert k >= 3
    assert NoSuchTableError in told
    assert told <= {NoSuchTableError, Committed, Deferred, TableState, WithStaged}


def _before(k: int, steps: Coroutine[Any, Any, Any], storage: Any, happens: Callable[[], Any]) -> tuple[Any, int]:
    """Run steps, something else happening before the k-th request; how they ended, and how many requests there were."""
    count = 0

    def outcome_of(request: Any) -> Any:
        nonlocal count
        if count == k:
            happens()
        count += 1
        return perform(request, storage)

    try:
        return run_answered(steps, outcome_of), count
    except DataShardError as error:
        return error, count
