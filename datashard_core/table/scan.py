"""Reading one snapshot of a table.

A scan belongs to one snapshot: its manifests say which data files are live, and every one of them
that may hold a matching row is read whole or the scan fails. A file that cannot be read is never left out.
"""

from __future__ import annotations

import sys
from collections.abc import Generator, Iterator, Sequence
from itertools import chain
from typing import TYPE_CHECKING, Any

from msgspec import Struct
from msgspec.structs import replace

from datashard_core import arguments
from datashard_core.commit.core.paths import key_of
from datashard_core.effects.requests import Get
from datashard_core.effects.tasks import gather
from datashard_core.errors import ConfigurationError
from datashard_core.format.manifests.manifest import DELETED, ManifestFile, decode_manifest
from datashard_core.format.types.ranges import check_python
from datashard_core.format.types.schema import Schema
from datashard_core.query.where import EVERY_ROW, RowCondition, columns_for, renewed
from datashard_core.table.parquet_rows import Reading
from datashard_core.table.plan import Planner
from datashard_core.table.streaming import read_files

if TYPE_CHECKING:
    import duckdb
    import pandas as pd
    import polars as pl
    import pyarrow as pa
    import pyarrow.compute as pc

    from datashard_core.commit.append.staged_read import WithStaged
    from datashard_core.format.expressions.expressions import Condition
    from datashard_core.format.metadata.data_file import DataFile
    from datashard_core.format.metadata.snapshot import Snapshot
    from datashard_core.format.metadata.table_metadata import TableMetadata
    from datashard_core.storage.base import Storage


_READ_BY_ARROW = "read it with to_arrow(), or leave the column out"


