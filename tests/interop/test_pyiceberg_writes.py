"""PyIceberg's writers and ours on one table, through one commit protocol: nothing is lost or doubled."""

from __future__ import annotations

import datetime as dt
import os
import threading
import time
from pathlib import Path
from typing import Any
from unittest import mock

import pyarrow as pa
import pytest
from pyiceberg.catalog import Catalog
from pyiceberg.exceptions import CommitFailedException, CommitStateUnknownException, ValidationException
from pyiceberg.partitioning import PartitionField, PartitionSpec
from pyiceberg.schema import Schema
from pyiceberg.table.update import UpgradeFormatVersionUpdate
from pyiceberg.transforms import DayTransform, IdentityTransform
from pyiceberg.types import DoubleType, FloatType, LongType, NestedField, StringType, TimestamptzType

import datashard_core as ds
from datashard_core.commit.external import commit as external
from datashard_core.storage.base import OutcomeUnknownError, Storage
from datashard_core.table.warehouse import Warehouse

SCHEMA = Schema(NestedField(1, "k", LongType(), required=False), NestedField(2, "text", StringType(), required=False))
ROWS = pa.table({"k": pa.array([1, 2], pa.int64()), "text": ["a", "b"]})


def row(k: int, text: str) -> pa.Table:
    return pa.table({"k": pa.array([k], pa.int64()), "text": [text]})


def records(rows: Any) -> list[dict[str, Any]]:
    return sorted(rows.to_pylist(), key=lambda one: one["k"])


def both(catalog: Catalog, ours: ds.Table, name: str = "shop.t") -> list[dict[str, Any]]:
    """The rows, which our reader and PyIceberg's agree on."""
    mine = records(ours.refresh().scan().to_arrow())
    assert records(catalog.load_table(name).scan().to_arrow()) == mine
    return mine


@pytest.fixture
def pair(catalog: Catalog, any_warehouse: Warehouse) -> tuple[Any, ds.Table]:
    """One table, as PyIceberg and as we hold it."""
    theirs = catalog.create_table("shop.t", SCHEMA)
    return theirs, any_warehouse.load_table("shop.t")


def test_every_operation_with_appends_of_ours_in_between(catalog: Catalog, pair: tuple[Any, ds.Table]) -> None:
    theirs, ours = pair
    ours.append([{"k": 3, "text": "c"}], append_id="once")
    theirs.append(ROWS)  # it holds an older version: refused, and tried again on the new one
    assert [one["k"] for one in both(catalog, ours)] == [1, 2, 3]

    ours.append([{"k": 4, "text": "d"}], commit="deferred")
    theirs.delete("k < 3")
    assert [one["k"] for one in both(catalog, ours)] == [3, 4]

    ours.append([{"k": 5, "text": "e"}])
    done = theirs.upsert(pa.table({"k": pa.array([3, 9], pa.int64()), "text": ["new", "i"]}), join_cols=["k"])
    assert (done.rows_updated, done.rows_inserted) == (1, 1)
    ours.append([{"k": 6, "text": "f"}], commit="deferred")
    with theirs.update_schema() as update:
        update.add_column("n", LongType())
        update.rename_column("text", "words")
    ours.refresh().append([{"k": 7, "words": "g", "n": 1}])
    theirs.overwrite(
        pa.table({"k": pa.array([9], pa.int64()), "words": ["j"], "n": pa.array([7], pa.int64())}), "k = 9"
    )
    assert both(catalog, ours) == [
        {"k": 3, "words": "new", "n": None},
        {"k": 4, "words": "d", "n": None},
        {"k": 5, "words": "e", "n": None},
        {"k": 6, "words": "f", "n": None},
        {"k": 7, "words": "g", "n": 1},
        {"k": 9, "words": "j", "n": 7},
    ]
    theirs.overwrite(theirs.scan().to_arrow())
    assert len(both(catalog, ours)) == 6
    assert ours.metadata_location == catalog.load_table("shop.t").metadata_location


