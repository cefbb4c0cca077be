"""Deferred appends: staged now, and committed by the next commit of any process or by a flush."""

from __future__ import annotations

from collections.abc import Coroutine, Mapping
from typing import Any

from msgspec import Struct, field

from datashard_core.commit.append.combine import finish
from datashard_core.commit.append.group_append import LASTING
from datashard_core.commit.append.outcome import Result, conflict, refusal_of, unknown
from datashard_core.commit.append.publish import commit
from datashard_core.commit.append.queue import body_of, first_page
from datashard_core.commit.append_ids.lookback import ForgottenError, RecordedOutcome
from datashard_core.commit.append_ids.lookup import LookupResult, look_up, look_up_since
from datashard_core.commit.append_ids.segment import REFUSED_EARLIER
from datashard_core.commit.core.current_version import find_current
from datashard_core.commit.core.recorded_ids import Refusal
from datashard_core.commit.core.state import Append, Committed, TableState, Target, newest, on_newest, require_live
from datashard_core.commit.staging.body import decode_body, encode_body
from datashard_core.commit.staging.errors import NewerBodyError, UnreadableBodyError
from datashard_core.commit.staging.key import PREFIX, StagedName, parse_listed
from datashard_core.commit.staging.set_aside import Aside, aside_by_name, eligible
from datashard_core.effects.requests import Get, Instant, ListPage, Now, Put, Random, Sleep, Unique
from datashard_core.effects.tasks import gather, outcomes_of, result_of
from datashard_core.errors import (
    CommitStateUnknownError,
    CommitTimeoutError,
    DataShardError,
    StorageError,
)
from datashard_core.storage.base import ObjectInfo

ONE_IN = 128
"""One in so many deferred appends commits what is staged, so that the backlog stays bounded.

A commit makes five PUTs and a listing; with one in 64, commits would add a tenth to the requests.
"""

MUCH = 256
"""Number of staged appends from which on they are committed even if the newest version is recent."""

RECENT_MS = 1000
PAUSE = 0.2
"""Seconds after which a flush retries bodies that could not be read."""


class Deferred(Struct, frozen=True):
    """A deferred append that is durable: a later version commits its rows, or refuses them.

    Attributes:
        base: the version up to which its id is unrecorded; the caller passes it to a retry.
        commits: whether this append has to commit the backlog.
    """

    base: int
    commits: bool


async def defer(item: Append, target: Target, cached: TableState) -> tuple[Deferred | Result, TableState]:
    """Stage an append and return.

    Args:
        item: the append, with few enough rows for one body.
        target: the table.
        cached: the newest version known.

    Returns:
        That it is deferred, or, for a caller's id, the result that the table records already; and the newest version
        now known.

    Raises:
        CommitStateUnknownError: it is not known whether the rows are staged.
        StorageError: the store failed before the rows were sent.
    """
    state = cached
    if item.base is None or item.digest:  # a caller's id
        above = -1 if item.base is None else item.base

        def asked(newest: TableState) -> Coroutine[Any, Any, LookupResult]:
            return look_up_since(frozenset({item.id}), newest.body, above=above, bodies={}, history=target.history)

        state, result = await on_newest(target, cached, asked)
        outcome = result.recorded.get(item.id)
        if outcome is None and item.base is not None and 0 <= item.base < result.since - 1:
            return unknown(target, item, item.base, ForgottenError(result.since, target.root)), state
        if outcome is not None and isinstance(outcome.record, Refusal) and item.base is not None:
            return refusal_of(target, item, outcome), state  # a call with a base asks for the outcome of the first try
        if outcome is not None and not isinstance(outcome.record, Refusal):
            if item.digest and outcome.record and outcome.record != item.digest:
                return conflict(target, item, outcome), state
            return Committed(outcome.version, None, already_appended=True), state
    base = state.body.version if item.base is None else min(item.base, state.body.version)
    base = max(base, state.body.first)  # a caller's base may be one of an earlier table of this name
    nonce: str = await Unique()
    name = StagedName(base, "d", item.id, nonce)
    outcomes = await outcomes_of((Put(name.key, encode_body(body_of(item, state))),))
    if isinstance(outcomes[0], StorageError) and outcomes[0].reason == "not-found":
        raise outcomes[0]  # the folder is gone, and a staged append does not create it again
    if isinstance(outcomes[0], DataShardError):
        raise CommitStateUnknownError(
            f"table {target.name} at {target.root}: it is not known whether append {item.append_id!r} was staged "
            f"({outcomes[0]}). Call append again with the same rows, append_id={item.append_id!r} and base={base}: "
            "they end up in the table exactly once.",
            append_id=item.append_id,
            base=base,
            table=target.root,
        ) from outcomes[0]
    return Deferred(base, commits=int(nonce[:8], 16) % ONE_IN == 0), state


