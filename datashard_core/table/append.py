"""From rows to the work that the commit layer takes: encode, name, digest."""

from __future__ import annotations

import os
from collections.abc import Callable
from itertools import pairwise
from typing import TYPE_CHECKING, Any

from msgspec import Struct
from msgspec.structs import asdict, replace

from datashard_core import arguments
from datashard_core.clock import Clock
from datashard_core.commit.core.recorded_ids import LIBRARY_MADE
from datashard_core.commit.core.state import Append
from datashard_core.commit.staging.body import MAX_BODY_BYTES, MAX_BODY_ROWS
from datashard_core.effects.driver import shared_pool
from datashard_core.effects.requests import PutData
from datashard_core.errors import ConfigurationError
from datashard_core.format.metadata.data_file import DataFile
from datashard_core.format.parquet.parquet import encode_parquet, write_parquet
from datashard_core.format.rows.digest import id_digest, rows_digest
from datashard_core.format.rows.python_rows import Rows, arrow_of, plain_rows
from datashard_core.format.types.schema import Schema
from datashard_core.storage.base import Storage

if TYPE_CHECKING:
    import pyarrow as pa

MAX_ID_CHARACTERS = 1024

IN_MEMORY = 64 * 2**20
"""Rows of up to so many bytes are encoded in memory, and sent beside the first look at the table; more are streamed."""

SIDE_BY_SIDE = 4
"""Data files that one append is divided into, at the most: encoding is what large ones take long for."""


class AppendResult(Struct, frozen=True):
    """What an append did.

    Attributes:
        table: name of the table.
        version: the table version that holds the rows; None while a deferred append is staged.
        snapshot_id: the Iceberg snapshot of that version.
        rows: how many rows were appended.
        append_id: the id, as given or as made by the library.
        already_appended: the id was in the table before this call, which appended nothing.
    """

    table: str
    version: int | None
    snapshot_id: int | None
    rows: int
    append_id: str
    already_appended: bool

    def to_dict(self) -> dict[str, Any]:
        """The result as plain values that JSON can hold."""
        return asdict(self)


AppendId = str | Callable[[str], str]
"""An id, or a function that makes one of the digest of the rows."""


def check_append_id(append_id: AppendId | None) -> None:
    """Refuse an id that no orchestrator would mean.

    Raises:
        ConfigurationError: it is not text, is empty, or has more than 1,024 characters.
    """
    if append_id is not None and not callable(append_id):
        _check_id(append_id)


def _check_id(append_id: Any) -> None:
    """Refuse an id that is no usable text; also what a function of the caller made, which has to be some."""
    usable = isinstance(append_id, str) and append_id.strip() and len(append_id) <= MAX_ID_CHARACTERS
    if not usable or not arguments.is_unicode(append_id):
        raise ConfigurationError(
            f"append_id={arguments.shown(append_id)} is not usable: pass 1 to {MAX_ID_CHARACTERS} characters of text "
            "that stay the same when the same work is tried again, or none."
        )


def checked_rows(data: Any, schema: Schema, table_name: str) -> Rows:
    """The rows that somebody appends, in the form of a schema; errors and arguments are those of
    :func:`datashard_core.format.rows.records.to_table`.
    """
    plain = plain_rows(data, schema)
    if plain is not None:
        return plain
    from datashard_core.format.rows.records import to_table

    return to_table(data, schema, table_name)


def plan_append(
    rows: Rows,
    *,
    schema: Schema,
    location: str,
    storage: Storage,
    clock: Clock,
    append_id: AppendId | None,
    base: int | None,
    known_version: int,
) -> Append:
    """Encode rows as a data file and say under which id they are to be committed.

    Args:
        rows: checked rows in the schema's form.
        schema: the table's schema.
        location: the table's ``location``.
        storage: the table's storage, for rows too many to be encoded in memory.
        clock: source of unique names.
        append_id: the caller's id; None: the library makes one.
        base: the caller's base; None: looked up for a caller's id.
        known_version: a version that exists already, the base of an id made here.
    """
    unique = clock.unique()
    if append_id is None:
        own, digest, base = f"datashard:{unique}", LIBRARY_MADE, known_version if base is None else base
    else:
        digest = rows_digest(rows, schema)
        own = append_id(digest) if callable(append_id) else append_id
        _check_id(own)
    plan = Append(
        append_id=own,
        id=id_digest(own),
        digest=digest,
        rows=rows,
        files=(),
        schema=schema,
        base=base,
        written_on=known_version,
    )
    if rows.nbytes <= MAX_BODY_BYTES and rows.num_rows <= MAX_BODY_ROWS:
        return plan
    # Too large to be copied twice: written once, and described wherever it is staged.
    files, unsent = _encoded(arrow_of(rows), schema, location, storage, clock)
    return replace(plan, rows=None, files=files, unsent=unsent)


def _encoded(
    rows: pa.Table, schema: Schema, location: str, storage: Storage, clock: Clock
) -> tuple[tuple[DataFile, ...], tuple[PutData, ...]]:
    """Many rows as data files, encoded side by side: those that are written, and what is to be sent of them yet."""
    in_memory = rows.nbytes <= IN_MEMORY

    def encoded(part: tuple[str, pa.Table]) -> tuple[DataFile, PutData | None]:
        key, mine = part
        if in_memory:
            file = encode_parquet(mine, schema)
            return file.data_file(f"{location}/{key}"), PutData(key, file.data)
        with storage.open_data(key) as sink:
            return write_parquet(mine, schema, sink, f"{location}/{key}"), None

    parts = [(f"data/auto_{clock.unique()}.parquet", mine) for mine in _divided(rows)]
    done = [encoded(parts[0])] if len(parts) == 1 else shared_pool().map(encoded, parts)
    return tuple(file for file, _ in done), tuple(put for _, put in done if put is not None)


def _divided(rows: pa.Table) -> list[pa.Table]:
    """Many rows in as many parts as can be encoded at a time, none of them small."""
    count = max(1, min(SIDE_BY_SIDE, os.cpu_count() or 1, rows.nbytes // MAX_BODY_BYTES))
    ends = [rows.num_rows * part // count for part in range(count + 1)]
    return [rows.slice(start, end - start) for start, end in pairwise(ends) if end > start]
