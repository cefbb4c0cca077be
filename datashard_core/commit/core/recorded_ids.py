"""Which appends a version committed: the table property ``datashard.commit``.

Every version that we write names, in one table property, the appends that it committed or refused,
and repeats the names of the versions before it back to the last multiple of 16. A copy can be
absent, never wrong: it states what an immutable history says. A version whose property carries
another number (or none) was written by another engine and names nothing itself.

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
"""What is told of earlier versions ends there; the names of the version itself are always whole."""

DIGEST_BYTES = 16
"""Of append ids and of rows: BLAKE2b-128."""

LIBRARY_MADE = ""
"""Recorded in the place of a rows digest for an id that the library made: it never comes back."""


class Refusal(Struct, frozen=True):
    """A committed statement that an append is not in the table, and why."""

    reason: str


Record = str | Refusal
"""What a version says of an append id: the digest of its rows, or the refusal."""


class CommitNames(Struct, frozen=True):
    """The property ``datashard.commit`` of one version, parsed.

    Attributes:
        table: uuid of the table.
        version: the version that wrote it.
        first: the version that created this table (0, or later for a table made again).
        commit_id: digest of the commit's own id.
        since: lowest version whose names are told here.
        names: for each version from ``since`` to ``version``, digest of append id -> record.
        next: digest of the append id whose owner is expected to commit next; empty if nobody is.
            Only speed depends on it.
        line: how many waited then, as far as one page of a listing shows; likewise.
        token: names this very try to create the version: tries for one append share the commit's id. Empty
            where the commit's id is as good.
        parent: token (or commit id) of the version it was built on, empty for one of another engine; None:
            it was written by a release that did not record it.
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
        """What a version that is built on this one records as its parent."""
        return self.token or self.commit_id

    def records_version(self, version: int) -> bool:
        """Whether the names of that version are known from here."""
        return self.since <= version <= self.version

    def of(self, version: int) -> Mapping[str, Record]:
        """Names of a version that :meth:`tells` knows."""
        return self.names.get(version, {})


def parse(properties: Mapping[str, str], table_uuid: str) -> CommitNames | None:
    """The property as written by some version of this very table; None if absent or another's.

    Raises:
        CorruptTableError: it is there and cannot be read. It is never taken for an absent one:
            an append that it names could then be committed twice.
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
        # What is told goes back to a multiple of 16: a longer range would be walked over, version by version.
        if not found.version - BLOCK < found.since <= found.version or not all(map(found.records_version, found.names)):
            raise ValueError(f"it tells names of versions from {found.since} to {found.version}")
        return found
    except (LookupError, TypeError, ValueError, AttributeError, RecursionError) as error:
        raise CorruptTableError(
            f"table {table_uuid}: the table property {PROPERTY!r} cannot be read ({error!s:.300}): {text[:200]!r}. "
            "Remove the property with the engine that changed it, once no append is under way."
        ) from error


def _number(value: Any) -> int:
    """A version or a count: an int, or the digits of one where it is a key."""
    number = whole_number(value) if isinstance(value, str) else value
    if type(number) is not int or not 0 <= number <= MAX_NUMBER:
        raise ValueError(f"{value!r:.80} is no number of a version")
    return number


def recorded_by(version: int, property_: CommitNames | None) -> Mapping[str, Record]:
    """What version ``version`` itself committed or refused, by the property found in its body.

    Empty for a version of another engine, which dropped the property or carried an older one on.
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
        parent: the property found in the parent's body, ours or carried on by another engine.
        parent_version: number of the parent (-1 when the table is created as v0).
        table: uuid of the table.
        first: version that created this table.
        commit_id: digest of this commit's own id.
        names: what this commit commits or refuses; its own id is added.
        token: names this very try, where others may be made under the same commit id.

    Returns:
        The property, repeating what ``parent`` tells back to the last multiple of 16.
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
    """Names of a version as far as the parent's body tells them; None if it does not."""
    if parent is not None and parent.records_version(version):
        return parent.of(version)
    if version == parent_version and (parent is None or parent.version != version):
        return {}  # a version of another engine names nothing itself
    return None


def _size(named: Mapping[str, Record]) -> int:
    return 24 + sum(_record_size(record) for record in named.values())


def _record_size(record: Record) -> int:
    """Characters of an id and what is said of it: base64 of one digest or of two; or hexadecimal, and the reason."""
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
    """Names of a version: ids that the library made, ids with the digest of their rows, and refusals if any.

    Digests are as good as random, so they are packed end to end: there are up to 512 in a version, each
    repeated by up to 15 others.
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
