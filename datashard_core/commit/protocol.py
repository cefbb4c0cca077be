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
import math
from collections.abc import Mapping, Sequence

from msgspec import Struct, field
from msgspec.structs import replace

from datashard_core.commit.carry import Draft, Outcome, commit, create, draft_alone
from datashard_core.commit.fold import said_of
from datashard_core.commit.history import Named
from datashard_core.commit.lead import finish
from datashard_core.commit.lookup import look_up
from datashard_core.commit.names import Refusal
from datashard_core.commit.pointer import Found, find_current, move_hint, read_next
from datashard_core.commit.staging import PREFIX, StagedBody, StagedName, encode_body, parse_listed
from datashard_core.commit.state import Append, Committed, Seen, Target, is_hot, read_version, settle
from datashard_core.commit.version import VersionBody
from datashard_core.errors import (
    AppendIdConflictError,
    AppendRefusedError,
    CommitStateUnknownError,
    CommitTimeoutError,
    ConfigurationError,
    CorruptTableError,
    DataShardError,
    NoSuchTableError,
    StorageError,
    StorageReason,
)
from datashard_core.storage.base import ObjectInfo, ObjectNotFoundError
from datashard_core.storage.requests import (
    Beside,
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
    rest,
    together,
    with_beside,
)

log = logging.getLogger(__name__)

BEFORE_FIRST_LISTING = 0.1  # seconds: others that arrive in this while are seen by one listing
SHORTEST_LOOK = 0.1  # seconds between two looks for the next version
WRITERS_PER_SECOND = 2000  # the longer the line, the rarer the looks
PATIENCE = 0.5  # seconds without a new version after which the second in line commits
LIST_AFTER = 4  # versions that came without us before we look whether our object is still there
CROWD = 8  # appends that wait: a newcomer gets in line instead of racing them
SLOW = 0.5  # seconds that a store is left alone after its first "slow down"; doubled by each further one
SLOWEST = 8.0
SAY_AFTER = 5.0  # seconds of waiting before the log says what for
LASTING: frozenset[StorageReason] = frozenset({"access-denied", "bucket-missing", "credentials-missing", "unsupported"})

Result = Committed | DataShardError


class _Group(Struct):
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
    state: Seen | None = None

    @property
    def lowest_base(self) -> int:
        """The version up to which nothing has to be looked up, whichever append asks."""
        return min((-1 if item.base is None else item.base for item in self.waiting.values()), default=-1)

    @property
    def known(self) -> Seen:
        """The newest version known; there is one as soon as the group has arrived."""
        assert self.state is not None
        return self.state


class _GaveUpError(DataShardError):
    """The deadline passed, or the store will not serve us, after something was sent."""

    def __init__(self, cause: DataShardError | None) -> None:
        super().__init__(str(cause))
        self.cause = cause


def append(
    appends: Sequence[Append], target: Target, seen: Seen | None, timeout: float
) -> Steps[tuple[dict[str, Result], Seen | None]]:
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
    now: Instant = yield from ask(Now())
    group = _Group(
        target,
        deadline=now.monotonic + timeout,
        started=now.monotonic,
        waiting={item.id: item for item in appends},
        bases={},
        state=seen,
    )
    try:
        yield from _append(group, seen, now)
    except _GaveUpError as gave_up:
        for own, item in group.waiting.items():
            group.results[own] = _unknown(group, item, gave_up.cause)
    except DataShardError as error:
        for own, item in group.waiting.items():
            # Once anything was sent, nothing is reported as failed: it could show up later. Rows
            # of a table that is gone cannot.
            known = not group.sent or isinstance(error, NoSuchTableError)
            group.results[own] = error if known else _unknown(group, item, error)
    return group.results, group.state


