"""Find the current version, and move the version hint.

Versions are contiguous, so the newest one is found by reading names until one is absent: from the version known, else
from the hint, else by galloping from v0. The hint is only a place to start. A listing is needed only for a table of
another engine that has no v0 and no usable hint.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Mapping, Sequence
from typing import Any

from msgspec import Struct, field

from datashard_core.commit.core.chain import BrokenChainError, check_link, check_neighbours, check_own
from datashard_core.commit.core.clock_skew import warn_if_clock_ahead
from datashard_core.commit.core.properties import settings_of
from datashard_core.commit.core.table_origin import with_first_version
from datashard_core.commit.core.vanished import check_still_there
from datashard_core.commit.core.version_file import (
    HINT_KEY,
    MAX_VERSION,
    VersionFile,
    hinted_version,
    parse_version,
    version_key,
)
from datashard_core.effects.requests import Get, Head, ListPage, Now, Put, PutIfAbsent, Replace
from datashard_core.effects.tasks import outcomes_of, result_of
from datashard_core.errors import CorruptTableError, StorageError
from datashard_core.format.json_text import whole_number
from datashard_core.storage.base import ObjectNotFoundError, StoredObject, Version

log = logging.getLogger(__name__)

MAX_STRIDE = 16
MAX_GALLOP = 2**12
HINT_TRIES = 5
_OF_IF_MATCH = frozenset({"precondition-failed", "unsupported", "access-denied", "other"})
"""Answers to a PUT with If-Match that may be due to that header, which a store need not always take."""
TRUSTED = 1 / 30
"""Age up to which a hinted version is used, as a share of the retention of append ids: one day of 30."""
VERSION_NAME = re.compile(r"metadata/v(\d{1,13})\.metadata\.json")


class Hint(Struct, frozen=True):
    """The hint as last read or written: its number (-1 if unreadable) and its version to replace."""

    number: int
    version: Version


class Found(Struct, frozen=True):
    """The newest version, and the versions that were read on the way to it."""

    newest: VersionFile
    bodies: Mapping[int, VersionFile]
    hint: Hint | None = None


class _Search(Struct):
    root: str
    bodies: dict[int, VersionFile] = field(default_factory=dict)

    def keep(self, version: int, stored: StoredObject) -> None:
        body = parse_version(stored.body, version, f"{self.root}/{version_key(version)}")
        warn_if_clock_ahead(self.root, body, stored.last_modified)
        self.bodies[version] = body
        check_neighbours(self.bodies, version, self.root)

    @property
    def highest(self) -> int:
        return max(self.bodies, default=-1)


async def find_current(root: str, known: VersionFile | None = None) -> Found | None:
    """Find the newest version.

    Args:
        root: URI of the table's root, for messages.
        known: a version known to exist, to start from.

    Returns:
        None if there is no version at all, so there never was a table.

    Raises:
        CorruptTableError: a version is not readable, or the newest is a tombstone.
        StorageError: a read failed; that never counts as an absent version.
        StoreNotConditionalError: a version was built on another one than was read or is known here.
    """
    search = _Search(root)
    hint: Hint | None = None
    if known is not None:
        search.bodies[known.version] = known
        await _read_on(search, stride=1)
    else:
        hint = await read_hint()
        if hint is not None and hint.number >= 0:
            await _read(search, [hint.number, hint.number + 1])
        if not search.bodies:
            await _without_hint(search)
        if not search.bodies:
            return None
        if hint is None or search.highest != hint.number:
            await _read_on(search, stride=1)
    newest = search.bodies[search.highest]
    if newest.state == "tombstone":
        raise CorruptTableError(
            f"{root}: the newest version, {newest.version}, is a tombstone, and nothing follows it. "
            "Versions after it were deleted by hand: restore them."
        )
    return Found((await with_first_version(newest, search.bodies, root)), search.bodies, hint)


async def find_hinted(root: str) -> Found | None:
    """Find a recent version of a table by the hint alone, with one read fewer, where the newest is not needed.

    The committer judges rows that are staged on top of it. A hint that leads to no table, or to a version older than
    :data:`TRUSTED` by this client's clock, is not used.

    Returns, raises: as :func:`find_current`.
    """
    hint = await read_hint()
    hinted: VersionFile | None = None
    if hint is not None and hint.number >= 0:
        search = _Search(root)
        await _read(search, [hint.number])
        hinted = search.bodies.get(hint.number)
        if hinted is not None and hinted.state == "table":
            now = await Now()
            recent = TRUSTED * settings_of(hinted.table.properties).id_retention_ms
            if abs(now.wall_ms - hinted.table.last_updated_ms) < recent:
                return Found((await with_first_version(hinted, search.bodies, root)), search.bodies, hint)
    return await find_current(root, hinted)


async def read_next(root: str, known: VersionFile) -> Found | None:
    """Read the version after a known one, if it exists: one read, for waiting writers."""
    search = _Search(root)
    await _read(search, [known.version + 1])
    if not search.bodies:
        return None
    following = search.bodies[search.highest]
    check_link(known, following, root)
    if following.state == "tombstone":  # this process was suspended for days
        return await find_current(root, known)
    following = await with_first_version(following, {known.version: known}, root)
    return Found(following, {following.version: following, known.version: known})


async def _read(search: _Search, versions: Sequence[int]) -> int:
    """Read versions in parallel; return how many of them exist."""
    outcomes = await outcomes_of([Get(version_key(version)) for version in versions])
    present = 0
    for version, outcome in zip(versions, outcomes, strict=True):
        if isinstance(outcome, ObjectNotFoundError):
            continue
        search.keep(version, result_of(outcome))
        present += 1
    return present


async def _read_on(search: _Search, stride: int) -> None:
    """Read the versions that follow until one is absent, doubling the stride when far behind."""
    total = 0
    while True:
        low = search.highest
        wanted = [version for version in range(low + 1, low + stride + 1)]
        present = await _read(search, wanted)
        total += present
        # A name may appear while its neighbour is read, so only an absent last one ends it.
        if search.highest < wanted[-1]:
            return
        if total > 4 * MAX_STRIDE:
            newest = await _gallop(search.highest)
            if newest > search.highest:
                await _read(search, [newest])
        stride = min(stride * 2, MAX_STRIDE)


async def _gallop(low: int) -> int:
    """Highest version that exists, given that ``low`` does; by HEAD requests in parallel."""
    step = 1
    while True:
        probes: list[int] = []
        while len(probes) < 8:
            probes.append(low + step)
            step *= 2
        present = await _present(probes)
        if len(present) < len(probes):
            break
        low, step = probes[-1], min(step, MAX_GALLOP)
    high = min(probe for probe in probes if probe not in present and probe > max(present, default=low))
    low = max(present, default=low)
    while high - low > 1:
        width = max(1, (high - low) // 8)
        probes = list(range(low + width, high, width))[:8]
        present = await _present(probes)
        low = max(present, default=low)
        high = min((probe for probe in probes if probe > low), default=high)
    return low


async def _present(versions: Sequence[int]) -> set[int]:
    outcomes = await outcomes_of([Head(version_key(version)) for version in versions])
    found = set()
    for version, outcome in zip(versions, outcomes, strict=True):
        if not isinstance(outcome, ObjectNotFoundError):
            result_of(outcome)
            found.add(version)
    return found


async def _without_hint(search: _Search) -> None:
    """Start from v0, or from one listing, because the hint is absent or names an absent version."""
    await _read(search, [0, 1])
    if search.bodies:
        newest = await _gallop(search.highest)
        if newest > search.highest:
            await _read(search, [newest])
        return
    listed = await _listed()
    if listed:
        await _read(search, sorted({min(listed), max(listed)}))
        _check_founded(search)


def _check_founded(search: _Search) -> None:
    """Refuse versions of this library whose earlier versions are gone, with the hint.

    A process that held a table has committed after its folder vanished (:mod:`datashard_core.commit.core.vanished`).
    """
    lowest, newest = search.bodies[min(search.bodies)], search.bodies[search.highest]
    if newest.metadata is None or newest.names is None or newest.names.version != newest.version:
        return
    if lowest.version <= newest.first or lowest.metadata is None or lowest.is_a_beginning:
        return
    raise CorruptTableError(
        f"{search.root}/{version_key(lowest.version - 1)} and all before it are gone, and so is {HINT_KEY}: the "
        "folder was removed while a process had the table open and went on to write. Restore the table from a backup "
        "beside what is there now, or remove what is left and create it again. If you removed old versions on purpose, "
        f"write {newest.version} into {HINT_KEY}."
    )


async def _listed() -> set[int]:
    """List the versions once: the table of another engine need not begin with v0."""
    listed: set[int] = set()
    after: str | None = None
    while True:
        page = await ListPage("metadata/v", after)
        matches = [VERSION_NAME.fullmatch(info.key) for info in page]
        numbers = [whole_number(match[1], MAX_VERSION) for match in matches if match is not None]
        listed.update(number for number in numbers if number is not None)
        if len(page) < 1000:
            return listed
        after = page[-1].key


async def read_hint() -> Hint | None:
    """Read the hint; None if there is none."""
    try:
        stored: StoredObject = await Get(HINT_KEY)
    except ObjectNotFoundError:
        return None
    number = hinted_version(stored.body)
    return Hint(-1 if number is None else number, stored.version)


async def move_hint(
    to: int,
    seen: Hint | None,
    root: str,
    *,
    absent: bool = False,
    own: VersionFile | None = None,
    parent: int | None = None,
    reached: int = -1,
) -> Hint | None:
    """Move the hint on to version ``to``, never backwards.

    A hint that cannot be moved never fails a commit: it is logged, and the next commit moves it.

    Args:
        to: the version that was committed.
        seen: the hint as this client last read or wrote it, which saves a read.
        root: URI of the table, for the log.
        absent: there was no hint when this client last looked, which saves a read too.
        own: the version if it was just created here: another writer that has moved the hint to the same number may
            have created it as well.
        parent: a version known before, by default the one before ``own``: if the hint is gone or older, this version
            has to exist.
        reached: the highest number that this client has known the hint to have. The hint never goes back, so one
            below that is of another table, or of none.

    Returns:
        The hint as it is now, as far as known.

    Raises:
        StoreNotConditionalError: the store holds another commit under the name of the own version.
        VanishedTableError: the hint is gone or older, and a version that this client has read is gone.
    """
    data = str(to).encode()
    before = max(seen.number if seen is not None else -1, reached)
    if own is not None and parent is None:
        parent = own.version - 1
    refused: Version | None = None
    try:
        if seen is not None and seen.number < before:
            await _check_hint(to, seen, own, parent, before, root)
        for attempt in range(HINT_TRIES):
            if (seen is None and not absent) or attempt:
                seen = await read_hint()
                await _check_hint(to, seen, own, parent, before, root)
            if seen is not None and seen.number >= to:
                return seen
            if seen is not None and refused == seen.version:
                # It is as it was when If-Match was refused, so that cannot be used: look, and write. Of two writers at
                # once the slower may set the hint back; then it lags until the next commit, which moves it on.
                return Hint(to, (await Put(HINT_KEY, data)))
            request: Any = PutIfAbsent(HINT_KEY, data) if seen is None else Replace(HINT_KEY, data, seen.version)
            try:
                return Hint(to, (await request))
            except StorageError as error:
                if error.reason not in _OF_IF_MATCH or (seen is None and error.reason != "precondition-failed"):
                    raise
                refused = seen.version if seen is not None else None
    except BrokenChainError:
        raise
    except StorageError as error:
        log.warning("%s: the version hint could not be moved to %d: %s", root, to, error)
        return None
    log.warning("%s: the version hint was not moved to %d: other writers moved it %d times", root, to, HINT_TRIES)
    return None


async def _check_hint(
    to: int, seen: Hint | None, own: VersionFile | None, parent: int | None, before: int, root: str
) -> None:
    """Check a created version, and those before it, against a hint that was read afterwards."""
    if parent is not None and (seen is None or seen.number < before):
        await check_still_there(root, to, (parent, before))
    if own is not None and seen is not None and seen.number == own.version:
        check_own(own, (await _read_again(own, root)), root)


async def _read_again(own: VersionFile, root: str) -> VersionFile:
    key = version_key(own.version)
    stored: StoredObject = await Get(key)
    return parse_version(stored.body, own.version, f"{root}/{key}")
