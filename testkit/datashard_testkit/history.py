"""The judge of a simulation: every version that ever was, and what is wrong with the chain.

It reads what the model store kept of everything ever written, so it also knows versions that became
tombstones and files that were cleaned up since.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise

from datashard_core.commit.core.paths import key_of
from datashard_core.commit.core.recorded_ids import Refusal
from datashard_core.commit.core.state import TableState
from datashard_core.commit.core.version_file import VersionFile, parse_version, version_key
from datashard_core.format.manifests.manifest import DELETED, ManifestFile, decode_manifest, decode_manifest_list
from datashard_core.format.metadata.snapshot import Snapshot
from datashard_core.format.types.schema import Schema
from datashard_core.storage.base import ObjectNotFoundError
from datashard_testkit.model_store import ModelStore

ROOT = "s3://simulated/table"
SCHEMA = Schema(schema_id=0, fields=[{"id": 1, "name": "tag", "type": "string", "required": True}])


@dataclass(frozen=True, slots=True)
class Era:
    """One table of the name: from the version that created it to the last before it was dropped."""

    uuid: str
    first: int
    last: int
    dropped: bool


@dataclass(frozen=True, slots=True)
class Copied:
    """A table that is a copy of the simulated one: where it is, what is there, and a version that both have."""

    root: str
    store: ModelStore
    seen: TableState


_NOTHING = Refusal("")


class Archive:
    """What snapshots hold, by what was ever written; every file is read once.

    Args:
        store: the store, which keeps what it was ever given.
    """

    def __init__(self, store: ModelStore) -> None:
        self.store = store
        self._manifests: dict[str, tuple[ManifestFile, ...]] = {}
        self._files: dict[str, tuple[str, ...]] = {}
        self._tags: dict[str, Counter[str]] = {}

    def files(self, location: str, snapshot: Snapshot) -> list[str]:
        """Keys of all that a snapshot reaches."""
        keys = [key_of(snapshot.manifest_list, location, ROOT)]
        for manifest in self._listed(location, snapshot):
            keys += (key_of(manifest.manifest_path, location, ROOT), *self._live(location, manifest))
        return keys

    def rows(self, location: str, snapshot: Snapshot) -> Counter[str]:
        """How often each append's row is in a snapshot."""
        total: Counter[str] = Counter()
        for manifest in self._listed(location, snapshot):
            if manifest.manifest_path not in self._tags:
                keys = self._live(location, manifest)  # one that was never written holds no row: see _check_files
                files = (self.store.kept[key] for key in keys if key in self.store.kept)
                self._tags[manifest.manifest_path] = sum(map(tags_in, files), Counter())
            total += self._tags[manifest.manifest_path]
        return total

    def _listed(self, location: str, snapshot: Snapshot) -> tuple[ManifestFile, ...]:
        key = key_of(snapshot.manifest_list, location, ROOT)
        if key not in self._manifests:
            self._manifests[key] = tuple(decode_manifest_list(self._kept(key)))
        return self._manifests[key]

    def _live(self, location: str, manifest: ManifestFile) -> tuple[str, ...]:
        path = manifest.manifest_path
        if path not in self._files:
            entries = decode_manifest(self._kept(key_of(path, location, ROOT)), manifest)
            live = (entry.data_file.file_path for entry in entries if entry.status != DELETED)
            self._files[path] = tuple(key_of(one, location, ROOT) for one in live)
        return self._files[path]

    def _kept(self, key: str) -> bytes:
        if key not in self.store.kept:
            raise ObjectNotFoundError(f"{key} was never written", key=key)
        return self.store.kept[key]


