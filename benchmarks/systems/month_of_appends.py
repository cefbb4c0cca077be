"""Appends of a month in small, evenly over it: each by a process that has just begun, as far as the store can see.

Reads one JSON object from its arguments: ``place``, ``deferred``, ``ids``, ``appends``, ``pause`` (milliseconds between
two of them), ``read_every`` (appends from one read to the next). Writes ``"created"`` as soon as there is a table; goes
on when a line comes, and writes in the end how many requests its reads were.

One process reads all the time, so it keeps in memory what it has read of immutable objects. Old versions become
tombstones within the run and not after a week, so that it pays for them.
"""

from __future__ import annotations

import json
import sys
from collections import Counter
from typing import Any

from place import config_of

import datashard_core as ds
from datashard_core.clock import SystemClock
from datashard_core.commit.versions import metadata_expiry

PROPERTIES = {"write.metadata.previous-versions-max": "1"}  # what is in this log may not be a tombstone yet


class Paced(SystemClock):
    """The world's clock, moved on by a pause before each append."""

    moved = 0

    def now_ms(self) -> int:
        return super().now_ms() + self.moved


def main() -> None:
    order: dict[str, Any] = json.loads(sys.argv[1])
    config, clock = config_of(order["place"]), Paced()
    metadata_expiry.AGE = 0.0
    schema = ds.Schema.infer([{"task": "a", "n": 1, "state": "success"}])
    ds.connect(config=config, clock=clock).create_table("log", schema, properties=PROPERTIES)
    print(json.dumps("created"), flush=True)
    sys.stdin.readline()
    reading: Counter[str] = Counter()
    for n in range(order["appends"]):
        clock.moved += order["pause"]
        # Nothing is known from the append before.
        table = ds.connect(config=config, clock=clock).load_table("log", to_defer=order["deferred"])
        table.append(
            [{"task": f"task {n % 50}", "n": n, "state": "success"}],
            append_id=f"run {n // 50} task {n % 50}" if order["ids"] else None,
            commit="deferred" if order["deferred"] else "now",
        )
        if n % order["read_every"] == 0:
            table = ds.connect(config=config, clock=clock).load_table("log")
            table.scan(columns=["state"]).to_arrow()
            reading.update(table.metrics().requests)
    ds.connect(config=config, clock=clock).load_table("log").flush()
    print(json.dumps(reading), flush=True)
    sys.stdin.readline()
    if ds.connect(config=config).load_table("log").count() != order["appends"]:
        raise SystemExit("the rows in the end are not those that were appended")


if __name__ == "__main__":
    main()