def _append(group: _Group, seen: Seen | None, now: Instant) -> Steps[None]:
    hot = seen is not None and is_hot(seen.body, now.wall_ms)
    draft: Beside[Draft] | None = None
    if seen is not None and hot and _based_by(group, seen.body.version):
        # Many are writing: whoever reads and lists first only loses the race later.
        yield from _enter(group, seen, Found(seen.body, {seen.body.version: seen.body}))
    else:
        if seen is not None and not seen.contested:
            # Most tables are quiet: the files are on their way while we look whether this one is.
            draft = Beside(draft_alone(group.target, seen, dict(group.waiting)))
        expected = frozenset(group.waiting)
        listed = yield from with_beside(_arrive(group, seen), *([draft] if draft is not None else []))
        if not group.waiting:
            return
        alone = seen is not None and group.known.body.version == seen.body.version and not listed
        group.state = replace(group.known, contested=not alone)
        if not alone or frozenset(group.waiting) != expected:
            draft = None  # its files stay, named by nothing
        now = yield from ask(Now())
        crowded = len([name for name in listed if name.kind == "w"]) > CROWD
        if not (crowded or is_hot(group.known.body, now.wall_ms)):
            yield from _try(group, listed, draft)
    if group.waiting:
        yield from _stage(group)
        yield from ask(Sleep(BEFORE_FIRST_LISTING))
    while group.waiting:
        yield from _in_line(group)


def _based_by(group: _Group, version: int) -> bool:
    """Whether nothing has to be read to know that no append of the group is named up to a version.

    Threads share their commits, each with a table object of its own: one may have seen a newer
    version than the one that leads.
    """
    return all(item.base is not None and item.base <= version for item in group.waiting.values())


def _arrive(group: _Group, seen: Seen | None) -> Steps[list[StagedName]]:
    """Read the newest version and the line, and look the callers' ids up, all beside each other."""
    found, page, words = yield from together(
        find_current(group.target.root, seen.body if seen is not None else None),
        _first_page(),
        _words_early(group, seen),
    )
    state = settle(found, seen, group.target)
    yield from _enter(group, state, found, seen if words is not None else None, words)
    return parse_listed(page)


def _words_early(group: _Group, seen: Seen | None) -> Steps[dict[str, Named] | None]:
    """What is said of the ids up to the version last seen; None where that can only be asked of a newer one."""
    try:
        return (yield from _words(group, seen, group.lowest_base))
    except CorruptTableError:
        return None  # whoever slept may find its versions purged, or replaced by tombstones


def _words(group: _Group, state: Seen | None, above: int, found: Found | None = None) -> Steps[dict[str, Named]]:
    """What versions above one say of the group's ids, up to one that is known."""
    if state is None:
        return {}
    return (
        yield from look_up(
            frozenset(group.waiting),
            state.body,
            above=above,
            bodies=found.bodies if found is not None else {},
            history=group.target.history,
        )
    )


def _enter(
    group: _Group, state: Seen, found: Found, earlier: Seen | None = None, words: Mapping[str, Named] | None = None
) -> Steps[None]:
    """Base of every append: the newest version known, once the ids are known to be unnamed up to it.

    Args:
        group: the appends.
        state: the newest version.
        found: what was read on the way to it.
        earlier: a version that the ids were looked up to already.
        words: and what was found.
    """
    newest = state.body.version
    group.state = state
    for own, item in list(group.waiting.items()):
        if item.base is not None and item.base > newest:
            group.results[own] = ConfigurationError(
                f"table {group.target.name}: base={item.base} is above the newest version, {newest}. Pass the base "
                "that CommitStateUnknownError carried, or none."
            )
            del group.waiting[own]
    above = group.lowest_base if earlier is None else max(group.lowest_base, earlier.body.version)
    later = yield from _words(group, state, above, found)
    yield from _finish_named(group, {**(words or {}), **later}, found, before=True)
    group.bases = dict.fromkeys(group.waiting, newest)


def _first_page() -> Steps[list[ObjectInfo]]:
    page: list[ObjectInfo] = yield from ask(ListPage(PREFIX))
    return page


