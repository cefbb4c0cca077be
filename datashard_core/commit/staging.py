"""Staged appends: rows put beside the table by a writer that lost a race, for the next commit to carry.

A staged object is named ``_datashard/staging/{base}-{w or d}-{append id}-{nonce}``: its name alone
says from which base on it may be committed, so a listing is enough to judge it. Its body is an
Arrow IPC stream whose schema metadata holds a header, with the rows or the description of data
files that are finished already.

Everything here is pure. The rules are in ``docs/design/commit-protocol.md``, "Staged bodies".
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from functools import lru_cache
from typing import Any, Literal

import msgspec
from msgspec import Struct
from msgspec.structs import asdict

from datashard_core.commit.history import Named
from datashard_core.errors import DataShardError
from datashard_core.format.data_file import DataFile
from datashard_core.format.digest import id_digest
from datashard_core.format.plain_rows import Rows, arrow_of
from datashard_core.storage.base import ObjectInfo

PREFIX = "_datashard/staging/"
FORMAT = 1
HEADER = b"datashard.staged"
MAX_BODY_BYTES = 16 * 2**20
"""Rows above this many bytes are written as data files, and the body describes them."""

Kind = Literal["w", "d"]
_NAME = re.compile(rf"{PREFIX}(\d{{20}})-([wd])-([0-9a-f]{{32}})-([0-9a-f]{{32}})")


class StagedName(Struct, frozen=True, order=True):
    """What the name of a staged object says; names sort by base.

    Attributes:
        base: a version up to which the id is known to be unnamed.
        kind: "w": its owner waits in line; "d": deferred, nobody waits.
        id: digest of the append id.
        nonce: makes the name unique.
        size: bytes of the body, where known from a listing.
    """

    base: int
    kind: Kind
    id: str
    nonce: str
    size: int = 0

    @property
    def key(self) -> str:
        """Key of the object."""
        return f"{PREFIX}{self.base:020d}-{self.kind}-{self.id}-{self.nonce}"


def parse_listed(infos: Iterable[ObjectInfo]) -> list[StagedName]:
    """The staged names in a listing, in its order; whatever else lies there is left alone."""
    parsed = (_parsed(info.key, info.size) for info in infos)
    return [name for name in parsed if name is not None]


@lru_cache(maxsize=4096)  # whoever waits lists the same names again and again
def _parsed(key: str, size: int) -> StagedName | None:
    match = _NAME.fullmatch(key)
    if match is None:
        return None
    kind: Kind = "w" if match[2] == "w" else "d"
    return StagedName(int(match[1]), kind, match[3], match[4], size)


class UnreadableBodyError(DataShardError):
    """A staged body that no try can commit: the reason becomes a committed refusal."""


class StagedBody(Struct, frozen=True):
    """What a staged object holds.

    Attributes:
        table: uuid of the table that it is meant for.
        append_id: the id as the caller gave it.
        digest: digest of the rows, or empty for an id that the library made.
        schema_id: id of the schema that the rows or files were written with.
        rows: the rows (Arrow's, with field ids, where they were read); None if ``files`` describes them.
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
    import pyarrow as pa

    header = {
        "format": FORMAT,
        "table": body.table,
        "append-id": body.append_id,
        "digest": body.digest,
        "schema-id": body.schema_id,
        "files": None if body.rows is not None else [_file_to_json(file) for file in body.files],
    }
    rows = arrow_of(body.rows) if body.rows is not None else pa.table({})
    rows = rows.replace_schema_metadata({HEADER: msgspec.json.encode(header)})
    sink = pa.BufferOutputStream()
    options = pa.ipc.IpcWriteOptions(compression="zstd")
    with pa.ipc.new_stream(sink, rows.schema, options=options) as writer:
        writer.write_table(rows)
    return bytes(sink.getvalue())


def decode_body(data: bytes, name: StagedName, table_uuid: str) -> StagedBody:
    """Read a staged object back.

    Args:
        data: its bytes.
        name: its name, which the header has to agree with.
        table_uuid: the table that is about to carry it.

    Raises:
        UnreadableBodyError: it can never be committed to this table, and why.
    """
    import pyarrow as pa

    try:
        with pa.ipc.open_stream(pa.BufferReader(data)) as reader:
            rows = reader.read_all()
        header = msgspec.json.decode((rows.schema.metadata or {})[HEADER])
        body = StagedBody(
            table=str(header["table"]),
            append_id=str(header["append-id"]),
            digest=str(header["digest"]),
            schema_id=int(header["schema-id"]),
            rows=rows.replace_schema_metadata(None) if header["files"] is None else None,
            files=tuple(_file_from_json(raw) for raw in header["files"] or ()),
        )
    except (pa.ArrowInvalid, OSError, KeyError, TypeError, ValueError, msgspec.DecodeError) as error:
        raise UnreadableBodyError(f"the staged body cannot be decoded ({type(error).__name__})") from error
    if header.get("format") != FORMAT:
        raise UnreadableBodyError(f"the staged body has format {header.get('format')!r}")
    if body.table != table_uuid:
        raise UnreadableBodyError("the staged body is meant for another table of this name")
    if id_digest(body.append_id) != name.id:
        raise UnreadableBodyError("the staged body holds another append id than its name")
    return body


def described_files(data: bytes) -> tuple[DataFile, ...]:
    """The data files that a staged object describes, whichever table it is meant for.

    Raises:
        UnreadableBodyError: it cannot be read, so it may describe anything.
    """
    import pyarrow as pa

    try:
        with pa.ipc.open_stream(pa.BufferReader(data)) as reader:
            header = msgspec.json.decode((reader.schema.metadata or {})[HEADER])
        if header["format"] != FORMAT:
            raise UnreadableBodyError(f"the staged body has format {header['format']!r}")
        return tuple(_file_from_json(raw) for raw in header["files"] or ())
    except (pa.ArrowInvalid, OSError, KeyError, TypeError, ValueError, msgspec.DecodeError) as error:
        raise UnreadableBodyError(f"the staged body cannot be decoded ({type(error).__name__})") from error


def _file_to_json(file: DataFile) -> dict[str, Any]:
    raw = asdict(file)
    for bounds in ("lower_bounds", "upper_bounds"):
        raw[bounds] = {str(key): value.hex() for key, value in (raw[bounds] or {}).items()}
    for counts in ("column_sizes", "value_counts", "null_value_counts", "nan_value_counts"):
        raw[counts] = {str(key): value for key, value in (raw[counts] or {}).items()}
    return raw


def _file_from_json(raw: Mapping[str, Any]) -> DataFile:
    values = dict(raw)
    for bounds in ("lower_bounds", "upper_bounds"):
        values[bounds] = {int(key): bytes.fromhex(value) for key, value in values[bounds].items()}
    for counts in ("column_sizes", "value_counts", "null_value_counts", "nan_value_counts"):
        values[counts] = {int(key): value for key, value in values[counts].items()}
    for sequence in ("split_offsets", "equality_ids"):
        if values.get(sequence) is not None:
            values[sequence] = tuple(values[sequence])
    return DataFile(**values)


class Judged(Struct, frozen=True):
    """What a committer may do with each listed name.

    Attributes:
        allowed: one name for each id that may be committed on this version, oldest base first.
        spent: names that a version after their own base names, or of a table that was dropped since:
            deletable by anyone.
        others: for an id with several allowed names, those after the first: they count only where the
            body of the first turns out to be bad.
    """

    allowed: tuple[StagedName, ...]
    spent: tuple[StagedName, ...]
    others: Mapping[str, tuple[StagedName, ...]] = {}


def judge(
    listed: Iterable[StagedName], said: Mapping[str, Named], version: int, own: frozenset[str], first: int = 0
) -> Judged:
    """The base rule and the delete rule, over one listing.

    Args:
        listed: names found in ``staging/``.
        said: the last word of versions up to ``version`` on each id, looked for as far back as the
            lowest base listed.
        version: the version that is about to be built on.
        own: ids that the committer carries itself: left out, their rows come from memory.
        first: the version that created the table. What has a base before it was staged for a table of
            this name that a version in between ended: nobody can commit it, and its id is free here.

    A name is allowed if no version in (base, version] names its id, and its base is not above the
    version; it is spent if one does. One body counts for each id: two are copies of the same rows
    (a twin's, or one staged again), and committing both would double them.
    """
    allowed: dict[str, list[StagedName]] = {}
    spent = []
    for name in sorted(listed):
        if name.base > version:
            continue  # its owner has seen more than we have: never guessed at
        word = said.get(name.id)
        if name.base < first or (word is not None and name.base < word.version <= version):
            spent.append(name)
        elif name.id not in own:
            allowed.setdefault(name.id, []).append(name)
    return Judged(
        tuple(sorted(tries[0] for tries in allowed.values())),
        tuple(spent),
        {own_id: tuple(tries[1:]) for own_id, tries in allowed.items() if len(tries) > 1},
    )
