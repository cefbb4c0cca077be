"""Readers that are not ours open our tables by path, and agree with our scan value by value."""

from __future__ import annotations

import datetime as dt
import json
import pickle
import subprocess
import sys
import uuid
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

import datashard_core as ds
from datashard_core.storage.s3 import S3Storage
from datashard_core.table.warehouse import Warehouse

READERS = Path(__file__).with_name("readers.py")
NAMES = ("pyiceberg", "duckdb")

EVERY_TYPE = ds.Schema(
    schema_id=1,
    fields=[
        {"id": 1, "name": "k", "type": "long", "required": True},
        {"id": 2, "name": "flag", "type": "boolean"},
        {"id": 3, "name": "small", "type": "int"},
        {"id": 4, "name": "real", "type": "float"},
        {"id": 5, "name": "wide", "type": "double"},
        {"id": 6, "name": "money", "type": "decimal(20, 4)"},
        {"id": 7, "name": "day", "type": "date"},
        {"id": 8, "name": "clock", "type": "time"},
        {"id": 9, "name": "moment", "type": "timestamp"},
        {"id": 10, "name": "instant", "type": "timestamptz"},
        {"id": 11, "name": "text", "type": "string"},
        {"id": 12, "name": "ident", "type": "uuid"},
        {"id": 13, "name": "code", "type": "fixed[3]"},
        {"id": 14, "name": "blob", "type": "binary"},
        {
            "id": 15,
            "name": "tags",
            "type": {"type": "list", "element-id": 18, "element": "string", "element-required": False},
        },
        {
            "id": 16,
            "name": "counts",
            "type": {
                "type": "map",
                "key-id": 19,
                "key": "string",
                "value-id": 20,
                "value": "long",
                "value-required": False,
            },
        },
        {
            "id": 17,
            "name": "place",
            "type": {
                "type": "struct",
                "fields": [
                    {"id": 21, "name": "x", "type": "double", "required": False},
                    {"id": 22, "name": "names", "required": False, "type": {
                        "type": "list", "element-id": 23, "element": "string", "element-required": False}},
                ],
            },
        },
    ],
)  # fmt: skip

FULL: dict[str, Any] = {
    "k": 1,
    "flag": True,
    "small": -7,
    "real": 1.5,
    "wide": -2.25,
    "money": Decimal("-1234567890123456.7891"),
    "day": dt.date(2013, 1, 1),
    "clock": dt.time(23, 59, 59, 999999),
    "moment": dt.datetime(2013, 1, 1, 5, 0, 0, 1),
    "instant": dt.datetime(2013, 1, 1, 5, 0, tzinfo=dt.UTC),
    "text": "flughafen München 🛫 and a long text that is cut in its bounds",
    "ident": uuid.UUID("f79c3e09-677c-4bbd-a479-3f349cb785e7"),
    "code": b"\x00\xff\x01",
    "blob": b"\xff" * 20,
    "tags": ["a", None, "c"],
    "counts": [("x", 1), ("y", None)],
    "place": {"x": 0.5, "names": ["here"]},
}
EMPTY: dict[str, Any] = {**dict.fromkeys(FULL), "k": 2}
EDGES: dict[str, Any] = {
    **EMPTY,
    "k": 3,
    "wide": float("inf"),
    "real": -0.0,
    "small": 2**31 - 1,
    "money": Decimal("0.0001"),
    "day": dt.date(1, 1, 1),
    "moment": dt.datetime(1969, 12, 31, 23, 59, 59, 999999),
    "text": "",
    "tags": [],
    "counts": [],
    "place": {"x": None, "names": None},
}
ROWS = [FULL, EMPTY, EDGES]


def plain(value: Any) -> Any:
    """A value in the one form that rows of all readers are compared in."""
    if isinstance(value, dict):
        if set(value) == {"key", "value"} and isinstance(value["key"], list):  # DuckDB's maps, by parts
            return [(k, plain(v)) for k, v in zip(value["key"], value["value"], strict=True)]
        return {key: plain(inside) for key, inside in value.items()}
    if isinstance(value, list):
        return [tuple(map(plain, one)) if isinstance(one, tuple) else plain(one) for one in value]
    if isinstance(value, dt.datetime) and value.tzinfo is not None:
        return value.astimezone(dt.UTC)
    if isinstance(value, (bytearray, memoryview)):
        return bytes(value)
    if isinstance(value, float) and value == 0.0:
        return 0.0
    return value


