"""Deferred appends: staged now, committed with the next commit of anybody, at the latest by a flush."""

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
"""One of so many deferred appends commits what is staged, so the backlog stays bounded.

A commit makes five PUTs and a listing, so with one in 64 commits would cost what every tenth append does.
"""

MUCH = 256
"""Staged appends that are committed however recent the newest version is."""

RECENT_MS = 1000
PAUSE = 0.2
"""Seconds after which a flush looks again for bodies that could not be read."""


class Deferred(Struct, frozen=True):
    """A deferred append that is durable: its rows, or a refusal, will be in a committed version.

    Attributes:
        base: the version up to which its id is unnamed; the caller's proof for asking again.
        commits: it is this append's turn to flush.
    """

    base: int
    commits: bool


async def defer(item: Append, target: Target, cached: TableState) -> tuple[Deferred | Result, TableState]:
    """Stage an append and return.

    Args:
        item: its rows, few enough for one body.
        target: the table.
        seen: the newest version known.

    Returns:
        That it is deferred, or, for a caller's id, what the table says of it already; and the newest
        version now known.

    Raises:
        CommitStateUnknownError: whether the rows are staged could not be learnt.
        StorageError: the store failed before anything was sent.
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
            return refusal_of(target, item, outcome), state  # with a base, the caller asks what became of it
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
        raise outcomes[0]  # the folder is gone, and is not made again for a staged append
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
    """Commit what is staged, once: the duty of one deferred append in :data:`ONE_IN`.

    Whoever loses the race leaves it at that, for the winner carried the same appends. A table that
    got a version within the last second is left alone too, unless much is staged: so many writers
    that defer share few commits, and the backlog stays below some :data:`MUCH` appends or what
    comes in a second.

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
    """What a flush waits for.

    Attributes:
        target: the table.
        deadline: when it gives up, by the monotonic clock.
        state: the newest version known.
        left: what is staged and not named yet; None before it was listed.
        refused: why appends are not in the table and will not be, by their ids.
        forgotten: staged so long ago that nobody remembers whether they were committed.
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
        AppendRefusedError: all of it is named by a version, and some of it as refused.
        CommitStateUnknownError: so is all but what was staged before the retention of append ids.
        AppendSetAsideError: so is all but what this release, or this version, cannot take.
        CommitTimeoutError: the deadline passed; what is staged stays staged.
        StorageError: the store failed until then, likewise.
    """
    state, error = await flush_all(target, cached, timeout)
    if error is not None:
        raise error
    return state


async def flush_all(
    target: Target, cached: TableState | None, timeout: float
) -> tuple[TableState, DataShardError | None]:
    """Commit everything that is staged now, and tell of what is not in the table then.

    Returns:
        The newest version, and the error of :func:`flush` that names what is not in it.

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
    """One try of a flush: strike out what is named by now, and commit the rest; whether nothing was left."""
    target, seen = backlog.target, backlog.state
    if backlog.left is None:
        # Before the version is read: what was carried and deleted since is in a version that is read then.
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
        # Their bodies were not to be had: gone (so named in a newer version), or not just now.
        there = {name.key for name in (await staged_names())}
        backlog.left = {name for name in backlog.left if name.key in there}
        if not backlog.left:  # what is shown has to be as new as what took them
            backlog.state = await newest(target, backlog.state)
        await Sleep(PAUSE if backlog.left else 0.0)
    return False


def _set_aside(backlog: _Backlog, found: Mapping[StagedName, Aside | None]) -> None:
    """Wait no more for what is set aside."""
    aside = {name: why for name, why in found.items() if why is not None}
    backlog.aside.update(aside)
    backlog.left = (backlog.left or set()) - aside.keys()


async def _strike_named_of_aside(backlog: _Backlog, state: TableState) -> None:
    """Forget of what is set aside what a version names all the same, by another body of the same id."""
    names = set(backlog.aside)
    await _strike_named(backlog, names, state)
    backlog.aside = {name: why for name, why in backlog.aside.items() if name in names}


async def staged_objects() -> list[ObjectInfo]:
    """Everything that lies where appends are staged, every page."""
    infos: list[ObjectInfo] = []
    while True:
        page = await ListPage(PREFIX, infos[-1].key if infos else None)
        infos += page
        if len(page) < ListPage(PREFIX).limit:
            return infos


async def staged_names() -> list[StagedName]:
    """Everything that is staged, every page."""
    return parse_listed(await staged_objects())


async def _strike_named(backlog: _Backlog, left: set[StagedName], state: TableState) -> None:
    """Take out of ``left`` what a version after its base names or whose table is no more; note what is refused."""
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
    """Why a version that only an id node tells of refused an append: what lies there may still show it."""
    outcomes = await outcomes_of((Get(name.key),))
    if not isinstance(outcomes[0], StorageError):
        try:
            table = state.body.table
            decode_body(result_of(outcomes[0]).body, name, table.table_uuid, table.schemas)
        except UnreadableBodyError as error:
            return str(error)
        except NewerBodyError:
            pass  # it is another body of that id that was refused
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
            "next commit carries them; call flush again to wait for it."
        )
