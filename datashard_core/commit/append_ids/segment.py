"""Index segments: the append ids of older versions, in a few small objects.

Segment (L, N), for N divisible by 16^L, holds the records of the versions [s, N), where s is the multiple of 16^(L+1)
before N. It is a pure function of the history, so any process may write it any number of times, and each is made of two
others. Records are sorted and of equal width, so a small range of a large segment is enough for a look-up.
"""

from __future__ import annotations

import re
import struct
from collections.abc import Iterable, Iterator, Mapping
from uuid import UUID

from msgspec import Struct

from datashard_core._imports import blake2b
from datashard_core.commit.append_ids.lookback import RecordedOutcome
from datashard_core.commit.core.recorded_ids import BLOCK, Record, Refusal
from datashard_core.errors import CorruptTableError

PREFIX = "_datashard/ids/"
LEVELS_AT_COMMIT = (1, 2)
TOP_LEVEL = 2
REFUSED_EARLIER = "refused by an earlier version"
"""The reason of every refusal in a segment: segments do not keep the text."""

WINDOW = 64 * 1024
"""Bytes of a segment that a look-up reads first: all of it, up to some 1,500 appends."""

TOO_LARGE = 4 * 2**20
"""Bytes above which only maintenance writes a segment; until then, look-ups read its parts."""

WATERMARK = PREFIX + "forgotten.json"
"""Object that records up to which version maintenance has removed segments for good."""

ALL_VERSIONS = range(2**64)

_MAGIC = b"DSN1"
_KEY = re.compile(rf"{PREFIX}([1-{TOP_LEVEL}])/(\d{{20}})")
_HEADER = struct.Struct(">4s16sQQqI")  # magic, table uuid, since, until, ms of the last version, records
_RECORD = struct.Struct(">16sQB16s")  # id digest, version, kind, rows digest
_COMMITTED, _LIBRARY_MADE, _REFUSED = 0, 1, 2


