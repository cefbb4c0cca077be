"""Build the next version of a table from one version and the changes of a commit. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from msgspec import Struct
from msgspec.structs import replace

from datashard_core.commit.core import recorded_ids
from datashard_core.commit.core.properties import settings_of
from datashard_core.commit.core.recorded_ids import CommitNames, Record
from datashard_core.commit.core.version_file import VersionFile, version_key
from datashard_core.errors import InvalidRecordsError
from datashard_core.format.manifests.manifest import (
    ADDED,
    DELETED,
    EXISTING,
    ManifestEntry,
    ManifestFile,
    encode_manifest,
    encode_manifest_list,
)
from datashard_core.format.metadata.data_file import DataFile
from datashard_core.format.metadata.partition import PartitionSpec
from datashard_core.format.metadata.retention import Retention
from datashard_core.format.metadata.snapshot import Snapshot, append_summary
from datashard_core.format.metadata.table_metadata import TableMetadata, new_table_metadata
from datashard_core.format.types.schema import Schema

OUR_PROPERTIES = {
    recorded_ids.PROTOCOL_PROPERTY: str(recorded_ids.PROTOCOL_VERSION),
    # The names of versions are the commit points: engines must not delete them.
    "write.metadata.delete-after-commit.enabled": "false",
}


TOKEN = 16
"""Characters of the name of a try: 64 random bits."""


class NewManifest(Struct, frozen=True):
    """A manifest that a commit writes: of new files, of merged manifests, or of a rewrite.

    Attributes:
        key: its key.
        data: its bytes.
        snapshot_id: the snapshot that it is written for.
        entries: what it holds; new files have no sequence number yet.
        spec_id: the partition spec of its files.
        partitions: summaries of its partition values.
    """

    key: str
    data: bytes
    snapshot_id: int
    entries: tuple[ManifestEntry, ...]
    spec_id: int
    partitions: tuple[Mapping[str, Any], ...] | None = ()

    @property
    def files(self) -> tuple[DataFile, ...]:
        """The files that it adds."""
        return tuple(entry.data_file for entry in self.entries if entry.status == ADDED)

    def listed(self, location: str, sequence_number: int) -> ManifestFile:
        """Its entry in the manifest list of the snapshot with that sequence number."""
        files, rows = dict.fromkeys((EXISTING, ADDED, DELETED), 0), dict.fromkeys((EXISTING, ADDED, DELETED), 0)
        lowest = sequence_number
        for entry in self.entries:
            files[entry.status] += 1
            rows[entry.status] += entry.data_file.record_count
            if entry.sequence_number is not None and entry.status != DELETED:
                lowest = min(lowest, entry.sequence_number)
        return ManifestFile(
            manifest_path=f"{location}/{self.key}",
            manifest_length=len(self.data),
            partition_spec_id=self.spec_id,
            content=0,
            sequence_number=sequence_number,
            min_sequence_number=lowest,
            added_snapshot_id=self.snapshot_id,
            added_files_count=files[ADDED],
            existing_files_count=files[EXISTING],
            deleted_files_count=files[DELETED],
            added_rows_count=rows[ADDED],
            existing_rows_count=rows[EXISTING],
            deleted_rows_count=rows[DELETED],
            partitions=self.partitions,
        )

    def read_back(self, sequence_number: int) -> tuple[ManifestEntry, ...]:
        """Its entries as a reader gets them, with the sequence number of the snapshot."""
        return tuple(
            entry
            if entry.status != ADDED
            else replace(entry, sequence_number=sequence_number, file_sequence_number=sequence_number)
            for entry in self.entries
        )


class NewSnapshot(Struct, frozen=True):
    """What a commit makes of the table's files.

    Attributes:
        snapshot_id: id of the snapshot.
        manifests: its manifest list.
        summary: its summary.
    """

    snapshot_id: int
    manifests: tuple[ManifestFile, ...]
    summary: Mapping[str, str]


class NextVersion(Struct, frozen=True):
    """Everything of a version that is about to be committed.

    Attributes:
        version: its number.
        manifest_list_key: key of its manifest list.
        manifest_list: the bytes of that; empty where the snapshot stays the parent's.
        manifests: what the list holds; None where the snapshot stays the parent's.
        body: the version as a reader gets it.
        data: its bytes.
    """

    version: int
    manifest_list_key: str
    manifest_list: bytes
    manifests: tuple[ManifestFile, ...] | None
    body: VersionFile
    data: bytes

    @property
    def commit_id(self) -> str:
        """Digest of the commit's own id."""
        return self.body.names.commit_id if self.body.names is not None else ""


def snapshot_id_from(unique: str) -> int:
    """A positive 63-bit snapshot id out of 32 random hexadecimal characters."""
    return (int(unique[:16], 16) & (2**63 - 1)) or 1


def new_manifest(unique: str, table: TableMetadata, files: Sequence[DataFile], schema: Schema) -> NewManifest:
    """The manifest that adds ``files``."""
    snapshot_id = snapshot_id_from(unique)
    entries = [
        ManifestEntry(
            status=ADDED,
            snapshot_id=snapshot_id,
            sequence_number=None,
            file_sequence_number=None,
            data_file=file,
        )
        for file in files
    ]
    return manifest_of(unique, snapshot_id, entries, schema, table.append_spec)


