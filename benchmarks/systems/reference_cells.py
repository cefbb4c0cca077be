"""The operations of the reference document's table of latencies, timed in one warm process.

Reads one JSON object from its arguments: ``place`` (a bucket's) or ``folder`` (local), ``fsync``, ``times``. It says
"ready" when all is warm, waits for a line, and prints seconds by operation.
"""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Callable
from typing import Any

from place import config_of

import datashard_core as ds

FIELDS = [
    {"id": 1, "name": "user_id", "type": "long", "required": True},
    {"id": 2, "name": "event", "type": "string", "required": True},
    {"id": 3, "name": "timestamp", "type": "long", "required": True},
]


def warehouse_of(order: dict[str, Any]) -> ds.Warehouse:
    """Where the tables go."""
    if "folder" in order:
        return ds.connect(order["folder"])
    place = order["place"]
    config = config_of(place)
    return ds.connect(config=config)


def rows(count: int) -> list[dict[str, Any]]:
    """Records as in the document's samples."""
    return [{"user_id": n, "event": f"event {n % 20}", "timestamp": 1_700_000_000 + n} for n in range(count)]


def timed(do: Callable[[], object]) -> tuple[float, float]:
    """When it began and ended."""
    began = time.monotonic()
    do()
    return began, time.monotonic()


def main() -> None:
    order: dict[str, Any] = json.loads(sys.argv[1])
    if not order.get("fsync", True):
        os.fsync = lambda descriptor: None  # what the figures would be without durability
    warehouse = warehouse_of(order)
    schema = ds.Schema(schema_id=1, fields=FIELDS)
    small, large = rows(100), rows(10_000)
    first = warehouse.create_table("warm", schema)
    first.append_records(small)
    full = warehouse.create_table("full", schema)
    for _ in range(5):
        full.append_records(large)
    assert full.scan().to_arrow().num_rows == 50_000
    print("ready", flush=True)
    sys.stdin.readline()
    done: dict[str, list[tuple[float, float]]] = {}
    for number in range(order["times"]):
        name = f"table_{number}"
        done.setdefault("create", []).append(timed(lambda name=name: warehouse.create_table(name, schema)))
        table = warehouse.load_table(name)
        table.append_records(small)
        done.setdefault("append 100", []).append(timed(lambda table=table: table.append_records(small)))
        done.setdefault("append 10,000", []).append(timed(lambda table=table: table.append_records(large)))
        done.setdefault("read 50,000", []).append(timed(lambda: full.scan().to_arrow()))
    print(json.dumps(done), flush=True)


if __name__ == "__main__":
    main()