def _try(group: _Group, listed: Sequence[StagedName], draft: Beside[Draft] | None = None) -> Steps[None]:
    """Commit once, by a draft if there is one; whoever loses reads on, and finds itself carried or not."""
    _check_deadline(group, (yield from ask(Now())))
    try:
        group.tried = True
        staged = tuple(group.staged.values())
        outcome = (yield from _by_draft(group, draft)) if draft is not None else None
        if outcome is None:
            outcome = yield from commit(group.target, group.known, listed, group.waiting, staged, leads=True)
        if outcome.created is not None:
            _all_committed(group, outcome.created)
            group.state = yield from finish(group.target, outcome, group.deadline)
            return
        if outcome.cause is not None:
            group.sent = True
            group.cause = outcome.cause
        yield from _read_on(group)
    except (StorageError, CorruptTableError) as error:
        yield from _after_failure(group, error)


def _after_failure(group: _Group, error: StorageError | CorruptTableError) -> Steps[None]:
    """What is gone or cannot be read may have been expired under a sleeper, who starts over; else it is an error."""
    try:
        if isinstance(error, (ObjectNotFoundError, CorruptTableError)) and (yield from _read_on(group)):
            return
    except StorageError as failed:
        error = failed
    if isinstance(error, CorruptTableError):
        raise error
    yield from _breathe(group, error)


def _by_draft(group: _Group, draft: Beside[Draft]) -> Steps[Outcome | None]:
    """Create the version that was drafted; None if its files could not be written."""
    yield from rest(draft)
    if isinstance(draft.outcome, Draft):
        return (yield from create(group.target, draft.outcome, ()))
    log.info("table %s: its files are written again: %s", group.target.name, draft.outcome)
    return None


def _all_committed(group: _Group, created: Seen) -> None:
    snapshot_id = created.body.table.current_snapshot_id
    for own in group.waiting:
        group.results[own] = Committed(created.body.version, snapshot_id, already_appended=False)
    group.waiting.clear()
    group.state = created


def _look(group: _Group) -> Steps[bool]:
    """Look for the next version as one of those who wait: one read, more once we have fallen behind."""
    newer: bool = yield from _read_on(group, whole=group.behind)
    group.behind = newer
    return newer


def _read_on(group: _Group, *, whole: bool = True) -> Steps[bool]:
    """Look for newer versions, and for our ids in every one of them; whether there was any."""
    state = group.known
    found = yield from (find_current if whole else read_next)(group.target.root, state.body)
    if found is None or found.newest.version == state.body.version:
        return False
    if found.newest.state == "table":
        settle(found, state, group.target)  # the history of a table made again says nothing of ours
    try:
        words = yield from look_up(
            frozenset(group.waiting),
            found.newest,
            above=min(group.bases.values(), default=state.body.version),
            bodies=found.bodies,
            history=group.target.history,
        )
    except CorruptTableError:
        settle(found, state, group.target)  # a purge may have taken the history of a dropped table
        raise
    yield from _finish_named(group, words, found, before=False)
    group.bases = dict.fromkeys(group.waiting, found.newest.version)  # unnamed up to here
    if group.waiting or found.newest.state == "table":
        group.state = settle(found, state, group.target)
    if not group.waiting and group.tried and found.newest.state == "table":
        # It may have been our own try that landed, with nobody to move the hint after it.
        hint = yield from move_hint(found.newest.version, group.known.hint, group.target.root)
        group.state = replace(group.known, hint=hint)
    return True


