"""Write a batch as the next version: its files, the conditional PUT, and the work after the commit.

While the files and the version are being written, the committer lists the appends that others have staged meanwhile.
It commits them next (:mod:`datashard_core.commit.append.combine`), or records in the version whose turn it is. A staged
object is deleted only after the version that records it exists.
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
"""Number of files that a commit writes when it merges manifests: data file, two manifests, manifest list."""

PostCommit = Task[Hint | None]
"""The work after a commit, which may fail without harm: the hint, reclaimable objects, id segments, tombstones."""


class Following(Struct, frozen=True):
    """The batch of the version after the one that is being written, read meanwhile.

    Attributes:
        batch: its append ids and rows.
        reclaimable: staged objects that an earlier version records.
        known: entries of the manifests that it merges.
    """

    batch: CommitBatch
    reclaimable: tuple[StagedName, ...]
    known: Known


class CommitOutcome(Struct, frozen=True):
    """How a try to create a version ended.

    Attributes:
        created: the new version; None if it was not created, or if that is not known.
        cause: the answer of the store where ``created`` is None.
        nothing: the batch was empty.
        post_commit: the work after the commit, started.
        following: the batch that the committer can write next.
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
        created: the table state of its committer once it exists.
        carried: staged objects that it records.
        post_commit: the work after the previous commit of the same committer.
        hint: the read of the hint, if one was started.
        concurrent: tasks that have to end before the committer returns.
        following: the batch that the committer can write next.
        expiry: old versions that become tombstones after the commit.
    """

    parent: VersionFile
    prepared: NextVersion
    created: TableState
    carried: frozenset[StagedName]
    post_commit: PostCommit | None
    hint: Task[Hint | None] | None
    concurrent: tuple[Task[Any], ...]
    following: Task[Following | None] | None
    expiry: ExpiryPlan | None


class _Waiting(Struct):
    """Staged appends whose owners wait while a version is being written."""

    waiting: list[StagedName] = field(default_factory=list)


async def commit(
    target: Target,
    state: TableState,
    listed: Sequence[StagedName],
    own: Mapping[str, Append],
    staged: Sequence[StagedName] = (),
    *,
    combine: bool = False,
) -> CommitOutcome:
    """Try once to create the version after ``state``.

    Args:
        target: the table.
        state: the version to build on.
        listed: a listing of ``staging/``.
        own: digest of append id -> the committer's own appends, known to be unrecorded up to ``state``.
        staged: the committer's own staged objects, to be deleted once they are recorded.
        combine: read what others stage meanwhile, so that the committer can commit it next.
    """
    own_id = next(iter(own), None)
    root, body = target.root, state.body
    considered = eligible(root, body, listed) if own_id is None else worth_a_look(root, body, listed, own_id)
    classified = await classify_listed(target, body, considered, own)
    chosen = within_limits(classified.allowed, sum(size_of(append) for append in own.values()), len(own))
    batch = CommitBatch()
    state, own = await gather(
        add_staged(target, state, chosen, batch, classified.others), ensure_own_recent(target, state.body, own)
    )
    for append in own.values():
        add_own(append, state.body, target, batch)
    if not batch.names:
        await _clean(classified.reclaimable)
        return CommitOutcome(nothing=True, aside=batch.aside)
    has_waiters = combine and any(name.kind == "w" and name.id not in own for name in considered)
    reclaimable = (*classified.reclaimable, *staged)
    outcome = await write_and_publish(
        target, state, batch, reclaimable, own_id, has_waiters=has_waiters, combine=combine
    )
    return replace(outcome, aside=batch.aside)


async def write_and_publish(
    target: Target,
    state: TableState,
    batch: CommitBatch,
    reclaimable: Sequence[StagedName],
    own_id: str | None = None,
    *,
    has_waiters: bool = False,
    combine: bool = False,
    post_commit: PostCommit | None = None,
) -> CommitOutcome:
    """Write the files of the version after ``state`` and create it.

    Args:
        target: the table.
        state: the version to build on.
        batch: the appends that it records.
        reclaimable: staged objects that a version up to ``state`` records.
        own_id: digest of the commit's own id; None: one is made.
        has_waiters: other appends wait; list them while the files are being written.
        combine: and read their rows, to commit them next.
        post_commit: the work after the previous commit of the same committer.
    """
    draft = await _write(
        target, state, batch, own_id, has_waiters=has_waiters, combine=combine, post_commit=post_commit
    )
    return await create(target, draft, reclaimable)


async def draft_own(target: Target, state: TableState, own: Mapping[str, Append]) -> Draft:
    """Write the files of the version after ``state`` for own appends alone, before the table is looked at.

    Args:
        target: the table.
        state: the current version, if no other writer has committed since.
        own: digest of append id -> the appends. Before the version is created, they have to be known to be unrecorded
            up to ``state``.
    """
    batch = CommitBatch()
    state, appends = await gather(load_manifests(target, state), ensure_own_recent(target, state.body, own))
    for append in appends.values():
        add_own(append, state.body, target, batch)
    return await _write(target, state, batch, next(iter(own)), has_waiters=False, combine=False, post_commit=None)


async def _write(
    target: Target,
    state: TableState,
    batch: CommitBatch,
    own_id: str | None,
    *,
    has_waiters: bool,
    combine: bool,
    post_commit: PostCommit | None,
) -> Draft:
    """Write the files of the version after ``state``; the arguments are those of :func:`write_and_publish`."""
    prepared, puts, known = await _prepare(target, state, batch, own_id)
    waiters = _Waiting()
    created = TableState(prepared.body, prepared.manifests, state.hint, known, state.contended)
    following = await start(_follow(target, state, created, batch, waiters, combine)) if has_waiters else None
    hint = await start(read_hint()) if post_commit is None and _is_behind(state) else None
    old_versions = due(state.body) if len(puts) < MERGES else None  # a merge is enough for one commit
    expiry_task = await start(look(target, state.body, old_versions)) if old_versions is not None else None
    concurrent = tuple(one for one in (post_commit, following, hint) if one is not None)
    await gather(*puts)
    expiry = await _expiry(target, expiry_task)
    if expiry is not None:
        prepared = with_watermark(prepared, expiry)
    if waiters.waiting:
        next_id = prepared.commit_id if combine else waiters.waiting[0].id
        prepared = with_next(prepared, next_id, len(waiters.waiting))
    to_combine = following if waiters.waiting and combine else None
    return Draft(
        state.body, prepared, created, frozenset(batch.carried), post_commit, hint, concurrent, to_combine, expiry
    )


async def create(target: Target, draft: Draft, reclaimable: Sequence[StagedName]) -> CommitOutcome:
    """Create a version whose files are written, by one conditional PUT.

    Args:
        target: the table.
        draft: the version.
        reclaimable: staged objects that a version up to its parent records.
    """
    prepared = draft.prepared
    outcomes = await outcomes_of((PutIfAbsent(version_key(prepared.version), prepared.data),))
    if isinstance(outcomes[0], (PreconditionFailedError, OutcomeUnknownError)):
        return CommitOutcome(cause=outcomes[0])
    result_of(outcomes[0])
    await join(*draft.concurrent)
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
    target: Target, state: TableState, batch: CommitBatch, own_id: str | None
) -> tuple[NextVersion, list[Request[Any]], Known]:
    """Encode data file, manifests and manifest list under fresh names, to be written in parallel."""
    now, for_data, for_manifest, for_merged, for_list, for_commit = await gather(
        Now(), Unique(), Unique(), Unique(), Unique(), Unique()
    )
    table = state.body.table
    puts: list[Request[Any]] = []
    files = list(batch.files)
    if batch.tables:
        key = f"data/auto_{for_data}.parquet"
        encoded = encode_parquet(joined_rows(batch.tables), table.schema)
        puts.append(PutData(key, encoded.data))
        files.append(encoded.data_file(f"{table.location}/{key}"))
    snapshot: NewSnapshot | None = None
    written: list[NewManifest] = []
    if files:
        added = new_manifest(for_manifest, table, files, table.schema)
        live, merged = merge_loaded(target, state, for_merged, added.snapshot_id)
        snapshot = append_snapshot(table, live, totals_of(table, state.manifests or (), state.known), added)
        written = [added] if merged is None else [added, merged]
        given = sum(rows.num_rows for rows in batch.tables) + sum(file.record_count for file in batch.files)
        account_for(target, state, snapshot.manifests, written, Change(added=files, new_rows=given))
    prepared = next_version(
        state.body,
        snapshot,
        commit_id=own_id or for_commit,
        names=batch.names,
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
    target: Target, state: TableState, created: TableState, batch: CommitBatch, waiters: _Waiting, combine: bool
) -> Following | None:
    """List what others have staged since; choose the next batch by the history and the version being written."""
    listed = parse_listed(await ListPage(PREFIX))
    root, others = target.root, [name for name in listed if name.id not in batch.names]
    waiters.waiting = [name for name in alive(root, state.body, others) if not _is_recorded(state.body, name)]
    if not (combine and waiters.waiting):
        return None
    considered = worth_a_look(root, state.body, others, next(iter(batch.names)))
    classified = await classify_listed(target, state.body, considered, {})
    next_batch = CommitBatch()
    chosen = within_limits(classified.allowed, 0, 0)
    state = await add_staged(target, created, chosen, next_batch, classified.others, exists=state.body.version)
    return Following(next_batch, classified.reclaimable, state.known) if next_batch.names else None


def _is_recorded(version_file: VersionFile, name: StagedName) -> bool:
    """Whether the version itself shows that a version after the append's base records it."""
    recorded = version_file.names.names if version_file.names is not None else {}
    return any(version > name.base and name.id in names for version, names in recorded.items())