def test_append_ids_are_known_after_any_commit_of_pyiceberg(catalog: Catalog, pair: tuple[Any, ds.Table]) -> None:
    theirs, ours = pair
    for number in range(6):
        given = [{"k": number, "text": "ours"}]
        ours.append(given, append_id=f"id/{number}")
        theirs.append(row(100 + number, "theirs")) if number % 3 else theirs.delete(f"k = {100 + number - 1}")
        assert ours.append(given, append_id=f"id/{number}").already_appended
    theirs.refresh()
    with theirs.transaction() as transaction:
        transaction.set_properties(a="b")
    theirs.overwrite(theirs.scan().to_arrow())
    for number in range(6):
        assert ours.append([{"k": number, "text": "ours"}], append_id=f"id/{number}").already_appended
    with pytest.raises(ds.AppendIdConflictError):
        ours.append([{"k": 0, "text": "other"}], append_id="id/0")
    assert [one["k"] for one in both(catalog, ours) if one["k"] < 100] == list(range(6))


def test_staged_rows_of_an_older_schema_fit_the_new_one(catalog: Catalog, pair: tuple[Any, ds.Table]) -> None:
    theirs, ours = pair
    with theirs.update_schema() as update:
        update.add_column("amount", FloatType())
    theirs.append(pa.table({"k": pa.array([1], pa.int64()), "text": ["a"], "amount": pa.array([0.5], pa.float32())}))
    ours.append([{"k": 2, "text": "b"}], commit="deferred")  # it does not know of the column yet
    with theirs.update_schema() as update:
        update.update_column("amount", DoubleType())
        update.move_first("amount")
        update.make_column_optional("k")
    ours.append([{"k": 3, "text": "c"}], commit="deferred")
    ours.flush()
    assert [(one["k"], one["amount"]) for one in both(catalog, ours)] == [(1, 0.5), (2, None), (3, None)]
    with theirs.update_schema() as update:
        update.delete_column("text")
    assert [sorted(one) for one in both(catalog, ours)] == [["amount", "k"]] * 3


def test_a_schema_update_on_an_old_schema_is_a_conflict(catalog: Catalog, pair: tuple[Any, ds.Table]) -> None:
    theirs, _ = pair
    other = catalog.load_table("shop.t")
    with theirs.update_schema() as update:
        update.add_column("a", LongType())
    late = other.update_schema().add_column("b", LongType())
    with pytest.raises(CommitFailedException, match="current schema id has changed: expected 0, found 1"):
        late.commit()
    assert catalog.load_table("shop.t").schema().column_names == ["k", "text", "a"]


def test_partitions_made_by_pyiceberg(catalog: Catalog, pair: tuple[Any, ds.Table]) -> None:
    theirs, ours = pair
    ours.append([{"k": 1, "text": "before"}])
    theirs.refresh()
    with theirs.update_spec() as update:
        update.add_field("text", IdentityTransform(), "by_text")
    ours.append([{"k": 2, "text": "a"}, {"k": 3, "text": "b"}])
    theirs.append(pa.table({"k": pa.array([4, 5], pa.int64()), "text": ["a", "c"]}))
    ours.append([{"k": 6, "text": "a"}])
    theirs.refresh().delete("text = 'a'")
    ours.append([{"k": 7, "text": "a"}], commit="deferred")
    ours.flush()
    assert [one["k"] for one in both(catalog, ours)] == [1, 3, 5, 7]
    theirs.refresh().dynamic_partition_overwrite(row(8, "a"))
    assert [one["k"] for one in both(catalog, ours)] == [1, 3, 5, 8]
    assert ours.scan(where="text = 'c'").to_records() == [{"k": 5, "text": "c"}]


def test_a_table_that_was_made_with_partitions(catalog: Catalog, any_warehouse: Warehouse) -> None:
    schema = Schema(NestedField(1, "k", LongType()), NestedField(2, "at", TimestamptzType()))
    spec = PartitionSpec(PartitionField(2, 1000, DayTransform(), "day"))
    theirs = catalog.create_table("shop.t", schema, partition_spec=spec)
    ours = any_warehouse.load_table("shop.t")
    days = [dt.datetime(2026, 1, day, tzinfo=dt.UTC) for day in (1, 2, 3)]
    for number in range(10):  # so many that manifests are merged
        ours.append([{"k": 10 * number + index, "at": day} for index, day in enumerate(days)])
    with theirs.refresh().update_spec() as update:
        update.remove_field("day")
    ours.append([{"k": 1000, "at": days[0]}])
    theirs.refresh().delete("k = 0")
    wanted = sorted([10 * number + index for number in range(10) for index in range(3)] + [1000])[1:]
    assert [one["k"] for one in both(catalog, ours)] == wanted
    assert len(theirs.scan("at < '2026-01-02T00:00:00+00:00'").to_arrow()) == 10