class SegmentName(Struct, frozen=True):
    """The level and the end of a segment.

    Attributes:
        level: 1 or higher.
        until: the version N at which it ends, not included.
    """

    level: int
    until: int

    @property
    def key(self) -> str:
        """Key of the object."""
        return f"{PREFIX}{self.level}/{self.until:020d}"

    @property
    def since(self) -> int:
        """First version of the block that the segment belongs to."""
        block = int(BLOCK ** (self.level + 1))
        return (self.until - 1) // block * block

    @property
    def previous(self) -> SegmentName | None:
        """The segment of this level that this one continues, in the same block."""
        until = self.until - BLOCK**self.level
        return SegmentName(self.level, until) if until > self.since else None

    @property
    def parts(self) -> tuple[SegmentName, ...]:
        """The segments that it is made of, newest first; on level 1 the records of 16 versions are added."""
        lower = (SegmentName(self.level - 1, self.until),) if self.level > 1 else ()
        return lower if self.previous is None else (*lower, self.previous)

    @property
    def superseded_names(self) -> tuple[SegmentName, ...]:
        """The later segments of the top level that hold all records of this one, oldest first."""
        step = int(BLOCK**TOP_LEVEL)
        block = step * BLOCK
        end = (self.until - 1) // block * block + block
        first = -(-self.until // step) * step
        return tuple(
            SegmentName(TOP_LEVEL, until)
            for until in range(first, end + 1, step)
            if (self.level, self.until) < (TOP_LEVEL, until)
        )

    @property
    def is_whole_block(self) -> bool:
        """Whether it is the last of the top level in its block, so that no later segment continues it."""
        return self.level == TOP_LEVEL and self.until % BLOCK ** (TOP_LEVEL + 1) == 0


class SegmentHeader(Struct, frozen=True):
    """The header of a segment.

    Attributes:
        table: uuid of the table, as 32 hexadecimal characters.
        since: lowest version whose records it holds.
        until: the version at which it ends, not included.
        last_ms: ``last-updated-ms`` of version ``until`` - 1, or a later time of its parts.
        count: how many records follow.
    """

    table: str
    since: int
    until: int
    last_ms: int
    count: int


def parse_key(key: str) -> SegmentName | None:
    """The segment that a key names; None for another object."""
    match = _KEY.fullmatch(key)
    return SegmentName(int(match[1]), int(match[2])) if match is not None else None


def due_after(version: int) -> list[SegmentName]:
    """The segments that the committer of ``version`` writes."""
    return [SegmentName(level, version) for level in LEVELS_AT_COMMIT if version and version % BLOCK**level == 0]


def needed_below(version: int, above: int) -> Iterator[SegmentName]:
    """The segments that together hold the records of the versions (above, version), newest first.

    Args:
        version: a multiple of 16; the records of later versions are read from versions.
        above: versions up to this one do not matter.
    """
    until, level = version, 1
    while until > 0 and until - 1 > above:
        while level < TOP_LEVEL and until % BLOCK ** (level + 1) == 0:
            level += 1
        name = SegmentName(level, until)
        yield name
        until = name.since


def encode_segment(
    table: str, since: int, until: int, last_ms: int, records: Iterable[tuple[str, RecordedOutcome]]
) -> bytes:
    """The bytes of a segment.

    Args:
        table: uuid of the table.
        since: lowest version held.
        until: the version at which it ends, not included.
        last_ms: ``last-updated-ms`` of version ``until`` - 1.
        records: digest of append id, and its record.
    """
    rows = sorted(
        _RECORD.pack(bytes.fromhex(own), outcome.version, *_packed(outcome.record)) for own, outcome in records
    )
    header = _HEADER.pack(_MAGIC, _identity(table), since, until, last_ms, len(rows))
    return header + b"".join(rows)


def decode_header(data: bytes, where: str, table: str) -> SegmentHeader | None:
    """The header of a segment, of which ``data`` is the beginning.

    Returns:
        None for a segment of an earlier table of this name, which does not concern this one.

    Raises:
        CorruptTableError: it is not a segment, or damaged.
    """
    if len(data) < _HEADER.size or data[:4] != _MAGIC:
        raise CorruptTableError(f"{where} is not an id segment: delete it, and it is made again from the versions")
    _, uuid, since, until, last_ms, count = _HEADER.unpack_from(data)
    if not since < until or len(data) > size_of(count):
        raise CorruptTableError(f"{where} is a damaged id segment: delete it, and it is made again from the versions")
    if uuid != _identity(table):
        return None
    return SegmentHeader(uuid.hex(), since, until, last_ms, count)


def _identity(table: str) -> bytes:
    """A table's uuid in 16 bytes; a digest of it if another engine gave the table an id that is no uuid."""
    try:
        return UUID(table).bytes
    except ValueError:
        return blake2b(table.encode(), digest_size=16).digest()


def decode_records(data: bytes, where: str = "an id segment") -> list[tuple[str, RecordedOutcome]]:
    """All records of a complete segment.

    Raises:
        CorruptTableError: it is cut short, or has a record of another version.
    """
    _, _, since, until, _, count = _HEADER.unpack_from(data)
    if len(data) != size_of(count):
        raise CorruptTableError(f"{where} is cut short: delete it, and it is made again from the versions")
    return list(_records(data[_HEADER.size :], range(since, until), where))


def _records(data: bytes, versions: range, where: str) -> Iterator[tuple[str, RecordedOutcome]]:
    if len(data) % _RECORD.size:
        raise CorruptTableError(f"{where} is cut short: delete it, and it is made again from the versions")
    for own, version, kind, digest in _RECORD.iter_unpack(data):
        if version not in versions or kind not in (_COMMITTED, _LIBRARY_MADE, _REFUSED):
            raise CorruptTableError(
                f"{where} has a damaged record, of version {version}: delete it, and it is made again from the versions"
            )
        yield own.hex(), RecordedOutcome(version, _unpacked(kind, digest))


def size_of(count: int) -> int:
    """Bytes of a segment with that many records."""
    return _HEADER.size + count * _RECORD.size


def window(own: str, count: int) -> tuple[int, int]:
    """The range of bytes that almost surely holds the record of an id, because digests are uniform.

    Eight standard deviations to either side; :func:`encloses` tells whether the range was wide enough.
    """
    expected = int(own[:16], 16) / 2.0**64 * count
    spread = 8.0 * (max(count, 1) ** 0.5) / 2.0 + 64.0
    first = max(0, int(expected - spread))
    last = min(count, int(expected + spread) + 1)
    return _HEADER.size + first * _RECORD.size, _HEADER.size + last * _RECORD.size


def encloses(data: bytes, start: int, end: int, own: str, count: int) -> bool:
    """Whether a range of whole records surely holds every record of an id, if there is one."""
    digest = bytes.fromhex(own)
    if len(data) != end - start:
        return False  # cut short: reading it as a whole raises the error
    first, last = data[:16], data[len(data) - _RECORD.size : len(data) - _RECORD.size + 16]
    from_start, to_end = start <= _HEADER.size, end >= size_of(count)
    return (from_start or first < digest) and (to_end or last > digest)


def records_in(data: bytes, own: str, newest: int, versions: range = ALL_VERSIONS) -> RecordedOutcome | None:
    """The latest record of an id by versions up to ``newest``, among complete records.

    Args:
        data: the records.
        own: digest of the id.
        newest: later versions do not matter.
        versions: the versions of the segment.

    Raises:
        CorruptTableError: the records are cut short, or have other versions.
    """
    best: RecordedOutcome | None = None
    for found, outcome in _records(data, versions, "an id segment"):
        if found == own and outcome.version <= newest and (best is None or outcome.version > best.version):
            best = outcome
    return best


def header_size() -> int:
    """Bytes before the first record."""
    return _HEADER.size


def _packed(record: Record) -> tuple[int, bytes]:
    if isinstance(record, Refusal):
        return _REFUSED, bytes(16)
    return (_COMMITTED, bytes.fromhex(record)) if record else (_LIBRARY_MADE, bytes(16))


def _unpacked(kind: int, digest: bytes) -> Record:
    if kind == _REFUSED:
        return Refusal(REFUSED_EARLIER)
    return digest.hex() if kind == _COMMITTED else ""


def merged(parts: Iterable[Iterable[tuple[str, RecordedOutcome]]]) -> list[tuple[str, RecordedOutcome]]:
    """Records of several segments or versions, each pair of id and version once."""
    records: dict[tuple[str, int], RecordedOutcome] = {}
    for part in parts:
        for own, outcome in part:
            records[(own, outcome.version)] = outcome
    return [(own, outcome) for (own, _), outcome in records.items()]


def records_of(version: int, names: Mapping[str, Record]) -> list[tuple[str, RecordedOutcome]]:
    """The records of one version, as pairs."""
    return [(own, RecordedOutcome(version, record)) for own, record in names.items()]
