"""Plain values of the commit layer: the table that is written, its cached state, and appends."""

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
        known: entries of manifests that this process wrote or read.
        contended: other writers committed or waited when this process last looked, so that a draft of the next
            version may be useless.
    """

    body: VersionFile
    manifests: tuple[ManifestFile, ...] | None = None
    hint: Hint | None = None
    known: Known = EMPTY_CACHE
    contended: bool = False


class History(Struct, frozen=True):
    """The table whose versions are searched for append ids.

    Attributes:
        root: URI of its root, for messages.
        uuid: its identity, which its id segments record.
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
        id: its digest, by which versions record it.
        digest: digest of the rows, or :data:`~datashard_core.commit.core.recorded_ids.LIBRARY_MADE`.
        rows: the rows; None if ``files`` holds them already.
        files: finished data files, for rows too many to be copied twice.
        schema: the schema that the rows were checked against.
        base: a version up to which the id is known to be unrecorded; None: it has to be looked up.
        written_on: the newest version known when the first of ``files`` was begun; -1 if unknown.
        unsent: the ``files`` that are not written yet; they are sent along with the first look at the table.
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
        snapshot_id: its snapshot (None if that version is a tombstone by now).
        already_appended: the id was in the table before this call.
    """

    version: int
    snapshot_id: int | None
    already_appended: bool


def require_live(found: Found | None, cached: TableState | None, target: Target) -> TableState:
    """Return the newest version as a state to build on, or raise the error that there is no such table."""
    if found is None:
        raise NoSuchTableError(f"there is no table {target.name} at {target.root}: create it first")
    newest = found.newest
    if newest.state == "dropped":
        raise NoSuchTableError(f"table {target.name} at {target.root} was dropped in version {newest.version}")
    if target.uuid and newest.table.table_uuid != target.uuid:
        raise NoSuchTableError(
            f"table {target.name} at {target.root} was dropped and created again (its uuid was {target.uuid}, and is "
            f"{newest.table.table_uuid} now). No row of this call is in the new table: load it again."
        )
    if cached is not None and cached.body.version == newest.version:
        return replace(cached, hint=found.hint or cached.hint)
    if cached is None:
        return TableState(newest, None, found.hint)
    return TableState(newest, None, found.hint or cached.hint, cached.known, cached.contended)


async def newest(target: Target, cached: TableState | None) -> TableState:
    """Read the newest version.

    Raises:
        NoSuchTableError: the table was dropped.
    """
    found = await find_current(target.root, cached.body if cached is not None else None)
    return require_live(found, cached, target)


async def on_newest(
    target: Target, cached: TableState | None, look: Callable[[TableState], Coroutine[Any, Any, Answer]]
) -> tuple[TableState, Answer]:
    """Run a look-up on the newest version, again on a newer one if the first is found damaged.

    Meanwhile the table may be dropped and purged, or versions may become tombstones.

    Args:
        target: the table.
        cached: the newest version known.
        look: the look-up.

    Raises:
        CorruptTableError: the newest version is damaged.
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
    """Whether the version has two appends or more and is under 3 s old, so that many writers are active.

    Compares the clocks of two machines; only speed depends on it.
    """
    if version_file.metadata is None or len(version_file.named) < 2:
        return False
    return abs(now_ms - version_file.metadata.last_updated_ms) < RECENTLY_GROUPED_MS


async def manifests_of(root: str, location: str, snapshot: Snapshot | None) -> tuple[ManifestFile, ...]:
    """Read the manifest list of a snapshot; empty without a snapshot."""
    if snapshot is None:
        return ()
    stored = await Get(key_of(snapshot.manifest_list, location, root))
    return tuple(decode_manifest_list(stored.body))


async def read_version(root: str, version: int) -> VersionFile:
    """Read one version by its number."""
    stored = await Get(version_key(version))
    return parse_version(stored.body, version, f"{root}/{version_key(version)}")
