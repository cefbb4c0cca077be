"""Table metadata, ``vN.metadata.json`` (Iceberg spec, "Table Metadata").

A :class:`TableMetadata` wraps the JSON as it was read. What we do not know of it (statistics,
encryption keys, whatever another engine wrote) is kept as it is in every version that follows.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import cached_property
from typing import Annotated, Any

import msgspec

from datashard_core.errors import ConfigurationError, CorruptTableError, UnsupportedTableError
from datashard_core.format.json_text import MAX_NUMBER, decode_object
from datashard_core.format.metadata.data_file import Count, Id
from datashard_core.format.metadata.partition import FIRST_FIELD_ID, PartitionSpec
from datashard_core.format.metadata.retention import Retention, retained
from datashard_core.format.metadata.snapshot import Snapshot
from datashard_core.format.types.schema import Schema

FORMAT_VERSION = 2


_Long = Annotated[int, msgspec.Meta(ge=-(2**63), le=2**63 - 1)]
_Time = Annotated[int, msgspec.Meta(ge=0, le=253_402_300_799_999)]
"""Milliseconds since 1970, up to the last of the year 9999: Python has no later time."""


class _LogEntry(msgspec.Struct, rename="kebab"):
    snapshot_id: _Long
    timestamp_ms: _Time


class _SnapshotShape(msgspec.Struct, rename="kebab"):
    snapshot_id: _Long
    timestamp_ms: _Time
    sequence_number: Count = 0
    parent_snapshot_id: _Long | None = None


class _RefShape(msgspec.Struct, rename="kebab"):
    snapshot_id: _Long | None = None
    type: str = "branch"
    min_snapshots_to_keep: _Long | None = None
    max_snapshot_age_ms: _Long | None = None


class _SpecField(msgspec.Struct, rename="kebab"):
    source_id: Id
    field_id: Id
    name: str
    transform: str


class _Spec(msgspec.Struct, rename="kebab"):
    spec_id: Id
    fields: list[_SpecField]


class _Shape(msgspec.Struct, rename="kebab"):
    """What the format demands, as far as this library builds on it; other keys are not looked at."""

    table_uuid: str
    location: Annotated[str, msgspec.Meta(min_length=1)]
    last_sequence_number: Count
    last_updated_ms: _Time
    last_column_id: Id
    schemas: list[dict[str, Any]]
    current_schema_id: Id
    partition_specs: list[_Spec]
    default_spec_id: Id
    current_snapshot_id: _Long | None = None
    properties: dict[str, str] | None = None
    snapshots: list[_SnapshotShape] | None = None
    snapshot_log: list[_LogEntry] | None = None
    metadata_log: list[dict[str, Any]] | None = None
    refs: dict[str, _RefShape] | None = None
    statistics: list[dict[str, Any]] | None = None
    partition_statistics: list[dict[str, Any]] | None = None


class TableMetadata:
    """One version of a table's metadata. Immutable: updates return a new one.

    Args:
        raw: the JSON object, not to be changed afterwards.
        where: URI of the file that it was read from, for messages; its location by default.
    """

    def __init__(self, raw: Mapping[str, Any], where: str | None = None) -> None:
        self._raw = raw
        self._where = where if where is not None else str(raw.get("location"))

    def __repr__(self) -> str:
        return f"<TableMetadata {self.location} snapshot {self.current_snapshot_id}>"

    @property
    def table_uuid(self) -> str:
        """Identity of the table."""
        return str(self._raw["table-uuid"])

    @property
    def location(self) -> str:
        """URI of the table's folder, without a slash at the end."""
        return str(self._raw["location"]).rstrip("/")

    @property
    def last_sequence_number(self) -> int:
        """Sequence number of the newest commit."""
        return int(self._raw["last-sequence-number"])

    @property
    def last_updated_ms(self) -> int:
        """When this version was made, in milliseconds since 1970."""
        return int(self._raw["last-updated-ms"])

    @property
    def last_column_id(self) -> int:
        """Highest field id ever given out."""
        return int(self._raw["last-column-id"])

    @property
    def current_snapshot_id(self) -> int | None:
        """Id of the current snapshot; None while there is none (some engines write -1)."""
        number = self._raw.get("current-snapshot-id")
        return None if number is None or number == -1 else int(number)

    @property
    def properties(self) -> Mapping[str, str]:
        """The table's properties."""
        return self._raw.get("properties") or {}

    @property
    def snapshot_log(self) -> list[dict[str, Any]]:
        """Which snapshot was current from when on."""
        return list(self._raw.get("snapshot-log") or [])

    @property
    def metadata_log(self) -> list[dict[str, Any]]:
        """Earlier metadata files."""
        return list(self._raw.get("metadata-log") or [])

    @cached_property
    def schemas(self) -> tuple[Schema, ...]:
        """Every schema that the table has had."""
        try:
            return tuple(Schema.from_dict(raw) for raw in self._raw["schemas"])
        except ConfigurationError as error:
            raise CorruptTableError(f"{self._where}: a schema cannot be read ({error}): restore it") from error

    @cached_property
    def schema(self) -> Schema:
        """The current schema."""
        wanted = self._raw["current-schema-id"]
        for schema in self.schemas:
            if schema.schema_id == wanted:
                return schema
        raise CorruptTableError(f"{self._where}: the current schema, {wanted}, is not among the schemas")

    @cached_property
    def spec(self) -> PartitionSpec:
        """The partition spec that new data files are written with."""
        wanted = self._raw["default-spec-id"]
        found = self.spec_by_id(wanted)
        if found is None:
            raise CorruptTableError(f"{self._where}: the default partition spec, {wanted}, is not among the specs")
        return found

    @cached_property
    def append_spec(self) -> PartitionSpec:
        """The spec without partitions, which appended files are written under, whatever the default is.

        A table that another engine partitioned holds files of several specs. An append does not divide its
        rows by partition: its files are pruned by their bounds. The table's own spec where it has such a one,
        else one that :meth:`with_append_spec` adds.
        """
        specs = [PartitionSpec.from_dict(raw) for raw in self._raw["partition-specs"]]
        plain = [spec for spec in specs if not spec.fields]
        if plain:
            return self.spec if not self.spec.fields else plain[-1]
        return PartitionSpec(spec_id=1 + max(spec.spec_id for spec in specs))

    def with_append_spec(self) -> TableMetadata:
        """The same with :attr:`append_spec` among its specs."""
        if self.spec_by_id(self.append_spec.spec_id) is not None:
            return self
        return TableMetadata(
            {**self._raw, "partition-specs": [*self._raw["partition-specs"], self.append_spec.to_dict()]}
        )

    def spec_by_id(self, spec_id: int) -> PartitionSpec | None:
        """The partition spec of that id, if the table has it."""
        for raw in self._raw["partition-specs"]:
            if raw.get("spec-id") == spec_id:
                return PartitionSpec.from_dict(raw)
        return None

    @cached_property
    def snapshots(self) -> tuple[Snapshot, ...]:
        """The snapshots that are kept, oldest first."""
        found = [Snapshot.from_dict(raw, self._where) for raw in self._raw.get("snapshots") or []]
        return tuple(sorted(found, key=lambda snapshot: snapshot.sequence_number))

    @property
    def current_snapshot(self) -> Snapshot | None:
        """The current snapshot; None while nothing was ever appended."""
        wanted = self.current_snapshot_id
        if wanted is None:
            return None
        found = self.snapshot_by_id(wanted)
        if found is None:
            raise CorruptTableError(f"{self._where}: the current snapshot, {wanted}, is not among the snapshots")
        return found

    def snapshot_by_id(self, snapshot_id: int) -> Snapshot | None:
        """The snapshot of that id, if it is kept."""
        for raw in reversed(self._raw.get("snapshots") or []):
            if raw.get("snapshot-id") == snapshot_id:
                return Snapshot.from_dict(raw, self._where)
        return None

    def snapshot_as_of(self, timestamp_ms: int) -> Snapshot | None:
        """The snapshot that was current at a time; None if there was none, or it is not kept."""
        current: int | None = None
        for entry in self.snapshot_log:
            if entry["timestamp-ms"] > timestamp_ms:
                break
            current = entry["snapshot-id"]
        return self.snapshot_by_id(current) if current is not None else None

    def to_json(self) -> bytes:
        """The bytes of the metadata file."""
        return msgspec.json.encode(self._raw)

    def with_properties(self, properties: Mapping[str, str]) -> TableMetadata:
        """The same with other properties."""
        return TableMetadata({**self._raw, "properties": dict(properties)})

    def with_update(self, *, now_ms: int, previous_metadata: str | None) -> TableMetadata:
        """The next version with nothing changed but its time and its log."""
        return TableMetadata({**self._raw, **self._advanced(now_ms, previous_metadata)})

    def with_snapshot(self, snapshot: Snapshot, *, now_ms: int, previous_metadata: str | None) -> TableMetadata:
        """The next version, with a new current snapshot.

        Args:
            snapshot: its time is moved on if it lies before this version's: readers reject histories
                that run backwards.
            now_ms: the committer's clock.
            previous_metadata: URI of this version's file, for the metadata log.

        Raises:
            CorruptTableError: the sequence number is out of range.
        """
        if snapshot.sequence_number > MAX_NUMBER:
            raise CorruptTableError(
                f"{self._where}: the last sequence number, {self.last_sequence_number}, is the highest that there is, "
                "and no table has that many commits: restore an earlier version. Nothing was written."
            )
        advanced = self._advanced(now_ms, previous_metadata)
        raw_snapshot = snapshot.to_dict()
        raw_snapshot["timestamp-ms"] = max(snapshot.timestamp_ms, advanced["last-updated-ms"])
        advanced["last-updated-ms"] = raw_snapshot["timestamp-ms"]
        entry = {"snapshot-id": snapshot.snapshot_id, "timestamp-ms": raw_snapshot["timestamp-ms"]}
        refs = dict(self._raw.get("refs") or {})
        # Another engine may have set how long the branch's snapshots are kept.
        refs["main"] = {**refs.get("main", {}), "snapshot-id": snapshot.snapshot_id, "type": "branch"}
        return TableMetadata(
            {
                **self._raw,
                **advanced,
                "last-sequence-number": max(self.last_sequence_number, snapshot.sequence_number),
                "current-snapshot-id": snapshot.snapshot_id,
                "refs": refs,
                "snapshots": [*(self._raw.get("snapshots") or []), raw_snapshot],
                "snapshot-log": [*self.snapshot_log, entry],
            }
        )

    def within(self, keep: Retention) -> TableMetadata:
        """The same, cut back to the snapshots and log entries that are to be kept."""
        changes = retained(self._raw, keep)
        return TableMetadata({**self._raw, **changes}) if changes else self

    def _advanced(self, now_ms: int, previous_metadata: str | None) -> dict[str, Any]:
        log = self.metadata_log
        if previous_metadata is not None:
            log.append({"metadata-file": previous_metadata, "timestamp-ms": self.last_updated_ms})
        return {"last-updated-ms": max(now_ms, self.last_updated_ms + 1), "metadata-log": log}