def test_branches_tags_and_expiry(catalog: Catalog, pair: tuple[Any, ds.Table]) -> None:
    theirs, ours = pair
    ours.append([{"k": 1, "text": "a"}])
    theirs.refresh()
    first = theirs.current_snapshot().snapshot_id
    theirs.manage_snapshots().create_tag(first, "kept").commit()
    ours.append([{"k": 2, "text": "b"}])
    theirs.refresh()
    theirs.manage_snapshots().create_branch(theirs.current_snapshot().snapshot_id, "trial").commit()
    theirs.append(row(9, "on the branch"), branch="trial")
    ours.append([{"k": 3, "text": "c"}])
    assert [one["k"] for one in both(catalog, ours)] == [1, 2, 3]
    theirs.refresh()
    assert sorted(theirs.scan().use_ref("trial").to_arrow()["k"].to_pylist()) == [1, 2, 9]
    assert theirs.scan().use_ref("kept").to_arrow()["k"].to_pylist() == [1]


def test_a_delete_that_meets_staged_rows_asks_to_be_called_again(catalog: Catalog, pair: tuple[Any, ds.Table]) -> None:
    """What was promised before the delete is committed first; PyIceberg finds that it matches, and says so."""
    theirs, ours = pair
    ours.append([{"k": 1, "text": "a"}])
    theirs.refresh()
    ours.append([{"k": 2, "text": "a"}], commit="deferred")
    with pytest.raises(ValidationException, match="Added data files were found"):
        theirs.delete("text = 'a'")
    assert [one["k"] for one in both(catalog, ours)] == [1, 2]
    theirs.refresh().delete("text = 'a'")
    assert both(catalog, ours) == []


def test_appends_of_both_sides_at_once_are_there_once(catalog: Catalog, any_warehouse: Warehouse) -> None:
    theirs = catalog.create_table("shop.t", SCHEMA, properties={"commit.retry.num-retries": "30"})
    done: list[int] = []

    def mine(first: int, mode: Any) -> None:
        table = any_warehouse.load_table("shop.t")
        for k in range(first, first + 6):
            table.append([{"k": k, "text": "ours"}], commit=mode)
            done.append(k)

    threads = [threading.Thread(target=mine, args=(100, "now")), threading.Thread(target=mine, args=(200, "deferred"))]
    for thread in threads:
        thread.start()
    for k in range(4):
        try:
            theirs.append(row(k, "theirs"))
            done.append(k)
        except CommitFailedException:
            theirs.refresh()  # and then none of it may be there
    for thread in threads:
        thread.join()
    ours = any_warehouse.load_table("shop.t").flush()
    assert [one["k"] for one in both(catalog, ours)] == sorted(done)
    assert len(done) >= 13


def test_a_delete_beside_appends_loses_none(catalog: Catalog, any_warehouse: Warehouse) -> None:
    theirs = catalog.create_table("shop.t", SCHEMA, properties={"commit.retry.num-retries": "30"})
    theirs.append(pa.table({"k": pa.array(range(10), pa.int64()), "text": ["old"] * 10}))

    def mine() -> None:
        table = any_warehouse.load_table("shop.t")
        for k in range(100, 108):
            table.append([{"k": k, "text": "new"}])

    thread = threading.Thread(target=mine)
    thread.start()
    deleted = 0
    for k in range(3):
        try:
            theirs.delete(f"k = {k}")
            deleted += 1
        except (CommitFailedException, ValidationException):  # appends came in between, and it gave up
            theirs.refresh()
    thread.join()
    found = [one["k"] for one in both(catalog, any_warehouse.load_table("shop.t"))]
    assert found[-8:] == list(range(100, 108))
    assert len(found) == 18 - deleted


# When the store does not answer -----------------------------------------------------------------


def lose_replies(of: Storage, times: int, *, landed: bool) -> Any:
    """Let the first creations of a version end without an answer, whether they landed or not."""
    kind = type(of)
    real = kind.put_if_absent
    left = [times]

    def unsure(self: Storage, key: str, data: Any) -> Any:
        if left[0] > 0 and key.startswith("metadata/v"):
            left[0] -= 1
            if landed:
                real(self, key, data)
            raise OutcomeUnknownError(f"no answer: {key}", key=key)
        return real(self, key, data)

    return mock.patch.object(kind, "put_if_absent", unsure)


