"""How long append ids are remembered: look-ups, the nodes that maintenance makes and removes, and its property."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any
from unittest import mock

import pytest

import datashard_core as ds
from datashard_core.commit.append_ids import lookback, lookup, segment
from datashard_core.commit.append_ids import segment_store as node_store
from datashard_core.commit.append_ids.lookback import ForgottenError
from datashard_core.commit.append_ids.segment import WATERMARK, SegmentHeader, SegmentName
from datashard_core.commit.append_ids.segment_store import OpenSegment
from datashard_core.commit.core import recorded_ids
from datashard_core.commit.maintenance import id_expiry
from datashard_core.commit.maintenance.id_expiry import choose
from datashard_core.commit.staging.body import StagedBody, encode_body
from datashard_core.commit.staging.key import PREFIX as STAGED
from datashard_core.commit.staging.key import StagedName
from datashard_core.commit.versions import metadata_expiry
from datashard_core.effects.driver import run
from datashard_core.errors import CommitStateUnknownError, ConfigurationError
from datashard_core.format.rows.digest import id_digest, rows_digest
from datashard_core.storage.base import ObjectNotFoundError
from datashard_core.storage.if_match import IfMatch
from datashard_core.storage.memory import MemoryStorage
from datashard_core.table.table import Table
from datashard_core.table.warehouse import Warehouse

SCHEMA = ds.Schema(fields=[{"id": 1, "name": "n", "type": "long"}])
HOUR, DAY = 3600.0, 24 * 3600.0
PROPERTY = "datashard.append-id.retention"
SHORT = {
    "write.metadata.previous-versions-max": "1",
    "datashard.snapshots.max-count": "3",
    "history.expire.min-snapshots-to-keep": "1",
}


@pytest.fixture(autouse=True)
def deep_nodes_in_short_histories() -> Iterator[None]:
    """Blocks of four versions instead of sixteen: a block of the top level has 64."""
    with mock.patch.object(lookup, "SHORT_RANGE", 8), mock.patch.object(metadata_expiry, "KEPT", 12):
        patches = [
            mock.patch.object(module, "BLOCK", 4)
            for module in (recorded_ids, lookback, lookup, node_store, segment, metadata_expiry, id_expiry)
        ]
        for patch in patches:
            patch.start()
        try:
            yield
        finally:
            for patch in patches:
                patch.stop()


@pytest.fixture
def storage() -> MemoryStorage:
    return MemoryStorage()


@pytest.fixture
def table(storage: MemoryStorage) -> Table:
    """A table that remembers ids for ten days."""
    properties = {**SHORT, PROPERTY: str(10 * 24 * 3_600_000)}
    return Warehouse(storage).create_table("t", SCHEMA, properties=properties)


def _append(table: Table, first: int, last: int) -> None:
    for number in range(first, last + 1):
        table.append([{"n": number}], append_id=f"append {number}")


def _nodes(table: Table) -> list[SegmentName]:
    keys = (info.key for info in table._storage.list(segment.PREFIX))
    return [name for key in keys if (name := segment.parse_key(key)) is not None]


def _count_gets(table: Table, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    asked: list[str] = []
    real = table._storage.get

    def get(key: str, *rest: Any, **options: Any) -> Any:
        asked.append(key)
        return real(key, *rest, **options)

    monkeypatch.setattr(table._storage, "get", get)
    return asked


def test_ids_older_than_the_retention_are_forgotten_and_younger_ones_never(table: Table, moved_clock: Any) -> None:
    _append(table, 1, 140)
    moved_clock.ahead += 9 * DAY
    _append(table, 141, 150)
    assert table.maintain().tombstones > 100
    assert table.append([{"n": 3}], append_id="append 3").already_appended, "nine of ten days"
    moved_clock.ahead += 2 * DAY
    _append(table, 151, 151)
    removed = table.maintain().id_nodes
    assert removed > 0
    assert table._storage.head(WATERMARK).size
    assert table.append([{"n": 3}], append_id="append 3").already_appended is False, "eleven days"
    assert table.append([{"n": 145}], append_id="append 145").already_appended
    assert table.refresh().count() == 152
    assert table.maintain().id_nodes == 0, "nothing is removed twice"


def test_nothing_is_forgotten_in_a_store_without_if_match(
    table: Table, moved_clock: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The mark of what is forgotten could move back there, so nodes stay, and every id is remembered."""
    known = IfMatch()
    known.why = "the store overwrites an object although If-Match names an older ETag"
    monkeypatch.setattr(table._storage, "if_match", known, raising=False)
    _append(table, 1, 140)
    moved_clock.ahead += 12 * DAY
    _append(table, 141, 150)
    held = set(_nodes(table))
    maintained = table.maintain()
    assert maintained.tombstones == 0
    assert {name for name in held if name.is_whole_block and name.level == segment.TOP_LEVEL} <= set(_nodes(table))
    with pytest.raises(ObjectNotFoundError):
        table._storage.head(WATERMARK)
    assert table.append([{"n": 145}], append_id="append 145").already_appended


