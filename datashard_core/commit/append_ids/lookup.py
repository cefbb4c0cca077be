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

from datashard_core.commit.append_ids import segment as nodes
from datashard_core.commit.append_ids.lookback import (
    ForgottenError,
    Named,
    TombstoneMetError,
    look_back,
    lowest_told,
)
from datashard_core.commit.core.recorded_ids import BLOCK
from datashard_core.commit.append_ids.segment_store import (
    NodeLostError,
    Opened,
    last_words,
    make_node,
    names_of,
    open_nodes,
    stand_in,
    words_in,
)
from datashard_core.commit.append_ids.segment import NodeName
from datashard_core.commit.core.properties import settings_of
from datashard_core.commit.core.state import History
from datashard_core.commit.core.version_file import VersionBody
from datashard_core.effects.tasks import gather

SHORT_RANGE = 2 * BLOCK
FIRST_NODES = 4
"""The newest of each level, and full blocks: what most look-ups need. Others ask for more, so many at once:"""
NODES_AT_ONCE = 16


class Remembered(Struct, frozen=True):
    """What is remembered of ids.

    Attributes:
        words: digest of append id -> what was said of it last; absent if nothing was.
        since: names of versions before this one were not asked for, being out of the retention.
    """

    words: Mapping[str, Named]
    since: int


async def look_up(
    ids: frozenset[str],
    newest: VersionBody,
    *,
    above: int,
    bodies: Mapping[int, VersionBody],
    history: History,
) -> dict[str, Named]:
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
    remembered = await _from(ids, newest, above, bodies, history, None)
    return dict(remembered.words)


async def recall(
    ids: frozenset[str],
    newest: VersionBody,
    *,
    above: int,
    bodies: Mapping[int, VersionBody],
    history: History,
) -> Remembered:
    """The last word on each id in the versions ``(above, newest]``, as far back as ids are remembered.

    The arguments are those of :func:`look_up`.
    """
    return (await _from(ids, newest, above, bodies, history, horizon_ms(newest)))


def horizon_ms(newest: VersionBody) -> int:
    """Names of versions committed before that time need not be remembered: by the versions' own times alone."""
    if newest.metadata is None:
        return 0
    return newest.metadata.last_updated_ms - settings_of(newest.metadata.properties).id_retention_ms


async def _from(
    ids: frozenset[str],
    newest: VersionBody,
    above: int,
    bodies: Mapping[int, VersionBody],
    history: History,
    horizon: int | None,
) -> Remembered:
    low = lowest_told(newest)
    # Where the names of a block do not all fit one version's property, a walk over the blocks before it takes a
    # round trip for every few versions; their nodes take one.
    cut_short = low % BLOCK != 0
    near = low - 1 <= max(above, newest.first - 1) or (newest.version - above <= SHORT_RANGE and not cut_short)
    boundary = 0 if near or not ids else low - low % BLOCK
    try:
        return (await _look_up(ids, newest, boundary, above, bodies, history, horizon))
    except TombstoneMetError as met:
        # Maintenance came by since the newest version was read. Before it replaces a version it makes
        # sure of the node at the end of the version's block.
        boundary = met.version - met.version % BLOCK + BLOCK
        return (await _look_up(ids, newest, boundary, above, bodies, history, horizon))


async def _look_up(
    ids: frozenset[str],
    newest: VersionBody,
    boundary: int,
    above: int,
    bodies: Mapping[int, VersionBody],
    history: History,
    horizon: int | None,
) -> Remembered:
    """Out of the versions from ``boundary`` on, a multiple of 16, and of the nodes for those before it."""
    if boundary == 0:
        return Remembered((await look_back(ids, newest, above=above, bodies=bodies, root=history.root)), above + 1)
    wanted = nodes.needed_below(boundary, max(above, newest.first - 1))
    recent, older = await gather(
        look_back(ids, newest, above=max(above, boundary - 1), bodies=bodies, root=history.root),
        _in_nodes(ids, wanted, newest, history, horizon),
    )
    words = {own: word for own, word in {**older.words, **recent}.items() if word.version > above}
    return Remembered(words, max(older.since, above + 1))


async def _in_nodes(
    ids: frozenset[str], wanted: Iterator[NodeName], newest: VersionBody, history: History, horizon: int | None
) -> Remembered:
    found: dict[str, Named] = {}
    many = FIRST_NODES
    while names := list(islice(wanted, many)):
        opened = await open_nodes(names, history)
        for name, node in zip(names, opened, strict=True):
            try:
                words = await _in_node(ids, name, node, newest, history)
            except ForgottenError as error:
                if horizon is None:
                    raise
                return Remembered(found, error.until)
            for own, word in words.items():
                found.setdefault(own, word)  # nodes come newest first
            if found.keys() >= ids:
                return Remembered(found, 0)
            if node is not None and _ends(node, horizon):
                return Remembered(found, name.since)
        many = NODES_AT_ONCE
    return Remembered(found, 0)


def _ends(node: Opened, horizon: int | None) -> bool:
    """Whether all that a node holds, and so all that is older, is out of the retention.

    A node of the top level is made of 16 others, and has the latest of their times: one version of an
    engine whose clock is behind does not end a look-up.
    """
    last_ms = node.last_ms
    return horizon is not None and last_ms is not None and node.name.level == nodes.TOP_LEVEL and last_ms < horizon


async def _in_node(
    ids: frozenset[str], name: NodeName, node: Opened | None, newest: VersionBody, history: History
) -> dict[str, Named]:
    """What a node says, or, where it is missing, what it would say."""
    if node is not None:
        return (await words_in(ids, node, newest.version))
    try:
        made = await make_node(name, newest, history)
        if made is not None:
            return last_words(ids, made.records, newest.version)
        return (await _in_parts(ids, name, newest, history))
    except NodeLostError:
        later = await stand_in(name, history)
        if later is None:
            raise
        return (await words_in(ids, later, newest.version))


async def _in_parts(ids: frozenset[str], name: NodeName, newest: VersionBody, history: History) -> dict[str, Named]:
    """What a node would say that only maintenance writes, being too large for a commit."""
    found = last_words(ids, (await names_of(name, newest, history)), newest.version)
    parts = [part for part in name.parts if part.until > newest.first]
    for part, node in zip(parts, (await open_nodes(parts, history)), strict=True):
        for own, word in (await _in_node(ids, part, node, newest, history)).items():
            found.setdefault(own, word)
    return found