def manifest_of(
    unique: str,
    snapshot_id: int,
    entries: Sequence[ManifestEntry],
    schema: Schema,
    spec: PartitionSpec,
    partitions: tuple[Mapping[str, Any], ...] | None = (),
) -> NewManifest:
    """A manifest of these entries, under a fresh name."""
    return NewManifest(
        key=f"metadata/manifests/manifest_{unique}.avro",
        data=encode_manifest(entries, schema=schema, spec=spec),
        snapshot_id=snapshot_id,
        entries=tuple(entries),
        spec_id=spec.spec_id,
        partitions=partitions,
    )


def append_snapshot(
    table: TableMetadata,
    live: Sequence[ManifestFile],
    totals: Mapping[str, int],
    added: NewManifest,
) -> NewSnapshot:
    """The snapshot that adds the files of one manifest.

    Args:
        table: the version that it is built on.
        live: the manifests that stay, merged or not.
        totals: what the manifests tell of the table before, where its snapshot does not.
        added: the manifest of the new files.
    """
    return NewSnapshot(
        snapshot_id=added.snapshot_id,
        manifests=(*live, added.listed(table.location, table.last_sequence_number + 1)),
        summary=append_summary(table.current_snapshot, added.files, parent_totals=totals),
    )


def next_version(
    parent: VersionFile,
    snapshot: NewSnapshot | None,
    *,
    commit_id: str,
    names: Mapping[str, Record],
    unique: str,
    now_ms: int,
    properties: Mapping[str, str] | None = None,
    keep: Retention | None = None,
) -> NextVersion:
    """The version after ``parent``.

    Args:
        parent: the version that it is built on.
        snapshot: its new snapshot; None for a version whose files are those of the parent.
        commit_id: digest of this commit's own id.
        names: the appends that it commits or refuses.
        unique: 32 fresh hexadecimal characters, for the manifest list's name.
        now_ms: this client's wall clock; history never runs backwards whatever it says.
        properties: table properties to be set.
        keep: how much of the past is kept; None: as the table's properties ask.
    """
    table = parent.table
    property_ = recorded_ids.following(
        parent.names,
        parent_version=parent.version,
        table=table.table_uuid,
        first=parent.first,
        commit_id=commit_id,
        names=names,
        token=unique[:TOKEN],
    )
    previous = f"{table.location}/{version_key(parent.version)}"
    key = f"metadata/manifests/manifest_list_{unique}.avro"
    encoded = b""
    if snapshot is None:
        metadata = table.with_update(now_ms=now_ms, previous_metadata=previous)
    else:
        sequence_number = table.last_sequence_number + 1
        current = table.current_snapshot
        made = Snapshot(
            snapshot_id=snapshot.snapshot_id,
            parent_snapshot_id=current.snapshot_id if current is not None else None,
            sequence_number=sequence_number,
            timestamp_ms=now_ms,
            manifest_list=f"{table.location}/{key}",
            summary=snapshot.summary,
            schema_id=table.schema.schema_id,
        )
        metadata = table.with_append_spec().with_snapshot(made, now_ms=now_ms, previous_metadata=previous)
        encoded = encode_manifest_list(
            snapshot.manifests,
            snapshot_id=made.snapshot_id,
            parent_snapshot_id=made.parent_snapshot_id,
            sequence_number=sequence_number,
        )
    metadata = metadata.with_properties(restored({**table.properties, **(properties or {})}, property_))
    metadata = metadata.within(keep or settings_of(table.properties).retention)
    return NextVersion(
        version=parent.version + 1,
        manifest_list_key=key,
        manifest_list=encoded,
        manifests=snapshot.manifests if snapshot is not None else None,
        body=VersionFile(parent.version + 1, "table", metadata, property_),
        data=metadata.to_json(),
    )


def with_next(prepared: NextVersion, next_id: str, queue_length: int) -> NextVersion:
    """The same version, with the id whose owner commits next, and the number of waiting appends."""
    assert prepared.body.names is not None
    names = replace(prepared.body.names, next=next_id, line=queue_length)
    table = prepared.body.table
    metadata = table.with_properties(restored(table.properties, names))
    body = replace(prepared.body, metadata=metadata, names=names)
    return replace(prepared, body=body, data=metadata.to_json())


def restored(properties: Mapping[str, str], names: CommitNames) -> dict[str, str]:
    """The table properties with those of this library, which another engine may have dropped."""
    return {**properties, **OUR_PROPERTIES, recorded_ids.PROPERTY: recorded_ids.encode(names)}


def first_version(
    version: int,
    table_uuid: str,
    commit_id: str,
    now_ms: int,
    *,
    location: str,
    schema: Schema,
    properties: Mapping[str, str],
) -> tuple[VersionFile, bytes]:
    """The version that creates a table: v0, or the one after the marker of a drop."""
    names = CommitNames(
        table_uuid, version, version, commit_id, version, {version: {commit_id: recorded_ids.LIBRARY_MADE}}
    )
    metadata = new_table_metadata(
        table_uuid=table_uuid,
        location=location,
        schema=schema,
        properties=restored(properties, names),
        now_ms=now_ms,
    )
    return VersionFile(version, "table", metadata, names), metadata.to_json()


def check_schema_still_fits(written: Schema, current: Schema, table_name: str) -> None:
    """Check that rows written with one schema may be committed under a newer one: only a stricter one forbids it.

    Raises:
        InvalidRecordsError: the table's schema now demands what the rows do not have.
    """
    if current.schema_id == written.schema_id and not current.differences(written):
        return
    for field in current.fields:
        before = written.find(field.field_id)
        if field.required and (before is None or not before.required):
            raise InvalidRecordsError(
                f"table {table_name}: while these rows were on their way the schema changed, and field "
                f"{field.name!r} (id {field.field_id}) is required now. Nothing was appended: refresh the table "
                "and append rows that have it."
            )