@pytest.mark.parametrize("landed", [True, False])
def test_a_lost_reply_is_looked_into(
    catalog: Catalog, pair: tuple[Any, ds.Table], any_warehouse: Warehouse, landed: bool
) -> None:
    theirs, ours = pair
    with lose_replies(any_warehouse._storage, 1, landed=landed):
        theirs.append(ROWS)
    assert both(catalog, ours) == ROWS.to_pylist()
    assert ours.version == 1


def test_an_outcome_that_stays_unknown_is_said_and_nothing_is_deleted(
    catalog: Catalog, pair: tuple[Any, ds.Table], any_warehouse: Warehouse
) -> None:
    theirs, ours = pair
    with (
        mock.patch("datashard_core.pyiceberg.catalog.TIMEOUT", 0.2),
        mock.patch.object(external, "MAX_PAUSE", 0.05),
        lose_replies(any_warehouse._storage, 10_000, landed=False),
        pytest.raises(CommitStateUnknownException, match="not known whether version 1 was committed"),
    ):
        theirs.append(ROWS)
    kept = [info.key for info in any_warehouse._storage.at("shop/t").list("")]
    assert any(key.startswith("data/") for key in kept)
    assert any(key.endswith(".avro") for key in kept)
    assert both(catalog, ours) == []


def test_what_a_lost_race_wrote_is_removed_by_pyiceberg(catalog: Catalog, any_warehouse: Warehouse) -> None:
    theirs = catalog.create_table("shop.t", SCHEMA, properties={"commit.retry.num-retries": "0"})
    ours = any_warehouse.load_table("shop.t")
    ours.append([{"k": 1, "text": "a"}])
    before = {info.key for info in any_warehouse._storage.at("shop/t").list("")}
    with pytest.raises(CommitFailedException):
        theirs.append(ROWS)
    left = {info.key for info in any_warehouse._storage.at("shop/t").list("")} - before
    assert [key for key in left if key.endswith(".avro")] == []
    assert both(catalog, ours) == [{"k": 1, "text": "a"}]


# What is refused --------------------------------------------------------------------------------


def test_changes_that_would_break_the_table_are_refused(catalog: Catalog, pair: tuple[Any, ds.Table]) -> None:
    theirs, ours = pair
    version = ours.refresh().version
    for change in (
        {"datashard.commit": "{}"},
        {"write.data.path": "s3://other/x"},
        {"datashard.protocol-version": "9"},
    ):
        with pytest.raises(ValueError, match="cannot be"):
            theirs.transaction().set_properties(**change).commit_transaction()
    with pytest.raises(ValueError, match="cannot be changed"):
        theirs.transaction().remove_properties("datashard.commit").commit_transaction()
    with pytest.raises(ValueError, match="format version 2"):
        catalog.commit_table(theirs, (), (UpgradeFormatVersionUpdate(format_version=3),))
    assert ours.refresh().version == version
    theirs.transaction().set_properties(**{"write.metadata.delete-after-commit.enabled": "true"}).commit_transaction()
    assert ours.refresh().properties["write.metadata.delete-after-commit.enabled"] == "false"


@pytest.mark.parametrize("how", ["old", "gone"])
def test_files_that_orphan_removal_may_have_taken_are_not_committed(
    catalog: Catalog, pair: tuple[Any, ds.Table], any_warehouse: Warehouse, request: pytest.FixtureRequest, how: str
) -> None:
    """A writer sleeps for two hours between its files and its commit, and others go on."""
    theirs, ours = pair
    ours.append([{"k": 1, "text": "a"}])
    storage = any_warehouse._storage.at("shop/t")
    before = {info.key for info in storage.list("data/")}
    transaction = catalog.load_table("shop.t").transaction()
    transaction.append(row(2, "b"))
    (written,) = {info.key for info in storage.list("data/")} - before
    if how == "gone":
        storage.delete([written])
    elif any_warehouse.uri.startswith("file:"):
        path = Path(any_warehouse.uri.removeprefix("file://"), "shop/t", written)
        os.utime(path, (time.time(), path.stat().st_mtime - 7200))
    else:
        server = request.getfixturevalue("s3_server")
        server.move_clock(7200)
        request.addfinalizer(lambda: server.move_clock(-7200))
        ours.append([{"k": 3, "text": "c"}])
    kept = both(catalog, ours)
    with pytest.raises(CommitFailedException, match=rf"{written} is .*Write the rows again"):
        transaction.commit_transaction()
    assert both(catalog, ours) == kept
    theirs.refresh().append(row(4, "d"))
    assert both(catalog, ours) == [*kept, {"k": 4, "text": "d"}]


