"""What requests cost at S3's list prices (S3 Standard, us-east-1)."""

from __future__ import annotations

from collections.abc import Mapping

PER_THOUSAND = {"PUT": 0.005, "LIST": 0.005, "GET": 0.0004, "HEAD": 0.0004, "DELETE": 0.0}
"""US dollars; deletes are free, and so are bulk deletes."""
STORAGE = 0.023
"""US dollars a GB and month."""


def price(requests: Mapping[str, float]) -> float:
    """US dollars of so many requests of each kind.

    Example:
        >>> price({"PUT": 100_000, "GET": 10_000})
        0.504
    """
    return round(sum(count / 1000 * PER_THOUSAND[kind] for kind, count in requests.items()), 6)
