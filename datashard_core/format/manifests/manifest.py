"""Manifests and manifest lists: Avro bytes to values and back (Iceberg spec, "Manifests").

A manifest that was cut at a block boundary is valid Avro with fewer entries. Taken at its word it
would lose data files, so the counts in the manifest list are held against what was read.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Annotated, Any
from uuid import UUID

import msgspec
from msgspec import Meta, Struct

from datashard_core.errors import CorruptTableError, UnsupportedTableError
from datashard_core.format.avro import avro
from datashard_core.format.manifests.manifest_schema import FIELD_NAMES, MANIFEST_FILE_SCHEMA, manifest_entry_schema
from datashard_core.format.metadata.data_file import Count, DataFile, Id
from datashard_core.format.metadata.partition import PartitionSpec
from datashard_core.format.types.schema import Schema

EXISTING, ADDED, DELETED = 0, 1, 2
_FORMAT_VERSION = "2"
_COUNTS = (
    "added_files_count",
    "existing_files_count",
    "deleted_files_count",
    "added_rows_count",
    "existing_rows_count",
    "deleted_rows_count",
)
_REQUIRED = (
    "manifest_path",
    "manifest_length",
    "partition_spec_id",
    "content",
    "sequence_number",
    "min_sequence_number",
    "added_snapshot_id",
)
_SINCE_V2 = (517, 515, 516)
"""Field ids of content, sequence_number and min_sequence_number: lists of format version 1 lack them."""

_INT_MAPS = (
    "column_sizes",
    "value_counts",
    "null_value_counts",
    "nan_value_counts",
    "lower_bounds",
    "upper_bounds",
)


class ManifestEntry(Struct, frozen=True):
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
    sequence_number: Count | None
    file_sequence_number: Count | None
    data_file: DataFile


class _Summary(Struct):  # of a partition field in a manifest
    contains_null: bool
    contains_nan: bool | None = None
    lower_bound: bytes | None = None
    upper_bound: bytes | None = None


class ManifestFile(Struct, frozen=True):
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

    manifest_path: Annotated[str, Meta(min_length=1)]
    manifest_length: Count
    partition_spec_id: Id
    content: Annotated[int, Meta(ge=0, le=1)]
    sequence_number: Count
    min_sequence_number: Count
    added_snapshot_id: int
    added_files_count: Count | None
    existing_files_count: Count | None
    deleted_files_count: Count | None
    added_rows_count: Count | None
    existing_rows_count: Count | None
    deleted_rows_count: Count | None
    partitions: tuple[Mapping[str, Any], ...] | None = ()
    key_metadata: bytes | None = None


def encode_manifest(entries: Sequence[ManifestEntry], *, schema: Schema, spec: PartitionSpec) -> bytes:
    """The bytes of a manifest of data files.

    Args:
        entries: its files; added ones leave sequence numbers None, the others carry them.
        schema: the table's schema at the time.
        spec: the partition spec of the files.

    Raises:
        UnsupportedTableError: a file does not have the partition values that the spec asks for.
        CorruptTableError: an entry that is not new lacks its snapshot or sequence number.
    """
    for entry in entries:
        _check_writable(entry, spec)
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
    return avro.write(manifest_entry_schema(spec, schema), rows, metadata)


def decode_manifest(data: bytes, manifest: ManifestFile) -> list[ManifestEntry]:
    """The entries of a manifest, with what they inherit from its entry in the list.

    Raises:
        CorruptTableError: it is cut short or damaged, or holds other counts than the list says.
    """
    where = manifest.manifest_path
    check_length(data, manifest)
    records = avro.read(data, where, lambda header: {**FIELD_NAMES, **_partition_names(header, where)})
    counts = dict.fromkeys((EXISTING, ADDED, DELETED), (0, 0))
    entries: list[ManifestEntry] = []
    for row in records.rows:
        entry = _entry(row, manifest, where)
        files, rows = counts[entry.status]
        counts[entry.status] = files + 1, rows + entry.data_file.record_count
        entries.append(entry)
    check_counts(counts, manifest)
    return entries


def check_length(data: bytes, manifest: ManifestFile) -> None:
    """Hold the size of a manifest against what the manifest list says.

    Raises:
        CorruptTableError: it is another.
    """
    if len(data) != manifest.manifest_length:
        raise CorruptTableError(
            f"manifest {manifest.manifest_path} has {len(data)} bytes, and the manifest list says "
            f"{manifest.manifest_length}: restore it"
        )


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

    Raises:
        CorruptTableError: a count of a manifest is not known: readers skip a manifest that seems empty.
    """
    metadata = {
        "snapshot-id": str(snapshot_id),
        "parent-snapshot-id": str(parent_snapshot_id) if parent_snapshot_id is not None else "null",
        "sequence-number": str(sequence_number),
        "format-version": _FORMAT_VERSION,
    }
    return avro.write(MANIFEST_FILE_SCHEMA, [_manifest_to_row(manifest) for manifest in manifests], metadata)


