"""Old versions become tombstones, a few in every second commit; what only they named goes with them.

A version's name stays taken for ever, but of a version that is long superseded nobody needs the body.
Every condition below has to hold before one is replaced; ``docs/design/maintenance.md`` tells what
each of them prevents. Ages are one ``Last-Modified`` against another; no clock of ours is asked.

How far the sweep has come stands in the property ``datashard.sweep``. It is moved on by the commit
that begins with the next few versions, so that no two processes take the same ones. A process that dies
there leaves a few bodies as they are, for ``maintain()``.
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
from datashard_core.commit.versions.lifecycle import list_all
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
"""Seconds that a version stays readable: catalogs may have registered it, somebody may be reading it."""
KEPT = 3 * BLOCK
"""The newest versions are never touched, however slowly they follow each other."""
EVERY = 2
GROUP = 4
"""So many versions in every second commit: more than are made meanwhile, so it catches up."""
SMALL = 512
"""A tombstone has fewer bytes than that, the metadata of a table more."""
PROBES = 8
RETRY_MS = 3600 * 1000
"""After so long appends look again whether maintenance has made a node that is too large for them."""


class _Watermark(Struct, frozen=True):
    """How far the sweep has come, as the property tells.

    Attributes:
        next: the version to go on with.
        after: ``last-updated-ms`` from which on it is worth a look. Only cost depends on it.
    """

    next: Count = 0
    after: Count = 0


class ExpiryPlan(Struct, frozen=True):
    """What a look at a few old versions has found.

    Attributes:
        mark: for the property.
        versions: those to be replaced, as the store holds them.
        last: the youngest of them; None where there is none.
    """

    watermark: _Watermark
    versions: tuple[ObjectInfo, ...] = ()
    last: VersionFile | None = None


def due(parent: VersionFile) -> range | None:
    """The versions that the commit after ``parent`` should look at; None if it should not look."""
    version = parent.version + 1
    if version % EVERY != EVERY - 1 or version % BLOCK == 0 or parent.metadata is None:
        return None  # the commits that write id nodes have enough to do
    watermark = _watermark_of(parent)
    if parent.table.last_updated_ms < watermark.after:
        return None
    group = range(watermark.next, min(watermark.next + GROUP - watermark.next % GROUP, _block_end(watermark.next)))
    return group if group and may_go(group, parent) else None


def _watermark_of(version_file: VersionFile) -> _Watermark:
    """Where to go on; at the table's beginning where another engine dropped the property."""
    try:
        watermark = msgspec.json.decode(version_file.table.properties.get(PROPERTY, "{}"), type=_Watermark)
    except (ValueError, RecursionError):  # msgspec's errors are ValueErrors
        watermark = _Watermark()
    return _Watermark(max(watermark.next, version_file.first), watermark.after)


def _block_end(version: int) -> int:
    """The version after the block whose names one node of the lowest level holds."""
    return version - version % BLOCK + BLOCK


def may_go(group: Sequence[int], newest: VersionFile) -> bool:
    """Whether versions are far enough behind, and have left the metadata log."""
    if group[-1] > newest.version - KEPT or _block_end(group[-1]) > newest.version or group[0] < newest.first:
        return False
    logged = {str(entry.get("metadata-file", "")).rpartition("/")[2] for entry in newest.table.metadata_log}
    return not logged & {version_key(version).rpartition("/")[2] for version in group}


