"""The rows of several small data files as one Parquet file, in memory that does not grow with them. Pure.

A text that stands in a dictionary once can stand in every row, so the bytes of a file do not tell how many its rows
become: files of logs often have a hundredth of them. Rows are decoded a batch at a time, and what does not fit in
memory together is encoded row group by row group.
"""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from msgspec import Struct

from datashard_core.errors import CorruptTableError, UnsupportedTableError
from datashard_core.format.metadata.data_file import DataFile
from datashard_core.format.parquet.arrow_reader import DamagedFooterError, ParquetFile
from datashard_core.format.parquet.parquet import EncodedParquet, encode_parquet, encode_stream
from datashard_core.format.rows.projection import project, with_ids
from datashard_core.format.types.schema import Schema

if TYPE_CHECKING:
    import pyarrow as pa

log = logging.getLogger(__name__)

IN_MEMORY = 256 * 2**20
"""Bytes of rows that are encoded together, as those of an append are."""
FIRST_ROWS = 64
MOST_ROWS = 131_072
AT_A_TIME = 64 * 2**20
"""Bytes of rows that are decoded at a time, even if each row is as long as its row group."""


class TooLargeError(UnsupportedTableError):
    """A small file has too many bytes of rows."""


class Rewritten(Struct, frozen=True):
    """What became of files.

    Attributes:
        files: those whose rows are in the new one.
        encoded: the new one.
        left_out: paths of those with too many bytes of rows.
    """

    files: tuple[DataFile, ...]
    encoded: EncodedParquet
    left_out: frozenset[str]


def rewrite(bodies: Sequence[tuple[DataFile, bytes]], schema: Schema, table: str, most: int) -> Rewritten:
    """Encode the rows of files as one.

    Args:
        bodies: the files, with their bytes.
        schema: the table's.
        table: for messages.
        most: bytes that the rows of one file may become; after so many no further file is begun.

    Raises:
        CorruptTableError: a file is damaged, or holds another number of rows or bytes than its manifest says.
    """
    left_out: set[str] = set()
    while True:
        kept = [one for one in bodies if one[0].file_path not in left_out]
        begun: list[DataFile] = []
        try:
            encoded = _encoded(_parts(kept, begun, schema, table, most), schema)
        except TooLargeError as error:
            log.warning("%s", error)
            left_out.add(begun[-1].file_path)
        else:
            return Rewritten(tuple(begun), encoded, frozenset(left_out))


def _parts(
    bodies: Sequence[tuple[DataFile, bytes]], begun: list[DataFile], schema: Schema, table: str, most: int
) -> Iterator[pa.Table]:
    """The rows of the files; each file is added to ``begun`` before its rows are read."""
    size = 0
    for file, data in bodies:
        if size >= most:
            return
        begun.append(file)
        for part in parts_of(data, file, schema, f"{table}: {file.file_path}", most):
            size += part.nbytes
            yield part


def _encoded(parts: Iterator[pa.Table], schema: Schema) -> EncodedParquet:
    import pyarrow as pa

    held: deque[pa.Table] = deque()
    size = 0
    for part in parts:
        held.append(part)
        size += part.nbytes
        if size > IN_MEMORY:
            return encode_stream(_drained(held, parts), schema)
    return encode_parquet(pa.concat_tables(held) if held else schema.to_arrow().empty_table(), schema)


def _drained(held: deque[pa.Table], parts: Iterator[pa.Table]) -> Iterator[pa.Table]:
    """What is held, which is let go of meanwhile, and what follows."""
    while held:
        yield held.popleft()
    yield from parts


def parts_of(data: bytes, file: DataFile, schema: Schema, where: str, most: int) -> Iterator[pa.Table]:
    """The rows of a small data file in the form of the table's schema, a batch at a time.

    Args:
        data: its bytes.
        file: what its manifest says of it.
        schema: the table's.
        where: for messages.
        most: bytes that its rows may become.

    Raises:
        CorruptTableError: the file is damaged, or holds another number of rows or bytes than its manifest says.
        TooLargeError: its rows become more bytes.
    """
    import pyarrow as pa

    if len(data) != file.file_size_in_bytes:
        raise CorruptTableError(
            f"{where} is not readable (it has {len(data)} bytes, and its manifest says {file.file_size_in_bytes}): "
            "restore it. Nothing was compacted."
        )
    wanted, left = schema.to_arrow(), most
    try:
        parquet = ParquetFile(pa.BufferReader(data), pre_buffer=False)
        footer = parquet.metadata
        if footer.num_rows != file.record_count:
            raise CorruptTableError(
                f"{where} holds {footer.num_rows} rows, and its manifest says {file.record_count}. Nothing was "
                "compacted."
            )
        named = with_ids(parquet.schema, schema)
        for batch in _batches(parquet):
            part = project(pa.Table.from_arrays(batch.columns, schema=named), wanted, where)
            left -= part.nbytes
            if left < 0:
                raise TooLargeError(
                    f"{where} becomes more than {most} bytes when it is decoded: it is left as it is. Compact it with "
                    "another engine if it has to be."
                )
            yield part
    except (pa.ArrowException, OSError, DamagedFooterError, UnicodeDecodeError, RecursionError) as error:
        raise CorruptTableError(f"{where} is not readable ({error}): restore it. Nothing was compacted.") from error


def _batches(parquet: ParquetFile) -> Iterator[pa.RecordBatch]:
    footer = parquet.metadata
    for place in range(footer.num_row_groups):
        group = footer.row_group(place)
        # No row is longer than its row group, so as many of them are decoded as fit in memory even then.
        rows = FIRST_ROWS
        while group.num_rows > rows and rows < MOST_ROWS and rows * group.total_byte_size < AT_A_TIME:
            rows *= 2
        yield from parquet.batches(rows, place, None)
