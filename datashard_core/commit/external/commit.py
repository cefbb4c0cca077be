"""Commit versions whose metadata another library computed.

PyIceberg computes the metadata of the next version. The version is created by the one commit point of the table,
records a commit of its own, and repeats the records of the versions before it.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from typing import Any

from datashard_core.commit.append_ids.segment_store import upkeep
from datashard_core.commit.core import recorded_ids
from datashard_core.commit.core.current_version import find_current, move_hint
from datashard_core.commit.core.next_version import restored
from datashard_core.commit.core.recorded_ids import CommitNames
from datashard_core.commit.core.state import TableState, Target, read_version, require_live
from datashard_core.commit.core.version_file import VersionFile, check_protocol, version_key
from datashard_core.commit.external.files import check_files
from datashard_core.effects.requests import Instant, Now, PutIfAbsent, Random, Sleep, Unique
from datashard_core.effects.tasks import gather, outcomes_of
from datashard_core.errors import CommitStateUnknownError, DataShardError, StorageError, UnsupportedTableError
from datashard_core.format.metadata.table_metadata import TableMetadata, metadata_from
from datashard_core.format.types.distinct import check_distinct
from datashard_core.storage.base import OutcomeUnknownError, PreconditionFailedError

log = logging.getLogger(__name__)

MAX_PAUSE = 0.5  # seconds between two tries of a commit whose outcome is not known

Build = Callable[[VersionFile], Mapping[str, Any] | None]
"""Makes the metadata of the next version from the newest version; None if nothing changes."""


async def commit_external(target: Target, build: Build, timeout: float) -> TableState | None:
    """Commit the metadata that ``build`` makes on top of the newest version, if no other writer is faster.

    Args:
        target: the table.
        build: called once, with the newest version; what it raises is raised here.
        timeout: seconds for which an unknown outcome is investigated.

    Returns:
        The new version (or the newest, if ``build`` changes nothing); None if another commit was faster: then no
        part of this one is in the table, or ever will be.

    Raises:
        NoSuchTableError: there is no such table, or no longer.
        UnsupportedTableError: the metadata is not supported for this table.
        ConfigurationError: its schema brings names that engines cannot tell apart.
        CommitTimeoutError: new files are so old that they may be removed as orphans.
        CorruptTableError: its rows do not add up, or a manifest of it is damaged.
        CommitStateUnknownError: it is not known at the deadline whether it was committed.
    """
    now, commit_id = await gather(Now(), Unique())
    instant: Instant = now
    found = await find_current(target.root)
    state = require_live(found, None, target)
    raw = build(state.body)
    if raw is None:
        return state
    body = following_version(state.body, raw, commit_id, target.root)
    await check_files(target, state.body, body)
    if not (await _create(target, body, commit_id, instant.monotonic + timeout)):
        return None
    hint, _ = await gather(
        move_hint(body.version, state.hint, target.root, own=body), upkeep(body.version, state.body, target.history)
    )
    return TableState(body, None, hint)


def following_version(parent: VersionFile, raw: Mapping[str, Any], commit_id: str, root: str) -> VersionFile:
    """The version after ``parent`` with metadata of another library. Pure.

    Raises:
        UnsupportedTableError: it has another uuid, location or format version than the table.
        ConfigurationError: its schema brings names that engines cannot tell apart.
    """
    where = f"{root}/{version_key(parent.version + 1)}"
    table = parent.table
    given = metadata_from(raw, where)
    check_protocol(given, where)
    if given.table_uuid != table.table_uuid or given.location != table.location:
        raise UnsupportedTableError(
            f"{where}: a commit cannot change the table's uuid ({table.table_uuid}, given {given.table_uuid}) or "
            f"location ({table.location}, given {given.location}): its files are found below its own folder."
        )
    if given.schema.fields != table.schema.fields:
        check_distinct(given.schema, where, table.schema)
    property_ = recorded_ids.following(
        parent.names,
        parent_version=parent.version,
        table=table.table_uuid,
        first=parent.first,
        commit_id=commit_id,
        names={},
    )
    moved = TableMetadata(_moved_forward(raw, table))
    metadata = moved.with_properties(restored(moved.properties, property_))
    return VersionFile(parent.version + 1, "table", metadata, property_)


def first_external(
    version: int, table_uuid: str, commit_id: str, now_ms: int, *, raw: Mapping[str, Any], location: str
) -> tuple[VersionFile, bytes]:
    """The first version of a table whose metadata another library made. Pure.

    A table created again under the name of a dropped one gets a uuid that no writer of the old one knows.
    """
    where = f"{location}/{version_key(version)}"
    given = metadata_from(raw, where)
    check_protocol(given, where)
    if given.location != location:
        raise UnsupportedTableError(
            f"{where}: the metadata says {given.location}, and a table of this name lies at {location}"
        )
    uuid = table_uuid if version else given.table_uuid
    names = CommitNames(uuid, version, version, commit_id, version, {version: {commit_id: recorded_ids.LIBRARY_MADE}})
    updated = max(now_ms, given.last_updated_ms)
    moved = TableMetadata({**raw, "table-uuid": uuid, "last-updated-ms": updated})
    metadata = moved.with_properties(restored(moved.properties, names))
    return VersionFile(version, "table", metadata, names), metadata.to_json()


def _moved_forward(raw: Mapping[str, Any], parent: TableMetadata) -> dict[str, Any]:
    """The metadata with new snapshots and log entries later than its parent, whatever the writer's clock said."""
    floor = parent.last_updated_ms + 1
    known = {snapshot.snapshot_id for snapshot in parent.snapshots}
    snapshots = [
        one
        if one["snapshot-id"] in known
        else {
            **one,
            "timestamp-ms": max(one["timestamp-ms"], floor),
        }
        for one in raw.get("snapshots") or []
    ]
    old = {(entry["snapshot-id"], entry["timestamp-ms"]) for entry in parent.snapshot_log}
    entries = [
        entry
        if (entry["snapshot-id"], entry["timestamp-ms"]) in old
        else {
            **entry,
            "timestamp-ms": max(entry["timestamp-ms"], floor),
        }
        for entry in raw.get("snapshot-log") or []
    ]
    times = [one["timestamp-ms"] for one in (*snapshots, *entries)]
    return {
        **raw,
        "snapshots": snapshots,
        "snapshot-log": entries,
        "last-updated-ms": max(raw["last-updated-ms"], floor, *times),
    }