def parse_raw(data: bytes, where: str) -> dict[str, Any]:
    """The JSON object of a metadata file, whatever kind it is.

    Args:
        data: its bytes.
        where: its URI, for messages.

    Raises:
        CorruptTableError: it is not a JSON object, or beyond a limit.
    """
    return decode_object(data, where)


def is_marker(raw: Mapping[str, Any]) -> bool:
    """Whether a JSON object only keeps a version's name taken and holds no table: see ``docs/design``."""
    return "format-version" not in raw


def metadata_from(raw: Mapping[str, Any], where: str) -> TableMetadata:
    """The metadata in an object that :func:`parse_raw` gave; raises as :func:`parse_metadata` does."""
    if is_marker(raw):
        raise UnsupportedTableError(
            f"{where} holds no table: it has no format-version. The table was dropped, or the version is kept by "
            "name only; read its newest version."
        )
    version = raw["format-version"]
    if version != FORMAT_VERSION:
        raise UnsupportedTableError(
            f"{where} has Iceberg format version {version!r:.80}, and this release reads and writes {FORMAT_VERSION}. "
            "Use the engine that made it, or rewrite it as version 2."
        )
    try:
        msgspec.convert(raw, _Shape)
    except msgspec.ValidationError as error:
        raise CorruptTableError(f"{where} is not table metadata ({error}): restore it") from error
    return TableMetadata(raw, where)


