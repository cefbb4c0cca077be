"""Delete staged objects that were set aside for longer than the retention of append ids.

An object that is set aside is kept for a newer writer. After the retention of append ids it is no longer known whether
such an append was committed, so it is deleted after the retention and a grace period. Ages compare two
``Last-Modified`` times of the store; the clock of this process only decides whether to look at them.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence

from msgspec import Struct

from datashard_core.commit.append.deferred import staged_objects
from datashard_core.commit.core.next_version import next_version
from datashard_core.commit.core.properties import settings_of
from datashard_core.commit.core.state import TableState, Target, newest
from datashard_core.commit.core.version_file import version_key
from datashard_core.commit.staging.examine import opened
from datashard_core.commit.staging.key import StagedName, parse_listed
from datashard_core.commit.staging.set_aside import Aside, aside_by_name
from datashard_core.commit.versions.commit_empty import create
from datashard_core.effects.requests import Delete, Get, Head, Now, Unique
from datashard_core.effects.tasks import gather, outcomes_of
from datashard_core.storage.base import ObjectInfo

log = logging.getLogger(__name__)

AT_ONCE = 32
DELETE_BATCH = 1000


class Abandoned(Struct, frozen=True):
    """The objects that no commit includes.

    Attributes:
        removed: keys of the deleted objects.
        left: keys of the objects that are still set aside.
    """

    removed: tuple[str, ...]
    left: tuple[str, ...]


async def remove_abandoned(target: Target, cached: TableState | None, grace: float) -> tuple[Abandoned, TableState]:
    """Delete objects below the folder of staged appends that were set aside for too long.

    Args:
        target: the table.
        cached: the newest version known.
        grace: seconds beyond the retention of append ids for which an object is kept.

    Raises:
        StorageError: the store failed.
    """
    infos = await staged_objects()
    state = await newest(target, cached)
    found = await _set_aside(target, state, infos)
    if not found:
        return Abandoned((), ()), state
    limit = settings_of(state.body.table.properties).id_retention_ms / 1000 + grace
    now, clock = await gather(Head(version_key(state.body.version)), Now())
    seem_old = [info for info in found if clock.wall_ms / 1000 - info.last_modified >= limit]
    if any(now.last_modified - info.last_modified < limit for info in seem_old):
        state = await _fence(target, state)  # no commit for a long time: create a version to learn the store's time
        now = await Head(version_key(state.body.version))
    old = [info.key for info in found if now.last_modified - info.last_modified >= limit]
    for start in range(0, len(old), DELETE_BATCH):
        await Delete(tuple(old[start : start + DELETE_BATCH]))
    if old:
        log.warning(
            "table %s: %d objects that were set aside for longer than the retention of append ids were deleted: %s",
            target.name,
            len(old),
            ", ".join(map(repr, old[:20])),
        )
    gone = set(old)
    return Abandoned(tuple(old), tuple(info.key for info in found if info.key not in gone)), state


async def _set_aside(target: Target, state: TableState, infos: Sequence[ObjectInfo]) -> list[ObjectInfo]:
    """The objects that are not staged appends, or that cannot be committed on this version."""
    names = {name.key: name for name in parse_listed(infos)}
    found = {info.key for info in infos if info.key not in names}
    unread: list[StagedName] = []
    for key, name in names.items():
        if aside_by_name(target.root, name, state.body) is not None:
            found.add(key)
        else:
            unread.append(name)
    for start in range(0, len(unread), AT_ONCE):
        batch = unread[start : start + AT_ONCE]
        examined = opened(target, state.body, batch, (await outcomes_of([Get(name.key) for name in batch])))
        found |= {name.key for name, one in examined.items() if isinstance(one, Aside)}
    return [info for info in infos if info.key in found]


async def _fence(target: Target, state: TableState) -> TableState:
    """Create an empty version, or read the one that another process has just created."""
    now, commit_id, unique = await gather(Now(), Unique(), Unique())
    prepared = next_version(state.body, None, commit_id=commit_id, names={}, unique=unique, now_ms=now.wall_ms)
    made = await create(target, state, prepared)
    return made if made is not None else (await newest(target, state))
