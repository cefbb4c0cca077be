"""Appends become versions: the group commit, without I/O.

Generators that yield storage requests and receive their outcomes (see
:mod:`datashard_core.storage.requests`). The rules, and the failures that each prevents, are in
``docs/design/commit-protocol.md``. In short:

* the commit point is the creation of ``v{N+1}.metadata.json``, on condition that it is absent;
* every commit carries all staged appends; who loses a race stages its rows, and is carried;
* "taken" may mean taken by us, and an unknown outcome may land later: whoever meets either reads on
  and looks for its own ids in every newer version, before it tries again under the same ids;
* nothing is ever deleted on a guess: not on an error, not on an interrupt.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence

from msgspec.structs import replace

from datashard_core.commit.append.combine import finish
from datashard_core.commit.append.group_append import (
    GaveUpError,
    Group,
    back_off,
    check_deadline,
    doubt,
    finish_recorded,
    follow_with_hint,
    read_on,
)
from datashard_core.commit.append.outcome import Result, unknown
from datashard_core.commit.append.publish import CommitOutcome, Draft, commit, create, draft_own
from datashard_core.commit.append.queue import first_page, stage, wait_in_queue
from datashard_core.commit.append_ids.lookback import ForgottenError
from datashard_core.commit.append_ids.lookup import LookupResult, look_up_since
from datashard_core.commit.core.chain import BrokenChainError
from datashard_core.commit.core.current_version import Found, find_current
from datashard_core.commit.core.state import (
    Append,
    Committed,
    TableState,
    Target,
    is_recently_grouped,
    newest,
    require_live,
)
from datashard_core.commit.core.vanished import VanishedTableError
from datashard_core.commit.staging.key import StagedName, parse_listed
from datashard_core.commit.staging.set_aside import alive, eligible
from datashard_core.effects.requests import Instant, Now, Sleep
from datashard_core.effects.tasks import Task, gather, join, outcomes_of, start
from datashard_core.errors import (
    ConfigurationError,
    CorruptTableError,
    DataShardError,
    NoSuchTableError,
    StorageError,
)
from datashard_core.storage.base import ObjectNotFoundError

log = logging.getLogger(__name__)

BEFORE_FIRST_LISTING = 0.1  # seconds: others that arrive in this while are seen by one listing
MAX_RACING = 8  # appends that wait: a newcomer gets in line instead of racing them
CROWD_SECONDS = 60.0  # what was staged longer ago waits for nobody


async def append(
    appends: Sequence[Append], target: Target, cached: TableState | None, timeout: float
) -> tuple[dict[str, Result], TableState | None]:
    """Append rows: each append exactly once, or an error that says what is known of it.

    Args:
        appends: what to append; several appends of one process share their commits.
        target: the table.
        seen: the newest version known to this process; None in a fresh one.
        timeout: seconds until it gives up.

    Returns:
        For each digest of append id where it was committed, or the error that it ended with; and
        the newest version now known.
    """
    now: Instant = await Now()
    group = Group(
        target,
        deadline=now.monotonic + timeout,
        started=now.monotonic,
        waiting={item.id: item for item in appends},
        bases={},
        state=cached,
    )
    try:
        await _append(group, cached, now)
    except GaveUpError as gave_up:
        for own, item in group.waiting.items():
            group.results[own] = unknown(group.target, item, group.base_of(item), gave_up.cause)
    except DataShardError as error:
        for own, item in group.waiting.items():
            # Once anything was sent, nothing is reported as failed: it could show up later. Rows
            # of a table that is gone cannot; where versions overwrite each other nothing can be promised.
            known = not group.sent or isinstance(error, (NoSuchTableError, BrokenChainError))
            group.results[own] = error if known else unknown(group.target, item, group.base_of(item), error)
    return group.results, cached if group.vanished else group.state


async def _append(group: Group, cached: TableState | None, now: Instant) -> None:
    recently_grouped = cached is not None and is_recently_grouped(cached.body, now.wall_ms)
    draft: Task[Draft] | None = None
    sent = await start(_send_files(group))
    if cached is not None and recently_grouped and _based_by(group, cached.body.version):
        # Many are writing: whoever reads and lists first only loses the race later.
        await _enter(group, cached, Found(cached.body, {cached.body.version: cached.body}))
        await _all_sent(group, sent)
    else:
        if cached is not None and not cached.contended:
            # Most tables are quiet: the files are on their way while we look whether this one is.
            draft = await start(draft_own(group.target, cached, dict(group.waiting)))
        expected, items = frozenset(group.waiting), dict(group.waiting)
        listed = await _arrived(group, cached)
        await _all_sent(group, sent)
        if not group.waiting:
            done = [group.results.get(own) for own in items]
            if cached is not None and any(
                isinstance(one, Committed) and one.version > cached.body.version for one in done
            ):
                # A second try, committed since we looked: the first may have had nobody to move the hint.
                await follow_with_hint(group, items, cached.body.version)
            return
        root, body = group.target.root, group.known.body
        alone = cached is not None and body.version == cached.body.version and not eligible(root, body, listed)
        group.state = replace(group.known, contended=not alone)
        if not alone or frozenset(group.waiting) != expected:
            if draft is not None:
                draft.cancel()  # its files stay, named by nothing
            draft = None
        now = await Now()
        crowded = len(alive(root, body, listed, now.wall_ms / 1000, CROWD_SECONDS)) > MAX_RACING
        if not (crowded or is_recently_grouped(group.known.body, now.wall_ms)):
            await _try(group, listed, draft)
    if group.waiting:
        await stage(group)
        await Sleep(BEFORE_FIRST_LISTING)
    while group.waiting:
        turn = await wait_in_queue(group)
        if turn is not None:
            await _try(group, turn)


async def _send_files(group: Group) -> dict[str, DataShardError]:
    """Write the data files that are not in the store yet; for each digest of append id the error, if there was one."""
    failed: dict[str, DataShardError] = {}
    unsent = [(own, put) for own, item in group.waiting.items() for put in item.unsent]
    while unsent:
        outcomes = await outcomes_of([put for _, put in unsent])
        again, overload = [], None
        for (own, put), outcome in zip(unsent, outcomes, strict=True):
            if isinstance(outcome, StorageError) and outcome.reason == "throttled":
                again.append((own, put))
                overload = outcome
            elif isinstance(outcome, DataShardError):
                failed[own] = outcome
        if overload is not None:
            await back_off(group, overload)
        unsent = again
    return failed


async def _all_sent(group: Group, sent: Task[dict[str, DataShardError]]) -> None:
    """Nothing may name a file before it is in the store: an append whose files are not ends here."""
    await join(sent)
    if isinstance(sent.outcome, DataShardError):
        raise sent.outcome
    for own, error in (sent.outcome or {}).items():
        if group.waiting.pop(own, None) is not None:
            group.results[own] = error
            group.bases.pop(own, None)


def _based_by(group: Group, version: int) -> bool:
    """Whether nothing has to be read to know that no append of the group is named up to a version.

    Threads share their commits, each with a table object of its own: one may have seen a newer
    version than the one that leads.
    """
    return all(item.base is not None and item.base <= version for item in group.waiting.values())


async def _arrived(group: Group, cached: TableState | None) -> list[StagedName]:
    """Arrive, however often the store says that it is overloaded."""
    while True:
        try:
            return await _arrive(group, cached)
        except StorageError as error:
            await back_off(group, error)


async def _arrive(group: Group, cached: TableState | None) -> list[StagedName]:
    """Read the newest version and the line, and look the callers' ids up, all beside each other."""
    found, page, lookup = await gather(
        find_current(group.target.root, cached.body if cached is not None else None),
        first_page(group.target.root),
        _words_early(group, cached),
    )
    state = require_live(found, cached, group.target)
    try:
        await _enter(group, state, found, cached if lookup is not None else None, lookup)
    except CorruptTableError:
        # Damaged is what is so in the newest version: the table may have been dropped and purged meanwhile.
        newer = await newest(group.target, state)
        if newer.body.version == state.body.version:
            raise
        return await _arrive(group, newer)
    return parse_listed(page.infos)


