"""Which files a scan has to read: manifest list, then manifests, then the entries in them.

A manifest that cannot hold a matching row is not read, and of those that are, only the files that may
hold one are named. Manifests are read ahead in parallel and their files handed on one manifest after the
other, so that neither time nor memory grows with files that nobody has asked for yet.
"""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future
from contextlib import contextmanager
from itertools import islice

from msgspec import Struct

from datashard_core.commit.core.paths import key_of
from datashard_core.effects.driver import shared_pool
from datashard_core.errors import CorruptTableError, UnsupportedTableError
from datashard_core.format.expressions.binding import TRUE, Bound
from datashard_core.format.manifests.manifest import ManifestEntry, ManifestFile, decode_manifest_list
from datashard_core.format.manifests.manifest_index import ManifestIndex
from datashard_core.format.manifests.manifest_scan import Pruning, files_at, indexed_files
from datashard_core.format.metadata.snapshot import Snapshot
from datashard_core.format.metadata.table_metadata import TableMetadata
from datashard_core.storage.base import ObjectNotFoundError, Storage
from datashard_core.storage.cache import Kept, immutable

log = logging.getLogger(__name__)

MANIFESTS_AHEAD = 16
MAX_INDEX_BYTES = 32 * 2**20
MAX_INDEX = 8 * 2**20

indexes: Kept[ManifestIndex] = Kept(MAX_INDEX_BYTES, MAX_INDEX)
"""What scans of this process have asked of manifests; 100,000 files take some 4 MB for a column of numbers."""


class _Chosen(Struct):
    """A manifest that has to be read.

    Attributes:
        key: where it is.
        manifest: its entry in the manifest list.
        pruning: the condition.
        index: what is known of it already.
        places: the files in it that the condition leaves, as far as the index tells; None if it does not.
        body: its bytes, if they are at hand.
        fetched: else they are on their way.
    """

    key: str
    manifest: ManifestFile
    pruning: Pruning
    index: ManifestIndex | None
    places: Sequence[int] | None
    body: bytes | None = None
    fetched: Future[bytes] | None = None


class Planner(Struct, frozen=True):
    """Plans scans of one version of a table.

    Attributes:
        storage: where the table is.
        metadata: the version.
        table_name: for messages.
    """

    storage: Storage
    metadata: TableMetadata
    table_name: str

    def manifests(self, snapshot: Snapshot | None) -> list[ManifestFile]:
        """The manifests of a snapshot, none for a table that has none.

        Raises:
            UnsupportedTableError: the snapshot has row-level deletes, which another engine wrote.
            CorruptTableError: the manifest list is missing or damaged.
        """
        if snapshot is None:
            return []
        manifests = self._listed(snapshot.manifest_list)
        if any(manifest.content != 0 for manifest in manifests):
            raise UnsupportedTableError(
                f"table {self.table_name}: snapshot {snapshot.snapshot_id} has row-level delete files (written by "
                "another engine). Rewrite them into data files with that engine, or read the table with it."
            )
        return manifests

    def files(self, manifests: Sequence[ManifestFile], bound: Bound = TRUE) -> Iterator[ManifestEntry]:
        """The live files of the manifests that may hold rows that match, manifest by manifest.

        Raises:
            CorruptTableError: a manifest is missing or damaged.
        """
        chosen = self._chosen(manifests, bound)
        ahead: deque[_Chosen] = deque()
        while True:
            for one in islice(chosen, MANIFESTS_AHEAD - len(ahead)):
                self._fetch(one)
                ahead.append(one)
            if not ahead:
                return
            one = ahead.popleft()
            with self._forgotten_if_damaged(one.manifest.manifest_path):
                entries = self._entries(one)
            yield from entries

    def fetch_first(self, manifests: Sequence[ManifestFile], bound: Bound) -> list[Future[bytes]]:
        """Have those manifests read by other threads that :meth:`files` will ask for first."""
        firsts = list(islice(self._chosen(manifests, bound), MANIFESTS_AHEAD))
        for one in firsts:
            self._fetch(one)
        return [one.fetched for one in firsts if one.fetched is not None]

    def _chosen(self, manifests: Sequence[ManifestFile], bound: Bound) -> Iterator[_Chosen]:
        """The manifests that have to be read: not those of which it is known that no file is left."""
        prunings: dict[int, Pruning] = {}
        for manifest in manifests:
            spec_id = manifest.partition_spec_id
            if spec_id not in prunings:
                prunings[spec_id] = Pruning(bound, self.metadata.spec_by_id(spec_id))
            pruning = prunings[spec_id]
            if not pruning.keeps_manifest(manifest):
                continue
            key = self._key(manifest.manifest_path)
            index = indexes.find(self.storage, key)
            places = pruning.places(index) if index is not None and pruning.covered_by(index) else None
            if places is None or places:
                yield _Chosen(key, manifest, pruning, index, places)

    def _fetch(self, one: _Chosen) -> None:
        """Have the bytes of a manifest read by another thread, if they are not at hand."""
        one.body = immutable.find(self.storage, one.key)
        if one.body is None:
            one.fetched = shared_pool().submit(self._body, one.manifest.manifest_path, one.manifest.manifest_length)

    def _entries(self, one: _Chosen) -> list[ManifestEntry]:
        body = one.body if one.fetched is None else one.fetched.result()
        assert body is not None, "it was at hand, or is being fetched"
        if one.index is not None and one.places is not None:
            return files_at(body, one.manifest, one.index, one.places)
        entries, index = indexed_files(body, one.manifest, one.pruning, one.index)
        if index is not None and index is not one.index:
            indexes.put(self.storage, one.key, index, index.size)
        return entries

    def _listed(self, uri: str) -> list[ManifestFile]:
        """The manifests that a manifest list names. Its size is written nowhere, so a damaged one is read twice."""
        try:
            with self._forgotten_if_damaged(uri):
                return decode_manifest_list(self._body(uri), uri)
        except CorruptTableError as error:
            log.warning("table %s: %s is read again: %s", self.table_name, uri, error)
        with self._forgotten_if_damaged(uri):
            return decode_manifest_list(self._body(uri), uri)

    @contextmanager
    def _forgotten_if_damaged(self, uri: str) -> Iterator[None]:
        """A damaged file is not kept in memory, so that it can be restored under the feet of this process."""
        try:
            yield
        except CorruptTableError:
            immutable.forget(self.storage, self._key(uri))
            indexes.forget(self.storage, self._key(uri))
            raise

    def _key(self, uri: str) -> str:
        return key_of(uri, self.metadata.location, self.storage.root)

    def _body(self, uri: str, size: int | None = None) -> bytes:
        try:
            return immutable.get(self.storage, self._key(uri), size)
        except ObjectNotFoundError as error:
            raise CorruptTableError(
                f"table {self.table_name}: {uri} is missing. If snapshots were expired meanwhile, refresh the table; "
                "else restore the file."
            ) from error