class Scan(Struct, frozen=True):
    """Rows of one snapshot, not read yet.

    Attributes:
        snapshot: the snapshot, None for a table that has none.
        schema: the table's current schema; rows of older files are brought into it.
        columns: names of the columns wanted, None for all.
        where: the condition as given.
        limit: at most so many rows; None for all.
        condition: the condition, ready to be applied.
        added_by: only rows that these snapshots added; None for all.
        staged: appends that wait to be committed and are to be read too; None for none.
    """

    storage: Storage
    table_name: str
    metadata: TableMetadata
    snapshot: Snapshot | None
    schema: Schema
    columns: tuple[str, ...] | None = None
    where: str | Condition | pc.Expression | None = None
    limit: int | None = None
    condition: RowCondition = EVERY_ROW
    added_by: frozenset[int] | None = None
    staged: WithStaged | None = None

    def data_files(self) -> list[DataFile]:
        """The data files that have to be read, with their sizes and row counts; see :meth:`plan`."""
        return list(self.plan())

    def plan(self) -> Iterator[DataFile]:
        """The data files that may hold matching rows, as they are found: manifests are read as they are needed.

        Metrics and partition values of the files are left out.

        Raises:
            CorruptTableError: a manifest is missing or damaged.
            UnsupportedTableError: the snapshot has row-level deletes.
        """
        return self._plan(self.condition)

    def count(self) -> int:
        """How many rows the scan has; without a condition no data file is opened."""
        if self.where is None:
            return self._capped(self._count_everything())
        needed = [] if self.condition.columns is None else [n for n in self.schema.names if n in self.condition.columns]
        narrow = replace(self, columns=tuple(needed) or self.columns)
        return sum(batch.num_rows for batch in narrow.to_batches())

    def to_batches(self) -> Iterator[pa.RecordBatch]:
        """The rows as a stream of Arrow record batches; some files are read ahead in parallel."""
        return _limited(self._matching(), self.limit)

    def to_reader(self) -> pa.RecordBatchReader:
        """The rows as an Arrow stream, which any Arrow consumer takes."""
        self._import_arrow()
        import pyarrow as pa

        return pa.RecordBatchReader.from_batches(self.arrow_schema(), self.to_batches())

    def to_arrow(self) -> pa.Table:
        """The rows as an Arrow table."""
        self._import_arrow()
        import pyarrow as pa

        return pa.Table.from_batches(self.to_batches(), schema=self.arrow_schema())

    def to_pandas(self) -> pd.DataFrame:
        """The rows as a pandas data frame (needs the extra ``pandas``)."""
        try:
            import pandas  # noqa: F401 - the error below tells how to get it
        except ImportError as error:
            raise ConfigurationError("to_pandas() needs pandas: pip install 'datashard-core[pandas]'") from error
        rows = self.to_arrow()
        check_python(rows.select(_as_objects(rows.schema)), self.table_name, _READ_BY_ARROW)
        frame: pd.DataFrame = rows.to_pandas()
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

    def to_duckdb(self, connection: duckdb.DuckDBPyConnection | None = None) -> duckdb.DuckDBPyRelation:
        """The rows as a DuckDB relation, read when it is asked for and as far as that takes (needs the extra ``sql``).

        Args:
            connection: yours; None for a fresh one in memory.

        Raises:
            ConfigurationError: it is no connection of DuckDB.
        """
        from datashard_core.query.duck import columns_of, connect, has_zones
        from datashard_core.table.dataset import arrow_dataset

        if connection is not None and not callable(getattr(connection, "from_arrow", None)):
            raise ConfigurationError(
                f"connection={arguments.shown(connection)}: pass what duckdb.connect() returns, or None for a fresh one"
            )
        rows = arrow_dataset(self)
        # A limit is met before DuckDB looks at a row.
        columns = columns_of(self.table_name, rows.schema, pushed=self.limit is None, zoned=has_zones())
        return (connect() if connection is None else connection).from_arrow(rows).project(", ".join(columns))

    def to_records(self) -> list[dict[str, Any]]:
        """The rows as dictionaries of Python values.

        Raises:
            UnsupportedTableError: another writer stored a date or time that Python has no value for.
        """
        rows = self.to_arrow()
        check_python(rows, self.table_name, _READ_BY_ARROW)
        records: list[dict[str, Any]] = rows.to_pylist()
        return records

    def arrow_schema(self) -> pa.Schema:
        """Arrow schema of the rows."""
        return self._select(self.schema.names if self.columns is None else self.columns)

    def _select(self, names: Sequence[str]) -> pa.Schema:
        import pyarrow as pa

        whole = self.schema.to_arrow()
        return pa.schema([whole.field(name) for name in names])

    def _import_arrow(self) -> None:
        """Import Arrow, which takes a process about as long as a store takes for an answer: the first manifests that
        the plan asks for are fetched meanwhile.
        """
        if "pyarrow" in sys.modules:
            return
        planner = Planner(self.storage, self.metadata, self.table_name)
        fetched = planner.fetch_first(planner.manifests(self.snapshot), self.condition.bound)
        import pyarrow._parquet  # noqa: F401 - what reads data files

        for manifest in fetched:
            manifest.result()  # for the plan finds it at hand then, and does not ask for it once more

    def _plan(self, condition: RowCondition) -> Iterator[DataFile]:
        planner = Planner(self.storage, self.metadata, self.table_name)
        left = self.limit if self.where is None else None
        for entry in planner.files(planner.manifests(self.snapshot), condition.bound):
            if self.added_by is not None and entry.snapshot_id not in self.added_by:
                continue
            if left is not None:
                if left <= 0:
                    return
                left -= entry.data_file.record_count
            yield entry.data_file
        if self.staged is not None:
            yield from self.staged.files

    def _matching(self) -> Generator[pa.RecordBatch, None, None]:
        if self.limit == 0:
            return
        self._import_arrow()
        condition = renewed(self.condition)
        wanted = list(self.schema.names if self.columns is None else self.columns)
        names = columns_for(condition, wanted, self.schema.names)
        if condition.batch is None and condition.stream is None:
            names = wanted
        read = self._select(names)
        reading = Reading(
            storage=self.storage,
            location=self.metadata.location,
            table_name=self.table_name,
            schema=self.schema,
            wanted=read,
            bound=condition.bound,
            keep=condition.batch,
            skips=condition.whole,
        )
        # A limit is often met by the first file that has a match.
        batches: Iterator[pa.RecordBatch] = read_files(reading, self._plan(condition), 2 if self.limit else None)
        batches = chain(batches, self._staged_batches(names, condition))
        if condition.stream is not None:
            batches = condition.stream(batches)
        for batch in batches:
            yield batch if names == wanted else batch.select(wanted)

    def _staged_batches(self, names: Sequence[str], condition: RowCondition) -> Iterator[pa.RecordBatch]:
        for rows in self.staged.rows if self.staged is not None else ():
            for batch in rows.select(list(names)).to_batches():
                yield batch if condition.batch is None else condition.batch(batch)

    def _count_everything(self) -> int:
        if self.added_by is not None:
            return sum(file.record_count for file in self.plan())
        if self.staged is None:
            return self._count_by_manifests()
        staged: list[int] = [rows.num_rows for rows in self.staged.rows]
        staged += [file.record_count for file in self.staged.files]
        return self._count_by_manifests() + sum(staged)

    def _count_by_manifests(self) -> int:
        planner = Planner(self.storage, self.metadata, self.table_name)
        manifests = planner.manifests(self.snapshot)
        told = [(one.added_rows_count, one.existing_rows_count) for one in manifests]
        if any(None in counts for counts in told):
            return sum(entry.data_file.record_count for entry in planner.files(manifests))
        return sum((added or 0) + (existing or 0) for added, existing in told)

    def _capped(self, rows: int) -> int:
        return rows if self.limit is None else min(rows, self.limit)