async def _words_early(group: Group, cached: TableState | None) -> LookupResult | None:
    """What is said of the ids up to the version last seen; None where that can only be asked of a newer one."""
    try:
        return await _words(group, cached, group.lowest_base)
    except CorruptTableError:
        return None  # whoever slept may find its versions purged, or replaced by tombstones


async def _words(group: Group, state: TableState | None, above: int, found: Found | None = None) -> LookupResult:
    """What versions above one say of the group's ids, up to one that is known."""
    if state is None:
        return LookupResult({}, 0)
    return await look_up_since(
        frozenset(group.waiting),
        state.body,
        above=above,
        bodies=found.bodies if found is not None else {},
        history=group.target.history,
    )


async def _enter(
    group: Group, state: TableState, found: Found, earlier: TableState | None = None, lookup: LookupResult | None = None
) -> None:
    """Base of every append: the newest version known, once the ids are known to be unnamed up to it.

    Args:
        group: the appends.
        state: the newest version.
        found: what was read on the way to it.
        earlier: a version that the ids were looked up to already.
        words: and what was found.
    """
    version = state.body.version
    group.state = state
    for own, item in list(group.waiting.items()):
        if item.base is not None and item.base > version:
            group.results[own] = ConfigurationError(
                f"table {group.target.name}: base={item.base} is above the newest version, {version}. Pass the base "
                "that CommitStateUnknownError carried, or none."
            )
            del group.waiting[own]
    above = group.lowest_base if earlier is None else max(group.lowest_base, earlier.body.version)
    later = await _words(group, state, above, found)
    result = later if lookup is None else _joined(lookup, later, above)
    await finish_recorded(group, result.recorded, found, before=True)
    for own, item in list(group.waiting.items()):
        if item.base is not None and item.base >= 0 and item.digest and item.base < result.since - 1:
            # A caller's second try, so late that nobody remembers the first one.
            group.results[own] = unknown(group.target, item, item.base, ForgottenError(result.since, group.target.root))
            del group.waiting[own]
    group.bases = dict.fromkeys(group.waiting, version)


