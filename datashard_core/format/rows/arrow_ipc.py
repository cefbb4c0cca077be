"""How much memory an Arrow IPC stream asks for, looked up before any of it is given.

A compressed buffer begins with the length that it will have, and Arrow allocates that much at its word: 190 KB can
ask for 10 GB. Arrow shows neither those lengths nor where the buffers are, so they are read here, out of the
messages' metadata (https://arrow.apache.org/docs/format/Columnar.html, ``Message.fbs``; flatbuffers).
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from typing import Any

from msgspec import Struct

_HEADER_TYPE, _HEADER = 1, 2  # fields of a message
_DICTIONARY_BATCH, _RECORD_BATCH = 2, 3  # types of a header
_DICTIONARY = 1  # field of a dictionary batch: its record batch
_LENGTH, _NODES, _BUFFERS, _COMPRESSION = 0, 1, 2, 3  # fields of a record batch
_PAIR = struct.Struct("<qq")  # a node's length and nulls, or a buffer's place and length
_LONG = struct.Struct("<q")


class Claim(Struct, frozen=True):
    """What a stream asks for.

    Attributes:
        rows: rows of all record batches together.
        longest: the highest number of values in one array.
        size: bytes of all buffers, decompressed.
    """

    rows: int
    longest: int
    size: int


def claimed(data: bytes) -> Claim:
    """What reading a stream would take.

    Args:
        data: the stream.

    Raises:
        ValueError: it is damaged (Arrow's errors are ValueErrors); likewise struct.error and OSError.
    """
    import pyarrow as pa

    rows = longest = size = 0
    reader = pa.ipc.MessageReader.open_stream(pa.BufferReader(data))
    while True:
        try:
            message = reader.read_next_message()
        except StopIteration:
            return Claim(rows, longest, size)
        batch = _batch_of(memoryview(message.metadata))
        if batch is None:
            continue
        rows += batch.number(_LENGTH)
        longest = max([longest, *(length for length, _ in batch.pairs(_NODES))])
        is_compressed = batch.place(_COMPRESSION) is not None
        body = memoryview(message.body) if message.body is not None else memoryview(b"")
        for at, length in batch.pairs(_BUFFERS):
            size += _size(body, at, length) if is_compressed else length


def _size(body: memoryview, at: int, length: int) -> int:
    """How many bytes a compressed buffer becomes."""
    if length == 0:
        return 0
    if at < 0:
        raise ValueError("a buffer begins before its message")
    (size,) = _LONG.unpack_from(body, at)
    if size == -1:
        return length  # as it is
    if size < 0:
        raise ValueError("a buffer of a negative length")
    return int(size)


class _Table:
    """A table of flatbuffers: its fields are found by a list of places before or after it."""

    def __init__(self, data: memoryview, at: int) -> None:
        self._data = data
        self._at = at
        self._fields = at - self._number("<i", at)
        self._count = (self._number("<H", self._fields) - 4) // 2

    def place(self, field: int) -> int | None:
        """Where the value of a field is; None if it is left out."""
        if field >= self._count:
            return None
        offset = self._number("<H", self._fields + 4 + 2 * field)
        return self._at + offset if offset else None

    def number(self, field: int, form: str = "<q") -> int:
        """A number; 0 if it is left out."""
        at = self.place(field)
        number = 0 if at is None else self._number(form, at)
        if number < 0:
            raise ValueError("a batch of a negative length")
        return number

    def table(self, field: int) -> _Table:
        """A table that a field refers to."""
        return _Table(self._data, self._referred(field))

    def pairs(self, field: int) -> Iterator[tuple[int, int]]:
        """The pairs of numbers of a vector."""
        if self.place(field) is None:
            return iter(())
        start = self._referred(field)
        end = start + 4 + _PAIR.size * self._number("<I", start)
        if end > len(self._data):
            raise ValueError("a vector goes on beyond the end of its message")
        return _PAIR.iter_unpack(self._data[start + 4 : end])

    def _referred(self, field: int) -> int:
        at = self.place(field)
        if at is None:
            raise ValueError("a field of a message is left out")
        return at + self._number("<I", at)

    def _number(self, form: str, at: int) -> int:
        if at < 0:
            raise ValueError("a message refers to what is before it")
        number: Any = struct.unpack_from(form, self._data, at)[0]
        return int(number)


def _batch_of(metadata: memoryview) -> _Table | None:
    """The record batch of a message, a dictionary's too; None for a schema."""
    (root,) = struct.unpack_from("<I", metadata)
    message = _Table(metadata, root)
    kind = message.number(_HEADER_TYPE, "<B")
    if kind == _DICTIONARY_BATCH:
        return message.table(_HEADER).table(_DICTIONARY)
    return message.table(_HEADER) if kind == _RECORD_BATCH else None
