"""What can go wrong with the requests of a simulation, how long they take, and how many a store takes."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from datashard_core.effects.requests import Delete, Get, Head, ListPage, Request


@dataclass(frozen=True, slots=True)
class Latency:
    """Median seconds of each kind of request (S3 Standard, roughly); lognormal around it."""

    get: float = 0.030
    put: float = 0.060
    list: float = 0.045
    delete: float = 0.030

    def of(self, request: Request[Any]) -> float:
        """The median for a request."""
        if isinstance(request, (Get, Head)):
            return self.get
        if isinstance(request, ListPage):
            return self.list
        return self.delete if isinstance(request, Delete) else self.put


@dataclass(frozen=True, slots=True)
class Faults:
    """Probabilities, per request unless said otherwise."""

    before: float = 0.0
    after: float = 0.0
    late: float = 0.0
    late_seconds: float = 900.0
    twice: float = 0.0
    check_then_write: float = 0.0
    """A name that is absent when the store checks is written later, whatever is there by then."""
    conflict: float = 0.0
    stale_hint: float = 0.0
    stale_list: float = 0.0
    stale_seconds: float = 2.0
    lost_delete: float = 0.0
    """A delete that the store acknowledges and never carries out."""
    late_delete: float = 0.0
    """A delete that is answered in time and carried out later."""
    spoilt: float = 0.0
    """A staged body that is damaged on its way."""
    crash: float = 0.0
    suspend: float = 0.0
    suspend_seconds: float = 4 * 3600.0
    skew_seconds: float = 0.0
    burst: float = 0.0
    """Probability, per simulated second, that a burst of 503 begins; it lasts a second."""


FAULTS = (
    "fails before its effect",
    "reply lost",
    "lands late",
    "deleted late",
    "sent twice",
    "taken by oneself",
    "409",
    "503",
    "stale hint",
    "stale listing",
    "delete lost",
    "staged body damaged on its way",
    "process crashes",
    "process suspended for an hour or more",
    "clock off by a second or more",
)
"""What can go wrong, as :attr:`Simulation.counts` names it."""


@dataclass(slots=True)
class Throttle:
    """Requests a second that one prefix of the store takes before it answers 503.

    Attributes:
        puts: PUT, POST, LIST and DELETE requests a second.
        gets: GET and HEAD requests a second.
    """

    puts: float = 3500.0
    gets: float = 5500.0
    refused: int = 0
    _level: dict[str, tuple[float, float]] = field(default_factory=dict)

    def admits(self, request: Request[Any], when: float) -> bool:
        """Whether a token bucket of one second has room for the request at that time."""
        kind, rate = ("get", self.gets) if isinstance(request, (Get, Head)) else ("put", self.puts)
        level, last = self._level.get(kind, (0.0, when))
        level = max(0.0, level - max(0.0, when - last) * rate)
        if level + 1.0 > rate:
            self.refused += 1
            return False
        self._level[kind] = (level + 1.0, max(when, last))
        return True
