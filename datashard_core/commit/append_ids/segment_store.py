"""Read index segments in the store, and make missing ones from their parts.

A missing segment was not written yet, is too large for a commit to write, was removed because a later one supersedes
it, or is forgotten. A look-up does something else in each of these cases, so a missing segment never counts as empty.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence

import msgspec
from msgspec import Struct

from datashard_core.commit.append_ids import segment
from datashard_core.commit.append_ids.lookback import (
    ForgottenError,
    RecordedOutcome,
    TombstoneMetError,
    ids_recorded_in,
    walk_back,
)
from datashard_core.commit.append_ids.segment import SegmentHeader, SegmentName
from datashard_core.commit.core.recorded_ids import BLOCK, Record
from datashard_core.commit.core.state import History, read_version
from datashard_core.commit.core.version_file import VersionFile, version_key
from datashard_core.effects.requests import Get, Put
from datashard_core.effects.tasks import gather, outcomes_of, result_of
from datashard_core.errors import CorruptTableError, DataShardError, StorageError
from datashard_core.format.metadata.data_file import Count
from datashard_core.storage.base import ObjectNotFoundError

log = logging.getLogger(__name__)

Records = Sequence[tuple[str, RecordedOutcome]]


class SegmentLostError(CorruptTableError):
    """A segment is missing, and the versions that it could be made from are tombstones."""


class OpenSegment(Struct, frozen=True):
    """A segment of which the beginning was read.

    Attributes:
        name: its name.
        header: its header; None for a segment of another table, which does not matter here.
        data: its first bytes, all of them if it is small.
    """

    name: SegmentName
    header: SegmentHeader | None
    data: bytes

    @property
    def count(self) -> int:
        """How many records it has."""
        return self.header.count if self.header is not None else 0

    @property
    def whole(self) -> bool:
        """Whether all of it was read."""
        return segment.size_of(self.count) <= len(self.data)

    @property
    def last_ms(self) -> int | None:
        """When the last of its versions was committed; None if it is another table's."""
        return self.header.last_ms if self.header is not None else None


class MadeSegment(Struct, frozen=True):
    """The content of a segment: its records, and when the last of its versions was committed."""

    records: Records
    last_ms: int


async def open_segments(names: Sequence[SegmentName], history: History) -> list[OpenSegment | None]:
    """Read the beginning of segments in parallel; None for a missing one."""
    if not names:
        return []
    outcomes = await outcomes_of([Get(name.key, (0, segment.WINDOW)) for name in names])
    found: list[OpenSegment | None] = []
    for name, outcome in zip(names, outcomes, strict=True):
        if isinstance(outcome, ObjectNotFoundError):
            found.append(None)
            continue
        data: bytes = result_of(outcome).body
        header = segment.decode_header(data, f"{history.root}/{name.key}", history.uuid)
        if header is not None and (header.since, header.until) != (name.since, name.until):
            raise CorruptTableError(
                f"{history.root}/{name.key} holds the append ids of versions {header.since} to {header.until}, not "
                f"those of its name: delete it, and it is made again from the versions"
            )
        found.append(OpenSegment(name, header, data))
    return found


async def outcomes_in_segment(ids: frozenset[str], opened: OpenSegment, newest: int) -> dict[str, RecordedOutcome]:
    """The latest record of each id in a segment, by versions up to ``newest``; of a large segment a range is read."""
    if opened.header is None:
        return {}
    if opened.whole:
        return last_outcomes(ids, segment.decode_records(opened.data, opened.name.key), newest)
    key, count = opened.name.key, opened.count
    held = range(opened.header.since, opened.header.until)
    ranges = {own: segment.window(own, count) for own in sorted(ids)}
    parts = await outcomes_of([Get(key, span) for span in ranges.values()])
    recorded: dict[str, RecordedOutcome] = {}
    whole: bytes | None = None
    for (own, (start, end)), part in zip(ranges.items(), parts, strict=True):
        body = result_of(part).body
        if segment.encloses(body, start, end, own, count):
            outcome = segment.records_in(body, own, newest, held)
        else:
            if whole is None:
                whole = (await Get(key)).body
                if len(whole) != segment.size_of(count):
                    raise CorruptTableError(f"{key} is cut short: delete it, and it is made again from the versions")
            outcome = segment.records_in(whole[segment.header_size() :], own, newest, held)
        if outcome is not None:
            recorded[own] = outcome
    return recorded


def last_outcomes(ids: frozenset[str], records: Records, newest: int) -> dict[str, RecordedOutcome]:
    """The latest record of each id by versions up to ``newest``, among records."""
    recorded: dict[str, RecordedOutcome] = {}
    for own, outcome in records:
        if (
            own in ids
            and outcome.version <= newest
            and (own not in recorded or recorded[own].version < outcome.version)
        ):
            recorded[own] = outcome
    return recorded


