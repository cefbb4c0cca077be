"""Avro container files as Iceberg uses them: fields are told apart by id, whatever they are called.

What others wrote is read within limits: see ``avro_schema`` and :class:`~datashard_core.format.avro.avro_reader.Room`.

Avro does not say how many records a file has, so one that was cut between two blocks reads as a
shorter list, without an error. Files of ours carry the count in their header; of others it is
checked that the file ends where a block ends.
"""

from __future__ import annotations

import io
import struct
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import cached_property, lru_cache
from typing import Any

import msgspec
from msgspec import Struct

from datashard_core._imports import blake2b
from datashard_core.errors import CorruptTableError
from datashard_core.format.avro.avro_reader import Read, Room, reader_of
from datashard_core.format.avro.avro_records import Write, write_number, write_sized, writer_of
from datashard_core.format.avro.avro_schema import Checked, checked_schema
from datashard_core.format.avro.codecs import CODECS, decompressed
from datashard_core.format.avro.record_pattern import read_number, read_sized
from datashard_core.format.json_text import whole_number
from datashard_core.format.metadata.partition import FIRST_FIELD_ID

ENTRIES = "datashard.entries"
"""Key in the header of our files: how many records follow."""

_BLOCK_BYTES = 16_000
"""A block ends with the record that reaches so many bytes: whoever reads need not hold more at a time."""

_MAGIC = b"Obj\x01"
_SCHEMA = "avro.schema"
_SYNC_BYTES = 16
DAMAGE = (
    ValueError,
    EOFError,
    LookupError,
    TypeError,
    AttributeError,
    OSError,
    AssertionError,
    ArithmeticError,
    struct.error,
    zlib.error,
)
"""What reading damaged bytes raises: the reader takes them for lengths, names and numbers."""


class Records(Struct, frozen=True):
    """What a file holds.

    Attributes:
        rows: its records, read as they are asked for; fields have the names that were asked for by id.
            CorruptTableError where one is damaged.
        header: the key-value pairs of its header, the schema left out.
        field_ids: ids of the fields of a record, as far as the file tells.
    """

    rows: Iterator[dict[str, Any]]
    header: Mapping[str, str]
    field_ids: frozenset[int]


def write(schema: Mapping[str, Any], rows: Sequence[Mapping[str, Any]], header: Mapping[str, str]) -> bytes:
    """The bytes of a file.

    Args:
        schema: its Avro schema, with field ids.
        rows: its records.
        header: key-value pairs for its header.
    """
    write_it = writer_of(schema)
    if write_it is not None:
        return _written(schema, rows, {**header, ENTRIES: str(len(rows))}, write_it)
    import fastavro

    sink = io.BytesIO()
    fastavro.writer(
        sink,
        _parsed(msgspec.json.encode(schema)),
        rows,
        codec="deflate",
        metadata={**header, ENTRIES: str(len(rows))},
    )
    return sink.getvalue()


def read(data: bytes, where: str, names: Callable[[Mapping[str, str]], Mapping[int, str]]) -> Records:
    """The records of a file.

    Args:
        data: its bytes.
        where: its URI, for messages.
        names: given the header, what the fields are to be called, by field id. A field without an id, or
            with another one, keeps its name.

    Raises:
        CorruptTableError: it is cut short or damaged.
    """
    blocks = read_blocks(data, where)
    try:
        ids = frozenset(field["field-id"] for field in blocks.schema["fields"] if "field-id" in field)
        renaming = _renaming(blocks.schema, names(blocks.header))
        read_it = reader_of(blocks.text)
    except DAMAGE as error:
        raise not_readable(where, error) from error
    return Records(_rows(blocks, read_it, renaming, where), blocks.header, ids)


def _rows(blocks: Blocks, read_it: Read, renaming: Renaming, where: str) -> Iterator[dict[str, Any]]:
    try:
        for block in blocks.blocks:
            for row in _decoded(block, read_it, blocks.room):
                yield _renamed(row, renaming) if renaming else row
    except DAMAGE as error:
        raise not_readable(where, error) from error


def _written(schema: Mapping[str, Any], rows: Sequence[Any], header: Mapping[str, str], write_it: Write) -> bytes:
    """A file of plain records."""
    out = bytearray(_MAGIC)
    pairs = {_SCHEMA: msgspec.json.encode(schema), "avro.codec": b"deflate"}
    pairs |= {key: value.encode() for key, value in header.items()}
    write_number(out, len(pairs))
    for key, value in pairs.items():
        write_sized(out, key.encode())
        write_sized(out, value)
    out.append(0)
    blocks: list[tuple[int, bytearray]] = []
    count, records = 0, bytearray()
    for row in rows:
        write_it(records, row)
        count += 1
        if len(records) >= _BLOCK_BYTES:
            blocks.append((count, records))
            count, records = 0, bytearray()
    if count:
        blocks.append((count, records))
    # The marker has to be one that is nowhere else in the file by chance; of the same records it may be the same.
    sync = blake2b(b"".join(block for _, block in blocks), digest_size=_SYNC_BYTES).digest()
    out += sync
    for many, block in blocks:
        deflate = zlib.compressobj(wbits=-zlib.MAX_WBITS)
        write_number(out, many)
        write_sized(out, deflate.compress(block) + deflate.flush())
        out += sync
    return bytes(out)


def _decoded(block: Block, read_it: Read, room: Room) -> Iterator[Any]:
    """The records of a block."""
    data, at = block.records, 0
    if block.count > len(data):
        raise ValueError(f"{len(data)} bytes hold no {block.count} records")
    for _ in range(block.count):
        row, at = read_it(data, at, room)
        yield row
    if at != len(data):
        raise ValueError(f"a block of {len(data)} bytes has records of {at}")


