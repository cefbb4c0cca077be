"""From rows to the work that the commit layer takes: encode, name, digest."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from msgspec import Struct
from msgspec.structs import asdict

from datashard_core.clock import Clock
from datashard_core.commit.names import LIBRARY_MADE
from datashard_core.commit.staging import MAX_BODY_BYTES
from datashard_core.commit.state import Append
from datashard_core.errors import ConfigurationError
from datashard_core.format.data_file import DataFile
from datashard_core.format.digest import id_digest, rows_digest
from datashard_core.format.parquet import write_parquet
from datashard_core.format.schema import Schema
from datashard_core.storage.base import Storage

if TYPE_CHECKING:
    import pyarrow as pa

MAX_ID_CHARACTERS = 1024


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
    if append_id is None or callable(append_id):
        return
    if not isinstance(append_id, str) or not append_id.strip() or len(append_id) > MAX_ID_CHARACTERS:
        raise ConfigurationError(
            f"append_id={append_id!r:.80} is not usable: pass 1 to {MAX_ID_CHARACTERS} characters of text that stay "
            "the same when the same work is tried again, or none."
        )


def plan_append(
    rows: pa.Table,
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
        rows: checked rows in the schema's Arrow form.
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
        check_append_id(own)
    files: tuple[DataFile, ...] = ()
    if rows.nbytes > MAX_BODY_BYTES:
        # Too large to be copied twice: written once now, and described wherever it is staged.
        key = f"data/auto_{unique}.parquet"
        with storage.open_data(key) as sink:
            files = (write_parquet(rows, schema, sink, f"{location}/{key}"),)
    return Append(
        append_id=own,
        id=id_digest(own),
        digest=digest,
        rows=None if files else rows,
        files=files,
        schema=schema,
        base=base,
        written_on=known_version,
    )
