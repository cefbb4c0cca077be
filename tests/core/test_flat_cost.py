"""What an append costs, counted and not timed: requests and bytes at the 10th, 100th and 1,000th commit."""

from __future__ import annotations

import datetime as dt
from collections.abc import Sequence
from dataclasses import dataclass, field
from statistics import median
from typing import Any

import pytest

from datashard_core.storage.base import StoredObject, Version
from datashard_core.storage.memory import MemoryStorage
from datashard_core.table.warehouse import Warehouse
from datashard_core.workflow_log import workflow_log_schema

MARKS = (10, 100, 1000)
SPAN = 64
"""Appends that are measured after each mark: four times the sixteen after which an id node is due."""


@dataclass(slots=True)
class Cost:
    """Requests, and bytes both ways."""

    requests: int = 0
    up: int = 0
    down: int = 0
    listed: list[str] = field(default_factory=list)

    def since(self, before: tuple[int, int, int]) -> Cost:
        """What was spent after a moment."""
        return Cost(self.requests - before[0], self.up - before[1], self.down - before[2])

    @property
    def now(self) -> tuple[int, int, int]:
        """The moment to count from."""
        return self.requests, self.up, self.down


class CountingStorage(MemoryStorage):
    """Memory that counts what is asked of it."""

    cost: Cost

    def get(self, key: str, byte_range: tuple[int, int] | None = None) -> StoredObject:
        self.cost.requests += 1
        found = super().get(key, byte_range)
        self.cost.down += len(found.body)
        return found

    def head(self, key: str) -> Any:
        self.cost.requests += 1
        return super().head(key)

    def list(self, prefix: str, after: str | None = None) -> Any:
        self.cost.requests += 1
        self.cost.listed.append(prefix)
        return super().list(prefix, after)

    def put(self, key: str, data: bytes) -> Version:
        self.cost.requests += 1
        self.cost.up += len(data)
        return super().put(key, data)

    def put_if_absent(self, key: str, data: bytes) -> Version:
        self.cost.requests += 1
        self.cost.up += len(data)
        return super().put_if_absent(key, data)

    def replace(self, key: str, data: bytes, version: Version) -> Version:
        self.cost.requests += 1
        self.cost.up += len(data)
        return super().replace(key, data, version)

    def delete(self, keys: Sequence[str]) -> None:
        self.cost.requests += 1
        super().delete(keys)

    def at(self, folder: str) -> MemoryStorage:
        deeper = super().at(folder)
        deeper.__class__ = CountingStorage
        assert isinstance(deeper, CountingStorage)
        deeper.cost = self.cost
        return deeper


def _row(number: int) -> dict[str, Any]:
    return {
        "orchestrator": "script",
        "workflow": "flat",
        "run_id": f"run {number}",
        "task_id": "append",
        "try_number": 1,
        "state": "success",
        "started": dt.datetime(2026, 11, 25, 12, tzinfo=dt.UTC),
    }


@pytest.mark.thorough
@pytest.mark.parametrize("fresh", [False, True], ids=["one process", "a process for each append"])
def test_the_thousandth_append_costs_what_the_hundredth_did(fresh: bool) -> None:
    storage = CountingStorage(f"memory://flat-{fresh}")
    storage.cost = Cost()
    warehouse = Warehouse(storage)
    table = warehouse.create_table("t", workflow_log_schema())
    storage.cost.listed.clear()
    reclaimable: dict[int, list[Cost]] = {mark: [] for mark in MARKS}
    for number in range(MARKS[-1] + SPAN):
        mark = max((mark for mark in MARKS if mark <= number < mark + SPAN), default=None)
        before = storage.cost.now
        handle = warehouse.load_table("t") if fresh and mark is not None else table
        handle.append([_row(number)])
        if mark is not None:
            reclaimable[mark].append(storage.cost.since(before))
    for what in ("requests", "up", "down"):
        p50 = {mark: median(getattr(cost, what) for cost in costs) for mark, costs in reclaimable.items()}
        assert p50[1000] <= 1.2 * p50[100], (what, p50)
    for mark, costs in reclaimable.items():
        requests = sorted(cost.requests for cost in costs)
        assert requests[int(0.99 * len(requests))] <= 3 * median(requests), (mark, requests)
    assert not [prefix for prefix in storage.cost.listed if prefix.startswith("metadata")]
    assert table.refresh().count() == MARKS[-1] + SPAN
    assert len(table.snapshots()) == 100
