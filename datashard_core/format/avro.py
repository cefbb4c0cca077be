"""Avro container files as Iceberg uses them: fields are told apart by id, whatever they are called.

Avro does not say how many records a file has, so one that was cut between two blocks reads as a
shorter list, without an error. Files of ours carry the count in their header; of others it is
checked that the file ends where a block ends.
"""

from __future__ import annotations

import io
import struct
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import cache, cached_property
from typing import Any

import msgspec
from msgspec import Struct

from datashard_core._imports import blake2b
from datashard_core.errors import CorruptTableError
from datashard_core.format.avro_records import Coder, coder_of, read_sized, write_number, write_sized
from datashard_core.format.avro_shape import read_number
from datashard_core.format.partition import FIRST_FIELD_ID

ENTRIES = "datashard.entries"
"""Key in the header of our files: how many records follow."""

_BLOCK_BYTES = 16_000
"""A block ends with the record that reaches so many bytes: whoever reads need not hold more at a time."""

_MAGIC = b"Obj\x01"
_SCHEMA = "avro.schema"
_SYNC_BYTES = 16
_DAMAGE = (
    ValueError,
    EOFError,
    LookupError,
    TypeError,
    AttributeError,
    OSError,
    AssertionError,
    ArithmeticError,
    MemoryError,
    RecursionError,
    struct.error,
    zlib.error,
)
"""What reading damaged bytes raises: the reader takes them for lengths, names and numbers."""


class Records(Struct, frozen=True):
    """What a file holds.

    Attributes:
        rows: its records; fields have the names that were asked for by id.
        header: the key-value pairs of its header, the schema left out.
        field_ids: ids of the fields of a record, as far as the file tells.
    """

    rows: list[dict[str, Any]]
    header: Mapping[str, str]
    field_ids: frozenset[int]


def write(schema: Mapping[str, Any], rows: Sequence[Mapping[str, Any]], header: Mapping[str, str]) -> bytes:
    """The bytes of a file.

    Args:
        schema: its Avro schema, with field ids.
        rows: its records.
        header: key-value pairs for its header.
    """
    coder = coder_of(schema)
    if coder is not None:
        return _written(schema, rows, {**header, ENTRIES: str(len(rows))}, coder)
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
    coder = coder_of(blocks.schema)
    try:
        rows = _rows(data) if coder is None else [row for block in blocks.blocks for row in _decoded(block, coder)]
        ids = frozenset(field["field-id"] for field in blocks.schema["fields"] if "field-id" in field)
        renaming = _renaming(blocks.schema, names(blocks.header))
    except _DAMAGE as error:
        raise not_readable(where, error) from error
    return Records([_renamed(row, renaming) for row in rows] if renaming else rows, blocks.header, ids)


def _written(schema: Mapping[str, Any], rows: Sequence[Any], header: Mapping[str, str], coder: Coder) -> bytes:
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
        coder.write(records, row)
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


def _decoded(block: Block, coder: Coder) -> Iterator[Any]:
    """The records of a block."""
    data, at = block.records, 0
    if block.count > len(data):
        raise ValueError(f"{len(data)} bytes hold no {block.count} records")
    for _ in range(block.count):
        row, at = coder.read(data, at)
        yield row
    if at != len(data):
        raise ValueError(f"a block of {len(data)} bytes has records of {at}")


def _rows(data: bytes) -> list[Any]:
    """The records of a file whose fields may be of any kind."""
    import fastavro
    from fastavro.schema import SchemaParseException

    try:
        return list(fastavro.reader(io.BytesIO(data)))
    except SchemaParseException as error:
        raise ValueError(str(error)) from error


@cache
def _parsed(text: bytes) -> Any:
    import fastavro

    return fastavro.parse_schema(msgspec.json.decode(text), named_schemas={})


class Block:
    """Some records of a file, one after the other, their bytes decompressed when they are asked for.

    Args:
        count: how many records it holds.
        data: its bytes as they are in the file.
        deflated: whether they are compressed.
    """

    def __init__(self, count: int, data: bytes, deflated: bool) -> None:
        self.count = count
        self._data = data
        self._deflated = deflated

    @cached_property
    def records(self) -> bytes:
        """The records.

        Raises:
            zlib.error: the bytes are damaged.
        """
        return zlib.decompress(self._data, -zlib.MAX_WBITS) if self._deflated else self._data


class Blocks(Struct, frozen=True):
    """A file, its records not read yet.

    Attributes:
        schema: the Avro schema of a record.
        header: the key-value pairs of its header, the schema left out.
        blocks: its blocks.
    """

    schema: Mapping[str, Any]
    header: Mapping[str, str]
    blocks: Sequence[Block]


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
        schema: Any = msgspec.json.decode(header.pop(_SCHEMA))
        if not isinstance(schema["fields"], list):
            raise ValueError("its records have no fields")
        codec = header.get("avro.codec", "null")
        blocks = list(_blocks(data, at, sync, codec == "deflate"))
        if codec not in ("null", "deflate"):
            blocks = _decompressed(data)
        told = int(header[ENTRIES]) if ENTRIES in header else None
    except _DAMAGE as error:
        raise not_readable(where, error) from error
    found = sum(block.count for block in blocks)
    if told is not None and told != found:
        raise CorruptTableError(f"{where} holds {found} entries, and its header says {told}: restore it")
    return Blocks(schema, header, blocks)


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


def _blocks(data: bytes, at: int, sync: bytes, deflated: bool) -> Iterator[Block]:
    while at < len(data):
        count, at = read_number(data, at)
        body, at = read_sized(data, at)
        if count < 0 or data[at : at + _SYNC_BYTES] != sync:
            raise ValueError("a block does not end where it should")
        at += _SYNC_BYTES
        yield Block(count, body, deflated)


def _decompressed(data: bytes) -> list[Block]:
    """The blocks of a file that is compressed in a way that few writers use."""
    import fastavro
    from fastavro.schema import SchemaParseException

    try:
        found: Any = fastavro.block_reader(io.BytesIO(data))
        return [Block(int(block.num_records), block.bytes_.getvalue(), deflated=False) for block in found]
    except SchemaParseException as error:
        raise ValueError(str(error)) from error


def not_readable(where: str, error: Exception) -> CorruptTableError:
    """The error for a file that is damaged."""
    return CorruptTableError(f"{where} is not readable as Avro ({type(error).__name__}: {error}): restore it")


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
