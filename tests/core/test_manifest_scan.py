"""Entries read by patterns are those that a full decoding finds, whatever shapes and lengths they have."""

from __future__ import annotations

import os
import struct
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any
from unittest import mock

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from msgspec.structs import replace

from datashard_core import CorruptTableError, Schema, col
from datashard_core.config import S3Config
from datashard_core.effects import driver
from datashard_core.format.expressions.binding import Check, bind
from datashard_core.format.expressions.expressions import Comparison
from datashard_core.format.expressions.pruning import Known, holds_whole, might_match, possible, presence
from datashard_core.format.manifests.manifest import (
    ADDED,
    DELETED,
    EXISTING,
    ManifestEntry,
    ManifestFile,
    decode_manifest,
    encode_manifest,
)
from datashard_core.format.manifests.manifest_scan import Pruning, indexed_files, live_files
from datashard_core.format.metadata.data_file import DataFile
from datashard_core.format.metadata.partition import PartitionSpec
from datashard_core.format.statistics.ordering import decode_bound
from datashard_core.storage.base import ObjectNotFoundError
from datashard_core.storage.cache import ObjectCache, small_files
from datashard_core.storage.local import LocalStorage
from datashard_core.storage.memory import MemoryStorage
from datashard_core.storage.s3 import S3Storage
from datashard_core.table.parquet_rows import FileRows
from datashard_core.table.warehouse import Warehouse

SCHEMA = Schema(fields=[{"id": 1, "name": "a", "type": "long"}, {"id": 2, "name": "b", "type": "double"}])
_long = st.integers(-(2**63), 2**63 - 1)
_bound = st.none() | _long.map(lambda number: number.to_bytes(8, "little", signed=True)) | st.binary(max_size=9)


@st.composite
def entries(draw: st.DrawFn) -> ManifestEntry:
    """An entry; the lengths of paths and bounds, and which columns have counts, differ."""
    rows = draw(st.integers(0, 200))
    nulls = draw(st.none() | st.integers(0, rows))
    low, high = draw(_bound), draw(_bound)
    file = DataFile(
        file_path="s3://bucket/" + draw(st.text(st.sampled_from("ab/é"), min_size=1, max_size=150)),
        record_count=rows,
        file_size_in_bytes=draw(st.integers(1, 2**40)),
        value_counts=draw(st.sampled_from([{}, {1: rows}, {1: rows, 2: rows}])),
        null_value_counts={} if nulls is None else {1: nulls},
        lower_bounds={} if low is None else {1: low},
        upper_bounds={} if high is None else {1: high},
        split_offsets=draw(st.sampled_from([None, (4,), (4, 2**33)])),
    )
    status = draw(st.sampled_from([ADDED, EXISTING, DELETED]))
    numbers = (None, None, None) if status == ADDED else (draw(_long), draw(st.integers(0, 9)), draw(st.integers(0, 9)))
    return ManifestEntry(status, *numbers, file)


def _listed(data: bytes, held: list[ManifestEntry]) -> ManifestFile:
    files = [sum(one.status == status for one in held) for status in (ADDED, EXISTING, DELETED)]
    rows = [sum(one.data_file.record_count for one in held if one.status == status) for status in (1, 0, 2)]
    return ManifestFile("s3://bucket/m.avro", len(data), 0, 0, 9, 3, 77, *files, *rows)


def _bare(entry: ManifestEntry) -> ManifestEntry:
    """Without metrics, as a scan has it."""
    file = entry.data_file
    return replace(entry, data_file=DataFile(file.file_path, file.record_count, file.file_size_in_bytes))


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.lists(entries(), max_size=60), st.lists(entries(), max_size=2))
def test_patterns_find_what_a_full_decoding_finds(first: list[ManifestEntry], repeated: list[ManifestEntry]) -> None:
    held = [*first, *(repeated * 20), *first]
    data = encode_manifest(held, schema=SCHEMA, spec=PartitionSpec())
    manifest = _listed(data, held)
    wanted = [_bare(entry) for entry in decode_manifest(data, manifest) if entry.status != DELETED]
    assert live_files(data, manifest, Pruning()) == wanted


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.lists(entries(), max_size=60), _long)
def test_a_condition_leaves_every_file_whose_bounds_allow_it(held: list[ManifestEntry], value: int) -> None:
    data = encode_manifest(held, schema=SCHEMA, spec=PartitionSpec())
    kept = live_files(data, _listed(data, held), Pruning(bind(col("a") == value, SCHEMA, "t")))
    wanted = [entry.data_file.file_path for entry in held if entry.status != DELETED and _may_hold(entry, value)]
    assert [entry.data_file.file_path for entry in kept] == wanted