def _stage(group: _Group) -> Steps[None]:
    """Put the rows beside the table, for the next commit to carry, whoever makes it."""
    missing = [own for own in group.waiting if own not in group.staged]
    nonces = yield [Unique() for _ in missing]
    names, puts = [], []
    for own, nonce in zip(missing, nonces, strict=True):
        name = StagedName(group.bases[own], "w", own, nonce)
        names.append(name)
        puts.append(Put(name.key, encode_body(body_of(group.waiting[own], group.known))))
    outcomes = yield puts
    for own, name, outcome in zip(missing, names, outcomes, strict=True):
        if not isinstance(outcome, StorageError) or outcome.reason not in LASTING:
            # A failed one may have landed all the same: the next listing tells, and whatever lies
            # there under our id counts once.
            group.sent = True
            group.staged[own] = name
    for outcome in outcomes:
        if isinstance(outcome, StorageError):
            _endure(group, outcome)


def body_of(item: Append, state: Seen) -> StagedBody:
    """What is staged of an append."""
    return StagedBody(
        table=state.body.table.table_uuid,
        append_id=item.append_id,
        digest=item.digest,
        schema_id=item.schema.schema_id,
        rows=item.rows,
        files=item.files,
    )


def _in_line(group: _Group) -> Steps[None]:
    """One stay in line: wait to be carried, or list, find one's place, and wait or commit."""
    newest = group.known.body
    turn = newest.next
    if turn and turn not in group.waiting and group.unlisted < LIST_AFTER:
        group.unlisted += 1
        if (yield from _watch(group, newest.line, PATIENCE)):
            return
    group.unlisted = 0
    try:
        page = yield from _first_page()
        listed = parse_listed(page)
        if _is_gone(group, page, listed):
            # Judged on a version read after the listing: whoever deleted it had to name it first.
            yield from _read_on(group)
            if group.waiting:
                yield from _stage_again(group, listed)
            return
        rank = 0 if turn in group.waiting else (yield from _rank(group, listed))
    except StorageError as error:
        yield from _breathe(group, error)
        return
    if rank == 0 or not (yield from _watch(group, rank, PATIENCE * math.log2(1 + rank))):
        yield from _try(group, listed)


def _is_gone(group: _Group, page: Sequence[ObjectInfo], listed: Sequence[StagedName]) -> bool:
    """Whether a staged object of ours would be on the listed page, and is not."""
    there = {name.key for name in listed}
    last = page[-1].key if len(page) == ListPage(PREFIX).limit else None
    return any(
        name.key not in there and (last is None or name.key < last)
        for own, name in group.staged.items()
        if own in group.waiting
    )


def _stage_again(group: _Group, listed: Sequence[StagedName]) -> Steps[None]:
    """Our object is gone and no version names us: same id, new nonce, newer base."""
    there = {name.key for name in listed}
    for own in list(group.waiting):
        if group.staged[own].key not in there:
            del group.staged[own]
            group.bases[own] = group.known.body.version
    yield from _stage(group)


def _rank(group: _Group, listed: Sequence[StagedName]) -> Steps[int]:
    """How many wait before the first of ours; names already committed, or that nobody can judge, hold no place."""
    mine = min(group.staged[own] for own in group.waiting)
    before = [name for name in listed if name.kind == "w" and name < mine and name.id not in group.waiting]
    known, words = yield from said_of(group.target, group.known.body, before)
    ahead = [name for name in before if name.base > group.known.body.version]
    return len(ahead) + sum(1 for name in known if not (name.id in words and words[name.id].version > name.base))


def _watch(group: _Group, line: int, patience: float) -> Steps[bool]:
    """Look for new versions for as long as the place in line demands; whether one came."""
    begun: Instant = yield from ask(Now())
    while True:
        fraction: float = yield from ask(Random())
        pause = max(SHORTEST_LOOK, line / WRITERS_PER_SECOND, group.throttled)
        yield from ask(Sleep(pause * (0.75 + 0.5 * fraction)))
        try:
            if (yield from _look(group)):
                return True
            group.throttled /= 2
        except StorageError as error:
            yield from _breathe(group, error)
        now: Instant = yield from ask(Now())
        _check_deadline(group, now)
        _say(group, now, f"{line} in line before them; ")
        if now.monotonic - begun.monotonic > patience:
            return False