def parse_metadata(data: bytes, where: str) -> TableMetadata:
    """Read a metadata file.

    Args:
        data: its bytes.
        where: its URI, for messages.

    Raises:
        CorruptTableError: it is not JSON, or a key that the format demands is missing or of another type.
        UnsupportedTableError: it has another format version than 2, or none (then it holds no table).
    """
    return metadata_from(parse_raw(data, where), where)


def new_table_metadata(
    *, table_uuid: str, location: str, schema: Schema, properties: Mapping[str, str], now_ms: int
) -> TableMetadata:
    """Metadata of a table that has no rows yet.

    Args:
        table_uuid: its identity.
        location: URI of its folder.
        schema: its schema.
        properties: its properties.
        now_ms: the time, in milliseconds since 1970.
    """
    return TableMetadata(
        {
            "format-version": FORMAT_VERSION,
            "table-uuid": table_uuid,
            "location": location,
            "last-sequence-number": 0,
            "last-updated-ms": now_ms,
            "last-column-id": schema.highest_field_id,
            "current-schema-id": schema.schema_id,
            "schemas": [schema.to_dict()],
            "default-spec-id": 0,
            "partition-specs": [PartitionSpec().to_dict()],
            "last-partition-id": FIRST_FIELD_ID - 1,
            "default-sort-order-id": 0,
            "sort-orders": [{"order-id": 0, "fields": []}],
            "properties": dict(properties),
            # Readers of today take -1, null and no such key alike; older Java readers demand a number.
            "current-snapshot-id": -1,
            "refs": {},
            "snapshots": [],
            "snapshot-log": [],
            "metadata-log": [],
        }
    )
