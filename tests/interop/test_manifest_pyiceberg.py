"""PyIceberg's manifests, bounds and tables read by us, and ours by PyIceberg."""

from __future__ import annotations

import datetime as dt
import uuid
from decimal import Decimal
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from pyiceberg import types as pi
from pyiceberg.catalog.sql import SqlCatalog
from pyiceberg.conversions import from_bytes, to_bytes
from pyiceberg.io.pyarrow import PyArrowFileIO
from pyiceberg.manifest import read_manifest_list
from pyiceberg.table import Table as ForeignTable
from pyiceberg.table.metadata import TableMetadataV2

from datashard_core import Schema
from datashard_core.format.manifests.manifest import (
    ADDED,
    DELETED,
    EXISTING,
    ManifestEntry,
    ManifestFile,
    decode_manifest,
    decode_manifest_list,
    encode_manifest,
    encode_manifest_list,
)
from datashard_core.format.metadata.data_file import DataFile
from datashard_core.format.metadata.partition import PartitionSpec
from datashard_core.format.metadata.snapshot import Snapshot, append_summary
from datashard_core.format.metadata.table_metadata import new_table_metadata, parse_metadata
from datashard_core.format.rows.columns import column_array
from datashard_core.format.statistics.metrics import Metrics
from datashard_core.format.types.types import NestedField, parse_type

SCHEMA = Schema(fields=[{"id": 1, "name": "a", "type": "long"}, {"id": 2, "name": "b", "type": "double"}])
BOUNDS: list[tuple[str, Any, list[Any]]] = [
    ("boolean", pi.BooleanType(), [False, True]),
    ("int", pi.IntegerType(), [-(2**31), 2**31 - 1]),
    ("long", pi.LongType(), [-(2**63), 2**63 - 1]),
    ("float", pi.FloatType(), [-1.5, 3.25]),
    ("double", pi.DoubleType(), [-1e300, 5e-324]),
    ("date", pi.DateType(), [dt.date(1, 1, 1), dt.date(9999, 12, 31)]),
    ("time", pi.TimeType(), [dt.time(0, 0, 0, 1), dt.time(23, 59, 59, 999999)]),
    ("timestamp", pi.TimestampType(), [dt.datetime(1969, 12, 31, 23, 59, 59, 1), dt.datetime(2300, 1, 1)]),
    (
        "timestamptz",
        pi.TimestamptzType(),
        [dt.datetime(1, 1, 1, tzinfo=dt.UTC), dt.datetime(2024, 2, 29, tzinfo=dt.UTC)],
    ),
    ("string", pi.StringType(), ["", "\U0010ffff" * 16]),
    ("uuid", pi.UUIDType(), [uuid.UUID(int=1), uuid.UUID(int=2**128 - 1)]),
    ("binary", pi.BinaryType(), [b"", b"\xff" * 16]),
    ("fixed[5]", pi.FixedType(5), [bytes(5), b"\xff" * 5]),
    ("decimal(5,2)", pi.DecimalType(5, 2), [Decimal("-999.99"), Decimal("1.28")]),
    ("decimal(38,10)", pi.DecimalType(38, 10), [Decimal("-9.9999999999"), Decimal("12345678901234567.0000000001")]),
]


def _file(number: int, **changes: Any) -> DataFile:
    metrics: dict[str, Any] = {
        "value_counts": {1: number},
        "lower_bounds": {1: b"\x00" * 8},
        "nan_value_counts": {2: 0},
    }
    return DataFile(f"s3://bucket/t/data/{number:08x}.parquet", number, 1000 + number, **{**metrics, **changes})


@pytest.mark.parametrize(("name", "foreign", "values"), BOUNDS, ids=[case[0] for case in BOUNDS])
def test_bounds_are_the_bytes_that_pyiceberg_writes(name: str, foreign: Any, values: list[Any]) -> None:
    schema = Schema(fields=[NestedField(7, "x", parse_type(name), False)])
    metrics = Metrics()
    metrics.add(pa.table([column_array(values, schema.fields[0], "x")], schema=schema.to_arrow()), schema)
    low, high = metrics.lower_bounds()[7], metrics.upper_bounds()[7]
    assert (low, high) == (to_bytes(foreign, values[0]), to_bytes(foreign, values[1]))
    assert from_bytes(foreign, low) < from_bytes(foreign, high)


