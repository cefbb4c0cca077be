"""The live files of a manifest that a condition leaves, without reading more of each entry than that takes.

What :func:`~datashard_core.format.manifests.manifest.decode_manifest` checks is checked here too: the length, the
counts and the form of the file. The files have no metrics.
"""

from __future__ import annotations

import re
from array import array
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from itertools import compress
from operator import itemgetter, methodcaller
from typing import Any

from msgspec import Struct

from datashard_core.errors import CorruptTableError, UnsupportedTableError
from datashard_core.format.avro import avro
from datashard_core.format.avro.record_pattern import (
    DECODERS,
    Decoder,
    Groups,
    Record,
    Shape,
    Slot,
    UnusualSchemaError,
    Walk,
    number,
)
from datashard_core.format.expressions.binding import TRUE, Bound, Check, checks_of
from datashard_core.format.expressions.pruning import (
    PartitionSource,
    allowed_by_summaries,
    might_match,
    partition_sources,
)
from datashard_core.format.manifests.manifest import (
    ADDED,
    DELETED,
    EXISTING,
    ManifestEntry,
    ManifestFile,
    check_counts,
    check_length,
    decode_manifest,
)
from datashard_core.format.manifests.manifest_index import Column, ColumnBuilder, ManifestIndex, partition_values
from datashard_core.format.manifests.manifest_schema import FIELD_NAMES
from datashard_core.format.metadata.data_file import DataFile
from datashard_core.format.metadata.partition import PartitionSpec

_STATUS, _SNAPSHOT, _SEQUENCE, _FILE_SEQUENCE = (0, 0), (1, 0), (3, 0), (4, 0)
_PATH, _FORMAT, _RECORDS, _SIZE = (100, 0), (101, 0), (103, 0), (104, 0)
_CONTENT, _KEY = (134, 0), (131, 0)
_PARTITION = 102
_NUMBERS = (_STATUS, _SNAPSHOT, _SEQUENCE, _FILE_SEQUENCE, _RECORDS, _SIZE, _CONTENT)
_KINDS = {**dict.fromkeys(_NUMBERS, DECODERS["long"]), _FORMAT: DECODERS["string"]}
_METRICS = (109, 110, 137, 125, 128)
"""Maps of value counts, null counts, NaN counts, lower and upper bounds."""
_ALWAYS = frozenset({_STATUS, _SNAPSHOT, _SEQUENCE, _FILE_SEQUENCE, _FORMAT, _RECORDS, _SIZE, _CONTENT, _KEY})
_IDS = {name: number for number, name in FIELD_NAMES.items()}
_MAX_SHAPES = 32
_AT_A_TIME = 2000
_DELETED = b"\x04"
"""The status as Avro has it."""

Slots = Mapping[Slot, tuple[int, Decoder]]
_OFFSET_BITS = 40
"""A place in a manifest: the number of the block, and in so many bits the entry's beginning within it."""


class Pruning(Struct, frozen=True):
    """A condition, with what it takes to judge the files of one partition spec by it.

    Args:
        bound: the condition.
        spec: the partition spec of the files; None if it is not known.
    """

    bound: Bound = TRUE
    spec: PartitionSpec | None = None

    def columns(self) -> tuple[Column, ...]:
        """The columns that it is about."""
        fields = (check.reference.field for check in checks_of(self.bound))
        return tuple(dict.fromkeys((field.field_id, field.type) for field in fields))

    def partitions(self) -> tuple[int, ...]:
        """Ids of the partition fields that are made of these columns."""
        found = (source.field_id for check in checks_of(self.bound) for source in self.sources(check))
        return tuple(dict.fromkeys(found))

    def keeps_manifest(self, manifest: ManifestFile) -> bool:
        """Whether a manifest may have a file with a row that matches."""
        summaries = manifest.partitions or ()
        return might_match(self.bound, lambda check: allowed_by_summaries(check, self.sources(check), summaries))

    def covered_by(self, index: ManifestIndex) -> bool:
        """Whether an index tells all that the condition is about."""
        return index.covers(self.columns(), self.partitions())

    def places(self, index: ManifestIndex) -> Sequence[int]:
        """Which files of an index may hold rows that match."""
        return index.places(self.bound, self.sources)

    def sources(self, check: Check) -> tuple[PartitionSource, ...]:
        """The partition fields that are made of the column of a check."""
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
    return indexed_files(data, manifest, pruning, None)[0]


