"""What a staged object holds: rows, or the description of data files that are finished already.

It begins with a magic number, a digest of all that follows, and the length of a header in JSON. Behind the header are
the rows: a few plain ones as MessagePack, others as an Arrow IPC stream. Whoever waits in line stages rows and never
reads any, so a process that appends a few plain rows and is carried by others needs no Arrow for it.

Everything here is pure.
"""

from __future__ import annotations

import struct
from collections.abc import Mapping, Sequence
from typing import Annotated, Any

import msgspec
from msgspec import Meta, Struct
from msgspec.structs import asdict

from datashard_core._imports import blake2b
from datashard_core.commit.staging import StagedName
from datashard_core.errors import DataShardError
from datashard_core.format.data_file import DataFile, Id
from datashard_core.format.digest import id_digest
from datashard_core.format.json_text import whole_number
from datashard_core.format.plain_rows import FEW_ROWS, PlainRows, Rows, rows_by_id
from datashard_core.format.schema import Schema

FORMAT = 2
MAX_BODY_BYTES = 16 * 2**20
"""Rows above this many bytes are written as data files, and the body describes them."""

MAX_BODY_ROWS = 4 * 2**20
"""Likewise for more rows: a column that they lack takes eight bytes for each of them."""
_MOST_DECODED = 4 * MAX_BODY_BYTES
"""Bytes that the rows of a body become: they had no more than :data:`MAX_BODY_BYTES`, and Arrow pads buffers."""
_MOST_VALUES = 8 * _MOST_DECODED
"""Values in one array, each of which takes a bit."""

_MAGIC = b"DSstaged"
_DIGEST_BYTES = 16
_HEAD = struct.Struct(f"<{len(_MAGIC)}s{_DIGEST_BYTES}s")
_LENGTH = struct.Struct("<I")


class UnreadableBodyError(DataShardError):
    """A staged body that no try can commit: the reason becomes a committed refusal."""


class StagedBody(Struct, frozen=True):
    """What a staged object holds.

    Attributes:
        table: uuid of the table that it is meant for.
        append_id: the id as the caller gave it.
        digest: digest of the rows, or empty for an id that the library made.
        schema_id: id of the schema that the rows or files were written with.
        rows: the rows; None if ``files`` describes them, or the schema is not known to whoever reads it.
        files: finished data files.
    """

    table: str
    append_id: str
    digest: str
    schema_id: int
    rows: Rows | None
    files: tuple[DataFile, ...] = ()


def encode_body(body: StagedBody) -> bytes:
    """The bytes of a staged object."""
    header: dict[str, Any] = {
        "format": FORMAT,
        "table": body.table,
        "append-id": body.append_id,
        "digest": body.digest,
        "schema-id": body.schema_id,
    }
    if body.rows is None:
        header["files"], rows = [_file_to_json(file) for file in body.files], b""
    elif isinstance(body.rows, PlainRows):
        header["plain-rows"], rows = body.rows.num_rows, msgspec.msgpack.encode(body.rows.by_id())
    else:
        rows = _arrow_to_bytes(body.rows)
    told = msgspec.json.encode(header)
    content = b"".join((_LENGTH.pack(len(told)), told, rows))
    return _HEAD.pack(_MAGIC, _digest_of(content)) + content


def decode_body(data: bytes, name: StagedName, table_uuid: str, schemas: Sequence[Schema]) -> StagedBody:
    """Read a staged object back.

    Args:
        data: its bytes.
        name: its name, which the header has to agree with.
        table_uuid: the table that is about to carry it.
        schemas: those that the table has, or had.

    Raises:
        UnreadableBodyError: it can never be committed to this table, and why.
    """
    header, rows = _opened(data)
    body = StagedBody(
        table=header.table,
        append_id=header.append_id,
        digest=header.digest,
        schema_id=header.schema_id,
        rows=None,
        files=_files_of(header),
    )
    if body.table != table_uuid:
        raise UnreadableBodyError("the staged body is meant for another table of this name")
    if id_digest(body.append_id) != name.id:
        raise UnreadableBodyError("the staged body holds another append id than its name")
    schema = next((schema for schema in schemas if schema.schema_id == body.schema_id), None)
    if header.files is not None or schema is None:
        return body
    return msgspec.structs.replace(body, rows=_rows_of(header, rows, schema))


def described_files(data: bytes) -> tuple[DataFile, ...]:
    """The data files that a staged object describes, whichever table it is meant for.

    Raises:
        UnreadableBodyError: it cannot be read, so it may describe anything.
    """
    header, _ = _opened(data)
    return _files_of(header)


class _Format(Struct):
    format: Any = None


class _Header(Struct, rename="kebab"):
    table: str
    append_id: str
    digest: str
    schema_id: Id
    plain_rows: Annotated[int, Meta(ge=0, le=FEW_ROWS)] | None = None
    files: list[dict[str, Any]] | None = None


