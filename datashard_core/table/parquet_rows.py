"""The rows of one data file, in the shape of the table's schema, a few megabytes at a time."""

from __future__ import annotations

import decimal
import json
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

from msgspec import Struct, field

from datashard_core.commit.core.paths import key_of
from datashard_core.errors import CorruptTableError, StorageError, UnsupportedTableError
from datashard_core.format.expressions.binding import TRUE, Bound, Check
from datashard_core.format.expressions.pruning import (
    Known,
    certain,
    holds_whole,
    might_match,
    must_match,
    possible,
    presence,
)
from datashard_core.format.metadata.data_file import DataFile
from datashard_core.format.parquet.arrow_reader import DamagedFooterError, ParquetFile
from datashard_core.format.rows.projection import columns_to_read, first_leaves, id_of, project, with_ids
from datashard_core.format.statistics.ordering import canonical
from datashard_core.format.types import types as t
from datashard_core.format.types.ranges import STORED
from datashard_core.format.types.schema import Schema
from datashard_core.storage.base import ObjectNotFoundError, Storage
from datashard_core.storage.cache import small_files, whole

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


class _Shape(Struct, frozen=True):
    """What is read of files of one schema.

    Attributes:
        told: the schema as Arrow reads it from such a file.
        schema: the same with field ids, which stand in this schema alone where the file has none.
        leaves: places of the leaf columns that are read; None for all of them.
        read: the part of ``schema`` that they are.
        fits: whether that is what is wanted, as it is.
        places: field id -> place of the leaf, for columns that are one.
    """

    told: pa.Schema
    schema: pa.Schema
    leaves: list[int] | None
    read: pa.Schema
    fits: bool
    places: dict[int | None, int]


class _Shapes:
    """The shape of the file before: that of the next one is mostly the same."""

    def __init__(self) -> None:
        self._last: _Shape | None = None

    def of(self, told: pa.Schema, reading: Reading) -> _Shape:
        """The shape of a file with that schema."""
        import pyarrow as pa

        last = self._last
        if last is not None and last.told.equals(told, check_metadata=True):
            return last
        schema = with_ids(told, reading.schema)
        places = columns_to_read(schema, reading.wanted)
        read = pa.schema([schema.field(place) for place in places])
        starts = first_leaves(schema)
        leaves: list[int] | None = None
        if len(places) < len(schema):
            leaves = [leaf for place in places for leaf in range(starts[place], starts[place + 1])]
        fits = read.equals(reading.wanted, check_metadata=True)
        self._last = last = _Shape(told, schema, leaves, read, fits, single_leaves(schema, starts))
        return last


