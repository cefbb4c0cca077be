"""Appends of one process that go the same way: what is known of them, and how failures are waited out."""

from __future__ import annotations

import logging
from collections.abc import Mapping

from msgspec import Struct, field
from msgspec.structs import replace

from datashard_core.commit.append.outcome import Result, conflict, refusal_of, unknown
from datashard_core.commit.append_ids.lookback import RecordedOutcome
from datashard_core.commit.append_ids.lookup import look_up
from datashard_core.commit.core.chain import BrokenChainError
from datashard_core.commit.core.current_version import Found, find_current, move_hint, read_next
from datashard_core.commit.core.recorded_ids import Refusal
from datashard_core.commit.core.state import Append, Committed, TableState, Target, newest, read_version, require_live
from datashard_core.commit.core.vanished import VanishedTableError
from datashard_core.commit.core.version_file import VersionFile
from datashard_core.commit.staging.key import StagedName
from datashard_core.effects.requests import Instant, Now, Random, Sleep
from datashard_core.effects.tasks import gather
from datashard_core.errors import CommitTimeoutError, CorruptTableError, DataShardError, StorageError, StorageReason

log = logging.getLogger(__name__)

SLOW = 0.5  # seconds that a store is left alone after its first "slow down"; doubled by each further one
SLOWEST = 8.0
SAY_AFTER = 5.0  # seconds of waiting before the log says what for
LASTING: frozenset[StorageReason] = frozenset({"access-denied", "bucket-missing", "credentials-missing", "unsupported"})


class Group(Struct):
    """Appends of one process that go the same way, and what is known of them."""

    target: Target
    deadline: float
    started: float
    waiting: dict[str, Append]
    bases: dict[str, int]
    results: dict[str, Result] = field(default_factory=dict)
    staged: dict[str, StagedName] = field(default_factory=dict)
    sent: bool = False
    tried: bool = False
    throttled: float = 0.0
    behind: bool = False
    unlisted: int = 0
    said: bool = False
    cause: DataShardError | None = None
    vanished: bool = False
    state: TableState | None = None

    @property
    def lowest_base(self) -> int:
        """The version up to which nothing has to be looked up, whichever append asks."""
        return min((-1 if item.base is None else item.base for item in self.waiting.values()), default=-1)

    def base_of(self, item: Append) -> int:
        """The base to ask again with: the newest one found, else the caller's own; -1 where nothing is known."""
        return self.bases.get(item.id, -1 if item.base is None else item.base)

    @property
    def known(self) -> TableState:
        """The newest version known; there is one as soon as the group has arrived."""
        assert self.state is not None
        return self.state


class GaveUpError(DataShardError):
    """The deadline passed, or the store will not serve us, after something was sent."""

    def __init__(self, cause: DataShardError | None) -> None:
        super().__init__(str(cause))
        self.cause = cause


async def read_on(group: Group, *, whole: bool = True) -> bool:
    """Look for newer versions, and for our ids in every one of them; whether there was any."""
    state, items = group.known, dict(group.waiting)
    found = await (find_current if whole else read_next)(group.target.root, state.body)
    if found is None or found.newest.version == state.body.version:
        return False
    if found.newest.state == "table" or found.newest.uuid != group.target.uuid:
        require_live(found, state, group.target)  # the history of a table made again says nothing of ours, nor its end
    try:
        recorded = await look_up(
            frozenset(group.waiting),
            found.newest,
            above=min(group.bases.values(), default=state.body.version),
            bodies=found.bodies,
            history=group.target.history,
        )
    except CorruptTableError:
        # A purge may have taken the history of a dropped table, tombstones that of a version long past.
        newer = await newest(group.target, require_live(found, state, group.target))
        if newer.body.version == found.newest.version:
            raise
        return await read_on(group)
    await finish_recorded(group, recorded, found, before=False)
    group.bases = dict.fromkeys(group.waiting, found.newest.version)  # unnamed up to here
    if group.waiting or found.newest.state == "table":
        group.state = require_live(found, state, group.target)
    if not group.waiting and group.tried and found.newest.state == "table":
        # It may have been our own try that landed, with nobody to move the hint after it.
        await follow_with_hint(group, items, state.body.version)
    return True


