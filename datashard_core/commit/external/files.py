"""Check a commit of another library: its new files are recent, and its rewritten manifests lose no file.

Removal of orphans deletes a file that no version names yet once it is older than the grace period. Appends copy such a
file to a new name (:mod:`datashard_core.commit.append.file_age`). A file of another library cannot be copied, because
its manifests name it, so the library has to repeat the commit.
"""

from __future__ import annotations

from collections.abc import Sequence

from datashard_core.commit.append.file_age import RECENT_SECONDS
from datashard_core.commit.core.paths import key_of
from datashard_core.commit.core.row_accounting import adds_up, check_rewritten, gone_and_new
from datashard_core.commit.core.state import Target, manifests_of
from datashard_core.commit.core.version_file import VersionFile, version_key
from datashard_core.effects.requests import Get, Head
from datashard_core.effects.tasks import gather, outcomes_of, result_of
from datashard_core.errors import CommitTimeoutError
from datashard_core.format.manifests.manifest import ADDED, ManifestEntry, ManifestFile, decode_manifest
from datashard_core.storage.base import ObjectNotFoundError

FOLDER = "data/"
"""Files elsewhere are never taken for orphans."""


async def check_files(target: Target, parent: VersionFile, version_file: VersionFile) -> None:
    """Refuse a version that names files as new which may be deleted, or are, or that loses rows of its parent.

    Args:
        target: the table.
        parent: the version that it builds on, against whose time the files' are held.
        body: the version.

    Raises:
        CommitTimeoutError: a file is too old, or gone; nothing was committed.
        CorruptTableError: a manifest is damaged, or the rows of a snapshot do not add up.
        StorageError: a manifest or the age of a file could not be read.
        UnsupportedTableError: a file lies outside the table's folder.
    """
    keys = await _new_files(target, parent, version_file)
    if not keys:
        return
    newest, *infos = await outcomes_of([Head(version_key(parent.version)), *map(Head, keys)])
    now = result_of(newest).last_modified
    for key, info in zip(keys, infos, strict=True):
        gone = isinstance(info, ObjectNotFoundError)
        if gone or now - result_of(info).last_modified >= RECENT_SECONDS:
            minutes = RECENT_SECONDS / 60
            raise CommitTimeoutError(
                f"table {target.name}: nothing was committed. {target.root}/{key} "
                f"{'is gone' if gone else f'is more than {minutes:.0f} minutes older than the newest version'}: it may "
                "be removed as an orphan by now. Write the rows again, in pieces that are committed within "
                f"{minutes:.0f} minutes of their first file; a file that is to be added as it is has to be copied."
            )


async def _new_files(target: Target, parent: VersionFile, version_file: VersionFile) -> list[str]:
    """Keys of the data files that the version's own snapshots add; what those replace has to add up."""
    location = version_file.table.location
    before = {snapshot.snapshot_id: snapshot for snapshot in parent.table.snapshots}
    lists: dict[int | None, Sequence[ManifestFile]] = {None: ()}
    keys: list[str] = []
    for snapshot in version_file.table.snapshots:
        if snapshot.snapshot_id in before:
            continue
        listed = lists[snapshot.snapshot_id] = await manifests_of(target.root, location, snapshot)
        built_on = snapshot.parent_snapshot_id
        if built_on is not None and built_on not in lists and built_on in before:
            lists[built_on] = await manifests_of(target.root, location, before[built_on])
        own = [one for one in listed if one.added_snapshot_id == snapshot.snapshot_id and not one.content]
        known = lists.get(built_on)  # None: it was built on what is not kept any more
        gone, new = ([one for one in side if not one.content] for side in gone_and_new(known or (), listed))
        read = await _entries(target, location, [*own, *(new if known is not None else ())])
        if known is not None:
            where = f"table {target.name} at {target.root}, version {version_file.version}"
            entries = [entry for one in new for entry in read[one.manifest_path]]
            if not adds_up(snapshot.snapshot_id, gone, entries):
                were = await _entries(target, location, gone)
                lost = [entry for one in gone for entry in were[one.manifest_path]]
                check_rewritten(where, snapshot.snapshot_id, lost, entries)
        added = (entry for one in own for entry in read[one.manifest_path] if entry.status == ADDED)
        keys += [key_of(entry.data_file.file_path, location, target.root) for entry in added]
    return [key for key in dict.fromkeys(keys) if key.startswith(FOLDER)]


async def _entries(
    target: Target, location: str, manifests: Sequence[ManifestFile]
) -> dict[str, Sequence[ManifestEntry]]:
    """The entries of manifests, by their paths."""
    each_once = list({one.manifest_path: one for one in manifests}.values())
    stored = await gather(*[Get(key_of(one.manifest_path, location, target.root)) for one in each_once])
    return {one.manifest_path: decode_manifest(found.body, one) for one, found in zip(each_once, stored, strict=True)}
