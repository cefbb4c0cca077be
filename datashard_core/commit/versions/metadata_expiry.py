"""Replace old versions by tombstones, a few in every second commit, and delete the files that only they name.

The name of a version stays taken for ever, but the body of a long superseded version is not needed. Every condition
below has to hold before a version is replaced; ``docs/design/maintenance.md`` lists the failure that each condition
prevents. Ages compare two ``Last-Modified`` times of the store; this process's clock is not used.

The property ``datashard.sweep`` is the watermark: the next version to look at. The commit that replaces a few versions
moves it, so that no two processes replace the same ones. A process that dies then leaves a few versions to
``maintain()``.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import msgspec
from msgspec import Struct
from msgspec.structs import replace

from datashard_core.commit.append_ids import segment
from datashard_core.commit.append_ids.lookback import ForgottenError, ids_recorded_in
from datashard_core.commit.append_ids.segment import SegmentName
from datashard_core.commit.append_ids.segment_store import SegmentLostError, make_segment, superseding_segment
from datashard_core.commit.core.current_version import VERSION_NAME
from datashard_core.commit.core.next_version import NextVersion
from datashard_core.commit.core.paths import delete, key_of
from datashard_core.commit.core.recorded_ids import BLOCK
from datashard_core.commit.core.state import Target
from datashard_core.commit.core.version_file import VersionFile, parse_version, tombstone, version_key
from datashard_core.effects.requests import Get, Head, KeepsVersions, Replace, Request
from datashard_core.effects.tasks import outcomes_of, result_of
from datashard_core.errors import DataShardError, StorageError
from datashard_core.format.manifests.manifest import decode_manifest_list
from datashard_core.format.metadata.data_file import Count
from datashard_core.format.metadata.snapshot import Snapshot
from datashard_core.format.metadata.table_metadata import TableMetadata
from datashard_core.storage.base import ObjectInfo, ObjectNotFoundError, PreconditionFailedError, StoredObject

log = logging.getLogger(__name__)

PROPERTY = "datashard.sweep"
AGE = 7 * 24 * 3600.0
"""Seconds for which a version stays readable: a catalog may have registered it, or a process may be reading it."""
KEPT = 3 * BLOCK
"""The newest versions are never touched, however slowly they follow each other."""
EVERY = 2
GROUP = 4
"""Versions in every second commit: more than are created meanwhile, so that the watermark catches up."""
SMALL = 512
"""A tombstone has fewer bytes than that, the metadata of a table more."""
PROBES = 8
RETRY_MS = 3600 * 1000
"""Time after which appends look again whether maintenance has made a segment that is too large for them."""


class _Watermark(Struct, frozen=True):
    """The property ``datashard.sweep``.

    Attributes:
        next: the next version to look at.
        after: ``last-updated-ms`` from which on to look. Only cost depends on it.
    """

    next: Count = 0
    after: Count = 0


class ExpiryPlan(Struct, frozen=True):
    """A few old versions that become tombstones.

    Attributes:
        watermark: the new value of the property.
        versions: the versions to replace, as the store has them.
        last: the youngest of them; None if there is none.
    """

    watermark: _Watermark
    versions: tuple[ObjectInfo, ...] = ()
    last: VersionFile | None = None


def due(parent: VersionFile) -> range | None:
    """The versions that the commit after ``parent`` should look at; None if it should not look."""
    version = parent.version + 1
    if version % EVERY != EVERY - 1 or version % BLOCK == 0 or parent.metadata is None:
        return None  # commits that write id segments have enough to do
    watermark = _watermark_of(parent)
    if parent.table.last_updated_ms < watermark.after:
        return None
    group = range(watermark.next, min(watermark.next + GROUP - watermark.next % GROUP, _block_end(watermark.next)))
    return group if group and may_go(group, parent) else None


def _watermark_of(version_file: VersionFile) -> _Watermark:
    """The watermark in a version; the table's beginning if another engine dropped the property."""
    try:
        watermark = msgspec.json.decode(version_file.table.properties.get(PROPERTY, "{}"), type=_Watermark)
    except (ValueError, RecursionError):  # msgspec's errors are ValueErrors
        watermark = _Watermark()
    return _Watermark(max(watermark.next, version_file.first), watermark.after)


def _block_end(version: int) -> int:
    """The version after the block whose records one segment of the lowest level holds."""
    return version - version % BLOCK + BLOCK


def may_go(group: Sequence[int], newest: VersionFile) -> bool:
    """Whether versions are old enough, and no longer in the metadata log."""
    if group[-1] > newest.version - KEPT or _block_end(group[-1]) > newest.version or group[0] < newest.first:
        return False
    logged = {str(entry.get("metadata-file", "")).rpartition("/")[2] for entry in newest.table.metadata_log}
    return not logged & {version_key(version).rpartition("/")[2] for version in group}