async def look(
    target: Target, newest: VersionFile, group: Sequence[int], most: int | None = segment.TOO_LARGE
) -> ExpiryPlan:
    """Look at some versions of one block of 16, one round if they can be replaced.

    Args:
        target: the table.
        newest: the version that is built on; ages are counted up to it.
        group: the versions, in order, for which :func:`may_go` holds.
        most: bytes of an id node that is missing above which it is left to maintenance; None: it is made.

    Raises:
        StorageError: something could not be read; nothing is replaced then.
    """
    last = group[-1]
    segment_name = SegmentName(1, _block_end(last))  # what the others are made of
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
        return ExpiryPlan(_Watermark(last + 1))  # deleted by hand, and nothing is left to do
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
        # Not told by the last one: another engine's, of an earlier table of this name, or the marker of its drop.
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
    """Whether the id node of their block holds what the versions name; a missing one is made, for the next look.

    Returns:
        None where it is missing, and too large for a commit to write.
    """
    if isinstance(outcome, ObjectNotFoundError):
        try:
            made = await make_segment(segment_name, newest, target.history, most)
            return None if made is None else False
        except SegmentLostError:
            # Earlier versions of its block are tombstones already, and maintenance has removed it since.
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
        return True  # too large to be read for this; it was made of the versions, like every node
    held = {(own, recorded.version) for own, recorded in segment.decode_records(data)}
    named = {(own, version) for version in group for own in ids_recorded_in(version, version_file) or ()}
    if named - held:
        log.error(
            "table %s: %s/%s does not hold all that versions %d to %d name: delete it, it is made again from them",
            target.name,
            target.root,
            segment_name.key,
            group[0],
            group[-1],
        )
        return False
    return True


async def _first_whole(low: int, newest: VersionFile) -> int:
    """Tombstones already (the property was lost): jump over as many of them as a few looks can show."""
    probes = [low + GROUP * 2**power for power in range(PROBES)]
    probes = [probe for probe in probes if probe <= newest.version - KEPT]
    outcomes = await outcomes_of([Head(version_key(probe)) for probe in probes])
    for probe, outcome in zip(probes, outcomes, strict=True):
        if result_of(outcome).size > SMALL:
            break
        low = probe
    return low


def with_watermark(prepared: NextVersion, plan: ExpiryPlan) -> NextVersion:
    """The version that is about to be committed, saying how far the sweep has come with it."""
    table = prepared.body.table
    text = msgspec.json.encode(plan.watermark).decode()
    if table.properties.get(PROPERTY) == text:
        return prepared
    metadata = table.with_properties({**table.properties, PROPERTY: text})
    return replace(prepared, body=replace(prepared.body, metadata=metadata), data=metadata.to_json())


async def write_tombstones(target: Target, plan: ExpiryPlan, newest: VersionFile) -> int:
    """Put tombstones in the place of versions, and delete the manifest lists and manifests that only they named.

    Args:
        target: the table.
        sweep: what :func:`look` has found.
        newest: a version that came after those, the newest known. Later ones build on it.

    Returns:
        How many versions became tombstones. What fails is logged, and left to ``maintain()``.
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
            continue  # somebody else's tombstone is as good as ours
        if isinstance(outcome, StorageError):
            log.info("table %s: an old version is left to maintain(): %s", target.name, outcome)
        elif isinstance(request, Replace):
            replaced += 1
    return replaced


async def _superseded(target: Target, old: VersionFile, newest: TableMetadata, most: int) -> list[str]:
    """Keys of the manifest lists and manifests of an old version that no snapshot kept can name.

    A later version keeps snapshots of its parent and adds new ones with new lists, so what has expired
    from the newest comes back in none. Manifests: the snapshots kept have to be one line from the oldest
    on. Each takes its manifests from its parent or writes new ones, so what the oldest does not have, and
    was written before it, none of them has.
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
    # Of another engine's files only those that lie where ours do.
    return [key for key in doomed if key.startswith("metadata/") and key.endswith(".avro")]


def _key(snapshot: Snapshot, version_file: VersionFile, target: Target) -> str:
    return key_of(snapshot.manifest_list, version_file.table.location, target.root)


def _is_line(snapshots: Sequence[Snapshot]) -> bool:
    """Whether each snapshot was made from the one before it."""
    return bool(snapshots) and all(
        after.parent_snapshot_id == before.snapshot_id for before, after in pairwise(snapshots)
    )


async def expire_all_metadata(target: Target, newest: VersionFile) -> int:
    """Look at every version that is no tombstone yet, also at those that a dying process left as they were.

    For maintenance alone: it lists the versions.

    Returns:
        How many versions became tombstones.

    Raises:
        StorageError: something could not be read.
    """
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
            found = await look(target, newest, group, most=None)  # its node was missing, and is made now
        if found.watermark.after:
            break  # too young, like all that follow
        replaced += await write_tombstones(target, found, newest)
    return replaced