async def follow_with_hint(group: Group, items: Mapping[str, Append], parent: int) -> None:
    """Move the hint to the version that the group knows, after appends that versions before it name.

    Args:
        group: the appends.
        items: those that were found to be committed.
        parent: a version that was known before they were.
    """
    known = group.known
    try:
        hint = await move_hint(known.body.version, known.hint, group.target.root, parent=parent)
        group.state = replace(known, hint=hint)
    except VanishedTableError as error:
        doubt(group, items, error)


def doubt(group: Group, items: Mapping[str, Append], error: VanishedTableError) -> None:
    """Take back that appends are committed: the version that names them stands on nothing, and is not built on."""
    group.vanished = True
    for own, item in items.items():
        if isinstance(group.results.get(own), Committed):
            group.results[own] = unknown(group.target, item, group.base_of(item), error)


async def finish_recorded(group: Group, recorded: Mapping[str, RecordedOutcome], found: Found, *, before: bool) -> None:
    """Appends that the history names are over: committed (by whomever), refused, or in conflict."""
    for own, outcome in recorded.items():
        item = group.waiting.get(own)
        if item is None:
            continue
        if isinstance(outcome.record, Refusal):
            if before and (item.base is None or outcome.version <= item.base):
                continue  # a refused id may be tried again; with a base, the caller asks what became of it
            group.results[own] = refusal_of(group.target, item, outcome)
        elif item.digest and outcome.record and outcome.record != item.digest:
            group.results[own] = conflict(group.target, item, outcome)
        else:
            snapshot_id = await _snapshot_of(group, outcome.version, found)
            group.results[own] = Committed(outcome.version, snapshot_id, already_appended=before)
        del group.waiting[own]


async def _snapshot_of(group: Group, version: int, found: Found) -> int | None:
    """The snapshot of a version that names an append: what is committed is so, also if this cannot be read now."""
    body: VersionFile | None = found.bodies.get(version)
    if body is None:
        try:
            body = await read_version(group.target.root, version)
        except (StorageError, CorruptTableError) as error:
            log.info("table %s: the snapshot of version %d is not told: %s", group.target.name, version, error)
            return None
    return body.metadata.current_snapshot_id if body.metadata is not None else None


def raise_if_permanent(group: Group, error: StorageError) -> None:
    """Once something was sent, a passing failure of the store is waited out; else it is the answer.

    A store that is overloaded is waited for in any case.
    """
    if isinstance(error, BrokenChainError):
        raise error
    if not group.sent and error.reason != "throttled":
        raise error
    group.cause = error
    if error.reason in LASTING:
        raise GaveUpError(error) from error


async def back_off(group: Group, error: StorageError) -> None:
    """Wait out a failure; a store that says it is overloaded is left alone for longer each time."""
    raise_if_permanent(group, error)
    fraction, now = await gather(Random(), Now())
    check_deadline(group, now)
    if error.reason == "throttled":
        group.throttled = min(max(SLOW, 2 * group.throttled), SLOWEST)
    say(group, now)
    pause = (0.5 + fraction) * max(group.throttled, 0.3)
    await Sleep(min(pause, group.deadline - now.monotonic))


def check_deadline(group: Group, now: Instant) -> None:
    if now.monotonic <= group.deadline:
        return
    if group.sent:
        raise GaveUpError(group.cause)
    raise CommitTimeoutError(
        f"table {group.target.name}: the deadline passed before anything was sent. Nothing was appended; call "
        "again, with a longer timeout if the store is slow."
    )


def say(group: Group, now: Instant, line: str = "") -> None:
    """One line in the log, once, for who wonders what an append waits for."""
    waited = now.monotonic - group.started
    if waited > SAY_AFTER and not group.said:
        group.said = True
        log.info(
            "table %s: waiting %.0f s for a commit to carry %d append(s) (%s%s)",
            group.target.name,
            waited,
            len(group.waiting),
            line,
            group.cause or "no error so far",
        )