async def look(
    target: Target, newest: VersionFile, group: Sequence[int], most: int | None = segment.TOO_LARGE
) -> ExpiryPlan:
    """Check whether some versions of one block of 16 may become tombstones: one round trip if they may.

    Args:
        target: the table.
        newest: the version that is built on; ages are counted up to it.
        group: the versions, in order, for which :func:`may_go` holds.
        most: bytes above which a missing id segment is left to maintenance; None: it is made.

    Raises:
        StorageError: something could not be read; nothing is replaced then.
    """
    last = group[-1]
    segment_name = SegmentName(1, _block_end(last))  # the parts of all others
    requests: list[Request[Any]] = [
        Get(version_key(last)),
        Head(version_key(newest.version)),
        Get(segment_name.key, (0, segment.WINDOW)),
        KeepsVersions(),
    ]
    requests += [Head(version_key(version)) for version in group[:-1]]
    found, now, read_segment, replaces, *others = await outcomes_of(requests)
    if not result_of(replaces):
        return ExpiryPlan(_Watermark(group[0], newest.table.last_updated_ms + RETRY_MS))
    if isinstance(found, ObjectNotFoundError):
        return ExpiryPlan(_Watermark(last + 1))  # deleted by hand: nothing is left to do
    stored: StoredObject = result_of(found)
    body = parse_version(stored.body, last, f"{target.root}/{version_key(last)}")
    if body.metadata is None or body.table.table_uuid != target.uuid:
        return ExpiryPlan(_Watermark(await _first_whole(last + 1, newest)))
    age = result_of(now).last_modified - stored.last_modified
    if age < AGE:
        return ExpiryPlan(_Watermark(group[0], newest.table.last_updated_ms + int(1000 * (AGE - age))))
    remembered = await _remembered(target, segment_name, read_segment, body, group, newest, most)
    if remembered is None:
        return ExpiryPlan(_Watermark(group[0], newest.table.last_updated_ms + RETRY_MS))
    if not remembered:
        return ExpiryPlan(_Watermark(group[0]))
    others.append(ObjectInfo(version_key(last), len(stored.body), stored.version, stored.last_modified))
    whole: dict[int, ObjectInfo] = {}
    for version, info in zip(group, others, strict=True):
        if not isinstance(info, ObjectNotFoundError) and result_of(info).size > SMALL:
            whole[version] = info
    unrecorded = [version for version in whole if ids_recorded_in(version, body) is None]
    if unrecorded:
        # Not repeated by the last one: of another engine, of an earlier table of this name, or a drop marker.
        outcomes = await outcomes_of([Get(version_key(version)) for version in unrecorded])
        for version, outcome in zip(unrecorded, outcomes, strict=True):
            other = parse_version(result_of(outcome).body, version, f"{target.root}/{version_key(version)}")
            if other.metadata is None or other.table.table_uuid != target.uuid:
                del whole[version]
    return ExpiryPlan(_Watermark(last + 1), tuple(whole.values()), body)


async def _remembered(
    target: Target,
    segment_name: SegmentName,
    outcome: Any,
    version_file: VersionFile,
    group: Sequence[int],
    newest: VersionFile,
    most: int | None,
) -> bool | None:
    """Whether the id segment of their block has the records of the versions; a missing one is made for the next look.

    Returns:
        None if it is missing and too large for a commit to write.
    """
    if isinstance(outcome, ObjectNotFoundError):
        try:
            made = await make_segment(segment_name, newest, target.history, most)
            return None if made is None else False
        except SegmentLostError:
            # Earlier versions of its block are tombstones, and maintenance has removed the segment since.
            try:
                later = await superseding_segment(segment_name, target.history)
            except ForgottenError:
                return True
            if later is None:
                raise
            segment_name, data = later.name, later.data
    else:
        data = result_of(outcome).body
    header = segment.decode_header(data, f"{target.root}/{segment_name.key}", target.uuid)
    if header is None or header.until != segment_name.until:
        log.warning("table %s: %s/%s is another table's: delete it", target.name, target.root, segment_name.key)
        return False
    if segment.size_of(header.count) > len(data):
        return True  # too large to read; like every segment it was made from the versions
    held = {(own, recorded.version) for own, recorded in segment.decode_records(data)}
    named = {(own, version) for version in group for own in ids_recorded_in(version, version_file) or ()}
    if named - held:
        log.error(
            "table %s: %s/%s lacks append ids of versions %d to %d: delete it, and it is made again from them",
            target.name,
            target.root,
            segment_name.key,
            group[0],
            group[-1],
        )
        return False
    return True


async def _first_whole(low: int, newest: VersionFile) -> int:
    """After a loss of the property, skip versions that are tombstones already, as many as a few requests show."""
    probes = [low + GROUP * 2**power for power in range(PROBES)]
    probes = [probe for probe in probes if probe <= newest.version - KEPT]
    outcomes = await outcomes_of([Head(version_key(probe)) for probe in probes])
    for probe, outcome in zip(probes, outcomes, strict=True):
        if result_of(outcome).size > SMALL:
            break
        low = probe
    return low


