"""The PyPI package ``deltalake``, with its defaults."""

from __future__ import annotations

from typing import Any

from arro3.core import Array, DataType, Table
from deltalake import DeltaTable, Field, Schema, write_deltalake
from deltalake.schema import PrimitiveType


class System:
    """A Delta table in the benchmarks' bucket."""

    def __init__(self, place: dict[str, str]) -> None:
        self._uri = f"s3://{place['bucket']}/{place['prefix']}/log"
        self._options = {
            "AWS_ENDPOINT_URL": place["endpoint"],
            "AWS_ACCESS_KEY_ID": place["key"],
            "AWS_SECRET_ACCESS_KEY": place["secret"],
            "AWS_REGION": "us-east-1",
            "AWS_ALLOW_HTTP": "true",
        }
        self._table: DeltaTable | None = None

    def create(self) -> None:
        fields = [("worker", "long"), ("n", "long"), ("message", "string")]
        schema = Schema([Field(name, PrimitiveType(type_)) for name, type_ in fields])
        DeltaTable.create(self._uri, schema, storage_options=self._options)

    def open(self) -> None:
        self._table = DeltaTable(self._uri, storage_options=self._options)

    def append(self, rows: list[dict[str, Any]]) -> None:
        numbers = {name: Array([row[name] for row in rows], type=DataType.int64()) for name in ("worker", "n")}
        text = Array([row["message"] for row in rows], type=DataType.utf8())
        assert self._table is not None
        write_deltalake(self._table, Table.from_pydict({**numbers, "message": text}), mode="append")

    def pairs(self) -> list[tuple[int, int]]:
        rows = DeltaTable(self._uri, storage_options=self._options).to_pyarrow_table(columns=["worker", "n"])
        return list(zip(rows["worker"].to_pylist(), rows["n"].to_pylist(), strict=True))
