"""The one door for time, sleep and randomness.

Nothing else in the library reads a clock or makes a random number, so a simulation can put its own
time and seed in the place of the world's.
"""

from __future__ import annotations

import os
import time
import uuid
from typing import Protocol


class Clock(Protocol):
    """Time, ids and randomness, as the library sees them."""

    def now_ms(self) -> int:
        """Wall clock, in milliseconds since 1970-01-01 UTC."""

    def monotonic(self) -> float:
        """Seconds on a clock that never runs back; its zero means nothing."""

    def sleep(self, seconds: float) -> None:
        """Wait; an interrupt ends it at once."""

    def unique(self) -> str:
        """32 hexadecimal characters that nobody else will ever make."""

    def random(self) -> float:
        """A number in [0, 1)."""


class SystemClock:
    """The world's clock and randomness."""

    def now_ms(self) -> int:
        return time.time_ns() // 1_000_000

    def monotonic(self) -> float:
        return time.monotonic()

    def sleep(self, seconds: float) -> None:
        time.sleep(seconds)

    def unique(self) -> str:
        return uuid.UUID(bytes=os.urandom(16), version=4).hex

    def random(self) -> float:
        return int.from_bytes(os.urandom(6)) / 2**48  # the module "random" is an import more


SYSTEM_CLOCK = SystemClock()
