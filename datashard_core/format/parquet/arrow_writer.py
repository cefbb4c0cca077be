"""Arrow's writer of Parquet, without what ``pyarrow.parquet`` imports beside it.

That module brings in the clients of four object stores, and ssl: more than half as much again as
``pyarrow`` itself, in every process that appends once and ends. The class below it, which does the
writing, is imported alone. It is no public name of Arrow's, so where a release has moved it or
changed its arguments, the public one does the same work.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import pyarrow as pa


@contextmanager
def parquet_writer(sink: Any, schema: pa.Schema, footers: list[Any], **options: Any) -> Iterator[Any]:
    """A writer with ``write_table(table, row_group_size=...)``, closed after the block unless that failed.

    Args:
        sink: a binary stream, or a stream of Arrow's; it is left open.
        schema: of the tables to come.
        footers: the file's metadata are added to it in the end.
        options: as ``pyarrow.parquet.ParquetWriter`` names them.
    """
    writer = _inner_writer(sink, schema, options) or _public_writer(sink, schema, options)
    try:
        yield writer
        writer.close()
    except BaseException:
        if hasattr(writer, "is_open"):
            writer.is_open = False  # its end would close what failed, and hide the error behind one of its own
        raise
    footers.append(writer.metadata if hasattr(writer, "metadata") else writer.writer.metadata)


def _inner_writer(sink: Any, schema: pa.Schema, options: dict[str, Any]) -> Any:
    """The class that writes; None where this release of Arrow has another."""
    try:
        from pyarrow._parquet import ParquetWriter

        return ParquetWriter(sink, schema, writer_engine_version="V2", **options)
    except (ImportError, TypeError):
        return None


def _public_writer(sink: Any, schema: pa.Schema, options: dict[str, Any]) -> Any:
    from pyarrow.parquet import ParquetWriter

    return ParquetWriter(sink, schema, **options)