@pytest.mark.parametrize("shortest", [12, 50, 2**13 - 20])
def test_paths_may_have_any_length(shortest: int) -> None:
    """Around the lengths of which Avro writes one byte more, up and down again, and each of them twice."""
    lengths = [*range(shortest, shortest + 40), *range(shortest + 40, shortest, -1)]
    paths = [f"s3://bucket/{place}".ljust(length, "x") for place, length in enumerate(lengths) for _ in range(2)]
    held = [ManifestEntry(ADDED, None, None, None, DataFile(path, 5, 1000, value_counts={1: 5})) for path in paths]
    data = encode_manifest(held, schema=SCHEMA, spec=PartitionSpec())
    for pruning in (Pruning(), Pruning(bind(col("a") == 1, SCHEMA, "t"))):
        assert [entry.data_file.file_path for entry in live_files(data, _listed(data, held), pruning)] == paths


_conditions = st.deferred(
    lambda: (
        st.builds(
            lambda name, operator, value: Comparison(name, operator, value if name == "a" else float(value)),
            st.sampled_from(["a", "b"]),
            st.sampled_from(["==", "!=", "<", "<=", ">", ">="]),
            st.integers(-300, 300) | _long,
        )
        | st.sampled_from([col("a").is_null(), col("b").is_nan(), ~col("b").is_nan(), ~col("a").is_null()])
        | st.lists(_long | st.integers(-300, 300), min_size=1, max_size=3).map(lambda some: col("a").isin(some))
        | st.tuples(_conditions, _conditions).map(lambda two: two[0] & two[1])
        | st.tuples(_conditions, _conditions).map(lambda two: two[0] | two[1])
    )
)


@st.composite
def numbered(draw: st.DrawFn) -> ManifestEntry:
    """An entry with bounds near each other, all of a width, as most tables have them."""
    ends = sorted(draw(st.tuples(st.integers(-300, 300), st.integers(-300, 300))))
    file = DataFile(
        "s3://bucket/f.parquet",
        9,
        900,
        value_counts={1: 9, 2: 9},
        null_value_counts={1: 0, 2: draw(st.sampled_from([0, 9]))},
        nan_value_counts=draw(st.sampled_from([{}, {2: 0}, {2: 9}])),
        lower_bounds={1: struct.pack("<q", ends[0]), 2: struct.pack("<d", ends[0])},
        upper_bounds={1: struct.pack("<q", ends[1]), 2: struct.pack("<d", ends[1])},
    )
    return ManifestEntry(draw(st.sampled_from([ADDED, ADDED, DELETED])), *(None,) * 3, file)


@settings(max_examples=80, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.lists(entries(), max_size=20) | st.lists(numbered(), max_size=20), st.lists(_conditions, max_size=3))
def test_columns_of_bounds_are_judged_as_files_one_by_one(held: list[ManifestEntry], asked: list[Any]) -> None:
    held = [
        replace(one, snapshot_id=1, sequence_number=1, file_sequence_number=1) if one.status != ADDED else one
        for one in held
    ]
    data = encode_manifest(held, schema=SCHEMA, spec=PartitionSpec())
    manifest = _listed(data, held)
    live = [entry for entry in decode_manifest(data, manifest) if entry.status != DELETED]
    index = None
    for condition in [*asked, *asked]:
        bound = bind(condition, SCHEMA, "t")
        found, index = indexed_files(data, manifest, Pruning(bound), index)
        assert found == [_bare(one) for one in live if might_match(bound, lambda check, one=one: _allows(check, one))]
        assert index is None or (Pruning(bound).covered_by(index) and index.size > 0)


