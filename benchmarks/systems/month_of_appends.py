"""Appends of a month in small: each by a process that has just begun, as far as the store can see.

Reads one JSON object from its arguments: ``place``, ``deferred``, ``ids``, ``appends``, ``reads``, and says after each
part which it was.
"""

from __future__ import annotations

import json
import sys
from typing import Any

from place import config_of

import datashard_core as ds


def main() -> None:
    order: dict[str, Any] = json.loads(sys.argv[1])
    place = order["place"]
    config = config_of(place)
    schema = ds.Schema.infer([{"task": "a", "n": 1, "state": "success"}])
    ds.connect(config=config).create_table("log", schema)
    _part("created")
    for n in range(order["appends"]):
        table = ds.connect(config=config).load_table("log")  # nothing is known from the append before
        table.append(
            [{"task": f"task {n % 50}", "n": n, "state": "success"}],
            append_id=f"run {n // 50} task {n % 50}" if order["ids"] else None,
            commit="deferred" if order["deferred"] else "now",
        )
    _part("appended")
    ds.connect(config=config).load_table("log").flush()
    _part("flushed")
    for _ in range(order["reads"]):
        ds.connect(config=config).load_table("log").scan(columns=["state"]).to_arrow()
    _part("read")
    assert ds.connect(config=config).load_table("log").count() == order["appends"]


def _part(name: str) -> None:
    print(json.dumps(name), flush=True)
    sys.stdin.readline()


if __name__ == "__main__":
    main()
