"""Tables of every kind of history, and the rows that any reader has to find in them.

For readers that are not ours: each maker makes one table in a warehouse and says what is in it.
"""

from __future__ import annotations

import datetime as dt
import math
import uuid
from collections.abc import Callable, Sequence
from decimal import Decimal
from typing import Any

from datashard_core.format.types.schema import Schema
from datashard_core.table.warehouse import Warehouse

Row = dict[str, Any]
Maker = Callable[[Warehouse, str], list[Row]]

EVERY_TYPE = Schema(
    fields=[
        {"name": "k", "type": "long", "required": True},
        {"name": "flag", "type": "boolean"},
        {"name": "small", "type": "int"},
        {"name": "single", "type": "float"},
        {"name": "number", "type": "double"},
        {"name": "money", "type": "decimal(9, 2)"},
        {"name": "huge", "type": "decimal(38, 10)"},
        {"name": "day", "type": "date"},
        {"name": "clock", "type": "time"},
        {"name": "local", "type": "timestamp"},
        {"name": "instant", "type": "timestamptz"},
        {"name": "text", "type": "string"},
        {"name": "ident", "type": "uuid"},
        {"name": "code", "type": "fixed[3]"},
        {"name": "raw", "type": "binary"},
        {"name": "tags", "type": {"type": "list", "element": "string"}},
        {"name": "counts", "type": {"type": "map", "key": "string", "value": "long"}},
        {"name": "place", "type": {"type": "struct", "fields": [
            {"name": "x", "type": "double"}, {"name": "names", "type": {"type": "list", "element": "string"}}]}},
    ],
)  # fmt: skip
FULL: Row = {
    "k": 1,
    "flag": True,
    "small": -7,
    "single": 1.5,
    "number": -2.25,
    "money": Decimal("-1234567.89"),
    "huge": Decimal("-1234567890123456789012345678.0123456789"),
    "day": dt.date(2013, 1, 1),
    "clock": dt.time(23, 59, 59, 999999),
    "local": dt.datetime(2013, 1, 1, 5, 0, 0, 1),
    "instant": dt.datetime(2013, 1, 1, 5, 0, 0, 1, tzinfo=dt.UTC),
    "text": "flughafen München 🛫 and a long text that is cut in its bounds",
    "ident": uuid.UUID("f79c3e09-677c-4bbd-a479-3f349cb785e7"),
    "code": b"\x00\xff\x01",
    "raw": b"\xff" * 20,
    "tags": ["a", None, "c"],
    "counts": [("x", 1), ("y", None)],
    "place": {"x": 0.5, "names": ["here"]},
}
NOTHING: Row = {**dict.fromkeys(FULL), "k": 2}
EDGES: Row = {
    **NOTHING,
    "k": 3,
    "flag": False,
    "small": 2**31 - 1,
    "single": -0.0,
    "number": math.inf,
    "money": Decimal("0.01"),
    "huge": Decimal("9999999999999999999999999999.9999999999"),
    "day": dt.date(1969, 12, 31),
    "clock": dt.time(0),
    "local": dt.datetime(1969, 12, 31, 23, 59, 59, 999999),
    "instant": dt.datetime(2200, 1, 1, tzinfo=dt.UTC),
    "text": "",
    "ident": uuid.UUID(int=2**128 - 1),
    "code": b"\xff\xff\xff",
    "raw": b"",
    "tags": [],
    "counts": [],
    "place": {"x": None, "names": []},
}
NANS: Row = {**NOTHING, "k": 4, "single": math.nan, "number": math.nan}


ROWS = (FULL, NOTHING, EDGES, NANS)


def numbers(*ks: int) -> list[Row]:
    """Rows of the schema :data:`NUMBERS`."""
    return [{"k": k, "text": f"row {k}"} for k in ks]


NUMBERS = Schema(fields=[{"id": 1, "name": "k", "type": "long"}, {"id": 2, "name": "text", "type": "string"}])


def every_type(warehouse: Warehouse, name: str) -> list[Row]:
    """Every type, with values at the ends of their ranges and nulls."""
    table = warehouse.create_table(name, EVERY_TYPE)
    table.append(list(ROWS[:2]))
    table.append(list(ROWS[2:]))
    return list(ROWS)


def every_type_but_time(warehouse: Warehouse, name: str) -> list[Row]:
    """The same without ``time``, which Spark lacks."""
    fields = [field for field in EVERY_TYPE.to_dict()["fields"] if field["name"] != "clock"]
    rows = [{key: value for key, value in row.items() if key != "clock"} for row in ROWS]
    warehouse.create_table(name, Schema(fields=fields)).append(rows)
    return rows


