"""What callers of a simulated table were told, and how a run ended."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field

ACTIONS = (
    "direct append",
    "deferred append",
    "large append",
    "grouped append",
    "run by another process while the first lives",
    "run again after a crash",
    "found to be appended already",
    "run again long after",
    "unknown, and said so",
    "asked again with its base",
    "refused, and said so",
    "flush",
    "flush that tells of a refusal",
    "read with staged rows",
    "read without staged rows",
    "foreign commit that copies our properties",
    "foreign commit that drops our properties",
    "drop",
    "purge",
    "table made again",
    "id node deleted",
    "id node removed",
    "appended again, being forgotten",
    "damaged copy beside a staged body",
    "orphans removed",
    "orphans left, being young",
    "tombstone of a version",
    "tombstone on demand",
    "snapshot expired",
    "snapshot expired on demand",
    "file compacted",
    "schema changed",
    "file deleted",
    "file named again",
    "malformed object staged",
    "other object among the staged appends",
    "staged ahead of us: schema",
    "staged ahead of us: format",
    "staged ahead of us: base",
    "staged before its schema was known",
    "flush that tells of what was crafted",
    "abandoned object removed",
    "folder copied beside writers",
    "folder copied at one instant",
    "append to a copy",
    "append of a process that holds both",
)
"""What is done, as :attr:`Report.counts` names it; a mix that never does one of these proves nothing about it."""


@dataclass(slots=True)
class Told:
    """What callers were told of one append id."""

    committed: list[int] = field(default_factory=list)
    failed: int = 0
    gone: int = 0
    unknown: int = 0
    deferred: int = 0
    running: int = 0
    handed_in: bool = False

    @property
    def surely_absent(self) -> bool:
        """Whether every call with this id was told that it failed, other than by the table's end."""
        return bool(self.failed) and not (self.committed or self.unknown or self.deferred or self.running or self.gone)


@dataclass(slots=True)
class Report:
    """How a run ended.

    Attributes:
        seed: where everything random came from.
        violations: invariants that did not hold.
        acknowledged: appends that callers were told are committed.
        versions: versions of the table, or tables.
        latencies: seconds that each acknowledged append took.
        requests: by kind.
        ended_at: virtual seconds that the run took.
        counts: how often each fault happened and each thing was done (:data:`ACTIONS`, ``faults.FAULTS``).
    """

    seed: int
    violations: list[str] = field(default_factory=list)
    acknowledged: int = 0
    versions: int = 0
    latencies: list[float] = field(default_factory=list)
    requests: Counter[str] = field(default_factory=Counter)
    ended_at: float = 0.0
    counts: Counter[str] = field(default_factory=Counter)


def percentile(values: Sequence[float], share: float) -> float:
    """A percentile by the nearest rank; 0.0 of nothing."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))] if ordered else 0.0