def _usable(following: Task[Following | None] | None) -> Following | None:
    """The batch to write next; None if there is none, or if reading it failed and the next commit has to do it."""
    outcome = following.outcome if following is not None else None
    if isinstance(outcome, DataShardError):
        log.info("the batch of the next commit could not be read, and the next committer reads it: %s", outcome)
        return None
    return outcome


async def _expiry(target: Target, expiry_task: Task[ExpiryPlan] | None) -> ExpiryPlan | None:
    """The old versions that become tombstones; None also if the look at them failed: the commit does not fail."""
    if expiry_task is None:
        return None
    await join(expiry_task)
    if isinstance(expiry_task.outcome, DataShardError):
        log.info(
            "table %s: old versions could not be looked at, and a later commit retries: %s",
            target.name,
            expiry_task.outcome,
        )
        return None
    return expiry_task.outcome


def _is_behind(state: TableState) -> bool:
    """Whether the cached hint is older than the version, so that other writers have moved it."""
    return state.hint is None or state.hint.number != state.body.version


def _newest_hint(before: Hint | None, post_commit: PostCommit | None, read: Task[Hint | None] | None) -> Hint | None:
    for task in (post_commit, read):
        if task is not None and isinstance(task.outcome, Hint):
            return task.outcome
    return before


async def _post_commit(
    target: Target,
    parent: VersionFile,
    created: TableState,
    to_delete: set[StagedName],
    expiry: ExpiryPlan | None,
    reached: int,
) -> Hint | None:
    version = created.body.version
    hint, *_ = await gather(
        move_hint(version, created.hint, target.root, own=created.body, reached=reached),
        _clean(tuple(sorted(to_delete))),
        upkeep(version, parent, target.history),
        *([write_tombstones(target, expiry, created.body)] if expiry is not None else []),
    )
    moved: Hint | None = hint
    return moved


async def _clean(names: Sequence[StagedName]) -> None:
    """Delete staged objects that a version after their base records; a later commit retries a failure."""
    if not names:
        return
    outcomes = await outcomes_of((Delete(tuple(name.key for name in names)),))
    if isinstance(outcomes[0], StorageError):
        log.warning("committed staged objects could not be deleted, and the next commit retries: %s", outcomes[0])
    else:
        result_of(outcomes[0])
