"""The rows of one data file, in the shape of the table's schema, a few megabytes at a time."""

from __future__ import annotations

import datetime as dt
import decimal
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

from msgspec import Struct

from datashard_core.commit.paths import key_of
from datashard_core.errors import CorruptTableError, StorageError, UnsupportedTableError
from datashard_core.format import types as t
from datashard_core.format.binding import TRUE, Bound, Check
from datashard_core.format.canonical import canonical
from datashard_core.format.data_file import DataFile
from datashard_core.format.projection import FIELD_ID, columns_to_read, project, with_ids
from datashard_core.format.pruning import Known, might_match, possible, presence
from datashard_core.format.schema import Schema
from datashard_core.storage.base import ObjectNotFoundError, Storage
from datashard_core.storage.cache import small_files

if TYPE_CHECKING:
    import pyarrow as pa

    from datashard_core.query.where import BatchFilter

ONE_REQUEST = 8 * 2**20
"""Files up to this many bytes are fetched from a bucket by one request; larger ones by column ranges."""
STEP_BYTES = 8 * 2**20
"""So much of a file is decoded before others get their turn."""
_EXPANSION = 32
"""A file is taken to become no more than so many times its size when it is decoded."""
_MOST_ROWS = 131_072
_FEWEST_ROWS = 1024
_READ_SIZE = 2**20


class Reading(Struct, frozen=True):
    """What is read of every file of a scan.

    Attributes:
        storage: where the table is.
        location: the table's location, as its metadata names it.
        table_name: for messages.
        schema: the table's schema.
        wanted: Arrow schema of the columns to read.
        bound: row groups that cannot hold a matching row are left out.
        keep: leaves the matching rows of a batch; None for all.
    """

    storage: Storage
    location: str
    table_name: str
    schema: Schema
    wanted: pa.Schema
    bound: Bound = TRUE
    keep: BatchFilter | None = None

    @property
    def is_local(self) -> bool:
        """Whether files are on this machine, so that many small reads cost nothing."""
        return self.storage.root.startswith("file:")

    @property
    def is_bucket(self) -> bool:
        """Whether a request costs a round trip, so that small files are worth keeping in memory."""
        return self.storage.root.startswith("s3:")


class FileRows:
    """A data file that is being read. Not to be used by two threads at once.

    Args:
        reading: what is wanted.
        file: the file.
    """

    def __init__(self, reading: Reading, file: DataFile) -> None:
        self._reading = reading
        self._file = file
        self._batches = self._rows()

    @property
    def weight(self) -> int:
        """About how many bytes a step holds in memory."""
        size = self._file.file_size_in_bytes
        return min(STEP_BYTES, _EXPANSION * size) + min(size, 8 * ONE_REQUEST)

    def step(self) -> tuple[list[pa.RecordBatch], bool]:
        """The next rows, some megabytes of them, and whether there may be more.

        Raises:
            CorruptTableError: the file is missing, damaged, or not what the manifest says.
            StorageError: the store failed.
        """
        import pyarrow as pa

        found: list[pa.RecordBatch] = []
        size = 0
        try:
            for batch in self._batches:
                size += batch.nbytes
                kept = batch if self._reading.keep is None else self._reading.keep(batch)
                if kept.num_rows:
                    found.append(kept)
                if size >= STEP_BYTES:
                    return found, True
        except (ObjectNotFoundError, FileNotFoundError) as error:
            raise CorruptTableError(
                f"table {self._reading.table_name}: data file {self._file.file_path} is missing. If snapshots were "
                "expired meanwhile, refresh the table; else restore the file."
            ) from error
        except (pa.ArrowException, OSError) as error:
            raise self._meaning(error) from error
        return found, False

    def _meaning(self, error: Exception) -> Exception:
        """The store's failures and those of a file: Arrow raises OSError for either."""
        text = f"table {self._reading.table_name}: data file {self._file.file_path} is not readable: {error}"
        from_store = getattr(error, "errno", None) is not None or "AWS Error" in str(error)
        if isinstance(error, OSError) and from_store:
            if "NO_SUCH_KEY" in str(error) or "RESOURCE_NOT_FOUND" in str(error):
                return CorruptTableError(f"{text}: restore it")
            return StorageError(text, reason="unreachable", key=self._file.file_path)
        return CorruptTableError(f"{text}: restore it")

    def _rows(self) -> Iterator[pa.RecordBatch]:
        import pyarrow as pa
        import pyarrow.parquet as pq

        reading, file = self._reading, self._file
        if file.file_format != "PARQUET":
            raise UnsupportedTableError(
                f"table {reading.table_name}: {file.file_path} is in the format {file.file_format}, and only Parquet "
                "can be read: rewrite it with the engine that wrote it"
            )
        source, options = self._open()
        with pq.ParquetFile(source, **options) as parquet:
            if parquet.metadata.num_rows != file.record_count:
                raise CorruptTableError(
                    f"table {reading.table_name}: {file.file_path} holds {parquet.metadata.num_rows} rows, and its "
                    f"manifest says {file.record_count}"
                )
            file_schema = with_ids(parquet.schema_arrow, reading.schema)
            names = columns_to_read(file_schema, reading.wanted)
            for group in row_groups(parquet, file_schema, reading.bound):
                # The ids of a file without ids stand in this schema alone.
                for batch in _decoded(parquet, group, names):
                    named = pa.schema([file_schema.field(name) for name in batch.schema.names])
                    if named.equals(reading.wanted, check_metadata=True):
                        yield pa.RecordBatch.from_arrays(batch.columns, schema=reading.wanted)
                    else:
                        rows = pa.Table.from_batches([batch]).cast(named) if names else pa.Table.from_batches([batch])
                        yield from project(rows, reading.wanted, file.file_path).to_batches()

    def _open(self) -> tuple[Any, dict[str, Any]]:
        """The file to read from, and how."""
        import pyarrow as pa

        reading, size = self._reading, self._file.file_size_in_bytes
        key = key_of(self._file.file_path, reading.location, reading.storage.root)
        if not reading.is_local and size <= ONE_REQUEST:
            kept = reading.is_bucket and size <= small_files.max_object
            body = small_files.get(reading.storage, key) if kept else reading.storage.get(key).body
            return pa.BufferReader(body), {}
        filesystem, root = reading.storage.filesystem()
        path = f"{root}/{key}"
        if reading.is_local:
            # A little at a time: a row group's columns need not be in memory as a whole.
            return filesystem.open_input_file(path), {"buffer_size": _READ_SIZE, "pre_buffer": False}
        return filesystem.open_input_file(path), {"pre_buffer": True}


