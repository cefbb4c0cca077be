"""The way to Arrow's readers and kernels that imports little: what it reads, and what another release does to it."""

from __future__ import annotations

import builtins
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow._compute as arrow_kernels
import pyarrow._parquet as arrow_reader
import pyarrow.parquet as pq
import pytest
from msgspec.structs import replace

import datashard_core as ds
from datashard_core import col
from datashard_core.format.expressions.binding import Check, Reference
from datashard_core.format.kernels import kernels
from datashard_core.format.parquet.arrow_reader import ParquetFile
from datashard_core.format.rows.projection import first_leaves
from datashard_core.query.where import exactly

FIELDS: dict[str, pa.DataType] = {
    "a": pa.struct([("b", pa.int64()), ("c", pa.struct([("d", pa.string()), ("e", pa.list_(pa.int32()))]))]),
    "a.b": pa.string(),
    "m": pa.map_(pa.string(), pa.struct([("x", pa.int64()), ("y", pa.int64())])),
    "u": pa.uuid(),
    "l": pa.list_(pa.struct([("x", pa.int64()), ("y", pa.date32())])),
    "n": pa.int64(),
}


def _parquet(table: pa.Table, **options: Any) -> pa.Buffer:
    sink = pa.BufferOutputStream()
    pq.write_table(table, sink, **options)
    return sink.getvalue()


def divide(table: ds.Table) -> None:
    """Write the one file of a local table anew, in row groups of ten rows."""
    (file,) = table.scan().data_files()
    path = file.file_path.removeprefix("file://")
    pq.write_table(pq.read_table(path), path, row_group_size=10)


def test_each_column_is_read_alone_by_the_places_of_its_leaves() -> None:
    rows = pa.table({name: pa.nulls(3, kind) for name, kind in FIELDS.items()})
    file = ParquetFile(pa.BufferReader(_parquet(rows)))
    starts = first_leaves(file.schema)
    assert starts == [0, 3, 4, 7, 8, 10, 11]
    assert starts[-1] == file.metadata.num_columns
    for place, name in enumerate(FIELDS):
        (batch,) = file.batches(10, 0, list(range(starts[place], starts[place + 1])))
        assert batch.schema.names == [name]
        assert batch.schema.field(0).type == file.schema.field(name).type
        assert batch.num_rows == 3
    (whole,) = file.batches(10, 0, None)
    assert whole.schema.names == list(FIELDS)


def test_a_release_of_arrow_with_another_reader_gives_the_same_rows(monkeypatch: pytest.MonkeyPatch) -> None:
    rows = pa.table({"n": range(10), "s": [str(one) for one in range(10)]})
    data = _parquet(rows)
    inner = arrow_reader.ParquetReader
    refused = []

    class Other(inner):  # type: ignore[misc, valid-type]
        def open(self, *given: Any, **options: Any) -> None:
            if "read_dictionary" not in options:  # as the public class does not call it
                refused.append(options)
                raise TypeError("unexpected keyword argument 'pre_buffer'")
            super().open(*given, **options)

    monkeypatch.setattr(arrow_reader, "ParquetReader", Other)
    file = ParquetFile(pa.BufferReader(data), pre_buffer=False)
    assert len(refused) == 1
    assert pa.Table.from_batches(file.batches(100, 0, None)).equals(rows)


def test_a_release_of_arrow_with_its_kernels_elsewhere_finds_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    import pyarrow.compute as public

    assert kernels() is arrow_kernels
    load = builtins.__import__

    def without(name: str, *given: Any, **options: Any) -> Any:
        if name == "pyarrow._compute":
            raise ImportError(name)
        return load(name, *given, **options)

    with monkeypatch.context() as patch:
        patch.setattr(builtins, "__import__", without)
        assert kernels() is public
    monkeypatch.delattr(arrow_kernels, "call_function")
    assert kernels() is public


def test_no_row_group_is_left_out_for_the_nulls_within_a_struct_or_list(tmp_path: Path) -> None:
    """A struct of nulls is not null, and neither is an empty list, but every leaf of them is."""
    fields = [
        {"id": 1, "name": "n", "type": "long"},
        {"id": 2, "name": "a", "type": {"type": "struct", "fields": [{"id": 3, "name": "b", "type": "long"}]}},
        {"id": 4, "name": "l", "type": {"type": "list", "element-id": 5, "element": "long", "element-required": False}},
    ]
    table = ds.connect(str(tmp_path)).create_table("t", ds.Schema(fields=fields))
    there = {"a": {"b": None}, "l": []}
    table.append([{"n": number, **(there if number < 50 else {"a": None, "l": None})} for number in range(100)])
    divide(table)
    for name in ("a", "l"):
        assert table.scan(where=col(name).is_not_null()).count() == 50
        assert {row["n"] for row in table.scan(where=col(name).is_null()).to_records()} == set(range(50, 100))


def test_no_row_group_is_left_out_for_the_statistics_of_a_namesake(tmp_path: Path) -> None:
    """A field ``b`` of a struct ``a`` and a column ``a.b`` have one path in Parquet; only others make such tables."""
    fields = [
        {"id": 1, "name": "a_b", "type": "long"},
        {"id": 2, "name": "a", "type": {"type": "struct", "fields": [{"id": 3, "name": "b", "type": "long"}]}},
    ]
    ds.connect(str(tmp_path)).create_table("t", ds.Schema(fields=fields))
    metadata = tmp_path / "t/metadata/v0.metadata.json"
    metadata.write_bytes(metadata.read_bytes().replace(b'"a_b"', b'"a.b"'))
    table = ds.connect(str(tmp_path)).load_table("t")
    table.append([{"a.b": number, "a": {"b": 1_000 + number}} for number in range(100)])
    divide(table)

    def matching(operator: Any, value: int) -> list[dict[str, Any]]:
        # The name alone leads to both fields, and is refused.
        condition = exactly(Check(Reference(("a.b",), table.schema.field("a.b")), operator, value))
        return replace(table.scan(), where=col("a.b") == value, condition=condition).to_records()

    assert matching("==", 55) == [{"a.b": 55, "a": {"b": 1_055}}]
    assert matching(">=", 1_000) == []
