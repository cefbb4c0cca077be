"""Manifests and manifest lists: Avro bytes to values and back (Iceberg spec, "Manifests").

A manifest that was cut at a block boundary is valid Avro with fewer entries. Taken at its word it
would lose data files, so the counts in the manifest list are held against what was read.
"""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

import msgspec

from datashard_core.errors import CorruptTableError, UnsupportedTableError
from datashard_core.format.data_file import DataFile
from datashard_core.format.manifest_schema import MANIFEST_FILE_SCHEMA, manifest_entry_schema
from datashard_core.format.partition import PartitionSpec
from datashard_core.format.schema import Schema

EXISTING, ADDED, DELETED = 0, 1, 2
ENTRIES = "datashard.entries"
"""Our files say in their header how many entries they have: the format itself cannot tell when a
file was cut between two blocks."""

_FORMAT_VERSION = "2"
_INT_MAPS = (
    "column_sizes",
    "value_counts",
    "null_value_counts",
    "nan_value_counts",
    "lower_bounds",
    "upper_bounds",
)


@dataclass(frozen=True, slots=True)
class ManifestEntry:
    """One data file in a manifest.

    Attributes:
        status: :data:`EXISTING`, :data:`ADDED` or :data:`DELETED`.
        snapshot_id: the snapshot that added or deleted it; None: that of the manifest.
        sequence_number: order of its rows; None for an added file: that of the manifest.
        file_sequence_number: order of the file, likewise.
        data_file: the file.
    """

    status: int
    snapshot_id: int | None
    sequence_number: int | None
    file_sequence_number: int | None
    data_file: DataFile


@dataclass(frozen=True, slots=True)
class ManifestFile:
    """One manifest in a manifest list.

    Attributes:
        manifest_path: its URI.
        manifest_length: its size in bytes.
        partition_spec_id: the spec of its files.
        content: 0 data files, 1 delete files.
        sequence_number: order of the commit that added it.
        min_sequence_number: the lowest of its files'.
        added_snapshot_id: the snapshot that added it.
        added_files_count: entries with status ADDED; and so on. None where its writer did not say.
        partitions: summaries of partition values, as read.
        key_metadata: for encrypted tables.
    """

    manifest_path: str
    manifest_length: int
    partition_spec_id: int
    content: int
    sequence_number: int
    min_sequence_number: int
    added_snapshot_id: int
    added_files_count: int | None
    existing_files_count: int | None
    deleted_files_count: int | None
    added_rows_count: int | None
    existing_rows_count: int | None
    deleted_rows_count: int | None
    partitions: tuple[Mapping[str, Any], ...] | None = ()
    key_metadata: bytes | None = None


def encode_manifest(entries: Sequence[ManifestEntry], *, schema: Schema, spec: PartitionSpec) -> bytes:
    """The bytes of a manifest of data files.

    Args:
        entries: its files; added ones leave sequence numbers None, the others carry them.
        schema: the table's schema at the time.
        spec: the partition spec of the files.
    """
    metadata = {
        "schema": msgspec.json.encode(schema.to_dict()).decode(),
        "schema-id": str(schema.schema_id),
        "partition-spec": msgspec.json.encode(spec.to_dict()["fields"]).decode(),
        "partition-spec-id": str(spec.spec_id),
        "format-version": _FORMAT_VERSION,
        "content": "data",
    }
    rows = [
        {
            "status": entry.status,
            "snapshot_id": entry.snapshot_id,
            "sequence_number": entry.sequence_number,
            "file_sequence_number": entry.file_sequence_number,
            "data_file": _file_to_row(entry.data_file),
        }
        for entry in entries
    ]
    return _write_avro(manifest_entry_schema(spec, schema), rows, metadata)


def decode_manifest(data: bytes, manifest: ManifestFile) -> list[ManifestEntry]:
    """The entries of a manifest, with what they inherit from its entry in the list.

    Raises:
        CorruptTableError: it is cut short or damaged, or holds other counts than the list says.
    """
    where = manifest.manifest_path
    if manifest.manifest_length and len(data) != manifest.manifest_length:
        raise CorruptTableError(
            f"manifest {where} has {len(data)} bytes, and the manifest list says {manifest.manifest_length}: restore it"
        )
    entries = [_entry(row, manifest, where) for row in _read_avro(data, where)]
    _check_counts(entries, manifest)
    return entries


