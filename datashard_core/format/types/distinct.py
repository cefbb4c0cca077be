"""Names of fields that engines can tell apart. Pure.

Iceberg's names are case-sensitive, and a field within others is named by its path with dots. DuckDB, Spark and SQL
in general fold the case of names; PyIceberg and Polars refuse a schema in which a path leads to two fields. So a new
table, and a change of a table's schema, may not bring such names. A table of another writer that has them is read
all the same: by field ids, and in SQL under the names that :func:`told_apart` gives it.
"""

from __future__ import annotations

from collections.abc import Sequence

from datashard_core.errors import ConfigurationError
from datashard_core.format.types import types as t
from datashard_core.format.types.schema import Schema

_UNPRINTABLE = ("Cc", "Cs")  # control characters, and halves of surrogate pairs


def fold(name: str) -> str:
    """What two names have in common if some engine, or a reader of the screen, takes them for one.

    Coarser than the rules of all engines: DuckDB folds ASCII, PyIceberg uses ``str.lower``, Spark compares the upper
    and lower case of each character (so that Turkish i with and without a dot is one), and no engine composes accents,
    but people read composed and decomposed ones alike.

    Example:
        >>> fold("STRASSE") == fold("straße"), fold("a") == fold("b")
        (True, False)
    """
    if name.isascii():
        return name.lower()
    import unicodedata

    folded = unicodedata.normalize("NFC", name).upper().casefold()
    return unicodedata.normalize("NFC", unicodedata.normalize("NFC", folded).replace("i\u0307", "i").casefold())


def problems(fields: Sequence[t.NestedField]) -> dict[tuple[int, ...], str]:
    """What is wrong with the names of fields: the ids of the fields -> a sentence about them."""
    found: dict[tuple[int, ...], str] = {}
    seen: dict[str, tuple[str, t.NestedField]] = {}
    for path, field in t.walk(tuple(fields)):
        if not field.name.strip():
            found[(field.field_id,)] = f"the field {path!r} has a blank name"
        elif _is_unprintable(field.name):
            found[(field.field_id,)] = f"the name of the field {path!r} has control characters or broken ones"
        first, other = seen.setdefault(fold(path), (path, field))
        if other is not field:
            how = "by the same path" if first == path else "by paths that differ in case or spelling only"
            found[other.field_id, field.field_id] = (
                f"the fields {first!r} (id {other.field_id}) and {path!r} (id {field.field_id}) are found {how}"
            )
    return found


def _is_unprintable(name: str) -> bool:
    if name.isprintable():
        return False
    import unicodedata

    return any(unicodedata.category(character) in _UNPRINTABLE for character in name)


def check_distinct(schema: Schema, table: str, before: Schema | None = None) -> None:
    """Refuse names that engines cannot tell apart or write.

    Args:
        schema: the schema of a new table, or the one that follows ``before``.
        table: name of the table, for the message.
        before: the table's schema so far: what is wrong with that may stay.

    Raises:
        ConfigurationError: it names the fields.
    """
    known = problems(before.fields) if before is not None else {}
    for fields, sentence in problems(schema.fields).items():
        if known.get(fields) != sentence:
            raise ConfigurationError(f"table {table}: {sentence}, which engines cannot tell apart or write: rename one")


def told_apart(schema: Schema) -> Schema:
    """The schema with names that engines can tell apart: fields that share a path get their ids behind their names.

    Example:
        >>> fields = [{"id": 1, "name": "a", "type": "int"}, {"id": 2, "name": "A", "type": "int"}]
        >>> told_apart(Schema(fields=fields)).names
        ['a_1', 'A_2']
    """
    fields = schema.fields
    while shared := _sharing(fields):
        fields = _longer(fields, shared)
    return schema if fields is schema.fields else Schema(schema.schema_id, fields, schema.identifier_field_ids)


def _sharing(fields: tuple[t.NestedField, ...]) -> frozenset[int]:
    """Ids of the fields that share a path, without what is inside of them."""
    by_path: dict[str, list[int]] = {}
    for path, field in t.walk(fields):
        by_path.setdefault(fold(path), []).append(field.field_id)
    shared = {path for path, ids in by_path.items() if len(ids) > 1}
    outermost = [path for path in shared if not any(path.startswith(f"{other}.") for other in shared)]
    return frozenset(number for path in outermost for number in by_path[path])


def _longer(fields: Sequence[t.NestedField], shared: frozenset[int]) -> tuple[t.NestedField, ...]:
    return tuple(
        t.NestedField(
            field.field_id,
            f"{field.name}_{field.field_id}" if field.field_id in shared else field.name,
            _inside(field.type, shared),
            field.required,
            field.doc,
        )
        for field in fields
    )


def _inside(kind: t.IcebergType, shared: frozenset[int]) -> t.IcebergType:
    if isinstance(kind, t.StructType):
        return t.StructType(_longer(kind.fields, shared))
    if isinstance(kind, t.ListType):
        return t.ListType(kind.element_id, _inside(kind.element, shared), kind.element_required)
    if isinstance(kind, t.MapType):
        key, value = _inside(kind.key, shared), _inside(kind.value, shared)
        return t.MapType(kind.key_id, key, kind.value_id, value, kind.value_required)
    return kind
