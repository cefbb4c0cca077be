"""Rows as Parquet files with Iceberg's field ids, and their metrics."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Any

from msgspec import Struct

from datashard_core.format.metadata.data_file import DataFile
from datashard_core.format.parquet.arrow_writer import parquet_writer
from datashard_core.format.parquet.python_parquet import MAGIC, encode_plain
from datashard_core.format.rows.python_rows import PlainRows, Rows
from datashard_core.format.statistics.metrics import FEW, FLOATS, Metrics
from datashard_core.format.types import types as t
from datashard_core.format.types.schema import Schema

if TYPE_CHECKING:
    import pyarrow as pa

ROW_GROUP_ROWS = 1_000_000
ROW_GROUP_BYTES = 128 * 2**20
"""Batches are gathered up to so many rows or bytes (in memory, before encoding) for one row group."""

MANY = 200_000
"""Rows from which on it is looked whether a column is worth a dictionary."""
SAMPLED = 4096


class EncodedParquet(Struct, frozen=True):
    """A Parquet file in memory.

    Attributes:
        data: its bytes.
        record_count: rows in it.
        metrics: what its columns hold.
        column_sizes: field id -> bytes on disk.
        split_offsets: where its row groups begin.
    """

    data: bytes | pa.Buffer
    record_count: int
    metrics: Metrics
    column_sizes: dict[int, int]
    split_offsets: tuple[int, ...]

    def data_file(self, file_path: str) -> DataFile:
        """How a manifest describes it once it is written at that URI."""
        return _describe(file_path, memoryview(self.data).nbytes, self.metrics, self.column_sizes, self.split_offsets)


def encode_parquet(table: Rows, schema: Schema) -> EncodedParquet:
    """Encode rows in memory.

    Args:
        table: rows in the schema's form.
        schema: the schema.
    """
    if isinstance(table, PlainRows):
        plain_metrics = Metrics()
        plain_metrics.add_plain(table)
        data, column_sizes = encode_plain(table, plain_metrics)
        return EncodedParquet(data, table.num_rows, plain_metrics, column_sizes, (len(MAGIC),))
    import pyarrow as pa

    sink = pa.BufferOutputStream()
    metrics, sizes, offsets = _write(table, schema, sink)
    return EncodedParquet(sink.getvalue(), table.num_rows, metrics, sizes, offsets)


def encode_stream(parts: Iterable[pa.Table], schema: Schema) -> EncodedParquet:
    """Encode rows of which no more than a row group has to be in memory, beside what they are encoded to.

    Args:
        parts: tables one after the other, in the schema's form.
        schema: the schema.
    """
    import pyarrow as pa

    sink = pa.BufferOutputStream()
    metrics, sizes, offsets = _write(parts, schema, sink)
    return EncodedParquet(sink.getvalue(), metrics.record_count, metrics, sizes, offsets)


def write_parquet(
    rows: pa.Table | Iterable[pa.Table | pa.RecordBatch], schema: Schema, sink: Any, file_path: str
) -> DataFile:
    """Write rows to a stream, row group by row group: of a stream of batches, no more is held in memory.

    Args:
        rows: a table, or tables and batches one after the other, in the schema's Arrow form.
        schema: the schema.
        sink: a binary stream; it is left open. If this raises, what it holds is no file.
        file_path: the URI that the file will have.
    """
    counted = _Counted(sink)
    metrics, sizes, offsets = _write(rows, schema, counted)
    return _describe(file_path, counted.written, metrics, sizes, offsets)


class _Counted:
    """A sink that knows how much went into it."""

    def __init__(self, sink: Any) -> None:
        self._sink = sink
        self.written = 0
        self.closed = False

    def write(self, data: Any) -> int:
        self._sink.write(data)
        size = memoryview(data).nbytes
        self.written += size
        return size

    def tell(self) -> int:
        return self.written

    def flush(self) -> None:
        """Nothing is held back here."""

    def writable(self) -> bool:
        return True

    def readable(self) -> bool:
        return False

    def seekable(self) -> bool:
        return False

    def close(self) -> None:
        """The sink belongs to the caller."""


def _row_groups(rows: pa.Table | Iterable[pa.Table | pa.RecordBatch]) -> Iterator[pa.Table]:
    """The rows in tables of about one row group each (the writer divides larger ones)."""
    import pyarrow as pa

    if isinstance(rows, pa.Table):
        yield rows
        return
    waiting: list[pa.Table] = []
    count = size = 0
    for part in rows:
        table = pa.Table.from_batches([part]) if isinstance(part, pa.RecordBatch) else part
        waiting.append(table)
        count, size = count + table.num_rows, size + table.nbytes
        if count >= ROW_GROUP_ROWS or size >= ROW_GROUP_BYTES:
            yield pa.concat_tables(waiting)
            waiting, count, size = [], 0, 0
    if waiting:
        yield pa.concat_tables(waiting)


def _write(
    rows: pa.Table | Iterable[pa.Table | pa.RecordBatch], schema: Schema, sink: Any
) -> tuple[Metrics, dict[int, int], tuple[int, ...]]:
    import pyarrow as pa

    metrics = Metrics()
    footers: list[Any] = []
    known = rows if isinstance(rows, pa.Table) else None
    later: frozenset[int] = frozenset()
    if known is not None:
        later = _texts(schema) if known.num_rows > FEW else later
        metrics.add(known, schema, later)
    with parquet_writer(
        sink,
        schema.to_arrow(),
        footers,
        compression="zstd",
        version="2.6",
        # The field ids and Parquet's own types say all that a reader needs; Arrow's copy of the
        # schema would be a third of a small file.
        store_schema=False,
        store_decimal_as_integer=True,  # as the spec has it: int32 and int64 where the precision fits
        write_statistics=_columns_with_statistics(schema, metrics if known is not None else None),
        use_dictionary=_columns_with_dictionary(schema, known),
    ) as writer:
        for table in _row_groups(rows):
            if known is None:
                metrics.add(table, schema)
            writer.write_table(table, row_group_size=ROW_GROUP_ROWS)
    if later:
        metrics.add_extremes(known, schema, _extremes_in(footers[0], schema, later))
    return metrics, _sizes(footers[0], schema), _offsets(footers[0])


def _texts(schema: Schema) -> frozenset[int]:
    """Ids of the columns of texts and bytes: to compare them takes as long as to encode them, and Parquet's writer does
    it already.
    """
    kinds = (t.PrimitiveType("string"), t.PrimitiveType("binary"))
    return frozenset(leaf.field_id for _, leaf in _leaves("", schema.fields) if leaf.type in kinds)


def _extremes_in(footer: Any, schema: Schema, wanted: frozenset[int]) -> dict[int, tuple[Any, Any] | None]:
    """Lowest and highest value by a file's footer; None where it does not tell."""
    found: dict[int, tuple[Any, Any] | None] = {}
    for place, (_, leaf) in enumerate(_leaves("", schema.fields)):
        if leaf.field_id not in wanted:
            continue
        told = [footer.row_group(group).column(place).statistics for group in range(footer.num_row_groups)]
        whole = bool(told) and all(one is not None and one.has_min_max for one in told)
        found[leaf.field_id] = (min(one.min for one in told), max(one.max for one in told)) if whole else None
    return found


