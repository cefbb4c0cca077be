"""Read the manifests that a commit needs and does not have cached, merge them where due, and account for rows."""

from __future__ import annotations

import logging
from collections.abc import Sequence

from msgspec.structs import replace

from datashard_core.commit.core import manifest_merge
from datashard_core.commit.core.manifest_merge import Entries, Known
from datashard_core.commit.core.next_version import NewManifest, NextVersion
from datashard_core.commit.core.paths import key_of
from datashard_core.commit.core.properties import settings_of
from datashard_core.commit.core.row_accounting import Change, check_rows
from datashard_core.commit.core.state import TableState, Target, manifests_of
from datashard_core.commit.core.totals import missing_totals
from datashard_core.effects.requests import Get
from datashard_core.effects.tasks import outcomes_of, result_of
from datashard_core.errors import CorruptTableError, StorageError, UnsupportedTableError
from datashard_core.format.manifests.manifest import ManifestEntry, ManifestFile, decode_manifest

log = logging.getLogger(__name__)


async def load_manifests(target: Target, state: TableState) -> TableState:
    """Read the manifest list and the manifests that the next commit needs and that are not cached.

    It needs those that it merges or leaves out, and those that hold the totals which another engine left out of its
    snapshot.

    Returns:
        The same version with what was read. A manifest that could not be read stays in the list as it is.

    Raises:
        StorageError: the manifest list could not be read; it never counts as empty.
        CorruptTableError: the manifest list is damaged.
    """
    table = state.body.table
    if state.manifests is None:
        listed = await manifests_of(target.root, table.location, table.current_snapshot)
        state = replace(state, manifests=listed)
    manifests = state.manifests or ()
    wanted = (
        *manifest_merge.sources(manifests, table, settings_of(table.properties)),
        *manifest_merge.empty(manifests),
    )
    chosen = {one.manifest_path: one for one in wanted}
    missing = missing_totals(table, manifests)
    if missing is not None:
        chosen |= {one.manifest_path: one for one in missing.manifests}
    return await load_entries(target, state, tuple(chosen.values()))


async def load_entries(target: Target, state: TableState, manifests: Sequence[ManifestFile]) -> TableState:
    """Read the manifests that are not cached; leave out, and log, those that cannot be read."""
    missing = [manifest for manifest in manifests if state.known.of(manifest) is None]
    if not missing:
        return state
    location = state.body.table.location
    outcomes = await outcomes_of([Get(key_of(manifest.manifest_path, location, target.root)) for manifest in missing])
    loaded: dict[str, Entries] = {}
    for manifest, outcome in zip(missing, outcomes, strict=True):
        try:
            loaded[manifest.manifest_path] = tuple(decode_manifest(result_of(outcome).body, manifest))
        except (StorageError, CorruptTableError, UnsupportedTableError) as error:
            log.warning("table %s: a manifest could not be read and is not merged: %s", target.name, error)
    # Keep all of them for this commit; :func:`cache_after` limits the cache.
    return replace(state, known=Known({**state.known.entries, **loaded}))


def merge_loaded(
    target: Target, state: TableState, unique: str, snapshot_id: int
) -> tuple[tuple[ManifestFile, ...], NewManifest | None]:
    """The live manifests of the next version, some of them merged if that is due and they are cached.

    Args:
        target: the table.
        state: the version that is built on, with what :func:`load_manifests` read.
        unique: 32 fresh hexadecimal characters, for a name.
        snapshot_id: the snapshot that is written.

    Returns:
        The list, and the manifest that replaces others; None if none was merged.
    """
    table = state.body.table
    before = state.manifests or ()
    manifests = manifest_merge.without_empty(before, state.known)
    read: list[tuple[ManifestFile, Entries]] = []
    for manifest in manifest_merge.sources(before, table, settings_of(table.properties)):
        entries = state.known.of(manifest)
        if entries is not None:
            read.append((manifest, entries))
    if len(read) < 2:
        return manifests, None
    try:
        written = manifest_merge.merged(unique, table, snapshot_id, read)
    except (CorruptTableError, UnsupportedTableError) as error:
        log.warning("table %s: manifests of another engine could not be merged: %s", target.name, error)
        return manifests, None
    listed = written.listed(table.location, table.last_sequence_number + 1)
    return manifest_merge.replaced(manifests, [manifest for manifest, _ in read], listed), written


def account_for(
    target: Target, state: TableState, after: Sequence[ManifestFile], written: Sequence[NewManifest], change: Change
) -> None:
    """Refuse a manifest list that loses or doubles rows: see :mod:`datashard_core.commit.core.row_accounting`.

    Args:
        target: the table.
        state: the version that is built on.
        after: the manifest list of the next one.
        written: the manifests that are new in it.
        change: what the commit is meant to do.

    Raises:
        CorruptTableError: the rows do not add up. Nothing was committed.
    """
    location = state.body.table.location
    entries: dict[str, Sequence[ManifestEntry]] = dict(state.known.entries)
    entries.update({f"{location}/{manifest.key}": manifest.entries for manifest in written})
    where = f"table {target.name} at {target.root}, version {state.body.version + 1}"
    check_rows(where, state.manifests or (), after, entries, change)


def cache_after(known: Known, prepared: NextVersion, written: Sequence[NewManifest]) -> Known:
    """The cached entries of live manifests after the next version is created."""
    table = prepared.body.table
    loaded = {
        f"{table.location}/{manifest.key}": manifest.read_back(table.last_sequence_number) for manifest in written
    }
    return known.following(prepared.manifests or (), loaded)
