"""The line of those who wait for a commit to carry them: staging, one's place, and looking for new versions."""

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
    raise_if_permanent,
    read_on,
    say,
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

SHORTEST_LOOK = 0.1  # seconds between two looks for the next version
WRITERS_PER_SECOND = 2000  # the longer the line, the rarer the looks
PATIENCE = 0.5  # seconds without a new version after which the second in line commits
STRETCHED = 2.0  # by so much of it for each second that an overloaded store is left alone between two looks
EASED = 0.8  # what a look that was answered leaves of that pause
MOST_PAGES = 10  # of a listing, where objects that nobody can commit fill the first ones
SAMPLE = 8  # bodies of those before us that are looked at where no version comes
LIST_AFTER = 4  # versions that came without us before we look whether our object is still there


async def stage(group: Group) -> None:
    """Put the rows beside the table, for the next commit to carry, whoever makes it."""
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
            # A failed one may have landed all the same: the next listing tells, and whatever lies
            # there under our id counts once.
            group.sent = True
            group.staged[own] = name
    for outcome in outcomes:
        if isinstance(outcome, StorageError):
            raise_if_permanent(group, outcome)


def body_of(item: Append, state: TableState) -> StagedBody:
    """What is staged of an append."""
    return StagedBody(
        table=state.body.table.table_uuid,
        append_id=item.append_id,
        digest=item.digest,
        schema_id=item.schema.schema_id,
        rows=item.rows,
        files=item.files,
    )


async def wait_in_queue(group: Group) -> list[StagedName] | None:
    """One stay in line: wait to be carried, or list, find one's place, and wait.

    Returns:
        The listing to commit by, where it is the group's turn; None where it has to stay on, or is done.
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
            # Judged on a version read after the listing: whoever deleted it had to name it first.
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
        # So many that are alive would have committed by now: see whether the first of them can.
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
        last: the last key that was looked at; None where the listing is whole.
    """

    infos: Sequence[ObjectInfo]
    last: str | None


async def first_page(root: str) -> Page:
    """List what is staged: as much as a commit can carry, so nearly always one page.

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
    """Whether a staged object of ours would be on the listed page, and is not."""
    there = {info.key for info in page.infos}
    last = page.last
    return any(
        name.key not in there and (last is None or name.key < last)
        for own, name in group.staged.items()
        if own in group.waiting
    )


async def _stage_again(group: Group, listed: Sequence[StagedName]) -> None:
    """Our object is gone and no version names us: same id, new nonce, newer base."""
    there = {name.key for name in listed}
    for own in list(group.waiting):
        if group.staged[own].key not in there:
            del group.staged[own]
            group.bases[own] = group.known.body.version
    await stage(group)


async def _position(group: Group, listed: Sequence[StagedName]) -> int:
    """How many wait before the first of ours."""
    return len(await _before(group, listed))


async def _none_can_commit(group: Group, listed: Sequence[StagedName]) -> bool:
    """Whether the first of those before us hold bodies that are refused or set aside: nobody waits for those."""
    first = (await _before(group, listed))[:SAMPLE]
    outcomes = await outcomes_of([Get(name.key) for name in first])
    examined = opened(group.target, group.known.body, first, outcomes)
    return all(isinstance(one, (Refusal, Aside)) for one in examined.values())


async def _before(group: Group, listed: Sequence[StagedName]) -> list[StagedName]:
    """Those who wait before the first of ours.

    Names that are committed already, that nobody can judge or commit, or whose owners seem to be dead hold no place.
    """
    mine = min(group.staged[own] for own in group.waiting)
    waiting = alive(group.target.root, group.known.body, listed)
    before = [name for name in waiting if name < mine and name.id not in group.waiting]
    known, recorded = await recorded_outcomes_of(group.target, group.known.body, before)
    return [name for name in known if not (name.id in recorded and recorded[name.id].version > name.base)]


async def _watch(group: Group, queue_length: int, patience: float) -> bool:
    """Look for new versions for as long as the place in line demands; whether one came.

    Where the store is overloaded, commits take longer, and whoever commits beside those before it makes them
    take longer yet: so patience grows with the pause that the store is given.
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
        say(group, now, f"{queue_length} in line before them; ")
        # Whoever would give up before its turn comes tries it half-way: those before it may be long gone.
        stretched = min(patience * (1 + STRETCHED * group.throttled), (group.deadline - begun.monotonic) / 2)
        if now.monotonic - begun.monotonic > stretched:
            return False


async def _look(group: Group) -> bool:
    """Look for the next version as one of those who wait: one read, more once we have fallen behind."""
    newer: bool = await read_on(group, whole=group.behind)
    group.behind = newer
    return newer
