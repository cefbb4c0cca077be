"""Conditions as plain Python answers them, beside the same conditions as SQL text and as ``col()``.

Null makes a comparison null, as in SQL; NaN equals itself and is above every other number.
"""

from __future__ import annotations

import datetime as dt
import math
import struct
import uuid
from collections.abc import Callable
from dataclasses import dataclass
from decimal import Decimal
from typing import Any

from datashard_core import col
from datashard_core.format.expressions.expressions import Condition

INF, NAN = math.inf, math.nan


def single(value: float) -> float:
    """The nearest number that four bytes hold."""
    found: float = struct.unpack("<f", struct.pack("<f", value))[0]
    return found


LONG = "a" * 16
TINY, TENTH = single(1e-45), single(0.1)
VALUES: dict[str, list[Any]] = {
    "boolean": [False, True],
    "int": [-(2**31), -1, 0, 7, 2**31 - 1],
    "long": [-(2**63), -1, 0, 2**53 + 1, 2**63 - 1],
    "float": [-INF, -1.5, -0.0, 0.0, TINY, TENTH, INF, NAN],
    "double": [-INF, -1.5, -0.0, 0.0, 5e-324, 0.1, 1.7976931348623157e308, INF, NAN],
    "date": [dt.date(1, 1, 1), dt.date(1969, 12, 31), dt.date(1970, 1, 1), dt.date(9999, 12, 31)],
    "time": [dt.time(0), dt.time(0, 0, 0, 1), dt.time(12, 30), dt.time(23, 59, 59, 999_999)],
    "timestamp": [
        dt.datetime(1, 1, 1),
        dt.datetime(1969, 12, 31, 23, 59, 59, 999_999),
        dt.datetime(1970, 1, 1),
        dt.datetime(1970, 1, 1, 0, 0, 0, 1),
        dt.datetime(9999, 12, 31, 23, 59, 59, 999_999),
    ],
    "timestamptz": [
        dt.datetime(1, 1, 1, tzinfo=dt.UTC),
        dt.datetime(1969, 12, 31, 23, 59, 59, 999_999, tzinfo=dt.UTC),
        dt.datetime(1970, 1, 1, tzinfo=dt.UTC),
        dt.datetime(2026, 3, 1, 0, 0, 0, 1, tzinfo=dt.UTC),
        dt.datetime(9999, 12, 31, 23, 59, 59, 999_999, tzinfo=dt.UTC),
    ],
    # Bounds keep 16 characters, rounded up: values around them, and one that cannot be rounded up.
    "string": ["", "A", "a", LONG, LONG + "b", "b'%_\\", "é", "\U0010ffff" * 17],
    "uuid": [uuid.UUID(int=0), uuid.UUID(int=1), uuid.UUID(int=2**127), uuid.UUID(int=2**128 - 1)],
    "binary": [b"", b"\x00", b"\x00\\'", b"a" * 17, b"\xff" * 17],
    "fixed[3]": [b"\x00\x00\x00", b"ab\\", b"\xff\xff\xff"],
    "decimal(9, 2)": [Decimal("-9999999.99"), Decimal("-0.01"), Decimal("0.00"), Decimal("9999999.99")],
    "decimal(38, 3)": [
        Decimal("-99999999999999999999999999999999999.999"),
        Decimal("0.000"),
        Decimal("0.001"),
        Decimal("99999999999999999999999999999999999.999"),
    ],
}
SQL_TYPES = {
    "boolean": "BOOLEAN",
    "int": "INTEGER",
    "long": "BIGINT",
    "float": "FLOAT",
    "double": "DOUBLE",
    "date": "DATE",
    "time": "TIME",
    "timestamp": "TIMESTAMP",
    "timestamptz": "TIMESTAMPTZ",
    "string": "VARCHAR",
    "uuid": "UUID",
    "binary": "BLOB",
    "fixed[3]": "BLOB",
    "decimal(9, 2)": "DECIMAL(9, 2)",
    "decimal(38, 3)": "DECIMAL(38, 3)",
}
Row = dict[str, Any]


@dataclass(frozen=True)
class Case:
    """One condition in every form.

    Attributes:
        truth: what it is for a row, by plain Python.
        text: as SQL.
        condition: as ``col()``; None if that has no words for it.
    """

    truth: Callable[[Row], bool | None]
    text: str
    condition: Condition | None


def literal(kind: str, value: Any) -> str:
    """A value in SQL."""
    if value is None:
        return "NULL"
    if isinstance(value, bytes):
        return "'" + "".join(f"\\x{byte:02X}" for byte in value) + "'::BLOB"
    if isinstance(value, dt.datetime):
        text = f"{value.year:04}-{value:%m-%d %H:%M:%S.%f}" + ("+00" if value.tzinfo else "")
    else:
        text = value.isoformat() if isinstance(value, (dt.date, dt.time)) else str(value).replace("'", "''")
    return f"'{text}'::{SQL_TYPES[kind]}"


