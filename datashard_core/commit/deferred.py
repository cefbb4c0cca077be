"""Deferred appends: staged now, committed with the next commit of anybody, at the latest by a flush."""

from __future__ import annotations

from msgspec import Struct

from datashard_core.commit.carry import commit
from datashard_core.commit.lead import finish
from datashard_core.commit.lookup import look_up
from datashard_core.commit.names import Refusal
from datashard_core.commit.pointer import find_current
from datashard_core.commit.protocol import Result, body_of
from datashard_core.commit.protocol import conflict as conflict_of
from datashard_core.commit.staging import PREFIX, StagedName, encode_body, parse_listed
from datashard_core.commit.state import Append, Committed, Seen, Target, settle
from datashard_core.errors import CommitStateUnknownError, CommitTimeoutError, DataShardError, StorageError
from datashard_core.storage.requests import (
    Instant,
    ListPage,
    Now,
    Put,
    Random,
    Sleep,
    Steps,
    Unique,
    ask,
    each,
)

ONE_IN = 64
"""One of so many deferred appends commits all that is staged, so the backlog stays bounded."""


class Deferred(Struct, frozen=True):
    """A deferred append that is durable: its rows, or a refusal, will be in a committed version.

    Attributes:
        base: the version up to which its id is unnamed; the caller's proof for asking again.
        commits: it is this append's turn to flush.
    """

    base: int
    commits: bool


def defer(item: Append, target: Target, seen: Seen) -> Steps[tuple[Deferred | Result, Seen]]:
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
    state = seen
    if item.base is None:
        found = yield from find_current(target.root, seen.body)
        state = settle(found, seen, target)
        words = yield from look_up(frozenset({item.id}), state.body, above=-1, bodies={}, history=target.history)
        word = words.get(item.id)
        if word is not None and not isinstance(word.record, Refusal):
            if item.digest and word.record and word.record != item.digest:
                return conflict_of(target, item, word), state
            return Committed(word.version, None, already_appended=True), state
    base = state.body.version if item.base is None else min(item.base, state.body.version)
    nonce: str = yield from ask(Unique())
    name = StagedName(base, "d", item.id, nonce)
    outcomes = yield (Put(name.key, encode_body(body_of(item, state))),)
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


def flush(target: Target, seen: Seen | None, timeout: float) -> Steps[Seen]:
    """Commit everything that is staged now; when it returns, all of it is named.

    Raises:
        CommitTimeoutError: the deadline passed; what is staged stays staged.
        StorageError: the store failed, likewise.
    """
    now: Instant = yield from ask(Now())
    deadline = now.monotonic + timeout
    found = yield from find_current(target.root, seen.body if seen is not None else None)
    state = settle(found, seen, target)
    goal = set((yield from staged_names()))
    while True:
        goal = yield from _unnamed(goal, state, target)
        if not goal:
            return state
        _check(deadline, now, target, len(goal))
        try:
            outcome = yield from commit(target, state, sorted(goal), {})
        except StorageError as error:
            yield from _breathe(error, deadline, target, len(goal))
            continue
        if outcome.created is not None:
            state = yield from finish(target, outcome, deadline)
        elif outcome.nothing:
            # Their bodies were not to be had: gone (so named in a newer version), or not just now.
            goal &= set((yield from staged_names()))
        found = yield from find_current(target.root, state.body)
        state = settle(found, state, target)
        now = yield from ask(Now())


def staged_names() -> Steps[list[StagedName]]:
    """Everything that is staged, every page."""
    names: list[StagedName] = []
    after: str | None = None
    while True:
        page = yield from ask(ListPage(PREFIX, after))
        names += parse_listed(page)
        if len(page) < ListPage(PREFIX).limit:
            return names
        after = page[-1].key


def _unnamed(goal: set[StagedName], state: Seen, target: Target) -> Steps[set[StagedName]]:
    below = [name.base for name in goal if name.base < state.body.version]
    if not below:
        return goal
    words = yield from look_up(
        frozenset(name.id for name in goal), state.body, above=min(below), bodies={}, history=target.history
    )
    return {name for name in goal if not (name.id in words and words[name.id].version > name.base)}


def _breathe(error: StorageError, deadline: float, target: Target, left: int) -> Steps[None]:
    fraction, now = yield from each((Random(), Now()))
    if now.monotonic > deadline or error.reason in ("access-denied", "bucket-missing", "credentials-missing"):
        raise error
    _check(deadline, now, target, left)
    yield from ask(Sleep((0.5 + fraction) * (2.0 if error.reason == "throttled" else 0.3)))


def _check(deadline: float, now: Instant, target: Target, left: int) -> None:
    if now.monotonic > deadline:
        raise CommitTimeoutError(
            f"table {target.name}: the deadline passed while {left} appends are still staged. They stay staged, and "
            "the next commit carries them; call flush again to wait for it."
        )