async def commit_backlog(target: Target, cached: TableState, timeout: float) -> TableState:
    """Try once to commit what is staged, as one in :data:`ONE_IN` deferred appends does.

    A try that loses the race is not repeated, because the winner committed the same appends. If the newest version is
    younger than a second, nothing is done unless much is staged. So many writers that defer share few commits, and the
    backlog stays below :data:`MUCH` appends or those of one second.

    Returns:
        The newest version now known.

    Raises:
        StorageError: the store failed; what is staged stays staged.
    """
    found, page, now = await gather(find_current(target.root, cached.body), first_page(target.root), Now())
    state = require_live(found, cached, target)
    listed = eligible(target.root, state.body, parse_listed(page.infos))
    if len(listed) < MUCH and abs(now.wall_ms - state.body.table.last_updated_ms) < RECENT_MS:
        return state
    outcome = await commit(target, state, listed, {})
    if outcome.created is None:
        return state
    return await finish(target, outcome, now.monotonic + timeout)


class _Backlog(Struct):
    """The state of a flush.

    Attributes:
        target: the table.
        deadline: when it gives up, by the monotonic clock.
        state: the newest version known.
        left: staged appends that no version records yet; None before the listing.
        refused: why appends are not in the table and will not be, by their ids.
        forgotten: staged before the retention of append ids, so that it is not known whether they were committed.
        aside: set aside, and why.
    """

    target: Target
    deadline: float
    state: TableState | None
    left: set[StagedName] | None = None
    refused: dict[str, str] = field(default_factory=dict)
    forgotten: set[StagedName] = field(default_factory=set)
    aside: dict[StagedName, Aside] = field(default_factory=dict)


async def flush(target: Target, cached: TableState | None, timeout: float) -> TableState:
    """Commit everything that is staged now; when it returns, all of it is in the table.

    Raises:
        AppendRefusedError: versions record all appends, and some of them as refused.
        CommitStateUnknownError: versions record all appends but those staged before the retention of append ids.
        AppendSetAsideError: versions record all appends but those that this release, or this version, cannot commit.
        CommitTimeoutError: the deadline passed; what is staged stays staged.
        StorageError: the store failed until the deadline; what is staged stays staged.
    """
    state, error = await flush_all(target, cached, timeout)
    if error is not None:
        raise error
    return state


async def flush_all(
    target: Target, cached: TableState | None, timeout: float
) -> tuple[TableState, DataShardError | None]:
    """Commit everything that is staged now, and return an error instead of raising it.

    Returns:
        The newest version, and the error of :func:`flush` for the appends that are not in it.

    Raises:
        CommitTimeoutError: the deadline passed; what is staged stays staged.
        StorageError: the store failed until then, likewise.
    """
    from datashard_core.commit.append.leftover import error_of

    now: Instant = await Now()
    backlog = _Backlog(target, now.monotonic + timeout, cached)
    done = False
    while not done:
        try:
            done = await _commit_left(backlog)
        except StorageError as error:
            await _back_off(error, backlog)
    assert backlog.state is not None
    return backlog.state, error_of(target, backlog.refused, backlog.forgotten, backlog.aside)


