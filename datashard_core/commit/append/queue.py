"""The commit queue: stage rows, find one's position among the waiting writers, and look for new versions."""

from __future__ import annotations

import math
from collections.abc import Sequence

from msgspec import Struct

from datashard_core.commit.append.batch import MAX_APPENDS, recorded_outcomes_of
from datashard_core.commit.append.group_append import (
    LASTING,
    Group,
    back_off,
    check_deadline,
    log_waiting,
    raise_if_permanent,
    read_on,
)
from datashard_core.commit.core.recorded_ids import Refusal
from datashard_core.commit.core.state import Append, TableState
from datashard_core.commit.staging.body import StagedBody, encode_body
from datashard_core.commit.staging.examine import opened
from datashard_core.commit.staging.key import PREFIX, StagedName, parse_listed
from datashard_core.commit.staging.set_aside import Aside, alive, may_count
from datashard_core.effects.requests import Get, Instant, ListPage, Now, Put, Random, Sleep, Unique
from datashard_core.effects.tasks import outcomes_of
from datashard_core.errors import StorageError
from datashard_core.storage.base import ObjectInfo

SHORTEST_LOOK = 0.1  # seconds between two looks for the next version, at least
WRITERS_PER_SECOND = 2000  # looks of all waiting writers together
PATIENCE = 0.5  # seconds without a new version after which the second writer in the queue commits
STRETCHED = 2.0  # by which factor patience grows for each second of pause that an overloaded store is given
EASED = 0.8  # factor by which each answered look shortens that pause
MOST_PAGES = 10  # of a listing whose first pages are full of objects that cannot be committed
SAMPLE = 8  # bodies of earlier appends in the queue that are read if no new version appears
LIST_AFTER = 4  # versions without our appends after which we check that our staged objects still exist


async def stage(group: Group) -> None:
    """Stage the rows beside the table, so that the next commit of any process includes them."""
    missing = [own for own in group.waiting if own not in group.staged]
    nonces = await outcomes_of([Unique() for _ in missing])
    names, puts = [], []
    for own, nonce in zip(missing, nonces, strict=True):
        name = StagedName(group.bases[own], "w", own, nonce)
        names.append(name)
        puts.append(Put(name.key, encode_body(body_of(group.waiting[own], group.known))))
    outcomes = await outcomes_of(puts)
    for own, name, outcome in zip(missing, names, outcomes, strict=True):
        if not isinstance(outcome, StorageError) or outcome.reason not in LASTING:
            # A failed PUT may have taken effect all the same. The next listing shows it, and all staged objects of one
            # id count once.
            group.sent = True
            group.staged[own] = name
    for outcome in outcomes:
        if isinstance(outcome, StorageError):
            raise_if_permanent(group, outcome)


def body_of(item: Append, state: TableState) -> StagedBody:
    """The staged body of an append."""
    return StagedBody(
        table=state.body.table.table_uuid,
        append_id=item.append_id,
        digest=item.digest,
        schema_id=item.schema.schema_id,
        rows=item.rows,
        files=item.files,
    )


async def wait_in_queue(group: Group) -> list[StagedName] | None:
    """Wait for a commit that includes the group, or list the queue and wait as long as its position demands.

    Returns:
        The listing to commit with if it is the group's turn; None if it has to wait again, or is done.
    """
    newest = group.known.body
    next_id = newest.next
    if next_id and next_id not in group.waiting and group.unlisted < LIST_AFTER:
        group.unlisted += 1
        if await _watch(group, newest.queue_length, PATIENCE):
            return None
    group.unlisted = 0
    try:
        page = await first_page(group.target.root)
        listed = parse_listed(page.infos)
        if _is_gone(group, page):
            # Read the versions after the listing: an object is deleted only after a version records its append.
            await read_on(group)
            if group.waiting:
                await _stage_again(group, listed)
            return None
        position = 0 if next_id in group.waiting else (await _position(group, listed))
    except StorageError as error:
        await back_off(group, error)
        return None
    patience = PATIENCE * math.log2(1 + position)
    if position > SAMPLE and not group.throttled:
        # So many live writers would have committed by now: check whether the first of them can be committed.
        if await _watch(group, position, PATIENCE):
            return None
        if await _none_can_commit(group, listed):
            return listed
        patience -= PATIENCE
    waited = position > 0 and (await _watch(group, position, patience))
    return None if waited else listed


