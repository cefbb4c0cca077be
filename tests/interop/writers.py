"""Writers that append to a table at the same time, each a process of its own: ``python writers.py NAME``.

It says "ready" once its engine runs. Then each line of its input is a job in JSON: the table's URI, the
S3 settings, and how many rows it should get into the table, one by one, before a deadline. The answer
is one line: which rows were acknowledged, and which failed with what. Only "datashard" imports our code.
"""

from __future__ import annotations

import json
import os
import sys
import tempfile
import time
from collections.abc import Callable
from typing import Any

Insert = Callable[[int], Any]
_kept: list[Any] = []
"""Servers that stop as soon as nobody refers to them."""


def sail() -> Callable[[str, dict[str, str] | None], Insert]:
    """Sail, a Spark in Rust: appends by path. It takes the S3 settings from the environment."""
    from pysail.spark import SparkConnectServer

    server = SparkConnectServer()
    server.start()
    from pyspark.sql import SparkSession

    spark = SparkSession.builder.remote(f"sc://localhost:{server.listening_address[1]}").getOrCreate()

    _kept.append(server)

    def open_table(uri: str, _: dict[str, str] | None) -> Insert:
        def insert(number: int) -> None:
            rows = spark.createDataFrame([("sail", number)], "writer string, n long")
            rows.write.format("iceberg").mode("append").save(uri)

        return insert

    return open_table


def clickhouse() -> Callable[[str, dict[str, str] | None], Insert]:
    """ClickHouse, in this process: inserts by path."""
    import chdb

    os.chdir("/")  # it resolves the paths of local tables against the working directory
    chdb.query("select 1")

    def open_table(uri: str, s3: dict[str, str] | None) -> Insert:
        table = f"icebergLocal('{uri.removeprefix('file://')}/')"
        if s3 is not None:
            url = f"{s3['endpoint']}/{uri.removeprefix('s3://')}/"
            table = f"icebergS3('{url}', '{s3['access_key']}', '{s3['secret_key']}')"

        def insert(number: int) -> None:
            chdb.query(
                f"INSERT INTO FUNCTION {table} SETTINGS allow_insert_into_iceberg = 1, "
                f"write_full_path_in_iceberg_metadata = 1 VALUES ('clickhouse', {number})"
            )

        return insert

    return open_table


def datashard() -> Callable[[str, dict[str, str] | None], Insert]:
    """Our own writer on another machine, which opens the table anew for each row: a task in a workflow."""
    from datashard_core import S3Config, Schema, connect, load_table

    with tempfile.TemporaryDirectory() as folder:  # what is imported at first use is imported now
        schema = Schema(fields=[{"id": 1, "name": "n", "type": "long"}])
        connect(folder).create_table("warm", schema).append([{"n": 1}])

    def open_table(uri: str, s3: dict[str, str] | None) -> Insert:
        config = None
        if s3 is not None:
            bucket, _, prefix = uri.removeprefix("s3://").partition("/")
            config = S3Config(bucket=bucket, prefix=prefix.rpartition("/")[0], region="us-east-1", **s3)

        def insert(number: int) -> None:
            load_table(uri, config=config).append([{"writer": "datashard", "n": number}], append_id=f"task {number}")

        return insert

    return open_table


ENGINES = {"sail": sail, "clickhouse": clickhouse, "datashard": datashard}


def work(insert: Insert, wanted: int, seconds: float) -> dict[str, list[Any]]:
    """Insert rows 0, 1, 2, ... until enough are acknowledged, or time is up."""
    acknowledged: list[int] = []
    failed: list[tuple[int, str]] = []
    end, number = time.monotonic() + seconds, 0
    while len(acknowledged) < wanted and time.monotonic() < end:
        try:
            insert(number)
        except Exception as error:  # noqa: BLE001 - each engine has its own; the test judges what came of it
            failed.append((number, f"{type(error).__name__}: {str(error)[:400]}"))
            time.sleep(0.1)
        else:
            acknowledged.append(number)
        number += 1
    return {"acknowledged": acknowledged, "failed": failed}


def main() -> None:
    """Serve jobs until the input ends."""
    name = sys.argv[1]
    open_table = ENGINES[name]()
    assert name == "datashard" or not any(module.startswith("datashard_core") for module in sys.modules)
    print("ready", flush=True)
    for line in sys.stdin:
        job = json.loads(line)
        print(json.dumps(work(open_table(job["uri"], job["s3"]), job["rows"], job["seconds"])), flush=True)
    os._exit(0)  # engines keep threads that would not end


if __name__ == "__main__":
    main()