def decode_manifest_list(data: bytes, where: str = "the manifest list") -> list[ManifestFile]:
    """The manifests of a snapshot.

    Raises:
        CorruptTableError: it is cut short or damaged.
    """
    records = avro.read(data, where, lambda _: FIELD_NAMES)
    version_1 = records.header.get("format-version", "1") == "1" and not records.field_ids & set(_SINCE_V2)
    return [_manifest({**_FIRST_VERSION, **row} if version_1 else row, where) for row in records.rows]


def _partition_names(header: Mapping[str, str], where: str) -> dict[int, str]:
    """Names of partition fields by id: Avro's names have few characters, so writers replace the others."""
    if "partition-spec" not in header:
        return {}
    try:
        fields = msgspec.json.decode(header["partition-spec"], type=list[_PartitionName])
        return {field.field_id: field.name for field in fields if field.field_id is not None}
    except (ValueError, RecursionError) as error:
        raise CorruptTableError(
            f"{where}: the partition spec in the header is damaged ({error}): restore it"
        ) from error


class _PartitionName(Struct, rename="kebab"):
    name: str
    field_id: int | None = None


def _check_writable(entry: ManifestEntry, spec: PartitionSpec) -> None:
    file = entry.data_file
    wanted = {field.name for field in spec.fields}
    if set(file.partition) != wanted:
        raise UnsupportedTableError(
            f"data file {file.file_path} has partition values for {sorted(file.partition)}, and the table is "
            f"partitioned by {sorted(wanted)}. This release writes to tables without partitions only: append with "
            "the engine that partitioned it. Nothing was written."
        )
    if entry.status != ADDED and None in (entry.snapshot_id, entry.sequence_number, entry.file_sequence_number):
        raise CorruptTableError(
            f"data file {file.file_path} is not new, and its snapshot or sequence number is not known. "
            "Nothing was written."
        )


