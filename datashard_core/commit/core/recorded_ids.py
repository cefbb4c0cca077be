"""The append ids that versions record: the table property ``datashard.commit``.

Every version of this library records in one table property the appends that it committed or refused. It repeats the
records of the versions before it, back to the last multiple of 16. The history is immutable, so a copy can be absent
but not wrong. A version whose property has another version number, or none, was written by another engine and records
nothing itself.

Everything here is pure. See ``docs/design/commit-protocol.md``, "Objects of one table".
"""

from __future__ import annotations

from binascii import a2b_base64, b2a_base64
from collections.abc import Mapping
from typing import Any

import msgspec
from msgspec import Struct, field

from datashard_core.errors import CorruptTableError
from datashard_core.format.json_text import MAX_NUMBER, whole_number

PROPERTY = "datashard.commit"
PROTOCOL_PROPERTY = "datashard.protocol-version"
PROTOCOL_VERSION = 1
BLOCK = 16
MAX_PROPERTY_BYTES = 64 * 1024
"""Limit for the repeated records of earlier versions; the records of the version itself are always complete."""

DIGEST_BYTES = 16
"""Length of the digests of append ids and of rows: BLAKE2b-128."""

LIBRARY_MADE = ""
"""Recorded instead of a rows digest for an id made by the library: such ids are never reused."""


class Refusal(Struct, frozen=True):
    """A record that an append is not in the table, and why."""

    reason: str


Record = str | Refusal
"""What a version records of an append id: the digest of its rows, or the refusal."""


class CommitNames(Struct, frozen=True):
    """The property ``datashard.commit`` of one version, parsed.

    Attributes:
        table: uuid of the table.
        version: the version that wrote it.
        first: the version that created this table (0, or later for a table made again).
        commit_id: digest of the commit's own id.
        since: lowest version whose records are in ``names``.
        names: for each version from ``since`` to ``version``, digest of append id -> record.
        next: digest of the append id whose owner is expected to commit next; empty if none is. Only speed depends on
            it.
        line: number of waiting appends then, up to one page of a listing. Only speed depends on it.
        token: identifies the try that created the version, because tries for one append share the commit's id. Empty
            if the commit's id suffices.
        parent: token (or commit id) of the version that it was built on, empty for one of another engine; None if a
            release wrote it that did not record the parent.
    """

    table: str
    version: int
    first: int
    commit_id: str
    since: int
    names: Mapping[int, Mapping[str, Record]] = field(default_factory=dict)
    next: str = ""
    line: int = 0
    token: str = ""
    parent: str | None = None

    @property
    def own_token(self) -> str:
        """The value of ``parent`` in a version that is built on this one."""
        return self.token or self.commit_id

    def records_version(self, version: int) -> bool:
        """Whether the property holds the records of that version."""
        return self.since <= version <= self.version

    def of(self, version: int) -> Mapping[str, Record]:
        """Records of a version for which :meth:`records_version` is true."""
        return self.names.get(version, {})


def parse(properties: Mapping[str, str], table_uuid: str) -> CommitNames | None:
    """Parse the property if a version of this table wrote it; None if it is absent or another table's.

    Raises:
        CorruptTableError: it is present and cannot be read. That does not count as absent, because an append that it
            records could then be committed twice.
    """
    text = properties.get(PROPERTY)
    if text is None:
        return None
    try:
        raw = msgspec.json.decode(text)
        if raw["table"] != table_uuid:
            return None
        found = CommitNames(
            table=raw["table"],
            version=_number(raw["version"]),
            first=_number(raw["first"]),
            commit_id=str(raw["id"]),
            since=_number(raw["since"]),
            names={_number(version): _decode(named) for version, named in raw["names"].items()},
            next=str(raw.get("next", "")),
            line=_number(raw.get("line", 0)),
            token=str(raw.get("token", "")),
            parent=None if raw.get("parent") is None else str(raw["parent"]),
        )
        # The records go back to a multiple of 16 at most: look-ups visit a longer range version by version.
        if not found.version - BLOCK < found.since <= found.version or not all(map(found.records_version, found.names)):
            raise ValueError(f"it has records of versions from {found.since} to {found.version}")
        return found
    except (LookupError, TypeError, ValueError, AttributeError, RecursionError) as error:
        raise CorruptTableError(
            f"table {table_uuid}: the table property {PROPERTY!r} cannot be read ({error!s:.300}): {text[:200]!r}. "
            "Remove the property with the engine that changed it, while no append is running."
        ) from error


def _number(value: Any) -> int:
    """A version or a count: an int, or the digits of one where it is a key."""
    number = whole_number(value) if isinstance(value, str) else value
    if type(number) is not int or not 0 <= number <= MAX_NUMBER:
        raise ValueError(f"{value!r:.80} is not the number of a version")
    return number


