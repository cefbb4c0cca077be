"""The appends of one process that share their commits: their state, look-ups in newer versions, and back-off."""

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

SLOW = 0.5  # seconds of pause after the first "slow down" of a store; each further one doubles it
SLOWEST = 8.0
LOG_AFTER = 5.0  # seconds of waiting after which the log says so
LASTING: frozenset[StorageReason] = frozenset({"access-denied", "bucket-missing", "credentials-missing", "unsupported"})


class Group(Struct):
    """Appends of one process that share their commits.

    Attributes:
        target: the table.
        deadline: when the group gives up, by the monotonic clock.
        started: when it began.
        waiting: digest of append id -> the appends without a result yet.
        bases: digest of append id -> a version up to which the id is known to be unrecorded.
        results: digest of append id -> the result.
        staged: digest of append id -> the staged object.
        sent: a request was sent that may commit the appends, now or later.
        tried: a commit was tried.
        throttled: seconds for which an overloaded store is left alone; 0 where it is not overloaded.
        behind: the last look found a newer version, so the next one reads on until none is newer.
        unlisted: versions of other committers since the queue was listed.
        logged: the log says that the group waits.
        cause: the last failure after a request was sent.
        vanished: the table is gone, with a version that was committed.
        state: the newest version known; None before the first look.
    """

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
    logged: bool = False
    cause: DataShardError | None = None
    vanished: bool = False
    state: TableState | None = None

    @property
    def lowest_base(self) -> int:
        """The version up to which no id of the group has to be looked up."""
        return min((-1 if item.base is None else item.base for item in self.waiting.values()), default=-1)

    def base_of(self, item: Append) -> int:
        """The base for a retry: the newest one found, else the caller's own; -1 if there is none."""
        return self.bases.get(item.id, -1 if item.base is None else item.base)

    @property
    def known(self) -> TableState:
        """The newest version known, after the first look at the table."""
        assert self.state is not None
        return self.state


class GaveUpError(DataShardError):
    """The deadline passed, or the store fails permanently, after a request was sent."""

    def __init__(self, cause: DataShardError | None) -> None:
        super().__init__(str(cause))
        self.cause = cause


async def read_on(group: Group, *, whole: bool = True) -> bool:
    """Read newer versions and look up the group's ids in each of them; return whether there was any."""
    state, items = group.known, dict(group.waiting)
    found = await (find_current if whole else read_next)(group.target.root, state.body)
    if found is None or found.newest.version == state.body.version:
        return False
    if found.newest.state == "table" or found.newest.uuid != group.target.uuid:
        require_live(found, state, group.target)  # neither a table made again nor a drop says anything of the ids
    try:
        recorded = await look_up(
            frozenset(group.waiting),
            found.newest,
            above=min(group.bases.values(), default=state.body.version),
            bodies=found.bodies,
            history=group.target.history,
        )
    except CorruptTableError:
        # A purge removes the history of a dropped table, and tombstones replace old versions.
        newer = await newest(group.target, require_live(found, state, group.target))
        if newer.body.version == found.newest.version:
            raise
        return await read_on(group)
    await finish_recorded(group, recorded, found, before=False)
    group.bases = dict.fromkeys(group.waiting, found.newest.version)  # unrecorded up to here
    if group.waiting or found.newest.state == "table":
        group.state = require_live(found, state, group.target)
    if not group.waiting and group.tried and found.newest.state == "table":
        # The version may be this group's own try, so that no other process moves the hint.
        await follow_with_hint(group, items, state.body.version)
    return True


async def follow_with_hint(group: Group, items: Mapping[str, Append], parent: int) -> None:
    """Move the hint to the newest version known, after appends were found in versions up to it.

    Args:
        group: the appends.
        items: the appends that were found to be committed.
        parent: a version that was known before.
    """
    known = group.known
    try:
        hint = await move_hint(known.body.version, known.hint, group.target.root, parent=parent)
        group.state = replace(known, hint=hint)
    except VanishedTableError as error:
        doubt(group, items, error)


def doubt(group: Group, items: Mapping[str, Append], error: VanishedTableError) -> None:
    """Withdraw the results of committed appends: the versions below the one that records them are gone."""
    group.vanished = True
    for own, item in items.items():
        if isinstance(group.results.get(own), Committed):
            group.results[own] = unknown(group.target, item, group.base_of(item), error)


async def finish_recorded(group: Group, recorded: Mapping[str, RecordedOutcome], found: Found, *, before: bool) -> None:
    """Set the results of appends that versions record: committed (by any process), refused, or in conflict."""
    for own, outcome in recorded.items():
        item = group.waiting.get(own)
        if item is None:
            continue
        if isinstance(outcome.record, Refusal):
            if before and (item.base is None or outcome.version <= item.base):
                continue  # a refused id may be appended again; a call with a base asks for the outcome of the first try
            group.results[own] = refusal_of(group.target, item, outcome)
        elif item.digest and outcome.record and outcome.record != item.digest:
            group.results[own] = conflict(group.target, item, outcome)
        else:
            snapshot_id = await _snapshot_of(group, outcome.version, found)
            group.results[own] = Committed(outcome.version, snapshot_id, already_appended=before)
        del group.waiting[own]


async def _snapshot_of(group: Group, version: int, found: Found) -> int | None:
    """The snapshot of a version that records an append; None if it cannot be read now, which changes no outcome."""
    body: VersionFile | None = found.bodies.get(version)
    if body is None:
        try:
            body = await read_version(group.target.root, version)
        except (StorageError, CorruptTableError) as error:
            log.info("table %s: the snapshot of version %d could not be read: %s", group.target.name, version, error)
            return None
    return body.metadata.current_snapshot_id if body.metadata is not None else None


def raise_if_permanent(group: Group, error: StorageError) -> None:
    """Raise an error that waiting cannot solve, and any error before a request was sent.

    Overload of the store is waited out in any case.
    """
    if isinstance(error, BrokenChainError):
        raise error
    if not group.sent and error.reason != "throttled":
        raise error
    group.cause = error
    if error.reason in LASTING:
        raise GaveUpError(error) from error


async def back_off(group: Group, error: StorageError) -> None:
    """Pause after a failure; an overloaded store gets a longer pause each time."""
    raise_if_permanent(group, error)
    fraction, now = await gather(Random(), Now())
    check_deadline(group, now)
    if error.reason == "throttled":
        group.throttled = min(max(SLOW, 2 * group.throttled), SLOWEST)
    log_waiting(group, now)
    pause = (0.5 + fraction) * max(group.throttled, 0.3)
    await Sleep(min(pause, group.deadline - now.monotonic))


def check_deadline(group: Group, now: Instant) -> None:
    """Raise the error of a deadline that has passed."""
    if now.monotonic <= group.deadline:
        return
    if group.sent:
        raise GaveUpError(group.cause)
    raise CommitTimeoutError(
        f"table {group.target.name}: the deadline passed before a commit was sent. Nothing was appended; call "
        "again, with a longer timeout if the store is slow."
    )


def log_waiting(group: Group, now: Instant, position: str = "") -> None:
    """Log once that the appends wait, after some seconds."""
    waited = now.monotonic - group.started
    if waited > LOG_AFTER and not group.logged:
        group.logged = True
        log.info(
            "table %s: waiting for %.0f s for a commit to include %d append(s) (%s%s)",
            group.target.name,
            waited,
            len(group.waiting),
            position,
            group.cause or "no error so far",
        )
