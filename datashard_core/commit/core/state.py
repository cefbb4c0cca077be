"""What a process knows of a table, and what it wants to put into it: plain values."""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from typing import Any, TypeVar

from msgspec import Struct
from msgspec.structs import replace

from datashard_core.commit.core.current_version import Found, Hint, find_current
from datashard_core.commit.core.manifest_merge import EMPTY_CACHE, Known
from datashard_core.commit.core.paths import key_of
from datashard_core.commit.core.version_file import VersionFile, parse_version, version_key
from datashard_core.effects.requests import Get, PutData
from datashard_core.errors import CorruptTableError, NoSuchTableError
from datashard_core.format.manifests.manifest import ManifestFile, decode_manifest_list
from datashard_core.format.metadata.data_file import DataFile
from datashard_core.format.metadata.snapshot import Snapshot
from datashard_core.format.rows.python_rows import Rows
from datashard_core.format.types.schema import Schema

RECENTLY_GROUPED_MS = 3000

Answer = TypeVar("Answer")


class TableState(Struct, frozen=True):
    """The newest version that this process knows, with what was read along with it.

    Attributes:
        body: the version.
        manifests: the manifest list of its current snapshot; None if it was not read yet.
        hint: the hint as last read or written.
        known: entries of manifests that were written or read along the way.
        contested: others were seen to write since this process last looked, or to wait: what is
            prepared for the next version may come to nothing.
    """

    body: VersionFile
    manifests: tuple[ManifestFile, ...] | None = None
    hint: Hint | None = None
    known: Known = EMPTY_CACHE
    contended: bool = False


class History(Struct, frozen=True):
    """The table whose history is asked for append ids.

    Attributes:
        root: URI of its root, for messages.
        uuid: its identity, which its id nodes carry.
    """

    root: str
    uuid: str


class Target(Struct, frozen=True):
    """The table that a commit is meant for.

    Attributes:
        root: URI of its root.
        name: its name, for messages.
        uuid: its identity; a table made again under the same name has another.
    """

    root: str
    name: str
    uuid: str

    @property
    def history(self) -> History:
        """The table's history."""
        return History(self.root, self.uuid)


class Append(Struct, frozen=True):
    """Rows on their way into a table.

    Attributes:
        append_id: the id as the caller gave it, or as the library made it.
        id: its digest, by which versions name it.
        digest: digest of the rows, or :data:`~datashard_core.commit.core.recorded_ids.LIBRARY_MADE`.
        rows: the rows; None if ``files`` holds them already.
        files: finished data files, for rows too many to be copied twice.
        schema: the schema that the rows were checked against.
        base: a version up to which the id is known to be unnamed; None: it has to be looked up.
        written_on: the newest version that was known when the first of ``files`` was begun; -1: not told.
        unsent: those of ``files`` that are to be written yet, beside the first look at the table.
    """

    append_id: str
    id: str
    digest: str
    rows: Rows | None
    files: tuple[DataFile, ...]
    schema: Schema
    base: int | None
    written_on: int = -1
    unsent: tuple[PutData, ...] = ()


class Committed(Struct, frozen=True):
    """Where an append ended up.

    Attributes:
        version: the version that holds the rows.
        snapshot_id: its snapshot (None where that version's body is no longer kept).
        already_appended: the id was in the table before this call.
    """

    version: int
    snapshot_id: int | None
    already_appended: bool


def require_live(found: Found | None, cached: TableState | None, target: Target) -> TableState:
    """The newest version as a state to build on, or the error that there is no such table."""
    if found is None:
        raise NoSuchTableError(f"there is no table {target.name} at {target.root}: create it first")
    newest = found.newest
    if newest.state == "dropped":
        raise NoSuchTableError(f"table {target.name} at {target.root} was dropped in version {newest.version}")
    if target.uuid and newest.table.table_uuid != target.uuid:
        raise NoSuchTableError(
            f"table {target.name} at {target.root} was dropped and made again (its uuid was {target.uuid}, and is "
            f"{newest.table.table_uuid} now). Nothing of this call is in the table that is there now: load it again."
        )
    if cached is not None and cached.body.version == newest.version:
        return replace(cached, hint=found.hint or cached.hint)
    if cached is None:
        return TableState(newest, None, found.hint)
    return TableState(newest, None, found.hint or cached.hint, cached.known, cached.contended)


async def newest(target: Target, cached: TableState | None) -> TableState:
    """The newest version.

    Raises:
        NoSuchTableError: the table was dropped.
    """
    found = await find_current(target.root, cached.body if cached is not None else None)
    return require_live(found, cached, target)


async def on_newest(
    target: Target, cached: TableState | None, look: Callable[[TableState], Coroutine[Any, Any, Answer]]
) -> tuple[TableState, Answer]:
    """Look at something on the newest version: what is found damaged there counts if that is still the newest.

    Between the two, the table can be dropped and purged, and versions become tombstones under a sleeper.

    Args:
        target: the table.
        seen: the newest version known.
        look: what is done with the newest one.

    Raises:
        CorruptTableError: it is damaged.
        NoSuchTableError: the table was dropped.
    """
    state = await newest(target, cached)
    while True:
        try:
            return state, (await look(state))
        except CorruptTableError:
            newer = await newest(target, state)
            if newer.body.version == state.body.version:
                raise
            state = newer


def is_recently_grouped(version_file: VersionFile, now_ms: int) -> bool:
    """Whether many are writing just now: the version carries two appends or more, and is fresh.

    Compares clocks of two machines; only speed depends on it.
    """
    if version_file.metadata is None or len(version_file.named) < 2:
        return False
    return abs(now_ms - version_file.metadata.last_updated_ms) < RECENTLY_GROUPED_MS


async def manifests_of(root: str, location: str, snapshot: Snapshot | None) -> tuple[ManifestFile, ...]:
    """The manifest list of a snapshot; empty for a table that has none."""
    if snapshot is None:
        return ()
    stored = await Get(key_of(snapshot.manifest_list, location, root))
    return tuple(decode_manifest_list(stored.body))


async def read_version(root: str, version: int) -> VersionFile:
    """One version by its number."""
    stored = await Get(version_key(version))
    return parse_version(stored.body, version, f"{root}/{version_key(version)}")