def indexed_files(
    data: bytes, manifest: ManifestFile, pruning: Pruning, index: ManifestIndex | None
) -> tuple[list[ManifestEntry], ManifestIndex | None]:
    """What :func:`live_files` gives, and the index by which it was found.

    Args:
        data: the manifest's bytes.
        manifest: its entry in the manifest list.
        pruning: the condition.
        index: what is known of the manifest already; None for nothing.

    Returns:
        The entries, and what is known of the manifest now: None where the condition asks nothing of it, or its
        schema is unusual.
    """
    check_length(data, manifest)
    with _damage_told(manifest):
        entries = _Entries(data, manifest, pruning)
        try:
            return _indexed(entries, pruning, index)
        except UnusualSchemaError:
            return [entry for entry in decode_manifest(data, manifest) if entry.status != DELETED], None


def files_at(data: bytes, manifest: ManifestFile, index: ManifestIndex, places: Sequence[int]) -> list[ManifestEntry]:
    """The entries of a manifest that an index of it was asked for; see :meth:`Pruning.places`.

    Raises:
        CorruptTableError: it is cut short or damaged.
        UnsupportedTableError: a file is encrypted.
    """
    check_length(data, manifest)
    with _damage_told(manifest):
        return _Entries(data, manifest, Pruning()).at(index, places)


@contextmanager
def _damage_told(manifest: ManifestFile) -> Iterator[None]:
    try:
        yield
    except avro.DAMAGE as error:
        raise avro.not_readable(manifest.manifest_path, error) from error


def _indexed(
    entries: _Entries, pruning: Pruning, index: ManifestIndex | None
) -> tuple[list[ManifestEntry], ManifestIndex | None]:
    if not pruning.columns():
        files = entries.all()
        return files if might_match(pruning.bound, lambda _: True) else [], index
    if index is None or not pruning.covered_by(index):
        found = entries.index()
        index = found if index is None else index.united(found)
    return entries.at(index, pruning.places(index)), index


class _Layout:
    """Where the values of an entry are among its groups."""

    def __init__(self, slots: Slots, order: Sequence[Slot], groups: int, shape: Shape | None) -> None:
        for slot, (_, decoder) in slots.items():
            if slot in _KINDS and decoder not in (_KINDS[slot], DECODERS["null"]):
                raise UnusualSchemaError(f"the field {slot[0]} is of another type")
        self.slots = slots
        self.shape = shape
        # What is not told has the place of the last group, which is None.
        places = [slots[slot][0] if slot in slots else groups - 1 for slot in order]
        self.ordered = itemgetter(*places)
        self.ordered_groups = methodcaller("group", *(place + 1 for place in places))


