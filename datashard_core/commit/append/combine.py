"""Who has committed goes on for a while: it carries what others staged while its version was on its way.

The next in line would have to notice the new version, list the line and read the rows, one after the
other; who just committed has done all that while its own requests were under way. So versions follow
each other in two round trips. The version says so (``next``), and the others wait to be carried.
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
"""Seconds for which a committer goes on for others after its own rows are committed."""


async def finish(target: Target, outcome: CommitOutcome, deadline: float) -> TableState:
    """After a commit: go on with those who wait, then do what is left to do.

    Args:
        target: the table.
        outcome: of a try that created a version.
        deadline: when the caller wants to be answered, by its monotonic clock.

    Returns:
        The newest version created. What fails here does not concern the caller: its rows are committed.

    Raises:
        StoreNotConditionalError: another writer created a version that was created here.
        VanishedTableError: the rows were committed on top of nothing.
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
                outcome.following.load,
                outcome.following.reclaimable,
                has_waiters=True,
                leads=now.monotonic < until,
                post_commit=post_commit,
            )
        except DataShardError as error:
            log.info("table %s: a commit for others failed, and one of them makes it: %s", target.name, error)
            break
        if outcome.created is None:
            break  # another was faster, or nobody knows: those who wait find out
        _check(post_commit)
        created, post_commit = _made(outcome)
    await join(post_commit)
    _check(post_commit)
    return replace(created, hint=post_commit.outcome if isinstance(post_commit.outcome, Hint) else created.hint)


def _check(post_commit: PostCommit) -> None:
    """Raise what must not be left to the log: the version of a commit is another writer's, or stands on nothing."""
    if isinstance(post_commit.outcome, (BrokenChainError, VanishedTableError)):
        raise post_commit.outcome


def _made(outcome: CommitOutcome) -> tuple[TableState, PostCommit]:
    assert outcome.created is not None and outcome.post_commit is not None
    return outcome.created, outcome.post_commit
