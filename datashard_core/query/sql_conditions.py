"""SQL text as a condition, as far as it can be understood without a query engine.

DuckDB parses the text, binds it to the columns, types it and computes what is constant (``now() -
interval 1 day``); its plan is read here. What is not understood becomes
:class:`~datashard_core.format.expressions.expressions.Opaque`: it prunes nothing, and DuckDB answers it.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from msgspec import Struct

from datashard_core.errors import ConfigurationError
from datashard_core.format.expressions.binding import Canonical
from datashard_core.format.expressions.expressions import (
    SWAPPED,
    And,
    Comparison,
    Condition,
    Constant,
    In,
    IsNaN,
    IsNull,
    Not,
    Opaque,
    Operator,
    Or,
    Path,
    StartsWith,
)
from datashard_core.format.types import types as t
from datashard_core.format.types.schema import Schema

# Those that would move conditions out of sight, or judge them by the empty table that they are bound to.
_LEFT_OUT = (
    "filter_pushdown,filter_pullup,statistics_propagation,empty_result_pullup,column_lifetime,unused_columns,in_clause,"
    "reorder_filter"
)
_OPERATORS: dict[str, Operator] = {
    "COMPARE_EQUAL": "==",
    "COMPARE_NOTEQUAL": "!=",
    "COMPARE_LESSTHAN": "<",
    "COMPARE_LESSTHANOREQUALTO": "<=",
    "COMPARE_GREATERTHAN": ">",
    "COMPARE_GREATERTHANOREQUALTO": ">=",
}
_PREFIXES = ("prefix", "starts_with", "^@")
_SIMPLE = ("BOOLEAN", "INTEGER", "BIGINT", "DATE", "TIME", "TIMESTAMP", "TIMESTAMP WITH TIME ZONE", "VARCHAR")
_DAY = 86_400_000_000
_ESCAPED = re.compile(r"\\x([0-9A-Fa-f]{2})")


class Understood(Struct, frozen=True):
    """A condition that was SQL.

    Attributes:
        condition: what of it was understood.
        columns: the columns that it needs, as places in the schema; None if that is not known.
    """

    condition: Condition
    columns: tuple[int, ...] | None


def understand(connection: Any, where: str, table: str, schema: Schema, table_name: str) -> Understood:
    """Read a condition.

    Args:
        connection: a DuckDB connection that has the table.
        where: the SQL text.
        table: name of an empty table with the columns that the text is about.
        schema: of its columns.
        table_name: name of the table for messages.

    Raises:
        ConfigurationError: the text does not parse, names an unknown column, or compares what cannot be compared.
    """
    connection.execute(f"set disabled_optimizers = '{_LEFT_OUT}'")
    query = f'select 1 from "{table}" where (\n{where}\n)'
    row = connection.execute("select json_serialize_plan(?, optimize := true)", [query]).fetchone()
    connection.execute("reset disabled_optimizers")
    # Not msgspec: DuckDB writes NaN and Infinity as such.
    parsed = json.loads(row[0])
    if parsed.get("error"):
        raise ConfigurationError(f"table {table_name}: the condition {where!r} does not fit: {parsed['error_message']}")
    found = _find(parsed["plans"][0])
    if found is None:
        return Understood(Opaque(where), None)
    get, expressions = found
    for text, kind in _impossible_casts(expressions):
        raise ConfigurationError(f"table {table_name}: the condition {where!r} does not fit: {text!r} is not {kind}")
    places = [column["index"] for column in get["column_indexes"]]
    fields = schema.fields
    reader = _Reader([fields[place] if place < len(fields) else None for place in places])
    parts = tuple(reader.condition(expression) for expression in expressions)
    used = tuple(sorted({place for place in places if place < len(fields)}))
    return Understood(parts[0] if len(parts) == 1 else And(parts), used)


def _find(plan: Any) -> tuple[Any, list[Any]] | None:
    """The scan of the table and the conditions right above it; None for another kind of plan."""
    expressions: list[Any] = []
    node = plan
    while node["type"] in ("LOGICAL_PROJECTION", "LOGICAL_FILTER"):
        if node["type"] == "LOGICAL_FILTER":
            if node.get("projection_map"):
                return None
            expressions += node["expressions"]
        if len(node["children"]) != 1:
            return None
        node = node["children"][0]
    if node["type"] != "LOGICAL_GET" or node.get("projection_ids"):
        return None
    return node, expressions


def _impossible_casts(node: Any) -> Iterator[tuple[str, str]]:
    """Constants that DuckDB could not turn into the type that they are compared with."""
    if isinstance(node, list):
        for one in node:
            yield from _impossible_casts(one)
    elif isinstance(node, dict):
        child = node.get("child")
        if node.get("expression_class") == "BOUND_CAST" and not node.get("try_cast") and isinstance(child, dict):
            value = child.get("value") if child["expression_class"] == "BOUND_CONSTANT" else None
            if value is not None and not value["is_null"]:
                yield str(value["value"]), _type_id(node)
        for key, one in node.items():
            if key != "lambda_expr":  # where DuckDB leaves every constant as it is written
                yield from _impossible_casts(one)


class _Reader:
    """Reads bound expressions; ``columns`` are those that they refer to by number."""

    def __init__(self, columns: Sequence[t.NestedField | None]) -> None:
        self._columns = columns

    def condition(self, node: Any) -> Condition:
        """The condition that an expression is, :class:`Opaque` where it is not understood."""
        kind = node["type"]
        if node["expression_class"] == "BOUND_CONSTANT":
            value = node["value"]
            known = value["type"]["id"] == "BOOLEAN" or value["is_null"]
            return Constant(None if value["is_null"] else bool(value["value"])) if known else Opaque(kind)
        if node["expression_class"] == "BOUND_COMPARISON":
            return self._comparison(node)
        if node["expression_class"] == "BOUND_CONJUNCTION":
            parts = tuple(self.condition(child) for child in node["children"])
            return And(parts) if kind == "CONJUNCTION_AND" else Or(parts)
        if node["expression_class"] == "BOUND_OPERATOR":
            return self._operator(node)
        if node["expression_class"] == "BOUND_FUNCTION":
            return self._function(node)
        column = self._column(node)
        if column is not None and node["return_type"]["id"] == "BOOLEAN":
            return Comparison(column, "==", Canonical(True))
        return Opaque(kind)

    def _column(self, node: Any) -> Path | None:
        """The column that an expression is, or the field within structs."""
        fields = self._fields(node)
        return tuple(field.name for field in fields) if fields else None

    def _fields(self, node: Any) -> tuple[t.NestedField, ...]:
        """The column that an expression is and the fields on the way into its structs; empty for anything else."""
        if node["type"] == "BOUND_REF" and node["expression_class"] == "BOUND_REF":
            column = self._columns[node["index"]]
            return (column,) if column is not None else ()
        if node.get("name") != "struct_extract" or len(node["children"]) != 2:
            return ()
        around, key = self._fields(node["children"][0]), _value(node["children"][1], None)
        if not around or key is None or not isinstance(around[-1].type, t.StructType):
            return ()
        # DuckDB leaves the name as it was written, in whatever case.
        found = [field for field in around[-1].type.fields if field.name.lower() == str(key.value).lower()]
        return (*around, *found) if len(found) == 1 else ()

    def _comparison(self, node: Any) -> Condition:
        left, right, kind = node["left"], node["right"], node["type"]
        if left["expression_class"] == "BOUND_CONSTANT":
            left, right = right, left
            swap = True
        else:
            swap = False
        if right["expression_class"] != "BOUND_CONSTANT":
            return Opaque(kind)
        if kind in ("COMPARE_DISTINCT_FROM", "COMPARE_NOT_DISTINCT_FROM"):
            return self._distinct(left, right, kind == "COMPARE_NOT_DISTINCT_FROM")
        operator = _OPERATORS.get(kind)
        if operator is None:
            return Opaque(kind)
        if right["value"]["is_null"]:
            return Constant(None)
        return self._compared(left, SWAPPED[operator] if swap else operator, right)

    def _compared(self, left: Any, operator: Operator, right: Any) -> Condition:
        if left["expression_class"] == "BOUND_CAST":
            return self._cast_compared(left, operator, right)
        column, value = self._column(left), _value(right, left.get("return_type"))
        return Opaque(operator) if column is None or value is None else Comparison(column, operator, value)

    def _cast_compared(self, cast: Any, operator: Operator, right: Any) -> Condition:
        """A comparison of a column that is cast: of the casts, those that keep the order of the values."""
        column, source, target = self._column(cast["child"]), _type_id(cast["child"]), _type_id(cast)
        value = _value(right, cast["return_type"])
        if column is None or value is None:
            return Opaque("cast")
        if (source, target) == ("INTEGER", "BIGINT"):
            return Comparison(column, operator, value)
        if source in ("TIMESTAMP", "TIMESTAMP WITH TIME ZONE") and target == "DATE":
            return _on_day(column, operator, value.value)
        return Opaque("cast")

    def _distinct(self, left: Any, right: Any, same: bool) -> Condition:
        column = self._column(left)
        if column is None:
            return Opaque("distinct")
        null = IsNull(column)
        if right["value"]["is_null"]:
            return null if same else Not(null)
        equal = self._compared(left, "==", right)
        return And((Not(null), equal)) if same else Or((null, Not(equal)))

    def _operator(self, node: Any) -> Condition:
        kind, children = node["type"], node["children"]
        if kind == "OPERATOR_NOT":
            return Not(self.condition(children[0]))
        if kind in ("OPERATOR_IS_NULL", "OPERATOR_IS_NOT_NULL"):
            column = self._column(children[0])
            if column is None:
                return Opaque(kind)
            return IsNull(column) if kind == "OPERATOR_IS_NULL" else Not(IsNull(column))
        if kind in ("COMPARE_IN", "COMPARE_NOT_IN"):
            found = self._one_of(children)
            return Not(found) if kind == "COMPARE_NOT_IN" else found
        return Opaque(kind)

    def _one_of(self, children: Sequence[Any]) -> Condition:
        column = self._column(children[0])
        constants = all(child["expression_class"] == "BOUND_CONSTANT" for child in children[1:])
        if column is None or not constants:
            return Opaque("in")
        values = [
            None if child["value"]["is_null"] else _value(child, children[0]["return_type"]) for child in children[1:]
        ]
        unread = [child for child, value in zip(children[1:], values, strict=True) if value is None]
        if any(not child["value"]["is_null"] for child in unread):
            return Opaque("in")
        return In(column, tuple(values))

    def _function(self, node: Any) -> Condition:
        name, children = node["name"], node["children"]
        if name == "isnan" and len(children) == 1:
            column = self._column(children[0])
            return (
                IsNaN(column) if column is not None and _type_id(children[0]) in ("FLOAT", "DOUBLE") else Opaque(name)
            )
        if name in _PREFIXES and len(children) == 2 and children[1]["expression_class"] == "BOUND_CONSTANT":
            column, value = self._column(children[0]), _value(children[1], children[0].get("return_type"))
            if column is not None and value is not None and _type_id(children[0]) == "VARCHAR":
                return StartsWith(column, value)
        return Opaque(name)


def _type_id(node: Any) -> str:
    kind = node.get("return_type") or {}
    return str(kind.get("id"))


def _on_day(column: Path, operator: Operator, day: int) -> Condition:
    """A comparison of a time stamp's day."""
    start, end = day * _DAY, (day + 1) * _DAY
    if not -(2**62) < start < 2**62:
        return Opaque("an infinite date")
    before, after = Comparison(column, "<", Canonical(start)), Comparison(column, ">=", Canonical(end))
    meaning: dict[Operator, Callable[[], Condition]] = {
        "<": lambda: before,
        "<=": lambda: Not(after),
        ">": lambda: after,
        ">=": lambda: Not(before),
        "==": lambda: And((Not(before), Not(after))),
        "!=": lambda: Or((before, after)),
    }
    return meaning[operator]()


