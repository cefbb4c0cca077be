"""The live files of a manifest that a condition leaves, without reading more of each entry than that takes.

What :func:`~datashard_core.format.manifest.decode_manifest` checks is checked here too: the length, the
counts and the form of the file. The files have no metrics.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from msgspec import Struct

from datashard_core.errors import CorruptTableError, UnsupportedTableError
from datashard_core.format import avro
from datashard_core.format import types as t
from datashard_core.format.avro_shape import Decoder, Groups, Shape, Slot, UnusualSchemaError, Walk, number, sized
from datashard_core.format.binding import TRUE, AllOf, AnyOf, Bound, Check, Fixed, checks_of
from datashard_core.format.canonical import decode_bound, number_formats
from datashard_core.format.data_file import DataFile
from datashard_core.format.manifest import (
    ADDED,
    DELETED,
    EXISTING,
    ManifestEntry,
    ManifestFile,
    check_counts,
    check_length,
    decode_manifest,
)
from datashard_core.format.manifest_schema import FIELD_NAMES
from datashard_core.format.partition import PartitionSpec
from datashard_core.format.pruning import (
    Known,
    PartitionSource,
    allowed_by_partition,
    allowed_by_summaries,
    holds_whole,
    might_match,
    partition_sources,
    possibility,
    presence,
)

_STATUS, _SNAPSHOT, _SEQUENCE, _FILE_SEQUENCE = (0, 0), (1, 0), (3, 0), (4, 0)
_PATH, _FORMAT, _RECORDS, _SIZE = (100, 0), (101, 0), (103, 0), (104, 0)
_CONTENT, _KEY = (134, 0), (131, 0)
_PARTITION = 102
_METRICS = (109, 110, 137, 125, 128)
"""Maps of value counts, null counts, NaN counts, lower and upper bounds."""
_ALWAYS = frozenset({_STATUS, _SNAPSHOT, _SEQUENCE, _FILE_SEQUENCE, _FORMAT, _RECORDS, _SIZE, _CONTENT, _KEY})
_IDS = {name: number for number, name in FIELD_NAMES.items()}
_MAX_SHAPES = 32
_MAX_COUNTS = 1000
_DELETED = b"\x04"
"""The status as Avro has it."""

Slots = Mapping[Slot, tuple[int, Decoder]]
Judge = Callable[[Groups], bool]
"""Whether the file of an entry may hold rows that match."""
KnownOf = Callable[[Groups], Known]
"""What is known of a column, by the values of an entry."""


class Pruning(Struct, frozen=True):
    """A condition, with what it takes to judge the files of one partition spec by it.

    Args:
        bound: the condition.
        spec: the partition spec of the files; None if it is not known.
    """

    bound: Bound = TRUE
    spec: PartitionSpec | None = None

    def slots(self) -> frozenset[Slot]:
        """What is needed of an entry."""
        checks = list(checks_of(self.bound))
        columns = {(one, check.reference.field.field_id) for check in checks for one in _METRICS}
        parts = {(_PARTITION, source.field_id) for check in checks for source in self._sources(check)}
        return frozenset(columns | parts)

    def keeps_manifest(self, manifest: ManifestFile) -> bool:
        """Whether a manifest may have a file with a row that matches."""
        summaries = manifest.partitions or ()
        return might_match(self.bound, lambda check: allowed_by_summaries(check, self._sources(check), summaries))

    def judge(self, slots: Slots) -> Judge:
        """The judge of entries whose values are at those places."""
        return self._judge(self.bound, slots, {})

    def _judge(self, bound: Bound, slots: Slots, columns: dict[int, KnownOf]) -> Judge:
        if isinstance(bound, Check):
            return self._judge_check(bound, slots, columns)
        if isinstance(bound, (AllOf, AnyOf)):
            parts = [self._judge(part, slots, columns) for part in bound.parts]
            if len(parts) == 2 and isinstance(bound, AllOf):
                first, second = parts  # a range, mostly: twice as fast as a loop
                return lambda groups: first(groups) and second(groups)
            if isinstance(bound, AllOf):
                return lambda groups: all(part(groups) for part in parts)
            return lambda groups: any(part(groups) for part in parts)
        certain = not isinstance(bound, Fixed) or bound.value
        return lambda _: certain

    def _judge_check(self, check: Check, slots: Slots, columns: dict[int, KnownOf]) -> Judge:
        column = check.reference.field
        if column.field_id not in columns:
            columns[column.field_id] = _known_of(column.type, column.field_id, slots)
        known_of, is_possible, value = columns[column.field_id], possibility(check), check.value

        def by_metrics(groups: Groups) -> bool:
            return is_possible(known_of(groups), value)

        sources = [(*slots[slot], one) for one in self._sources(check) if (slot := (_PARTITION, one.field_id)) in slots]
        if not sources:
            return by_metrics

        def by_partition(groups: Groups) -> bool:
            for index, decode, source in sources:
                raw = groups[index]
                if not allowed_by_partition(check, source.transform, None if raw is None else decode(raw)):
                    return False
            return by_metrics(groups)

        return by_partition

    def _sources(self, check: Check) -> tuple[PartitionSource, ...]:
        return partition_sources(self.spec, check) if self.spec is not None else ()


def live_files(data: bytes, manifest: ManifestFile, pruning: Pruning) -> list[ManifestEntry]:
    """The entries of a manifest that are not deleted and may hold rows that match.

    Args:
        data: the manifest's bytes.
        manifest: its entry in the manifest list.
        pruning: the condition.

    Raises:
        CorruptTableError: it is cut short or damaged, or holds other counts than the list says.
        UnsupportedTableError: a file is encrypted.
    """
    check_length(data, manifest)
    blocks = avro.read_blocks(data, manifest.manifest_path)
    kept: list[ManifestEntry] = []
    # By the bytes of status and row count: few of them differ.
    found: dict[tuple[bytes | None, bytes | None], int] = {}
    try:
        for layout, groups, path in _entries(blocks, pruning):
            status = groups[layout.status]
            key = status, groups[layout.rows]
            found[key] = found.get(key, 0) + 1
            if status != _DELETED and layout.judge(groups):
                kept.append(_entry(layout.slots, groups, path, manifest))
        check_counts(_counted(found), manifest)
    except UnusualSchemaError:
        return [entry for entry in decode_manifest(data, manifest) if entry.status != DELETED]
    except (ValueError, LookupError, EOFError, TypeError, AttributeError, struct.error) as error:
        raise avro.not_readable(manifest.manifest_path, error) from error
    return kept


def _counted(found: Mapping[tuple[bytes | None, bytes | None], int]) -> dict[int, tuple[int, int]]:
    counts = {EXISTING: (0, 0), ADDED: (0, 0), DELETED: (0, 0)}
    for (status, rows), times in found.items():
        if status is None or rows is None:
            raise ValueError("an entry without status or record count")
        files, total = counts[number(status)]
        counts[number(status)] = files + times, total + times * number(rows)
    return counts


class _Layout:
    """Where the values of an entry are among its groups."""

    def __init__(self, slots: Slots, pruning: Pruning, shape: Shape | None = None) -> None:
        self.slots = slots
        self.shape = shape
        self.status = slots[_STATUS][0]
        self.rows = slots[_RECORDS][0]
        self.judge = pruning.judge(slots)


def _entries(blocks: avro.Blocks, pruning: Pruning) -> Iterator[tuple[_Layout, Groups, bytes]]:
    """Every entry: the values asked for, and the path."""
    wanted = _ALWAYS | pruning.slots()
    layouts: list[_Layout] = []
    for count, block in blocks.blocks:
        at, left = 0, count
        while left:
            for index, layout in enumerate(layouts):
                assert layout.shape is not None
                matched = layout.shape.match(block, at)
                if matched is not None:
                    groups, path, at = matched
                    if index:
                        layouts.insert(0, layouts.pop(index))
                    yield layout, groups, path
                    left -= 1
                    for groups, path, end in layout.shape.following(block, at, len(path), left):  # noqa: B020
                        at = end
                        yield layout, groups, path
                        left -= 1
                    break
            else:
                walk = Walk(block, at, blocks.schema, _field_id, wanted.__contains__, _PATH[0])
                at = walk.at
                layout = _Layout(walk.slots, pruning, walk.shape() if len(layouts) < _MAX_SHAPES else None)
                if layout.shape is not None:
                    layouts.insert(0, layout)
                yield layout, (*walk.groups, None), walk.text
                left -= 1
        if at != len(block):
            raise ValueError(f"{len(block) - at} bytes are left over in a block")


def _known_of(kind: t.IcebergType, field_id: int, slots: Slots) -> KnownOf:
    """What tells from an entry what is known of a column; the same entry may be asked about several times on end."""
    values, nulls, nans, lower, upper = (
        slots[slot][0] if (slot := (one, field_id)) in slots else -1 for one in _METRICS
    )
    whole, bound_of = holds_whole(kind), _bound_decoder(kind)
    counted: dict[Groups, tuple[bool, bool, bool]] = {}
    last: tuple[Groups, Known] = ((), Known())

    def known_of(groups: Groups) -> Known:
        nonlocal last
        if last[0] is groups:
            return last[1]
        # Files of a table mostly have a few different counts, and as many bounds as there are files.
        # What is not told has index -1: the last group is None.
        counts = (groups[values], groups[nulls], groups[nans])
        present = counted.get(counts)
        if present is None:
            if len(counted) > _MAX_COUNTS:
                counted.clear()
            present = counted[counts] = presence(kind, *(None if one is None else number(one) for one in counts))
        low, high = groups[lower], groups[upper]
        known = Known(None if low is None else bound_of(low), None if high is None else bound_of(high), *present, whole)
        last = groups, known
        return known

    return known_of


def _bound_decoder(kind: t.IcebergType) -> Callable[[bytes], Any]:
    """What decodes a bound of that type, its length before it; None for one that tells nothing."""
    by_length = {1 + length: struct.Struct(f"<x{form[1:]}").unpack for length, form in number_formats(kind).items()}
    if not by_length:
        return lambda raw: decode_bound(kind, sized(raw))

    def decode(raw: bytes) -> Any:
        unpack = by_length.get(len(raw))
        if unpack is None:
            return None
        value = unpack(raw)[0]
        return value if value == value else None

    return decode


def _field_id(field_: Mapping[str, Any]) -> int:
    """Id of a field of a manifest's schema; by its name where its writer gave no ids."""
    told = field_.get("field-id")
    return int(told) if told is not None else _IDS.get(field_["name"], -1)