def encode_manifest_list(
    manifests: Sequence[ManifestFile],
    *,
    snapshot_id: int,
    parent_snapshot_id: int | None,
    sequence_number: int,
) -> bytes:
    """The bytes of a snapshot's manifest list.

    Args:
        manifests: its manifests.
        snapshot_id: the snapshot.
        parent_snapshot_id: the one before.
        sequence_number: that of the snapshot.
    """
    metadata = {
        "snapshot-id": str(snapshot_id),
        "parent-snapshot-id": str(parent_snapshot_id) if parent_snapshot_id is not None else "null",
        "sequence-number": str(sequence_number),
        "format-version": _FORMAT_VERSION,
    }
    return _write_avro(MANIFEST_FILE_SCHEMA, [_manifest_to_row(manifest) for manifest in manifests], metadata)


def decode_manifest_list(data: bytes, where: str = "the manifest list") -> list[ManifestFile]:
    """The manifests of a snapshot.

    Raises:
        CorruptTableError: it is cut short or damaged.
    """
    return [_manifest(row, where) for row in _read_avro(data, where)]


# Avro ----------------------------------------------------------------------------------------


@cache
def _parsed(text: str) -> Any:
    import fastavro

    return fastavro.parse_schema(msgspec.json.decode(text), named_schemas={})


def _write_avro(schema: Mapping[str, Any], rows: Sequence[Any], metadata: Mapping[str, str]) -> bytes:
    import fastavro

    sink = io.BytesIO()
    fastavro.writer(
        sink,
        _parsed(msgspec.json.encode(schema).decode()),
        rows,
        codec="deflate",
        metadata={**metadata, ENTRIES: str(len(rows))},
    )
    return sink.getvalue()


def _read_avro(data: bytes, where: str) -> list[dict[str, Any]]:
    """The records by the field names that we use, whatever the writer called them: ids decide."""
    import fastavro

    try:
        reader = fastavro.reader(io.BytesIO(data))
        schema: Any = reader.writer_schema
        told: str | None = reader.metadata.get(ENTRIES)
        rows: list[Any] = list(reader)
    except (ValueError, EOFError, LookupError, TypeError, OSError, AssertionError) as error:
        raise CorruptTableError(
            f"{where} is not readable as Avro ({type(error).__name__}: {error}): restore it"
        ) from error
    if told is not None and int(told) != len(rows):
        raise CorruptTableError(f"{where} holds {len(rows)} entries, and its header says {told}: restore it")
    return [_renamed(row, schema) for row in rows] if _needs_renaming(schema) else rows


_OUR_NAMES = {
    504: "added_files_count",
    505: "existing_files_count",
    506: "deleted_files_count",
}


def _needs_renaming(schema: Any) -> bool:
    names = {field.get("field-id"): field["name"] for field in schema["fields"]}
    return any(names.get(number, name) != name for number, name in _OUR_NAMES.items())


def _renamed(row: Mapping[str, Any], schema: Any) -> dict[str, Any]:
    names = {field["name"]: _OUR_NAMES.get(field.get("field-id"), field["name"]) for field in schema["fields"]}
    return {names[key]: value for key, value in row.items()}


# Rows and values -----------------------------------------------------------------------------


def _file_to_row(file: DataFile) -> dict[str, Any]:
    row: dict[str, Any] = {
        "content": file.content,
        "file_path": file.file_path,
        "file_format": file.file_format,
        "partition": dict(file.partition),
        "record_count": file.record_count,
        "file_size_in_bytes": file.file_size_in_bytes,
        "key_metadata": None,
        "split_offsets": list(file.split_offsets) if file.split_offsets else None,
        "equality_ids": list(file.equality_ids) if file.equality_ids else None,
        "sort_order_id": file.sort_order_id,
    }
    for name in _INT_MAPS:
        counts: Mapping[int, Any] = getattr(file, name)
        row[name] = [{"key": key, "value": counts[key]} for key in sorted(counts)] if counts else None
    return row


