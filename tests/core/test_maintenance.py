"""What is done by a call: snapshots expired, and everything that is due at once."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

import datashard_core as ds
from datashard_core.commit.core.version_file import parse_version, version_key
from datashard_core.commit.versions import metadata_expiry
from datashard_core.errors import ConfigurationError
from datashard_core.storage.base import PreconditionFailedError, Version
from datashard_core.storage.memory import MemoryStorage
from datashard_core.table.table import Table
from datashard_core.table.warehouse import Warehouse

SCHEMA = ds.Schema(fields=[{"id": 1, "name": "n", "type": "long"}])
LOST = "data/auto_lost.parquet"
DAY = 24 * 3600.0


def _append(table: Table, first: int, last: int) -> None:
    for number in range(first, last + 1):
        table.append([{"n": number}], append_id=f"append {number}")


def _rows(table: Table) -> list[int]:
    return sorted(row["n"] for row in table.refresh().scan().to_records())


@pytest.fixture
def table() -> Table:
    """A table in memory with twelve appends."""
    made = Warehouse(MemoryStorage()).create_table("t", SCHEMA)
    _append(made, 1, 12)
    return made


def test_snapshots_are_expired_by_age_and_number(table: Table, moved_clock: Any) -> None:
    moved_clock.ahead += 3600
    between = datetime.now(UTC) + timedelta(minutes=30)
    _append(table, 13, 14)
    assert table.expire_snapshots(older_than=between, retain_last=5) == 9
    assert len(table.snapshots()) == 5
    assert table.expire_snapshots(older_than=between.replace(tzinfo=None), retain_last=1) == 3
    assert [snapshot.sequence_number for snapshot in table.snapshots()] == [13, 14]
    version = table.version
    assert table.expire_snapshots(older_than=between, retain_last=1) == 0
    assert table.refresh().version == version, "nothing to expire is nothing to commit"
    assert _rows(table) == list(range(1, 15))
    with pytest.raises(ConfigurationError, match="retain_last=0"):
        table.expire_snapshots(retain_last=0)


def test_without_arguments_the_properties_decide(table: Table, moved_clock: Any) -> None:
    assert table.expire_snapshots() == 0
    moved_clock.ahead += 6 * DAY
    assert table.expire_snapshots() == 2
    assert len(table.snapshots()) == 10


@pytest.mark.parametrize("answer", ["taken", "lost reply"])
def test_an_expiry_that_lost_its_race_or_its_reply(table: Table, answer: str) -> None:
    from datashard_core.storage.base import OutcomeUnknownError

    real, left = table._storage.put_if_absent, [answer]
    other = Table(table._storage, "t", table._seen)

    def put(key: str, data: bytes) -> Version:
        if key.startswith("metadata/v") and left:
            left.clear()
            if answer == "taken":
                _append(other, 13, 13)
                raise PreconditionFailedError("taken", key=key)
            real(key, data)
            raise OutcomeUnknownError("no reply", key=key)
        return real(key, data)

    table._storage.put_if_absent = put  # type: ignore[method-assign]
    later = datetime.now(UTC) + timedelta(minutes=1)
    assert table.expire_snapshots(older_than=later, retain_last=2) == (11 if answer == "taken" else 10)
    assert len(table.refresh().snapshots()) == 2
    assert table.version == (14 if answer == "taken" else 13)


def test_all_that_is_due_is_done_at_once(
    any_warehouse: Warehouse, time_passes: Callable[[float], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(metadata_expiry, "KEPT", 8)
    properties = {
        "write.metadata.previous-versions-max": "2",
        "datashard.snapshots.max-count": "20",
        "history.expire.min-snapshots-to-keep": "1",
    }
    table = any_warehouse.create_table("t", SCHEMA, properties=properties)
    _append(table, 1, 26)
    table._storage.put(LOST, b"lost")
    time_passes(8 * DAY)
    table.append([{"n": 27}], commit="deferred")
    done = table.maintain()
    assert done.expired_snapshots == 0, "the commit of the deferred append did it"
    assert len(table.snapshots()) == 2
    assert done.compacted is not None
    assert done.compacted.files == 27
    assert done.tombstones == 16, "the block of the others is not whole yet"
    assert done.orphans.files > 20
    states = [parse_version(table._storage.get(version_key(v)).body, v, "here").state for v in range(16)]
    assert states == ["tombstone"] * 16
    assert _rows(any_warehouse.load_table("t")) == list(range(1, 28))
    assert LOST not in {info.key for info in table._storage.list("data/")}
    assert any_warehouse.load_table("t").append([{"n": 3}], append_id="append 3").already_appended
    again = table.maintain()
    assert (again.expired_snapshots, again.tombstones) == (0, 0)
    assert again.compacted is not None
    assert again.compacted.files == 0


def test_what_a_dying_process_left_is_swept_by_a_call(moved_clock: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(metadata_expiry, "KEPT", 2)
    properties = {"write.metadata.previous-versions-max": "2"}
    table = Warehouse(MemoryStorage()).create_table("t", SCHEMA, properties=properties)
    _append(table, 1, 24)
    moved_clock.ahead += 8 * DAY
    real, dead = table._storage.replace, set[str]()

    def dies(key: str, data: bytes, version: Version) -> Version:
        if key.startswith("metadata/v") and key.endswith(".json"):
            dead.add(key)
            raise ds.StorageError("dead")
        return real(key, data, version)

    monkeypatch.setattr(table._storage, "replace", dies)
    _append(table, 25, 28)
    monkeypatch.setattr(table._storage, "replace", real)
    assert {version_key(version) for version in range(4)} <= dead
    _append(table, 29, 34)
    states = [parse_version(table._storage.get(version_key(v)).body, v, "here").state for v in range(16)]
    assert states[:4] == ["table"] * 4
    assert "tombstone" in states
    assert table.maintain().tombstones == states.count("table")
    assert _rows(table) == list(range(1, 35))


def test_a_grace_period_under_an_hour_is_refused_before_anything_is_done(table: Table) -> None:
    version = table.version
    with pytest.raises(ConfigurationError, match="is too short"):
        table.maintain(timedelta(minutes=1))
    assert table.refresh().version == version
