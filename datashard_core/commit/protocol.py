"""Appends become versions: the commit, without I/O.

Generators that yield storage requests and receive their outcomes (see
:mod:`datashard_core.storage.requests`). The rules, and the failures that each prevents, are in
``docs/design/commit-protocol.md``. In short:

* the commit point is the creation of ``v{N+1}.metadata.json``, on condition that it is absent;
* "taken" may mean taken by us, and an unknown outcome may land later: whoever meets either reads on
  and looks for its own id in every newer version, before it tries again under the same id;
* nothing is ever deleted on a guess: not on an error, not on an interrupt.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace

from datashard_core.commit.history import Named, look_up
from datashard_core.commit.paths import key_of
from datashard_core.commit.pointer import Found, Hint, find_current, move_hint
from datashard_core.commit.updates import (
    NewManifest,
    NextVersion,
    append_version,
    check_schema_still_fits,
    new_manifest,
)
from datashard_core.commit.version import VersionBody, parse_version, version_key
from datashard_core.errors import (
    AppendIdConflictError,
    AppendRefusedError,
    CommitStateUnknownError,
    CommitTimeoutError,
    ConfigurationError,
    DataShardError,
    NoSuchTableError,
    StorageError,
)
from datashard_core.format.data_file import DataFile
from datashard_core.format.manifest import ManifestFile, decode_manifest_list
from datashard_core.format.schema import Schema
from datashard_core.format.snapshot import Snapshot
from datashard_core.storage.base import OutcomeUnknownError, PreconditionFailedError
from datashard_core.storage.requests import (
    Batch,
    Get,
    Instant,
    Now,
    Put,
    PutIfAbsent,
    Random,
    Sleep,
    Steps,
    Unique,
    ask,
    each,
    together,
    value,
)

MAX_WAIT = 1.0  # seconds between two tries, at most
FIRST_WAIT = 0.05


@dataclass(frozen=True, slots=True)
class Seen:
    """The newest version that this process knows, with what was read along with it.

    Attributes:
        body: the version.
        manifests: the manifest list of its current snapshot; None if it was not read yet.
        hint: the hint as last read or written.
    """

    body: VersionBody
    manifests: tuple[ManifestFile, ...] | None = None
    hint: Hint | None = None


@dataclass(frozen=True, slots=True)
class Target:
    """The table that a commit is meant for.

    Attributes:
        root: URI of its root.
        name: its name, for messages.
        uuid: its identity; a table made again under the same name has another.
    """

    root: str
    name: str
    uuid: str


@dataclass(frozen=True, slots=True)
class Append:
    """Rows on their way into a table.

    Attributes:
        append_id: the id as the caller gave it, or as the library made it.
        id: its digest, by which versions name it.
        digest: digest of the rows, or :data:`~datashard_core.commit.names.LIBRARY_MADE`.
        uploads: requests that write the data files (empty if they are written already).
        files: the data files.
        schema: the schema that they were written with.
        base: a version up to which the id is known to be unnamed; None: look it up.
    """

    append_id: str
    id: str
    digest: str
    uploads: Batch
    files: tuple[DataFile, ...]
    schema: Schema
    base: int | None


@dataclass(frozen=True, slots=True)
class Committed:
    """Where an append ended up.

    Attributes:
        seen: the newest version now known.
        version: the version that holds the rows.
        snapshot_id: its snapshot (None where that version's body is no longer kept).
        already_appended: the id was in the table before this call.
    """

    seen: Seen
    version: int
    snapshot_id: int | None
    already_appended: bool


@dataclass(slots=True)
class _Try:
    """What one append knows while it is being tried."""

    work: Append
    target: Target
    deadline: float
    base: int = -1
    manifest: NewManifest | None = None
    manifest_written: bool = False
    sent: bool = False
    tries: int = 0
    last_error: DataShardError | None = field(default=None)


def append(work: Append, target: Target, seen: Seen | None, timeout: float) -> Steps[Committed]:
    """Append data files to a table: exactly once, or an error that says what is known.

    Args:
        work: the append.
        target: the table.
        seen: the newest version known to this process; None in a fresh one.
        timeout: seconds until it gives up.

    Raises:
        AppendIdConflictError: the id is in the table with other rows.
        AppendRefusedError: a committed version refuses the id.
        CommitStateUnknownError: something was sent, and its outcome could not be learnt.
        CommitTimeoutError: nothing was sent before the deadline.
        NoSuchTableError: the table was dropped meanwhile.
        StorageError: the store failed before anything was sent that could commit.
    """
    now: Instant = yield from ask(Now())
    attempt = _Try(work, target, deadline=now.monotonic + timeout)
    found, _ = yield from together(
        find_current(target.root, seen.body if seen is not None else None), each(work.uploads)
    )
    state = settle(found, seen, target)
    assert found is not None  # settle has refused an absent table
    if work.base is not None and work.base > state.body.version:
        raise ConfigurationError(
            f"table {target.name}: base={work.base} is above the newest version, {state.body.version}. Pass the base "
            "that CommitStateUnknownError carried, or none."
        )
    earlier = yield from _look_up_own(attempt, found, above=-1 if work.base is None else work.base)
    if earlier is not None and earlier.committed:
        return (yield from _already(attempt, state, earlier, found, before=True))
    attempt.base = state.body.version
    while True:
        prepared = yield from _prepare(attempt, state)
        try:
            done = yield from _commit(attempt, state, prepared)
            if done is not None:
                return done
            found, state, earlier = yield from _read_on(attempt, state)
        except StorageError as error:
            if attempt.sent:
                raise _unknown(attempt, error) from error
            raise
        if earlier is not None and earlier.committed:
            return (yield from _already(attempt, state, earlier, found, before=False))
        if earlier is not None:
            raise AppendRefusedError(
                f"table {target.name}: version {earlier.version} refuses append {work.append_id!r}: {earlier.record}"
            )
        yield from _pause(attempt)


def settle(found: Found | None, seen: Seen | None, target: Target) -> Seen:
    """The newest version as a state to build on, or the error that there is no such table."""
    if found is None:
        raise NoSuchTableError(f"there is no table {target.name} at {target.root}: create it first")
    newest = found.newest
    if newest.state == "dropped":
        raise NoSuchTableError(
            f"table {target.name} at {target.root} was dropped in version {newest.version}"
        )
    if target.uuid and newest.table.table_uuid != target.uuid:
        raise NoSuchTableError(
            f"table {target.name} at {target.root} was dropped and made again (its uuid was {target.uuid}, and is "
            f"{newest.table.table_uuid} now). Nothing was appended: load the table again."
        )
    if seen is not None and seen.body.version == newest.version:
        return replace(seen, hint=found.hint or seen.hint)
    return Seen(newest, None, found.hint or (seen.hint if seen is not None else None))


def manifests_of(root: str, location: str, snapshot: Snapshot | None) -> Steps[tuple[ManifestFile, ...]]:
    """The manifest list of a snapshot; empty for a table that has none."""
    if snapshot is None:
        return ()
    stored = yield from ask(Get(key_of(snapshot.manifest_list, location, root)))
    return tuple(decode_manifest_list(stored.body))


def _look_up_own(attempt: _Try, found: Found, above: int) -> Steps[Named | None]:
    """What the versions after ``above`` say of the append's id. Free where nothing is in between."""
    own = attempt.work.id
    words = yield from look_up(
        frozenset({own}), found.newest, above=above, bodies=found.bodies, root=attempt.target.root
    )
    return words.get(own)


def _prepare(attempt: _Try, state: Seen) -> Steps[tuple[Seen, NextVersion]]:
    """Write what the next version needs: the manifest once, a manifest list for this parent."""
    work, table = attempt.work, state.body.table
    check_schema_still_fits(work.schema, table.schema, attempt.target.name)
    manifests = state.manifests
    if manifests is None:
        manifests = yield from manifests_of(attempt.target.root, table.location, table.current_snapshot)
        state = replace(state, manifests=manifests)
    now, unique, fresh = yield from each((Now(), Unique(), Unique()))
    if attempt.manifest is None:
        attempt.manifest = new_manifest(unique, table, work.files, work.schema)
    prepared = append_version(
        state.body,
        manifests,
        attempt.manifest,
        commit_id=work.id,
        names={work.id: work.digest},
        unique=fresh,
        now_ms=now.wall_ms,
        root=attempt.target.root,
    )
    puts = [Put(prepared.manifest_list_key, prepared.manifest_list)]
    if not attempt.manifest_written:
        puts.append(Put(attempt.manifest.key, attempt.manifest.data))
    yield from each(puts)
    attempt.manifest_written = True
    return state, prepared


def _commit(attempt: _Try, state: Seen, prepared: tuple[Seen, NextVersion]) -> Steps[Committed | None]:
    """The commit point. None: taken, or unknown, and the history has to say which."""
    built_on, following = prepared
    now: Instant = yield from ask(Now())
    if now.monotonic > attempt.deadline:
        raise _late(attempt)
    outcomes = yield (PutIfAbsent(version_key(following.version), following.data),)
    attempt.tries += 1
    if isinstance(outcomes[0], (PreconditionFailedError, OutcomeUnknownError)):
        attempt.sent = True
        attempt.last_error = outcomes[0]
        return None
    value(outcomes[0])
    hint = yield from move_hint(following.version, built_on.hint, attempt.target.root)
    seen = Seen(following.body, following.manifests, hint)
    return Committed(seen, following.version, following.snapshot_id, already_appended=False)


def _read_on(attempt: _Try, state: Seen) -> Steps[tuple[Found, Seen, Named | None]]:
    """After a lost race or an unknown outcome: the newest version, and whether it holds our id."""
    found = yield from find_current(attempt.target.root, state.body)
    if found is None:  # the version seen before is gone: never taken for an empty table
        raise StorageError(f"{attempt.target.root}: version {state.body.version} disappeared", reason="other")
    earlier = yield from _look_up_own(attempt, found, above=attempt.base)
    if earlier is None:
        return found, settle(found, state, attempt.target), None
    live = found.newest.state == "table"
    return found, (settle(found, state, attempt.target) if live else Seen(found.newest)), earlier


def _already(attempt: _Try, state: Seen, earlier: Named, found: Found, *, before: bool) -> Steps[Committed]:
    """The id is in the table: by an earlier call (``before``), or by this one after all."""
    work = attempt.work
    if work.digest and earlier.record and earlier.record != work.digest:
        raise AppendIdConflictError(
            f"table {attempt.target.name}: append id {work.append_id!r} was committed in version {earlier.version} "
            f"with other rows (digest {earlier.record} there, {work.digest} now). Nothing was appended. If these "
            "rows are meant to be appended as well, give them another append_id; if the first were wrong, delete "
            "them and append under a new id.",
            append_id=work.append_id,
            version=earlier.version,
            committed_digest=str(earlier.record),
            given_digest=work.digest,
        )
    body = found.bodies.get(earlier.version)
    if body is None:
        body = yield from read_version(attempt.target.root, earlier.version)
    hint = state.hint
    if not before:
        hint = yield from move_hint(state.body.version, state.hint, attempt.target.root)
    snapshot_id = body.metadata.current_snapshot_id if body.metadata is not None else None
    return Committed(replace(state, hint=hint), earlier.version, snapshot_id, already_appended=before)


def read_version(root: str, version: int) -> Steps[VersionBody]:
    """One version by its number."""
    stored = yield from ask(Get(version_key(version)))
    return parse_version(stored.body, version, f"{root}/{version_key(version)}")


def _pause(attempt: _Try) -> Steps[None]:
    """Wait a random while, longer after each lost race, so that writers spread out."""
    fraction, now = yield from each((Random(), Now()))
    if now.monotonic > attempt.deadline:
        raise _late(attempt)
    yield from ask(Sleep(fraction * min(MAX_WAIT, FIRST_WAIT * 2 ** min(attempt.tries, 10))))


def _late(attempt: _Try) -> DataShardError:
    if attempt.sent:
        return _unknown(attempt, attempt.last_error)
    return CommitTimeoutError(
        f"table {attempt.target.name}: the deadline passed before anything was sent. Nothing was appended; "
        "call again, with a longer timeout if the store is slow."
    )


def _unknown(attempt: _Try, cause: DataShardError | None) -> CommitStateUnknownError:
    work, target = attempt.work, attempt.target
    return CommitStateUnknownError(
        f"table {target.name} at {target.root}: after {attempt.tries} tries it is not known whether append "
        f"{work.append_id!r} is in the table ({cause}). Nothing was cleaned up. Call append again with the same "
        f"rows, append_id={work.append_id!r} and base={attempt.base}: they end up in the table exactly once.",
        append_id=work.append_id,
        base=attempt.base,
        table=target.root,
    )
