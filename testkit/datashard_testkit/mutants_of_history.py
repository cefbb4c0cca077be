"""Switches for the rules about what is read, remembered and cleared up; see :mod:`datashard_testkit.mutants`."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any
from unittest import mock

from msgspec.structs import replace as with_

from datashard_core.commit.append import batch, deferred, group_append, manifest_reads, protocol, publish, staged_read
from datashard_core.commit.append_ids import lookup, segment
from datashard_core.commit.append_ids.lookback import TombstoneMetError
from datashard_core.commit.core import current_version, recorded_ids, state
from datashard_core.commit.core.current_version import Found, find_current
from datashard_core.commit.core.recorded_ids import CommitNames, Record
from datashard_core.commit.core.state import newest as real_newest
from datashard_core.commit.core.state import require_live
from datashard_core.commit.maintenance import orphans
from datashard_core.commit.versions import metadata_expiry
from datashard_core.effects.requests import Instant, Now
from datashard_core.effects.tasks import gather
from datashard_core.errors import StorageError
from datashard_core.storage.base import ObjectInfo
from datashard_testkit.history import ROOT
from datashard_testkit.simulation import START_MS


@contextmanager
def version_before_listing() -> Iterator[None]:
    """A reader of staged rows reads the version first, and lists afterwards."""
    read: list[Found] = []
    real_names = deferred.staged_names

    async def staged_names() -> Any:
        found = await find_current(ROOT)
        listed = await real_names()
        assert found is not None
        read.append(found)
        return listed

    async def newest(target: Any, seen: Any) -> Any:
        # No request lies between the two calls, so what was read last is this reader's.
        return require_live(read.pop(), seen, target) if read else (await real_newest(target, seen))

    with (
        mock.patch.object(staged_read, "staged_names", staged_names),
        mock.patch.object(staged_read, "newest", newest),
    ):
        yield


@contextmanager
def copied_property_believed() -> Iterator[None]:
    """A version names what its property names, whatever number that bears."""

    def recorded_by(_version: int, property_: CommitNames | None) -> Mapping[str, Record]:
        return {} if property_ is None else property_.of(property_.version)

    with mock.patch.object(recorded_ids, "recorded_by", recorded_by):
        yield


@contextmanager
def impure_nodes() -> Iterator[None]:
    """A node holds what its writer happens to know, and not all that the history says."""
    real = segment.merged

    def merged(parts: Iterable[Any]) -> Any:
        return real(list(parts)[:1])

    with mock.patch.object(segment, "merged", merged):
        yield


@contextmanager
def missing_read_taken_for_empty() -> Iterator[None]:
    """A manifest list that cannot be read counts as an empty one."""
    real = state.manifests_of

    async def manifests_of(*arguments: Any) -> Any:
        try:
            return await real(*arguments)
        except StorageError:
            return ()

    with mock.patch.object(manifest_reads, "manifests_of", manifests_of):
        yield


@contextmanager
def refused_at_the_first_bad_body() -> Iterator[None]:
    """One damaged body is enough to refuse an id, though a good one lies beside it."""
    with mock.patch.object(batch, "_verdict", lambda examined: examined[0]):
        yield


@contextmanager
def any_table_of_the_name_will_do() -> Iterator[None]:
    """A writer goes on in the table that was made again under the name, whatever its identity."""

    def settle_anywhere(found: Any, seen: Any, target: Any) -> Any:
        return require_live(found, seen, with_(target, uuid=""))

    with (
        mock.patch.object(protocol, "require_live", settle_anywhere),
        mock.patch.object(group_append, "require_live", settle_anywhere),
    ):
        yield


@contextmanager
def origin_forgotten() -> Iterator[None]:
    """Where another engine dropped the number of the table's first version, it counts as 0."""

    async def with_first_version(newest: Any, _bodies: Any, _root: str) -> Any:
        await gather()
        return newest

    with mock.patch.object(current_version, "with_first_version", with_first_version):
        yield


@contextmanager
def tombstones_before_nodes() -> Iterator[None]:
    """Versions become tombstones though no node holds their names yet, and tell nothing any more."""
    real = lookup._look_up

    async def no_upkeep(*_arguments: Any) -> None:
        await gather()  # as if every node were lost on its way, which is harmless otherwise

    async def remembered(*_arguments: Any) -> bool:
        await gather()
        return True

    async def look_up(*arguments: Any) -> Any:
        try:
            return await real(*arguments)
        except TombstoneMetError:
            return lookup.LookupResult({}, 0)

    with (
        mock.patch.object(metadata_expiry, "_remembered", remembered),
        mock.patch.object(lookup, "_look_up", look_up),
        mock.patch.object(publish, "upkeep", no_upkeep),
    ):
        yield


@contextmanager
def no_fence() -> Iterator[None]:
    """Orphans are deleted without a version of one's own in between, by their age at this moment."""
    real = orphans._delete

    async def fence(_target: Any, newest: Any, _commit_id: str) -> Any:
        await gather()
        return newest

    async def delete(target: Any, doomed: Sequence[ObjectInfo], version: int, grace: float) -> Any:
        now: Instant = await Now()
        seconds = START_MS / 1000.0 + now.monotonic  # the true time, as the store's
        old = [info for info in doomed if seconds - info.last_modified >= grace]
        return await real(target, old, version, -math.inf)

    with mock.patch.object(orphans, "_fence", fence), mock.patch.object(orphans, "_delete", delete):
        yield


@contextmanager
def files_of_any_age() -> Iterator[None]:
    """A commit names finished files however long ago they were written."""

    async def ensure_recent(_target: Any, _location: str, files: Sequence[Any], _against: int) -> list[Any]:
        await gather()
        return list(files)

    async def ensure_own_recent(_target: Any, _body: Any, own: Any) -> Any:
        await gather()
        return own

    with ExitStack() as stack:
        stack.enter_context(mock.patch.object(batch, "ensure_recent", ensure_recent))
        stack.enter_context(mock.patch.object(publish, "ensure_own_recent", ensure_own_recent))
        yield
