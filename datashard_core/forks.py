"""What a forked child must not inherit: locks that a thread of its parent held, and queues that it served.

Threads do not survive a fork. A lock that one of them held stays locked in the child for ever, and work that
was handed to one is never done there. An object with such a lock or queue registers here and is renewed in the child.
"""

from __future__ import annotations

import os
import threading
from typing import Protocol
from weakref import WeakSet


class Renewed(Protocol):
    """Something that begins afresh in a forked child."""

    def renew(self) -> None:
        """Called in the child, before anything else runs there."""


_registered: WeakSet[Renewed] = WeakSet()


def renew_in_children(one: Renewed) -> None:
    """Call ``one.renew()`` in every child that is forked from this process while ``one`` lives."""
    _registered.add(one)


def _renew_all() -> None:
    for one in list(_registered):
        one.renew()


os.register_at_fork(after_in_child=_renew_all)


class ProcessLock:
    """A lock among the threads of one process, which is open in a forked child.

    What it guards has to be whole between any two steps, or be renewed as well: the child may begin in the
    middle of them.
    """

    __slots__ = ("__weakref__", "_lock")

    def __init__(self) -> None:
        self._lock = threading.Lock()
        renew_in_children(self)

    def __enter__(self) -> None:
        self._lock.acquire()

    def __exit__(self, *_: object) -> None:
        self._lock.release()

    def renew(self) -> None:
        """In a forked child: nobody holds it."""
        self._lock = threading.Lock()
