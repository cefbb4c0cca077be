"""A scan as an Arrow dataset: DuckDB asks it for columns and rows, and gets them from our own scan.

DuckDB calls ``scanner(columns=..., filter=...)`` of whatever dataset it is handed, and leaves what it
asks for to the scanner alone. So the filters of a query prune manifests, files and row groups here, and
fields are found by id as in every scan.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache
from typing import TYPE_CHECKING, Any

from msgspec.structs import replace

from datashard_core.errors import ConfigurationError, DataShardError
from datashard_core.query.where import both, from_duckdb
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
            self.failure: DataShardError | None = None

        @property
        def schema(self) -> pa.Schema:
            return self._scan.arrow_schema()

        def scanner(self, columns: Any = None, filter: Any = None, **options: Any) -> _Scanner:
            del options  # sizes of batches and threads, which the scan chooses
            try:
                return _Scanner(narrowed(self._scan, columns, filter), self)
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

    def __init__(self, scan: Scan, dataset: Any) -> None:
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


def narrowed(scan: Scan, columns: Any, where: Any) -> Scan:
    """The scan with fewer columns, and with DuckDB's filter beside a condition of its own."""
    if columns is not None:
        scan = replace(scan, columns=check_columns(columns, scan.schema, scan.table_name) if columns else scan.columns)
    if where is None:
        return scan
    if scan.limit is not None:
        raise ConfigurationError(f"table {scan.table_name}: a condition comes before a limit of {scan.limit} rows")
    condition = both(scan.condition, from_duckdb(where, scan.schema, scan.table_name))
    return replace(scan, where=where if scan.where is None else scan.where, condition=condition)