def single_leaves(schema: pa.Schema, starts: Sequence[int]) -> dict[int | None, int]:
    """The columns whose statistics say all of them, by field id: places of their leaves.

    A leaf of a struct or list is null where the struct is not: its statistics say nothing of the whole.
    """
    import pyarrow as pa

    return {id_of(column): starts[place] for place, column in enumerate(schema) if not pa.types.is_nested(column.type)}


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
        skips: ``keep`` leaves all rows of a row group of which ``bound`` is known to be true for each.
        shapes: of the files read so far.
    """

    storage: Storage
    location: str
    table_name: str
    schema: Schema
    wanted: pa.Schema
    bound: Bound = TRUE
    keep: BatchFilter | None = None
    skips: bool = False
    shapes: _Shapes = field(default_factory=_Shapes)

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
        self._key = key_of(file.file_path, reading.location, reading.storage.root)
        self._kept = reading.is_bucket and file.file_size_in_bytes <= small_files.max_object
        self._body: bytes | memoryview | None = None
        if self._kept:
            self._body = small_files.find(reading.storage, self._key)
        self._batches = self._rows()

    @property
    def size(self) -> int:
        """Bytes of the file."""
        return self._file.file_size_in_bytes

    @property
    def at_hand(self) -> bool:
        """Whether a step has nothing to wait for."""
        return self._reading.is_local or self._body is not None

    @property
    def weight(self) -> int:
        """About how many bytes a step holds in memory."""
        # Also of one that fetches: what fills the memory with files leaves no room to decode them.
        size = self._file.file_size_in_bytes
        return min(STEP_BYTES, _EXPANSION * size) + min(size, 8 * ONE_REQUEST)

    @property
    def held(self) -> int:
        """Bytes in memory while no step is under way."""
        return 0 if self._body is None else len(self._body)

    @property
    def _to_fetch(self) -> bool:
        """Whether the next step fetches the file as a whole."""
        return self._body is None and not self._reading.is_local and self.size <= ONE_REQUEST

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
            if self._to_fetch:
                self._fetch()
                return found, True  # who decodes it is another one: those that wait are many, and decode badly
            for batch, keep in self._batches:
                size += batch.get_total_buffer_size()
                kept = batch if keep is None else keep(batch)
                if kept.num_rows:
                    found.append(kept)
                if size >= STEP_BYTES:
                    return found, True
        except (ObjectNotFoundError, FileNotFoundError) as error:
            raise CorruptTableError(
                f"table {self._reading.table_name}: data file {self._file.file_path} is missing. If snapshots were "
                "expired meanwhile, refresh the table; else restore the file."
            ) from error
        except (pa.ArrowException, OSError, DamagedFooterError) as error:
            small_files.forget(self._reading.storage, self._key)  # it may be restored, or was damaged on its way
            raise self._meaning(error) from error
        except CorruptTableError:
            small_files.forget(self._reading.storage, self._key)
            raise
        return found, False

    def _meaning(self, error: Exception) -> Exception:
        """The store's failures and those of a file: Arrow raises OSError for either."""
        table, path = self._reading.table_name, self._file.file_path
        if isinstance(error, OSError) and self._reading.is_bucket and (failure := self._of_store(error)) is not None:
            if isinstance(failure, ObjectNotFoundError):
                return CorruptTableError(f"table {table}: data file {path} is missing: restore it")
            return failure
        text = f"table {table}: data file {path} is not readable: {error}"
        if isinstance(error, OSError) and error.errno is not None:
            return StorageError(text, reason="unreachable", key=path)
        got = "" if self._body is None else f" (the store sent {len(self._body)} of its {self.size} bytes)"
        return CorruptTableError(f"{text}{got}: restore it")

    def _of_store(self, error: OSError) -> StorageError | None:
        """What an error of Arrow's S3 client means; None where the file is at fault."""
        from datashard_core.storage.arrow_errors import is_of_arrow
        from datashard_core.storage.s3 import S3Storage

        storage = self._reading.storage
        if not isinstance(storage, S3Storage) or not is_of_arrow(error):
            return None
        failure = storage.arrow_failure(error, "get", self._key)
        return failure if isinstance(failure, StorageError) else None

    def _rows(self) -> Iterator[tuple[pa.RecordBatch, BatchFilter | None]]:
        """The file's rows, and what leaves those of them that match; None where all do."""
        import pyarrow as pa

        reading, file = self._reading, self._file
        if file.file_format != "PARQUET":
            raise UnsupportedTableError(
                f"table {reading.table_name}: {file.file_path} is in the format {file.file_format}, and only Parquet "
                "can be read: rewrite it with the engine that wrote it"
            )
        source, options = self._open()
        with source:
            # Arrow reads the footer of a remote file as well, so it is handed the one that was checked.
            remote = self._body is None and not reading.is_local
            parquet = ParquetFile(source, checked=remote and reading.bound != TRUE, **options)
            if not remote and reading.bound != TRUE and parquet.metadata.num_row_groups > 1:
                parquet.check(source)
            if parquet.metadata.num_rows != file.record_count:
                raise CorruptTableError(
                    f"table {reading.table_name}: {file.file_path} holds {parquet.metadata.num_rows} rows, and its "
                    f"manifest says {file.record_count}"
                )
            try:
                shape = reading.shapes.of(parquet.schema, reading)
            except (UnicodeDecodeError, RecursionError) as error:
                raise DamagedFooterError(f"its schema cannot be read ({error})") from error
            for batch, all_match in _groups(parquet, shape, reading.bound):
                keep = None if all_match and reading.skips else reading.keep
                if batch.schema.equals(reading.wanted, check_metadata=True):
                    yield batch, keep
                elif shape.fits:
                    yield pa.RecordBatch.from_arrays(batch.columns, schema=reading.wanted), keep
                else:
                    rows = pa.Table.from_batches([batch])
                    rows = rows.cast(shape.read) if len(shape.read) else rows
                    for part in project(rows, reading.wanted, file.file_path).to_batches():
                        yield part, keep

    def _fetch(self) -> None:
        storage = self._reading.storage
        if self._kept:
            self._body = small_files.get(storage, self._key, self.size)
        else:
            self._body = whole(lambda: storage.get_data(self._key), self.size)
        if len(self._body) != self.size:
            found, self._body = len(self._body), None
            raise CorruptTableError(
                f"table {self._reading.table_name}: data file {self._file.file_path} has {found} bytes, and its "
                f"manifest says {self.size}: restore it"
            )

    def _open(self) -> tuple[Any, dict[str, Any]]:
        """The file to read from, and how."""
        import pyarrow as pa

        reading, size = self._reading, self._file.file_size_in_bytes
        if self._body is not None:
            return pa.BufferReader(self._body), {"pre_buffer": False}
        source = reading.storage.open_input(self._key)
        if not reading.is_local:
            return source, {}
        if size <= ONE_REQUEST and len(reading.wanted) == len(reading.schema.fields):
            with source:  # a read for each column takes longer than one of them all
                return pa.BufferReader(source.read_buffer()), {"pre_buffer": False}
        # Of a large local file a little at a time: a row group's columns need not be in memory as a whole.
        return source, {"buffer_size": _READ_SIZE if size > ONE_REQUEST else 0, "pre_buffer": False}


