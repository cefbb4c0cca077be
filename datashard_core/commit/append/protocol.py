"""The group commit: commit appends as versions of the table, without I/O of its own.

The coroutines await storage requests (:mod:`datashard_core.effects.requests`), which a driver sends. The rules, and the
failures that each rule prevents, are in ``docs/design/commit-protocol.md``. In short:

* The commit point is the creation of ``v{N+1}.metadata.json`` on condition that it is absent.
* Every commit includes all staged appends. A writer that loses a race stages its rows for a later commit.
* If the store answers that the name is taken, this writer's own earlier request may have taken it, and a request with
  an unknown outcome may take effect later. In both cases the writer reads the newer versions and looks for its own ids
  in each of them before it tries again under the same ids.
* Nothing is deleted on a guess: not after an error, not after an interrupt.
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

BEFORE_FIRST_LISTING = 0.1  # seconds, so that one listing shows all writers that arrive meanwhile
MAX_RACING = 8  # waiting appends; with more of them, a new writer joins the queue instead of racing
CROWD_SECONDS = 60.0  # age from which a staged append no longer counts as waiting


async def append(
    appends: Sequence[Append], target: Target, cached: TableState | None, timeout: float
) -> tuple[dict[str, Result], TableState | None]:
    """Append rows exactly once for each append, or return an error that says what is known of it.

    Args:
        appends: the appends; several appends of one process share their commits.
        target: the table.
        cached: the newest version that this process knows; None in a new process.
        timeout: seconds until it gives up.

    Returns:
        For each digest of an append id the version that committed it, or its error; and the newest version now known.
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
            # After a request was sent, an append is not reported as failed, because it could take effect later. Rows of
            # a table that is gone cannot; where versions overwrite each other, no outcome is certain.
            known = not group.sent or isinstance(error, (NoSuchTableError, BrokenChainError))
            group.results[own] = error if known else unknown(group.target, item, group.base_of(item), error)
    return group.results, cached if group.vanished else group.state


async def _append(group: Group, cached: TableState | None, now: Instant) -> None:
    recently_grouped = cached is not None and is_recently_grouped(cached.body, now.wall_ms)
    draft: Task[Draft] | None = None
    sent = await start(_send_files(group))
    if cached is not None and recently_grouped and _based_by(group, cached.body.version):
        # Many writers are active: a writer that reads and lists first loses the race.
        await _enter(group, cached, Found(cached.body, {cached.body.version: cached.body}))
        await _all_sent(group, sent)
    else:
        if cached is not None and not cached.contended:
            # Most tables are quiet: write the files while the requests that show whether this table is quiet are sent.
            draft = await start(draft_own(group.target, cached, dict(group.waiting)))
        expected, items = frozenset(group.waiting), dict(group.waiting)
        listed = await _arrived(group, cached)
        await _all_sent(group, sent)
        if not group.waiting:
            done = [group.results.get(own) for own in items]
            if cached is not None and any(
                isinstance(one, Committed) and one.version > cached.body.version for one in done
            ):
                # A retry whose first try was committed meanwhile: its process may have ended before it moved the hint.
                await follow_with_hint(group, items, cached.body.version)
            return
        root, body = group.target.root, group.known.body
        alone = cached is not None and body.version == cached.body.version and not eligible(root, body, listed)
        group.state = replace(group.known, contended=not alone)
        if not alone or frozenset(group.waiting) != expected:
            if draft is not None:
                draft.cancel()  # its files stay as orphans
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
    """Write the data files that are not in the store yet; return the errors by digest of append id."""
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
    """Wait until the data files are in the store, as a version requires; end the appends whose files failed."""
    await join(sent)
    if isinstance(sent.outcome, DataShardError):
        raise sent.outcome
    for own, error in (sent.outcome or {}).items():
        if group.waiting.pop(own, None) is not None:
            group.results[own] = error
            group.bases.pop(own, None)


