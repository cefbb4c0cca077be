"""Conditions bound to a schema: columns are found by id, values checked, and every "not" is gone.

"Not" is moved inwards by De Morgan's laws, which hold for null too, until it stands at a single check,
and each check has an opposite that is null for the same rows. Without "not", a row is taken if and only
if it would be taken with null counted as false: so two values are enough from here on.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, Literal

from msgspec import Struct

from datashard_core.errors import ConfigurationError
from datashard_core.format.expressions.expressions import (
    NEGATED,
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
    column_name,
)
from datashard_core.format.statistics.metrics import FLOATS
from datashard_core.format.statistics.ordering import canonical
from datashard_core.format.types import types as t
from datashard_core.format.types.schema import Schema
from datashard_core.format.types.values import MisfitError, clean_literal

CheckKind = Literal[
    "null",
    "not null",
    "nan",
    "not nan",
    "==",
    "!=",
    "<",
    "<=",
    ">",
    ">=",
    "in",
    "not in",
    "starts with",
    "not starts with",
]


class Canonical(Struct, frozen=True):
    """A value that is in canonical form already (:mod:`datashard_core.format.statistics.ordering`)."""

    value: Any


class Reference(Struct, frozen=True):
    """A column, or a field within structs.

    Attributes:
        names: its name, after those of the structs around it.
        field: the field itself.
    """

    names: tuple[str, ...]
    field: t.NestedField


class Check(Struct, frozen=True):
    """One check of one column, true or not.

    Attributes:
        reference: the column.
        kind: what is asked.
        value: what it is compared with, in canonical form; sorted without duplicates for "in" and "not in".
    """

    reference: Reference
    kind: CheckKind
    value: Any = None


class AllOf(Struct, frozen=True):
    """True if every part is."""

    parts: tuple[Bound, ...]


class AnyOf(Struct, frozen=True):
    """True if one part is."""

    parts: tuple[Bound, ...]


class Fixed(Struct, frozen=True):
    """The same for every row."""

    value: bool


class Unknown(Struct, frozen=True):
    """May be true for any row; only a query engine can tell."""


Bound = Check | AllOf | AnyOf | Fixed | Unknown
TRUE, FALSE, UNKNOWN = Fixed(True), Fixed(False), Unknown()


def bind(condition: Condition, schema: Schema, table_name: str) -> Bound:
    """A condition on the rows of a table with that schema.

    Raises:
        ConfigurationError: it names a column that is not there, or compares one with a value of another type.
    """
    return _bind(condition, False, schema, table_name)


def checks_of(bound: Bound) -> Iterator[Check]:
    """Every check in a condition."""
    if isinstance(bound, Check):
        yield bound
    elif isinstance(bound, (AllOf, AnyOf)):
        for part in bound.parts:
            yield from checks_of(part)


def is_exact(bound: Bound) -> bool:
    """Whether all of the condition was understood."""
    if isinstance(bound, (AllOf, AnyOf)):
        return all(map(is_exact, bound.parts))
    return not isinstance(bound, Unknown)


def _bind(condition: Condition, negated: bool, schema: Schema, table_name: str) -> Bound:
    if isinstance(condition, Not):
        return _bind(condition.part, not negated, schema, table_name)
    if isinstance(condition, (And, Or)):
        parts = [_bind(part, negated, schema, table_name) for part in condition.parts]
        return _all(parts) if isinstance(condition, And) != negated else _any(parts)
    if isinstance(condition, Constant):
        return Fixed(condition.value is not None and condition.value != negated)
    if isinstance(condition, Opaque):
        return UNKNOWN
    if not isinstance(condition, (Comparison, IsNull, IsNaN, In, StartsWith)):
        raise ConfigurationError(f"table {table_name}: {condition!r} is no condition")
    reference = find(condition.column, schema, table_name)
    try:
        return _check(condition, negated, reference)
    except MisfitError as error:
        raise ConfigurationError(
            f"table {table_name}: the condition {condition!r} does not fit column {column_name(condition.column)!r}: "
            f"{error.why}"
        ) from error


def find(path: Path, schema: Schema, table_name: str) -> Reference:
    """The column of a name, or the field within structs that a dotted name, or the names one by one, lead to.

    Raises:
        ConfigurationError: there is none, or more than one.
    """
    found = list(_named(path, schema.fields))
    if not found:
        raise ConfigurationError(
            f"table {table_name} has no column {column_name(path)!r}; it has {', '.join(schema.names)}"
        )
    if len(found) > 1:
        ids = " and ".join(str(one.field.field_id) for one in found)
        raise ConfigurationError(
            f"table {table_name}: {column_name(path)!r} is the name of several fields, those with the ids {ids}: "
            "filter what to_arrow() returns, or rename one with the engine that made the table"
        )
    return found[0]


def _named(path: Path, fields: Sequence[t.NestedField]) -> Iterator[Reference]:
    """The fields that a path leads to; names in one text may have dots themselves, names one by one are exact."""
    for field in fields:
        if path in (field.name, (field.name,)):
            yield Reference((field.name,), field)
        elif isinstance(field.type, t.StructType) and (rest := _below(path, field.name)):
            for inner in _named(rest, field.type.fields):
                yield Reference((field.name, *inner.names), inner.field)


def _below(path: Path, name: str) -> Path | None:
    """What a path leads to within the field of a name; None if it does not lead there."""
    if isinstance(path, str):
        return path[len(name) + 1 :] if path.startswith(f"{name}.") else None
    return path[1:] if path[0] == name else None


def _check(condition: Condition, negated: bool, reference: Reference) -> Bound:
    kind, path = reference.field.type, ".".join(reference.names)
    if isinstance(condition, IsNull):
        return Check(reference, "not null" if negated else "null")
    if t.children(kind):
        raise MisfitError(path, f"only is_null() is possible for its type, {kind}")
    if isinstance(condition, IsNaN):
        if kind not in FLOATS:
            raise MisfitError(path, f"NaN is possible for float and double only, and its type is {kind}")
        return Check(reference, "not nan" if negated else "nan")
    if isinstance(condition, Comparison):
        operator = NEGATED[condition.operator] if negated else condition.operator
        return compare(reference, operator, _value(condition.value, reference))
    if isinstance(condition, In):
        return _one_of(condition, negated, reference)
    assert isinstance(condition, StartsWith)
    if kind not in (t.PrimitiveType("string"), t.PrimitiveType("binary")):
        raise MisfitError(path, f"starts_with() is for string and binary, and its type is {kind}")
    return Check(reference, "not starts with" if negated else "starts with", _value(condition.prefix, reference))


_WITH_NAN: dict[Operator, CheckKind] = {"==": "nan", ">=": "nan", "!=": "not nan", "<": "not nan", "<=": "not null"}


def compare(reference: Reference, operator: Operator, value: Any) -> Bound:
    """A comparison with a canonical value: NaN is above every number, and equal to itself."""
    if isinstance(value, float) and math.isnan(value):
        return FALSE if operator == ">" else Check(reference, _WITH_NAN[operator])
    if str(reference.field.type) == "int" and not -(2**31) <= value < 2**31:
        above = value > 0  # above every int, or below
        true = operator == "!=" or operator in (("<", "<=") if above else (">", ">="))
        return Check(reference, "not null") if true else FALSE
    return Check(reference, operator, value)


def _one_of(condition: In, negated: bool, reference: Reference) -> Bound:
    null = any(value is None for value in condition.values)  # NumPy's arrays have no answer to ==
    values = [_value(value, reference) for value in condition.values if value is not None]
    nan = any(isinstance(value, float) and math.isnan(value) for value in values)
    if str(reference.field.type) == "int":
        values = [value for value in values if -(2**31) <= value < 2**31]
    plain = tuple(sorted({value for value in values if value == value}))
    if negated:
        if null:
            return FALSE
        if not condition.values:
            return TRUE
        parts: list[Bound] = [Check(reference, "not in", plain) if plain else Check(reference, "not null")]
        return _all([*parts, Check(reference, "not nan")] if nan else parts)
    found: list[Bound] = [Check(reference, "in", plain)] if plain else []
    return _any([*found, Check(reference, "nan")] if nan else found)


def _value(value: Any, reference: Reference) -> Any:
    if isinstance(value, Canonical):
        return value.value
    field = reference.field
    path = ".".join(reference.names)
    # A long is compared with an int without a question; the range is looked at in compare().
    kind = t.PrimitiveType("long") if str(field.type) == "int" else field.type
    if isinstance(kind, t.FixedType):
        kind = t.PrimitiveType("binary")
    return canonical(kind, clean_literal(value, t.NestedField(field.field_id, field.name, kind, True), path))


def _all(parts: Iterable[Bound]) -> Bound:
    flat: list[Bound] = []
    for part in parts:
        if part == FALSE:
            return FALSE
        if isinstance(part, AllOf):
            flat += part.parts
        elif part != TRUE:
            flat.append(part)
    return flat[0] if len(flat) == 1 else AllOf(tuple(flat)) if flat else TRUE


def _any(parts: Iterable[Bound]) -> Bound:
    flat: list[Bound] = []
    for part in parts:
        if part == TRUE:
            return TRUE
        if isinstance(part, AnyOf):
            flat += part.parts
        elif part != FALSE:
            flat.append(part)
    return flat[0] if len(flat) == 1 else AnyOf(tuple(flat)) if flat else FALSE
