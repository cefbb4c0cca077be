"""Old versions that became tombstones: the id segments keep what they committed."""

from __future__ import annotations

import pytest
from msgspec.structs import replace

import datashard_core as ds
from datashard_core.commit.append_ids.lookup import look_up
from datashard_core.commit.append_ids.segment import SegmentName
from datashard_core.commit.core.state import read_version
from datashard_core.commit.core.version_file import VersionFile, parse_version, tombstone, version_key
from datashard_core.effects.driver import run
from datashard_core.errors import CorruptTableError
from datashard_core.format.rows.digest import id_digest
from datashard_core.storage.memory import MemoryStorage
from datashard_core.table.table import Table
from datashard_core.table.warehouse import Warehouse

SCHEMA = ds.Schema(fields=[{"id": 1, "name": "n", "type": "long"}])


@pytest.fixture
def table() -> Table:
    """A table whose versions 1 to 40 carry one append each, with an id of the caller's."""
    made = Warehouse(MemoryStorage()).create_table("t", SCHEMA)
    for number in range(1, 41):
        made.append([{"n": number}], append_id=f"append {number}")
    return made


def _named(table: Table, newest: VersionFile, numbers: list[int], bodies: dict[int, VersionFile]) -> dict[int, int]:
    """Which version is said to have committed which append, looked for above version 8."""
    ids = {id_digest(f"append {number}"): number for number in numbers}
    steps = look_up(frozenset(ids), newest, above=8, bodies=bodies, history=table._target.history)
    return {ids[own]: word.version for own, word in run(steps, table._storage).items()}


def _bury(table: Table, version: int) -> VersionFile:
    """Write a tombstone over a version, as maintenance does."""
    key = version_key(version)
    body = tombstone(table._target.uuid)
    table._storage.replace(key, body, table._storage.get(key).version)
    return parse_version(body, version, key)


@pytest.mark.parametrize("handed_in", [True, False])
def test_a_version_that_became_a_tombstone_is_not_taken_for_one_that_names_nothing(
    table: Table, handed_in: bool
) -> None:
    slept_at = run(read_version(table.uri, 20), table._storage)
    buried = {version: _bury(table, version) for version in range(8, 16)}
    bodies = {15: buried[15]} if handed_in else {}
    assert _named(table, slept_at, [9, 12, 15, 18, 25, 99], bodies) == {9: 9, 12: 12, 15: 15, 18: 18}


def test_a_sleeper_learns_of_its_own_block_from_a_node_that_reaches_beyond_what_it_saw(table: Table) -> None:
    slept_at = run(read_version(table.uri, 20), table._storage)
    for version in range(17, 20):
        _bury(table, version)
    run(
        look_up(frozenset({"0" * 32}), table._seen.body, above=-1, bodies={}, history=table._target.history),
        table._storage,
    )
    assert table._storage.head(SegmentName(1, 32).key).size
    foreign = replace(slept_at, names=None)  # another engine's: it repeats no names of earlier versions
    assert _named(table, foreign, [18, 19, 21, 25], {}) == {18: 18, 19: 19}


def test_without_the_node_nothing_is_said(table: Table) -> None:
    slept_at = run(read_version(table.uri, 20), table._storage)
    for version in range(8, 16):
        _bury(table, version)
    table._storage.delete([SegmentName(1, 16).key])
    with pytest.raises(
        CorruptTableError, match=r"v15\.metadata\.json is a tombstone, and the id segment .* is missing"
    ):
        _named(table, slept_at, [12], {})


def test_a_retry_after_weeks_appends_nothing_though_its_version_is_a_tombstone(table: Table) -> None:
    for version in range(16):
        _bury(table, version)
    again = table.append([{"n": 3}], append_id="append 3")
    assert (again.version, again.already_appended) == (3, True)
    assert table.refresh().count() == 40
