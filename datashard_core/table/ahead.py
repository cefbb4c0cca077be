"""The first reads of a process, sent before most of the library is imported.

An orchestrated task is a process that opens a table, appends once and ends, and what it imports for
that takes as long as three answers of a store. So the hint is asked for first, and the versions that
it leads to as soon as it is there, while the process goes on importing what it takes to understand them.
"""

from __future__ import annotations

import os
import sys
from concurrent.futures import Future
from typing import TYPE_CHECKING, Any, cast

from datashard_core.commit.core.version_file import HINT_KEY, hinted_version, version_key
from datashard_core.effects.driver import shared_pool

if TYPE_CHECKING:
    from datashard_core.storage.base import Storage, StoredObject


def ahead(storage: Storage, *, hinted: bool = False) -> Storage:
    """The storage of a table that is about to be opened, its first reads under way if they save time.

    Args:
        storage: where the table is.
        hinted: the version that the hint names is all that is wanted.
    """
    if "datashard_core.table.table" in sys.modules:
        return storage  # all that is needed is imported: the reads are sent as soon without this
    return cast("Storage", _Ahead(storage, following=0 if hinted else 1))


class _Ahead:
    """A storage, of which some objects were asked for already: each of those answers is given once."""

    def __init__(self, storage: Storage, following: int) -> None:
        self._storage = storage
        self._following = following
        self._pid = os.getpid()
        self._sent: dict[str, Future[StoredObject]] = {}
        self._sent[HINT_KEY] = shared_pool().submit(self._read_hint)

    def _read_hint(self) -> StoredObject:
        hint = self._storage.get(HINT_KEY)
        number = hinted_version(hint.body)
        if number is not None:
            for version in range(number, number + 1 + self._following):
                key = version_key(version)
                self._sent[key] = shared_pool().submit(self._storage.get, key)
        return hint

    def get(self, key: str, byte_range: tuple[int, int] | None = None) -> StoredObject:
        """As :meth:`Storage.get`."""
        # A forked child has none of the threads that would answer.
        sent = self._sent.pop(key, None) if byte_range is None and self._pid == os.getpid() else None
        return self._storage.get(key, byte_range) if sent is None else sent.result()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._storage, name)
