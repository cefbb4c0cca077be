"""DataShard as the benchmarks use it."""

from __future__ import annotations

import time
from typing import Any

from place import config_of

import datashard_core as ds
from datashard_core.clock import SystemClock

NAME = "log"


class System:
    """A table of a warehouse in the benchmarks' bucket."""

    def __init__(self, place: dict[str, str]) -> None:
        if "clock" in place:
            run_clock(float(place["clock"]))
        config = config_of(place)
        self._warehouse = ds.connect(config=config)
        self._table: ds.Table | None = None

    def create(self) -> None:
        fields = [("worker", "long"), ("n", "long"), ("message", "string")]
        schema = ds.Schema(fields=[{"id": i, "name": name, "type": type_} for i, (name, type_) in enumerate(fields, 1)])
        self._table = self._warehouse.create_table(NAME, schema)

    def open(self) -> None:
        self._table = self._warehouse.load_table(NAME)

    def append(self, rows: list[dict[str, Any]]) -> None:
        assert self._table is not None
        self._table.append(rows)

    def pairs(self) -> list[tuple[int, int]]:
        rows = self._warehouse.load_table(NAME).scan(columns=["worker", "n"]).to_arrow()
        return list(zip(rows["worker"].to_pylist(), rows["n"].to_pylist(), strict=True))


def run_clock(speed: float) -> None:
    """Let this process's clock run so much faster from now on, as :meth:`kit.store.Store.set_clock` the store's."""
    from unittest import mock  # its import takes long, and every fresh process would pay for it

    begun = time.time()
    ahead = mock.patch.object(SystemClock, "now_ms", lambda _: int(1000 * (begun + (time.time() - begun) * speed)))
    ahead.start()
