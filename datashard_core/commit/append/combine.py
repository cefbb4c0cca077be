"""Go on committing for other writers after one's own commit (flat combining).

The next writer in the queue would have to notice the new version, list the queue and read the rows, one after the
other. The committer has done all that while its own requests were under way, so it can write the next version within
two round trips. The version says so in its field ``next``, and the other writers wait.
"""

from __future__ import annotations

import logging

from msgspec.structs import replace

from datashard_core.commit.append.publish import CommitOutcome, PostCommit, write_and_publish
from datashard_core.commit.core.chain import BrokenChainError
from datashard_core.commit.core.current_version import Hint
from datashard_core.commit.core.state import TableState, Target
from datashard_core.commit.core.vanished import VanishedTableError
from datashard_core.effects.requests import Instant, Now
from datashard_core.effects.tasks import join
from datashard_core.errors import DataShardError

log = logging.getLogger(__name__)

TERM = 0.5
"""Seconds for which a committer goes on committing for others after its own rows are committed."""


async def finish(target: Target, outcome: CommitOutcome, deadline: float) -> TableState:
    """After a commit: commit the batches of waiting writers, then do the work after the commit.

    Args:
        target: the table.
        outcome: the outcome of a try that created a version.
        deadline: when the caller wants its answer, by its monotonic clock.

    Returns:
        The newest version created. Other failures are logged and not raised: the caller's rows are committed.

    Raises:
        StoreNotConditionalError: another writer created a version that was created here.
        VanishedTableError: the versions below the new one are gone.
    """
    created, post_commit = _made(outcome)
    begun: Instant = await Now()
    until = min(deadline, begun.monotonic + TERM)
    while outcome.following is not None:
        now: Instant = await Now()
        try:
            outcome = await write_and_publish(
                target,
                replace(created, known=outcome.following.known),
                outcome.following.batch,
                outcome.following.reclaimable,
                has_waiters=True,
                combine=now.monotonic < until,
                post_commit=post_commit,
            )
        except DataShardError as error:
            log.info("table %s: a commit for other writers failed, and they commit themselves: %s", target.name, error)
            break
        if outcome.created is None:
            break  # another writer was faster, or the outcome is unknown: the waiting writers find out
        _check(post_commit)
        created, post_commit = _made(outcome)
    await join(post_commit)
    _check(post_commit)
    return replace(created, hint=post_commit.outcome if isinstance(post_commit.outcome, Hint) else created.hint)


def _check(post_commit: PostCommit) -> None:
    """Raise the errors that invalidate the commit: its version is another writer's, or those below it are gone."""
    if isinstance(post_commit.outcome, (BrokenChainError, VanishedTableError)):
        raise post_commit.outcome


def _made(outcome: CommitOutcome) -> tuple[TableState, PostCommit]:
    assert outcome.created is not None and outcome.post_commit is not None
    return outcome.created, outcome.post_commit