async def _create(target: Target, version_file: VersionFile, commit_id: str, deadline: float) -> bool:
    """Create the version; False if another has its name. The same bytes may be sent again: they are one commit."""
    data = version_file.table.to_json()
    unknown: DataShardError | None = None
    while True:
        outcomes = await outcomes_of((PutIfAbsent(version_key(version_file.version), data),))
        outcome: Any = outcomes[0]
        if not isinstance(outcome, DataShardError):
            return True
        if isinstance(outcome, PreconditionFailedError):
            # The name is taken, perhaps by this commit: the reply was lost, or the client sent it twice.
            try:
                taken = await read_version(target.root, version_file.version)
            except StorageError as error:
                outcome = error
            else:
                return commit_id in taken.named
        elif not isinstance(outcome, OutcomeUnknownError) and unknown is None:
            raise outcome  # the store refused it
        unknown = outcome
        fraction, now = await gather(Random(), Now())
        if now.monotonic > deadline:
            raise CommitStateUnknownError(
                f"table {target.name}: it is not known whether version {version_file.version} was committed "
                f"({unknown}). Look for snapshot {version_file.table.current_snapshot_id} in the table before you "
                "commit again.",
                append_id=commit_id,
                table=target.root,
            ) from unknown
        await Sleep(0.05 + fraction * MAX_PAUSE)