def test_properties_of_ours_are_checked_as_when_a_table_is_created(
    catalog: Catalog, pair: tuple[Any, ds.Table]
) -> None:
    theirs, ours = pair
    for properties, why in (
        ({"datashard.snapshots.max-cuont": "5"}, "there is no property 'datashard.snapshots.max-cuont'"),
        ({"datashard.snapshots.max-count": "none"}, "a whole number from 1 on"),
        ({"datashard.auto-compact": "maybe"}, "'true' or 'false'"),
    ):
        with pytest.raises(ValueError, match=why), theirs.transaction() as transaction:
            transaction.set_properties(properties)
        with pytest.raises(ValueError, match=why):
            catalog.create_table("shop.other", SCHEMA, properties=properties)
    with theirs.transaction() as transaction:
        transaction.set_properties({"datashard.snapshots.max-count": "5", "owner": "me"})
    assert ours.refresh().properties["datashard.snapshots.max-count"] == "5"
    with theirs.transaction() as transaction:
        transaction.remove_properties("datashard.snapshots.max-count")
    assert "datashard.snapshots.max-count" not in ours.refresh().properties


@pytest.mark.parametrize("times", (1, 2))
@pytest.mark.parametrize("auto", (False, True))
def test_a_file_that_is_named_twice_keeps_its_rows_twice(
    catalog: Catalog, any_warehouse: Warehouse, times: int, auto: bool
) -> None:
    """``add_files(check_duplicate_files=False)`` of a live file: every reader has its rows again, compacted or not."""
    catalog.create_table("shop.t", SCHEMA, properties={"datashard.auto-compact": "true"} if auto else {})
    ours = any_warehouse.load_table("shop.t")
    for k in range(6):
        ours.append([{"k": k, "text": str(k)}])
    theirs = catalog.load_table("shop.t")
    file = next(task.file.file_path for task in theirs.scan(row_filter="k = 2").plan_files())
    for _ in range(times):
        catalog.load_table("shop.t").add_files([file], check_duplicate_files=False)
    expected = sorted([*range(6), *[2] * times])
    assert [one["k"] for one in both(catalog, ours)] == expected
    if auto:
        for k in range(10, 30):
            ours.append([{"k": k, "text": str(k)}])
        expected += range(10, 30)
        assert len(list(catalog.load_table("shop.t").scan().plan_files())) < len(expected) / 2
    else:
        done = ours.compact()
        assert (done.files, done.new_files) == (len(expected), 1)
        assert len(list(catalog.load_table("shop.t").scan().plan_files())) == 1
    assert [one["k"] for one in both(catalog, ours)] == expected
    catalog.load_table("shop.t").delete("k = 2")
    assert [one["k"] for one in both(catalog, ours)] == [k for k in expected if k != 2]


def test_a_copy_of_a_folder_is_not_opened_with_the_files_of_the_original(
    catalog: Catalog, any_warehouse: Warehouse
) -> None:
    """Its metadata names the original's folder, where PyIceberg would read and write."""
    theirs = catalog.create_table("shop.t", SCHEMA)
    theirs.append(ROWS)
    source, copy = (any_warehouse._storage.at(folder) for folder in ("shop/t", "shop/copy"))
    for info in source.list(""):
        copy.put(info.key, source.get(info.key).body)
    before = {info.key for info in source.list("")}
    with pytest.raises(ValueError, match=r"shop\.copy is a copy of a table whose files are at .*shop/t"):
        catalog.load_table("shop.copy")
    ours = any_warehouse.load_table("shop.copy")
    ours.append([{"k": 7, "text": "copy"}])
    assert [one["k"] for one in records(ours.scan().to_arrow())] == [1, 2, 7]
    assert {info.key for info in source.list("")} == before
    catalog.drop_table("shop.copy")
    assert [one["k"] for one in both(catalog, any_warehouse.load_table("shop.t"))] == [1, 2]