def _value(node: Any, kind: Any) -> Canonical | None:
    """A constant in canonical form; None if it is null, or not of the type ``kind`` (if one is given)."""
    if node["expression_class"] != "BOUND_CONSTANT" or node["value"]["is_null"]:
        return None
    told, value = node["value"]["type"], node["value"]["value"]
    if kind is not None and (told["id"], _scale(told)) != (kind["id"], _scale(kind)):
        return None
    name = told["id"]
    if name in _SIMPLE:
        return Canonical(value)
    if name in ("FLOAT", "DOUBLE"):
        return Canonical(float(value))
    if name == "DECIMAL":
        return Canonical(_hugeint(value))
    if name == "UUID":
        # DuckDB flips the first bit so that signed numbers are in the order of the texts.
        return Canonical((_hugeint(value) + 2**127).to_bytes(16, "big"))
    if name == "BLOB":
        return Canonical(_blob(value))
    return None


def _scale(kind: Any) -> int | None:
    info = kind.get("type_info") or {}
    scale = info.get("scale")
    return int(scale) if scale is not None else None


def _hugeint(value: Any) -> int:
    return (value["upper"] << 64) + value["lower"] if isinstance(value, dict) else int(value)


def _blob(text: str) -> bytes:
    """Bytes as DuckDB shows them: printable ASCII as it is, the rest, the backslash too, as ``\\xAB``."""
    parts = _ESCAPED.split(text)
    return b"".join(bytes.fromhex(part) if place % 2 else part.encode("latin-1") for place, part in enumerate(parts))