def _decoded(parquet: Any, group: int, names: Sequence[str]) -> Iterator[pa.RecordBatch]:
    """The batches of a row group; of no column at all where the file has none of those wanted."""
    import pyarrow as pa

    told = parquet.metadata.row_group(group)
    if not names:
        empty = pa.table({"": pa.nulls(told.num_rows)}).select([])
        yield from empty.to_batches(max_chunksize=_MOST_ROWS)
        return
    size = max(1, told.total_byte_size // max(1, told.num_rows))
    rows = max(_FEWEST_ROWS, min(_MOST_ROWS, STEP_BYTES // size))
    # Threads of the scan read files side by side, so Arrow's own would only contend.
    yield from parquet.iter_batches(rows, row_groups=[group], columns=list(names), use_threads=False)


def row_groups(parquet: Any, file_schema: pa.Schema, bound: Bound) -> list[int]:
    """The row groups that may hold a row that matches, by the statistics in the file's footer."""
    groups = range(parquet.num_row_groups)
    if bound == TRUE or len(groups) < 2:
        return list(groups)  # the manifest's bounds have said as much
    places = {parquet.schema.column(place).path: place for place in range(len(parquet.schema))}

    def allows(check: Check, group: int) -> bool:
        path = _path(file_schema, check)
        if path not in places:
            return True
        column = parquet.metadata.row_group(group).column(places[path])
        return possible(check, _known(check.reference.field.type, column))

    return [group for group in groups if might_match(bound, lambda check, group=group: allows(check, group))]  # type: ignore[misc]


def _path(file_schema: pa.Schema, check: Check) -> str | None:
    """Path, in the file, of the column of a check; None for one that is not at the top."""
    if len(check.reference.names) > 1:
        return None
    wanted = str(check.reference.field.field_id).encode()
    for field in file_schema:
        if (field.metadata or {}).get(FIELD_ID) == wanted:
            return str(field.name)
    return None


_STATISTICS: dict[str, tuple[type, ...]] = {
    "boolean": (bool,),
    "int": (int,),
    "long": (int,),
    "float": (float,),
    "double": (float,),
    "date": (dt.date,),
    "time": (dt.time,),
    "timestamp": (dt.datetime,),
    "timestamptz": (dt.datetime,),
    "string": (str,),
    "binary": (bytes,),
}


def _known(kind: t.IcebergType, column: Any) -> Known:
    statistics = column.statistics if column.is_stats_set else None
    if statistics is None:
        return Known(nans=True)
    nulls = statistics.null_count if statistics.has_null_count else None
    low = high = None
    if statistics.has_min_max:
        low, high = _bound(kind, statistics.min), _bound(kind, statistics.max)
    return Known(low, high, *presence(kind, column.num_values, nulls, None))


def _bound(kind: t.IcebergType, value: Any) -> Any:
    """A bound out of a file's statistics in canonical form; None for what is not of the column's type."""
    types = (decimal.Decimal,) if isinstance(kind, t.DecimalType) else _STATISTICS.get(str(kind), ())
    if type(value) not in types or value != value:
        return None
    if isinstance(value, dt.datetime) and (value.tzinfo is None) == (str(kind) == "timestamptz"):
        return None
    return canonical(kind, value)