def _groups(parquet: ParquetFile, shape: _Shape, bound: Bound) -> Iterator[tuple[pa.RecordBatch, bool]]:
    """The batches of the row groups that may hold a row that matches, and whether all rows of the group do."""
    footer = parquet.metadata
    if footer.num_row_groups != 1 or bound == TRUE:
        for group, all_match in row_groups(footer, shape.places, bound):
            for batch in _decoded(parquet, group, shape.leaves):
                yield batch, all_match
        return
    # Arrow has to have read a column before its statistics are asked for: see ``parquet_types``.
    known = {key: place for key, place in shape.places.items() if shape.leaves is None or place in shape.leaves}
    matches: bool | None = None
    for batch in _decoded(parquet, 0, shape.leaves):
        if matches is None:
            matches = row_groups(footer, known, bound)[0][1]
        yield batch, matches


def _decoded(parquet: ParquetFile, group: int, leaves: Sequence[int] | None) -> Iterator[pa.RecordBatch]:
    """The batches of a row group; of no column at all where the file has none of those wanted."""
    import pyarrow as pa

    told = parquet.metadata.row_group(group)
    if leaves is not None and not leaves:
        empty = pa.table({"": pa.nulls(told.num_rows)}).select([])
        yield from empty.to_batches(max_chunksize=_MOST_ROWS)
        return
    size = max(1, told.total_byte_size // max(1, told.num_rows))
    rows = max(_FEWEST_ROWS, min(_MOST_ROWS, STEP_BYTES // size))
    yield from parquet.batches(rows, group, leaves)


def row_groups(footer: Any, places: Mapping[int | None, int], bound: Bound) -> list[tuple[int, bool]]:
    """The row groups that may hold a row that matches, by the statistics in a file's footer, and whether all rows do.

    Args:
        footer: ``pyarrow.parquet.FileMetaData``.
        places: of the leaves whose statistics count, by field id.
        bound: the condition.
    """
    groups = range(footer.num_row_groups)
    if bound == TRUE:
        return [(group, True) for group in groups]

    def known(check: Check, group: int) -> Known | None:
        place = places.get(check.reference.field.field_id) if len(check.reference.names) == 1 else None
        return None if place is None else _known(check.reference.field.type, footer.row_group(group).column(place))

    def allows(group: int, check: Check) -> bool:
        told = known(check, group)
        return told is None or possible(check, told)

    def holds(group: int, check: Check) -> bool:
        told = known(check, group)
        return told is not None and certain(check, told)

    # Of a group that is the whole file, the manifest's bounds have said as much.
    left = groups if len(groups) == 1 else [one for one in groups if might_match(bound, partial(allows, one))]
    return [(group, must_match(bound, partial(holds, group))) for group in left]


_STATISTICS: dict[str, tuple[type, ...]] = {
    "boolean": (bool,),
    "int": (int,),
    "long": (int,),
    "float": (float,),
    "double": (float,),
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
        try:
            if str(kind) in STORED:
                low, high = _moments(kind, statistics)
            else:
                low, high = _bound(kind, statistics.min), _bound(kind, statistics.max)
        except (ValueError, ArithmeticError, TypeError, NotImplementedError):
            low = high = None  # bytes that are no text, or a decimal whose bounds pyarrow 21 does not read
    return Known(low, high, *presence(kind, column.num_values, nulls, None), exact=holds_whole(kind))


def _bound(kind: t.IcebergType, value: Any) -> Any:
    """A bound out of a file's statistics in canonical form; None for what is not of the column's type."""
    types = (decimal.Decimal,) if isinstance(kind, t.DecimalType) else _STATISTICS.get(str(kind), ())
    if type(value) not in types or value != value:
        return None
    return canonical(kind, value)


_NANOS_PER_UNIT = {"milliseconds": 1_000_000, "microseconds": 1000, "nanoseconds": 1}


def _moments(kind: t.IcebergType, statistics: Any) -> tuple[int | None, int | None]:
    """Lowest and highest date, time or timestamp of a file's statistics, as stored; None for what is not known.

    From the file's own numbers: to Python's values Arrow cannot bring all of them, and of a time of 24:00 it makes
    00:00.
    """
    logical = json.loads(statistics.logical_type.to_json())
    name = _LOGICAL.get((logical["Type"], logical.get("isAdjustedToUTC") if logical["Type"] == "Timestamp" else None))
    low, high = statistics.min_raw, statistics.max_raw
    if name != str(kind) or type(low) is not int or type(high) is not int:
        return None, None
    if name == "date":
        return low, high
    nanos = _NANOS_PER_UNIT.get(logical["timeUnit"])
    if nanos is None:
        return None, None
    return low * nanos // 1000, -(-high * nanos // 1000)


_LOGICAL: dict[tuple[str, bool | None], str] = {
    ("Date", None): "date",
    ("Time", None): "time",
    ("Timestamp", False): "timestamp",
    ("Timestamp", True): "timestamptz",
}
