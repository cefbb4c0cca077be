"""Choose the small data files to compact, and rewrite the manifests that name them. Pure.

Files are compacted within their tier, the power of eight in their number of rows, like manifests. So a row is written
again once for each tier, however many appends there are.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from typing import TYPE_CHECKING

from msgspec import Struct
from msgspec.structs import replace

from datashard_core.commit.core.manifest_merge import FAN_IN, Entries, as_existing, tier
from datashard_core.commit.core.next_version import NewManifest, manifest_of, snapshot_id_from
from datashard_core.errors import CorruptTableError, UnsupportedTableError
from datashard_core.format.manifests.manifest import ADDED, DELETED, ManifestEntry, ManifestFile
from datashard_core.format.metadata.data_file import DataFile
from datashard_core.format.metadata.table_metadata import TableMetadata
from datashard_core.format.parquet.arrow_reader import DamagedFooterError, ParquetFile
from datashard_core.format.rows.projection import project, with_ids
from datashard_core.format.types.schema import Schema

if TYPE_CHECKING:
    import pyarrow as pa


class Budget(Struct, frozen=True):
    """The limits of one compaction.

    Attributes:
        files: number of files.
        size: their bytes together.
        at_least: fewer files are not compacted.
        tiers: take files of one tier only.
    """

    files: int
    size: int
    at_least: int
    tiers: bool

    @property
    def small(self) -> int:
        """Bytes up to which a file counts as small: as many of them as one manifest merges fit in."""
        return self.size // FAN_IN


AFTER_APPEND = Budget(files=2 * FAN_IN, size=16 * 2**20, at_least=FAN_IN, tiers=True)
CALLED_FOR = Budget(files=256, size=128 * 2**20, at_least=2, tiers=False)


MOST_DECODED = 256 * 2**20
"""Bytes that one file may become in memory: twice what a compaction reads. Larger files are left as they are."""
FIRST_ROWS = 256
MOST_ROWS = 131_072


class TooLargeError(UnsupportedTableError):
    """A small file that becomes too large in memory."""


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


def rows_of(data: bytes, file: DataFile, schema: Schema, where: str) -> pa.Table:
    """The rows of a small data file in the form of the table's schema.

    Raises:
        CorruptTableError: the file is damaged, or holds another number of rows or bytes than its manifest says.
        TooLargeError: its rows take too much memory.
    """
    import pyarrow as pa

    if len(data) != file.file_size_in_bytes:
        raise CorruptTableError(
            f"{where} is not readable (it has {len(data)} bytes, and its manifest says {file.file_size_in_bytes}): "
            "restore it. Nothing was compacted."
        )
    try:
        parquet = ParquetFile(pa.BufferReader(data), pre_buffer=False)
        footer = parquet.metadata
        if footer.num_rows != file.record_count:
            raise CorruptTableError(
                f"{where} holds {footer.num_rows} rows, and its manifest says {file.record_count}. Nothing was "
                "compacted."
            )
        rows = pa.Table.from_batches(_decoded(parquet, where), schema=parquet.schema)
        return project(pa.table(rows.columns, schema=with_ids(rows.schema, schema)), schema.to_arrow(), where)
    except (pa.ArrowException, OSError, DamagedFooterError, UnicodeDecodeError, RecursionError) as error:
        raise CorruptTableError(f"{where} is not readable ({error}): restore it. Nothing was compacted.") from error


def _decoded(parquet: ParquetFile, where: str) -> Iterator[pa.RecordBatch]:
    """The rows of a file as long as they do not become too many bytes: few bytes of Parquet can stand for many."""
    footer = parquet.metadata
    groups = [footer.row_group(group) for group in range(footer.num_row_groups)]
    left = MOST_DECODED - sum(group.total_byte_size for group in groups)
    for place, group in enumerate(groups):
        if left < 0 or group.total_byte_size < 0:
            break
        # A text that stands in a dictionary once can stand in every row, so a batch is small until it is seen how
        # large rows are.
        rows = FIRST_ROWS
        while group.num_rows > rows and rows < MOST_ROWS and rows * group.total_byte_size < MOST_DECODED:
            rows *= 2
        for batch in parquet.batches(rows, place, None):
            left -= batch.nbytes
            if left < 0:
                break
            yield batch
    if left < 0:
        raise TooLargeError(
            f"{where} becomes more than {MOST_DECODED} bytes when it is decoded: it is left as it is. Compact it with "
            "another engine if it has to be."
        )


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
