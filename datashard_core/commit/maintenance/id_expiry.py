"""Make large id segments, and remove segments that are out of the retention or superseded by a later one.

Appends write the segments that are due, and remove none. ``docs/design/maintenance.md`` lists the failure that each
condition below prevents. Ages compare two ``Last-Modified`` times of the store, and the retention compares the times of
versions with that of the newest version; this process's clock is not used.
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
"""Limit for missing segments: those of a full block hold 4,096 versions, and commits write all but large ones."""


class ToRemove(Struct, frozen=True):
    """The segments that may be removed.

    Attributes:
        forgotten: segments of versions out of the retention.
        superseded: segments whose records a later one has too.
        before: the records of versions before this one will not be kept; 0 if nothing is forgotten.
    """

    forgotten: tuple[SegmentName, ...]
    superseded: tuple[SegmentName, ...]
    before: int


async def make_large_segments(target: Target, newest: VersionFile) -> int:
    """Make the missing segments that look-ups from a version on need, however large they are.

    Returns:
        How many were made.

    Raises:
        StorageError: the store failed.
    """
    wanted: list[SegmentName] = []
    cutoff_ms = retention_cutoff_ms(newest)
    for name in segment.needed_below(newest.version - newest.version % BLOCK, newest.first - 1):
        (opened,) = await open_segments((name,), target.history)
        if opened is None:
            wanted.append(name)
            if len(wanted) > MOST_MISSING:
                raise CorruptTableError(
                    f"table {target.name}: more than {MOST_MISSING} id segments before version {newest.version} are "
                    "missing, which is too many to make again from millions of versions: restore _datashard/ids, or "
                    "the version before the one that has such a number."
                )
        elif opened.name.level == segment.TOP_LEVEL and opened.last_ms is not None and opened.last_ms < cutoff_ms:
            break  # look-ups do not read older ones
    for name in reversed(wanted):  # a later one is made of earlier ones
        await make_segment(name, newest, target.history, None)
    return len(wanted)


async def remove_segments(target: Target, newest: VersionFile) -> int:
    """Remove the segments that no look-up needs any longer.

    Args:
        target: the table.
        newest: its newest version, or a recent one.

    Returns:
        How many were removed.

    Raises:
        StorageError: the store failed.
    """
    listed = await list_all(segment.PREFIX)
    staged = await staged_names()
    now = result_of((await outcomes_of((Head(version_key(newest.version)),)))[0]).last_modified
    found = ((segment.parse_key(info.key), info) for info in listed)
    old = {name: info for name, info in found if name is not None and _is_old(name, info, newest, now)}
    headers = await _opened([name for name in old if name.level == segment.TOP_LEVEL], old, target)
    to_remove = choose(
        old, headers, retention_cutoff_ms(newest), min((name.base for name in staged), default=newest.version)
    )
    forgotten = to_remove.forgotten
    if forgotten and not (await _may_forget(target, to_remove.before)):
        log.info("table %s: id segments out of the retention are kept: the store has no usable If-Match", target.name)
        forgotten = ()
    keys = sorted(name.key for name in {*forgotten, *to_remove.superseded})
    for start in range(0, len(keys), DELETE_BATCH):
        await delete(keys[start : start + DELETE_BATCH], target.root)
    return len(keys)


def choose(
    old: Iterable[SegmentName], headers: Mapping[SegmentName, OpenSegment], cutoff_ms: int, lowest_base: int
) -> ToRemove:
    """Choose the segments to remove. Pure.

    Args:
        old: segments that are old enough to be removed, or to supersede others.
        headers: the complete segments of the top level among them.
        cutoff_ms: versions committed before that time, in ms, are out of the retention.
        lowest_base: lowest base of the staged appends: look-ups need the records of later versions.
    """
    names = sorted(old, key=lambda name: (name.until, name.level))
    out = [name for name in headers if name.is_whole_block and (headers[name].last_ms or cutoff_ms) < cutoff_ms]
    before = 0
    if out:
        # The newest of them stays, because look-ups end there.
        block = int(BLOCK ** (segment.TOP_LEVEL + 1))
        before = min(max(name.since for name in out), (lowest_base + 1) // block * block)
    forgotten = tuple(name for name in names if name.until <= before)
    superseded = tuple(
        name for name in names if name.until > before and any(one in headers for one in name.superseded_names)
    )
    return ToRemove(forgotten, superseded, before)


def _is_old(name: SegmentName, info: ObjectInfo, newest: VersionFile, now: float) -> bool:
    """Whether a segment is this table's, and so old that no running look-up depends on it."""
    return newest.first < name.until <= newest.version and now - info.last_modified >= metadata_expiry.AGE


async def _opened(
    names: Sequence[SegmentName], infos: Mapping[SegmentName, ObjectInfo], target: Target
) -> dict[SegmentName, OpenSegment]:
    """The segments that are this table's and complete."""
    complete: dict[SegmentName, OpenSegment] = {}
    for start in range(0, len(names), AT_ONCE):
        for opened in await open_segments(names[start : start + AT_ONCE], target.history):
            if opened is None or opened.header is None or opened.header.until != opened.name.until:
                continue
            if infos[opened.name].size == segment.size_of(opened.count):
                complete[opened.name] = opened
    return complete


async def _may_forget(target: Target, before: int) -> bool:
    """Move the watermark; return False in a store that cannot keep it from moving back."""
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
    """Record up to which version segments are forgotten, before they are removed. The watermark never moves back."""
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
