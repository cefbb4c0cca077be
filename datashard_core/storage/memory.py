"""Objects in this process's memory, for tests and trials."""

from __future__ import annotations

import io
import itertools
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from datashard_core.clock import SYSTEM_CLOCK, Clock
from datashard_core.forks import ProcessLock
from datashard_core.storage.base import (
    ObjectInfo,
    ObjectNotFoundError,
    PreconditionFailedError,
    StoredObject,
    Version,
)
from datashard_core.storage.keys import MAX_BYTES, Listed, checked_key, checked_prefix, folder_names
from datashard_core.storage.metrics import StorageMetrics

if TYPE_CHECKING:
    import pyarrow as pa


class MemoryStorage:
    """A store that lasts as long as the object; folders made by :meth:`at` share it.

    Args:
        root: URI that it calls itself by.
        clock: its time.
    """

    def __init__(self, root: str = "memory://store", clock: Clock = SYSTEM_CLOCK) -> None:
        self._root = root.rstrip("/")
        self._base = ""
        self._clock = clock
        self._lock = ProcessLock()
        self._objects: dict[str, StoredObject] = {}
        self._numbers = itertools.count()

    @property
    def root(self) -> str:
        return self._root

    def at(self, folder: str) -> MemoryStorage:
        deeper = MemoryStorage(f"{self._root}/{folder}", self._clock)
        deeper._base = f"{self._whole(folder)}/"
        deeper._lock, deeper._objects, deeper._numbers = self._lock, self._objects, self._numbers
        return deeper

    def metrics(self) -> StorageMetrics:
        return StorageMetrics("memory", {}, 0, 0)

    def get(self, key: str, byte_range: tuple[int, int] | None = None) -> StoredObject:
        found = self._find(key)
        if byte_range is None:
            return found
        return StoredObject(found.body[slice(*byte_range)], found.version, found.last_modified)

    def get_data(self, key: str) -> bytes:
        return self.get(key).body

    def head(self, key: str) -> ObjectInfo:
        found = self._find(key)
        return ObjectInfo(key, len(found.body), found.version, found.last_modified)

    def list(self, prefix: str, after: str | None = None) -> Iterator[ObjectInfo]:
        start = self._base + checked_prefix(prefix, self._root)
        with self._lock:
            keys = sorted(key for key in self._objects if key.startswith(start))
        listed = Listed(self._root, prefix, after)
        try:
            for key in keys:
                short = key[len(self._base) :]
                if after is not None and short <= after:
                    continue
                found = self._objects.get(key)
                if found is not None and listed.is_key(short):
                    yield ObjectInfo(short, len(found.body), found.version, found.last_modified)
        finally:
            listed.report()

    def folders(self, folder: str = "") -> Sequence[str]:
        prefix = f"{folder}/" if folder else ""
        names = set()
        for info in self.list(prefix):
            rest = info.key[len(prefix) :]
            if "/" in rest:
                names.add(rest.split("/", 1)[0])
        return sorted(folder_names(names))

    def put(self, key: str, data: bytes) -> Version:
        with self._lock:
            return self._write(key, bytes(data))

    def put_data(self, key: str, data: bytes | pa.Buffer) -> None:
        self.put(key, bytes(data))

    @contextmanager
    def open_data(self, key: str) -> Iterator[Any]:
        self._whole(key)
        sink = io.BytesIO()
        yield sink
        self.put(key, sink.getvalue())

    def put_if_absent(self, key: str, data: bytes) -> Version:
        with self._lock:
            if self._whole(key) in self._objects:
                raise PreconditionFailedError(f"{self._root}/{key} exists", key=key)
            return self._write(key, bytes(data))

    def replace(self, key: str, data: bytes, version: Version) -> Version:
        with self._lock:
            found = self._objects.get(self._whole(key))
            if found is None or found.version != version:
                raise PreconditionFailedError(f"{self._root}/{key} is not {version} any more", key=key)
            return self._write(key, bytes(data))

    def delete(self, keys: Sequence[str]) -> None:
        doomed = [self._whole(key) for key in keys]
        with self._lock:
            for key in doomed:
                self._objects.pop(key, None)

    def open_input(self, key: str) -> pa.NativeFile:
        import pyarrow as pa

        return pa.BufferReader(self.get(key).body)

    def remove_unfinished(self, age: float) -> Sequence[ObjectInfo]:
        return ()

    def _whole(self, key: str) -> str:
        return self._base + checked_key(key, self._root, MAX_BYTES - len(self._base))

    def _find(self, key: str) -> StoredObject:
        found = self._objects.get(self._whole(key))
        if found is None:
            raise ObjectNotFoundError(f"{self._root}/{key} does not exist", key=key)
        return found

    def _write(self, key: str, data: bytes) -> Version:
        version = Version(f"m{next(self._numbers)}")
        self._objects[self._whole(key)] = StoredObject(data, version, self._clock.now_ms() / 1000)
        return version