def _file_to_row(file: DataFile) -> dict[str, Any]:
    row: dict[str, Any] = {
        "content": file.content,
        "file_path": file.file_path,
        "file_format": file.file_format,
        "partition": {
            name: value.bytes if isinstance(value, UUID) else value for name, value in file.partition.items()
        },
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
        if type(status) is not int or status not in (EXISTING, ADDED, DELETED):
            raise CorruptTableError(f"manifest {where}: an entry has the status {status!r:.80}: restore it")
        if None in (sequence, file_sequence) and not added and manifest.sequence_number:
            raise CorruptTableError(
                f"manifest {where}: {row['data_file']['file_path']} is not new, and has no sequence number: restore it"
            )
        snapshot_id = row.get("snapshot_id")
        entry = {
            "status": status,
            "snapshot_id": manifest.added_snapshot_id if snapshot_id is None else snapshot_id,
            "sequence_number": manifest.sequence_number if sequence is None else sequence,
            "file_sequence_number": manifest.sequence_number if file_sequence is None else file_sequence,
            "data_file": _file(row["data_file"], manifest),
        }
        return msgspec.convert(entry, ManifestEntry)
    except KeyError as error:
        raise CorruptTableError(f"manifest {where}: an entry lacks {error}: restore it") from error
    except (AttributeError, TypeError, ValueError) as error:  # msgspec's errors are ValueErrors
        raise CorruptTableError(f"manifest {where}: an entry is damaged ({error!s:.300}): restore it") from error


def _file(row: Mapping[str, Any], manifest: ManifestFile) -> dict[str, Any]:
    """The attributes of a data file."""
    if row.get("key_metadata"):
        raise UnsupportedTableError(f"data file {row['file_path']} is encrypted: read the table with its own engine")
    file: dict[str, Any] = {name: _int_map(row.get(name)) for name in _INT_MAPS}
    for name in ("split_offsets", "equality_ids"):
        file[name] = tuple(row[name]) if row.get(name) else None
    return {
        **file,
        "file_path": row["file_path"],
        "record_count": row["record_count"],
        "file_size_in_bytes": row["file_size_in_bytes"],
        "partition": row.get("partition") or {},
        "content": _content(row, manifest.content),
        "file_format": str(row["file_format"]).upper(),
        "sort_order_id": row.get("sort_order_id"),
        "spec_id": manifest.partition_spec_id,
    }


def _content(row: Mapping[str, Any], of_manifest: int) -> int:
    """What a file holds. Manifests of format version 1 do not say: they only have data files."""
    content = row["content"] if of_manifest else row.get("content", 0)
    if content not in (0, 1, 2) or (content == 0) != (of_manifest == 0):
        raise CorruptTableError(
            f"{row['file_path']} has content {content!r} in a manifest of content {of_manifest}: restore the manifest"
        )
    return int(content)


def _int_map(value: Any) -> dict[int, Any]:
    """A map with int keys: pairs in Avro, a map with text keys from some writers."""
    if isinstance(value, dict):
        return {int(key): inside for key, inside in value.items()}
    return {pair["key"]: pair["value"] for pair in value or ()}


def _manifest_to_row(manifest: ManifestFile) -> dict[str, Any]:
    counts = {name: getattr(manifest, name) for name in _COUNTS}
    unknown = [name for name in _COUNTS if counts[name] is None]
    if unknown:
        raise CorruptTableError(
            f"the manifest list does not say {', '.join(unknown)} of {manifest.manifest_path}, and readers would skip "
            "it: rewrite the table's manifests with the engine that made it. Nothing was written."
        )
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


_FIRST_VERSION = {"content": 0, "sequence_number": 0, "min_sequence_number": 0}
"""What the spec says of manifests in lists of format version 1."""


def _manifest(row: Mapping[str, Any], where: str) -> ManifestFile:
    try:
        required: dict[str, Any] = {name: row[name] for name in _REQUIRED}
        empty = [name for name, value in required.items() if value is None]
        if empty:
            raise CorruptTableError(f"{where}: an entry has no {empty[0]}: restore it")
        if row.get("partitions"):
            msgspec.convert(row["partitions"], tuple[_Summary, ...])
        required |= {name: row.get(name) for name in (*_COUNTS, "partitions", "key_metadata")}
        return msgspec.convert(required, ManifestFile)
    except KeyError as error:
        raise CorruptTableError(f"{where}: an entry lacks {error}: restore it") from error
    except msgspec.ValidationError as error:
        raise CorruptTableError(f"{where}: an entry is damaged ({error!s:.300}): restore it") from error


def check_counts(found: Mapping[int, tuple[int, int]], manifest: ManifestFile) -> None:
    """Hold what a manifest holds against what the manifest list says.

    Args:
        found: status -> files and rows.
        manifest: its entry in the list.

    Raises:
        CorruptTableError: they differ.
    """
    told = {
        ADDED: (manifest.added_files_count, manifest.added_rows_count),
        EXISTING: (manifest.existing_files_count, manifest.existing_rows_count),
        DELETED: (manifest.deleted_files_count, manifest.deleted_rows_count),
    }
    for status, (files, rows) in told.items():
        has_files, has_rows = found[status]
        if (files is not None and files != has_files) or (rows is not None and rows != has_rows):
            raise CorruptTableError(
                f"manifest {manifest.manifest_path} holds {has_files} files and {has_rows} rows of status {status}, "
                f"and the manifest list says {files} and {rows}: restore it"
            )
