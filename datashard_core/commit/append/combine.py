"""Who has committed goes on for a while: it carries what others staged while its version was on its way.

The next in line would have to notice the new version, list the line and read the rows, one after the
other; who just committed has done all that while its own requests were under way. So versions follow
each other in two round trips. The version says so (``next``), and the others wait to be carried.
"""

from __future__ import annotations

import logging

from msgspec.structs import replace

from datashard_core.commit.append.publish import Chores, Outcome, carry
from datashard_core.commit.core.chain import BrokenChainError
from datashard_core.commit.core.current_version import Hint
from datashard_core.commit.core.state import Seen, Target
from datashard_core.commit.core.vanished import VanishedTableError
from datashard_core.errors import DataShardError
from datashard_core.effects.requests import Instant, Now
from datashard_core.effects.tasks import join

log = logging.getLogger(__name__)

TERM = 0.5
"""Seconds for which a committer goes on for others after its own rows are committed."""


async def finish(target: Target, outcome: Outcome, deadline: float) -> Seen:
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
    created, chores = _made(outcome)
    begun: Instant = await Now()
    until = min(deadline, begun.monotonic + TERM)
    while outcome.following is not None:
        now: Instant = await Now()
        try:
            outcome = await carry(
                target,
                replace(created, known=outcome.following.known),
                outcome.following.load,
                outcome.following.spent,
                company=True,
                leads=now.monotonic < until,
                chores=chores,
            )
        except DataShardError as error:
            log.info("table %s: a commit for others failed, and one of them makes it: %s", target.name, error)
            break
        if outcome.created is None:
            break  # another was faster, or nobody knows: those who wait find out
        _check(chores)
        created, chores = _made(outcome)
    await join(chores)
    _check(chores)
    return replace(created, hint=chores.outcome if isinstance(chores.outcome, Hint) else None)


def _check(chores: Chores) -> None:
    """Raise what must not be left to the log: the version of a commit is another writer's, or stands on nothing."""
    if isinstance(chores.outcome, (BrokenChainError, VanishedTableError)):
        raise chores.outcome


def _made(outcome: Outcome) -> tuple[Seen, Chores]:
    assert outcome.created is not None and outcome.chores is not None
    return outcome.created, outcome.chores
