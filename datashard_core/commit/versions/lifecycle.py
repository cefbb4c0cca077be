"""Create, drop and purge tables, by commits like any other.

The version names of a dropped table stay taken. Otherwise a writer that was suspended during the drop could commit into
the table created after it. So a drop commits a marker as the next version, creating the table again commits the version
after that with a new uuid, and a purge leaves the names as tombstones.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any

from msgspec import Struct

from datashard_core.commit.append_ids.lookback import look_back
from datashard_core.commit.core import recorded_ids
from datashard_core.commit.core.current_version import Found, find_current, move_hint
from datashard_core.commit.core.paths import TABLE_FOLDERS, delete
from datashard_core.commit.core.state import TableState, Target, require_live
from datashard_core.commit.core.version_file import HINT_KEY, VersionFile, dropped_marker, tombstone, version_key
from datashard_core.effects.requests import (
    Get,
    Head,
    Instant,
    KeepsVersions,
    ListPage,
    Now,
    PutIfAbsent,
    Random,
    Replace,
    Sleep,
    Unique,
)
from datashard_core.effects.tasks import gather, outcomes_of, result_of
from datashard_core.errors import CommitStateUnknownError, DataShardError, StorageError
from datashard_core.storage.base import (
    ObjectInfo,
    ObjectNotFoundError,
    OutcomeUnknownError,
    PreconditionFailedError,
)

log = logging.getLogger(__name__)

MAX_WAIT = 1.0
PURGE_BATCH = 1000


class Created(Struct, frozen=True):
    """A table that exists now, and whether this call created it."""

    state: TableState
    made: bool


FirstVersion = Callable[[int, str, str, int], tuple[VersionFile, bytes]]
"""Makes a table's first version of its number, a fresh uuid, the digest of the commit's id and the time in ms."""


async def create(root: str, name: str, first: FirstVersion, timeout: float) -> Created:
    """Create a table, or find the one that another process created first.

    Args:
        root: URI of its folder.
        name: its name, for messages.
        first: makes the version that begins it.
        timeout: seconds after which it gives up.

    Raises:
        CommitStateUnknownError: it is not known at the deadline whether the table was created.
        StorageError: the store failed before the version was sent.
    """
    return await create_after((await find_current(root)), root, name, first, timeout)


async def create_after(found: Found | None, root: str, name: str, first: FirstVersion, timeout: float) -> Created:
    """As :func:`create`, for a caller that has just looked for a table.

    Args:
        found: the newest version; None if there was none at all, and no hint.
        root: URI of its folder.
        name: its name, for messages.
        first: makes the version that begins it.
        timeout: seconds after which it gives up.
    """
    now, unique, uuid = await gather(Now(), Unique(), Unique())
    commit_id = unique
    deadline = now.monotonic + timeout
    never_existed = found is None
    tried_from: int | None = None
    while True:
        made = await _landed(found, commit_id, tried_from, root)
        if found is not None and found.newest.state == "table":
            hint = await move_hint(found.newest.version, found.hint, root)
            return Created(TableState(found.newest, None, hint), made)
        if made:  # and dropped by another process since: create another table
            unique, uuid = await gather(Unique(), Unique())
            commit_id, tried_from = unique, None
        version = 0 if found is None else found.newest.version + 1
        version_file, data = first(version, _as_uuid(uuid), commit_id, now.wall_ms)
        outcome = await _commit_body(version, data)
        if outcome is None:
            known = found.hint if found is not None else None
            hint = await move_hint(version, known, root, absent=never_existed and version == 0)
            return Created(TableState(version_file, (), hint), made=True)
        tried_from = version if tried_from is None else tried_from
        await _pause(deadline, f"whether table {name} was created at {root}", commit_id, outcome)
        found = await find_current(root, found.newest if found is not None else None)


async def drop(target: Target, timeout: float) -> VersionFile:
    """Commit the marker that drops the table.

    Returns:
        The marker's version.

    Raises:
        NoSuchTableError: there is no such table, or no longer.
        CommitStateUnknownError: it is not known at the deadline whether the table was dropped.
    """
    now, commit_id = await gather(Now(), Unique())
    deadline = now.monotonic + timeout
    found = await find_current(target.root)
    tried_from: int | None = None
    while True:
        if await _landed(found, commit_id, tried_from, target.root):
            assert found is not None
            return found.newest
        parent = require_live(found, None, target).body
        uuid = parent.table.table_uuid
        names = recorded_ids.following(
            parent.names,
            parent_version=parent.version,
            table=uuid,
            first=parent.first,
            commit_id=commit_id,
            names={},
        )
        version = parent.version + 1
        outcome = await _commit_body(version, dropped_marker(uuid, names, now.wall_ms))
        if outcome is None:
            await move_hint(version, found.hint if found is not None else None, target.root)
            return VersionFile(version, "dropped", None, names)
        tried_from = version if tried_from is None else tried_from
        await _pause(deadline, f"whether table {target.name} was dropped", commit_id, outcome)
        found = await find_current(target.root, parent)


async def purge(root: str, uuid: str, marker: int, listed_before: frozenset[str]) -> int:
    """Remove the files of a dropped table; its version names stay, as tombstones.

    A table that is created again has the same folder, so only objects that surely belong to the old one are deleted:
    those listed before the marker was committed, and those older than the marker by the store's clock.

    Args:
        root: URI of the table's root.
        uuid: identity of the dropped table.
        marker: version of the marker.
        listed_before: keys of a listing made before the marker was committed.

    Returns:
        How many objects were deleted.
    """
    fence: ObjectInfo = await Head(version_key(marker))
    doomed: list[str] = []
    versions: list[ObjectInfo] = []
    for folder in TABLE_FOLDERS:
        for info in await list_all(folder):
            if info.key == HINT_KEY:
                continue
            if _is_version(info.key):
                versions.append(info)
            elif info.key in listed_before or info.last_modified < fence.last_modified:
                doomed.append(info.key)
    for start in range(0, len(doomed), PURGE_BATCH):
        await delete(doomed[start : start + PURGE_BATCH], root)
    superseded = [info.key for info in versions if info.key in listed_before]
    if superseded and not (await KeepsVersions()):
        log.warning("%s: the old versions of the dropped table are kept: the store has no usable If-Match", root)
        superseded = []
    for start in range(0, len(superseded), 16):
        keys = superseded[start : start + 16]
        stored_versions = await gather(*[Get(key) for key in keys])
        outcomes = await outcomes_of(
            [Replace(key, tombstone(uuid), stored.version) for key, stored in zip(keys, stored_versions, strict=True)]
        )
        for outcome in outcomes:
            # A tombstone of another process is as good.
            if not isinstance(outcome, (PreconditionFailedError, ObjectNotFoundError)) and not _is_unsupported(outcome):
                result_of(outcome)
    return len(doomed)


def _is_unsupported(outcome: object) -> bool:
    """Whether the store has no usable If-Match, so that the version stays as it is."""
    return isinstance(outcome, StorageError) and outcome.reason == "unsupported"


async def list_all(prefix: str) -> list[ObjectInfo]:
    """Every object whose key begins with ``prefix``."""
    everything: list[ObjectInfo] = []
    after: str | None = None
    while True:
        page: list[ObjectInfo] = await ListPage(prefix, after)
        everything += page
        if len(page) < 1000:
            return everything
        after = page[-1].key


async def list_own() -> frozenset[str]:
    """Keys of everything in the table's own three folders."""
    keys: set[str] = set()
    for folder in TABLE_FOLDERS:
        keys.update(info.key for info in (await list_all(folder)))
    return frozenset(keys)