def _columns_with_statistics(schema: Schema, metrics: Metrics | None) -> list[str] | bool:
    """The columns for whose row groups Parquet is to keep lowest and highest values; True for all.

    Parquet leaves NaN out of them, and to DuckDB NaN is above every number: asked for ``x > 5`` or
    ``x <> 5`` it would pass over row groups that hold NaN. So columns with NaN get none; where rows
    are still to come (no ``metrics`` yet), no column of floating-point numbers does.
    """
    leaves = list(_leaves("", schema.fields))
    left_out = {
        path
        for path, leaf in leaves
        # elements of lists and maps are not counted
        if leaf.type in FLOATS and (metrics is None or metrics.nan_value_counts.get(leaf.field_id, 1))
    }
    # By path: in a table of another writer a column "a.b" and a field b of a struct a have the same one.
    return [path for path, _ in leaves if path not in left_out] if left_out else True


def _columns_with_dictionary(schema: Schema, rows: pa.Table | None) -> list[str] | bool:
    """The columns that are to be encoded by a dictionary as long as it stays small; True for all.

    Arrow's writer gives a dictionary up at 1 MB, and has spent a third of the column's time on it by then. Where it
    would not, some of 4,096 values are equal with all but certainty: where none are, none is begun.
    """
    if rows is None or rows.num_rows < MANY:
        return True
    import pyarrow as pa

    places = pa.array(range(0, rows.num_rows, rows.num_rows // SAMPLED), pa.int64())
    flat = {field.name for field in schema.fields if not t.children(field.type)}
    chosen, left_out = [], False
    for path, leaf in _leaves("", schema.fields):
        if path in flat and rows.column(leaf.name).null_count == 0 and _all_differ(rows.column(leaf.name).take(places)):
            left_out = True
        else:
            chosen.append(path)
    return chosen if left_out else True


def _all_differ(values: pa.ChunkedArray) -> bool:
    import pyarrow as pa

    if pa.types.is_temporal(values.type):
        # As numbers: a table of another writer may hold days that Python does not have.
        values = values.cast(pa.int32() if values.type.bit_width == 32 else pa.int64())
    found = values.to_pylist()
    return len(set(found)) == len(found)


_REPEATED = {t.ListType: "list.", t.MapType: "key_value."}


def _leaves(prefix: str, fields: Iterable[t.NestedField]) -> Iterator[tuple[str, t.NestedField]]:
    """The primitive fields with their paths in the file, in the file's order."""
    for field in fields:
        inside = t.children(field.type)
        if inside:
            yield from _leaves(f"{prefix}{field.name}.{_REPEATED.get(type(field.type), '')}", inside)
        else:
            yield f"{prefix}{field.name}", field


def _sizes(footer: Any, schema: Schema) -> dict[int, int]:
    """Bytes on disk by field id; leaves of the file come in the schema's own order."""
    ids = [leaf.field_id for _, leaf in _leaves("", schema.fields)]
    sizes = dict.fromkeys(ids, 0)
    for group in range(footer.num_row_groups):
        for index, leaf in enumerate(ids):
            sizes[leaf] += footer.row_group(group).column(index).total_compressed_size
    return sizes


def _offsets(footer: Any) -> tuple[int, ...]:
    offsets = []
    for group in range(footer.num_row_groups):
        first = footer.row_group(group).column(0)
        dictionary = first.dictionary_page_offset
        offsets.append(dictionary if dictionary is not None else first.data_page_offset)
    return tuple(offsets)


def _describe(file_path: str, size: int, metrics: Metrics, sizes: dict[int, int], offsets: tuple[int, ...]) -> DataFile:
    return DataFile(
        file_path=file_path,
        record_count=metrics.record_count,
        file_size_in_bytes=size,
        column_sizes=sizes,
        value_counts=metrics.value_counts,
        null_value_counts=metrics.null_value_counts,
        nan_value_counts=metrics.nan_value_counts,
        lower_bounds=metrics.lower_bounds(),
        upper_bounds=metrics.upper_bounds(),
        split_offsets=offsets,
        sort_order_id=0,
    )
