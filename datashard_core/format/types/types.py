"""Iceberg's types as values, and their JSON form (Iceberg spec, "Schemas and Data Types", "Appendix C").

Types are frozen, comparable and hashable. Their ``str`` is what the spec calls them: ``long``,
``decimal(9, 2)``, ``list<string>``.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any

from msgspec import Struct

from datashard_core.arguments import shown
from datashard_core.errors import ConfigurationError

PRIMITIVES = (
    "boolean",
    "int",
    "long",
    "float",
    "double",
    "date",
    "time",
    "timestamp",
    "timestamptz",
    "string",
    "uuid",
    "binary",
)
MAX_DECIMAL_PRECISION = 38
MAX_FIELD_ID = 2**31 - 201
"""Ids above are reserved by the spec for metadata columns."""

MAX_DEPTH = 64
"""Types within each other, as many as Arrow reads in a message."""
MAX_FIELDS = 100_000
"""Fields of a schema at any depth: Arrow takes a second for a file that has so many."""

_DECIMAL = r"decimal\(\s*(\d{1,10})\s*,\s*(\d{1,10})\s*\)"
_FIXED = r"fixed(?:\[\s*(\d{1,10})\s*\]|\(\s*(\d{1,10})\s*\))"
_FIELD_KEYS = frozenset({"id", "name", "type", "required", "doc"})


class IcebergType(Struct, frozen=True):
    """Base class of all types."""


class PrimitiveType(IcebergType, frozen=True):
    """A primitive type without parameters.

    Args:
        name: one of :data:`PRIMITIVES`.

    Raises:
        ConfigurationError: there is no such type in Iceberg v2.
    """

    name: str

    def __post_init__(self) -> None:
        if self.name not in PRIMITIVES:
            raise ConfigurationError(_unknown(self.name))

    def __str__(self) -> str:
        return self.name


class DecimalType(IcebergType, frozen=True):
    """Fixed-point numbers.

    Args:
        precision: digits in all, 1 to 38.
        scale: digits after the point, 0 to the precision.

    Raises:
        ConfigurationError: precision or scale are outside of these ranges.
    """

    precision: int
    scale: int

    def __post_init__(self) -> None:
        if not (1 <= self.precision <= MAX_DECIMAL_PRECISION and 0 <= self.scale <= self.precision):
            raise ConfigurationError(
                f"decimal({self.precision}, {self.scale}) is no Iceberg type: the precision is 1 to "
                f"{MAX_DECIMAL_PRECISION}, the scale 0 to the precision"
            )

    def __str__(self) -> str:
        return f"decimal({self.precision}, {self.scale})"


class FixedType(IcebergType, frozen=True):
    """Byte strings that all have the same length.

    Args:
        length: bytes in each value, at least 1.

    Raises:
        ConfigurationError: the length is under 1.
    """

    length: int

    def __post_init__(self) -> None:
        if not 1 <= self.length < 2**31:
            raise ConfigurationError(f"fixed[{self.length}] is no Iceberg type: the length is 1 byte or more")

    def __str__(self) -> str:
        return f"fixed[{self.length}]"


class NestedField(Struct, frozen=True):
    """A column of a table, or a field of a struct.

    Args:
        field_id: its identity for all time: renaming keeps it, and nothing else ever gets it.
        name: its name, case-sensitive.
        type: its type.
        required: whether null is refused.
        doc: a comment for people.
    """

    field_id: int
    name: str
    type: IcebergType
    required: bool
    doc: str | None = None

    def __str__(self) -> str:
        return f"{self.field_id}: {self.name}: {'required' if self.required else 'optional'} {self.type}"


class ListType(IcebergType, frozen=True):
    """Lists.

    Args:
        element_id: field id of the elements.
        element: their type.
        element_required: whether a null element is refused.
    """

    element_id: int
    element: IcebergType
    element_required: bool

    def __str__(self) -> str:
        return f"list<{self.element}>"


class MapType(IcebergType, frozen=True):
    """Maps. Keys are never null.

    Args:
        key_id: field id of the keys.
        key: their type.
        value_id: field id of the values.
        value: their type.
        value_required: whether a null value is refused.
    """

    key_id: int
    key: IcebergType
    value_id: int
    value: IcebergType
    value_required: bool

    def __str__(self) -> str:
        return f"map<{self.key}, {self.value}>"


class StructType(IcebergType, frozen=True):
    """Records within a record.

    Args:
        fields: the fields, in order, each name once.

    Raises:
        ConfigurationError: there is no field, or a name is there twice.
    """

    fields: tuple[NestedField, ...]

    def __post_init__(self) -> None:
        if not self.fields:
            raise ConfigurationError("a struct needs at least one field: Parquet cannot store an empty one")
        check_names([field.name for field in self.fields], "a struct")

    def __str__(self) -> str:
        return f"struct<{', '.join(f'{field.name}: {field.type}' for field in self.fields)}>"


def check_names(names: list[str], what: str) -> None:
    """Refuse a name that is there twice among the fields of ``what``.

    Raises:
        ConfigurationError: it names the field.
    """
    seen = set()
    for name in names:
        if name in seen:
            raise ConfigurationError(f"{what} has two fields of the name {name!r}: rename one")
        seen.add(name)


def parse_type(raw: Any, *, ids: bool = True, depth: int = 0) -> IcebergType:
    """A type from its JSON form, or from a type object (returned as it is).

    Args:
        raw: ``"long"``, ``"decimal(9, 2)"``, ``"fixed[16]"`` (or ``"fixed(16)"``), or a mapping of the
            spec's form such as
            ``{"type": "list", "element-id": 3, "element-required": True, "element": "string"}``.
        ids: False: the fields inside need no ids; the caller gives them out.
        depth: how many types it is in.

    Raises:
        ConfigurationError: it is not a type of Iceberg v2, or more than :data:`MAX_DEPTH` types are in each other.

    Example:
        >>> parse_type("decimal(9,2)")
        DecimalType(precision=9, scale=2)
    """
    if isinstance(raw, IcebergType):
        return raw
    if isinstance(raw, str):
        return _parse_name(raw.strip())
    if not isinstance(raw, Mapping):
        raise ConfigurationError(_unknown(raw))
    if depth == MAX_DEPTH:
        raise ConfigurationError(f"more than {MAX_DEPTH} types are in each other: divide the column into several")
    kind, depth = raw.get("type"), depth + 1
    try:
        if kind == "struct":
            return StructType(tuple(parse_field(field, ids=ids, depth=depth) for field in _listed(raw["fields"])))
        if kind == "list":
            return ListType(
                _id_of(raw, "element-id", "a list's element", ids),
                parse_type(raw["element"], ids=ids, depth=depth),
                bool(raw.get("element-required", False)),
            )
        if kind == "map":
            return MapType(
                _id_of(raw, "key-id", "a map's key", ids),
                parse_type(raw["key"], ids=ids, depth=depth),
                _id_of(raw, "value-id", "a map's value", ids),
                parse_type(raw["value"], ids=ids, depth=depth),
                bool(raw.get("value-required", False)),
            )
    except KeyError as error:
        raise ConfigurationError(f"the {kind} type {shown(raw)} lacks {error}") from error
    raise ConfigurationError(_unknown(raw))


def _listed(fields: Any) -> Any:
    if not isinstance(fields, (list, tuple)):
        raise ConfigurationError(f"a struct has fields={fields!r:.200}, which is not a list")
    return fields


def parse_field(raw: Any, *, strict: bool = False, ids: bool = True, depth: int = 0) -> NestedField:
    """A field from its JSON form, or from a :class:`NestedField` (returned as it is).

    Args:
        raw: a mapping with ``id``, ``name``, ``type``, and optionally ``required`` (default False), ``doc``.
        strict: refuse other keys, which are typing errors where a person wrote the mapping.
        ids: False: ids are not needed; the caller gives them out.
        depth: how many types it is in.

    Raises:
        ConfigurationError: a key is missing or has a value that cannot be used.
    """
    if isinstance(raw, NestedField):
        check_id(raw.field_id, f"field {shown(raw.name)}")
        _check_name(raw.name)
        return raw
    if not isinstance(raw, Mapping):
        raise ConfigurationError(f"the field {shown(raw)} is not a mapping with the keys id, name and type")
    for key in ("id", "name", "type") if ids else ("name", "type"):
        if key not in raw:
            raise ConfigurationError(f"the field {shown(dict(raw))} lacks the key {key!r}")
    if strict and (unknown := sorted(map(str, raw.keys() - _FIELD_KEYS))):
        raise ConfigurationError(
            f"the field {shown(raw['name'])} has the unknown key {shown(unknown[0])}; known are "
            f"{', '.join(sorted(_FIELD_KEYS))}"
        )
    name, required, doc = _check_name(raw["name"]), raw.get("required", False), raw.get("doc")
    if not isinstance(required, bool):
        raise ConfigurationError(f"the field {shown(name)} has required={shown(required)}: pass True or False")
    if doc is not None and not isinstance(doc, str):
        raise ConfigurationError(f"the field {shown(name)} has doc={shown(doc)}: pass text")
    field_id = _id_of(raw, "id", f"field {name!r}", ids)
    return NestedField(field_id, name, parse_type(raw["type"], ids=ids, depth=depth), required, doc)


def _id_of(raw: Mapping[str, Any], key: str, what: str, ids: bool) -> int:
    return check_id(raw[key], what) if ids else 0


def check_id(field_id: Any, what: str) -> int:
    """The id, if it can be one.

    Raises:
        ConfigurationError: it is not an int, or out of the range that the spec leaves to tables.
    """
    if isinstance(field_id, bool) or not isinstance(field_id, int) or not 0 <= field_id <= MAX_FIELD_ID:
        what = what.encode("utf-8", "backslashreplace").decode()
        raise ConfigurationError(f"{what} has id {shown(field_id)}: ids are ints from 1 to {MAX_FIELD_ID}")
    return field_id


def type_to_json(kind: IcebergType) -> str | dict[str, Any]:
    """The JSON form of a type: a string for a primitive one, a mapping for a nested one."""
    if isinstance(kind, StructType):
        return {"type": "struct", "fields": [field_to_json(field) for field in kind.fields]}
    if isinstance(kind, ListType):
        return {
            "type": "list",
            "element-id": kind.element_id,
            "element": type_to_json(kind.element),
            "element-required": kind.element_required,
        }
    if isinstance(kind, MapType):
        return {
            "type": "map",
            "key-id": kind.key_id,
            "key": type_to_json(kind.key),
            "value-id": kind.value_id,
            "value": type_to_json(kind.value),
            "value-required": kind.value_required,
        }
    return str(kind)


def field_to_json(field: NestedField) -> dict[str, Any]:
    """The JSON form of a field."""
    raw: dict[str, Any] = {
        "id": field.field_id,
        "name": field.name,
        "required": field.required,
        "type": type_to_json(field.type),
    }
    if field.doc is not None:
        raw["doc"] = field.doc
    return raw


def children(kind: IcebergType) -> tuple[NestedField, ...]:
    """What is directly inside a type, as fields: ``element``, ``key`` and ``value``, or a struct's own."""
    if isinstance(kind, StructType):
        return kind.fields
    if isinstance(kind, ListType):
        return (NestedField(kind.element_id, "element", kind.element, kind.element_required),)
    if isinstance(kind, MapType):
        return (
            NestedField(kind.key_id, "key", kind.key, True),
            NestedField(kind.value_id, "value", kind.value, kind.value_required),
        )
    return ()


def walk(fields: tuple[NestedField, ...], prefix: str = "") -> Iterator[tuple[str, NestedField]]:
    """All fields at any depth with their dotted names (``points.element.x``), parents first."""
    for field in fields:
        path = f"{prefix}{field.name}"
        yield path, field
        yield from walk(children(field.type), f"{path}.")


def _parse_name(name: str) -> IcebergType:
    if match := re.fullmatch(_DECIMAL, name):
        return DecimalType(int(match[1]), int(match[2]))
    if match := re.fullmatch(_FIXED, name):
        return FixedType(int(match[1] or match[2]))
    return PrimitiveType(name)


def _check_name(name: Any) -> str:
    if not isinstance(name, str) or not name:
        raise ConfigurationError(f"the field name {shown(name)} is not usable: pass text that is not empty")
    return name


def _unknown(raw: Any) -> str:
    known = ", ".join((*PRIMITIVES, "decimal(p, s)", "fixed[n]", "list", "map", "struct"))
    return f"{shown(raw)} is no type of Iceberg v2; known are {known}"
