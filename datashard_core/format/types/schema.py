"""A table's schema (Iceberg spec, "Schemas")."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from itertools import count, islice
from typing import TYPE_CHECKING, Any

from datashard_core import arguments
from datashard_core.errors import ConfigurationError
from datashard_core.format.types import types as t

if TYPE_CHECKING:
    import pyarrow as pa


class Schema:
    """The fields of a table. Immutable.

    Args:
        schema_id: number of the schema among those of its table.
        fields: the columns in order: :class:`~datashard_core.format.types.types.NestedField`, or mappings with
            the keys ``id``, ``name``, ``type``, and optionally ``required`` (default False) and ``doc``. If
            no column has an ``id``, ids are given out from 1 on in Iceberg's order (columns first, then
            what is inside them), also over ids that nested types may have.
        identifier_field_ids: ids of the fields that identify a row, for engines that know such.

    Raises:
        ConfigurationError: there is no field, a name or id is there twice, or a type is unknown.

    Two schemas are equal if their numbers, fields and identifier fields are; use :meth:`differences` to
    compare the fields alone.

    Example:
        >>> Schema(schema_id=1, fields=[
        ...     {"id": 1, "name": "user_id", "type": "long", "required": True},
        ...     {"id": 2, "name": "event", "type": "string"},
        ... ])
        Schema(schema_id=1, fields=[1: user_id: required long, 2: event: optional string])
    """

    __slots__ = ("_arrow", "_fields", "_identifier_field_ids", "_schema_id")

    def __init__(
        self,
        schema_id: int = 0,
        fields: Sequence[t.NestedField | Mapping[str, Any]] = (),
        identifier_field_ids: Iterable[int] = (),
    ) -> None:
        self._schema_id = t.check_id(schema_id, "the schema")
        if isinstance(fields, (str, Mapping)) or not isinstance(fields, Iterable):
            raise ConfigurationError(f"fields={arguments.shown(fields)} is not a list of fields")
        self._fields = _parse_fields(list(fields))
        if not isinstance(identifier_field_ids, Iterable):
            raise ConfigurationError(f"identifier_field_ids={identifier_field_ids!r:.80} is not a list of ids")
        self._identifier_field_ids = tuple(identifier_field_ids)
        self._arrow: pa.Schema | None = None
        self._check()

    def _check(self) -> None:
        if not self._fields:
            raise ConfigurationError("the schema has no field: pass fields=[{'id': 1, 'name': ..., 'type': ...}, ...]")
        t.check_names([field.name for field in self._fields], "the schema")
        if sum(1 for _ in islice(t.walk(self._fields), t.MAX_FIELDS + 1)) > t.MAX_FIELDS:
            raise ConfigurationError(f"the schema has more than {t.MAX_FIELDS} fields: divide it into several tables")
        seen: dict[int, str] = {}
        for path, field in t.walk(self._fields):
            if field.field_id in seen:
                raise ConfigurationError(
                    f"the fields {seen[field.field_id]!r} and {path!r} have the same id {field.field_id}: "
                    "each needs its own"
                )
            seen[field.field_id] = path
        for field_id in self._identifier_field_ids:
            if type(field_id) is not int or field_id not in seen:
                raise ConfigurationError(f"identifier_field_ids has {arguments.shown(field_id)}, the id of no field")

    @property
    def schema_id(self) -> int:
        """Number of the schema among those of its table."""
        return self._schema_id

    @property
    def fields(self) -> tuple[t.NestedField, ...]:
        """The columns, in order."""
        return self._fields

    @property
    def names(self) -> list[str]:
        """Names of the columns, in order."""
        return [field.name for field in self._fields]

    @property
    def identifier_field_ids(self) -> tuple[int, ...]:
        """Ids of the fields that identify a row."""
        return self._identifier_field_ids

    @property
    def highest_field_id(self) -> int:
        """The highest id at any depth."""
        return max(field.field_id for _, field in t.walk(self._fields))

    def field(self, name: str) -> t.NestedField:
        """The column of that name.

        Raises:
            ConfigurationError: there is none.
        """
        for field in self._fields:
            if field.name == name:
                return field
        raise ConfigurationError(f"there is no field {name!r}; the schema has {', '.join(self.names)}")

    def find(self, field_id: int) -> t.NestedField | None:
        """The field of that id at any depth (list elements, map keys and values too), or None."""
        return next((field for _, field in t.walk(self._fields) if field.field_id == field_id), None)

    @classmethod
    def from_arrow(cls, schema: pa.Schema, schema_id: int = 0) -> Schema:
        """The schema of rows that Arrow holds.

        Args:
            schema: an Arrow schema. ``nullable=False`` makes a field required. If every field at every depth
                has a Parquet field id (``PARQUET:field_id``, as files of Iceberg tables do) and none is
                there twice, the ids are kept; else they are given out from 1 on.
            schema_id: number of the schema.

        Unsigned integers become the next wider signed type, ``float16`` float, dictionaries their value type.
        Timestamps of every unit become microseconds, the only unit of Iceberg v2: rows with nanoseconds that
        microseconds cannot hold are refused when they are appended, never rounded.

        Raises:
            ConfigurationError: a type has no counterpart (``uint64``, ``null``, ``duration``, unions, ...).
        """
        import pyarrow as pa

        from datashard_core.format.types.arrow_types import fields_from_arrow

        if not isinstance(schema, pa.Schema):
            raise ConfigurationError(f"schema={arguments.shown(schema)} is no pyarrow.Schema: pass table.schema")
        return cls(schema_id, fields_from_arrow(schema))

    @classmethod
    def infer(cls, records: Any, schema_id: int = 0) -> Schema:
        """A schema that fits the rows; all fields are optional.

        Args:
            records: a list of dicts, or an Arrow, pandas or Polars table (then as :meth:`from_arrow`). The index of a
                pandas frame is a column for each level, under its name. Without a name, row numbers are left out, and
                anything else is an error: name it with ``frame.rename_axis("name")``, or drop it with
                ``frame.reset_index(drop=True)``.
            schema_id: number of the schema.

        Of Python's types bool becomes boolean, int long, float double, Decimal the narrowest decimal that
        holds all values, datetime timestamp or (with a zone) timestamptz, list list, dict struct; int and
        float mixed become double.

        Raises:
            InvalidRecordsError: there is no row, values of one field do not fit together, or a field is
                null in all rows.
        """
        from datashard_core.format.types.infer import infer_fields

        return cls(schema_id, infer_fields(records))

    @classmethod
    def from_dict(cls, raw: Mapping[str, Any]) -> Schema:
        """The schema from Iceberg's JSON form.

        Raises:
            ConfigurationError: it is not of that form.
        """
        if not isinstance(raw, Mapping) or not isinstance(raw.get("fields"), (list, tuple)):
            raise ConfigurationError(f"the schema {arguments.shown(raw)} is not a mapping with a list of fields")
        fields = [t.parse_field(field) for field in raw["fields"]]
        return cls(raw.get("schema-id", 0), fields, raw.get("identifier-field-ids") or ())

    def to_dict(self) -> dict[str, Any]:
        """Iceberg's JSON form (spec, "Appendix C: JSON serialization")."""
        raw: dict[str, Any] = {
            "type": "struct",
            "schema-id": self._schema_id,
            "fields": [t.field_to_json(field) for field in self._fields],
        }
        if self._identifier_field_ids:
            raw["identifier-field-ids"] = list(self._identifier_field_ids)
        return raw

    def to_arrow(self) -> pa.Schema:
        """The Arrow schema of the rows, with the field ids in the metadata of every field at every depth."""
        if self._arrow is None:
            from datashard_core.format.types.arrow_types import schema_to_arrow

            self._arrow = schema_to_arrow(self._fields)
        return self._arrow

    def differences(self, other: Schema) -> list[str]:
        """What separates the fields of two schemas, in sentences; empty if nothing does.

        Name, id, type and required are compared, at every depth; order and comments are not.
        """
        return list(_differences(self._fields, other.fields, ""))

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Schema):
            return NotImplemented
        return self._key() == other._key()

    def __hash__(self) -> int:
        return hash(self._key())

    def _key(self) -> tuple[Any, ...]:
        return self._schema_id, self._fields, self._identifier_field_ids

    def __reduce__(self) -> tuple[Any, ...]:
        return Schema, self._key()

    def __repr__(self) -> str:
        return f"Schema(schema_id={self._schema_id}, fields=[{', '.join(map(str, self._fields))}])"


