"""Delete orphans: files that no version and no staged append names, found by a listing, after a fence.

A data file that no version names yet looks like an orphan. So files that are listed, unreachable and not described by a
staged append are deleted only after a version in which nothing changes (the fence), and only if they were older than
the grace period when that version was created, by the store's clock. A commit built on a version before the fence loses
its race; a commit built on the fence or later adds no old file (:mod:`datashard_core.commit.append.file_age`). If a
version, manifest or manifest list cannot be read, nothing is deleted, because it might name any file. A staged body
that cannot be read may describe any older file, and those files are kept.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from typing import Any

from msgspec import Struct

from datashard_core.commit.append.deferred import staged_names
from datashard_core.commit.core.next_version import next_version
from datashard_core.commit.core.paths import delete, key_of
from datashard_core.commit.core.state import TableState, Target, newest
from datashard_core.commit.core.version_file import VersionFile, version_key
from datashard_core.commit.staging.body import described_files
from datashard_core.commit.staging.errors import NewerBodyError, UnreadableBodyError
from datashard_core.commit.staging.set_aside import MAX_BYTES
from datashard_core.commit.versions.commit_empty import create, landed, pause
from datashard_core.commit.versions.lifecycle import list_all
from datashard_core.effects.requests import Get, Head, Now, Unique
from datashard_core.effects.tasks import gather, outcomes_of, result_of
from datashard_core.errors import CorruptTableError, UnsupportedTableError
from datashard_core.format.manifests.manifest import DELETED, ManifestFile, decode_manifest, decode_manifest_list
from datashard_core.storage.base import ObjectInfo, ObjectNotFoundError

log = logging.getLogger(__name__)

FOLDERS = (("data/", ".parquet"), ("metadata/manifests/", ".avro"))
"""Folders and endings of data files, manifests and manifest lists. Versions and id segments are not orphans."""
AT_ONCE = 32
DELETE_BATCH = 1000
LONGEST_PAUSE = 0.5
CLOCK_TICK = 2.0
"""Seconds by which times of a store may be rounded."""

Keys = frozenset[str]


class Removed(Struct, frozen=True):
    """The result of a removal of orphans.

    Attributes:
        files: how many files were deleted.
        size: their bytes.
        too_young: number of orphans that were younger than the grace period.
        version: the fence; None if there was nothing to delete.
    """

    files: int
    size: int
    too_young: int
    version: int | None


class _StaleError(CorruptTableError):
    """A file that a version names is gone: the version may no longer be the newest."""


class _ReachableFiles:
    """The files that versions reach; each manifest is read only once."""

    def __init__(self, target: Target) -> None:
        self._target = target
        self._lists: dict[str, tuple[ManifestFile, ...]] = {}
        self._files: dict[str, Keys] = {}

    async def of(self, version_file: VersionFile) -> set[str]:
        """Keys of all files that the snapshots of a version reach.

        Raises:
            CorruptTableError: a manifest or manifest list cannot be read.
        """
        table = version_file.table
        lists = {self._key(one.manifest_list, table.location): one.manifest_list for one in table.snapshots}
        for uri, data in await self._read(lists, self._lists):
            self._lists[uri] = tuple(decode_manifest_list(data, uri))
        manifests = {one.manifest_path: one for uri in lists.values() for one in self._lists[uri]}
        keys = {self._key(uri, table.location): uri for uri in manifests}
        for uri, data in await self._read(keys, self._files):
            entries = decode_manifest(data, manifests[uri])
            live = (entry.data_file.file_path for entry in entries if entry.status != DELETED)
            self._files[uri] = frozenset(self._key(path, table.location) for path in live)
        self._lists = {uri: self._lists[uri] for uri in lists.values()}
        return {*lists, *keys, *(key for uri in manifests for key in self._files[uri])}

    def _key(self, uri: str, location: str) -> str:
        return key_of(uri, location, self._target.root)

    async def _read(self, wanted: Mapping[str, str], known: Mapping[str, Any]) -> list[tuple[str, bytes]]:
        missing = [(key, uri) for key, uri in wanted.items() if uri not in known]
        read: list[tuple[str, bytes]] = []
        for start in range(0, len(missing), AT_ONCE):
            batch = missing[start : start + AT_ONCE]
            for (_, uri), outcome in zip(batch, (await outcomes_of([Get(key) for key, _ in batch])), strict=True):
                if isinstance(outcome, ObjectNotFoundError):
                    raise _StaleError(
                        f"table {self._target.name}: {uri} is named by a version and does not exist: restore it. "
                        "Nothing was deleted."
                    ) from outcome
                read.append((uri, result_of(outcome).body))
        return read


async def remove_orphans(
    target: Target, cached: TableState | None, grace: float, timeout: float
) -> tuple[Removed, TableState]:
    """Delete data files, manifests and manifest lists that no version and no staged append names.

    Args:
        target: the table.
        cached: the newest version known.
        grace: age in seconds up to which a file is kept, an hour or more.
        timeout: seconds after which it gives up before the fence.

    Raises:
        CorruptTableError: something that may name files cannot be read. Nothing was deleted.
        CommitTimeoutError: other writers always created the next version first. Nothing was deleted.
        StorageError: the store failed.
    """
    begun, commit_id = await gather(Now(), Unique())
    listed = await _candidates()
    reach = _ReachableFiles(target)
    state = cached
    tried: dict[int, list[ObjectInfo]] = {}
    while True:
        described = await _described(
            target
        )  # before the version is read, which names the files that it commits meanwhile
        state = await newest(target, state)
        if tried:
            fence = await landed(target, state, commit_id, min(tried) - 1)
            if fence is not None:
                return (await _delete(target, tried[fence], fence, grace)), state
        doomed = await _unreachable(target, reach, state, [info for info in listed if not described.may_describe(info)])
        if doomed is None:
            continue  # it was no longer the newest version
        if not doomed:
            return Removed(0, 0, 0, None), state
        tried[state.body.version + 1] = doomed
        made = await _fence(target, state, commit_id)
        if made is not None:
            return (await _delete(target, doomed, made.body.version, grace)), made
        await pause(
            begun.monotonic + timeout,
            f"table {target.name}: other writers always created the next version first, and orphans are deleted only "
            "after a version of this call. Nothing was deleted: call again when fewer writers are active, or with a "
            "longer timeout.",
        )


async def _candidates() -> list[ObjectInfo]:
    found: list[ObjectInfo] = []
    for prefix, ending in FOLDERS:
        found += [info for info in (await list_all(prefix)) if info.key.endswith(ending)]
    return found


class _Described(Struct):
    """The data files that staged appends describe, whatever table of this name they are meant for.

    Attributes:
        names: names of files.
        until: time of the last staged body that cannot be read: it may describe any older file.
    """

    names: set[str]
    until: float = -1.0

    def may_describe(self, info: ObjectInfo) -> bool:
        """Whether a staged append may describe a file."""
        if info.key.rpartition("/")[2] in self.names:
            return True
        return info.key.startswith("data/") and info.last_modified <= self.until


async def _described(target: Target) -> _Described:
    names = await staged_names()
    large = [name.modified + CLOCK_TICK for name in names if name.size > MAX_BYTES]  # these are not read
    described = _Described(set(), max(large, default=-1.0))
    names = [name for name in names if name.size <= MAX_BYTES]
    for start in range(0, len(names), AT_ONCE):
        batch = names[start : start + AT_ONCE]
        for name, outcome in zip(batch, (await outcomes_of([Get(name.key) for name in batch])), strict=True):
            if isinstance(outcome, ObjectNotFoundError):
                continue  # committed meanwhile, and the version that is read after this names it
            stored = result_of(outcome)
            try:
                files = described_files(stored.body)
            except (UnreadableBodyError, NewerBodyError) as error:
                log.warning(
                    "table %s: %s/%s: %s. It may describe any older file, and these are kept as long as the object "
                    "exists. Flush the table: that refuses the append and removes the object, or says what to do.",
                    target.name,
                    target.root,
                    name.key,
                    error,
                )
                described.until = max(described.until, stored.last_modified + CLOCK_TICK)
            else:
                described.names.update(file.file_path.rpartition("/")[2] for file in files)
    return described


async def _unreachable(
    target: Target, reach: _ReachableFiles, state: TableState, listed: Sequence[ObjectInfo]
) -> list[ObjectInfo] | None:
    """The listed files that the version does not reach; None if it is no longer the newest."""
    try:
        live: set[str] = await reach.of(state.body)
        keys = {info.key for info in listed}
        await _check_there(target, sorted(live - keys))
    except _StaleError:
        if (await newest(target, state)).body.version > state.body.version:
            return None  # its files have expired meanwhile
        raise
    except UnsupportedTableError as error:
        raise UnsupportedTableError(f"{error} Nothing was deleted.") from error
    return [info for info in listed if info.key not in live]


async def _check_there(target: Target, keys: Sequence[str]) -> None:
    """Check that reachable files which were not listed exist: else names may be misread, and nothing is deleted."""
    for start in range(0, len(keys), AT_ONCE):
        batch = keys[start : start + AT_ONCE]
        for key, outcome in zip(batch, (await outcomes_of([Head(key) for key in batch])), strict=True):
            if isinstance(outcome, ObjectNotFoundError):
                raise _StaleError(
                    f"table {target.name}: {target.root}/{key} is named by a snapshot and does not exist: restore it, "
                    "or expire the snapshot. Nothing was deleted."
                ) from outcome
            result_of(outcome)


async def _fence(target: Target, state: TableState, commit_id: str) -> TableState | None:
    """Try to commit a version in which nothing changes; None if another writer was faster or it is unknown."""
    now, unique = await gather(Now(), Unique())
    prepared = next_version(state.body, None, commit_id=commit_id, names={}, unique=unique, now_ms=now.wall_ms)
    return await create(target, state, prepared)


async def _delete(target: Target, doomed: Sequence[ObjectInfo], fence: int, grace: float) -> Removed:
    """Delete the files that were old enough when the fence was created."""
    made: ObjectInfo = await Head(version_key(fence))
    old = [info for info in doomed if made.last_modified - info.last_modified >= grace]
    for start in range(0, len(old), DELETE_BATCH):
        await delete((info.key for info in old[start : start + DELETE_BATCH]), target.root)
    return Removed(len(old), sum(info.size for info in old), len(doomed) - len(old), fence)