def by_key(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Rows in the order of their key, each in plain form."""
    return [plain(row) for row in sorted(rows, key=lambda row: row["k"])]


def read(name: str, table: ds.Table) -> list[dict[str, Any]]:
    """A table's rows as a foreign reader sees them, in a process of its own."""
    storage = table._storage
    s3 = None
    if isinstance(storage, S3Storage):
        config = storage.config
        s3 = {"endpoint": config.endpoint, "access_key": config.access_key, "secret_key": config.secret_key}
    done = subprocess.run(
        [sys.executable, "-P", str(READERS), name],
        input=json.dumps({"uri": table.uri, "s3": s3}).encode(),
        capture_output=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr.decode()[-2000:]
    rows: list[dict[str, Any]] = pickle.loads(done.stdout)
    return rows


def comparable(rows: list[dict[str, Any]], reader: str) -> list[dict[str, Any]]:
    """Rows with what a reader calls otherwise brought into one form: maps are pairs, uuids are text."""
    for row in rows:
        counts = row.get("counts")
        if isinstance(counts, dict):
            row["counts"] = list(counts.items())
        if row.get("ident") is not None:
            row["ident"] = str(row["ident"])
    return by_key(rows)


@pytest.mark.parametrize("reader", NAMES)
def test_every_type_is_read_as_it_was_written(any_warehouse: Warehouse, reader: str) -> None:
    table = any_warehouse.create_table("every_type", EVERY_TYPE)
    table.append(ROWS[:2])
    table.append(ROWS[2:])
    ours = comparable(table.scan().to_records(), "ours")
    assert ours == comparable([dict(row) for row in ROWS], "given")
    assert comparable(read(reader, table), reader) == ours


@pytest.mark.parametrize("reader", NAMES)
def test_a_table_is_read_after_every_kind_of_commit(any_warehouse: Warehouse, reader: str) -> None:
    schema = ds.Schema(fields=[{"id": 1, "name": "k", "type": "long", "required": True}])
    table = any_warehouse.create_table("t", schema)
    assert read(reader, table) == []
    table.append([{"k": 0}], append_id="once")
    assert read(reader, table) == [{"k": 0}]
    table.append([{"k": 0}], append_id="once")
    for number in range(1, 20):
        table.append([{"k": number}], commit="deferred" if number % 3 == 0 else "now")
    table.flush()
    assert by_key(read(reader, table)) == [{"k": number} for number in range(20)]
    any_warehouse.drop_table("t")
    with pytest.raises(AssertionError):
        read(reader, table)
    again = any_warehouse.create_table("t", schema)
    again.append([{"k": 5}])
    assert read(reader, again) == [{"k": 5}]


@pytest.mark.parametrize("reader", NAMES)
def test_no_row_is_pruned_away(any_warehouse: Warehouse, reader: str) -> None:
    """Bounds that are too tight lose rows in every reader that prunes: ask for each value."""
    import duckdb
    from pyiceberg.expressions import EqualTo
    from pyiceberg.table import StaticTable

    schema = ds.Schema(fields=[{"id": 1, "name": "k", "type": "long"}, {"id": 2, "name": "text", "type": "string"}])
    table = any_warehouse.create_table("pruned", schema)
    texts = ["", "a" * 40, "\U0010ffff" * 20, "z" * 16 + "\ud7ff" * 3, "é" * 17, "plain"]
    for number, text in enumerate(texts):
        table.append([{"k": number, "text": text}])
    if reader == "duckdb":
        assert duckdb.__version__
        assert by_key(read(reader, table)) == [{"k": n, "text": t} for n, t in enumerate(texts)]
        return
    properties: dict[str, str] = {}
    storage = table._storage
    if isinstance(storage, S3Storage):
        config = storage.config
        properties = {
            "s3.endpoint": str(config.endpoint),
            "s3.access-key-id": str(config.access_key),
            "s3.secret-access-key": str(config.secret_key),
            "s3.region": "us-east-1",
        }
    found = StaticTable.from_metadata(table.uri, properties=properties)
    for number, text in enumerate(texts):
        rows = found.scan(row_filter=EqualTo("text", text)).to_arrow().to_pylist()
        assert rows == [{"k": number, "text": text}]
