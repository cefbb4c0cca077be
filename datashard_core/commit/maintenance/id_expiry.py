"""Id nodes that maintenance makes, and those that it removes: out of the retention, or held by a later one.

Appends write the nodes that they find due, and remove none. ``docs/design/maintenance.md`` tells what each
condition below prevents. Ages are one ``Last-Modified`` against another, and the retention compares
times of versions with the newest version's; no clock of ours is asked.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from msgspec import Struct

from datashard_core.commit.append.deferred import staged_names
from datashard_core.commit.append_ids import segment
from datashard_core.commit.append_ids.lookup import retention_cutoff_ms
from datashard_core.commit.append_ids.segment import SegmentName
from datashard_core.commit.append_ids.segment_store import (
    OpenSegment,
    forgotten_before,
    make_segment,
    open_segments,
    watermark_of,
)
from datashard_core.commit.core.paths import delete
from datashard_core.commit.core.recorded_ids import BLOCK
from datashard_core.commit.core.state import Target
from datashard_core.commit.core.version_file import VersionFile, version_key
from datashard_core.commit.versions import metadata_expiry
from datashard_core.commit.versions.lifecycle import list_all
from datashard_core.effects.requests import Get, Head, KeepsVersions, PutIfAbsent, Replace, Request
from datashard_core.effects.tasks import outcomes_of, result_of
from datashard_core.errors import CorruptTableError, StorageError
from datashard_core.storage.base import ObjectInfo, ObjectNotFoundError, PreconditionFailedError

log = logging.getLogger(__name__)

WATERMARK_TRIES = 5
DELETE_BATCH = 1000
AT_ONCE = 16
MOST_MISSING = 1000
"""Nodes of a full block hold the names of 4,096 versions, and commits write all but the large ones."""


class ToRemove(Struct, frozen=True):
    """What may be removed.

    Attributes:
        forgotten: nodes of versions out of the retention.
        covered: nodes that a later one covers.
        before: names of versions before this one will not be remembered; 0 where nothing is forgotten.
    """

    forgotten: tuple[SegmentName, ...]
    covered: tuple[SegmentName, ...]
    before: int


async def make_large_segments(target: Target, newest: VersionFile) -> int:
    """Make the nodes that look-ups from a version on ask for and that are missing, however large they are.

    Returns:
        How many.

    Raises:
        StorageError: the store failed.
    """
    wanted: list[SegmentName] = []
    horizon = retention_cutoff_ms(newest)
    for name in segment.needed_below(newest.version - newest.version % BLOCK, newest.first - 1):
        (node,) = await open_segments((name,), target.history)
        if node is None:
            wanted.append(name)
            if len(wanted) > MOST_MISSING:
                raise CorruptTableError(
                    f"table {target.name}: more than {MOST_MISSING} id nodes before version {newest.version} are "
                    "missing, and as many million versions are not made again from the history: restore "
                    "_datashard/ids, or the version before the one that has such a number."
                )
        elif node.name.level == segment.TOP_LEVEL and node.last_ms is not None and node.last_ms < horizon:
            break  # what is older is not asked for
    for name in reversed(wanted):  # a later one is made of earlier ones
        await make_segment(name, newest, target.history, None)
    return len(wanted)


async def remove_segments(target: Target, newest: VersionFile) -> int:
    """Remove the nodes that no look-up needs any more.

    Args:
        target: the table.
        newest: its newest version, or one that was the newest not long ago.

    Returns:
        How many.

    Raises:
        StorageError: the store failed.
    """
    listed = await list_all(segment.PREFIX)
    staged = await staged_names()
    now = result_of((await outcomes_of((Head(version_key(newest.version)),)))[0]).last_modified
    found = ((segment.parse_key(info.key), info) for info in listed)
    old = {name: info for name, info in found if name is not None and _is_old(name, info, newest, now)}
    headers = await _opened([name for name in old if name.level == segment.TOP_LEVEL], old, target)
    doomed = choose(
        old, headers, retention_cutoff_ms(newest), min((name.base for name in staged), default=newest.version)
    )
    forgotten = doomed.forgotten
    if forgotten and not (await _may_forget(target, doomed.before)):
        log.info("table %s: append ids are not forgotten: the store has no usable If-Match", target.name)
        forgotten = ()
    keys = sorted(name.key for name in {*forgotten, *doomed.covered})
    for start in range(0, len(keys), DELETE_BATCH):
        await delete(keys[start : start + DELETE_BATCH], target.root)
    return len(keys)


def choose(
    old: Iterable[SegmentName], headers: Mapping[SegmentName, OpenSegment], horizon: int, lowest_base: int
) -> ToRemove:
    """Which nodes may go. Pure.

    Args:
        old: nodes that are old enough to be removed, and to be relied on.
        headers: those of the top level that are whole.
        horizon: versions committed before that time, in ms, are out of the retention.
        lowest_base: lowest base of what is staged: later versions are asked whether they name it.
    """
    names = sorted(old, key=lambda name: (name.until, name.level))
    out = [name for name in headers if name.is_whole_block and (headers[name].last_ms or horizon) < horizon]
    before = 0
    if out:
        # The newest of them stays: it tells look-ups that they may end.
        block = int(BLOCK ** (segment.TOP_LEVEL + 1))
        before = min(max(name.since for name in out), (lowest_base + 1) // block * block)
    forgotten = tuple(name for name in names if name.until <= before)
    covered = tuple(
        name for name in names if name.until > before and any(one in headers for one in name.superseded_names)
    )
    return ToRemove(forgotten, covered, before)


def _is_old(name: SegmentName, info: ObjectInfo, newest: VersionFile, now: float) -> bool:
    """Whether a node is this table's, and so old that nobody is about to read it who knows no later one."""
    return newest.first < name.until <= newest.version and now - info.last_modified >= metadata_expiry.AGE


async def _opened(
    names: Sequence[SegmentName], infos: Mapping[SegmentName, ObjectInfo], target: Target
) -> dict[SegmentName, OpenSegment]:
    """The nodes that are this table's and whole."""
    opened: dict[SegmentName, OpenSegment] = {}
    for start in range(0, len(names), AT_ONCE):
        for node in await open_segments(names[start : start + AT_ONCE], target.history):
            if node is None or node.header is None or node.header.until != node.name.until:
                continue
            if infos[node.name].size == segment.size_of(node.count):
                opened[node.name] = node
    return opened


async def _may_forget(target: Target, before: int) -> bool:
    """Move the mark on; False in a store that cannot keep it from moving back."""
    if not (await KeepsVersions()):
        return False
    try:
        await _move_watermark(target, before)
    except StorageError as error:
        if error.reason != "unsupported":
            raise
        return False
    return True


async def _move_watermark(target: Target, before: int) -> None:
    """Say that nodes up to a version are forgotten, before they are: the mark never moves back."""
    history = target.history
    for _ in range(WATERMARK_TRIES):
        outcome = (await outcomes_of((Get(segment.WATERMARK),)))[0]
        request: Request[Any]
        if isinstance(outcome, ObjectNotFoundError):
            request = PutIfAbsent(segment.WATERMARK, watermark_of(before, history))
        else:
            stored = result_of(outcome)
            if forgotten_before(stored.body, history) >= before:
                return
            request = Replace(segment.WATERMARK, watermark_of(before, history), stored.version)
        try:
            await request
        except PreconditionFailedError:
            continue
        return
    raise StorageError(
        f"table {target.name}: {target.root}/{segment.WATERMARK} was changed by others {WATERMARK_TRIES} times. "
        "Nothing was removed; call maintain() again.",
        key=segment.WATERMARK,
    )