def order(value: Any) -> Any:
    """A value as it is ordered: NaN above all numbers, uuids by their bytes."""
    if isinstance(value, float):
        return (1, 0.0) if math.isnan(value) else (0, value)
    return value.bytes if isinstance(value, uuid.UUID) else value


def valued(row: Row, path: str) -> Any:
    """The value of a column, or of a field within a struct, which is null where the struct is."""
    value: Any = row
    for name in path.split("."):
        value = None if value is None else value.get(name)
    return value


SYMBOLS = {"==": "=", "!=": "<>", "<": "<", "<=": "<=", ">": ">", ">=": ">="}
_COMPARED: dict[str, Callable[[Any, Any], bool]] = {
    "==": lambda a, b: a == b,
    "!=": lambda a, b: a != b,
    "<": lambda a, b: a < b,
    "<=": lambda a, b: a <= b,
    ">": lambda a, b: a > b,
    ">=": lambda a, b: a >= b,
}


def compared(path: str, kind: str, operator: str, value: Any) -> Case:
    """A column compared with a value."""

    def truth(row: Row) -> bool | None:
        found = valued(row, path)
        return None if found is None else _COMPARED[operator](order(found), order(value))

    condition: Condition = _COMPARED[operator](col(path), value)  # type: ignore[assignment]
    return Case(truth, f"{path} {SYMBOLS[operator]} {literal(kind, value)}", condition)


def between(path: str, kind: str, low: Any, high: Any) -> Case:
    """A column between two values."""
    found = both(compared(path, kind, ">=", low), compared(path, kind, "<=", high))
    return Case(found.truth, f"{path} between {literal(kind, low)} and {literal(kind, high)}", found.condition)


def one_of(path: str, kind: str, values: list[Any]) -> Case:
    """Whether a column is one of some values."""

    def truth(row: Row) -> bool | None:
        found = valued(row, path)
        if found is None:
            return None
        if any(value is not None and order(value) == order(found) for value in values):
            return True
        return None if None in values else False

    listed = ", ".join(literal(kind, value) for value in values)
    return Case(truth, f"{path} in ({listed})", col(path).isin(values))


def none_of(path: str, kind: str, values: list[Any]) -> Case:
    """Whether a column is none of some values."""
    found = negated(one_of(path, kind, values))
    listed = ", ".join(literal(kind, value) for value in values)
    return Case(found.truth, f"{path} not in ({listed})", col(path).not_in(values))


def is_null(path: str) -> Case:
    """Whether a column is null."""
    return Case(lambda row: valued(row, path) is None, f"{path} is null", col(path).is_null())


def is_not_null(path: str) -> Case:
    """Whether a column has a value."""
    return Case(lambda row: valued(row, path) is not None, f"{path} is not null", col(path).is_not_null())


def is_nan(path: str) -> Case:
    """Whether a column is NaN."""

    def truth(row: Row) -> bool | None:
        found = valued(row, path)
        return None if found is None else math.isnan(found)

    return Case(truth, f"isnan({path})", col(path).is_nan())


def begins(path: str, prefix: str, *, like: bool) -> Case:
    """Whether a text begins with a prefix, by LIKE or by the function."""

    def truth(row: Row) -> bool | None:
        found = valued(row, path)
        return None if found is None else found.startswith(prefix)

    quoted = prefix.replace("'", "''")
    pattern = quoted.replace("!", "!!").replace("%", "!%").replace("_", "!_")
    plain = pattern == quoted
    by_like = f"{path} like '{pattern}%'" if plain else f"{path} like '{pattern}%' escape '!'"
    return Case(truth, by_like if like else f"starts_with({path}, '{quoted}')", col(path).starts_with(prefix))


def both(left: Case, right: Case) -> Case:
    """And, by SQL's three values."""

    def truth(row: Row) -> bool | None:
        found = (left.truth(row), right.truth(row))
        return False if False in found else None if None in found else True

    joined = left.condition & right.condition if left.condition is not None and right.condition is not None else None
    return Case(truth, f"({left.text} and {right.text})", joined)


def either(left: Case, right: Case) -> Case:
    """Or, by SQL's three values."""

    def truth(row: Row) -> bool | None:
        found = (left.truth(row), right.truth(row))
        return True if True in found else None if None in found else False

    joined = left.condition | right.condition if left.condition is not None and right.condition is not None else None
    return Case(truth, f"({left.text} or {right.text})", joined)


def negated(case: Case) -> Case:
    """Not, which leaves null null."""

    def truth(row: Row) -> bool | None:
        found = case.truth(row)
        return None if found is None else not found

    return Case(truth, f"(not {case.text})", None if case.condition is None else ~case.condition)
