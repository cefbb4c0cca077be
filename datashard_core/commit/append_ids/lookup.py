"""Look up append ids over any range of versions.

A short range is read from the versions themselves. A long one needs the newest segment of each level and the full
blocks of the top level before it: about four reads in parallel. A missing segment is made from its parts by the process
that needs it; of a large one only parts are read.

There are two kinds of look-ups. :func:`look_up` judges an append by its base and needs all records after it; it raises
a :class:`~datashard_core.commit.append_ids.lookback.ForgottenError` if they are no longer kept. :func:`look_up_since`
looks for a caller's id as far back as ids are kept (``datashard.append-id.retention``).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from itertools import islice

from msgspec import Struct

from datashard_core.commit.append_ids import segment
from datashard_core.commit.append_ids.lookback import (
    ForgottenError,
    RecordedOutcome,
    TombstoneMetError,
    look_back,
    lowest_recorded,
)
from datashard_core.commit.append_ids.segment import SegmentName
from datashard_core.commit.append_ids.segment_store import (
    OpenSegment,
    SegmentLostError,
    last_outcomes,
    make_segment,
    names_of,
    open_segments,
    outcomes_in_segment,
    superseding_segment,
)
from datashard_core.commit.core.properties import settings_of
from datashard_core.commit.core.recorded_ids import BLOCK
from datashard_core.commit.core.state import History
from datashard_core.commit.core.version_file import VersionFile
from datashard_core.effects.tasks import gather

SHORT_RANGE = 2 * BLOCK
FIRST_SEGMENTS = 4
"""The newest of each level, and full blocks: enough for most look-ups. Others read on, so many at once:"""
SEGMENTS_AT_ONCE = 16


class LookupResult(Struct, frozen=True):
    """The result of a look-up.

    Attributes:
        recorded: digest of append id -> its latest record; absent if there is none.
        since: the versions before this one were not searched, because they are out of the retention.
    """

    recorded: Mapping[str, RecordedOutcome]
    since: int


async def look_up(
    ids: frozenset[str],
    newest: VersionFile,
    *,
    above: int,
    bodies: Mapping[int, VersionFile],
    history: History,
) -> dict[str, RecordedOutcome]:
    """The latest record of each id in the versions ``(above, newest]``, however old they are.

    Args:
        ids: digests of append ids.
        newest: the version to look back from.
        above: versions up to this one do not matter (-1: all versions of the table matter).
        bodies: versions already read.
        history: the table.

    Returns:
        Digest of append id -> its latest record; absent if there is none.

    Raises:
        ForgottenError: some of the records are no longer kept.
    """
    result = await _from(ids, newest, above, bodies, history, None)
    return dict(result.recorded)


async def look_up_since(
    ids: frozenset[str],
    newest: VersionFile,
    *,
    above: int,
    bodies: Mapping[int, VersionFile],
    history: History,
) -> LookupResult:
    """The latest record of each id in the versions ``(above, newest]``, as far back as ids are kept.

    The arguments are those of :func:`look_up`.
    """
    return await _from(ids, newest, above, bodies, history, retention_cutoff_ms(newest))


def retention_cutoff_ms(newest: VersionFile) -> int:
    """Time before which the records of versions need not be kept, by the versions' own times alone."""
    if newest.metadata is None:
        return 0
    return newest.metadata.last_updated_ms - settings_of(newest.metadata.properties).id_retention_ms


async def _from(
    ids: frozenset[str],
    newest: VersionFile,
    above: int,
    bodies: Mapping[int, VersionFile],
    history: History,
    cutoff_ms: int | None,
) -> LookupResult:
    low = lowest_recorded(newest)
    # If the records of a block do not fit into one version's property, a walk over the blocks before it takes a
    # round trip for every few versions, and their segments take one.
    cut_short = low % BLOCK != 0
    in_versions = low - 1 <= max(above, newest.first - 1) or (newest.version - above <= SHORT_RANGE and not cut_short)
    boundary = 0 if in_versions or not ids else low - low % BLOCK
    try:
        return await _look_up(ids, newest, boundary, above, bodies, history, cutoff_ms)
    except TombstoneMetError as met:
        # Maintenance ran since the newest version was read. Before it replaces a version, it ensures that the segment
        # at the end of the version's block exists.
        boundary = met.version - met.version % BLOCK + BLOCK
        return await _look_up(ids, newest, boundary, above, bodies, history, cutoff_ms)