def _finish_named(group: _Group, words: Mapping[str, Named], found: Found, *, before: bool) -> Steps[None]:
    """Appends that the history names are over: committed (by whomever), refused, or in conflict."""
    for own, word in words.items():
        item = group.waiting.get(own)
        if item is None:
            continue
        if isinstance(word.record, Refusal):
            if before and (item.base is None or word.version <= item.base):
                continue  # a refused id may be tried again; with a base, the caller asks what became of it
            group.results[own] = refusal_of(group.target, item, word)
        elif item.digest and word.record and word.record != item.digest:
            group.results[own] = conflict(group.target, item, word)
        else:
            body: VersionBody | None = found.bodies.get(word.version)
            if body is None:
                body = yield from read_version(group.target.root, word.version)
            snapshot_id = body.metadata.current_snapshot_id if body.metadata is not None else None
            group.results[own] = Committed(word.version, snapshot_id, already_appended=before)
        del group.waiting[own]


def refusal_of(target: Target, item: Append, word: Named) -> AppendRefusedError:
    """The failure that a committed version speaks of."""
    assert isinstance(word.record, Refusal)
    return AppendRefusedError(
        f"table {target.name}: version {word.version} refuses append {item.append_id!r}: {word.record.reason}. "
        "Nothing of it is in the table; mend it and append again."
    )


def conflict(target: Target, item: Append, word: Named) -> AppendIdConflictError:
    """The same id with other rows: an error that shows both, never a silent skip."""
    return AppendIdConflictError(
        f"table {target.name}: append id {item.append_id!r} was committed in version {word.version} with other rows "
        f"(digest {word.record} there, {item.digest} now). Nothing was appended. If these rows are meant to be "
        "appended as well, give them another append_id; if the first were wrong, delete them and append under a "
        "new id.",
        append_id=item.append_id,
        version=word.version,
        committed_digest=str(word.record),
        given_digest=item.digest,
    )


def _endure(group: _Group, error: StorageError) -> None:
    """Once something was sent, a passing failure of the store is waited out; else it is the answer.

    A store that is overloaded is waited for in any case.
    """
    if not group.sent and error.reason != "throttled":
        raise error
    group.cause = error
    if error.reason in LASTING:
        raise _GaveUpError(error) from error


def _breathe(group: _Group, error: StorageError) -> Steps[None]:
    """Wait out a failure; a store that says it is overloaded is left alone for longer each time."""
    _endure(group, error)
    fraction, now = yield from each((Random(), Now()))
    _check_deadline(group, now)
    if error.reason == "throttled":
        group.throttled = min(max(SLOW, 2 * group.throttled), SLOWEST)
    _say(group, now)
    pause = (0.5 + fraction) * (group.throttled or 0.3)
    yield from ask(Sleep(min(pause, group.deadline - now.monotonic)))


def _check_deadline(group: _Group, now: Instant) -> None:
    if now.monotonic <= group.deadline:
        return
    if group.sent:
        raise _GaveUpError(group.cause)
    raise CommitTimeoutError(
        f"table {group.target.name}: the deadline passed before anything was sent. Nothing was appended; call "
        "again, with a longer timeout if the store is slow."
    )


def _say(group: _Group, now: Instant, line: str = "") -> None:
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


def _unknown(group: _Group, item: Append, cause: DataShardError | None) -> CommitStateUnknownError:
    base = group.bases.get(item.id, -1)
    return CommitStateUnknownError(
        f"table {group.target.name} at {group.target.root}: it is not known whether append {item.append_id!r} is, or "
        f"will be, in the table ({cause or 'no answer in time'}). Nothing was cleaned up. Call append again with the "
        f"same rows, append_id={item.append_id!r} and base={base}: they end up in the table exactly once.",
        append_id=item.append_id,
        base=base,
        table=group.target.root,
    )
