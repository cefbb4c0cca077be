"""A model of an object store for simulations: objects, conditions, times; no threads, no sleep.

It carries out the same requests as :mod:`datashard_core.effects.driver`, at instants that a
scheduler chooses. Nothing of it decides when or whether something fails: that is the scheduler's.
"""

from __future__ import annotations

import bisect
import itertools
from dataclasses import dataclass, field
from typing import Any

from datashard_core.effects.requests import Delete, Get, Head, ListPage, Put, PutData, PutIfAbsent, Replace, Request
from datashard_core.storage.base import (
    ObjectInfo,
    ObjectNotFoundError,
    PreconditionFailedError,
    StoredObject,
    Version,
)
from datashard_core.storage.keys import InvalidKeyError, checked_key, checked_prefix


@dataclass(frozen=True, slots=True)
class Held:
    """One object as the store holds it."""

    body: bytes
    version: Version
    last_modified: float
    info: ObjectInfo


@dataclass(slots=True)
class ModelStore:
    """Objects by key, changed by one request at a time.

    Attributes:
        conditional: False makes a store that ignores conditions, the dangerous kind.
        keeps_versions: whether replacements on condition can be relied on.
        deleted: keys that were ever deleted.
        kept: the first body of every object below ``metadata/`` and ``data/``, whatever became of it:
            a judge wants to know the whole history.
        hints: what the version hint held, and since when by the simulation's clock.
    """

    conditional: bool = True
    keeps_versions: bool = True
    objects: dict[str, Held] = field(default_factory=dict)
    writes: int = 0
    deleted: set[str] = field(default_factory=set)
    kept: dict[str, bytes] = field(default_factory=dict)
    hints: list[tuple[float, StoredObject]] = field(default_factory=list)
    _keys: list[str] = field(default_factory=list)

    def perform(self, request: Request[Any], now: float) -> Any:
        """Carry out a storage request at store time ``now``; errors are returned, not raised."""
        try:
            _check(request)
        except InvalidKeyError as error:
            return error
        if isinstance(request, Get):
            return self._get(request)
        if isinstance(request, Head):
            held = self.objects.get(request.key)
            return _missing(request.key) if held is None else held.info
        if isinstance(request, ListPage):
            return self.page(request)
        if isinstance(request, (Put, PutData)):
            return self._write(request.key, bytes(request.data), now)
        if isinstance(request, PutIfAbsent):
            if self.conditional and request.key in self.objects:
                return PreconditionFailedError(f"{request.key} is taken", key=request.key)
            return self._write(request.key, request.data, now)
        if isinstance(request, Replace):
            held = self.objects.get(request.key)
            if held is None or held.version != request.version:
                return PreconditionFailedError(f"{request.key} changed", key=request.key)
            return self._write(request.key, request.data, now)
        if isinstance(request, Delete):
            for key in request.keys:
                self._remove(key)
            return None
        raise TypeError(f"not a storage request: {request!r}")

    def page(self, request: ListPage, hidden: frozenset[str] = frozenset()) -> list[ObjectInfo]:
        """One page of a listing; ``hidden`` keys are those that a stale listing does not show."""
        start = bisect.bisect_left(self._keys, request.prefix)
        if request.after is not None:
            start = max(start, bisect.bisect_right(self._keys, request.after))
        if not hidden:
            # What begins with the prefix is one stretch of the sorted keys.
            keys = self._keys[start : start + request.limit]
            end = bisect.bisect_right(keys, request.prefix, key=lambda key: key[: len(request.prefix)])
            return [self.objects[key].info for key in keys[:end]]
        found: list[ObjectInfo] = []
        for key in itertools.islice(self._keys, start, None):
            if not key.startswith(request.prefix) or len(found) == request.limit:
                break
            if key not in hidden:
                found.append(self.objects[key].info)
        return found

    def _get(self, request: Get) -> Any:
        held = self.objects.get(request.key)
        if held is None:
            return _missing(request.key)
        body = held.body
        if request.byte_range is not None:
            body = body[request.byte_range[0] : request.byte_range[1]]
        return StoredObject(body, held.version, held.last_modified)

    def _write(self, key: str, data: bytes, now: float) -> Version:
        self.writes += 1
        version = Version(f"e{self.writes}")
        if key not in self.objects:
            bisect.insort(self._keys, key)
        self.objects[key] = Held(data, version, now, ObjectInfo(key, len(data), version, now))
        if not key.startswith("_datashard/"):
            self.kept.setdefault(key, data)
        return version

    def _remove(self, key: str) -> None:
        if self.objects.pop(key, None) is not None:
            self._keys.pop(bisect.bisect_left(self._keys, key))
            self.deleted.add(key)


def _check(request: Request[Any]) -> None:
    """Refuse a request for what cannot be a key, as every backend does."""
    if isinstance(request, ListPage):
        checked_prefix(request.prefix)
    elif isinstance(request, Delete):
        for key in request.keys:
            checked_key(key)
    elif isinstance(request, (Get, Head, Put, PutData, PutIfAbsent, Replace)):
        checked_key(request.key)


def _missing(key: str) -> ObjectNotFoundError:
    return ObjectNotFoundError(f"{key} does not exist", key=key)