def with_watermark(prepared: NextVersion, plan: ExpiryPlan) -> NextVersion:
    """The version that is about to be committed, with the new watermark."""
    table = prepared.body.table
    text = msgspec.json.encode(plan.watermark).decode()
    if table.properties.get(PROPERTY) == text:
        return prepared
    metadata = table.with_properties({**table.properties, PROPERTY: text})
    return replace(prepared, body=replace(prepared.body, metadata=metadata), data=metadata.to_json())


async def write_tombstones(target: Target, plan: ExpiryPlan, newest: VersionFile) -> int:
    """Replace versions by tombstones, and delete the manifest lists and manifests that only they name.

    Args:
        target: the table.
        plan: the result of :func:`look`.
        newest: the newest version known. Later ones build on it.

    Returns:
        How many versions became tombstones. Failures are logged and left to ``maintain()``.
    """
    if plan.last is None or not plan.versions:
        return 0
    try:
        files = await _superseded(target, plan.last, newest.table, 2 * len(plan.versions))
    except DataShardError as error:
        log.info("table %s: files of old versions are left to maintain(): %s", target.name, error)
        files = []
    body = tombstone(target.uuid)
    requests: list[Request[Any]] = [Replace(info.key, body, info.version) for info in plan.versions]
    if files:
        requests.append(delete(files, target.root))
    replaced = 0
    for request, outcome in zip(requests, (await outcomes_of(requests)), strict=True):
        if isinstance(outcome, (PreconditionFailedError, ObjectNotFoundError)):
            continue  # a tombstone of another process is as good
        if isinstance(outcome, StorageError):
            log.info("table %s: an old version is left to maintain(): %s", target.name, outcome)
        elif isinstance(request, Replace):
            replaced += 1
    return replaced


async def _superseded(target: Target, old: VersionFile, newest: TableMetadata, most: int) -> list[str]:
    """Keys of the manifest lists and manifests of an old version that no kept snapshot can name.

    A later version keeps snapshots of its parent and adds new ones with new lists, so a snapshot that has expired from
    the newest version never returns. For manifests, each kept snapshot has to be the child of the one before. Each
    takes its manifests from its parent or writes new ones, so a manifest older than the oldest kept snapshot that this
    snapshot does not have is in none of them.
    """
    kept, location = newest.snapshots, newest.location
    lists = {key_of(snapshot.manifest_list, location, target.root) for snapshot in kept}
    expired = [one for one in old.table.snapshots if _key(one, old, target) not in lists]
    doomed = [_key(one, old, target) for one in expired[-most:]]
    current = old.table.current_snapshot
    if current in expired and _is_line(kept) and current.sequence_number < kept[0].sequence_number:
        theirs, ours = await outcomes_of((Get(_key(current, old, target)), Get(_key(kept[0], old, target))))
        if not isinstance(theirs, ObjectNotFoundError):
            live, before = (
                {
                    key_of(one.manifest_path, location, target.root)
                    for one in decode_manifest_list(result_of(listed).body)
                }
                for listed in (ours, theirs)
            )
            doomed += before - live
    # Files of another engine are deleted only in the folder where this library writes.
    return [key for key in doomed if key.startswith("metadata/") and key.endswith(".avro")]


def _key(snapshot: Snapshot, version_file: VersionFile, target: Target) -> str:
    return key_of(snapshot.manifest_list, version_file.table.location, target.root)


def _is_line(snapshots: Sequence[Snapshot]) -> bool:
    """Whether each snapshot was made from the one before it."""
    return bool(snapshots) and all(
        after.parent_snapshot_id == before.snapshot_id for before, after in pairwise(snapshots)
    )


async def expire_all_metadata(target: Target, newest: VersionFile) -> int:
    """Check every version that is no tombstone yet, also those that a process left when it died.

    Only for maintenance, because it lists the versions.

    Returns:
        How many versions became tombstones.

    Raises:
        StorageError: something could not be read.
    """
    from datashard_core.commit.versions.lifecycle import list_all

    if not (await KeepsVersions()):
        log.info("table %s: no old version becomes a tombstone: the store has no usable If-Match", target.name)
        return 0
    blocks: dict[int, list[int]] = {}
    for info in await list_all("metadata/v"):
        match = VERSION_NAME.fullmatch(info.key)
        if match is not None and info.size > SMALL and may_go([int(match[1])], newest):
            blocks.setdefault(int(match[1]) // BLOCK, []).append(int(match[1]))
    replaced = 0
    for block in sorted(blocks):
        group = sorted(blocks[block])
        found = await look(target, newest, group, most=None)
        if found.last is None and found.watermark.next == group[0] and not found.watermark.after:
            found = await look(target, newest, group, most=None)  # its segment was missing, and is made now
        if found.watermark.after:
            break  # too young, like all that follow
        replaced += await write_tombstones(target, found, newest)
    return replaced
