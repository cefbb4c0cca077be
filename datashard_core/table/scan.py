"""Reading one snapshot of a table.

A scan belongs to one snapshot: its manifests say which data files are live, and every one of them
is read whole or the scan fails. A file that cannot be read is never left out.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from itertools import islice
from typing import TYPE_CHECKING, Any

from datashard_core.commit.paths import key_of
from datashard_core.commit.state import manifests_of
from datashard_core.errors import ConfigurationError, CorruptTableError, UnsupportedTableError
from datashard_core.format.manifest import DELETED, ManifestFile, decode_manifest
from datashard_core.format.projection import columns_to_read, project, with_ids
from datashard_core.format.schema import Schema
from datashard_core.query import where as where_module
from datashard_core.storage.base import ObjectNotFoundError
from datashard_core.storage.driver import run, shared_pool
from datashard_core.storage.requests import Get, Steps, each

if TYPE_CHECKING:
    import pandas as pd
    import polars as pl
    import pyarrow as pa
    import pyarrow.compute as pc

    from datashard_core.format.data_file import DataFile
    from datashard_core.format.snapshot import Snapshot
    from datashard_core.format.table_metadata import TableMetadata
    from datashard_core.storage.base import Storage

ONE_REQUEST = 8 * 2**20
"""Data files up to this many bytes are fetched by one request; larger ones by column ranges."""

FILES_AHEAD = 16


@dataclass(frozen=True)
class Scan:
    """Rows of one snapshot, not read yet.

    Attributes:
        snapshot: the snapshot, None for a table that has none.
        schema: the table's current schema; rows of older files are brought into it.
        columns: names of the columns wanted, None for all.
        where: the condition as given.
    """

    storage: Storage
    table_name: str
    metadata: TableMetadata
    snapshot: Snapshot | None
    schema: Schema
    columns: tuple[str, ...] | None
    where: str | pc.Expression | None

    def data_files(self) -> list[DataFile]:
        """The live data files of the snapshot."""
        if self.snapshot is None:
            return []
        return run(_live_files(self.storage.root, self.metadata, self.snapshot, self.table_name), self.storage)

    def count(self) -> int:
        """How many rows the scan has; without a condition no data file is opened."""
        if self.where is None:
            return sum(file.record_count for file in self.data_files())
        return sum(batch.num_rows for batch in self.to_batches())

    def to_batches(self) -> Iterator[pa.RecordBatch]:
        """The rows as a stream of Arrow record batches; some files are read ahead in parallel."""
        rows = self._all_batches()
        if self.where is None:
            return rows
        return where_module.matching(rows, self._read_schema(), self.where, self.columns, self.table_name)

    def to_arrow(self) -> pa.Table:
        """The rows as an Arrow table."""
        import pyarrow as pa

        return pa.Table.from_batches(self.to_batches(), schema=self.arrow_schema())

    def to_pandas(self) -> pd.DataFrame:
        """The rows as a pandas data frame (needs the extra ``pandas``)."""
        try:
            import pandas  # noqa: F401 - the error below tells how to get it
        except ImportError as error:
            raise ConfigurationError("to_pandas() needs pandas: pip install 'datashard-core[pandas]'") from error
        frame: pd.DataFrame = self.to_arrow().to_pandas()
        return frame

    def to_polars(self) -> pl.DataFrame:
        """The rows as a Polars data frame (needs the extra ``polars``)."""
        try:
            import polars as pl
        except ImportError as error:
            raise ConfigurationError("to_polars() needs polars: pip install 'datashard-core[polars]'") from error
        frame = pl.from_arrow(self.to_arrow())
        assert isinstance(frame, pl.DataFrame)
        return frame

    def to_records(self) -> list[dict[str, Any]]:
        """The rows as dictionaries of Python values."""
        records: list[dict[str, Any]] = self.to_arrow().to_pylist()
        return records

    def arrow_schema(self) -> pa.Schema:
        """Arrow schema of the rows."""
        whole = self.schema.to_arrow()
        if self.columns is None:
            return whole
        import pyarrow as pa

        return pa.schema([whole.field(name) for name in self.columns])

    def _read_schema(self) -> pa.Schema:
        """The columns to read: a condition may need some that are not asked for."""
        return self.schema.to_arrow() if self.where is not None else self.arrow_schema()

    def _all_batches(self) -> Iterator[pa.RecordBatch]:
        wanted = self._read_schema()
        pool = shared_pool()
        files = iter(self.data_files())
        ahead: deque[Future[pa.Table]] = deque(
            pool.submit(self._read_file, file, wanted) for file in islice(files, FILES_AHEAD)
        )
        while ahead:
            table = ahead.popleft().result()
            for file in islice(files, 1):
                ahead.append(pool.submit(self._read_file, file, wanted))
            yield from table.to_batches()

    def _read_file(self, file: DataFile, wanted: pa.Schema) -> pa.Table:
        import pyarrow as pa
        import pyarrow.parquet as pq

        key = key_of(file.file_path, self.metadata.location, self.storage.root)
        try:
            if file.file_size_in_bytes <= ONE_REQUEST:
                source: Any = pa.BufferReader(self.storage.get(key).body)
            else:
                filesystem, root = self.storage.filesystem()
                source = filesystem.open_input_file(f"{root}/{key}")
            with pq.ParquetFile(source, pre_buffer=True) as parquet:
                file_schema = with_ids(parquet.schema_arrow, self.schema)
                # Threads of the scan read files side by side, so Arrow's own would only contend.
                rows = parquet.read(columns=columns_to_read(file_schema, wanted), use_threads=False)
        except (ObjectNotFoundError, FileNotFoundError) as error:
            raise CorruptTableError(
                f"table {self.table_name}: data file {file.file_path} is missing. If snapshots were expired meanwhile, "
                "refresh the table; else restore the file."
            ) from error
        except pa.ArrowInvalid as error:
            raise CorruptTableError(
                f"table {self.table_name}: data file {file.file_path} is not readable: {error}"
            ) from error
        if rows.num_rows != file.record_count:
            raise CorruptTableError(
                f"table {self.table_name}: {file.file_path} holds {rows.num_rows} rows, and its manifest says "
                f"{file.record_count}"
            )
        named = pa.schema([file_schema.field(name) for name in rows.schema.names])
        # The ids of a file without ids stand in this schema alone.
        return project(pa.Table.from_arrays(rows.columns, schema=named), wanted, file.file_path)


def check_columns(columns: Sequence[str] | None, schema: Schema, table_name: str) -> tuple[str, ...] | None:
    """Refuse columns that the table does not have.

    Raises:
        ConfigurationError: a name is unknown, or appears twice.
    """
    if columns is None:
        return None
    if isinstance(columns, str):
        raise ConfigurationError(f"columns={columns!r}: pass a list of names, as in columns=[{columns!r}]")
    known = [field.name for field in schema.fields]
    unknown = [name for name in columns if name not in known]
    if unknown:
        raise ConfigurationError(f"table {table_name} has no column {unknown[0]!r}; it has {', '.join(known)}")
    if len(set(columns)) != len(columns) or not columns:
        raise ConfigurationError(f"columns={list(columns)!r}: name each column once, and at least one")
    return tuple(columns)


def _live_files(root: str, metadata: TableMetadata, snapshot: Snapshot, name: str) -> Steps[list[DataFile]]:
    manifests = yield from manifests_of(root, metadata.location, snapshot)
    deletes = [manifest for manifest in manifests if manifest.content != 0]
    if deletes:
        raise UnsupportedTableError(
            f"table {name}: snapshot {snapshot.snapshot_id} has row-level delete files (written by another engine). "
            "Rewrite them into data files with that engine, or read the table with it."
        )
    return (yield from files_of(root, metadata.location, manifests))


def files_of(root: str, location: str, manifests: Sequence[ManifestFile]) -> Steps[list[DataFile]]:
    """The live data files that manifests name; all manifests are read in parallel."""
    bodies = yield from each([Get(key_of(m.manifest_path, location, root)) for m in manifests])
    return [
        entry.data_file
        for manifest, stored in zip(manifests, bodies, strict=True)
        for entry in decode_manifest(stored.body, manifest)
        if entry.status != DELETED
    ]
