"""``pyarrow.compute`` expressions as conditions: what users pass, and what DuckDB asks a scan for.

Arrow shows no parts of an expression, but serializes it: as a schema whose metadata tells calls, fields
and literals in order, with the literals as columns of one row. What is not understood becomes
:class:`~datashard_core.format.expressions.Opaque`.
"""

from __future__ import annotations

import ctypes
import struct
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from msgspec import Struct, field

from datashard_core.format.binding import Canonical
from datashard_core.format.canonical import canonical
from datashard_core.format.expressions import (
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
    StartsWith,
)
from datashard_core.format.schema import Schema

if TYPE_CHECKING:
    import pyarrow as pa
    import pyarrow.compute as pc

_OPERATORS: dict[str, Operator] = {
    "equal": "==",
    "not_equal": "!=",
    "less": "<",
    "less_equal": "<=",
    "greater": ">",
    "greater_equal": ">=",
}


class _Field(Struct):
    name: str | None


class _Literal(Struct):
    scalar: Any


class _Call(Struct):
    name: str
    arguments: list[Any] = field(default_factory=list)
    options: Any = None


def from_arrow(expression: pc.Expression, schema: Schema, *, nan_on_top: bool) -> Condition:
    """The condition that an expression is.

    Args:
        expression: the expression.
        schema: of the rows that it is about.
        nan_on_top: how it takes NaN: True, above every number, as DuckDB does; False, like nothing, as Arrow does.
    """
    import pyarrow as pa

    buffer = expression.__reduce__()[1][0]
    with pa.ipc.open_file(buffer) as reader:
        batch = reader.get_batch(0)
        tokens = iter(_pairs(reader.schema))
    tree = _parse(next(tokens), tokens, batch)
    return _Reader(schema, nan_on_top).condition(tree)


def _pairs(schema: pa.Schema) -> list[tuple[str, str]]:
    """The metadata of a schema in order: as a mapping, which Arrow makes of it, repeated keys would be lost."""
    capsule = schema.__arrow_c_schema__()
    api = ctypes.pythonapi.PyCapsule_GetPointer
    api.restype, api.argtypes = ctypes.c_void_p, [ctypes.py_object, ctypes.c_char_p]
    pointers = ctypes.cast(api(capsule, b"arrow_schema"), ctypes.POINTER(ctypes.c_void_p))
    # struct ArrowSchema { const char* format; const char* name; const char* metadata; ... }
    address = pointers[2]
    if not address:
        return []
    found = []

    def text() -> str:
        nonlocal address
        (length,) = struct.unpack("=i", ctypes.string_at(address, 4))
        data = ctypes.string_at(address + 4, length)
        address += 4 + length
        return data.decode()

    (count,) = struct.unpack("=i", ctypes.string_at(address, 4))
    address += 4
    for _ in range(count):
        key = text()
        found.append((key, text()))
    return found


def _parse(first: tuple[str, str], tokens: Iterator[tuple[str, str]], batch: pa.RecordBatch) -> Any:
    """The part of an expression that begins with the token ``first``."""
    key, value = first
    if key == "literal":
        return _Literal(batch.column(int(value))[0])
    if key == "field_ref":
        return _Field(value)
    if key == "nested_field_ref":
        parts = [_parse(next(tokens), tokens, batch) for _ in range(int(value))]
        names = [part.name if isinstance(part, _Field) else None for part in parts]
        if any(name is None or "." in name for name in names):
            return _Field(None)
        return _Field(".".join(str(name) for name in names))
    assert key == "call", key
    call = _Call(value)
    while True:
        key, value = next(tokens)
        if key == "end":
            return call
        if key == "options":
            call.options = batch.column(int(value))[0]
        else:
            call.arguments.append(_parse((key, value), tokens, batch))


