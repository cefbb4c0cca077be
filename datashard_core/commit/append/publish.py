"""From what a version is to carry to the version: its files, the conditional put, and what follows.

While the files and the version are on their way, the committer looks who has staged meanwhile: it
can go on with them at once (:mod:`datashard_core.commit.append.combine`), or say whose turn it is. Nothing is
deleted before the version that names it exists.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from typing import Any

from msgspec import Struct, field
from msgspec.structs import replace

from datashard_core.commit.append.batch import CommitBatch, add_own, add_staged, classify_listed, size_of, within_limits
from datashard_core.commit.append.file_age import ensure_own_recent
from datashard_core.commit.append.manifest_reads import account_for, cache_after, load_manifests, merge_loaded
from datashard_core.commit.append_ids.segment_store import upkeep
from datashard_core.commit.core.current_version import Hint, move_hint, read_hint
from datashard_core.commit.core.manifest_merge import Known
from datashard_core.commit.core.next_version import (
    NewManifest,
    NewSnapshot,
    NextVersion,
    append_snapshot,
    new_manifest,
    next_version,
    with_next,
)
from datashard_core.commit.core.row_accounting import Change
from datashard_core.commit.core.state import Append, TableState, Target
from datashard_core.commit.core.totals import totals_of
from datashard_core.commit.core.version_file import VersionFile, version_key
from datashard_core.commit.staging.key import PREFIX, StagedName, parse_listed
from datashard_core.commit.staging.set_aside import Aside, alive, eligible, worth_a_look
from datashard_core.commit.versions.metadata_expiry import ExpiryPlan, due, look, with_watermark, write_tombstones
from datashard_core.effects.requests import Delete, ListPage, Now, Put, PutData, PutIfAbsent, Request, Unique
from datashard_core.effects.tasks import Task, gather, join, outcomes_of, result_of, start
from datashard_core.errors import DataShardError, StorageError
from datashard_core.format.parquet.parquet import encode_parquet
from datashard_core.format.rows.python_rows import joined_rows
from datashard_core.storage.base import OutcomeUnknownError, PreconditionFailedError

log = logging.getLogger(__name__)

MERGES = 4
"""Files that a commit writes if it merges manifests: data file, two manifests, manifest list."""

PostCommit = Task[Hint | None]
"""What follows a commit and can fail without harm: the hint, spent objects, id nodes."""


class Following(Struct, frozen=True):
    """What the next version can carry, read while the last one was on its way.

    Attributes:
        load: its names and rows.
        spent: staged objects that an earlier version names.
        known: entries of the manifests that it merges.
    """

    load: CommitBatch
    reclaimable: tuple[StagedName, ...]
    known: Known


class CommitOutcome(Struct, frozen=True):
    """How a try to create a version ended.

    Attributes:
        created: the new version; None if that is not known or not so.
        cause: then, what the store answered.
        nothing: there was nothing to commit.
        chores: after ``created``, what is left to do.
        following: appends that the committer can go on with.
        aside: staged objects that were read and set aside, and why.
    """

    created: TableState | None = None
    cause: DataShardError | None = None
    nothing: bool = False
    post_commit: PostCommit | None = None
    following: Following | None = None
    aside: Mapping[StagedName, Aside] = {}


class Draft(Struct, frozen=True):
    """A version whose files are written, and which does not exist yet.

    Attributes:
        parent: the version that it is built on.
        prepared: the version.
        created: what its committer knows once it exists.
        carried: staged objects that it names.
        chores: what was left to do of the commit before.
        hint: the hint, as far as it was to be read.
        beside: what may still go on.
        following: what the committer can go on with.
        swept: what is to be cleared away of old versions.
    """

    parent: VersionFile
    prepared: NextVersion
    created: TableState
    carried: frozenset[StagedName]
    post_commit: PostCommit | None
    hint: Task[Hint | None] | None
    beside: tuple[Task[Any], ...]
    following: Task[Following | None] | None
    expiry: ExpiryPlan | None


class _Waiting(Struct):
    """Who waits while a version is on its way."""

    waiting: list[StagedName] = field(default_factory=list)


async def commit(
    target: Target,
    state: TableState,
    listed: Sequence[StagedName],
    own: Mapping[str, Append],
    staged: Sequence[StagedName] = (),
    *,
    leads: bool = False,
) -> CommitOutcome:
    """Try once to create the version after ``state``.

    Args:
        target: the table.
        state: the version to build on.
        listed: what a listing of ``staging/`` showed.
        own: digest of append id -> the committer's own appends, known to be unnamed up to ``state``.
        staged: the committer's own staged objects, to be deleted once they are named.
        leads: go on with what others stage meanwhile, where others wait.
    """
    own_id = next(iter(own), None)
    root, body = target.root, state.body
    looked = eligible(root, body, listed) if own_id is None else worth_a_look(root, body, listed, own_id)
    judged = await classify_listed(target, body, looked, own)
    chosen = within_limits(judged.allowed, sum(size_of(append) for append in own.values()), len(own))
    load = CommitBatch()
    state, own = await gather(
        add_staged(target, state, chosen, load, judged.others), ensure_own_recent(target, state.body, own)
    )
    for append in own.values():
        add_own(append, state.body, target, load)
    if not load.names:
        await _clean(judged.reclaimable)
        return CommitOutcome(nothing=True, aside=load.aside)
    has_waiters = leads and any(name.kind == "w" and name.id not in own for name in looked)
    reclaimable = (*judged.reclaimable, *staged)
    outcome = await write_and_publish(target, state, load, reclaimable, own_id, has_waiters=has_waiters, leads=leads)
    return replace(outcome, aside=load.aside)


async def write_and_publish(
    target: Target,
    state: TableState,
    load: CommitBatch,
    reclaimable: Sequence[StagedName],
    own_id: str | None = None,
    *,
    has_waiters: bool = False,
    leads: bool = False,
    post_commit: PostCommit | None = None,
) -> CommitOutcome:
    """Write the files of the version after ``state`` and create it.

    Args:
        target: the table.
        state: the version to build on.
        load: what it carries.
        spent: staged objects that a version up to ``state`` names.
        own_id: digest of the commit's own id; None: one is made.
        company: others wait; look who, while the files are on their way.
        leads: and read their rows, to go on with them.
        chores: what is left to do of the commit before.
    """
    draft = await _write(target, state, load, own_id, has_waiters=has_waiters, leads=leads, post_commit=post_commit)
    return await create(target, draft, reclaimable)


async def draft_own(target: Target, state: TableState, own: Mapping[str, Append]) -> Draft:
    """Write the files of the version after ``state`` for own appends alone, before anything was looked at.

    Args:
        target: the table.
        state: the version that is current if nobody else has written since.
        own: digest of append id -> the appends. Whoever creates the version has to know by then that
            they are unnamed up to ``state``.
    """
    load = CommitBatch()
    state, ensure_recent = await gather(load_manifests(target, state), ensure_own_recent(target, state.body, own))
    for append in ensure_recent.values():
        add_own(append, state.body, target, load)
    return await _write(target, state, load, next(iter(own)), has_waiters=False, leads=False, post_commit=None)


async def _write(
    target: Target,
    state: TableState,
    load: CommitBatch,
    own_id: str | None,
    *,
    has_waiters: bool,
    leads: bool,
    post_commit: PostCommit | None,
) -> Draft:
    """Write the files of the version after ``state``; the arguments are those of :func:`carry`."""
    prepared, puts, known = await _prepare(target, state, load, own_id)
    line = _Waiting()
    created = TableState(prepared.body, prepared.manifests, state.hint, known, state.contended)
    following = await start(_follow(target, state, created, load, line, leads)) if has_waiters else None
    hint = await start(read_hint()) if post_commit is None and _is_behind(state) else None
    old = due(state.body) if len(puts) < MERGES else None  # a merge is enough for one commit
    sweep = await start(look(target, state.body, old)) if old is not None else None
    beside = tuple(one for one in (post_commit, following, hint) if one is not None)
    await gather(*puts)
    expiry = await _expiry(target, sweep)
    if expiry is not None:
        prepared = with_watermark(prepared, expiry)
    if line.waiting:
        turn = prepared.commit_id if leads else line.waiting[0].id
        prepared = with_next(prepared, turn, len(line.waiting))
    goes_on = following if line.waiting and leads else None
    return Draft(state.body, prepared, created, frozenset(load.carried), post_commit, hint, beside, goes_on, expiry)


async def create(target: Target, draft: Draft, reclaimable: Sequence[StagedName]) -> CommitOutcome:
    """The conditional put of a version whose files are written.

    Args:
        target: the table.
        draft: the version.
        spent: staged objects that a version up to its parent names.
    """
    prepared = draft.prepared
    outcomes = await outcomes_of((PutIfAbsent(version_key(prepared.version), prepared.data),))
    if isinstance(outcomes[0], (PreconditionFailedError, OutcomeUnknownError)):
        return CommitOutcome(cause=outcomes[0])
    result_of(outcomes[0])
    await join(*draft.beside)
    reached = draft.created.hint.number if draft.created.hint is not None else -1
    hint = _newest_hint(draft.created.hint, draft.post_commit, draft.hint)
    created = replace(draft.created, body=prepared.body, hint=hint)
    named = {*reclaimable, *draft.carried}
    return CommitOutcome(
        created=created,
        post_commit=await start(_post_commit(target, draft.parent, created, named, draft.expiry, reached)),
        following=_usable(draft.following),
    )


async def _prepare(
    target: Target, state: TableState, load: CommitBatch, own_id: str | None
) -> tuple[NextVersion, list[Request[Any]], Known]:
    """Data file, manifests and manifest list under fresh names, to be written side by side."""
    now, for_data, for_manifest, for_merged, for_list, for_commit = await gather(
        Now(), Unique(), Unique(), Unique(), Unique(), Unique()
    )
    table = state.body.table
    puts: list[Request[Any]] = []
    files = list(load.files)
    if load.tables:
        key = f"data/auto_{for_data}.parquet"
        encoded = encode_parquet(joined_rows(load.tables), table.schema)
        puts.append(PutData(key, encoded.data))
        files.append(encoded.data_file(f"{table.location}/{key}"))
    snapshot: NewSnapshot | None = None
    written: list[NewManifest] = []
    if files:
        added = new_manifest(for_manifest, table, files, table.schema)
        live, merged = merge_loaded(target, state, for_merged, added.snapshot_id)
        snapshot = append_snapshot(table, live, totals_of(table, state.manifests or (), state.known), added)
        written = [added] if merged is None else [added, merged]
        given = sum(rows.num_rows for rows in load.tables) + sum(file.record_count for file in load.files)
        account_for(target, state, snapshot.manifests, written, Change(added=files, new_rows=given))
    prepared = next_version(
        state.body,
        snapshot,
        commit_id=own_id or for_commit,
        names=load.names,
        unique=for_list,
        now_ms=now.wall_ms,
    )
    if snapshot is None:
        prepared = replace(prepared, manifests=state.manifests)
    else:
        puts += [Put(manifest.key, manifest.data) for manifest in written]
        puts.append(Put(prepared.manifest_list_key, prepared.manifest_list))
    return prepared, puts, cache_after(state.known, prepared, written)


async def _follow(
    target: Target, state: TableState, created: TableState, load: CommitBatch, line: _Waiting, leads: bool
) -> Following | None:
    """List who has staged since; judge them by the history and by what is about to be committed."""
    listed = parse_listed(await ListPage(PREFIX))
    root, others = target.root, [name for name in listed if name.id not in load.names]
    line.waiting = [name for name in alive(root, state.body, others) if not _tells(state.body, name)]
    if not (leads and line.waiting):
        return None
    looked = worth_a_look(root, state.body, others, next(iter(load.names)))
    judged = await classify_listed(target, state.body, looked, {})
    theirs = CommitBatch()
    chosen = within_limits(judged.allowed, 0, 0)
    state = await add_staged(target, created, chosen, theirs, judged.others, exists=state.body.version)
    return Following(theirs, judged.reclaimable, state.known) if theirs.names else None


def _tells(body: VersionFile, name: StagedName) -> bool:
    """Whether a body itself says that a version after its base names an append."""
    told = body.names.names if body.names is not None else {}
    return any(version > name.base and name.id in names for version, names in told.items())


def _usable(following: Task[Following | None] | None) -> Following | None:
    """What can be gone on with; a failure to read it leaves it to the next commit."""
    outcome = following.outcome if following is not None else None
    if isinstance(outcome, DataShardError):
        log.info("the next commit was not prepared: %s", outcome)
        return None
    return outcome


async def _expiry(target: Target, sweep: Task[ExpiryPlan] | None) -> ExpiryPlan | None:
    """What the look at old versions has found; a failure of it is no failure of the commit."""
    if sweep is None:
        return None
    await join(sweep)
    if isinstance(sweep.outcome, DataShardError):
        log.info("table %s: old versions are looked at again later: %s", target.name, sweep.outcome)
        return None
    return sweep.outcome


def _is_behind(state: TableState) -> bool:
    """Whether others have surely moved the hint since we saw it."""
    return state.hint is None or state.hint.number != state.body.version


def _newest_hint(before: Hint | None, post_commit: PostCommit | None, read: Task[Hint | None] | None) -> Hint | None:
    for beside in (post_commit, read):
        if beside is not None and isinstance(beside.outcome, Hint):
            return beside.outcome
    return before


async def _post_commit(
    target: Target,
    parent: VersionFile,
    created: TableState,
    named: set[StagedName],
    expiry: ExpiryPlan | None,
    reached: int,
) -> Hint | None:
    version = created.body.version
    hint, *_ = await gather(
        move_hint(version, created.hint, target.root, own=created.body, reached=reached),
        _clean(tuple(sorted(named))),
        upkeep(version, parent, target.history),
        *([write_tombstones(target, expiry, created.body)] if expiry is not None else []),
    )
    moved: Hint | None = hint
    return moved


async def _clean(names: Sequence[StagedName]) -> None:
    """Delete staged objects that a version after their base names; a failure costs only time."""
    if not names:
        return
    outcomes = await outcomes_of((Delete(tuple(name.key for name in names)),))
    if isinstance(outcomes[0], StorageError):
        log.warning("staged objects that are committed were not deleted, and the next commit tries: %s", outcomes[0])
    else:
        result_of(outcomes[0])
