"""Encode and decode the body of a staged object: rows, or the description of finished data files.

A body begins with a magic number, a digest of all that follows, and the length of a JSON header. The rows follow the
header: a few plain rows as MessagePack, others as an Arrow IPC stream. A writer that only stages never decodes rows,
so a process that appends a few plain rows, and whose appends another process commits, needs no Arrow.

Everybody with write access to the table's folder can stage a body, so the whole body is checked before any part of it
is used. A body of format :data:`FORMAT` that breaks these rules is refused for good. A release that relaxes a rule
therefore has to raise the number: bodies of a higher format are left to the releases that know it.

Everything here is pure.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import msgspec
from msgspec import UNSET, Struct
from msgspec.structs import asdict

from datashard_core._imports import blake2b
from datashard_core.commit.staging.errors import NewerBodyError, UnreadableBodyError, not_decoded
from datashard_core.commit.staging.key import StagedName
from datashard_core.format.metadata.data_file import DataFile
from datashard_core.format.rows.digest import id_digest
from datashard_core.format.rows.python_rows import PlainRows, Rows, rows_by_id
from datashard_core.format.types.schema import Schema

if TYPE_CHECKING:
    from datashard_core.commit.staging.header import Header

# Imports that only decoding needs are inside the functions: most processes only stage, or see no body at all.

FORMAT = 2
MAX_BODY_BYTES = 16 * 2**20
"""Rows above this many bytes are written as data files, and the body describes them."""

MAX_BODY_ROWS = 4 * 2**20
"""Likewise for more rows: a column that they lack takes eight bytes for each of them."""

_MOST_DECODED = 4 * MAX_BODY_BYTES
"""Bytes that the rows of a body become: they had no more than :data:`MAX_BODY_BYTES`, and Arrow pads buffers."""

_MOST_VALUES = 8 * _MOST_DECODED
"""Values in one array, each of which takes a bit."""

MOST_NULL_ROWS = 2**16
"""Plain rows without a single value take no bytes. An append has
:data:`~datashard_core.format.rows.python_rows.FEW_ROWS`."""

_MOST_PLAIN = 2**24
"""Values of plain rows, nulls included."""

_MAGIC = b"DSstaged"
_DIGEST_BYTES = 16
_HEAD = struct.Struct(f"<{len(_MAGIC)}s{_DIGEST_BYTES}s")
_LENGTH = struct.Struct("<I")


class StagedBody(Struct, frozen=True):
    """What a staged object holds.

    Attributes:
        table: uuid of the table that it is meant for.
        append_id: the id as the caller gave it.
        digest: digest of the rows, or empty for an id that the library made.
        schema_id: id of the schema that the rows or files were written with.
        rows: the rows; None if ``files`` describes them, or if the reader does not know the schema.
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
    encoded = msgspec.json.encode(header)
    content = b"".join((_LENGTH.pack(len(encoded)), encoded, rows))
    return _HEAD.pack(_MAGIC, _digest_of(content)) + content


def decode_body(data: bytes, name: StagedName, table_uuid: str, schemas: Sequence[Schema]) -> StagedBody:
    """Read a staged object back.

    Args:
        data: its bytes.
        name: its name, which the header has to agree with.
        table_uuid: identity of the table that is about to commit it.
        schemas: the table's current and former schemas.

    Raises:
        UnreadableBodyError: it can never be committed to this table; the message says why.
        NewerBodyError: a newer release wrote it.
    """
    from datashard_core.commit.staging.header import check_bounds, files_of

    header, rows = _opened(data)
    if header.table != table_uuid:
        raise UnreadableBodyError("the staged body is meant for another table of this name")
    if id_digest(header.append_id) != name.id:
        raise UnreadableBodyError("the staged body holds another append id than its name")
    body = StagedBody(header.table, header.append_id, header.digest, header.schema_id, None, files_of(header))
    schema = next((schema for schema in schemas if schema.schema_id == body.schema_id), None)
    if schema is None:
        return body
    if header.files is not UNSET:
        check_bounds(body.files, schema)
        return body
    return msgspec.structs.replace(body, rows=_rows_of(header, rows, schema))