class _Reader:
    def __init__(self, schema: Schema, nan_on_top: bool) -> None:
        self._schema = schema
        self._nan_on_top = nan_on_top

    def condition(self, node: Any) -> Condition:
        if isinstance(node, _Literal):
            value = node.scalar.as_py()
            return Constant(value) if value is None or isinstance(value, bool) else Opaque()
        if isinstance(node, _Field):
            kind = self._type(node)
            return Comparison(str(node.name), "==", Canonical(True)) if str(kind) == "boolean" else Opaque()
        if node.name in ("and_kleene", "or_kleene"):
            parts = tuple(self.condition(argument) for argument in node.arguments)
            return And(parts) if node.name == "and_kleene" else Or(parts)
        if node.name == "invert":
            return self._inverted(node.arguments[0])
        if node.name in _OPERATORS and len(node.arguments) == 2:
            return self._comparison(node)
        return self._function(node)

    def _type(self, node: _Field) -> Any:
        """Type of a column; None if there is none of the name."""
        from datashard_core.errors import ConfigurationError
        from datashard_core.format.binding import find

        if node.name is None:
            return None
        try:
            return find(node.name, self._schema, "").field.type
        except ConfigurationError:
            return None

    def _inverted(self, node: Any) -> Condition:
        """ "Not": of a comparison with a float Arrow makes true for NaN, and DuckDB does not."""
        found = self.condition(node)
        return Not(found) if self._nan_on_top or not _compares_floats(found, self._floats()) else Opaque()

    def _floats(self) -> frozenset[str]:
        from datashard_core.format import types as t

        return frozenset(path for path, one in t.walk(self._schema.fields) if str(one.type) in ("float", "double"))

    def _comparison(self, node: _Call) -> Condition:
        left, right = node.arguments
        operator = _OPERATORS[node.name]
        if isinstance(left, _Literal):
            left, right, operator = right, left, SWAPPED[operator]
        if not isinstance(left, _Field) or not isinstance(right, _Literal):
            return Opaque(node.name)
        if not right.scalar.is_valid:
            return Constant(None)
        value = self._value(left, right.scalar)
        if value is None or (not self._nan_on_top and value.value != value.value):
            return Opaque(node.name)
        return Comparison(str(left.name), operator, value)

    def _value(self, column: _Field, scalar: Any) -> Canonical | None:
        """A literal in the canonical form of a column's type; None if it is of another type."""
        import pyarrow as pa

        from datashard_core.format.arrow_types import type_to_arrow

        kind = self._type(column)
        if kind is None:
            return None
        target = type_to_arrow(kind)
        if isinstance(target, pa.BaseExtensionType):
            target = target.storage_type
        try:
            same = scalar if scalar.type == target else scalar.cast(target)
            # A cast that loses something would change the condition.
            if scalar.type != target and not same.cast(scalar.type).equals(scalar):
                return None
        except pa.ArrowException:
            return None
        if pa.types.is_temporal(target):
            same = same.cast(pa.int32() if pa.types.is_date32(target) else pa.int64())
        return Canonical(canonical(kind, same.as_py()))

    def _function(self, node: _Call) -> Condition:
        column = node.arguments[0] if node.arguments else None
        if not isinstance(column, _Field) or self._type(column) is None:
            return Opaque(node.name)
        name = str(column.name)
        options = node.options.as_py() if node.options is not None else {}
        if node.name == "is_null":
            null = IsNull(name)
            return Or((null, IsNaN(name))) if options.get("nan_is_null") and name in self._floats() else null
        if node.name == "is_valid":
            return Not(IsNull(name))
        if node.name == "is_nan" and name in self._floats():
            return IsNaN(name)
        if node.name == "starts_with" and not options.get("ignore_case"):
            prefix = options.get("pattern")
            text = prefix.decode() if isinstance(prefix, bytes) else prefix
            return StartsWith(name, Canonical(text)) if str(self._type(column)) == "string" else Opaque(node.name)
        if node.name == "is_in":
            return self._one_of(column, node.options)
        return Opaque(node.name)

    def _one_of(self, column: _Field, options: Any) -> Condition:
        """Arrow's ``is_in`` is false for a null, unless null is among the values: never null itself."""
        scalars = list(options["value_set"].values) if options is not None else []
        values = [self._value(column, scalar) for scalar in scalars if scalar.is_valid]
        if not scalars or any(value is None for value in values):
            return Opaque("is_in")
        if not self._nan_on_top and any(value.value != value.value for value in values if value is not None):
            return Opaque("is_in")
        name = str(column.name)
        found: Condition = In(name, tuple(values))
        if len(values) < len(scalars) and not self._nan_on_top:
            return Or((found, IsNull(name)))
        return And((Not(IsNull(name)), found))


def _compares_floats(condition: Condition, floats: frozenset[str]) -> bool:
    if isinstance(condition, (And, Or)):
        return any(_compares_floats(part, floats) for part in condition.parts)
    if isinstance(condition, Not):
        return _compares_floats(condition.part, floats)
    return isinstance(condition, (Comparison, In)) and condition.column in floats