def test_look_ups_end_at_the_retention_though_nobody_maintains(
    table: Table, moved_clock: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    _append(table, 1, 6 * 64 + 1)
    asked = _count_gets(table, monkeypatch)
    table.append([{"n": 0}], append_id="a new one")
    assert len([key for key in asked if key.startswith(f"{segment.PREFIX}2/")]) == 6, (
        "every full block of the retention"
    )
    moved_clock.ahead += 11 * DAY
    _append(table, 387, 387)
    asked.clear()
    table.append([{"n": 0}], append_id="another one")
    assert len([key for key in asked if key.startswith(f"{segment.PREFIX}2/")]) <= lookup.FIRST_SEGMENTS
    assert not table.append([{"n": 100}], append_id="append 100").already_appended


def test_the_retention_is_counted_between_versions_and_no_clock_of_a_machine_is_asked(
    table: Table, moved_clock: Any
) -> None:
    _append(table, 1, 80)
    moved_clock.ahead += 400 * DAY
    assert table.append([{"n": 2}], append_id="append 2").already_appended, "the newest version is as old"
    _append(table, 81, 81)
    assert not table.append([{"n": 2}], append_id="append 2").already_appended


def test_earlier_nodes_go_once_a_later_one_covers_them_and_nothing_is_forgotten_by_that(
    table: Table, moved_clock: Any
) -> None:
    _append(table, 1, 60)
    many = _nodes(table)
    moved_clock.ahead += 6 * DAY
    _append(table, 61, 62)
    assert table.maintain().id_nodes == 0, "nodes are younger than a week"
    moved_clock.ahead += 2 * DAY
    _append(table, 63, 66)
    removed = table.maintain().id_nodes
    left = _nodes(table)
    assert removed >= len(many) - 4
    assert min(name.until for name in left) == 48, "the newest of the top level that is a week old"
    for number in (1, 17, 33, 59):
        assert table.append([{"n": number}], append_id=f"append {number}").version == number
    assert table.refresh().count() == 66


def test_a_reader_of_an_old_version_asks_the_node_that_covers_the_one_it_misses(table: Table, moved_clock: Any) -> None:
    _append(table, 1, 46)
    slept_at = table._seen.body
    moved_clock.ahead += 8 * DAY
    _append(table, 47, 68)
    assert table.maintain().id_nodes > 0
    ids = {id_digest(f"append {number}"): number for number in (5, 20, 41, 44, 50)}
    words = run(
        lookup.look_up(frozenset(ids), slept_at, above=-1, bodies={}, history=table._target.history), table._storage
    )
    assert {ids[own]: word.version for own, word in words.items()} == {5: 5, 20: 20, 41: 41, 44: 44}


def _forgetful(table: Table, moved_clock: Any) -> None:
    """150 appends, of which those of the first block are forgotten."""
    _append(table, 1, 140)
    moved_clock.ahead += 11 * DAY
    _append(table, 141, 150)
    table.maintain()
    table.refresh()


def test_who_has_to_know_is_told_that_it_is_forgotten(table: Table, moved_clock: Any) -> None:
    _forgetful(table, moved_clock)
    steps = lookup.look_up(
        frozenset({id_digest("append 7")}), table._seen.body, above=5, bodies={}, history=table._target.history
    )
    with pytest.raises(ForgottenError, match="append ids of the versions before 64 are no longer kept"):
        run(steps, table._storage)


def test_a_second_try_that_comes_too_late_is_not_appended_again(table: Table, moved_clock: Any) -> None:
    _forgetful(table, moved_clock)
    for commit in ("now", "deferred"):
        with pytest.raises(CommitStateUnknownError, match="begun at version 5, is in the table") as raised:
            table.append([{"n": 7}], append_id="append 7", base=5, commit=commit)
        assert (raised.value.append_id, raised.value.base) == ("append 7", 5)
    assert table.append([{"n": 149}], append_id="append 149", base=5).version == 149
    assert table.refresh().count() == 150


def test_what_is_staged_keeps_the_nodes_that_judge_it(table: Table, moved_clock: Any) -> None:
    """A staged append whose delete was lost: its base is as old as the table."""
    _append(table, 1, 140)
    _stage(table, "append 7", base=5, number=7)
    moved_clock.ahead += 11 * DAY
    _append(table, 141, 150)
    names = [name for name in _nodes(table) if name.until <= 64]
    assert names
    table.maintain()
    assert table.refresh().count() == 150, "judged, and not committed again"
    assert [info.key for info in table._storage.list(STAGED)] == [], "and named, so it is deleted"


def test_what_is_staged_after_its_history_is_forgotten_is_left_alone(table: Table, moved_clock: Any) -> None:
    """Its writer slept for eleven days between choosing its base and its PUT."""
    _forgetful(table, moved_clock)
    _stage(table, "append 7", base=5, number=7)
    _stage(table, "append 999", base=149, number=999)
    _append(table, 151, 152)
    with pytest.raises(CommitStateUnknownError, match="whether 1 staged appends are in the table") as raised:
        table.flush()
    (key,) = [info.key for info in table._storage.list(STAGED)]
    assert key in str(raised.value)
    rows = sorted(row["n"] for row in table.refresh().scan().to_records())
    assert rows == [*range(1, 153), 999]
    shown = sorted(row["n"] for row in table.scan(include_staged=True).to_records())
    assert shown == rows


def _stage(table: Table, append_id: str, base: int, number: int) -> None:
    import pyarrow as pa

    rows = pa.table({"n": [number]}, schema=SCHEMA.to_arrow())
    body = StagedBody(table._target.uuid, append_id, rows_digest(rows, SCHEMA), 0, rows)
    name = StagedName(base, "d", id_digest(append_id), "ab" * 16)
    table._storage.put(name.key, encode_body(body))


def test_a_longer_retention_set_later_finds_what_is_forgotten_already(table: Table, moved_clock: Any) -> None:
    _forgetful(table, moved_clock)
    longer = {**table.properties, PROPERTY: str(1000 * 24 * 3_600_000)}
    from msgspec.structs import replace

    body = replace(table._seen.body, metadata=table._seen.body.table.with_properties(longer))
    table._seen = replace(table._seen, body=body)
    _append(table, 151, 151)
    assert not table.append([{"n": 7}], append_id="append 7").already_appended
    assert table.append([{"n": 100}], append_id="append 100").already_appended


def test_nodes_that_somebody_else_deleted_are_not_taken_for_forgotten(table: Table, moved_clock: Any) -> None:
    _forgetful(table, moved_clock)
    table._storage.delete([name.key for name in _nodes(table) if name.until > 64])
    with pytest.raises(ds.CorruptTableError, match="is a tombstone, and the id segment with its records is missing"):
        table.append([{"n": 0}], append_id="new")


def _headers(*ended: tuple[int, int]) -> dict[SegmentName, OpenSegment]:
    found = {}
    for until, last_ms in ended:
        name = SegmentName(2, until)
        found[name] = OpenSegment(name, SegmentHeader("0" * 32, name.since, until, last_ms, 0), b"")
    return found


def test_which_nodes_may_go() -> None:
    old = [
        SegmentName(1, 4),
        SegmentName(1, 64),
        SegmentName(2, 64),
        SegmentName(2, 128),
        SegmentName(2, 192),
        SegmentName(1, 204),
    ]
    headers = _headers((64, 10), (128, 20), (192, 30))
    doomed = choose(old, headers, cutoff_ms=25, lowest_base=1000)
    assert doomed.before == 64, "the newest that is out stays, to say that look-ups may end"
    assert set(doomed.forgotten) == {SegmentName(1, 4), SegmentName(1, 64), SegmentName(2, 64)}
    assert doomed.superseded == ()
    assert choose(old, headers, cutoff_ms=25, lowest_base=62).before == 0, "a staged append may be named there"
    assert choose(old, headers, cutoff_ms=10, lowest_base=1000).forgotten == (), "the last version is not out yet"
    within = choose(old, headers, cutoff_ms=0, lowest_base=1000)
    assert set(within.superseded) == {SegmentName(1, 4), SegmentName(1, 64)}, (
        "the block's last node holds what they hold"
    )
    assert choose(old, {}, cutoff_ms=25, lowest_base=1000).superseded == (), "what is not whole covers nothing"


def test_a_node_too_large_for_a_commit_is_left_to_maintenance_and_asked_in_parts(
    table: Table, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(segment, "TOO_LARGE", segment.size_of(24))
    monkeypatch.setattr(node_store.make_segment, "__defaults__", (segment.size_of(24),))
    _append(table, 1, 45)
    assert SegmentName(1, 44) in _nodes(table)
    assert SegmentName(2, 16) in _nodes(table)
    assert SegmentName(2, 32) not in _nodes(table), "32 records are too many"
    for number in (2, 18, 33, 44):
        again = table.append([{"n": number}], append_id=f"append {number}")
        assert (again.already_appended, again.version) == (True, number)
    assert not table.append([{"n": 46}], append_id="append 46").already_appended
    assert SegmentName(2, 32) not in _nodes(table), "no look-up wrote it"
    table.maintain()
    assert SegmentName(2, 32) in _nodes(table)
    header = segment.decode_header(table._storage.get(SegmentName(2, 32).key).body, "x", table._target.uuid)
    assert header is not None
    assert header.count == 32
    assert table.append([{"n": 18}], append_id="append 18").version == 18


@pytest.mark.parametrize("text", ["30", "30d", "-1", "", "3599999", "P30D"])
def test_a_retention_that_makes_no_sense_is_refused(text: str, storage: MemoryStorage) -> None:
    message = rf"{PROPERTY}='{text}' has to be a whole number of milliseconds, from 3600000 \(an hour\) on"
    with pytest.raises(ConfigurationError, match=message):
        Warehouse(storage).create_table("t", SCHEMA, properties={PROPERTY: text})


def test_thirty_days_are_the_default_and_an_hour_will_do(storage: MemoryStorage) -> None:
    from datashard_core.commit.core.properties import settings_of

    assert settings_of({}).id_retention_ms == 30 * 24 * 3_600_000
    assert settings_of({PROPERTY: "nonsense of another engine"}).id_retention_ms == 30 * 24 * 3_600_000
    made = Warehouse(storage).create_table("t", SCHEMA, properties={PROPERTY: "3600000"})
    assert settings_of(made.properties).id_retention_ms == 3_600_000
