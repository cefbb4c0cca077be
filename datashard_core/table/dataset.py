"""A scan as an Arrow dataset: DuckDB asks it for columns and rows, and gets them from our own scan.

DuckDB calls ``scanner(columns=..., filter=...)`` of whatever dataset it is handed, and leaves what it
asks for to the scanner alone. So the filters of a query prune manifests, files and row groups here, and
fields are found by id as in every scan.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache
from typing import TYPE_CHECKING, Any

from msgspec import Struct
from msgspec.structs import replace

from datashard_core.errors import DataShardError
from datashard_core.format.rows.projection import project
from datashard_core.format.types.distinct import told_apart
from datashard_core.format.types.schema import Schema
from datashard_core.query.where import EVERY_ROW, RowCondition, both, from_duckdb
from datashard_core.table.scan import Scan, check_columns

if TYPE_CHECKING:
    import pyarrow as pa
    import pyarrow.dataset as pads


def arrow_dataset(scan: Scan) -> pads.Dataset:
    """The scan as a ``pyarrow.dataset.Dataset``, for DuckDB and others that call its ``scanner``."""
    return _dataset_class()(scan)


@cache
def _dataset_class() -> type[Any]:
    """The class, made when it is first needed: its base is in a package that is slow to import."""
    import pyarrow.dataset as pads

    class ScanDataset(pads.Dataset):  # type: ignore[misc]
        """A dataset whose rows come from a scan.

        Attributes:
            failure: what the last reading of its rows failed with. DuckDB hands on no more than its text.
        """

        def __init__(self, scan: Scan) -> None:
            # The base class refuses to be made by Python code; nothing of it is used.
            self._scan = scan
            self._schema = told_apart(scan.schema)
            self.failure: DataShardError | None = None

        @property
        def schema(self) -> pa.Schema:
            return _arrow(self._schema, self._scan)

        def scanner(self, columns: Any = None, filter: Any = None, **options: Any) -> _Scanner:
            del options  # sizes of batches and threads, which the scan chooses
            try:
                if self._schema is self._scan.schema and self._scan.limit is None:
                    return _Scanner(narrowed(self._scan, columns, filter), self)
                return _Scanner(_layer(self._scan, self._schema, columns, filter), self)
            except DataShardError as error:
                self.failure = error
                raise

        def to_table(self, **options: Any) -> pa.Table:
            return self.scanner(**options).to_reader().read_all()

        def to_batches(self, **options: Any) -> Any:
            return iter(self.scanner(**options).to_reader())

        def count_rows(self, **options: Any) -> int:
            return int(self.scanner(**options).count_rows())

        def head(self, num_rows: int, **options: Any) -> pa.Table:
            return replace(self.scanner(**options).scan, limit=num_rows).to_arrow()

    return ScanDataset


class _Scanner:
    """What a consumer of datasets needs of a ``pyarrow.dataset.Scanner``."""

    def __init__(self, scan: Scan | _Layer, dataset: Any) -> None:
        self.scan = scan
        self._dataset = dataset

    @property
    def projected_schema(self) -> pa.Schema:
        return self.scan.arrow_schema()

    def to_reader(self) -> pa.RecordBatchReader:
        import pyarrow as pa

        return pa.RecordBatchReader.from_batches(self.scan.arrow_schema(), self._batches())

    def _batches(self) -> Iterator[pa.RecordBatch]:
        try:
            yield from self.scan.to_batches()
        except DataShardError as error:
            self._dataset.failure = error
            raise

    def to_table(self) -> pa.Table:
        return self.scan.to_arrow()

    def count_rows(self) -> int:
        return self.scan.count()


class _Layer(Struct, frozen=True):
    """What a consumer asks of the rows of a scan that has a limit of its own, or names to be told apart.

    Attributes:
        scan: the scan, which is read as it is.
        schema: its columns under the names that the consumer knows.
        columns: those that the consumer asks for.
        condition: what it asks of them; bound to the columns of ``schema``.
        limit: at most so many rows; None for all.
    """

    scan: Scan
    schema: pa.Schema
    columns: tuple[str, ...]
    condition: RowCondition = EVERY_ROW
    limit: int | None = None

    def arrow_schema(self) -> pa.Schema:
        import pyarrow as pa

        return pa.schema([self.schema.field(name) for name in self.columns])

    def to_batches(self) -> Iterator[pa.RecordBatch]:
        import pyarrow as pa

        left = self.limit
        told = self.scan.arrow_schema()
        for batch in self.scan.to_batches():
            rows = pa.Table.from_batches([pa.RecordBatch.from_arrays(batch.columns, schema=told)])
            for part in project(rows, self.schema, self.scan.table_name).to_batches():
                kept = part if self.condition.batch is None else self.condition.batch(part)
                kept = kept.select(list(self.columns)).slice(0, left)
                yield kept
                left = None if left is None else left - kept.num_rows
            if left is not None and left <= 0:
                return

    def to_arrow(self) -> pa.Table:
        import pyarrow as pa

        return pa.Table.from_batches(self.to_batches(), schema=self.arrow_schema())

    def count(self) -> int:
        return sum(batch.num_rows for batch in self.to_batches())


def _arrow(schema: Schema, scan: Scan) -> pa.Schema:
    """The columns of a scan, by place, under the names that they have in a schema."""
    import pyarrow as pa

    whole = schema.to_arrow()
    names = scan.schema.names
    return pa.schema([whole.field(names.index(name)) for name in (names if scan.columns is None else scan.columns)])


def _layer(scan: Scan, schema: Schema, columns: Any, where: Any) -> _Layer:
    known = _arrow(schema, scan)
    asked = check_columns(columns, schema, scan.table_name) if columns else None
    condition = EVERY_ROW if where is None else from_duckdb(where, schema, scan.table_name)
    return _Layer(scan, known, tuple(known.names) if asked is None else asked, condition)


def narrowed(scan: Scan, columns: Any, where: Any) -> Scan:
    """A scan without a limit, with fewer columns, and with DuckDB's filter beside a condition of its own."""
    if columns is not None:
        scan = replace(scan, columns=check_columns(columns, scan.schema, scan.table_name) if columns else scan.columns)
    if where is None:
        return scan
    condition = both(scan.condition, from_duckdb(where, scan.schema, scan.table_name))
    return replace(scan, where=where if scan.where is None else scan.where, condition=condition)