def _based_by(group: Group, version: int) -> bool:
    """Whether all appends of the group are known to be unrecorded up to a version, without a read.

    Threads share their commits, each with a table object of its own, and one may know a newer version than the thread
    that commits.
    """
    return all(item.base is not None and item.base <= version for item in group.waiting.values())


async def _arrived(group: Group, cached: TableState | None) -> list[StagedName]:
    """Call :func:`_arrive` again as long as the store is overloaded."""
    while True:
        try:
            return await _arrive(group, cached)
        except StorageError as error:
            await back_off(group, error)


async def _arrive(group: Group, cached: TableState | None) -> list[StagedName]:
    """Read the newest version, list the queue and look up the callers' ids, all in parallel."""
    found, page, lookup = await gather(
        find_current(group.target.root, cached.body if cached is not None else None),
        first_page(group.target.root),
        _words_early(group, cached),
    )
    state = require_live(found, cached, group.target)
    try:
        await _enter(group, state, found, cached if lookup is not None else None, lookup)
    except CorruptTableError:
        # An error if it is still the newest version; else the table may have been dropped and purged meanwhile.
        newer = await newest(group.target, state)
        if newer.body.version == state.body.version:
            raise
        return await _arrive(group, newer)
    return parse_listed(page.infos)


async def _words_early(group: Group, cached: TableState | None) -> LookupResult | None:
    """Look up the ids in all versions up to the cached one; None if only a newer version can answer."""
    try:
        return await _words(group, cached, group.lowest_base)
    except CorruptTableError:
        return None  # after a long suspension the versions may be purged, or replaced by tombstones


async def _words(group: Group, state: TableState | None, above: int, found: Found | None = None) -> LookupResult:
    """Look up the group's ids in the versions above ``above``, up to a known version."""
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
    """Set the base of every append to the newest version, after a look-up of the ids up to it.

    Args:
        group: the appends.
        state: the newest version.
        found: the versions that were read on the way to it.
        earlier: a version up to which the ids were looked up already.
        lookup: the result of that look-up.
    """
    version = state.body.version
    group.state = state
    for own, item in list(group.waiting.items()):
        if item.base is not None and item.base > version:
            group.results[own] = ConfigurationError(
                f"table {group.target.name}: base={item.base} is above the newest version, {version}. Pass the base "
                "of the CommitStateUnknownError, or none."
            )
            del group.waiting[own]
    above = group.lowest_base if earlier is None else max(group.lowest_base, earlier.body.version)
    later = await _words(group, state, above, found)
    result = later if lookup is None else _joined(lookup, later, above)
    await finish_recorded(group, result.recorded, found, before=True)
    for own, item in list(group.waiting.items()):
        if item.base is not None and item.base >= 0 and item.digest and item.base < result.since - 1:
            # A retry after the retention of append ids: whether the first try was committed is not known.
            group.results[own] = unknown(group.target, item, item.base, ForgottenError(result.since, group.target.root))
            del group.waiting[own]
    group.bases = dict.fromkeys(group.waiting, version)


def _joined(earlier: LookupResult, later: LookupResult, above: int) -> LookupResult:
    """Join two look-ups, of which the later one began after version ``above``, where the earlier one ended.

    Ids between the two are forgotten only if the later look-up did not reach back to ``above``.
    """
    since = later.since if later.since > above + 1 else earlier.since
    return LookupResult({**earlier.recorded, **later.recorded}, since)


async def _try(group: Group, listed: Sequence[StagedName], draft: Task[Draft] | None = None) -> None:
    """Try to commit once, by the draft if there is one.

    If another writer wins, read the newer versions to see whether they include our appends.
    """
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
    """Start over if newer versions exist: maintenance may have removed the objects meanwhile. Else it is an error."""
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
    log.info(
        "table %s: the files of a commit could not be written, and are written again: %s",
        group.target.name,
        draft.outcome,
    )
    return None


async def _finish(group: Group, outcome: CommitOutcome, created: TableState) -> None:
    """Do the work after the commit; it shows whether the table still exists."""
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
