"""The steps of commits without appends, as maintenance makes them: create, find out whether a try worked, pause."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from datashard_core.commit.append_ids.lookup import look_up_since
from datashard_core.commit.append_ids.segment_store import upkeep
from datashard_core.commit.core.current_version import move_hint
from datashard_core.commit.core.next_version import NextVersion
from datashard_core.commit.core.state import TableState, Target
from datashard_core.commit.core.version_file import version_key
from datashard_core.effects.requests import Now, PutIfAbsent, Random, Request, Sleep
from datashard_core.effects.tasks import gather, outcomes_of, result_of
from datashard_core.errors import CommitTimeoutError
from datashard_core.storage.base import OutcomeUnknownError, PreconditionFailedError

LONGEST_PAUSE = 0.5


async def create(
    target: Target,
    state: TableState,
    prepared: NextVersion,
    puts: Sequence[Request[Any]] = (),
    *,
    segments: bool = True,
) -> TableState | None:
    """Try once to create a version, and do the work after the commit.

    Args:
        target: the table.
        state: the version that it is built on.
        prepared: the version.
        puts: its files, to be written first.
        segments: write the id segments that are due; else the next process that needs them writes them.

    Returns:
        The version created; None if another writer was faster or the outcome is unknown.

    Raises:
        StorageError: the store failed, and nothing was created.
    """
    if puts:
        await gather(*puts)
    outcomes = await outcomes_of((PutIfAbsent(version_key(prepared.version), prepared.data),))
    if isinstance(outcomes[0], (PreconditionFailedError, OutcomeUnknownError)):
        return None
    result_of(outcomes[0])
    hint, *_ = await gather(
        move_hint(prepared.version, state.hint, target.root, own=prepared.body),
        *([upkeep(prepared.version, state.body, target.history)] if segments else []),
    )
    manifests = prepared.manifests if prepared.manifests is not None else state.manifests
    return TableState(prepared.body, manifests, hint, state.known)


async def landed(target: Target, state: TableState, commit_id: str, above: int) -> int | None:
    """The version that records a commit whose reply was lost; None if no version up to ``state`` does.

    A process that was suspended for longer than the retention tries once more. That does no harm: a fence changes
    nothing, and a compaction finds that its sources are no longer live.
    """
    result = await look_up_since(frozenset({commit_id}), state.body, above=above, bodies={}, history=target.history)
    return result.recorded[commit_id].version if commit_id in result.recorded else None


async def pause(deadline: float, message: str) -> None:
    """Pause after a lost race.

    Raises:
        CommitTimeoutError: with that message, after the deadline.
    """
    fraction, now = await gather(Random(), Now())
    if now.monotonic > deadline:
        raise CommitTimeoutError(message)
    await Sleep(fraction * LONGEST_PAUSE)