def described_files(data: bytes) -> tuple[DataFile, ...]:
    """The data files that a staged object describes, without a check of the table that it is meant for.

    Raises:
        UnreadableBodyError: it cannot be read, so it may describe any file.
        NewerBodyError: a newer release wrote it, so it may describe any file too.
    """
    from datashard_core.commit.staging.header import files_of

    header, _ = _opened(data)
    return files_of(header)


def _opened(data: bytes) -> tuple[Header, bytes]:
    """The header, and the bytes of the rows."""
    from datashard_core.commit.staging.header import Format, Header

    content = data[_HEAD.size :]
    try:
        magic, digest = _HEAD.unpack_from(data)
        if magic != _MAGIC or digest != _digest_of(content):
            raise ValueError("it is cut short or damaged")
        (length,) = _LENGTH.unpack_from(content)
        if length > MAX_BODY_BYTES:
            raise ValueError(f"its header has {length} bytes")
        header = content[_LENGTH.size : _LENGTH.size + length]
        number = msgspec.json.decode(header, type=Format).format
        if number > FORMAT:
            raise NewerBodyError(
                f"the staged body has format {number}, and this release of datashard-core reads {FORMAT}: upgrade "
                "datashard-core wherever this table is written"
            )
        if number < FORMAT:
            raise UnreadableBodyError(
                f"the staged body has format {number}, and this release of datashard-core reads {FORMAT}: use one "
                "release for a table's writers"
            )
        return msgspec.json.decode(header, type=Header), content[_LENGTH.size + length :]
    except (struct.error, ValueError, RecursionError) as error:
        raise not_decoded(error) from error


def _rows_of(header: Header, data: bytes, schema: Schema) -> Rows:
    try:
        if header.plain_rows is UNSET:
            return _arrow_from_bytes(data)
        if header.plain_rows > MOST_NULL_ROWS or header.plain_rows * len(schema.fields) > _MOST_PLAIN:
            raise ValueError(f"{header.plain_rows} rows are more than are staged as plain ones")
        values = msgspec.msgpack.decode(data, type=dict[int, list[Any]])
        return rows_by_id(schema, header.plain_rows, values)
    except (OSError, TypeError, ValueError, LookupError, NotImplementedError, ArithmeticError, RecursionError) as error:
        raise not_decoded(error) from error


def _digest_of(content: bytes) -> bytes:
    return blake2b(content, digest_size=_DIGEST_BYTES).digest()


def _arrow_to_bytes(rows: Any) -> bytes:
    import pyarrow as pa

    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, rows.schema, options=pa.ipc.IpcWriteOptions(compression="zstd")) as writer:
        writer.write_table(rows)
    return bytes(sink.getvalue())


def _arrow_from_bytes(data: bytes) -> Any:
    import pyarrow as pa

    from datashard_core.format.rows.arrow_ipc import claimed

    try:
        claim = claimed(data)
        if claim.rows > MAX_BODY_ROWS or claim.longest > _MOST_VALUES or claim.size > _MOST_DECODED:
            raise ValueError(f"{claim.rows} rows in {claim.size} bytes are more than a staged body can hold")
        with pa.ipc.open_stream(pa.BufferReader(data)) as reader:
            rows = reader.read_all()
        rows.validate(full=True)  # offsets and texts that break Arrow's rules end the process that reads them
    except pa.ArrowMemoryError:
        raise  # a process with more memory may be able to read it
    except (pa.ArrowException, struct.error) as error:  # not all of Arrow's errors are among Python's
        raise ValueError(str(error)) from error
    return rows


def _file_to_json(file: DataFile) -> dict[str, Any]:
    raw = asdict(file)
    for bounds in ("lower_bounds", "upper_bounds"):
        raw[bounds] = {str(key): value.hex() for key, value in (raw[bounds] or {}).items()}
    for counts in ("column_sizes", "value_counts", "null_value_counts", "nan_value_counts"):
        raw[counts] = {str(key): value for key, value in (raw[counts] or {}).items()}
    return raw