async def _commit_left(backlog: _Backlog) -> bool:
    """One try of a flush: drop the appends that versions record, and commit the rest; True if none was left."""
    target, seen = backlog.target, backlog.state
    if backlog.left is None:
        # List before the version is read: objects that are committed and deleted later are in a version read later.
        infos = await staged_objects()
        backlog.left = set(parse_listed(infos))
        from datashard_core.commit.append.leftover import warn_of_strangers

        warn_of_strangers(target, infos)
    names = backlog.left
    backlog.state, _ = await on_newest(target, seen, lambda state: _strike_named(backlog, names, state))
    _set_aside(backlog, {name: aside_by_name(target.root, name, backlog.state.body) for name in names})
    if not backlog.left:
        await _strike_named_of_aside(backlog, backlog.state)
        return True
    _check(backlog, (await Now()))
    outcome = await commit(target, backlog.state, sorted(backlog.left), {})
    _set_aside(backlog, outcome.aside)
    if outcome.created is not None:
        backlog.state = await finish(target, outcome, backlog.deadline)
    elif outcome.nothing:
        # The bodies could not be read: they are gone, so a newer version records them, or the store failed.
        there = {name.key for name in (await staged_names())}
        backlog.left = {name for name in backlog.left if name.key in there}
        if not backlog.left:  # the state returned has to include the version that records them
            backlog.state = await newest(target, backlog.state)
        await Sleep(PAUSE if backlog.left else 0.0)
    return False


def _set_aside(backlog: _Backlog, found: Mapping[StagedName, Aside | None]) -> None:
    """Do not wait for objects that are set aside."""
    aside = {name: why for name, why in found.items() if why is not None}
    backlog.aside.update(aside)
    backlog.left = (backlog.left or set()) - aside.keys()


async def _strike_named_of_aside(backlog: _Backlog, state: TableState) -> None:
    """Drop the objects set aside whose id a version records, from another body of the same id."""
    names = set(backlog.aside)
    await _strike_named(backlog, names, state)
    backlog.aside = {name: why for name, why in backlog.aside.items() if name in names}


async def staged_objects() -> list[ObjectInfo]:
    """List all objects below the folder of staged appends."""
    infos: list[ObjectInfo] = []
    while True:
        page = await ListPage(PREFIX, infos[-1].key if infos else None)
        infos += page
        if len(page) < ListPage(PREFIX).limit:
            return infos


async def staged_names() -> list[StagedName]:
    """List all staged appends."""
    return parse_listed(await staged_objects())


async def _strike_named(backlog: _Backlog, left: set[StagedName], state: TableState) -> None:
    """Remove from ``left`` what a version after its base records, and what is of an earlier table; note refusals."""
    left -= {name for name in left if name.base < state.body.first}
    below = [name.base for name in left if name.base < state.body.version]
    if not below:
        return
    try:
        recorded = await _words(backlog.target, left, state, min(below))
    except ForgottenError as error:
        old = {name for name in left if name.base < error.until - 1}
        backlog.forgotten |= old
        left -= old
        recorded = await _words(backlog.target, left, state, error.until - 1)
    for name in list(left):
        outcome = recorded.get(name.id)
        if outcome is None or outcome.version <= name.base:
            continue
        left.remove(name)
        if isinstance(outcome.record, Refusal):
            reason = outcome.record.reason
            if reason == REFUSED_EARLIER:
                reason = await _reason_of(state, name)
            backlog.refused[name.id] = reason


async def _words(target: Target, left: set[StagedName], state: TableState, above: int) -> dict[str, RecordedOutcome]:
    ids = frozenset(name.id for name in left)
    return await look_up(ids, state.body, above=above, bodies={}, history=target.history)


async def _reason_of(state: TableState, name: StagedName) -> str:
    """Why an append was refused by a version that only an id segment records: its staged body may show the reason."""
    outcomes = await outcomes_of((Get(name.key),))
    if not isinstance(outcomes[0], StorageError):
        try:
            table = state.body.table
            decode_body(result_of(outcomes[0]).body, name, table.table_uuid, table.schemas)
        except UnreadableBodyError as error:
            return str(error)
        except NewerBodyError:
            pass  # another body of that id was refused
    return REFUSED_EARLIER


async def _back_off(error: StorageError, backlog: _Backlog) -> None:
    fraction, now = await gather(Random(), Now())
    if now.monotonic > backlog.deadline or error.reason in LASTING:
        raise error
    await Sleep((0.5 + fraction) * (2.0 if error.reason == "throttled" else 0.3))


def _check(backlog: _Backlog, now: Instant) -> None:
    if now.monotonic > backlog.deadline:
        raise CommitTimeoutError(
            f"table {backlog.target.name}: the deadline passed while {len(backlog.left or ())} appends are still "
            f"staged ({', '.join(name.key for name in sorted(backlog.left or ())[:3])}). They stay staged, and the "
            "next commit includes them; call flush again to wait for it."
        )