def _joined(earlier: LookupResult, later: LookupResult, above: int) -> LookupResult:
    """Two look-ups as one, of which the later one began after version ``above``, where the earlier one ended.

    Only where the later one did not reach back to there is anything between them forgotten.
    """
    since = later.since if later.since > above + 1 else earlier.since
    return LookupResult({**earlier.recorded, **later.recorded}, since)


async def _try(group: Group, listed: Sequence[StagedName], draft: Task[Draft] | None = None) -> None:
    """Commit once, by a draft if there is one; whoever loses reads on, and finds itself carried or not."""
    check_deadline(group, (await Now()))
    try:
        group.tried = True
        staged = tuple(group.staged.values())
        outcome = (await _by_draft(group, draft)) if draft is not None else None
        if outcome is None:
            outcome = await commit(group.target, group.known, listed, group.waiting, staged, combine=True)
        if outcome.created is not None:
            await _finish(group, outcome, outcome.created)
            return
        if outcome.cause is not None:
            group.sent = True
            group.cause = outcome.cause
        await read_on(group)
    except (StorageError, CorruptTableError) as error:
        await _after_failure(group, error)


async def _after_failure(group: Group, error: StorageError | CorruptTableError) -> None:
    """What is gone or cannot be read may have been expired under a sleeper, who starts over; else it is an error."""
    try:
        if isinstance(error, (ObjectNotFoundError, CorruptTableError)) and (await read_on(group)):
            return
    except StorageError as failed:
        error = failed
    if isinstance(error, CorruptTableError):
        raise error
    await back_off(group, error)


async def _by_draft(group: Group, draft: Task[Draft]) -> CommitOutcome | None:
    """Create the version that was drafted; None if its files could not be written."""
    await join(draft)
    if isinstance(draft.outcome, Draft):
        return await create(group.target, draft.outcome, ())
    log.info("table %s: its files are written again: %s", group.target.name, draft.outcome)
    return None


async def _finish(group: Group, outcome: CommitOutcome, created: TableState) -> None:
    """The appends are committed; do what is left to do, by which it is seen whether there still is a table."""
    items = dict(group.waiting)
    _all_committed(group, created)
    try:
        group.state = await finish(group.target, outcome, group.deadline)
    except VanishedTableError as error:
        doubt(group, items, error)
    except BrokenChainError as error:
        group.results |= dict.fromkeys(items, error)


def _all_committed(group: Group, created: TableState) -> None:
    snapshot_id = created.body.table.current_snapshot_id
    for own in group.waiting:
        group.results[own] = Committed(created.body.version, snapshot_id, already_appended=False)
    group.waiting.clear()
    group.state = created
