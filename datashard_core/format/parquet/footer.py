"""What the last bytes of a Parquet file tell without the rest of it."""

from __future__ import annotations

from datashard_core.format.parquet.arrow_reader import ParquetFile
from datashard_core.format.parquet.python_parquet import MAGIC

TAIL = 64 * 2**10
"""So many of its last bytes hold the whole footer of most files."""
_LENGTH_BYTES = 4


def rows_in_tail(tail: bytes) -> int | None:
    """How many rows the footer counts; None where the footer begins before these bytes.

    Args:
        tail: the last :data:`TAIL` bytes of a file, or all of a smaller one.

    Raises:
        ValueError: no Parquet file ends like this.
    """
    import pyarrow as pa

    ending = len(MAGIC) + _LENGTH_BYTES
    if len(tail) < ending or not tail.endswith(MAGIC):
        raise ValueError("it does not end as a Parquet file does")
    size = int.from_bytes(tail[-ending : -len(MAGIC)], "little")
    if size + ending > len(tail):
        if len(tail) < TAIL:
            raise ValueError("its footer is longer than the file")
        return None
    try:
        # Arrow reads a footer by its place from the end, and asks nothing of what lies before it.
        return int(ParquetFile(pa.BufferReader(MAGIC + tail[-size - ending :])).metadata.num_rows)
    except (pa.ArrowException, OSError) as error:
        raise ValueError(f"its footer cannot be read: {error}") from error
