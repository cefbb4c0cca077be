"""Threads of one process share commits without going through the store.

The first thread that appends leads: it takes along whatever other threads have queued by then, runs
the commit for all of them, and hands the lead to the next one that waits.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence

from msgspec import Struct, field

from datashard_core.commit.append.batch import MAX_APPENDS
from datashard_core.commit.append.outcome import Result
from datashard_core.commit.core.state import Append, Committed
from datashard_core.errors import CommitStateUnknownError, CommitTimeoutError
from datashard_core.forks import renew_in_children

GRACE = 5.0
"""Seconds that a follower waits beyond its own timeout for its leader to say how it ended."""

Runner = Callable[[Sequence[Append], float], dict[str, Result]]
"""Commits a group within a timeout; tells for each digest of append id how it ended."""


def shared_by(root: str, uuid: str) -> tuple[str, str]:
    """What the tables of one process have in common that share commits: their place and their uuid.

    The place too, because a copy of a table's folder has the uuid of the original.
    """
    return root, uuid


class _Ticket(Struct, eq=False):
    item: Append
    timeout: float
    woken: threading.Event = field(default_factory=threading.Event)
    leads: bool = False
    result: Result | None = None


class SharedCommits:
    """The queue of one table in one process; in a forked child it is empty, and nobody leads it."""

    def __init__(self) -> None:
        self.renew()
        renew_in_children(self)

    def renew(self) -> None:
        """In a forked child: who waits in the queue, and who leads it, are threads of the parent."""
        self._lock = threading.Lock()
        self._queue: list[_Ticket] = []
        self._led = False

    def append(self, item: Append, timeout: float, run: Runner, table: str) -> Committed:
        """Commit an append, alone or together with those of other threads.

        Raises:
            DataShardError: as :meth:`Table.append` says.
        """
        ticket = _Ticket(item, timeout)
        with self._lock:
            self._queue.append(ticket)
            ticket.leads = not self._led
            self._led = True
        if not ticket.leads:
            self._wait(ticket, table)
        if ticket.leads and ticket.result is None:
            self._lead(ticket, run, table)
        assert ticket.result is not None
        if isinstance(ticket.result, Committed):
            return ticket.result
        raise ticket.result

    def _wait(self, ticket: _Ticket, table: str) -> None:
        """Wait to be carried, or to lead."""
        try:
            if ticket.woken.wait(ticket.timeout + GRACE):
                return
        except BaseException:
            self._leave(ticket)
            raise
        if self._leave(ticket):
            raise CommitTimeoutError(
                f"table {table}: no commit of this process had room for append {ticket.item.append_id!r} within "
                f"{ticket.timeout:.0f} s. Nothing was appended; call again."
            )
        if not ticket.woken.is_set():
            raise _unknown(ticket.item, table, "no commit carried it in time")

    def _leave(self, ticket: _Ticket) -> bool:
        """Leave the queue, passing on the lead if it was just handed over; whether it was in it."""
        with self._lock:
            queued = ticket in self._queue
            if queued:
                self._queue.remove(ticket)
        if ticket.leads and ticket.result is None:
            self._hand_over()
        return queued

    def _lead(self, ticket: _Ticket, run: Runner, table: str) -> None:
        group = self._take(ticket)
        results: dict[str, Result] = {}
        try:
            results = run([one.item for one in group], max(one.timeout for one in group))
        finally:
            # On an interrupt of this thread the others learn that nothing is known of theirs.
            for one in group:
                one.result = results.get(one.item.id) or _unknown(
                    one.item, table, "the thread that committed for several was interrupted"
                )
                if one is not ticket:
                    one.woken.set()
            self._hand_over()

    def _take(self, ticket: _Ticket) -> list[_Ticket]:
        """What the next commit carries: own rows first, and each append id once."""
        with self._lock:
            group = {ticket.item.id: ticket}
            for other in self._queue:
                if len(group) < MAX_APPENDS:
                    group.setdefault(other.item.id, other)
            taken = list(group.values())
            self._queue = [other for other in self._queue if other not in taken]
            return taken

    def _hand_over(self) -> None:
        with self._lock:
            if not self._queue:
                self._led = False
                return
            following = self._queue[0]
            following.leads = True
            following.woken.set()


def _unknown(item: Append, table: str, why: str) -> CommitStateUnknownError:
    base = -1 if item.base is None else item.base
    return CommitStateUnknownError(
        f"table {table}: it is not known whether append {item.append_id!r} is in the table ({why}). Call append again "
        f"with the same rows, append_id={item.append_id!r} and base={base}: they end up in it exactly once.",
        append_id=item.append_id,
        base=base,
        table=table,
    )