async def _look_up(
    ids: frozenset[str],
    newest: VersionFile,
    boundary: int,
    above: int,
    bodies: Mapping[int, VersionFile],
    history: History,
    cutoff_ms: int | None,
) -> LookupResult:
    """Look in the versions from ``boundary`` on, a multiple of 16, and in the segments for those before it."""
    if boundary == 0:
        return LookupResult((await look_back(ids, newest, above=above, bodies=bodies, root=history.root)), above + 1)
    wanted = segment.needed_below(boundary, max(above, newest.first - 1))
    recent, older = await gather(
        look_back(ids, newest, above=max(above, boundary - 1), bodies=bodies, root=history.root),
        _in_segments(ids, wanted, newest, history, cutoff_ms),
    )
    recorded = {own: outcome for own, outcome in {**older.recorded, **recent}.items() if outcome.version > above}
    return LookupResult(recorded, max(older.since, above + 1))


async def _in_segments(
    ids: frozenset[str], wanted: Iterator[SegmentName], newest: VersionFile, history: History, cutoff_ms: int | None
) -> LookupResult:
    found: dict[str, RecordedOutcome] = {}
    many = FIRST_SEGMENTS
    while names := list(islice(wanted, many)):
        segments = await open_segments(names, history)
        for name, opened in zip(names, segments, strict=True):
            try:
                recorded = await _in_segment(ids, name, opened, newest, history)
            except ForgottenError as error:
                if cutoff_ms is None:
                    raise
                return LookupResult(found, error.until)
            for own, outcome in recorded.items():
                found.setdefault(own, outcome)  # segments come newest first
            if found.keys() >= ids:
                return LookupResult(found, 0)
            if opened is not None and _ends(opened, cutoff_ms):
                return LookupResult(found, name.since)
        many = SEGMENTS_AT_ONCE
    return LookupResult(found, 0)


def _ends(opened: OpenSegment, cutoff_ms: int | None) -> bool:
    """Whether all records of a segment, and so all older ones, are out of the retention.

    A segment of the top level is made of 16 others and has the latest of their times, so one version of an engine
    whose clock is behind does not end a look-up.
    """
    last_ms = opened.last_ms
    return (
        cutoff_ms is not None and last_ms is not None and opened.name.level == segment.TOP_LEVEL and last_ms < cutoff_ms
    )


async def _in_segment(
    ids: frozenset[str], name: SegmentName, opened: OpenSegment | None, newest: VersionFile, history: History
) -> dict[str, RecordedOutcome]:
    """The records in a segment; if it is missing, the records that it would have."""
    if opened is not None:
        return await outcomes_in_segment(ids, opened, newest.version)
    try:
        made = await make_segment(name, newest, history)
        if made is not None:
            return last_outcomes(ids, made.records, newest.version)
        return await _in_parts(ids, name, newest, history)
    except SegmentLostError:
        superseding = await superseding_segment(name, history)
        if superseding is None:
            raise
        return await outcomes_in_segment(ids, superseding, newest.version)


async def _in_parts(
    ids: frozenset[str], name: SegmentName, newest: VersionFile, history: History
) -> dict[str, RecordedOutcome]:
    """The records of a missing segment that is too large for a commit, so that only maintenance writes it."""
    found = last_outcomes(ids, (await names_of(name, newest, history)), newest.version)
    parts = [part for part in name.parts if part.until > newest.first]
    for part, opened in zip(parts, (await open_segments(parts, history)), strict=True):
        for own, outcome in (await _in_segment(ids, part, opened, newest, history)).items():
            found.setdefault(own, outcome)
    return found