def test_pyiceberg_reads_our_manifests(tmp_path: Path) -> None:
    entries = [
        ManifestEntry(ADDED, None, None, None, _file(2)),
        ManifestEntry(EXISTING, 5, 3, 3, _file(3, sort_order_id=0, split_offsets=(4,))),
        ManifestEntry(DELETED, 6, 4, 3, _file(4, lower_bounds={}, nan_value_counts={})),
    ]
    data = encode_manifest(entries, schema=SCHEMA, spec=PartitionSpec())
    (tmp_path / "m.avro").write_bytes(data)
    listed = ManifestFile(f"file://{tmp_path}/m.avro", len(data), 0, 0, 9, 3, 77, 1, 1, 1, 2, 3, 4)
    (tmp_path / "list.avro").write_bytes(
        encode_manifest_list([listed], snapshot_id=77, parent_snapshot_id=None, sequence_number=9)
    )

    files = PyArrowFileIO()
    (found,) = read_manifest_list(files.new_input(f"file://{tmp_path}/list.avro"))
    assert (found.added_files_count, found.existing_files_count, found.deleted_files_count) == (1, 1, 1)
    assert (found.added_rows_count, found.existing_rows_count, found.deleted_rows_count) == (2, 3, 4)
    assert (found.sequence_number, found.min_sequence_number, found.added_snapshot_id) == (9, 3, 77)
    theirs = found.fetch_manifest_entry(files, discard_deleted=False)
    assert [(int(one.status), one.snapshot_id, one.sequence_number) for one in theirs] == [
        (1, 77, 9),
        (0, 5, 3),
        (2, 6, 4),
    ]
    for other, ours in zip(theirs, entries, strict=True):
        assert other.data_file.file_path == ours.data_file.file_path
        assert other.data_file.record_count == ours.data_file.record_count
        assert (other.data_file.lower_bounds or {}) == ours.data_file.lower_bounds
        assert (other.data_file.nan_value_counts or {}) == ours.data_file.nan_value_counts


def _foreign_table(folder: Path, version: str) -> ForeignTable:
    catalog = SqlCatalog("c", uri=f"sqlite:///{folder}/c.db", warehouse=f"file://{folder}")
    catalog.create_namespace("n")
    rows = pa.table({"a": pa.array([1, 2, None]), "b": ["x", "y" * 40, None], "c": [1.5, float("nan"), None]})
    table = catalog.create_table("n.t", rows.schema, properties={"format-version": version})
    table.append(rows)
    table.append(rows)
    table.delete("a = 1")
    return table


@pytest.mark.parametrize("version", ["1", "2"])
def test_manifests_of_pyiceberg_are_read(tmp_path: Path, version: str) -> None:
    table = _foreign_table(tmp_path, version)
    snapshot = table.current_snapshot()
    assert snapshot is not None
    manifests = decode_manifest_list(Path(snapshot.manifest_list.removeprefix("file://")).read_bytes())
    theirs = {manifest.manifest_path: manifest for manifest in snapshot.manifests(table.io)}
    assert {manifest.manifest_path for manifest in manifests} == set(theirs)
    for manifest in manifests:
        entries = decode_manifest(Path(manifest.manifest_path.removeprefix("file://")).read_bytes(), manifest)
        foreign = theirs[manifest.manifest_path].fetch_manifest_entry(table.io, discard_deleted=False)
        assert len(entries) == len(foreign) > 0
        for ours, other in zip(entries, foreign, strict=True):
            assert (ours.status, ours.snapshot_id) == (int(other.status), other.snapshot_id)
            assert ours.sequence_number == (other.sequence_number or 0)
            for name in ("file_path", "record_count", "file_size_in_bytes", "lower_bounds", "upper_bounds"):
                assert getattr(ours.data_file, name) == getattr(other.data_file, name)
            assert ours.data_file.null_value_counts == other.data_file.null_value_counts


def test_pyiceberg_takes_our_metadata() -> None:
    new = new_table_metadata(
        table_uuid="9c12d441-03fe-4693-9a96-a0705ddf69c1",
        location="s3://bucket/t",
        schema=SCHEMA,
        properties={"owner": "us"},
        now_ms=1000,
    )
    assert TableMetadataV2.model_validate_json(new.to_json()).current_snapshot() is None
    snapshot = Snapshot(7, None, 1, 2000, "s3://bucket/t/metadata/s.avro", append_summary(None, [_file(3)]), 0)
    data = new.with_snapshot(
        snapshot, now_ms=2000, previous_metadata="s3://bucket/t/metadata/v1.metadata.json"
    ).to_json()
    theirs = TableMetadataV2.model_validate_json(data)
    assert (theirs.current_snapshot_id, theirs.last_sequence_number, theirs.last_updated_ms) == (7, 1, 2000)
    assert [entry.snapshot_id for entry in theirs.snapshot_log] == [7]
    assert [entry.timestamp_ms for entry in theirs.metadata_log] == [1000]
    assert theirs.refs["main"].snapshot_id == 7
    assert [field.name for field in theirs.schema().fields] == ["a", "b"]
    current = theirs.current_snapshot()
    assert current is not None
    assert current.summary is not None
    assert current.summary["total-records"] == "3"
    again = parse_metadata(theirs.model_dump_json().encode(), "theirs")
    assert again.current_snapshot == snapshot
