"""Look-ups of append ids over any range of versions.

A short range is read from the versions themselves. A long one needs the newest node of each level
and the full blocks of the top level before it: about four reads, all at once. A node that is missing
is made from what it is made of, by whoever needs it; a large one is asked in parts.

Two kinds of askers: who judges an append by its base has to know all that was said after it, and gets a
:class:`~datashard_core.commit.append_ids.lookback.ForgottenError` where nobody knows that any more. Who asks for a
caller's id asks as far back as ids are remembered (``datashard.append-id.retention``).
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
"""The newest of each level, and full blocks: what most look-ups need. Others ask for more, so many at once:"""
SEGMENTS_AT_ONCE = 16


class LookupResult(Struct, frozen=True):
    """What is remembered of ids.

    Attributes:
        words: digest of append id -> what was said of it last; absent if nothing was.
        since: names of versions before this one were not asked for, being out of the retention.
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
    """The last word on each id in the versions ``(above, newest]``, however old they are.

    Args:
        ids: digests of append ids.
        newest: the version to look back from.
        above: versions up to this one are known not to matter (-1: all of the table's matter).
        bodies: versions already read.
        history: whose.

    Returns:
        Digest of append id -> what was said of it last; absent if nothing was.

    Raises:
        ForgottenError: some of it is not remembered any more.
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
    """The last word on each id in the versions ``(above, newest]``, as far back as ids are remembered.

    The arguments are those of :func:`look_up`.
    """
    return await _from(ids, newest, above, bodies, history, retention_cutoff_ms(newest))


def retention_cutoff_ms(newest: VersionFile) -> int:
    """Names of versions committed before that time need not be remembered: by the versions' own times alone."""
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
    # Where the names of a block do not all fit one version's property, a walk over the blocks before it takes a
    # round trip for every few versions; their nodes take one.
    cut_short = low % BLOCK != 0
    in_versions = low - 1 <= max(above, newest.first - 1) or (newest.version - above <= SHORT_RANGE and not cut_short)
    boundary = 0 if in_versions or not ids else low - low % BLOCK
    try:
        return await _look_up(ids, newest, boundary, above, bodies, history, cutoff_ms)
    except TombstoneMetError as met:
        # Maintenance came by since the newest version was read. Before it replaces a version it makes
        # sure of the node at the end of the version's block.
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
    """Out of the versions from ``boundary`` on, a multiple of 16, and of the nodes for those before it."""
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
                found.setdefault(own, outcome)  # nodes come newest first
            if found.keys() >= ids:
                return LookupResult(found, 0)
            if opened is not None and _ends(opened, cutoff_ms):
                return LookupResult(found, name.since)
        many = SEGMENTS_AT_ONCE
    return LookupResult(found, 0)


def _ends(opened: OpenSegment, cutoff_ms: int | None) -> bool:
    """Whether all that a node holds, and so all that is older, is out of the retention.

    A node of the top level is made of 16 others, and has the latest of their times: one version of an
    engine whose clock is behind does not end a look-up.
    """
    last_ms = opened.last_ms
    return (
        cutoff_ms is not None and last_ms is not None and opened.name.level == segment.TOP_LEVEL and last_ms < cutoff_ms
    )


async def _in_segment(
    ids: frozenset[str], name: SegmentName, opened: OpenSegment | None, newest: VersionFile, history: History
) -> dict[str, RecordedOutcome]:
    """What a node says, or, where it is missing, what it would say."""
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
    """What a node would say that only maintenance writes, being too large for a commit."""
    found = last_outcomes(ids, (await names_of(name, newest, history)), newest.version)
    parts = [part for part in name.parts if part.until > newest.first]
    for part, opened in zip(parts, (await open_segments(parts, history)), strict=True):
        for own, outcome in (await _in_segment(ids, part, opened, newest, history)).items():
            found.setdefault(own, outcome)
    return found