def _entry(slots: Slots, groups: Groups, path_bytes: bytes, manifest: ManifestFile) -> ManifestEntry:
    def get(slot: Slot) -> Any:
        place = slots.get(slot)
        raw = groups[place[0]] if place is not None else None
        return None if raw is None or place is None else place[1](raw)

    path = path_bytes.decode()
    status, sequence, file_sequence, snapshot = get(_STATUS), get(_SEQUENCE), get(_FILE_SEQUENCE), get(_SNAPSHOT)
    if get(_KEY):
        raise UnsupportedTableError(f"data file {path} is encrypted: read the table with its own engine")
    if content := get(_CONTENT):
        raise CorruptTableError(
            f"{path} has content {content!r} in a manifest of content {manifest.content}: restore the manifest"
        )
    if None in (sequence, file_sequence) and status != ADDED and manifest.sequence_number:
        raise CorruptTableError(
            f"manifest {manifest.manifest_path}: {path} is not new, and has no sequence number: restore it"
        )
    file = DataFile(
        file_path=path,
        record_count=get(_RECORDS),
        file_size_in_bytes=get(_SIZE),
        file_format=get(_FORMAT).upper(),
        spec_id=manifest.partition_spec_id,
    )
    return ManifestEntry(
        status=status,
        snapshot_id=manifest.added_snapshot_id if snapshot is None else snapshot,
        sequence_number=manifest.sequence_number if sequence is None else sequence,
        file_sequence_number=manifest.sequence_number if file_sequence is None else file_sequence,
        data_file=file,
    )
