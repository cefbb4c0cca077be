"""The PyPI package ``pyiceberg`` with a catalog in SQLite, with its defaults."""

from __future__ import annotations

from typing import Any

import pyarrow as pa
from pyiceberg.catalog.sql import SqlCatalog

SCHEMA = pa.schema([("worker", pa.int64()), ("n", pa.int64()), ("message", pa.string())])


class System:
    """An Iceberg table in the benchmarks' bucket, and its catalog in a file."""

    def __init__(self, place: dict[str, str]) -> None:
        self._catalog = SqlCatalog(
            "bench",
            uri=f"sqlite:///{place['catalog']}",
            warehouse=f"s3://{place['bucket']}/{place['prefix']}",
            **{
                "s3.endpoint": place["endpoint"],
                "s3.access-key-id": place["key"],
                "s3.secret-access-key": place["secret"],
                "s3.region": "us-east-1",
            },
        )
        self._table: Any = None

    def create(self) -> None:
        self._catalog.create_namespace("bench")
        self._catalog.create_table("bench.log", SCHEMA)

    def open(self) -> None:
        self._table = self._catalog.load_table("bench.log")

    def append(self, rows: list[dict[str, Any]]) -> None:
        self._table.append(pa.Table.from_pylist(rows, SCHEMA))

    def pairs(self) -> list[tuple[int, int]]:
        rows = self._catalog.load_table("bench.log").scan(selected_fields=("worker", "n")).to_arrow()
        return list(zip(rows["worker"].to_pylist(), rows["n"].to_pylist(), strict=True))
