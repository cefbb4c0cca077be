"""What the next version of a table holds: pure functions from one version to the next."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from datashard_core.commit import names as names_module
from datashard_core.commit.names import CommitNames, Record
from datashard_core.commit.version import VersionBody, version_key
from datashard_core.errors import InvalidRecordsError
from datashard_core.format.data_file import DataFile
from datashard_core.format.manifest import (
    ADDED,
    ManifestEntry,
    ManifestFile,
    encode_manifest,
    encode_manifest_list,
)
from datashard_core.format.schema import Schema
from datashard_core.format.snapshot import Snapshot, append_summary
from datashard_core.format.table_metadata import TableMetadata, new_table_metadata

OUR_PROPERTIES = {
    names_module.PROTOCOL_PROPERTY: str(names_module.PROTOCOL_VERSION),
    # Names of versions are the commit points: a reader or engine that cleans up must leave them.
    "write.metadata.delete-after-commit.enabled": "false",
}


@dataclass(frozen=True, slots=True)
class NewManifest:
    """A manifest of new data files: encoded once, named in every attempt's manifest list."""

    key: str
    data: bytes
    snapshot_id: int
    files: tuple[DataFile, ...]
    spec_id: int

    def listed(self, location: str, sequence_number: int) -> ManifestFile:
        """Its entry in the manifest list of the snapshot with that sequence number."""
        rows = sum(file.record_count for file in self.files)
        return ManifestFile(
            manifest_path=f"{location}/{self.key}",
            manifest_length=len(self.data),
            partition_spec_id=self.spec_id,
            content=0,
            sequence_number=sequence_number,
            min_sequence_number=sequence_number,
            added_snapshot_id=self.snapshot_id,
            added_files_count=len(self.files),
            existing_files_count=0,
            deleted_files_count=0,
            added_rows_count=rows,
            existing_rows_count=0,
            deleted_rows_count=0,
        )


@dataclass(frozen=True, slots=True)
class NextVersion:
    """Everything of a version that is about to be committed."""

    version: int
    manifest_list_key: str
    manifest_list: bytes
    manifests: tuple[ManifestFile, ...]
    metadata: TableMetadata
    body: VersionBody
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
    return NewManifest(
        key=f"metadata/manifests/manifest_{unique}.avro",
        data=encode_manifest(entries, schema=schema, spec=table.spec),
        snapshot_id=snapshot_id,
        files=tuple(files),
        spec_id=table.spec.spec_id,
    )


def append_version(
    parent: VersionBody,
    live: Sequence[ManifestFile],
    added: NewManifest | None,
    *,
    commit_id: str,
    names: Mapping[str, Record],
    unique: str,
    now_ms: int,
) -> NextVersion:
    """The version after ``parent`` with the files of ``added``.

    Args:
        parent: the version that it is built on.
        live: the manifest list of the parent's current snapshot (empty if it has none).
        added: the manifest of the new files; None for a version that only names refusals.
        commit_id: digest of this commit's own id.
        names: the appends that it carries or refuses.
        unique: 32 fresh hexadecimal characters, for the manifest list's name.
        now_ms: this client's wall clock; history never runs backwards whatever it says.
    """
    table = parent.table
    property_ = names_module.following(
        parent.names,
        parent_version=parent.version,
        table=table.table_uuid,
        first=parent.first,
        commit_id=commit_id,
        names=names,
    )
    previous = f"{table.location}/{version_key(parent.version)}"
    key = f"metadata/manifests/manifest_list_{unique}.avro"
    manifests, encoded = tuple(live), b""
    if added is None:
        metadata = table.with_update(now_ms=now_ms, previous_metadata=previous)
    else:
        sequence_number = table.last_sequence_number + 1
        manifests = (*live, added.listed(table.location, sequence_number))
        current = table.current_snapshot
        snapshot = Snapshot(
            snapshot_id=added.snapshot_id,
            parent_snapshot_id=current.snapshot_id if current is not None else None,
            sequence_number=sequence_number,
            timestamp_ms=now_ms,
            manifest_list=f"{table.location}/{key}",
            summary=append_summary(current, added.files, parent_totals=_totals(live) if current else None),
            schema_id=table.schema.schema_id,
        )
        metadata = table.with_snapshot(snapshot, now_ms=now_ms, previous_metadata=previous)
        encoded = encode_manifest_list(
            manifests,
            snapshot_id=snapshot.snapshot_id,
            parent_snapshot_id=snapshot.parent_snapshot_id,
            sequence_number=sequence_number,
        )
    metadata = metadata.with_properties(_restored(table.properties, property_))
    version = parent.version + 1
    return NextVersion(
        version=version,
        manifest_list_key=key,
        manifest_list=encoded,
        manifests=manifests,
        metadata=metadata,
        body=VersionBody(version, "table", metadata, property_),
        data=metadata.to_json(),
    )


def with_next(prepared: NextVersion, next_id: str, line: int) -> NextVersion:
    """The same version, saying whose turn it is after it, and how many wait."""
    assert prepared.body.names is not None
    names = replace(prepared.body.names, next=next_id, line=line)
    metadata = prepared.metadata.with_properties(_restored(prepared.metadata.properties, names))
    body = replace(prepared.body, metadata=metadata, names=names)
    return replace(prepared, metadata=metadata, body=body, data=metadata.to_json())


def _totals(live: Sequence[ManifestFile]) -> dict[str, int]:
    """Totals that the manifest list tells, for a parent whose summary lacks them."""
    return {
        "total-records": sum((m.added_rows_count or 0) + (m.existing_rows_count or 0) for m in live if m.content == 0),
        "total-data-files": sum(
            (m.added_files_count or 0) + (m.existing_files_count or 0) for m in live if m.content == 0
        ),
    }


def _restored(properties: Mapping[str, str], names: CommitNames) -> dict[str, str]:
    """Our properties, put back where another engine dropped them."""
    return {**properties, **OUR_PROPERTIES, names_module.PROPERTY: names_module.encode(names)}


def first_version(
    *,
    version: int,
    table_uuid: str,
    location: str,
    schema: Schema,
    properties: Mapping[str, str],
    commit_id: str,
    now_ms: int,
) -> tuple[VersionBody, bytes]:
    """The version that creates a table: v0, or the one after the marker of a drop."""
    names = CommitNames(
        table_uuid, version, version, commit_id, version, {version: {commit_id: names_module.LIBRARY_MADE}}
    )
    metadata = new_table_metadata(
        table_uuid=table_uuid,
        location=location,
        schema=schema,
        properties=_restored(properties, names),
        now_ms=now_ms,
    )
    return VersionBody(version, "table", metadata, names), metadata.to_json()


def check_schema_still_fits(written: Schema, current: Schema, table_name: str) -> None:
    """Rows encoded for one schema, committed under a newer one: only a stricter one contradicts.

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
