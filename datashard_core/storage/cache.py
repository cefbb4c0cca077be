"""Objects that never change, kept in memory by name: whoever reads a table again and again fetches what is new."""

from __future__ import annotations

import os
import threading
from collections import OrderedDict

from datashard_core.storage.base import Storage

MAX_BYTES = 64 * 2**20
MAX_OBJECT = 16 * 2**20
"""A larger object is not kept: one of them would push out everything else."""

MAX_SMALL_BYTES = 32 * 2**20
MAX_SMALL_OBJECT = 2**20


class ObjectCache:
    """The most recently used objects, up to a number of bytes. Safe to use from several threads.

    Args:
        max_bytes: of all bodies together.
        max_object: a larger one is not kept.
    """

    def __init__(self, max_bytes: int = MAX_BYTES, max_object: int = MAX_OBJECT) -> None:
        self._max_bytes = max_bytes
        self.max_object = max_object
        self._bodies: OrderedDict[tuple[str, str], bytes] = OrderedDict()
        self._size = 0
        self._lock = threading.Lock()
        # A child of a fork may have been made while another thread held the lock.
        os.register_at_fork(after_in_child=self._renew)

    def get(self, storage: Storage, key: str) -> bytes:
        """The body of an object that never changes, from memory or from the store.

        Raises:
            StorageError: as :meth:`Storage.get`.
        """
        name = (storage.root, key)
        with self._lock:
            body = self._bodies.get(name)
            if body is not None:
                self._bodies.move_to_end(name)
                return body
        body = storage.get(key).body
        self.keep(storage, key, body)
        return body

    def forget(self, storage: Storage, key: str) -> None:
        """Read an object anew the next time: it turned out to be damaged, and may be restored."""
        with self._lock:
            body = self._bodies.pop((storage.root, key), None)
            self._size -= len(body) if body is not None else 0

    def clear(self) -> None:
        """Forget everything."""
        with self._lock:
            self._bodies.clear()
            self._size = 0

    def keep(self, storage: Storage, key: str, body: bytes) -> None:
        """Keep a body that was read elsewhere."""
        name = (storage.root, key)
        if len(body) > self.max_object:
            return
        with self._lock:
            if name in self._bodies:
                return
            self._bodies[name] = body
            self._size += len(body)
            while self._size > self._max_bytes:
                _, oldest = self._bodies.popitem(last=False)
                self._size -= len(oldest)

    def _renew(self) -> None:
        self._lock = threading.Lock()


immutable = ObjectCache()
"""The process's cache of manifests and manifest lists, whose names are never used twice."""

small_files = ObjectCache(MAX_SMALL_BYTES, MAX_SMALL_OBJECT)
"""Small data files, apart from the manifests: a scan of many of them must not push those out."""
