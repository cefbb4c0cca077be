"""Arrow's reader of Parquet, without what ``pyarrow.parquet`` imports beside it; see ``parquet_writer``."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

from datashard_core.format.parquet.chunk_types import check_types, footer_in

if TYPE_CHECKING:
    import pyarrow as pa


class DamagedFooterError(ValueError):
    """A footer contradicts itself."""


class ParquetFile:
    """A Parquet file that is open. Not to be used by two threads at once.

    Args:
        source: a stream of Arrow's that can seek; it is left open.
        buffer_size: a column is read so many bytes at a time; 0: at once.
        pre_buffer: the columns wanted are read ahead together, by few requests.
        checked: look first whether the statistics of its row groups can be asked for: see ``parquet_types``.

    Raises:
        pyarrow.ArrowException: it is no Parquet file.
        OSError: it is cut short, or the source failed.
        DamagedFooterError: its row groups have other rows than it says itself.
    """

    def __init__(self, source: Any, *, buffer_size: int = 0, pre_buffer: bool = True, checked: bool = False) -> None:
        options: dict[str, Any] = {"buffer_size": buffer_size, "pre_buffer": pre_buffer}
        if checked:
            options["metadata"] = _checked_metadata(source)
        self._reader = _inner_reader(source, options) or _public_reader(source, options)
        footer = self._reader.metadata
        groups = [footer.row_group(group).num_rows for group in range(footer.num_row_groups)]
        if min(groups, default=0) < 0 or sum(groups) != footer.num_rows:
            raise DamagedFooterError(f"its footer says {footer.num_rows} rows, and {sum(groups)} in its row groups")

    @property
    def metadata(self) -> Any:
        """What the footer says: ``pyarrow.parquet.FileMetaData``."""
        return self._reader.metadata

    @property
    def schema(self) -> pa.Schema:
        """Arrow schema of the file, with field ids in the metadata of its fields."""
        return self._reader.schema_arrow

    def check(self, source: Any) -> None:
        """Look whether the statistics of the row groups can be asked for: see ``parquet_types``.

        Raises:
            DamagedFooterError: they cannot.
        """
        _checked_footer(source)

    def batches(self, rows: int, group: int, leaves: Sequence[int] | None) -> Iterator[pa.RecordBatch]:
        """The rows of a row group, decoded in this thread: threads of a scan read files side by side.

        Args:
            rows: in a batch, at the most.
            group: number of the row group.
            leaves: places of the leaf columns wanted; None for all.

        Raises:
            DamagedFooterError: it holds other rows than the footer says.
        """
        left = self.metadata.row_group(group).num_rows
        for batch in self._batches(rows, group, leaves):
            left -= batch.num_rows
            yield batch
        if left:
            raise DamagedFooterError(f"row group {group} lacks {left} of the rows that its footer says")

    def _batches(self, rows: int, group: int, leaves: Sequence[int] | None) -> Iterator[pa.RecordBatch]:
        if self.metadata.row_group(group).num_rows <= rows:
            # Decoded at once: a reader that cuts it into batches is set up, and copies, for nothing.
            yield from self._reader.read_row_group(group, column_indices=leaves, use_threads=False).to_batches()
            return
        yield from self._reader.iter_batches(rows, [group], column_indices=leaves, use_threads=False)


def _checked_footer(source: Any) -> bytes:
    try:
        footer = footer_in(source)
        check_types(footer)
    except (ValueError, IndexError) as error:
        raise DamagedFooterError(f"its footer is damaged: {error}") from error
    return footer


def _checked_metadata(source: Any) -> Any:
    """The footer, read once: Arrow is handed what was looked at."""
    import pyarrow as pa

    whole = pa.BufferReader(b"PAR1" + _checked_footer(source))
    options: dict[str, Any] = {"buffer_size": 0, "pre_buffer": False}
    return (_inner_reader(whole, options) or _public_reader(whole, options)).metadata


def _inner_reader(source: Any, options: dict[str, Any]) -> Any:
    """The class that reads; None where this release of Arrow has another."""
    try:
        from pyarrow._parquet import ParquetReader

        reader = ParquetReader()
        reader.open(source, arrow_extensions_enabled=True, **options)
    except (ImportError, TypeError):
        return None
    return reader


def _public_reader(source: Any, options: dict[str, Any]) -> Any:
    from pyarrow.parquet import ParquetFile as Public

    return Public(source, **options).reader
