"""One version of a table, ``vN.metadata.json``: bytes to values and back. Pure.

A version is a table (Iceberg metadata), the marker of a drop, or a tombstone that maintenance wrote over a superseded
version so that its name stays taken. Markers and tombstones have no ``format-version``, so every Iceberg reader rejects
them.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

import msgspec
from msgspec import Struct, field

from datashard_core.commit.core import recorded_ids
from datashard_core.commit.core.recorded_ids import CommitNames, Record
from datashard_core.errors import CorruptTableError, UnsupportedTableError
from datashard_core.format.json_text import decode_object, whole_number
from datashard_core.format.metadata.table_metadata import TableMetadata, metadata_from

HINT_KEY = "metadata/version-hint.text"
DROPPED = "datashard.dropped"
TOMBSTONE = "datashard.tombstone"
MAX_VERSION = 2**40
"""Versions above are not looked for: a table with a commit each millisecond has that many after 35 years."""
VersionState = Literal["table", "dropped", "tombstone"]


def version_key(version: int) -> str:
    """Key of the commit object of a version."""
    return f"metadata/v{version}.metadata.json"


def hinted_version(hint: bytes) -> int | None:
    """The version that a hint names; None if it names none, or one that no table has."""
    return whole_number(hint.strip(), MAX_VERSION)


class VersionFile(Struct, frozen=True):
    """The body of ``v{version}.metadata.json``.

    Attributes:
        version: its number.
        state: a live table, the marker of a drop, or a tombstone.
        metadata: the Iceberg metadata (only where ``state`` is "table").
        names: its property ``datashard.commit``, which another engine may have copied from an older version.
        origin: version that created this table, where the body itself does not tell and earlier ones did.
    """

    version: int
    state: VersionState
    metadata: TableMetadata | None
    names: CommitNames | None
    origin: int | None = None

    @property
    def named(self) -> Mapping[str, Record]:
        """Appends that this version itself committed or refused."""
        return recorded_ids.recorded_by(self.version, self.names)

    @property
    def next(self) -> str:
        """Digest of the append id whose owner is expected to commit next; empty if none is."""
        return self.names.next if self.names is not None and self.names.version == self.version else ""

    @property
    def queue_length(self) -> int:
        """Number of appends that waited when this version was committed, as its committer saw it."""
        return self.names.line if self.names is not None and self.next else 0

    @property
    def table(self) -> TableMetadata:
        """The Iceberg metadata of a live table."""
        if self.metadata is None:
            raise CorruptTableError(f"version {self.version} is a {self.state}, not a table")
        return self.metadata

    @property
    def uuid(self) -> str:
        """Identity of the table that the version is of, or that it ended; empty where the body does not tell."""
        if self.metadata is not None:
            return self.metadata.table_uuid
        return self.names.table if self.names is not None else ""

    @property
    def first(self) -> int:
        """Version that created this table, as far as is known; else 0."""
        return self.names.first if self.names is not None else self.origin or 0

    @property
    def is_a_beginning(self) -> bool:
        """Whether another engine may have begun the table with this version: it knows of none before it.

        A table that we committed rows to, and another engine again, has a higher sequence number.
        """
        table = self.metadata
        return table is not None and self.names is None and not table.metadata_log and table.last_sequence_number <= 1


def parse_version(data: bytes, version: int, where: str) -> VersionFile:
    """Parse a commit object.

    Args:
        data: its body.
        version: the number in its name.
        where: its URI, for error messages.

    Raises:
        CorruptTableError: not JSON, or not what a version holds.
        UnsupportedTableError: another format version, or a newer protocol version of this library.
    """
    raw = decode_object(data, where)
    if TOMBSTONE in raw:
        return VersionFile(version, "tombstone", None, None)
    if DROPPED in raw:
        try:
            marker = msgspec.convert(raw, _Marker)
        except msgspec.ValidationError as error:
            raise CorruptTableError(f"{where} is not the marker of a dropped table ({error}): restore it") from error
        return VersionFile(version, "dropped", None, recorded_ids.parse(marker.properties, marker.table_uuid))
    metadata = metadata_from(raw, where)
    check_protocol(metadata, where)
    return VersionFile(version, "table", metadata, recorded_ids.parse(metadata.properties, metadata.table_uuid))


class _Marker(Struct, rename="kebab"):
    table_uuid: str = ""
    properties: dict[str, str] = field(default_factory=dict)


def uuid_in(data: bytes) -> str:
    """The table's identity in any commit object, tombstones too; empty where there is none."""
    try:
        return str(decode_object(data, "").get("table-uuid", ""))
    except CorruptTableError:
        return ""


def check_protocol(metadata: TableMetadata, where: str) -> None:
    """Refuse a table that a newer release committed to in a way that this one does not know."""
    text = metadata.properties.get(recorded_ids.PROTOCOL_PROPERTY, "")
    if text and whole_number(text, recorded_ids.PROTOCOL_VERSION) is None:
        raise UnsupportedTableError(
            f"{where}: {recorded_ids.PROTOCOL_PROPERTY} is {text!r:.80}, and this release of datashard-core knows "
            f"{recorded_ids.PROTOCOL_VERSION}. Upgrade datashard-core; Iceberg readers are not affected."
        )


def dropped_marker(table_uuid: str, names: CommitNames, now_ms: int) -> bytes:
    """Body of the version that drops a table."""
    return msgspec.json.encode(
        {
            DROPPED: 1,
            "table-uuid": table_uuid,
            "dropped-at-ms": now_ms,
            "properties": {recorded_ids.PROPERTY: recorded_ids.encode(names)},
        }
    )


def tombstone(table_uuid: str) -> bytes:
    """Body that keeps the name of a version taken when nothing else of it is needed."""
    return msgspec.json.encode({TOMBSTONE: 1, "table-uuid": table_uuid})