class _Entries:
    """The entries of a manifest, read as far as a condition asks.

    Args:
        data: the manifest's bytes.
        manifest: its entry in the manifest list.
        pruning: the condition.
    """

    def __init__(self, data: bytes, manifest: ManifestFile, pruning: Pruning) -> None:
        self._file = avro.read_blocks(data, manifest.manifest_path)
        self._manifest = manifest
        self._columns, self._partitions = pruning.columns(), pruning.partitions()
        self._order: tuple[Slot, ...] = (
            _STATUS,
            _RECORDS,
            *((one, field_id) for field_id, _ in self._columns for one in _METRICS),
            *((_PARTITION, field_id) for field_id in self._partitions),
        )
        self._wanted = _ALWAYS | frozenset(self._order)
        self._layouts: list[_Layout] = []

    def all(self) -> list[ManifestEntry]:
        """Every live file."""
        counted: Counter[tuple[bytes | None, ...]] = Counter()
        kept: list[ManifestEntry] = []
        for block in self._file.blocks:
            for layout, _, first, following in self._records(block):
                told = map(layout.shape.record, following) if layout.shape is not None else ()
                for groups, begin, end, _ in (first, *told):
                    status, rows = layout.ordered(groups)[:2]
                    counted[status, rows] += 1
                    if status != _DELETED:
                        kept.append(_entry(layout.slots, groups, block.records[begin:end], self._manifest))
        check_counts(_counted(counted), self._manifest)
        return kept

    def index(self) -> ManifestIndex:
        """What the condition asks of every live file."""
        counted: Counter[tuple[bytes | None, ...]] = Counter()
        starts, live = array("q"), _Told(self._columns, self._partitions)
        for places, told in self._batches():
            states, rows, *values = zip(*told, strict=True)
            counted.update(zip(states, rows, strict=True))
            alive = [state != _DELETED for state in states]
            starts.extend(compress(places, alive))
            if any(alive):
                live.add(values if all(alive) else [list(compress(one, alive)) for one in values], self._layouts)
        check_counts(_counted(counted), self._manifest)
        return live.done(starts)

    def _batches(self) -> Iterator[tuple[list[int], list[tuple[bytes | None, ...]]]]:
        """Where entries are and what they tell, some thousands at a time: each is a few calls of C."""
        places: list[int] = []
        told: list[tuple[bytes | None, ...]] = []
        for number_, block in enumerate(self._file.blocks):
            before = number_ << _OFFSET_BITS
            for layout, at, (groups, *_, end), following in self._records(block):
                told.append(layout.ordered(groups))
                told += map(layout.ordered_groups, following)
                places.append(before + at)
                places += [before + start for start in (end, *map(re.Match.end, following))[: len(following)]]
            if len(told) >= _AT_A_TIME:
                yield places, told
                places, told = [], []
        if told:
            yield places, told

    def at(self, index: ManifestIndex, places: Sequence[int]) -> list[ManifestEntry]:
        """Some of the live files."""
        kept: list[ManifestEntry] = []
        for place in places:
            number_, start = divmod(index.starts[place], 1 << _OFFSET_BITS)
            block = self._file.blocks[number_].records
            layout, (groups, begin, end, _) = self._record(block, start)
            kept.append(_entry(layout.slots, groups, block[begin:end], self._manifest))
        return kept

    def _records(self, of: avro.Block) -> Iterator[tuple[_Layout, int, Record, list[re.Match[bytes]]]]:
        """The entries of a block: one and where it begins, and those right behind it that are like it."""
        block = of.records
        at, left = 0, of.count
        while left:
            layout, record = self._record(block, at)
            (_, begin, end, after), left = record, left - 1
            following = layout.shape.following(block, after, end - begin, left) if layout.shape is not None else []
            yield layout, at, record, following
            at, left = following[-1].end() if following else after, left - len(following)
        if at != len(block):
            raise ValueError(f"{len(block) - at} bytes are left over in a block")

    def _record(self, block: bytes, at: int) -> tuple[_Layout, Record]:
        """The entry that begins there."""
        for place, layout in enumerate(self._layouts):
            record = layout.shape.match(block, at) if layout.shape is not None else None
            if record is not None:
                if place:
                    self._layouts.insert(0, self._layouts.pop(place))
                return layout, record
        narrow = not self._layouts
        walk = Walk(block, at, self._file.schema, _field_id, self._wanted.__contains__, _PATH[0], narrow)
        groups = (*walk.groups, None)
        shape = walk.shape() if len(self._layouts) < _MAX_SHAPES else None
        layout = _Layout(walk.slots, self._order, len(groups), shape)
        if shape is not None:
            self._layouts.insert(0, layout)
        return layout, (groups, *walk.text, walk.at)


class _Told:
    """Gathers what entries tell of columns and partition fields.

    Args:
        columns: the columns.
        partitions: ids of the partition fields.
    """

    def __init__(self, columns: Sequence[Column], partitions: Sequence[int]) -> None:
        self._columns = {column: ColumnBuilder(column[1]) for column in columns}
        self._partitions: dict[int, list[Any]] = {field_id: [] for field_id in partitions}

    def add(self, values: Sequence[Sequence[bytes | None]], layouts: Sequence[_Layout]) -> None:
        """More entries: the metrics of each column, each partition value, for all of the entries."""
        for place, builder in enumerate(self._columns.values()):
            builder.add(*values[place * len(_METRICS) : (place + 1) * len(_METRICS)])
        for (field_id, found), raw in zip(
            self._partitions.items(), values[len(self._columns) * len(_METRICS) :], strict=True
        ):
            slot = (_PARTITION, field_id)
            decoders = (layout.slots[slot][1] for layout in layouts if slot in layout.slots)
            found.extend(partition_values(raw, next(decoders, bytes)))

    def done(self, starts: array[int]) -> ManifestIndex:
        """The index of these entries."""
        columns = {column: builder.done() for column, builder in self._columns.items()}
        return ManifestIndex(starts, columns, self._partitions)


def _counted(found: Mapping[tuple[bytes | None, ...], int]) -> dict[int, tuple[int, int]]:
    counts = {EXISTING: (0, 0), ADDED: (0, 0), DELETED: (0, 0)}
    for (status, rows), times in found.items():
        if status is None or rows is None:
            raise ValueError("an entry without status or record count")
        state, inside = number(status), number(rows)
        if state not in counts or inside < 0:
            raise ValueError(f"an entry of status {state} with {inside} rows")
        files, total = counts[state]
        counts[state] = files + times, total + times * inside
    return counts


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
    size = get(_SIZE)
    if size is None or size < 0 or not path:
        raise ValueError(f"an entry of the path {path!r:.80} with {size} bytes")
    file = DataFile(
        file_path=path,
        record_count=get(_RECORDS),
        file_size_in_bytes=size,
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
