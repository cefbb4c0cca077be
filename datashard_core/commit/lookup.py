"""Look-ups of append ids over any range of versions, and the upkeep of the nodes that serve them.

A short range is read from the versions themselves. A long one needs the newest node of each level
and the full blocks of the top level before it: about four reads, all at once. A node that is missing
is made from what it is made of, by whoever needs it.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from typing import Any

from datashard_core.commit import nodes
from datashard_core.commit.history import Named, TombstoneMetError, look_back, lowest_told, told, walk_back
from datashard_core.commit.names import BLOCK, Record
from datashard_core.commit.nodes import NodeName
from datashard_core.commit.state import History, read_version
from datashard_core.commit.version import VersionBody, version_key
from datashard_core.errors import CorruptTableError, StorageError
from datashard_core.storage.base import ObjectNotFoundError
from datashard_core.storage.requests import Get, Put, Steps, ask, together, value

log = logging.getLogger(__name__)

SHORT_RANGE = 2 * BLOCK
NODES_AT_ONCE = 16

Records = Sequence[tuple[str, Named]]


def look_up(
    ids: frozenset[str],
    newest: VersionBody,
    *,
    above: int,
    bodies: Mapping[int, VersionBody],
    history: History,
) -> Steps[dict[str, Named]]:
    """The last word on each id in the versions ``(above, newest]``.

    Args:
        ids: digests of append ids.
        newest: the version to look back from.
        above: versions up to this one are known not to matter (-1: all of the table's matter).
        bodies: versions already read.
        history: whose.

    Returns:
        Digest of append id -> what was said of it last; absent if nothing was.
    """
    low = lowest_told(newest)
    short = not ids or low - 1 <= max(above, newest.first - 1) or newest.version - above <= SHORT_RANGE
    boundary = 0 if short else low - low % BLOCK
    try:
        return (yield from _look_up(ids, newest, boundary, above, bodies, history))
    except TombstoneMetError as met:
        # Maintenance came by since the newest version was read. Before it replaces a version it makes
        # sure of the node at the end of the version's block.
        boundary = met.version - met.version % BLOCK + BLOCK
        return (yield from _look_up(ids, newest, boundary, above, bodies, history))


def _look_up(
    ids: frozenset[str],
    newest: VersionBody,
    boundary: int,
    above: int,
    bodies: Mapping[int, VersionBody],
    history: History,
) -> Steps[dict[str, Named]]:
    """Out of the versions from ``boundary`` on, a multiple of 16, and of the nodes for those before it."""
    if boundary == 0:
        return (yield from look_back(ids, newest, above=above, bodies=bodies, root=history.root))
    wanted = list(nodes.needed_below(boundary, max(above, newest.first - 1)))
    recent, older = yield from together(
        look_back(ids, newest, above=boundary - 1, bodies=bodies, root=history.root),
        _in_nodes(ids, wanted, newest, history),
    )
    return {own: word for own, word in {**older, **recent}.items() if word.version > above}


def _in_nodes(
    ids: frozenset[str], wanted: Sequence[NodeName], newest: VersionBody, history: History
) -> Steps[dict[str, Named]]:
    found: dict[str, Named] = {}
    for start in range(0, len(wanted), NODES_AT_ONCE):
        names = wanted[start : start + NODES_AT_ONCE]
        outcomes = yield [Get(name.key, (0, nodes.WINDOW)) for name in names]
        forgotten = False
        for name, outcome in zip(names, outcomes, strict=True):
            words, last_ms = yield from _in_node(ids, name, outcome, newest, history)
            for own, word in words.items():
                found.setdefault(own, word)  # nodes come newest first
            forgotten = forgotten or last_ms < history.forget_before_ms
        if forgotten or found.keys() >= ids:
            break
    return found


def _in_node(
    ids: frozenset[str], name: NodeName, outcome: Any, newest: VersionBody, history: History
) -> Steps[tuple[dict[str, Named], int]]:
    if isinstance(outcome, ObjectNotFoundError):
        records, last_ms = yield from make_node(name, newest, history)
        return _last_words(ids, records, newest.version), last_ms
    data: bytes = value(outcome).body
    where = f"{history.root}/{name.key}"
    header = nodes.decode_header(data, where, history.uuid)
    if header is None:
        return {}, 0
    if nodes.size_of(header.count) <= len(data):
        return _last_words(ids, nodes.decode_records(data), newest.version), header.last_ms
    ranges = {own: nodes.window(own, header.count) for own in sorted(ids)}
    parts = yield [Get(name.key, span) for span in ranges.values()]
    words: dict[str, Named] = {}
    whole: bytes | None = None
    for (own, (start, end)), part in zip(ranges.items(), parts, strict=True):
        body = value(part).body
        if nodes.encloses(body, start, end, own, header.count):
            word = nodes.records_in(body, own, newest.version)
        else:
            if whole is None:
                whole = (yield from ask(Get(name.key))).body
            word = nodes.records_in(whole[nodes.header_size() :], own, newest.version)
        if word is not None:
            words[own] = word
    return words, header.last_ms


def _last_words(ids: frozenset[str], records: Records, newest: int) -> dict[str, Named]:
    words: dict[str, Named] = {}
    for own, word in records:
        if own in ids and word.version <= newest and (own not in words or words[own].version < word.version):
            words[own] = word
    return words


def make_node(name: NodeName, near: VersionBody, history: History) -> Steps[tuple[Records, int]]:
    """Make a node of what it is made of, and write it.

    Args:
        name: the node.
        near: a version at or after ``name.until`` - 1, which may tell some of its names.
        history: whose.

    Returns:
        Its records, and ``last-updated-ms`` of its last version.
    """
    first = near.first
    if name.until <= first:
        return [], 0
    parts: list[Records] = []
    last_ms = 0
    if name.level == 1:
        last, recent = yield from _names_between(max(name.until - BLOCK, first), name.until, near, history.root)
        parts.append(recent)
        last_ms = last
    else:
        records, last_ms = yield from read_node(NodeName(name.level - 1, name.until), near, history)
        parts.append(records)
    previous = name.previous
    if previous is not None and previous.until > first:
        records, _ = yield from read_node(previous, near, history)
        parts.append(records)
    everything = nodes.merged(parts)
    data = nodes.encode_node(history.uuid, name.since, name.until, last_ms, everything)
    outcomes = yield (Put(name.key, data),)
    if isinstance(outcomes[0], StorageError):
        # Whoever needs it next makes it again.
        log.info("id node %s was not written: %s", name.key, outcomes[0])
    return everything, last_ms


def read_node(name: NodeName, near: VersionBody, history: History) -> Steps[tuple[Records, int]]:
    """All records of a node; made if it is missing."""
    outcomes = yield (Get(name.key),)
    if isinstance(outcomes[0], ObjectNotFoundError):
        return (yield from make_node(name, near, history))
    data = value(outcomes[0]).body
    header = nodes.decode_header(data, f"{history.root}/{name.key}", history.uuid)
    if header is None:
        return [], 0
    return nodes.decode_records(data), header.last_ms


def _names_between(since: int, until: int, near: VersionBody, root: str) -> Steps[tuple[int, Records]]:
    """Names of the versions [since, until), and when the last of them was committed."""
    records: list[tuple[str, Named]] = []

    def visit(version: int, names: Mapping[str, Record]) -> bool:
        if version < until:
            records.extend(nodes.records_of(version, names))
        return True

    last = near if near.version == until - 1 else (yield from read_version(root, until - 1))
    if last.state == "tombstone" and told(last.version, near) is None:
        raise CorruptTableError(
            f"{root}/{version_key(last.version)} is a tombstone, and the id node that holds its names is missing: "
            "restore _datashard/ids of this table, whose objects must not be deleted."
        )
    bodies = {last.version: last}
    if last.state == "table" or told(last.version, last):
        yield from walk_back(last, above=since - 1, bodies=bodies, root=root, visit=visit)
    else:
        yield from walk_back(near, above=since - 1, bodies=bodies, root=root, visit=visit)
    return (last.metadata.last_updated_ms if last.metadata is not None else 0), records


def upkeep(version: int, parent: VersionBody, history: History) -> Steps[None]:
    """After a commit: write the nodes that are due. A failure costs only time later on."""
    try:
        for name in nodes.due_after(version):
            yield from make_node(name, parent, history)
    except StorageError as error:
        log.info("id nodes after version %d of %s were not written: %s", version, history.root, error)