async def make_segment(
    name: SegmentName, near: VersionFile, history: History, most: int | None = segment.TOO_LARGE
) -> MadeSegment | None:
    """Make a segment from its parts, and write it.

    Args:
        name: the segment.
        near: a version that may repeat some of its records.
        history: the table.
        most: bytes above which it is not made, and its parts are not read; None: no limit.

    Returns:
        Its content; None if it, or a part that is missing too, would be too large.

    Raises:
        SegmentLostError: versions that it could be made from are tombstones, or later than ``near``.
    """
    if name.until <= near.first:
        return MadeSegment((), 0)
    if name.until > near.version + 1:
        raise SegmentLostError(
            f"{history.root}/{name.key} is missing, and version {near.version} is too old to make it: load the table "
            "again."
        )
    parts = [part for part in name.parts if part.until > near.first]
    segments = await open_segments(parts, history)
    if _is_more(sum(opened.count for opened in segments if opened is not None), most):
        return None
    lists: list[Records] = []
    last_ms, sure = 0, True
    if name.level == 1:
        last_ms, sure, named = await _names_between(max(name.until - BLOCK, near.first), name.until, near, history.root)
        lists.append(named)
    for part, opened in zip(parts, segments, strict=True):
        made = (await _whole(opened)) if opened is not None else (await make_segment(part, near, history, most))
        if made is None:
            return None
        lists.append(made.records)
        last_ms = max(last_ms, made.last_ms)
    records = segment.merged(lists)
    if _is_more(len(records), most):
        return None
    if sure:
        data = segment.encode_segment(history.uuid, name.since, name.until, last_ms, records)
        outcomes = await outcomes_of((Put(name.key, data),))
        if isinstance(outcomes[0], StorageError):
            # The next process that needs it makes it again.
            log.info("id segment %s could not be written: %s", name.key, outcomes[0])
    return MadeSegment(records, last_ms)


async def names_of(name: SegmentName, near: VersionFile, history: History) -> Records:
    """The records of a segment of level 1 that are in none of its parts: those of its last 16 versions."""
    if name.level > 1:
        return ()
    _, _, records = await _names_between(max(name.until - BLOCK, near.first), name.until, near, history.root)
    return records


async def superseding_segment(name: SegmentName, history: History) -> OpenSegment | None:
    """The segment to read instead of a missing one whose versions are tombstones.

    Returns:
        A later segment that supersedes it; None if there is none, so that an object was deleted by hand.

    Raises:
        ForgottenError: maintenance has removed it, because its versions are out of the retention.
    """
    # The watermark is written before a segment is removed, and only superseded or forgotten segments are removed.
    later = await open_segments(name.superseded_names, history)
    found = next((opened for opened in later if opened is not None and opened.header is not None), None)
    if found is None:
        outcomes = await outcomes_of((Get(segment.WATERMARK),))
        if not isinstance(outcomes[0], ObjectNotFoundError):
            until = forgotten_before(result_of(outcomes[0]).body, history)
            if name.until <= until:
                raise ForgottenError(until, history.root)
    return found


class _Watermark(Struct, frozen=True):
    table: str
    until: Count


def forgotten_before(data: bytes, history: History) -> int:
    """The version of a watermark, up to which segments are removed for good; 0 for another table's watermark."""
    where = f"{history.root}/{segment.WATERMARK}"
    try:
        watermark = msgspec.json.decode(data, type=_Watermark)
        return watermark.until if watermark.table == history.uuid else 0
    except (ValueError, RecursionError) as error:  # msgspec's errors are ValueErrors
        raise CorruptTableError(
            f"{where} cannot be read ({error}): restore it, or delete it if maintain() never ran on this table"
        ) from error


def watermark_of(until: int, history: History) -> bytes:
    """The bytes of a watermark."""
    return msgspec.json.encode({"table": history.uuid, "until": until})


async def upkeep(version: int, parent: VersionFile, history: History) -> None:
    """After a commit, write the segments that are due, except large ones. A failure only costs time later."""
    try:
        for name in segment.due_after(version):
            await make_segment(name, parent, history)
    except DataShardError as error:
        log.info("id segments after version %d of %s could not be written: %s", version, history.root, error)


def _is_more(count: int, most: int | None) -> bool:
    return most is not None and segment.size_of(count) > most


async def _whole(opened: OpenSegment) -> MadeSegment:
    if opened.header is None:
        return MadeSegment((), 0)
    data = opened.data
    if not opened.whole:
        (stored,) = await gather(
            Get(opened.name.key),
        )
        data = stored.body
    return MadeSegment(segment.decode_records(data, opened.name.key), opened.header.last_ms)


async def _names_between(since: int, until: int, near: VersionFile, root: str) -> tuple[int, bool, Records]:
    """Records of the versions [since, until), the time of the last one, and whether that time is exact."""
    records: list[tuple[str, RecordedOutcome]] = []

    def visit(version: int, names: Mapping[str, Record]) -> bool:
        if version < until:
            records.extend(segment.records_of(version, names))
        return True

    last = near if near.version == until - 1 else (await read_version(root, until - 1))
    if last.state == "tombstone" and ids_recorded_in(last.version, near) is None:
        raise SegmentLostError(
            f"{root}/{version_key(last.version)} is a tombstone, and the id segment with its records is "
            "missing: restore _datashard/ids of this table, and do not delete objects there."
        )
    bodies = {last.version: last}
    begin = last if last.state == "table" or ids_recorded_in(last.version, last) else near
    try:
        await walk_back(begin, above=since - 1, bodies=bodies, root=root, visit=visit)
    except TombstoneMetError as met:
        raise SegmentLostError(str(met)) from met
    if last.metadata is not None:
        return last.metadata.last_updated_ms, True, records
    # A tombstone whose records `near` repeats: the later time only keeps its records for longer.
    return (near.metadata.last_updated_ms if near.metadata is not None else 0), False, records
