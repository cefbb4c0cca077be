"""Our schemas beside PyIceberg's: the same JSON, the same Arrow types, the same ids."""

from __future__ import annotations

import json

from pyiceberg.io.pyarrow import pyarrow_to_schema, schema_to_pyarrow
from pyiceberg.schema import Schema as PyIcebergSchema
from pyiceberg.schema import assign_fresh_schema_ids

from datashard_core.format.types.schema import Schema
from datashard_core.format.types.types import PRIMITIVES

POINT = {
    "type": "struct",
    "fields": [{"name": "x", "type": "uuid", "required": True}, {"name": "y", "type": "int"}],
}
FIELDS = [
    *({"name": name, "type": name, "required": name == "long"} for name in PRIMITIVES),
    {"name": "decimal", "type": "decimal(38, 10)", "doc": "a comment"},
    {"name": "fixed", "type": "fixed[3]"},
    {
        "name": "s",
        "type": {"type": "struct", "fields": [{"name": "p", "type": POINT}, {"name": "y", "type": "int"}]},
    },
    {"name": "m", "type": {"type": "map", "key": "string", "value": {"type": "list", "element": POINT}}},
    {"name": "l", "type": {"type": "list", "element": "time", "element-required": True}},
]


def theirs_of(schema: Schema) -> PyIcebergSchema:
    return PyIcebergSchema.model_validate(schema.to_dict())


def test_json_form_is_pyicebergs() -> None:
    schema = Schema(1, FIELDS)
    raw = json.loads(theirs_of(schema).model_dump_json())
    assert raw["fields"] == schema.to_dict()["fields"]
    assert Schema.from_dict(raw) == schema


def test_ids_are_given_out_as_pyiceberg_does() -> None:
    schema = Schema(1, FIELDS)
    theirs = assign_fresh_schema_ids(theirs_of(schema))
    assert json.loads(theirs.model_dump_json())["fields"] == schema.to_dict()["fields"]


def test_arrow_form_is_pyicebergs() -> None:
    schema = Schema(1, FIELDS)
    ours, theirs = schema.to_arrow(), schema_to_pyarrow(theirs_of(schema))
    assert pyarrow_to_schema(ours).fields == pyarrow_to_schema(theirs).fields
    assert ours.field("uuid").type == theirs.field("uuid").type
    assert Schema.from_arrow(theirs, schema_id=1) == schema
