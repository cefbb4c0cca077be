"""``pyarrow.compute`` expressions as conditions: what users pass, and what DuckDB asks a scan for.

Arrow shows no parts of an expression, but serializes it: as a schema whose metadata tells calls, fields
and literals in order, with the literals as columns of one row. What is not understood becomes
:class:`~datashard_core.format.expressions.expressions.Opaque`.
"""

from __future__ import annotations

import ctypes
import datetime as dt
import struct
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from msgspec import Struct, field

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
from datashard_core.format.statistics.ordering import canonical
from datashard_core.format.types.schema import Schema
from datashard_core.format.types.types import PrimitiveType

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

_MATCH, _SKIP = 0, 1
"""What ``is_in`` does with null: it is a value like others, or none."""
_UTC_ENDS = (dt.datetime.min.replace(tzinfo=dt.UTC), dt.datetime.max.replace(tzinfo=dt.UTC))
_ENDS: dict[str, tuple[Any, ...]] = {
    name: tuple(canonical(PrimitiveType(name), end) for end in ends)
    for name, ends in {
        "date": (dt.date.min, dt.date.max),
        "timestamp": (dt.datetime.min, dt.datetime.max),
        "timestamptz": _UTC_ENDS,
    }.items()
}


class _Field(Struct):
    path: tuple[str, ...]


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
    tree = _tree(expression)
    if tree is None:
        return Opaque("what cannot be serialized, such as a column by its number")
    return _Reader(schema, nan_on_top).condition(tree)


def columns_in(expression: pc.Expression) -> frozenset[str] | None:
    """The columns that an expression names, those of parts that never count too; None if that is not known."""
    tree = _tree(expression)
    return None if tree is None else frozenset(_named(tree))


def _tree(expression: pc.Expression) -> Any:
    """The parts of an expression; None if Arrow does not serialize it."""
    import pyarrow as pa

    try:
        buffer = expression.__reduce__()[1][0]
    except pa.ArrowException:
        return None
    with pa.ipc.open_file(buffer) as reader:
        batch = reader.get_batch(0)
        tokens = iter(_pairs(reader.schema))
    return _parse(next(tokens), tokens, batch)


def _named(node: Any) -> Iterator[str]:
    if isinstance(node, _Field):
        yield node.path[0]
    elif isinstance(node, _Call):
        for argument in node.arguments:
            yield from _named(argument)


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
        return _Field((value,))
    if key == "nested_field_ref":
        parts = [_parse(next(tokens), tokens, batch) for _ in range(int(value))]
        return _Field(tuple(name for part in parts for name in part.path))
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
            # DuckDB asks for every row, those with null too, where it means every value up to NaN.
            known = value is None or (isinstance(value, bool) and not (value and self._nan_on_top))
            return Constant(value) if known else Opaque("literal")
        if isinstance(node, _Field):
            return Comparison(node.path, "==", Canonical(True)) if str(self._type(node)) == "boolean" else Opaque()
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
        from datashard_core.format.expressions.binding import find

        try:
            return find(node.path, self._schema, "").field.type
        except ConfigurationError:
            return None

    def _inverted(self, node: Any) -> Condition:
        """ "Not": of a comparison with a float Arrow makes true for NaN, and DuckDB does not."""
        found = self.condition(node)
        return Not(found) if self._nan_on_top or not self._compares_floats(found) else Opaque("invert")

    def _is_float(self, path: Path) -> bool:
        return str(self._type(_Field(path if isinstance(path, tuple) else (path,)))) in ("float", "double")

    def _compares_floats(self, condition: Condition) -> bool:
        if isinstance(condition, (And, Or)):
            return any(map(self._compares_floats, condition.parts))
        if isinstance(condition, Not):
            return self._compares_floats(condition.part)
        return isinstance(condition, (Comparison, In)) and self._is_float(condition.column)

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
        return Comparison(left.path, operator, value)

    def _value(self, column: _Field, scalar: Any) -> Canonical | None:
        """A literal in the canonical form of a column's type; None where Arrow would compare them as another type."""
        import pyarrow as pa

        from datashard_core.format.types.arrow_types import type_to_arrow

        kind = self._type(column)
        if kind is None:
            return None
        # An int is compared with any whole number: binding knows which are beyond it.
        target = pa.int64() if str(kind) == "int" else type_to_arrow(kind)
        if isinstance(target, pa.BaseExtensionType):
            target = target.storage_type
        if pa.types.is_floating(scalar.type) and not pa.types.is_floating(target):
            return None  # the column is compared as doubles, of which one is many a long or decimal
        try:
            same = scalar if scalar.type == target else scalar.cast(target)
            # A cast that loses something would change the condition.
            if not same.equals(scalar) and not _same(same.cast(scalar.type), scalar):
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
        path = column.path
        options = node.options.as_py() if node.options is not None else {}
        if node.name == "is_null":
            null = IsNull(path)
            return Or((null, IsNaN(path))) if options.get("nan_is_null") and self._is_float(path) else null
        if node.name == "is_valid":
            return Not(IsNull(path))
        if node.name == "is_nan" and self._is_float(path):
            return IsNaN(path)
        if node.name == "starts_with" and not options.get("ignore_case"):
            prefix = options.get("pattern")
            text = prefix.decode() if isinstance(prefix, bytes) else prefix
            return StartsWith(path, Canonical(text)) if str(self._type(column)) == "string" else Opaque(node.name)
        if node.name == "is_in":
            return self._one_of(column, node.options)
        return Opaque(node.name)

    def _one_of(self, column: _Field, options: Any) -> Condition:
        """Arrow's ``is_in`` is false for a null, unless null is among the values: never null itself."""
        scalars = list(options["value_set"].values) if options is not None else []
        nulls = options["null_matching_behavior"].as_py() if options is not None else None
        found = [self._value(column, scalar) for scalar in scalars if scalar.is_valid]
        values = tuple(value for value in found if value is not None)
        if not scalars or len(values) < len(found) or nulls not in (_MATCH, _SKIP):
            return Opaque("is_in")
        # DuckDB gives the infinite dates and times of a list as the first and the last that Python has.
        ends = _ENDS.get(str(self._type(column)), ()) if self._nan_on_top else ()
        if any(value.value in ends or (value.value != value.value and not self._nan_on_top) for value in values):
            return Opaque("is_in")
        path = column.path
        one_of: Condition = In(path, values)
        if len(values) < len(scalars) and nulls == _MATCH and not self._nan_on_top:
            return Or((one_of, IsNull(path)))
        return And((Not(IsNull(path)), one_of))


def _same(one: Any, other: Any) -> bool:
    """Whether two scalars of one type are the same value; of doubles, NaN is itself too."""
    import pyarrow as pa

    if one.equals(other):
        return True
    return pa.types.is_floating(one.type) and all(number.as_py() != number.as_py() for number in (one, other))
