"""Files that a commit of another library names as new are young enough to be there.

Whoever removes orphans takes a file on its way into a version for one, once it is older than the grace
period. Our own appends copy such a file to a fresh name (:mod:`datashard_core.commit.fresh`); what another
library wrote cannot be copied, as its manifests name it, so the commit has to be done again.
"""

from __future__ import annotations

from datashard_core.commit.fresh import YOUNG
from datashard_core.commit.paths import key_of
from datashard_core.commit.state import Target, manifests_of
from datashard_core.commit.version import VersionBody, version_key
from datashard_core.errors import CommitTimeoutError
from datashard_core.format.manifest import ADDED, decode_manifest
from datashard_core.storage.base import ObjectNotFoundError
from datashard_core.storage.requests import Get, Head, Steps, each, value

FOLDER = "data/"
"""Files elsewhere are never taken for orphans."""


def check_age(target: Target, parent: VersionBody, body: VersionBody) -> Steps[None]:
    """Refuse a version that names files as new which may be deleted, or are.

    Args:
        target: the table.
        parent: the version that it builds on, against whose time the files' are held.
        body: the version.

    Raises:
        CommitTimeoutError: a file is too old, or gone; nothing was committed.
        CorruptTableError: a manifest is damaged.
        StorageError: a manifest or the age of a file could not be read.
        UnsupportedTableError: a file lies outside the table's folder.
    """
    keys = yield from _new_files(target, parent, body)
    if not keys:
        return
    newest, *infos = yield [Head(version_key(parent.version)), *map(Head, keys)]
    now = value(newest).last_modified
    for key, info in zip(keys, infos, strict=True):
        gone = isinstance(info, ObjectNotFoundError)
        if gone or now - value(info).last_modified >= YOUNG:
            raise CommitTimeoutError(
                f"table {target.name}: nothing was committed. {target.root}/{key} "
                f"{'is gone' if gone else f'is more than {YOUNG / 60:.0f} minutes older than the newest version'}: it "
                "may be removed as an orphan by now. Write the rows again, in pieces that are committed within "
                f"{YOUNG / 60:.0f} minutes of their first file; a file that is to be added as it is has to be copied."
            )


def _new_files(target: Target, parent: VersionBody, body: VersionBody) -> Steps[list[str]]:
    """Keys of the data files that the version's own snapshots add."""
    location = body.table.location
    before = {snapshot.snapshot_id for snapshot in parent.table.snapshots}
    keys: list[str] = []
    for snapshot in body.table.snapshots:
        if snapshot.snapshot_id in before:
            continue
        listed = yield from manifests_of(target.root, location, snapshot)
        own = [one for one in listed if one.added_snapshot_id == snapshot.snapshot_id and one.content == 0]
        stored = yield from each([Get(key_of(one.manifest_path, location, target.root)) for one in own])
        for manifest, found in zip(own, stored, strict=True):
            added = (one for one in decode_manifest(found.body, manifest) if one.status == ADDED)
            keys += [key_of(one.data_file.file_path, location, target.root) for one in added]
    return [key for key in dict.fromkeys(keys) if key.startswith(FOLDER)]