def empty(warehouse: Warehouse, name: str) -> list[Row]:
    """Nothing was ever appended."""
    warehouse.create_table(name, NUMBERS)
    return []


def appended(warehouse: Warehouse, name: str) -> list[Row]:
    """Plain appends, one of them tried again."""
    table = warehouse.create_table(name, NUMBERS)
    for k in range(3):
        table.append(numbers(k), append_id=f"id/{k}")
    table.append(numbers(1), append_id="id/1")
    return numbers(0, 1, 2)


def grouped(warehouse: Warehouse, name: str) -> list[Row]:
    """One commit carries what waits beside it."""
    table = warehouse.create_table(name, NUMBERS)
    for k in range(4):
        table.append(numbers(k), commit="deferred")
    table.append(numbers(9))
    return numbers(0, 1, 2, 3, 9)


def flushed(warehouse: Warehouse, name: str) -> list[Row]:
    """Deferred appends that were flushed, and one that was not."""
    table = warehouse.create_table(name, NUMBERS)
    table.append(numbers(0))
    table.append(numbers(1), commit="deferred")
    table.flush()
    table.append(numbers(2), commit="deferred")  # waits: no engine sees it yet
    return numbers(0, 1)


def merged(warehouse: Warehouse, name: str) -> list[Row]:
    """Manifests are merged, and old snapshots are expired, by ordinary appends."""
    limits = {"commit.manifest.min-count-to-merge": "2", "datashard.snapshots.max-count": "2"}
    limits["write.metadata.previous-versions-max"] = "2"
    table = warehouse.create_table(name, NUMBERS, properties={**limits, "history.expire.min-snapshots-to-keep": "1"})
    for k in range(9):
        table.append(numbers(k))
    assert len(table.snapshots()) == 2
    return numbers(*range(9))


def made_again(warehouse: Warehouse, name: str) -> list[Row]:
    """Dropped, and made again in the same folder."""
    warehouse.create_table(name, NUMBERS).append(numbers(0))
    warehouse.drop_table(name)
    warehouse.create_table(name, NUMBERS).append(numbers(5))
    return numbers(5)


def purged(warehouse: Warehouse, name: str) -> list[Row]:
    """What is left of the old table are tombstones."""
    warehouse.create_table(name, NUMBERS).append(numbers(0))
    warehouse.drop_table(name, purge=True)
    warehouse.create_table(name, NUMBERS).append(numbers(6))
    return numbers(6)


def compacted(warehouse: Warehouse, name: str) -> list[Row]:
    """Small files were made one."""
    table = warehouse.create_table(name, NUMBERS)
    for k in range(4):
        table.append(numbers(k))
    table.compact()
    table.append(numbers(4))
    return numbers(0, 1, 2, 3, 4)


MAKERS: tuple[Maker, ...] = (
    every_type,
    every_type_but_time,
    empty,
    appended,
    grouped,
    flushed,
    merged,
    made_again,
    purged,
    compacted,
)


def make_all(warehouse: Warehouse, makers: Sequence[Maker] = MAKERS) -> dict[str, list[Row]]:
    """Make one table with each maker, under its name; and a dropped one, ``dropped``, that no reader may open."""
    rows = {make.__name__: make(warehouse, make.__name__) for make in makers}
    warehouse.create_table("dropped", NUMBERS).append(numbers(0))
    warehouse.drop_table("dropped")
    return rows


def typed(value: Any) -> Any:
    """A value with its type, and with what ``==`` does not see (NaN, the sign of zero) made visible."""
    if isinstance(value, dict):
        return {key: typed(inside) for key, inside in value.items()}
    if isinstance(value, list):
        return [tuple(map(typed, one)) if isinstance(one, tuple) else typed(one) for one in value]
    if isinstance(value, float):
        return ("float", repr(value))
    if isinstance(value, dt.datetime) and value.tzinfo is not None:
        return ("instant", value.astimezone(dt.UTC).replace(tzinfo=None))
    return (type(value).__name__, value)


def told(row: Row) -> Row:
    """A row as an engine gave it, with the two values that engines dress differently in one dress."""
    row = dict(row)
    if isinstance(row.get("counts"), dict):
        row["counts"] = list(row["counts"].items())
    ident = row.get("ident")
    if isinstance(ident, (bytes, str)):
        row["ident"] = uuid.UUID(bytes=ident) if isinstance(ident, bytes) else uuid.UUID(ident)
    return row


def in_order(rows: list[Row]) -> list[Any]:
    """Rows as they are compared: sorted, each value with its type."""
    return [typed(row) for row in sorted(rows, key=lambda row: (row["k"], str(row)))]
