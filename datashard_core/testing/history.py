"""The judge of a simulation: every version that ever was, and what is wrong with the chain.

It reads what the model store kept of everything ever written, so it also knows versions that became
tombstones and files that were cleaned up since.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import Any

from datashard_core.commit.paths import key_of
from datashard_core.commit.state import manifests_of
from datashard_core.commit.version import VersionBody, parse_version, version_key
from datashard_core.format.manifest import DELETED, ManifestFile, decode_manifest
from datashard_core.format.snapshot import Snapshot
from datashard_core.storage.base import ObjectNotFoundError, StoredObject, Version
from datashard_core.storage.requests import Get, Request, Steps
from datashard_core.testing.model_store import ModelStore

ROOT = "s3://simulated/table"


@dataclass(frozen=True, slots=True)
class Era:
    """One table of the name: from the version that created it to the last before it was dropped."""

    uuid: str
    first: int
    last: int
    dropped: bool


class History:
    """Every version of the simulated table, read whole.

    Attributes:
        violations: what is wrong with it.
        versions: the bodies, by number.
        eras: the tables that followed each other under the name.
    """

    def __init__(self, store: ModelStore) -> None:
        self.store = store
        self.violations: list[str] = []
        self.versions: list[VersionBody] = []
        self._rows: dict[str, Counter[str]] = {}
        self._tags: dict[str, Counter[str]] = {}
        while version_key(len(self.versions)) in store.kept:
            number = len(self.versions)
            self.versions.append(parse_version(store.kept[version_key(number)], number, version_key(number)))
        names = [key for key in store.kept if key.startswith("metadata/v") and key.endswith(".json")]
        if len(names) != len(self.versions):
            self.violations.append("versions are not contiguous")
        if any(key.startswith("metadata/v") and key.endswith(".json") for key in store.deleted):
            self.violations.append("a version name was deleted")
        self.eras = list(self._eras())
        for era in self.eras:
            self._check_chain(era)
        self._check_files()

    def _eras(self) -> list[Era]:
        eras: list[Era] = []
        first = 0
        for body in self.versions:
            if body.state == "dropped":
                eras.append(Era(self.versions[first].table.table_uuid, first, body.version - 1, True))
                first = body.version + 1
        if first < len(self.versions):
            eras.append(Era(self.versions[first].table.table_uuid, first, len(self.versions) - 1, False))
        return eras

    def _check_chain(self, era: Era) -> None:
        for number in range(era.first + 1, era.last + 1):
            old, new = self.versions[number - 1].table, self.versions[number].table
            if new.table_uuid != era.uuid:
                self.violations.append(f"version {number} belongs to another table")
            if new.last_updated_ms <= old.last_updated_ms:
                self.violations.append(f"version {number} is not younger than its parent")
            if new.current_snapshot_id == old.current_snapshot_id:
                continue
            snapshot = new.current_snapshot
            if snapshot is None or snapshot.parent_snapshot_id != old.current_snapshot_id:
                self.violations.append(f"version {number} was not built from its parent")
            lost = self.rows_at(number - 1) - self.rows_at(number)
            if lost:
                self.violations.append(f"version {number} lost rows of its parent: {dict(lost)}")

    def _check_files(self) -> None:
        """Whole versions: what the newest version's snapshots name has to exist still."""
        newest = self.versions[-1] if self.versions else None
        if newest is None or newest.metadata is None:
            return
        for snapshot in newest.table.snapshots:
            for key in self._files_of(newest, snapshot):
                if key not in self.store.objects:
                    self.violations.append(f"snapshot {snapshot.snapshot_id} names {key}, which is gone")

    def _files_of(self, body: VersionBody, snapshot: Snapshot) -> list[str]:
        location = body.table.location
        keys = [key_of(snapshot.manifest_list, location, ROOT)]
        for manifest in self._manifests(location, snapshot):
            keys.append(key_of(manifest.manifest_path, location, ROOT))
            for entry in decode_manifest(self.store.kept[keys[-1]], manifest):
                if entry.status != DELETED:
                    keys.append(key_of(entry.data_file.file_path, location, ROOT))
        return keys

    def rows_at(self, version: int) -> Counter[str]:
        """How often each append's row is in a version; nothing for one that is no table."""
        body = self.versions[version] if 0 <= version < len(self.versions) else None
        snapshot = body.metadata.current_snapshot if body is not None and body.metadata is not None else None
        if body is None or snapshot is None:
            return Counter()
        if snapshot.manifest_list not in self._rows:
            self._rows[snapshot.manifest_list] = rows_of(self.store, body.table.location, snapshot, self._tags)
        return self._rows[snapshot.manifest_list]

    def _manifests(self, location: str, snapshot: Snapshot) -> tuple[ManifestFile, ...]:
        found: tuple[ManifestFile, ...] = run_at_once(manifests_of(ROOT, location, snapshot), self.store)
        return found


def rows_of(store: ModelStore, location: str, snapshot: Snapshot, known: dict[str, Counter[str]]) -> Counter[str]:
    """How often each append's row is in a snapshot, by what was ever written; ``known`` caches manifests."""
    total: Counter[str] = Counter()
    for manifest in run_at_once(manifests_of(ROOT, location, snapshot), store):
        key = key_of(manifest.manifest_path, location, ROOT)
        if key not in known:
            rows: Counter[str] = Counter()
            for entry in decode_manifest(store.kept[key], manifest):
                if entry.status != DELETED:
                    rows += tags_in(store.kept[key_of(entry.data_file.file_path, location, ROOT)])
            known[key] = rows
        total += known[key]
    return total


def tags_in(parquet: bytes) -> Counter[str]:
    """The tags in a data file, counted."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    with pq.ParquetFile(pa.BufferReader(parquet)) as file:
        return Counter(file.read(columns=["tag"], use_threads=False).column("tag").to_pylist())


def run_at_once(steps: Steps[Any], store: ModelStore) -> Any:
    """Run reading steps at once, over everything that was ever written."""
    try:
        batch = next(steps)
        while True:
            batch = steps.send([_kept(request, store) for request in batch])
    except StopIteration as stop:
        return stop.value


def _kept(request: Request, store: ModelStore) -> Any:
    assert isinstance(request, Get)
    body = store.kept.get(request.key)
    if body is None:
        return ObjectNotFoundError(f"{request.key} was never written", key=request.key)
    return StoredObject(body, Version("kept"), 0.0)
