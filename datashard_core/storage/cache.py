"""Objects that never change, kept in memory by name: whoever reads a table again and again fetches what is new."""

from __future__ import annotations

import os
import threading
from collections import OrderedDict
from collections.abc import Callable
from typing import Generic, TypeVar

from datashard_core.storage.base import Storage

T = TypeVar("T")
Body = TypeVar("Body", bytes, bytes | memoryview)
FETCHES = 3
"""Requests for an object whose body is shorter than the object."""

MAX_BYTES = 64 * 2**20
MAX_OBJECT = 16 * 2**20
"""A larger object is not kept: one of them would push out everything else."""

MAX_SMALL_BYTES = 32 * 2**20
MAX_SMALL_OBJECT = 2**20


class Kept(Generic[T]):
    """The most recently used of some values, up to a number of bytes. Safe to use from several threads.

    Args:
        max_bytes: of all of them together.
        max_object: a larger one is not kept.
    """

    def __init__(self, max_bytes: int, max_object: int) -> None:
        self._max_bytes = max_bytes
        self.max_object = max_object
        self._values: OrderedDict[tuple[str, str], tuple[T, int]] = OrderedDict()
        self._size = 0
        self._lock = threading.Lock()
        # A child of a fork may have been made while another thread held the lock.
        os.register_at_fork(after_in_child=self._renew)

    def find(self, storage: Storage, key: str) -> T | None:
        """What is kept under a key of a store; None if nothing is."""
        name = (storage.root, key)
        with self._lock:
            found = self._values.get(name)
            if found is None:
                return None
            self._values.move_to_end(name)
            return found[0]

    def put(self, storage: Storage, key: str, value: T, size: int) -> None:
        """Keep a value of so many bytes, in place of what was kept under the key."""
        if size > self.max_object:
            self.forget(storage, key)
            return
        with self._lock:
            _, before = self._values.pop((storage.root, key), (None, 0))
            self._values[storage.root, key] = value, size
            self._size += size - before
            while self._size > self._max_bytes:
                _, (_, oldest) = self._values.popitem(last=False)
                self._size -= oldest

    def forget(self, storage: Storage, key: str) -> None:
        """Read an object anew the next time: it turned out to be damaged, and may be restored."""
        with self._lock:
            _, size = self._values.pop((storage.root, key), (None, 0))
            self._size -= size

    def clear(self) -> None:
        """Forget everything."""
        with self._lock:
            self._values.clear()
            self._size = 0

    def _renew(self) -> None:
        self._lock = threading.Lock()


def whole(fetch: Callable[[], Body], size: int | None) -> Body:
    """A body, fetched again where it is shorter than the object: a proxy may call a part of an object the whole.

    Args:
        fetch: asks the store.
        size: bytes of the object; None: not known, so what comes is taken.
    """
    body = fetch()
    for _ in range(FETCHES - 1):
        if size is None or len(body) >= size:
            break
        body = fetch()
    return body


class ObjectCache(Kept[bytes]):
    """The bodies of objects that never change, as :class:`Kept` keeps them."""

    def __init__(self, max_bytes: int = MAX_BYTES, max_object: int = MAX_OBJECT) -> None:
        super().__init__(max_bytes, max_object)

    def get(self, storage: Storage, key: str, size: int | None = None) -> bytes:
        """The body of an object that never changes, from memory or from the store.

        Args:
            storage: the store.
            key: the object.
            size: its bytes, where they are known. A body of another length is returned, and not kept.

        Raises:
            StorageError: as :meth:`Storage.get`.
        """
        body = self.find(storage, key)
        if body is None or (size is not None and len(body) != size):
            body = whole(lambda: storage.get(key).body, size)
            if size is None or len(body) == size:
                self.keep(storage, key, body)
        return body

    def keep(self, storage: Storage, key: str, body: bytes) -> None:
        """Keep a body that was read elsewhere."""
        self.put(storage, key, body, len(body))


immutable = ObjectCache()
"""The process's cache of manifests and manifest lists, whose names are never used twice."""

small_files = ObjectCache(MAX_SMALL_BYTES, MAX_SMALL_OBJECT)
"""Small data files, apart from the manifests: a scan of many of them must not push those out."""