@lru_cache(maxsize=64)
def _parsed(text: bytes) -> Any:
    import fastavro

    return fastavro.parse_schema(msgspec.json.decode(text), named_schemas={})


class Block:
    """Some records of a file, one after the other, their bytes decompressed when they are asked for.

    Args:
        count: how many records it holds.
        data: its bytes as they are in the file.
        codec: how they are compressed.
        room: of the file.
    """

    def __init__(self, count: int, data: bytes, codec: str, room: Room) -> None:
        self.count = count
        self._data = data
        self._codec = codec
        self._room = room

    @cached_property
    def records(self) -> bytes:
        """The records.

        Raises:
            zlib.error: the bytes are damaged; likewise ValueError, EOFError and OSError.
        """
        if self._codec == "null":
            return self._data
        return self._room.kept(decompressed(self._codec, self._data, self._room.bytes))


class Blocks(Struct, frozen=True):
    """A file, its records not read yet.

    Attributes:
        text: the Avro schema of a record, as the file has it.
        checked: the same, checked.
        header: the key-value pairs of its header, the schema left out.
        blocks: its blocks.
        room: what its records may take.
    """

    text: str
    checked: Checked
    header: Mapping[str, str]
    blocks: Sequence[Block]
    room: Room

    @property
    def schema(self) -> Mapping[str, Any]:
        """The schema as JSON has it, with types in the place of their names."""
        schema: Mapping[str, Any] = self.checked.kind
        return schema


def read_blocks(data: bytes, where: str) -> Blocks:
    """The blocks of a file.

    Args:
        data: its bytes.
        where: its URI, for messages.

    Raises:
        CorruptTableError: it is cut short or damaged.
    """
    try:
        header, at = _header(data)
        sync = data[at - _SYNC_BYTES : at]
        text = header.pop(_SCHEMA)
        checked = checked_schema(text)
        codec = header.get("avro.codec", "null")
        if codec not in CODECS:
            raise ValueError(f"it is compressed by {codec!r:.80}, and known are {', '.join(CODECS)}")
        room = Room(len(data))
        blocks = list(_blocks(data, at, sync, codec, room))
        found = sum(block.count for block in blocks)
        told = whole_number(header[ENTRIES]) if ENTRIES in header else found
        room.take(found * checked.values)
    except DAMAGE as error:
        raise not_readable(where, error) from error
    if told != found:
        raise CorruptTableError(f"{where} holds {found} entries, and its header says {header[ENTRIES]:.80}: restore it")
    return Blocks(text, checked, header, blocks, room)


def _header(data: bytes) -> tuple[dict[str, str], int]:
    """The key-value pairs of a file's header, and where its first block begins."""
    if data[: len(_MAGIC)] != _MAGIC:
        raise ValueError("it does not begin as Avro files do")
    header: dict[str, str] = {}
    count, at = read_number(data, len(_MAGIC))
    while count:
        if count < 0:  # its pairs are preceded by their size in bytes
            at = read_number(data, at)[1]
        for _ in range(abs(count)):
            key, at = read_sized(data, at)
            value, at = read_sized(data, at)
            header[key.decode()] = value.decode()
        count, at = read_number(data, at)
    if at + _SYNC_BYTES > len(data):
        raise EOFError("it ends within its header")
    return header, at + _SYNC_BYTES


def _blocks(data: bytes, at: int, sync: bytes, codec: str, room: Room) -> Iterator[Block]:
    while at < len(data):
        count, at = read_number(data, at)
        body, at = read_sized(data, at)
        if count < 0 or data[at : at + _SYNC_BYTES] != sync:
            raise ValueError("a block does not end where it should")
        at += _SYNC_BYTES
        yield Block(count, body, codec, room)


def not_readable(where: str, error: Exception) -> CorruptTableError:
    """The error for a file that is damaged."""
    return CorruptTableError(f"{where} is not readable as Avro ({type(error).__name__}: {error!s:.300}): restore it")


Renaming = dict[str, tuple[str, "Renaming"]]
"""Name in the file -> name wanted, and the same for what is inside; empty where nothing changes."""


def _renaming(kind: Any, names: Mapping[int, str]) -> Renaming:
    if isinstance(kind, list):
        return next((found for part in kind if (found := _renaming(part, names))), {})
    if not isinstance(kind, dict):
        return {}
    if kind.get("type") == "array":
        return _renaming(kind["items"], names)
    if kind.get("type") != "record":
        return {}
    fields = {field["name"]: (_wanted(field, names), _renaming(field["type"], names)) for field in kind["fields"]}
    changes = any(name != wanted or inside for name, (wanted, inside) in fields.items())
    return fields if changes else {}


def _wanted(field: Mapping[str, Any], names: Mapping[int, str]) -> str:
    number, name = field.get("field-id"), str(field["name"])
    if number is None:
        return name
    if number in names:
        return names[number]
    # A field that is not ours may have a name of ours.
    return f"{name} (id {number})" if number < FIRST_FIELD_ID and name in names.values() else name


def _renamed(value: Any, renaming: Renaming) -> Any:
    if isinstance(value, list):
        return [_renamed(one, renaming) for one in value]
    if not isinstance(value, dict):
        return value
    return {
        renaming[name][0]: _renamed(inside, renaming[name][1]) if renaming[name][1] else inside
        for name, inside in value.items()
    }