class Page(Struct, frozen=True):
    """The beginning of a listing of staged objects.

    Attributes:
        infos: the objects, sorted by key.
        last: the last key of the listing; None if the listing is complete.
    """

    infos: Sequence[ObjectInfo]
    last: str | None


async def first_page(root: str) -> Page:
    """List the staged objects, as many as one commit can include: nearly always one page.

    Args:
        root: URI of the table's root.
    """
    infos: list[ObjectInfo] = []
    for _ in range(MOST_PAGES):
        page: list[ObjectInfo] = await ListPage(PREFIX, infos[-1].key if infos else None)
        infos += page
        if len(page) < ListPage(PREFIX).limit:
            return Page(infos, None)
        if may_count(root, parse_listed(infos)) >= MAX_APPENDS:
            break
    return Page(infos, infos[-1].key)


def _is_gone(group: Group, page: Page) -> bool:
    """Whether a staged object of the group is missing from the listed page."""
    there = {info.key for info in page.infos}
    last = page.last
    return any(
        name.key not in there and (last is None or name.key < last)
        for own, name in group.staged.items()
        if own in group.waiting
    )


async def _stage_again(group: Group, listed: Sequence[StagedName]) -> None:
    """Stage appends again whose objects are gone and that no version records: same id, new nonce, newer base."""
    there = {name.key for name in listed}
    for own in list(group.waiting):
        if group.staged[own].key not in there:
            del group.staged[own]
            group.bases[own] = group.known.body.version
    await stage(group)


async def _position(group: Group, listed: Sequence[StagedName]) -> int:
    """How many appends wait before the group's first one."""
    return len(await _before(group, listed))


async def _none_can_commit(group: Group, listed: Sequence[StagedName]) -> bool:
    """Whether the first appends before the group's are refused or set aside, so that waiting for them is in vain."""
    first = (await _before(group, listed))[:SAMPLE]
    outcomes = await outcomes_of([Get(name.key) for name in first])
    examined = opened(group.target, group.known.body, first, outcomes)
    return all(isinstance(one, (Refusal, Aside)) for one in examined.values())


async def _before(group: Group, listed: Sequence[StagedName]) -> list[StagedName]:
    """The appends that wait before the group's first one.

    Appends that are committed, that cannot be judged or committed, or whose owners seem to be dead do not count.
    """
    mine = min(group.staged[own] for own in group.waiting)
    waiting = alive(group.target.root, group.known.body, listed)
    before = [name for name in waiting if name < mine and name.id not in group.waiting]
    known, recorded = await recorded_outcomes_of(group.target, group.known.body, before)
    return [name for name in known if not (name.id in recorded and recorded[name.id].version > name.base)]


async def _watch(group: Group, queue_length: int, patience: float) -> bool:
    """Look for new versions as long as the position in the queue demands; return whether there was one.

    Commits take longer on an overloaded store, and longer still if several writers commit at once. So patience grows
    with the pause that the store is given.
    """
    begun: Instant = await Now()
    while True:
        fraction: float = await Random()
        pause = max(SHORTEST_LOOK, queue_length / WRITERS_PER_SECOND, group.throttled)
        await Sleep(pause * (0.75 + 0.5 * fraction))
        try:
            if await _look(group):
                return True
            group.throttled *= EASED
        except StorageError as error:
            await back_off(group, error)
        now: Instant = await Now()
        check_deadline(group, now)
        log_waiting(group, now, f"{queue_length} before them in the queue; ")
        # A writer whose deadline comes before its turn tries half-way: the writers before it may have ended.
        stretched = min(patience * (1 + STRETCHED * group.throttled), (group.deadline - begun.monotonic) / 2)
        if now.monotonic - begun.monotonic > stretched:
            return False


async def _look(group: Group) -> bool:
    """Look for the next version: one read, and all newer versions if the last look found one."""
    newer: bool = await read_on(group, whole=group.behind)
    group.behind = newer
    return newer
