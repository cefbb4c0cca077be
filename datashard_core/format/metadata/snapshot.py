"""Snapshots and their summaries (Iceberg spec, "Snapshots")."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Annotated, Any

import msgspec
from msgspec import Struct, field

from datashard_core.errors import CorruptTableError, UnsupportedTableError
from datashard_core.format.json_text import whole_number
from datashard_core.format.metadata.data_file import DataFile

TOTALS = (
    "total-records",
    "total-data-files",
    "total-files-size",
    "total-delete-files",
    "total-position-deletes",
    "total-equality-deletes",
)


class Snapshot(Struct, frozen=True):
    """The state of a table at one time.

    Attributes:
        snapshot_id: a random positive 63-bit number.
        parent_snapshot_id: the snapshot that it was made from; None for the first.
        sequence_number: order of the commit, from 1 on.
        timestamp_ms: when it was made, in milliseconds since 1970.
        manifest_list: URI of its manifest list.
        summary: what the commit did: ``operation``, counts and totals, all as text.
        schema_id: the table's schema when it was made.
    """

    snapshot_id: int
    parent_snapshot_id: int | None
    sequence_number: int
    timestamp_ms: int
    manifest_list: str
    summary: Mapping[str, str] = field(default_factory=dict)
    schema_id: int | None = None

    def to_dict(self) -> dict[str, Any]:
        """The snapshot as Iceberg's JSON has it."""
        raw: dict[str, Any] = {
            "snapshot-id": self.snapshot_id,
            "sequence-number": self.sequence_number,
            "timestamp-ms": self.timestamp_ms,
            "manifest-list": self.manifest_list,
            "summary": dict(self.summary),
        }
        if self.parent_snapshot_id is not None:
            raw["parent-snapshot-id"] = self.parent_snapshot_id
        if self.schema_id is not None:
            raw["schema-id"] = self.schema_id
        return raw

    @classmethod
    def from_dict(cls, raw: Mapping[str, Any], where: str = "the metadata") -> Snapshot:
        """Read a snapshot from Iceberg's JSON.

        Args:
            raw: the JSON object.
            where: URI of the file that it is in, for messages.

        Raises:
            CorruptTableError: a key is missing, or holds something else than it should.
            UnsupportedTableError: it lists its manifests in the way of format version 1.
        """
        if "manifests" in raw and "manifest-list" not in raw:
            raise UnsupportedTableError(
                f"{where}: snapshot {raw.get('snapshot-id')!r:.80} has no manifest list (format version 1): rewrite "
                "the table as version 2 with the engine that made it"
            )
        try:
            total = msgspec.convert(raw, _Shape)
        except msgspec.ValidationError as error:
            raise CorruptTableError(f"{where}: not a snapshot ({error}): {raw!r:.200}: restore it") from error
        return cls(
            snapshot_id=total.snapshot_id,
            parent_snapshot_id=total.parent_snapshot_id,
            sequence_number=total.sequence_number,
            timestamp_ms=total.timestamp_ms,
            manifest_list=total.manifest_list,
            summary=total.summary or {},
            schema_id=total.schema_id,
        )


_Long = Annotated[int, msgspec.Meta(ge=-(2**63), le=2**63 - 1)]


class _Shape(msgspec.Struct, rename="kebab"):
    snapshot_id: _Long
    timestamp_ms: _Long
    manifest_list: str
    # The spec gives 0 to snapshots from before version 2, which have no such key.
    sequence_number: _Long = 0
    parent_snapshot_id: _Long | None = None
    summary: dict[str, str] | None = None
    schema_id: _Long | None = None


def append_summary(
    parent: Snapshot | None,
    data_files: Sequence[DataFile],
    *,
    parent_totals: Mapping[str, int] | None = None,
) -> dict[str, str]:
    """The summary of an append.

    Args:
        parent: the snapshot before, None for the first.
        data_files: the files added.
        parent_totals: totals known from the parent's manifests, used where its summary lacks them
            (not every engine writes them all). A total that nothing tells is left out: readers take
            an absent one for unknown, and a guessed one for true.
    """
    added = {
        "total-records": sum(file.record_count for file in data_files),
        "total-data-files": len(data_files),
        "total-files-size": sum(file.file_size_in_bytes for file in data_files),
        "total-delete-files": 0,
        "total-position-deletes": 0,
        "total-equality-deletes": 0,
    }
    summary = {
        "operation": "append",
        "added-data-files": str(added["total-data-files"]),
        "added-records": str(added["total-records"]),
        "added-files-size": str(added["total-files-size"]),
    }
    for key in TOTALS:
        before = _total(parent, key, parent_totals or {})
        if before is not None:
            summary[key] = str(before + added[key])
    return summary


def replace_summary(
    parent: Snapshot | None,
    gone: Sequence[DataFile],
    new: Sequence[DataFile],
    *,
    parent_totals: Mapping[str, int] | None = None,
) -> dict[str, str]:
    """The summary of a commit that writes the rows of some files into others.

    Args:
        parent: the snapshot before.
        gone: the files whose rows were written again.
        new: the files that hold them now.
        parent_totals: as for :func:`append_summary`.
    """
    sizes = [sum(file.file_size_in_bytes for file in files) for files in (gone, new)]
    rows = [sum(file.record_count for file in files) for files in (gone, new)]
    change = {
        "total-records": rows[1] - rows[0],
        "total-data-files": len(new) - len(gone),
        "total-files-size": sizes[1] - sizes[0],
    }
    summary = {
        "operation": "replace",
        "added-data-files": str(len(new)),
        "deleted-data-files": str(len(gone)),
        "added-records": str(rows[1]),
        "deleted-records": str(rows[0]),
        "added-files-size": str(sizes[1]),
        "removed-files-size": str(sizes[0]),
    }
    for key in TOTALS:
        before = _total(parent, key, parent_totals or {})
        if before is not None:
            summary[key] = str(before + change.get(key, 0))
    return summary


def _total(parent: Snapshot | None, key: str, known: Mapping[str, int]) -> int | None:
    if parent is None:
        return 0
    total = total_in(parent, key)
    return known.get(key) if total is None else total


def total_in(snapshot: Snapshot, key: str) -> int | None:
    """A total as a snapshot's summary has it; None where it does not, or has no number there."""
    return whole_number(snapshot.summary.get(key, ""))
