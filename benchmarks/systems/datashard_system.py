"""The PyPI package ``datashard``, with its defaults."""

from __future__ import annotations

import os
from typing import Any


class System:
    """A table in the benchmarks' bucket; the package is configured by variables alone."""

    def __init__(self, place: dict[str, str]) -> None:
        settings = {
            "STORAGE_TYPE": "s3",
            "S3_ENDPOINT": place["endpoint"],
            "S3_ACCESS_KEY": place["key"],
            "S3_SECRET_KEY": place["secret"],
            "S3_BUCKET": place["bucket"],
            "S3_REGION": "us-east-1",
            "S3_PREFIX": place["prefix"],
        }
        os.environ.update({f"DATASHARD_{name}": value for name, value in settings.items()})
        import datashard

        self._module = datashard
        self._table: Any = None

    def create(self) -> None:
        fields = [("worker", "long"), ("n", "long"), ("message", "string")]
        schema = self._module.Schema(
            schema_id=1,
            fields=[
                {"id": index, "name": name, "type": type_, "required": False}
                for index, (name, type_) in enumerate(fields, 1)
            ],
        )
        self._module.create_table("log", schema)

    def open(self) -> None:
        self._table = self._module.load_table("log")

    def append(self, rows: list[dict[str, Any]]) -> None:
        self._table.append_records(rows)

    def pairs(self) -> list[tuple[int, int]]:
        rows = self._module.load_table("log").scan(columns=["worker", "n"])
        return [(row["worker"], row["n"]) for row in rows]