async def _commit_body(version: int, data: bytes) -> DataShardError | None:
    """Try to create a version; return None, or the reason why it was not created or why that is unknown."""
    outcomes = await outcomes_of((PutIfAbsent(version_key(version), data),))
    outcome: Any = outcomes[0]
    if isinstance(outcome, (PreconditionFailedError, OutcomeUnknownError)):
        return outcome
    result_of(outcome)
    return None


async def _landed(found: Found | None, commit_id: str, tried_from: int | None, root: str) -> bool:
    """Whether a version, from the first one that was tried on, records this commit."""
    if found is None or tried_from is None:
        return False
    recorded = await look_back(
        frozenset({commit_id}), found.newest, above=tried_from - 1, bodies=found.bodies, root=root
    )
    return commit_id in recorded


async def _pause(deadline: float, what: str, commit_id: str, cause: DataShardError) -> None:
    fraction, now = await gather(Random(), Now())
    instant: Instant = now
    if instant.monotonic > deadline:
        raise CommitStateUnknownError(
            f"it is not known {what} ({cause}). Check the table, and call again if it was not.",
            append_id=commit_id,
        ) from cause
    await Sleep(fraction * MAX_WAIT / 4)


def _as_uuid(unique: str) -> str:
    return f"{unique[:8]}-{unique[8:12]}-{unique[12:16]}-{unique[16:20]}-{unique[20:]}"


def _is_version(key: str) -> bool:
    return key.startswith("metadata/v") and key.endswith(".metadata.json")
