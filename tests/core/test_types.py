from __future__ import annotations

import json
import re

import pytest

from datashard_core.errors import ConfigurationError
from datashard_core.format.types.types import (
    PRIMITIVES,
    DecimalType,
    FixedType,
    ListType,
    MapType,
    NestedField,
    PrimitiveType,
    StructType,
    children,
    field_to_json,
    parse_field,
    parse_type,
    type_to_json,
    walk,
)

NESTED = {
    "type": "map",
    "key-id": 4,
    "key": "string",
    "value-id": 5,
    "value": {
        "type": "list",
        "element-id": 6,
        "element": {
            "type": "struct",
            "fields": [
                {"id": 7, "name": "x", "required": True, "type": "decimal(9, 2)", "doc": "east"},
                {"id": 8, "name": "y", "required": False, "type": "fixed[3]"},
            ],
        },
        "element-required": True,
    },
    "value-required": False,
}


@pytest.mark.parametrize("name", PRIMITIVES)
def test_primitive_types_are_their_names(name: str) -> None:
    kind = parse_type(name)
    assert kind == PrimitiveType(name)
    assert type_to_json(kind) == str(kind) == name


@pytest.mark.parametrize(
    ("text", "kind", "json_form"),
    [
        ("decimal(9,2)", DecimalType(9, 2), "decimal(9, 2)"),
        ("decimal( 38 , 0 )", DecimalType(38, 0), "decimal(38, 0)"),
        ("fixed[16]", FixedType(16), "fixed[16]"),
        ("fixed(16)", FixedType(16), "fixed[16]"),
    ],
)
def test_types_with_parameters(text: str, kind: object, json_form: str) -> None:
    parsed = parse_type(text)
    assert parsed == kind
    assert type_to_json(parsed) == json_form


def test_nested_types_survive_json_and_hash() -> None:
    kind = parse_type(NESTED)
    assert json.loads(json.dumps(type_to_json(kind))) == NESTED
    assert len({kind, parse_type(NESTED)}) == 1
    assert str(kind) == "map<string, list<struct<x: decimal(9, 2), y: fixed[3]>>>"
    assert parse_type(kind) is kind


def test_walk_names_every_field_by_its_path() -> None:
    field = NestedField(1, "m", parse_type(NESTED), False)
    assert [(path, inner.field_id) for path, inner in walk((field,))] == [
        ("m", 1),
        ("m.key", 4),
        ("m.value", 5),
        ("m.value.element", 6),
        ("m.value.element.x", 7),
        ("m.value.element.y", 8),
    ]


def test_children_say_what_is_required() -> None:
    key, value = children(MapType(1, PrimitiveType("string"), 2, PrimitiveType("long"), False))
    assert (key.required, value.required) == (True, False)
    (element,) = children(ListType(3, PrimitiveType("long"), True))
    assert element.required
    assert children(PrimitiveType("long")) == ()


@pytest.mark.parametrize(
    ("raw", "names"),
    [
        ("bigint", "'bigint'"),
        ("timestamp_ns", "'timestamp_ns'"),
        ("decimal(39, 0)", "decimal(39, 0)"),
        ("decimal(5, 6)", "decimal(5, 6)"),
        ("fixed[0]", "fixed[0]"),
        (17, "17"),
        ({"type": "set"}, "'set'"),
        ({"type": "list", "element": "long"}, "element-id"),
        ({"type": "map", "key-id": 1, "key": "long", "value-id": 2}, "'value'"),
        ({"type": "list", "element-id": -1, "element": "long"}, "-1"),
        ({"type": "list", "element-id": True, "element": "long"}, "True"),
        ({"type": "struct", "fields": []}, "at least one field"),
        (
            {
                "type": "struct",
                "fields": [{"id": 1, "name": "a", "type": "int"}, {"id": 2, "name": "a", "type": "int"}],
            },
            "'a'",
        ),
    ],
)
def test_unknown_types_are_refused_with_their_value(raw: object, names: str) -> None:
    with pytest.raises(ConfigurationError, match=re.escape(names)):
        parse_type(raw)


def test_fields_survive_json() -> None:
    field = NestedField(3, "a", PrimitiveType("long"), True, "a comment")
    assert parse_field(field_to_json(field)) == field
    assert parse_field(field) is field
    assert "doc" not in field_to_json(NestedField(3, "a", PrimitiveType("long"), True))
    assert parse_field({"id": 1, "name": "a", "type": "long"}).required is False


@pytest.mark.parametrize(
    ("raw", "names"),
    [
        ({"id": 1, "name": "a"}, "'type'"),
        ({"name": "a", "type": "long"}, "'id'"),
        ({"id": "1", "name": "a", "type": "long"}, "'1'"),
        ({"id": 2**31, "name": "a", "type": "long"}, "2147483648"),
        ({"id": 1, "name": "", "type": "long"}, "''"),
        ({"id": 1, "name": 5, "type": "long"}, "5"),
        ({"id": 1, "name": "a", "type": "long", "required": "yes"}, "'yes'"),
        ({"id": 1, "name": "a", "type": "long", "doc": 7}, "doc=7"),
        ({"id": 1, "name": "a", "type": "long", "requried": True}, "'requried'"),
        (("a", "long"), "mapping"),
    ],
)
def test_fields_that_cannot_be_are_refused(raw: object, names: str) -> None:
    with pytest.raises(ConfigurationError, match=re.escape(names)):
        parse_field(raw, strict=True)


def test_keys_of_other_engines_are_no_error_in_metadata() -> None:
    field = parse_field({"id": 1, "name": "a", "type": "long", "required": True, "initial-default": 3})
    assert field == NestedField(1, "a", PrimitiveType("long"), True)


def test_struct_type_holds_fields() -> None:
    kind = StructType((NestedField(1, "a", PrimitiveType("long"), True),))
    assert str(kind) == "struct<a: long>"
    assert str(kind.fields[0]) == "1: a: required long"
