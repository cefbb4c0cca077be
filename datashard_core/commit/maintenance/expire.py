"""Expire snapshots on demand: commit a version that keeps fewer of them and changes nothing else."""

from __future__ import annotations

from msgspec.structs import replace

from datashard_core.commit.core.next_version import next_version
from datashard_core.commit.core.properties import settings_of
from datashard_core.commit.core.state import TableState, Target, newest
from datashard_core.commit.versions.commit_empty import create, landed, pause
from datashard_core.effects.requests import Now, Unique
from datashard_core.effects.tasks import gather


async def expire(
    target: Target, cached: TableState | None, older_than_ms: int | None, retain_last: int | None, timeout: float
) -> tuple[int, TableState]:
    """Commit a version without the snapshots that are too old, except those of branches and tags.

    Args:
        target: the table.
        cached: the newest version known.
        older_than_ms: snapshots made before that time, in milliseconds since 1970, expire; None: as the properties say.
        retain_last: number of the newest snapshots that are kept in any case; None: as the properties say.
        timeout: seconds after which it gives up.

    Returns:
        How many snapshots expired, and the newest version.

    Raises:
        CommitTimeoutError: other writers always created the next version first.
    """
    begun, commit_id = await gather(Now(), Unique())
    state = await newest(target, cached)
    first = state.body.version
    while True:
        now, unique = await gather(Now(), Unique())
        table = state.body.table
        keep = settings_of(table.properties).retention
        if older_than_ms is not None:
            made_at = max(now.wall_ms, table.last_updated_ms + 1)
            keep = replace(keep, max_age_ms=made_at - older_than_ms)
        if retain_last is not None:
            keep = replace(keep, min_count=min(retain_last, keep.max_count))
        prepared = next_version(
            state.body, None, commit_id=commit_id, names={}, unique=unique, now_ms=now.wall_ms, keep=keep
        )
        gone = len(table.snapshots) - len(prepared.body.table.snapshots)
        if not gone:
            return 0, state
        made = await create(target, state, prepared)
        if made is not None:
            return gone, made
        await pause(
            begun.monotonic + timeout,
            f"table {target.name}: other writers always created the next version first. No snapshot was expired: "
            "call again when fewer writers are active, or with a longer timeout.",
        )
        state = await newest(target, state)
        if (await landed(target, state, commit_id, first)) is not None:
            return gone, state
