"""Trying again: reads, deletes, and writes that may be repeated; never a conditional write.

Waits double and are spread at random, so that clients that failed together do not come back
together; a store that asks to slow down is given four times as long.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

from datashard_core.clock import Clock
from datashard_core.errors import StorageError

T = TypeVar("T")

FIRST_WAIT = 0.1  # seconds
FIRST_WAIT_THROTTLED = 0.4
LONGEST_WAIT = 10.0
_PASSING = frozenset({"unreachable", "throttled"})


def with_retries(call: Callable[[], T], attempts: int, clock: Clock) -> T:
    """Call until it succeeds, fails for good, or has been tried ``attempts`` times.

    Raises:
        StorageError: that of the last try.
    """
    for attempt in range(1, attempts):
        try:
            return call()
        except StorageError as error:
            if error.reason not in _PASSING:
                raise
            clock.sleep(wait(attempt, error.reason == "throttled", clock.random()))
    return call()


def wait(attempt: int, throttled: bool, fraction: float) -> float:
    """Seconds to wait after try number ``attempt`` (from 1). Pure.

    Args:
        attempt: how many tries have failed.
        throttled: the store asked to slow down.
        fraction: a random number in [0, 1).
    """
    first = FIRST_WAIT_THROTTLED if throttled else FIRST_WAIT
    return float(min(first * 2 ** (attempt - 1), LONGEST_WAIT) * (0.5 + fraction / 2))
