"""Appends of many rows by DataShard, and the same rows by Arrow's writer, in turn and in one process."""

from __future__ import annotations

import json
import sys
import time
from typing import Any

import pyarrow as pa
import pyarrow.fs as pafs
import pyarrow.parquet as pq
from place import config_of

import datashard_core as ds


def make_rows(count: int) -> pa.Table:
    """Rows as a workflow log has them."""
    import random

    chance = random.Random(7)
    start = 1_760_000_000_000_000
    names = [f"task_{number:03}" for number in range(200)]
    return pa.table(
        {
            "run_id": pa.array(range(count), pa.int64()),
            "task": pa.array([names[number * 7919 % 200] for number in range(count)], pa.string()),
            "state": pa.array(["failed" if number % 97 == 0 else "success" for number in range(count)], pa.string()),
            "started": pa.array([start + number * 1_000_003 for number in range(count)], pa.timestamp("us")),
            "seconds": pa.array([chance.expovariate(0.1) for _ in range(count)], pa.float64()),
            "rows": pa.array([number * 31 % 100_000 for number in range(count)], pa.int64()),
        }
    )


def main() -> None:
    order: dict[str, Any] = json.loads(sys.argv[1])
    place = order["place"]
    rows = make_rows(order["rows"])
    config = config_of(place)
    table = ds.connect(config=config).create_table("large", ds.Schema.from_arrow(rows.schema))
    scheme, _, host = place["endpoint"].partition("://")
    keys = {"access_key": place["key"], "secret_key": place["secret"], "region": "us-east-1"}
    filesystem = pafs.S3FileSystem(endpoint_override=host, scheme=scheme, **keys)
    path = f"{place['bucket']}/{place['prefix']}/plain"
    writers = {
        "ours": lambda number: table.append(rows),
        "pyarrow write_table, zstd": lambda number: pq.write_table(
            rows, f"{path}/zstd-{number}.parquet", filesystem=filesystem, compression="zstd"
        ),
        "pyarrow write_table, defaults": lambda number: pq.write_table(
            rows, f"{path}/plain-{number}.parquet", filesystem=filesystem
        ),
    }
    for writer in writers.values():
        writer(-1)  # connections and code are warm
    print("ready", flush=True)
    sys.stdin.readline()
    taken: dict[str, list[float]] = {name: [] for name in writers}
    for number in range(order["times"]):
        for name, writer in writers.items():
            started = time.monotonic()
            writer(number)
            taken[name].append(time.monotonic() - started)
    print(json.dumps(taken), flush=True)


if __name__ == "__main__":
    main()