def assign_ids(fields: Sequence[t.NestedField], next_id: Callable[[], int]) -> tuple[t.NestedField, ...]:
    """The fields with fresh ids, in Iceberg's order: all of a struct, then what is inside each of them."""
    numbered = [(next_id(), field) for field in fields]
    return tuple(
        t.NestedField(field_id, field.name, _assign_inside(field.type, next_id), field.required, field.doc)
        for field_id, field in numbered
    )


def _assign_inside(kind: t.IcebergType, next_id: Callable[[], int]) -> t.IcebergType:
    if isinstance(kind, t.StructType):
        return t.StructType(assign_ids(kind.fields, next_id))
    if isinstance(kind, t.ListType):
        element_id = next_id()
        return t.ListType(element_id, _assign_inside(kind.element, next_id), kind.element_required)
    if isinstance(kind, t.MapType):
        key_id, value_id = next_id(), next_id()
        key = _assign_inside(kind.key, next_id)
        return t.MapType(key_id, key, value_id, _assign_inside(kind.value, next_id), kind.value_required)
    return kind


def _parse_fields(fields: list[t.NestedField | Mapping[str, Any]]) -> tuple[t.NestedField, ...]:
    mappings = [field for field in fields if isinstance(field, Mapping)]
    if not fields or len(mappings) < len(fields) or any("id" in field for field in mappings):
        return tuple(t.parse_field(field, strict=True) for field in fields)
    parsed = [t.parse_field(field, strict=True, ids=False) for field in mappings]
    return assign_ids(parsed, count(1).__next__)


def _differences(mine: Sequence[t.NestedField], theirs: Sequence[t.NestedField], prefix: str) -> Iterator[str]:
    other = {field.name: field for field in theirs}
    for field in mine:
        path = f"{prefix}{field.name}"
        match = other.pop(field.name, None)
        if match is None:
            yield f"field {path!r} ({field.type}) is missing in the other schema"
            continue
        if field.field_id != match.field_id:
            yield f"field {path!r} has id {field.field_id}, in the other schema {match.field_id}"
        if field.required != match.required:
            words = ("required", "optional") if field.required else ("optional", "required")
            yield f"field {path!r} is {words[0]}, in the other schema {words[1]}"
        inside = t.children(field.type)
        if inside and type(field.type) is type(match.type):
            yield from _differences(inside, t.children(match.type), f"{path}.")
        elif field.type != match.type:
            yield f"field {path!r} is {field.type}, in the other schema {match.type}"
    for field in other.values():
        yield f"field {prefix + field.name!r} ({field.type}) is only in the other schema"