def test_a_wide_table_whose_files_have_other_bounds_is_planned_at_all() -> None:
    """Every way of reading 40 bounds before finding that another is missing would take years: 2 to the power of 40."""
    program = """
from datashard_core import Schema, col
from datashard_core.format.expressions.binding import bind
from datashard_core.format.metadata.data_file import DataFile
from datashard_core.format.manifests.manifest import ADDED, ManifestEntry, ManifestFile, encode_manifest
from datashard_core.format.manifests.manifest_scan import Pruning, live_files
from datashard_core.format.metadata.partition import PartitionSpec

WIDTH = 40
schema = Schema(fields=[{"id": n, "name": f"c{n}", "type": "long"} for n in range(1, WIDTH + 1)])
bounds = {n: bytes(8) for n in range(1, WIDTH + 1)}
held = [
    ManifestEntry(ADDED, None, None, None, DataFile(f"s3://b/{k}", 1, 9, lower_bounds=bounds, upper_bounds=upper))
    for k, upper in enumerate((bounds, {1: bytes(8)}, bounds, {2: bytes(8)}))
]
data = encode_manifest(held, schema=schema, spec=PartitionSpec())
listed = ManifestFile("s3://b/m.avro", len(data), 0, 0, 9, 3, 77, 4, 0, 0, 4, 0, 0)
kept = live_files(data, listed, Pruning(bind(col("c1") == 0, schema, "t")))
print([entry.data_file.file_path for entry in kept])
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=120, check=False)
    assert done.stdout.strip() == str([f"s3://b/{k}" for k in range(4)]), done.stderr


def _allows(check: Check, entry: ManifestEntry) -> bool:
    file, column = entry.data_file, check.reference.field
    counts = file.value_counts, file.null_value_counts, file.nan_value_counts
    low, high = (
        decode_bound(column.type, told.get(column.field_id)) for told in (file.lower_bounds, file.upper_bounds)
    )
    present = presence(column.type, *(told.get(column.field_id) for told in counts))
    return possible(check, Known(low, high, *present, holds_whole(column.type)))


def _may_hold(entry: ManifestEntry, value: int) -> bool:
    file = entry.data_file
    values, nulls = file.value_counts.get(1), file.null_value_counts.get(1)
    if values is not None and nulls is not None and nulls >= values:
        return False
    low, high = (_number(bounds.get(1)) for bounds in (file.lower_bounds, file.upper_bounds))
    return (low is None or low <= value) and (high is None or value <= high)


def _number(bound: bytes | None) -> int | None:
    return int.from_bytes(bound, "little", signed=True) if bound is not None and len(bound) in (4, 8) else None


@pytest.mark.parametrize("at", [-40, -100, -200])
def test_damage_behind_a_thousand_entries_is_found(at: int) -> None:
    file = DataFile("s3://bucket/t/data/f.parquet", 5, 1000, value_counts={1: 5}, lower_bounds={1: b"\0" * 8})
    held = [ManifestEntry(ADDED, None, None, None, file)] * 1000
    data = bytearray(encode_manifest(held, schema=SCHEMA, spec=PartitionSpec()))
    data[at] ^= 0x40
    with pytest.raises(CorruptTableError, match=r"m\.avro"):
        live_files(bytes(data), _listed(bytes(data), held), Pruning())


def test_small_files_of_a_bucket_are_fetched_once(s3_config: S3Config) -> None:
    table = Warehouse(S3Storage(s3_config)).create_table("t", SCHEMA)
    for number in range(3):
        table.append([{"a": number, "b": 0.5}])
    small_files.clear()

    def gets() -> int:
        return table.metrics().requests["get"]

    before = gets()
    first = table.scan().to_arrow()
    assert gets() - before >= 3
    before = gets()
    assert table.scan().to_arrow().equals(first)
    assert gets() == before


def test_a_cache_keeps_no_object_above_its_limit_and_no_more_than_its_size() -> None:
    cache = ObjectCache(max_bytes=100, max_object=60)
    storage = MemoryStorage("memory://cache")
    sizes: dict[str, Any] = {"large": 61, "a": 60, "b": 40, "c": 1}
    for key, size in sizes.items():
        storage.put(key, bytes(size))
        assert len(cache.get(storage, key)) == size
    storage.delete(list(sizes))
    assert [len(cache.get(storage, key)) for key in ("b", "c")] == [40, 1]
    for key in ("large", "a"):
        with pytest.raises(ObjectNotFoundError, match=f"^memory://cache/{key} does not exist"):
            cache.get(storage, key)


def test_rows_of_local_files_are_decoded_by_a_few_threads(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each thread that decoded rows keeps some of their memory, so a long stream must not use them all in turn."""
    monkeypatch.setattr(driver._Shared, "decoders", None)  # another test may have made it for more processors
    table = Warehouse(LocalStorage(tmp_path)).create_table("t", SCHEMA)
    for number in range(12):
        table.append([{"a": number, "b": 0.5}])
    decoded: set[int] = set()
    step = FileRows.step

    def with_watermark(self: FileRows) -> Any:
        decoded.add(threading.get_ident())
        return step(self)

    with mock.patch.object(FileRows, "step", with_watermark):
        for _ in range(10):
            assert table.scan().to_arrow().num_rows == 12
    assert 1 <= len(decoded) <= max(2, os.cpu_count() or 1)


def test_whoever_waits_for_rows_decodes_what_no_thread_has_begun(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    table = Warehouse(LocalStorage(tmp_path)).create_table("t", SCHEMA)
    for number in range(20):
        table.append([{"a": number, "b": 0.5}])
    busy, pool = threading.Event(), driver.Pool(1)
    pool.submit(busy.wait)
    monkeypatch.setattr(driver._Shared, "decoders", pool)
    try:
        assert sorted(table.scan().to_arrow()["a"].to_pylist()) == list(range(20))
    finally:
        busy.set()
