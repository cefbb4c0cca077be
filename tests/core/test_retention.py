"""What a version keeps of its past: by age, by count, by reference; and what properties are refused."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

import datashard_core as ds
from datashard_core.commit.core.properties import check_settings, settings_of
from datashard_core.format.metadata.retention import Retention, kept_snapshots, retained
from datashard_core.storage.memory import MemoryStorage
from datashard_core.table.warehouse import Warehouse

SCHEMA = ds.Schema(fields=[{"id": 1, "name": "n", "type": "long"}])
DAY = 24 * 3600 * 1000


def _metadata(count: int, *, every: int = 1000, refs: dict[str, Any] | None = None) -> dict[str, Any]:
    """A line of snapshots 1 to ``count``, one every so many milliseconds."""
    return {
        "last-updated-ms": count * every,
        "current-snapshot-id": count or -1,
        "snapshots": [
            {"snapshot-id": n, "timestamp-ms": n * every, **({"parent-snapshot-id": n - 1} if n > 1 else {})}
            for n in range(1, count + 1)
        ],
        "snapshot-log": [{"snapshot-id": n, "timestamp-ms": n * every} for n in range(1, count + 1)],
        "metadata-log": [{"metadata-file": f"v{n}", "timestamp-ms": n * every} for n in range(count)],
        "refs": {"main": {"snapshot-id": count, "type": "branch"}, **(refs or {})},
    }


def test_count_bounds_what_age_would_keep_and_age_what_count_would() -> None:
    ensure_recent = _metadata(30)
    assert kept_snapshots(ensure_recent, Retention(DAY, 1, 5, 100)) == {26, 27, 28, 29, 30}
    assert kept_snapshots(ensure_recent, Retention(3000, 1, 100, 100)) == {27, 28, 29, 30}
    assert kept_snapshots(ensure_recent, Retention(3000, 7, 100, 100)) == set(range(24, 31))
    assert kept_snapshots(ensure_recent, Retention(1, 1, 1, 1)) == {30}
    assert kept_snapshots(_metadata(0), Retention(1, 1, 1, 1)) == set()


def test_what_a_reference_leads_to_is_kept_as_it_asks() -> None:
    refs = {
        "release": {"snapshot-id": 3, "type": "tag"},
        "audit": {"snapshot-id": 12, "type": "branch", "min-snapshots-to-keep": 2, "max-snapshot-age-ms": 1},
        "gone": {"snapshot-id": 99, "type": "tag"},
    }
    raw = _metadata(30, refs=refs)
    assert kept_snapshots(raw, Retention(1, 1, 2, 100)) == {3, 11, 12, 30}
    raw["refs"]["main"]["min-snapshots-to-keep"] = 4
    assert kept_snapshots(raw, Retention(1, 1, 2, 100)) == {3, 11, 12, 27, 28, 29, 30}


def test_snapshots_that_no_line_leads_to_are_kept_while_they_are_young() -> None:
    raw = _metadata(5)
    raw["snapshots"] += [{"snapshot-id": 70, "timestamp-ms": 4500}, {"snapshot-id": 71, "timestamp-ms": 100}]
    assert kept_snapshots(raw, Retention(1000, 1, 1, 100)) == {5, 70}


def test_the_snapshot_log_has_no_holes_and_ends_with_the_current_snapshot() -> None:
    raw = _metadata(6)
    # another engine had rolled back to 2 and gone on from there
    raw["snapshot-log"].insert(4, {"snapshot-id": 2, "timestamp-ms": 4500})
    changes = retained(raw, Retention(DAY, 1, 3, 2))
    assert [s["snapshot-id"] for s in changes["snapshots"]] == [4, 5, 6]
    assert [entry["snapshot-id"] for entry in changes["snapshot-log"]] == [5, 6]
    assert [entry["metadata-file"] for entry in changes["metadata-log"]] == ["v4", "v5"]
    assert retained({**raw, **changes}, Retention(DAY, 1, 3, 2)) == {}


def test_statistics_go_with_their_snapshot() -> None:
    raw = _metadata(3)
    raw["statistics"] = [{"snapshot-id": 1, "statistics-path": "a"}, {"snapshot-id": 3, "statistics-path": "b"}]
    assert retained(raw, Retention(DAY, 1, 1, 9))["statistics"] == [{"snapshot-id": 3, "statistics-path": "b"}]


@given(
    st.integers(1, 40),
    st.integers(1, 12),
    st.integers(1, 12),
    st.integers(1, 50_000),
    st.dictionaries(st.text("abc", min_size=1, max_size=2), st.integers(1, 40), max_size=3),
)
def test_whatever_is_asked_for_the_current_snapshot_and_tags_stay(
    count: int, at_least: int, at_most: int, age: int, tags: dict[str, int]
) -> None:
    raw = _metadata(count, refs={name: {"snapshot-id": to, "type": "tag"} for name, to in tags.items()})
    keep = Retention(age, min(at_least, at_most), at_most, at_most)
    after = {**raw, **retained(raw, keep)}
    left = {snapshot["snapshot-id"] for snapshot in after["snapshots"]}
    tagged = {to for to in tags.values() if to <= count}
    assert {count, *tagged} <= left
    assert len(left - tagged) <= at_most
    assert len(left) >= min(count, keep.min_count)
    assert after["snapshot-log"][-1]["snapshot-id"] == count
    assert {entry["snapshot-id"] for entry in after["snapshot-log"]} <= left
    assert retained(after, keep) == {}


@pytest.mark.parametrize(
    ("properties", "what"),
    [
        ({"history.expire.max-snapshot-age-ms": "5 days"}, "'5 days' has to be a whole number from 1 on"),
        ({"history.expire.min-snapshots-to-keep": "0"}, "a whole number from 1 on"),
        ({"datashard.snapshots.max-count": "-1"}, "a whole number from 1 on"),
        ({"write.metadata.previous-versions-max": ""}, "a whole number from 1 on"),
        ({"commit.manifest.min-count-to-merge": "1"}, "a whole number from 2 on"),
        ({"commit.manifest-merge.enabled": "yes"}, "'true' or 'false'"),
        ({"datashard.snapshots.maxcount": "9"}, "those of this library are datashard.append-id.retention"),
        (
            {"history.expire.min-snapshots-to-keep": "20", "datashard.snapshots.max-count": "10"},
            "min-snapshots-to-keep='20' is more than datashard.snapshots.max-count='10' allows",
        ),
    ],
)
def test_properties_that_make_no_sense_are_refused(properties: dict[str, str], what: str) -> None:
    warehouse = Warehouse(MemoryStorage())
    with pytest.raises(ds.ConfigurationError, match=r"table ops\.t: ") as refused:
        warehouse.create_table("ops.t", SCHEMA, properties=properties)
    assert what in str(refused.value)
    assert warehouse.list_tables() == []


def test_a_property_that_another_engine_broke_counts_as_not_set() -> None:
    assert settings_of({"commit.manifest.min-count-to-merge": "many"}).min_to_merge == 8
    assert settings_of({"datashard.snapshots.max-count": "3"}).retention.min_count == 3
    check_settings({"owner": "us", "commit.manifest.min-count-to-merge": "100"}, "t")


def test_a_table_keeps_as_much_as_its_properties_ask(any_warehouse: Warehouse) -> None:
    table = any_warehouse.create_table(
        "t",
        SCHEMA,
        properties={"datashard.snapshots.max-count": "4", "write.metadata.previous-versions-max": "3"},
    )
    results = [table.append([{"n": number}]) for number in range(9)]
    raw = table._seen.body.table._raw
    assert [s.snapshot_id for s in table.snapshots()] == [result.snapshot_id for result in results[-4:]]
    assert [entry["snapshot-id"] for entry in raw["snapshot-log"]] == [r.snapshot_id for r in results[-4:]]
    assert [entry["metadata-file"].rsplit("/", 1)[1] for entry in raw["metadata-log"]] == [
        f"v{number}.metadata.json" for number in (6, 7, 8)
    ]
    assert table.scan(snapshot_id=results[-4].snapshot_id).count() == 6
    with pytest.raises(ds.ConfigurationError, match="any more"):
        table.scan(snapshot_id=results[0].snapshot_id)
    assert any_warehouse.load_table("t").count() == 9
