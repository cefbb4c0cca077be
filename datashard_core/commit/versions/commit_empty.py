"""Versions that maintenance commits: they carry no append, and are tried until one of them is created."""

from __future__ import annotations

from collections.abc import Sequence

from datashard_core.commit.append_ids.lookup import recall
from datashard_core.commit.append_ids.segment_store import upkeep
from datashard_core.commit.core.current_version import move_hint
from datashard_core.commit.core.state import Seen, Target
from datashard_core.commit.core.next_version import NextVersion
from datashard_core.commit.core.version_file import version_key
from datashard_core.errors import CommitTimeoutError
from datashard_core.storage.base import OutcomeUnknownError, PreconditionFailedError
from datashard_core.storage.requests import Now, PutIfAbsent, Random, Request, Sleep, Steps, ask, each, together, value

LONGEST_PAUSE = 0.5


def create(
    target: Target, state: Seen, prepared: NextVersion, puts: Sequence[Request] = (), *, nodes: bool = True
) -> Steps[Seen | None]:
    """Try once to create a version, and do what follows a commit.

    Args:
        target: the table.
        state: the version that it is built on.
        prepared: the version.
        puts: its files, to be written first.
        nodes: write the id nodes that are due with it; else whoever needs them does.

    Returns:
        The version created; None: another was faster, or that is not known.

    Raises:
        StorageError: the store failed, and nothing was created.
    """
    if puts:
        yield from each(puts)
    outcomes = yield (PutIfAbsent(version_key(prepared.version), prepared.data),)
    if isinstance(outcomes[0], (PreconditionFailedError, OutcomeUnknownError)):
        return None
    value(outcomes[0])
    hint, *_ = yield from together(
        move_hint(prepared.version, state.hint, target.root, own=prepared.body),
        *([upkeep(prepared.version, state.body, target.history)] if nodes else []),
    )
    manifests = prepared.manifests if prepared.manifests is not None else state.manifests
    return Seen(prepared.body, manifests, hint, state.known)


def landed(target: Target, state: Seen, commit_id: str, above: int) -> Steps[int | None]:
    """The version that names a commit of ours, whose reply was lost; None if none up to ``state`` does.

    Who slept for longer than ids are remembered tries once more, which does no harm: nothing changes in
    a fence, and a compaction finds that its sources are not live any more.
    """
    told = yield from recall(frozenset({commit_id}), state.body, above=above, bodies={}, history=target.history)
    return told.words[commit_id].version if commit_id in told.words else None


def pause(deadline: float, message: str) -> Steps[None]:
    """Wait a moment after a lost race.

    Raises:
        CommitTimeoutError: with that message, after the deadline.
    """
    fraction, now = yield from each((Random(), Now()))
    if now.monotonic > deadline:
        raise CommitTimeoutError(message)
    yield from ask(Sleep(fraction * LONGEST_PAUSE))
