"""The totals of a snapshot whose writer left some of them out. Pure.

Not every engine writes them all (Sail leaves out ``total-files-size``), and some refuse to write after
a snapshot that lacks one (ClickHouse). So ours has them in any case: the manifest list tells some, and
the others are those of the last snapshot that has them, with what the manifests written since add. Only
where something was deleted or rewritten since, or no kept snapshot has them, all manifests are read;
the commit after that has a parent that tells everything.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from msgspec import Struct

from datashard_core.commit.core.manifest_merge import Known
from datashard_core.format.manifests.manifest import DELETED, ManifestEntry, ManifestFile
from datashard_core.format.metadata.snapshot import Snapshot, total_in
from datashard_core.format.metadata.table_metadata import TableMetadata

_SIZE = "total-files-size"
_DELETES = {1: "total-position-deletes", 2: "total-equality-deletes"}
"""Totals of the rows in delete files, by what such a file holds."""

FROM_NOTHING = -1


class MissingTotals(Struct, frozen=True):
    """What it takes to know the totals of a table's current snapshot.

    Attributes:
        since: sequence number of the snapshot that is counted from; :data:`FROM_NOTHING` for none.
        totals: what that snapshot says of the totals that are missing.
        manifests: those that tell what came since.
    """

    since: int
    totals: Mapping[str, int]
    manifests: tuple[ManifestFile, ...]


def missing_totals(table: TableMetadata, manifests: Sequence[ManifestFile]) -> MissingTotals | None:
    """What has to be read to know all totals; None where the current snapshot and its list tell them.

    Args:
        table: the version.
        manifests: the manifest list of its current snapshot.
    """
    current = table.current_snapshot
    # A manifest list tells how many files and rows there are, but not their sizes, nor which deletes.
    wanted = (_SIZE, *(_DELETES.values() if any(one.content for one in manifests) else ()))
    if current is None or _totals_in(current, wanted) is not None:
        return None
    earlier = {snapshot.snapshot_id: snapshot for snapshot in table.snapshots}
    at: Snapshot | None = current
    # What an append adds is in manifests of its own or later ones, and it takes nothing away.
    while at is not None and at.summary.get("operation") == "append":
        at = earlier.pop(at.parent_snapshot_id, None) if at.parent_snapshot_id is not None else None
        totals = _totals_in(at, wanted) if at is not None and at.sequence_number > 0 else None
        if at is not None and totals is not None:
            return MissingTotals(
                at.sequence_number, totals, tuple(m for m in manifests if m.sequence_number > at.sequence_number)
            )
    return MissingTotals(FROM_NOTHING, dict.fromkeys(wanted, 0), tuple(manifests))


def totals_of(table: TableMetadata, manifests: Sequence[ManifestFile], known: Known) -> dict[str, int]:
    """What the manifests tell of the totals of a table's current snapshot.

    Args:
        table: the version.
        manifests: the manifest list of its current snapshot.
        known: entries that were read; where one is missing, so is what it would tell.
    """
    found = dict.fromkeys(("total-records", "total-data-files", "total-delete-files"), 0)
    for manifest in manifests:
        files = (manifest.added_files_count or 0) + (manifest.existing_files_count or 0)
        found["total-delete-files" if manifest.content else "total-data-files"] += files
        if not manifest.content:
            found["total-records"] += (manifest.added_rows_count or 0) + (manifest.existing_rows_count or 0)
    if not any(manifest.content for manifest in manifests):
        found |= dict.fromkeys(_DELETES.values(), 0)
    missing = missing_totals(table, manifests)
    read = [known.of(manifest) for manifest in missing.manifests] if missing is not None else []
    if missing is None or None in read:
        return found
    sums = dict(missing.totals)
    for entry in (entry for entries in read for entry in entries or () if _is_newer(entry, missing.since)):
        sums[_SIZE] += entry.data_file.file_size_in_bytes
        if entry.data_file.content:
            sums[_DELETES[entry.data_file.content]] += entry.data_file.record_count
    return found | sums


def _is_newer(entry: ManifestEntry, since: int) -> bool:
    """Whether a file is live, and came after the snapshot with that sequence number."""
    return entry.status != DELETED and (entry.file_sequence_number or 0) > since


def _totals_in(snapshot: Snapshot, wanted: Sequence[str]) -> dict[str, int] | None:
    """Those totals of a snapshot, if its summary has them all."""
    found = {key: total_in(snapshot, key) for key in wanted}
    return {key: total for key, total in found.items() if total is not None} if None not in found.values() else None
