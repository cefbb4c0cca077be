"""The forms in which a flow may state a schema."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, TypeAlias

from datashard_core.errors import ConfigurationError

if TYPE_CHECKING:
    import pyarrow as pa

    from datashard_core import NestedField, Schema

    SchemaLike: TypeAlias = Schema | Sequence[NestedField | Mapping[str, Any]] | pa.Schema


def to_schema(schema: SchemaLike) -> Schema:
    """A Schema from the forms in which a flow may state one.

    Args:
        schema: a Schema; a list of fields, as in ``Schema(fields=...)``; or a pyarrow Schema.

    Raises:
        ConfigurationError: it is none of these, or has a fault.
    """
    from datashard_core import Schema

    if isinstance(schema, Schema):
        return schema
    if isinstance(schema, (list, tuple)):
        return Schema(fields=schema)
    if hasattr(schema, "__arrow_c_schema__"):
        return Schema.from_arrow(schema)
    raise ConfigurationError(
        f"schema={schema!r:.80} is a {type(schema).__name__}: pass a datashard_core.Schema, a list of fields such as "
        "[{'name': 'day', 'type': 'date'}], or a pyarrow schema"
    )
