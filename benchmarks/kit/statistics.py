"""Figures out of measurements: percentiles, and what a log of requests says."""

from __future__ import annotations

import math
from bisect import bisect_right
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class LoggedRequest:
    """One request as the server logged it.

    Attributes:
        started: when it had arrived whole, in seconds of the server's monotonic clock.
        ended: when the answer was sent.
        kind: GET, HEAD, PUT, LIST or DELETE.
        key: the object; for a listing "?" and the prefix.
        status: of the answer.
        sent: bytes of the request's body.
        received: bytes of the answer's body.
    """

    started: float
    ended: float
    kind: str
    key: str
    status: int
    sent: int
    received: int


def percentile(values: Iterable[float], share: float) -> float:
    """The smallest value that at least ``share`` of all values do not exceed (nearest rank).

    Args:
        values: at least one.
        share: above 0, at most 1.

    Example:
        >>> percentile([4.0, 1.0, 3.0, 2.0], 0.5)
        2.0
    """
    ordered = sorted(values)
    if not ordered or not 0 < share <= 1:
        raise ValueError(f"percentile {share} of {len(ordered)} values")
    return ordered[math.ceil(share * len(ordered)) - 1]


def median(values: Iterable[float]) -> float:
    """The percentile 0.5."""
    return percentile(values, 0.5)


def round_trips(requests: Sequence[LoggedRequest]) -> int:
    """How many requests had to wait for another: the most of which no two overlap."""
    return int(_heaviest(requests, [1.0] * len(requests)))


def round_trip_seconds(requests: Sequence[LoggedRequest], medians: Mapping[str, float]) -> float:
    """What the longest chain of requests, each after the one before, takes by latency alone.

    Args:
        requests: of one operation.
        medians: milliseconds by kind.
    """
    return _heaviest(requests, [medians.get(request.kind, 0.0) / 1000 for request in requests])


def by_kind(requests: Iterable[LoggedRequest]) -> dict[str, int]:
    """Number of requests of each kind."""
    return dict(Counter(request.kind for request in requests))


def _heaviest(requests: Sequence[LoggedRequest], weights: Sequence[float]) -> float:
    """The largest sum of weights of requests of which no two overlap."""
    ordered = sorted(zip(requests, weights, strict=True), key=lambda pair: pair[0].ended)
    ends = [request.ended for request, _ in ordered]
    best = [0.0]
    for index, (request, weight) in enumerate(ordered):
        before = bisect_right(ends, request.started, 0, index)
        best.append(max(best[-1], best[before] + weight))
    return best[-1]