def recorded_by(version: int, property_: CommitNames | None) -> Mapping[str, Record]:
    """The appends that a version itself committed or refused, by the property in its metadata.

    Empty for a version of another engine, which drops the property or copies an older one.
    """
    if property_ is None or property_.version != version:
        return {}
    return property_.of(version)


def following(
    parent: CommitNames | None,
    *,
    parent_version: int,
    table: str,
    first: int,
    commit_id: str,
    names: Mapping[str, Record],
    token: str = "",
) -> CommitNames:
    """The property of the version after ``parent_version``.

    Args:
        parent: the property in the parent's metadata, written by this library or copied by another engine.
        parent_version: number of the parent (-1 when the table is created as v0).
        table: uuid of the table.
        first: version that created this table.
        commit_id: digest of this commit's own id.
        names: what this commit commits or refuses; its own id is added.
        token: identifies this try, if others may be made under the same commit id.

    Returns:
        The property, with the records of ``parent`` back to the last multiple of 16.
    """
    version = parent_version + 1
    recorded: dict[int, Mapping[str, Record]] = {version: {commit_id: LIBRARY_MADE, **names}}
    room = MAX_PROPERTY_BYTES - _size(recorded[version])
    since = version
    floor = max(first, version - version % BLOCK)
    for earlier in range(parent_version, floor - 1, -1):
        named = _known(parent, earlier, parent_version)
        if named is None or room < _size(named):
            break
        room -= _size(named)
        recorded[earlier] = named
        since = earlier
    built_on = parent.own_token if parent is not None and parent.version == parent_version else ""
    return CommitNames(table, version, first, commit_id, since, recorded, token=token, parent=built_on)


def _known(parent: CommitNames | None, version: int, parent_version: int) -> Mapping[str, Record] | None:
    """Records of a version if the parent's property holds them; None if not."""
    if parent is not None and parent.records_version(version):
        return parent.of(version)
    if version == parent_version and (parent is None or parent.version != version):
        return {}  # a version of another engine records nothing itself
    return None


def _size(named: Mapping[str, Record]) -> int:
    return 24 + sum(_record_size(record) for record in named.values())


def _record_size(record: Record) -> int:
    """Characters of a record: base64 of one digest or of two; or a hexadecimal digest and the reason."""
    if isinstance(record, Refusal):
        return 2 * DIGEST_BYTES + 8 + len(record.reason)
    return -(-DIGEST_BYTES * (2 if record else 1) * 4 // 3)


def encode(names: CommitNames) -> str:
    """The property's text."""
    return msgspec.json.encode(
        {
            "table": names.table,
            "version": names.version,
            "first": names.first,
            "id": names.commit_id,
            "since": names.since,
            **({"token": names.token} if names.token else {}),
            **({"parent": names.parent} if names.parent is not None else {}),
            **({"next": names.next, "line": names.line} if names.next else {}),
            "names": {str(version): _encode(named) for version, named in sorted(names.names.items()) if named},
        }
    ).decode()


def _encode(named: Mapping[str, Record]) -> list[Any]:
    """Encode the records of a version: ids of the library, ids with the digest of their rows, and refusals.

    Digests cannot be compressed, so they are packed end to end: a version has up to 512, and up to 15 other versions
    repeat each.
    """
    made, handed_in, refused = [], [], {}
    for own, record in named.items():
        if isinstance(record, Refusal):
            refused[own] = record.reason
        elif record == LIBRARY_MADE:
            made.append(own)
        else:
            handed_in += [own, record]
    return [_packed(made), _packed(handed_in), *([refused] if refused else [])]


def _decode(raw: Any) -> dict[str, Record]:
    made, handed_in, *rest = raw
    pairs = iter(_unpacked(handed_in))
    named: dict[str, Record] = dict.fromkeys(_unpacked(made), LIBRARY_MADE)
    named.update(zip(pairs, pairs, strict=True))
    for refused in rest:
        named.update({own: Refusal(str(reason)) for own, reason in refused.items()})
    return named


def _packed(digests: list[str]) -> str:
    return b2a_base64(b"".join(map(bytes.fromhex, digests)), newline=False).decode()


def _unpacked(text: str) -> list[str]:
    raw = a2b_base64(text, strict_mode=True)
    if len(raw) % DIGEST_BYTES:
        raise ValueError(f"{len(raw)} bytes are no digests of {DIGEST_BYTES} bytes each")
    return [raw[start : start + DIGEST_BYTES].hex() for start in range(0, len(raw), DIGEST_BYTES)]