def _opened(data: bytes) -> tuple[_Header, bytes]:
    """The header, and the bytes of the rows."""
    content = data[_HEAD.size :]
    try:
        magic, digest = _HEAD.unpack_from(data)
        if magic != _MAGIC or digest != _digest_of(content):
            raise ValueError("it is cut short or damaged")
        (length,) = _LENGTH.unpack_from(content)
        told = content[_LENGTH.size : _LENGTH.size + length]
        if length > MAX_BODY_BYTES:
            raise ValueError(f"its header has {length} bytes")
        form = msgspec.json.decode(told, type=_Format).format
        if form != FORMAT:
            raise UnreadableBodyError(
                f"the staged body has format {form!r:.80}, and this release of datashard-core reads {FORMAT}: use one "
                "release for a table's writers"
            )
        return msgspec.json.decode(told, type=_Header), content[_LENGTH.size + length :]
    except (struct.error, ValueError, RecursionError) as error:  # msgspec's errors are ValueErrors
        raise _not_decoded(error) from error


def _rows_of(header: _Header, data: bytes, schema: Schema) -> Rows:
    if header.plain_rows is None:
        return _arrow_from_bytes(data, schema)
    try:
        return rows_by_id(schema, header.plain_rows, msgspec.msgpack.decode(data, type=dict[int, _Values]))
    except (TypeError, ValueError, OverflowError, RecursionError) as error:
        raise _not_decoded(error) from error


_Values = Annotated[list[Any], Meta(max_length=FEW_ROWS)]


def _not_decoded(error: Exception) -> UnreadableBodyError:
    return UnreadableBodyError(f"the staged body cannot be decoded ({type(error).__name__}: {error!s:.120})")


def _digest_of(content: bytes) -> bytes:
    return blake2b(content, digest_size=_DIGEST_BYTES).digest()


def _arrow_to_bytes(rows: Any) -> bytes:
    import pyarrow as pa

    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, rows.schema, options=pa.ipc.IpcWriteOptions(compression="zstd")) as writer:
        writer.write_table(rows)
    return bytes(sink.getvalue())


def _arrow_from_bytes(data: bytes, schema: Schema) -> Any:
    """The rows of an Arrow stream, checked as those are that a caller appends."""
    import pyarrow as pa

    from datashard_core.format.arrow_ipc import claimed
    from datashard_core.format.frames import fit
    from datashard_core.format.values import MisfitError, UnusableError

    try:
        claim = claimed(data)
        if claim.rows > MAX_BODY_ROWS or claim.longest > _MOST_VALUES or claim.size > _MOST_DECODED:
            raise ValueError(f"{claim.rows} rows in {claim.size} bytes are more than a staged body may hold")
        with pa.ipc.open_stream(pa.BufferReader(data)) as reader:
            rows = reader.read_all()
        # Places in buffers are taken at their word by everything that reads them.
        rows.validate(full=True)
        return fit(rows, schema)
    except pa.ArrowMemoryError:
        raise  # this process has no memory left: that is no reason to refuse an append
    except (pa.ArrowException, OSError, TypeError, ValueError, LookupError, ArithmeticError, RecursionError) as error:
        raise _not_decoded(error) from error
    except (struct.error, MisfitError, UnusableError) as error:
        raise _not_decoded(error) from error


def _files_of(header: _Header) -> tuple[DataFile, ...]:
    try:
        return tuple(_file_from_json(raw) for raw in header.files or ())
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise _not_decoded(error) from error


def _file_to_json(file: DataFile) -> dict[str, Any]:
    raw = asdict(file)
    for bounds in ("lower_bounds", "upper_bounds"):
        raw[bounds] = {str(key): value.hex() for key, value in (raw[bounds] or {}).items()}
    for counts in ("column_sizes", "value_counts", "null_value_counts", "nan_value_counts"):
        raw[counts] = {str(key): value for key, value in (raw[counts] or {}).items()}
    return raw


def _file_from_json(raw: Mapping[str, Any]) -> DataFile:
    if unknown := raw.keys() - set(DataFile.__struct_fields__):
        raise ValueError(f"a data file has {min(unknown)!r:.80}")
    values = dict(raw)
    for bounds in ("lower_bounds", "upper_bounds"):
        values[bounds] = {_key(key): bytes.fromhex(value) for key, value in values[bounds].items()}
    for counts in ("column_sizes", "value_counts", "null_value_counts", "nan_value_counts"):
        values[counts] = {_key(key): value for key, value in values[counts].items()}
    return msgspec.convert(values, DataFile)


def _key(text: str) -> int:
    """A field id, which is text in JSON."""
    number = whole_number(text)
    if number is None:
        raise ValueError(f"{text!r:.80} is no field id")
    return number
