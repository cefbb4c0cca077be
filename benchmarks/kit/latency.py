"""How long the benchmarks' S3 server takes to answer, by kind of request."""

from __future__ import annotations

import random
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

KINDS = ("GET", "HEAD", "PUT", "LIST", "DELETE")
STANDARD = {"GET": 30.0, "HEAD": 30.0, "PUT": 60.0, "LIST": 45.0, "DELETE": 30.0}
"""Milliseconds: a general-purpose bucket, as the design of the commit protocol assumes."""
SAME_REGION = {"GET": 15.0, "HEAD": 15.0, "PUT": 25.0, "LIST": 20.0, "DELETE": 25.0}
CROSS_REGION = {kind: value + 80.0 for kind, value in SAME_REGION.items()}
SIGMA = 0.35


@dataclass(frozen=True, slots=True)
class Latency:
    """Latencies of a store.

    Attributes:
        medians: milliseconds by kind of request; a kind that is absent is answered at once.
        sigma: of the lognormal distribution around the median; 0 for a fixed latency.
    """

    medians: Mapping[str, float]
    sigma: float = 0.0

    def seconds(self, kind: str, chance: random.Random) -> float:
        """How long the next request of that kind takes."""
        median = self.medians.get(kind, 0.0) / 1000
        return median * chance.lognormvariate(0.0, self.sigma) if self.sigma and median else median

    def to_dict(self) -> dict[str, Any]:
        """As JSON has it."""
        return {"medians": dict(self.medians), "sigma": self.sigma}

    def __str__(self) -> str:
        if not any(self.medians.values()):
            return "no latency"
        spread = f"lognormal, sigma {self.sigma:g}" if self.sigma else "fixed"
        return ", ".join(f"{kind} {self.medians[kind]:g}" for kind in KINDS if kind in self.medians) + f" ms, {spread}"


NONE = Latency({})
S3_STANDARD = Latency(STANDARD, SIGMA)
S3_FIXED = Latency(STANDARD)