def check_columns(columns: Sequence[str] | None, schema: Schema, table_name: str) -> tuple[str, ...] | None:
    """Refuse columns that the table does not have.

    Raises:
        ConfigurationError: a name is unknown, or appears twice.
    """
    if columns is None:
        return None
    columns = arguments.names(columns, "columns")
    known = [field.name for field in schema.fields]
    unknown = [name for name in columns if name not in known]
    if unknown:
        missing = arguments.shown(unknown[0])
        raise ConfigurationError(f"table {table_name} has no column {missing}; it has {', '.join(known)}")
    if len(set(columns)) != len(columns) or not columns:
        raise ConfigurationError(f"columns={list(columns)!r}: name each column once, and at least one")
    return tuple(columns)


def check_limit(limit: int | None) -> int | None:
    """Refuse a limit that is no number of rows."""
    if limit is not None and (isinstance(limit, bool) or not isinstance(limit, int) or limit < 0):
        raise ConfigurationError(f"limit={arguments.shown(limit)}: pass a number of rows, 0 or more, or None")
    return None if limit is None else min(limit, arguments.MAX_WHOLE)


def _as_objects(schema: pa.Schema) -> list[int]:
    """The columns that pandas holds as Python objects: not timestamps, for which it has a type of its own."""
    import pyarrow as pa

    return [place for place, column in enumerate(schema) if not pa.types.is_timestamp(column.type)]


def _limited(batches: Generator[pa.RecordBatch, None, None], limit: int | None) -> Iterator[pa.RecordBatch]:
    if limit is None:
        yield from batches
        return
    left = limit
    for batch in batches:
        yield batch.slice(0, left)
        left -= batch.num_rows
        if left <= 0:
            break
    batches.close()


async def files_of(root: str, location: str, manifests: Sequence[ManifestFile]) -> list[DataFile]:
    """The live data files that manifests name; all manifests are read in parallel."""
    bodies = await gather(*[Get(key_of(m.manifest_path, location, root)) for m in manifests])
    return [
        entry.data_file
        for manifest, stored in zip(manifests, bodies, strict=True)
        for entry in decode_manifest(stored.body, manifest)
        if entry.status != DELETED
    ]
