"""Choose the small data files to compact, and rewrite the manifests that name them. Pure.

Files are compacted within their tier, the power of eight in their number of rows, like manifests. So a row is written
again once for each tier, however many appends there are.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence

from msgspec import Struct
from msgspec.structs import replace

from datashard_core.commit.core.manifest_merge import FAN_IN, Entries, as_existing, tier
from datashard_core.commit.core.next_version import NewManifest, manifest_of, snapshot_id_from
from datashard_core.format.manifests.manifest import ADDED, DELETED, ManifestEntry, ManifestFile
from datashard_core.format.metadata.data_file import DataFile
from datashard_core.format.metadata.table_metadata import TableMetadata


class Budget(Struct, frozen=True):
    """The limits of one compaction.

    Attributes:
        files: number of files.
        size: their bytes together.
        at_least: fewer files are not compacted.
        tiers: take files of one tier only.
        decoded: bytes that their rows become, each file's alone; after so many no further file is taken.
    """

    files: int
    size: int
    at_least: int
    tiers: bool
    decoded: int = 256 * 2**20

    @property
    def small(self) -> int:
        """Bytes up to which a file counts as small: as many of them as one manifest merges fit in."""
        return self.size // FAN_IN


AFTER_APPEND = Budget(files=2 * FAN_IN, size=16 * 2**20, at_least=FAN_IN, tiers=True)
CALLED_FOR = Budget(files=256, size=128 * 2**20, at_least=2, tiers=False, decoded=4 * 2**30)


def chosen(entries: Iterable[ManifestEntry], table: TableMetadata, budget: Budget) -> tuple[DataFile, ...]:
    """The files to compact, in the order of the entries; none if too few are small."""
    tiers: dict[int, list[DataFile]] = {}
    for entry in entries:
        file = entry.data_file
        if entry.status != DELETED and file.file_size_in_bytes <= budget.small and _is_plain(file, table):
            tiers.setdefault(tier(file.record_count, FAN_IN) if budget.tiers else 0, []).append(file)
    for place in sorted(tiers):
        if len(tiers[place]) >= budget.at_least:
            return _within(tiers[place], budget)
    return ()


def _is_plain(file: DataFile, table: TableMetadata) -> bool:
    """Whether a file can be written again by this library as it is: rows, in Parquet, without partitions."""
    return (
        file.content == 0
        and file.file_format == "PARQUET"
        and not file.partition
        and file.spec_id == table.spec.spec_id
        and not table.spec.fields
    )


def _within(files: Sequence[DataFile], budget: Budget) -> tuple[DataFile, ...]:
    taken: list[DataFile] = []
    room = budget.size
    for file in files[: budget.files]:
        room -= file.file_size_in_bytes
        if room < 0:
            break
        taken.append(file)
    return tuple(taken)


def rewritten(
    unique: str,
    table: TableMetadata,
    holders: Sequence[tuple[ManifestFile, Entries]],
    sources: Sequence[DataFile],
    new: DataFile,
) -> NewManifest | None:
    """The manifest in the place of those that hold the sources.

    It lists the sources as deleted, the new file as added, and what else they held as existing.

    Args:
        unique: 32 fresh hexadecimal characters, for its name and the snapshot's id.
        table: the version that is built on.
        holders: manifests of that version that hold sources, with their entries.
        sources: the files that were read.
        new: the file that holds their rows.

    Returns:
        None if a source is not live any more, or not as often as it was read.
    """
    left = Counter(map(_named_as, sources))  # a file that is named twice holds its rows twice
    snapshot_id = snapshot_id_from(unique)
    entries: list[ManifestEntry] = []
    added = ManifestEntry(ADDED, snapshot_id, None, None, new)
    placed = False
    for _, held in holders:
        for entry in held:
            if entry.status == DELETED:
                continue
            if not left[_named_as(entry.data_file)]:
                entries.append(as_existing(entry))
                continue
            if not placed:
                entries.append(added)  # where the first of them was
                placed = True
            left[_named_as(entry.data_file)] -= 1
            entries.append(replace(entry, status=DELETED, snapshot_id=snapshot_id))
    return None if left.total() else manifest_of(unique, snapshot_id, entries, table.schema, table.spec)


def _named_as(file: DataFile) -> tuple[str, int]:
    """What an entry has to say of a source to be the one that was read: its file, and how many rows it counts."""
    return file.file_path, file.record_count