def _entry(row: Mapping[str, Any], manifest: ManifestFile, where: str) -> ManifestEntry:
    try:
        status = row["status"]
        added = status == ADDED
        sequence = row.get("sequence_number")
        file_sequence = row.get("file_sequence_number")
        if sequence is None and not added and manifest.sequence_number:
            raise CorruptTableError(f"manifest {where}: an entry that is not new has no sequence number")
        snapshot_id = row.get("snapshot_id")
        return ManifestEntry(
            status=status,
            snapshot_id=manifest.added_snapshot_id if snapshot_id is None else snapshot_id,
            sequence_number=manifest.sequence_number if sequence is None else sequence,
            file_sequence_number=manifest.sequence_number if file_sequence is None else file_sequence,
            data_file=_file(row["data_file"], manifest.partition_spec_id),
        )
    except KeyError as error:
        raise CorruptTableError(f"manifest {where}: an entry lacks {error}: restore it") from error


def _file(row: Mapping[str, Any], spec_id: int) -> DataFile:
    if row.get("key_metadata"):
        raise UnsupportedTableError(f"data file {row['file_path']} is encrypted: read the table with its own engine")
    maps = {
        name: {pair["key"]: pair["value"] for pair in row.get(name) or ()} if not isinstance(row.get(name), dict)
        else {int(key): value for key, value in row[name].items()}
        for name in _INT_MAPS
    }  # fmt: skip
    offsets, equality = row.get("split_offsets"), row.get("equality_ids")
    return DataFile(
        file_path=row["file_path"],
        record_count=row["record_count"],
        file_size_in_bytes=row["file_size_in_bytes"],
        partition=row.get("partition") or {},
        content=row.get("content") or 0,
        file_format=str(row["file_format"]).upper(),
        split_offsets=tuple(offsets) if offsets else None,
        equality_ids=tuple(equality) if equality else None,
        sort_order_id=row.get("sort_order_id"),
        spec_id=spec_id,
        **maps,
    )


def _manifest_to_row(manifest: ManifestFile) -> dict[str, Any]:
    counts = {
        name: getattr(manifest, name) or 0
        for name in (
            "added_files_count",
            "existing_files_count",
            "deleted_files_count",
            "added_rows_count",
            "existing_rows_count",
            "deleted_rows_count",
        )
    }
    return {
        "manifest_path": manifest.manifest_path,
        "manifest_length": manifest.manifest_length,
        "partition_spec_id": manifest.partition_spec_id,
        "content": manifest.content,
        "sequence_number": manifest.sequence_number,
        "min_sequence_number": manifest.min_sequence_number,
        "added_snapshot_id": manifest.added_snapshot_id,
        "partitions": [dict(one) for one in manifest.partitions] if manifest.partitions is not None else None,
        "key_metadata": manifest.key_metadata,
        **counts,
    }


def _manifest(row: Mapping[str, Any], where: str) -> ManifestFile:
    partitions = row.get("partitions")
    try:
        return ManifestFile(
            manifest_path=row["manifest_path"],
            manifest_length=row["manifest_length"],
            partition_spec_id=row["partition_spec_id"],
            content=row.get("content") or 0,
            sequence_number=row.get("sequence_number") or 0,
            min_sequence_number=row.get("min_sequence_number") or 0,
            added_snapshot_id=row["added_snapshot_id"],
            added_files_count=row.get("added_files_count"),
            existing_files_count=row.get("existing_files_count"),
            deleted_files_count=row.get("deleted_files_count"),
            added_rows_count=row.get("added_rows_count"),
            existing_rows_count=row.get("existing_rows_count"),
            deleted_rows_count=row.get("deleted_rows_count"),
            partitions=tuple(partitions) if partitions is not None else None,
            key_metadata=row.get("key_metadata"),
        )
    except KeyError as error:
        raise CorruptTableError(f"{where}: an entry lacks {error}: restore it") from error


def _check_counts(entries: Sequence[ManifestEntry], manifest: ManifestFile) -> None:
    told = {
        ADDED: (manifest.added_files_count, manifest.added_rows_count),
        EXISTING: (manifest.existing_files_count, manifest.existing_rows_count),
        DELETED: (manifest.deleted_files_count, manifest.deleted_rows_count),
    }
    for status, (files, rows) in told.items():
        found = [entry.data_file.record_count for entry in entries if entry.status == status]
        if (files is not None and files != len(found)) or (rows is not None and rows != sum(found)):
            raise CorruptTableError(
                f"manifest {manifest.manifest_path} holds {len(found)} files and {sum(found)} rows of status {status}, "
                f"and the manifest list says {files} and {rows}: restore it"
            )
