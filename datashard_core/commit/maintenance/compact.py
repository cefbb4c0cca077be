"""Compact small data files: read them, write one file, and commit it as a ``replace``, beside running appends.

The rows do not change, so appends and compactions commute. A try that lost its race is repeated on the newer version if
every source is still live there. If a source is not live, nothing is committed, because its deleted rows would come
back. Row-level deletes of another engine name files and positions, so a table that has any is left to that engine.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Any

from msgspec import Struct
from msgspec.structs import replace

from datashard_core.commit.append.file_age import is_recent
from datashard_core.commit.append.manifest_reads import account_for, cache_after, load_entries
from datashard_core.commit.core.manifest_merge import FAN_IN, Entries, replaced, without_empty
from datashard_core.commit.core.next_version import NewManifest, NewSnapshot, NextVersion, next_version
from datashard_core.commit.core.paths import key_of
from datashard_core.commit.core.properties import settings_of
from datashard_core.commit.core.row_accounting import Change
from datashard_core.commit.core.state import TableState, Target, is_recently_grouped, manifests_of, newest
from datashard_core.commit.core.totals import totals_of
from datashard_core.commit.maintenance.rewrite_rows import rewrite
from datashard_core.commit.maintenance.small_files import AFTER_APPEND, CALLED_FOR, Budget, chosen, rewritten
from datashard_core.commit.versions.commit_empty import create, landed, pause
from datashard_core.effects.requests import Get, Instant, Now, Put, PutData, Request, Unique
from datashard_core.effects.tasks import gather
from datashard_core.errors import UnsupportedTableError
from datashard_core.format.manifests.manifest import ManifestFile
from datashard_core.format.metadata.data_file import DataFile
from datashard_core.format.metadata.snapshot import replace_summary

log = logging.getLogger(__name__)

AT_ONCE = 16
"""Number of sources that are read in parallel."""
MOST_GIVEN_UP = 3


class Compacted(Struct, frozen=True):
    """The result of a compaction.

    Attributes:
        files: number of small files that were replaced.
        size: their bytes.
        new_files: number of files that replace them.
    """

    files: int = 0
    size: int = 0
    new_files: int = 0


class _Rewrite(Struct, frozen=True):
    """Files, and the one that holds their rows.

    Attributes:
        sources: the files.
        new: the one that holds their rows.
        written_on: the version that was the newest known when it was written.
    """

    sources: tuple[DataFile, ...]
    new: DataFile
    written_on: int


async def compact(
    target: Target, cached: TableState | None, most_bytes: int, timeout: float
) -> tuple[Compacted, TableState]:
    """Compact all small files of a table, a batch at a time.

    Args:
        target: the table.
        cached: the newest version known.
        most_bytes: number of bytes read after which no further batch begins.
        timeout: seconds after which it gives up.

    Raises:
        UnsupportedTableError: the table has row-level deletes.
        CommitTimeoutError: other writers always created the next version first. Batches committed before stay.
        CorruptTableError: a file cannot be read. Nothing is lost.
        StorageError: the store failed.
    """
    begun: Instant = await Now()
    state = await newest(target, cached)
    done, given_up = Compacted(), 0
    left_out: set[str] = set()
    while done.size < most_bytes and given_up < MOST_GIVEN_UP:
        state = await _with_entries(target, state)
        if any(manifest.content for manifest in state.manifests or ()):
            raise UnsupportedTableError(
                f"table {target.name} has row-level deletes, which name files and positions: compact it with the "
                "engine that wrote them. Nothing was changed."
            )
        entries = (entry for one in state.manifests or () for entry in state.known.of(one) or ())
        entries = (entry for entry in entries if entry.data_file.file_path not in left_out)
        sources = chosen(entries, state.body.table, CALLED_FOR)
        if not sources:
            break
        rewrite = await _rewritten(target, state, sources, CALLED_FOR, left_out)
        if rewrite is None:
            continue  # what is left out is not chosen again
        state, made = await _commit(target, state, rewrite, begun.monotonic + timeout)
        if made:
            size = sum(file.file_size_in_bytes for file in rewrite.sources)
            done = Compacted(done.files + len(rewrite.sources), done.size + size, done.new_files + 1)
        given_up += not made
    return done, state


def due(state: TableState) -> tuple[DataFile, ...]:
    """The files to compact after the append that created a version; mostly none.

    An append that merges manifests has the entries of eight appends in memory. So it knows without a read whether there
    are many small files.
    """
    current = state.body.table.current_snapshot
    if current is None or not settings_of(state.body.table.properties).auto_compact:
        return ()
    if len(state.body.named) > 1 or any(manifest.content for manifest in state.manifests or ()):
        return ()  # many writers are active: a compaction would lose most races, and delay appends where it wins
    for manifest in state.manifests or ():
        if manifest.added_snapshot_id == current.snapshot_id and (manifest.existing_files_count or 0) >= FAN_IN:
            return chosen(state.known.of(manifest) or (), state.body.table, AFTER_APPEND)
    return ()


async def compact_after_append(target: Target, state: TableState) -> TableState:
    """Try once to compact the files that are due after an append; do nothing while many writers are active.

    Returns:
        The newest version now known.
    """
    sources = due(state)
    now: Instant = await Now()
    if not sources or is_recently_grouped(state.body, now.wall_ms):
        return state
    rewrite = await _rewritten(target, state, sources, AFTER_APPEND, set())
    if rewrite is None:
        return state
    commit_id: str = await Unique()
    planned = await _planned(target, state, rewrite, commit_id)
    if planned is None:
        return state
    prepared, puts, written = planned
    made = await create(target, state, prepared, puts, segments=False)
    if made is None:
        log.debug("table %s: an append was faster than the compaction, and the next append tries again", target.name)
        return state
    return replace(made, known=cache_after(state.known, prepared, [written]))


async def _with_entries(target: Target, state: TableState) -> TableState:
    """Load the entries of all manifests of the version."""
    table = state.body.table
    manifests = state.manifests
    if manifests is None:
        manifests = await manifests_of(target.root, table.location, table.current_snapshot)
    state = replace(state, manifests=manifests)
    return await load_entries(target, state, [one for one in manifests if not one.content])


async def _rewritten(
    target: Target, state: TableState, sources: Sequence[DataFile], budget: Budget, left_out: set[str]
) -> _Rewrite | None:
    """Write the rows of several files as one.

    Args:
        target: the table.
        state: the version that the files are of.
        sources: the files.
        budget: what may be read.
        left_out: paths of files that are not to be tried again are added to it.

    Returns:
        None where the rows of too few of them fit into the budget.
    """
    table = state.body.table
    bodies: list[tuple[DataFile, bytes]] = []
    for start in range(0, len(sources), AT_ONCE):
        batch = sources[start : start + AT_ONCE]
        read = await gather(*[Get(key_of(file.file_path, table.location, target.root)) for file in batch])
        bodies += [(file, stored.body) for file, stored in zip(batch, read, strict=True)]
    done = rewrite(bodies, table.schema, f"table {target.name}", budget.decoded)
    left_out |= done.left_out
    if len(done.files) < budget.at_least:
        left_out.update(file.file_path for file in done.files)
        return None
    unique: str = await Unique()
    key = f"data/auto_{unique}.parquet"
    await PutData(key, done.encoded.data)
    return _Rewrite(done.files, done.encoded.data_file(f"{table.location}/{key}"), state.body.version)


async def _commit(target: Target, state: TableState, rewrite: _Rewrite, deadline: float) -> tuple[TableState, bool]:
    """Commit the new file instead of its sources; return the newest version known, and whether it was committed."""
    commit_id: str = await Unique()
    above = state.body.version
    while True:
        planned = await _planned(target, state, rewrite, commit_id)
        if planned is None:
            log.info(
                "table %s: nothing was compacted: a source is no longer live, or the new file is too old", target.name
            )
            return state, False
        prepared, puts, written = planned
        made = await create(target, state, prepared, puts)
        if made is not None:
            return replace(made, known=cache_after(state.known, prepared, [written])), True
        await pause(
            deadline,
            f"table {target.name}: other writers always created the next version before this compaction. Nothing "
            "was lost: call again when fewer writers are active, or with a longer timeout.",
        )
        known = state.known
        state = replace((await newest(target, state)), known=known)
        if (await landed(target, state, commit_id, above)) is not None:
            return state, True
        state = await _with_entries(target, state)


async def _planned(
    target: Target, state: TableState, rewrite: _Rewrite, commit_id: str
) -> tuple[NextVersion, list[Request[Any]], NewManifest] | None:
    """The version after ``state`` with the new file instead of its sources; None if a source is not live."""
    table = state.body.table
    if any(manifest.content for manifest in state.manifests or ()):
        return None  # row-level deletes were added meanwhile, and may name the sources
    if rewrite.written_on < state.body.version and not (
        await is_recent(target, table.location, rewrite.new, state.body.version)
    ):
        return None
    now, for_manifest, for_list = await gather(Now(), Unique(), Unique())
    holders = _holders(state, rewrite.sources)
    manifest = rewritten(for_manifest, table, holders, rewrite.sources, rewrite.new)
    if manifest is None:
        return None
    listed = manifest.listed(table.location, table.last_sequence_number + 1)
    before = state.manifests or ()
    snapshot = NewSnapshot(
        manifest.snapshot_id,
        without_empty(replaced(before, [one for one, _ in holders], listed), state.known),
        replace_summary(
            table.current_snapshot, rewrite.sources, [rewrite.new], parent_totals=totals_of(table, before, state.known)
        ),
    )
    account_for(target, state, snapshot.manifests, [manifest], Change(removed=rewrite.sources, added=[rewrite.new]))
    prepared = next_version(state.body, snapshot, commit_id=commit_id, names={}, unique=for_list, now_ms=now.wall_ms)
    puts: list[Request[Any]] = [
        Put(manifest.key, manifest.data),
        Put(prepared.manifest_list_key, prepared.manifest_list),
    ]
    return prepared, puts, manifest


def _holders(state: TableState, sources: Sequence[DataFile]) -> list[tuple[ManifestFile, Entries]]:
    """The manifests of a version that have sources, if their entries are cached.

    A manifest of another partition spec may name a source too; the new manifest cannot replace it.
    """
    paths = {file.file_path for file in sources}
    spec = state.body.table.spec.spec_id
    holders: list[tuple[ManifestFile, Entries]] = []
    for manifest in state.manifests or ():
        entries = state.known.of(manifest) if manifest.partition_spec_id == spec else None
        if entries is not None and any(entry.data_file.file_path in paths for entry in entries):
            holders.append((manifest, entries))
    return holders