class History:
    """Every version of the simulated table, read whole.

    Args:
        store: what was ever written.
        archive: what snapshots hold.
        deletes: snapshots that were meant to delete a data file, and its key; they may have been committed or not.
        doubles: snapshots that were meant to name data files once more, and their keys; likewise.

    Attributes:
        violations: what is wrong with it.
        versions: the bodies, by number.
        eras: the tables that followed each other under the name.
    """

    def __init__(
        self,
        store: ModelStore,
        archive: Archive | None = None,
        deletes: Mapping[int, str] | None = None,
        doubles: Mapping[int, Sequence[str]] | None = None,
    ) -> None:
        self.store = store
        self.deletes = deletes or {}
        self.doubles = doubles or {}
        self.archive = archive or Archive(store)
        self.violations: list[str] = []
        self.versions: list[VersionFile] = []
        self._rows: dict[str, Counter[str]] = {}
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
            lost = self.rows_at(number - 1) - self.rows_at(number) - self._deleted_by(number)
            if lost:
                self.violations.append(f"version {number} lost rows of its parent: {dict(lost)}")
            if snapshot is not None and snapshot.summary.get("operation") == "replace":
                more = self.rows_at(number) - self.rows_at(number - 1)
                if more:
                    self.violations.append(f"version {number} doubled rows of its parent: {dict(more)}")

    def _deleted_by(self, version: int) -> Counter[str]:
        """The rows that a version was meant to delete, as far as its parent had them."""
        snapshot = self.versions[version].table.current_snapshot
        key = self.deletes.get(snapshot.snapshot_id) if snapshot is not None else None
        return tags_in(self.store.kept[key]) if key is not None else Counter()

    def deleted(self, era: Era) -> Counter[str]:
        """How often each append's row was deleted in a table."""
        return sum(map(self._deleted_by, self._changes(era)), Counter())

    def doubled(self, era: Era) -> Counter[str]:
        """How often each append's row was named once more in a table."""
        snapshots = (self.versions[version].table.current_snapshot_id for version in self._changes(era))
        keys = (key for snapshot in snapshots for key in self.doubles.get(snapshot or 0, ()))
        return sum((tags_in(self.store.kept[key]) for key in keys), Counter())

    def appended(self, era: Era) -> Counter[str]:
        """How often each append's row was appended to a table, whatever others did with its file."""
        rows = self.rows_at(era.last) + self.deleted(era)
        rows.subtract(self.doubled(era))
        return rows

    def _changes(self, era: Era) -> list[int]:
        """The versions of a table that have another snapshot than their parents."""
        return [
            version
            for version in range(era.first + 1, era.last + 1)
            if self.versions[version].table.current_snapshot_id != self.versions[version - 1].table.current_snapshot_id
        ]

    def _check_files(self) -> None:
        """Whole versions: what the newest version's snapshots name has to exist still."""
        newest = self.versions[-1] if self.versions else None
        if newest is None or newest.metadata is None:
            return
        for snapshot in newest.table.snapshots:
            for key in self.archive.files(newest.table.location, snapshot):
                if key not in self.store.objects:
                    self.violations.append(f"snapshot {snapshot.snapshot_id} names {key}, which is gone")

    @property
    def tombstones(self) -> int:
        """How many versions have become tombstones by now."""
        held = (self.store.objects[version_key(body.version)].body for body in self.versions)
        return sum(parse_version(body, 0, "").state == "tombstone" for body in held)

    @property
    def expired(self) -> int:
        """How many versions have left out the oldest snapshot of their parent."""
        tables = [body.metadata for body in self.versions if body.metadata is not None]
        return sum(
            bool(old.snapshots) and old.table_uuid == new.table_uuid and old.snapshots[0] not in new.snapshots
            for old, new in pairwise(tables)
        )

    def refuses(self, era: Era, own: str) -> bool:
        """Whether a version of a table refuses an append, by the digest of its id."""
        return any(
            isinstance(self.versions[version].named.get(own), Refusal) for version in range(era.first, era.last + 1)
        )

    def commits(self, era: Era, own: str) -> list[int]:
        """The versions of a table that name an append as committed, by the digest of its id."""
        return [
            version
            for version in range(era.first, era.last + 1)
            if not isinstance(self.versions[version].named.get(own, _NOTHING), Refusal)
        ]

    def forgotten_by(self, first: int, again: int, retention_ms: float) -> bool:
        """Whether whoever built version ``again`` need not have remembered what version ``first`` named."""
        newest, old = self.versions[again - 1].table, self.versions[first].table
        return newest.last_updated_ms - old.last_updated_ms > retention_ms

    def rows_at(self, version: int) -> Counter[str]:
        """How often each append's row is in a version; nothing for one that is no table."""
        body = self.versions[version] if 0 <= version < len(self.versions) else None
        snapshot = body.metadata.current_snapshot if body is not None and body.metadata is not None else None
        if body is None or snapshot is None:
            return Counter()
        if snapshot.manifest_list not in self._rows:
            self._rows[snapshot.manifest_list] = self.archive.rows(body.table.location, snapshot)
        return self._rows[snapshot.manifest_list]


def tags_in(parquet: bytes) -> Counter[str]:
    """The tags in a data file, counted."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    with pq.ParquetFile(pa.BufferReader(parquet)) as file:
        return Counter(file.read(columns=["tag"], use_threads=False).column("tag").to_pylist())
