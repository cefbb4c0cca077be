"""Manifests merged in tiers, a few in each commit: which, and into what. Pure.

A manifest's tier is the power of the fan-in in its number of rows. A tier that has enough manifests
loses its oldest ones to one manifest at least one tier higher. So few are left of each tier, and a
file's entry is copied once per tier, however many commits there are. The rules, and what would go
wrong without them, are in ``docs/design/maintenance.md``.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence

from msgspec import Struct
from msgspec.structs import replace

from datashard_core.commit.core.next_version import NewManifest, manifest_of
from datashard_core.commit.core.properties import Settings
from datashard_core.format.manifests.manifest import DELETED, EXISTING, ManifestEntry, ManifestFile
from datashard_core.format.manifests.partition_summary import partition_types, united
from datashard_core.format.metadata.table_metadata import TableMetadata

FAN_IN = 8
"""Manifests that one commit merges at most."""

MERGE_BYTES = 512 * 1024
"""Bytes of manifests that one commit reads for it at most."""

MAX_CACHED_ENTRIES = 512
"""Entries of manifests that a process keeps in memory."""

Entries = tuple[ManifestEntry, ...]


class Known(Struct, frozen=True):
    """Entries of live manifests that this process wrote or read lately, by the manifest's URI."""

    entries: Mapping[str, Entries]

    def of(self, manifest: ManifestFile) -> Entries | None:
        """The entries of a manifest, if they are known."""
        return self.entries.get(manifest.manifest_path)

    def following(self, manifests: Sequence[ManifestFile], learnt: Mapping[str, Entries]) -> Known:
        """What is worth keeping of these and of what was learnt: live manifests, small ones first."""
        candidates = {**self.entries, **learnt}
        kept: dict[str, Entries] = {}
        room = MAX_CACHED_ENTRIES
        for path in sorted(
            (manifest.manifest_path for manifest in manifests if manifest.manifest_path in candidates),
            key=lambda path: len(candidates[path]),
        ):
            room -= len(candidates[path])
            if room < 0:
                break
            kept[path] = candidates[path]
        return Known(kept)


EMPTY_CACHE = Known({})


def live_files(manifest: ManifestFile) -> int | None:
    """How many files of a manifest are live; None where its writer did not say."""
    if manifest.added_files_count is None or manifest.existing_files_count is None:
        return None
    return manifest.added_files_count + manifest.existing_files_count


def live_rows(manifest: ManifestFile) -> int:
    """How many rows those files have, as far as its writer said."""
    return (manifest.added_rows_count or 0) + (manifest.existing_rows_count or 0)


def empty(manifests: Sequence[ManifestFile]) -> tuple[ManifestFile, ...]:
    """Those without live files, as the list says: the entries of deleted ones speak to one snapshot only."""
    return tuple(manifest for manifest in manifests if live_files(manifest) == 0)


def without_empty(manifests: Sequence[ManifestFile], known: Known) -> tuple[ManifestFile, ...]:
    """Those that have live files. A manifest leaves the list only by its entries: its counts may be wrong."""
    return tuple(one for one in manifests if live_files(one) != 0 or _may_hold(known.of(one)))


def _may_hold(entries: Entries | None) -> bool:
    return entries is None or any(entry.status != DELETED for entry in entries)


class _Specs:
    """Whether manifests of a partition spec can be written by this library."""

    def __init__(self, table: TableMetadata) -> None:
        self._table = table
        self._fit: dict[int, bool] = {}

    def fit(self, spec_id: int) -> bool:
        if spec_id not in self._fit:
            spec = self._table.spec_by_id(spec_id)
            self._fit[spec_id] = spec is not None and partition_types(spec, self._table.schema) is not None
        return self._fit[spec_id]


def sources(manifests: Sequence[ManifestFile], table: TableMetadata, settings: Settings) -> tuple[ManifestFile, ...]:
    """The manifests that the next commit should merge; none where no tier has enough of them.

    Args:
        manifests: the manifest list of the version that it is built on, oldest first.
        table: that version.
        settings: what the table's properties ask for.
    """
    if not settings.merge:
        return ()
    fan_in = min(FAN_IN, settings.min_to_merge)
    specs = _Specs(table)
    largest = min(settings.manifest_bytes, MERGE_BYTES // 2)
    tiers: dict[tuple[int, int], list[ManifestFile]] = {}
    for manifest in manifests:
        if _is_whole(manifest) and manifest.manifest_length <= largest and specs.fit(manifest.partition_spec_id):
            place = (tier(live_rows(manifest), fan_in), manifest.partition_spec_id)
            tiers.setdefault(place, []).append(manifest)
    for place in sorted(tiers):
        if len(tiers[place]) >= settings.min_to_merge:
            return _within_bytes(tiers[place][:fan_in])
    return ()


def tier(rows: int, fan_in: int) -> int:
    """The power of ``fan_in`` in a number of rows."""
    power = 0
    while rows >= fan_in:
        rows //= fan_in
        power += 1
    return power


def _is_whole(manifest: ManifestFile) -> bool:
    """Whether all is known of a manifest that merging it asks for."""
    return (
        manifest.content == 0
        and manifest.key_metadata is None
        and bool(live_files(manifest))
        and None not in (manifest.added_rows_count, manifest.existing_rows_count)
    )


def _within_bytes(candidates: Sequence[ManifestFile]) -> tuple[ManifestFile, ...]:
    chosen: list[ManifestFile] = []
    room = MERGE_BYTES
    for manifest in candidates:
        room -= manifest.manifest_length
        if room < 0:
            break
        chosen.append(manifest)
    return tuple(chosen) if len(chosen) > 1 else ()


def merged(
    unique: str, table: TableMetadata, snapshot_id: int, read: Sequence[tuple[ManifestFile, Entries]]
) -> NewManifest:
    """One manifest with the live files of several of one partition spec.

    Args:
        unique: 32 fresh hexadecimal characters, for its name.
        table: the version that is built on.
        snapshot_id: the snapshot that it is written for.
        read: the manifests with their entries.
    """
    spec = table.spec_by_id(read[0][0].partition_spec_id)
    assert spec is not None
    entries = [as_existing(entry) for _, inside in read for entry in inside if entry.status != DELETED]
    partitions = united([manifest.partitions for manifest, _ in read], partition_types(spec, table.schema) or ())
    return manifest_of(unique, snapshot_id, entries, table.schema, spec, partitions)


def as_existing(entry: ManifestEntry) -> ManifestEntry:
    """A live file that an earlier snapshot added, with the sequence numbers that it was read with."""
    return replace(entry, status=EXISTING)


def replaced(
    manifests: Sequence[ManifestFile], gone: Sequence[ManifestFile], new: ManifestFile
) -> tuple[ManifestFile, ...]:
    """The list with ``new`` in the place of the first of ``gone``, and without the others.

    A manifest that is listed more often than it is gone stays for the rest: readers count it each time.
    """
    left = Counter(manifest.manifest_path for manifest in gone)
    result: list[ManifestFile] = []
    placed = False
    for manifest in manifests:
        if not left[manifest.manifest_path]:
            result.append(manifest)
            continue
        left[manifest.manifest_path] -= 1
        if not placed:
            result.append(new)
            placed = True
    return tuple(result)
