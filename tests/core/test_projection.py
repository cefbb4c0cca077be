"""Rows of older files in the shape of today's schema: fields are found by id, at every depth."""

from __future__ import annotations

import datetime as dt
import io
import json
import uuid
from decimal import Decimal
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from datashard_core import CorruptTableError, Schema
from datashard_core.format.rows.projection import columns_to_read, project, with_ids
from datashard_core.format.rows.records import to_table
from datashard_core.format.types.types import parse_type, type_to_json
from datashard_core.table.warehouse import Warehouse


def _field(number: int, name: str, kind: Any, required: bool = False) -> dict[str, Any]:
    return {"id": number, "name": name, "type": kind, "required": required}


def _struct(*fields: dict[str, Any]) -> dict[str, Any]:
    return {"type": "struct", "fields": list(fields)}


def _list(element: Any, number: int = 90) -> dict[str, Any]:
    return {"type": "list", "element-id": number, "element": element, "element-required": False}


def _map(key: Any, value: Any) -> dict[str, Any]:
    return {"type": "map", "key-id": 91, "key": key, "value-id": 92, "value": value, "value-required": False}


def _schema(*fields: dict[str, Any]) -> Schema:
    return Schema(fields=fields)


def _file(rows: list[dict[str, Any]], schema: Schema) -> pa.Table:
    """What Arrow reads back from a Parquet file of these rows."""
    sink = io.BytesIO()
    pq.write_table(to_table(rows, schema, "t"), sink)
    return pq.read_table(pa.BufferReader(sink.getvalue()))


def _projected(rows: list[dict[str, Any]], old: Schema, new: Schema) -> list[dict[str, Any]]:
    wanted = new.to_arrow()
    found = project(_file(rows, old), wanted, "file.parquet")
    assert found.schema.equals(wanted, check_metadata=True)
    found.validate(full=True)
    pq.write_table(found, io.BytesIO())  # staged rows are written again
    sliced = project(_file(rows, old).slice(1), wanted, "file.parquet")
    sliced.validate(full=True)
    assert sliced.to_pylist() == found.to_pylist()[1:]
    return list(found.to_pylist())


def test_renamed_reordered_added_and_dropped() -> None:
    old = _schema(_field(1, "a", "long"), _field(2, "b", "string"), _field(3, "c", "double"))
    new = _schema(_field(3, "a", "double"), _field(4, "b", "string"), _field(1, "c", "long"))
    rows: list[dict[str, Any]] = [{"a": 1, "b": "x", "c": 1.5}, {"a": None, "b": "y", "c": None}]
    assert _projected(rows, old, new) == [{"a": 1.5, "b": None, "c": 1}, {"a": None, "b": None, "c": None}]
    assert columns_to_read(old.to_arrow(), new.to_arrow()) == [0, 2]


@pytest.mark.parametrize(
    ("old", "new", "value"),
    [
        ("int", "long", -(2**31)),
        ("float", "double", 1.5),
        ("decimal(9,2)", "decimal(18,2)", Decimal("-1234567.89")),
        ("decimal(9,2)", "decimal(38,2)", Decimal("1234567.89")),
    ],
)
@pytest.mark.parametrize("depth", ["top", "struct", "list", "map"])
def test_widened(old: str, new: str, value: Any, depth: str) -> None:
    around: dict[str, Any] = {
        "top": (lambda kind: kind, value),
        "struct": (lambda kind: _struct(_field(5, "x", kind)), {"x": value}),
        "list": (_list, [value, None]),
        "map": (lambda kind: _map("string", kind), [("k", value)]),
    }
    make, one = around[depth]
    rows: list[dict[str, Any]] = [{"a": one}, {"a": None}, {"a": one}]
    given: list[dict[str, Any]] = [{"a": dict(one)}, {"a": None}, {"a": dict(one)}] if depth == "map" else rows
    assert _projected(given, _schema(_field(1, "a", make(old))), _schema(_field(1, "a", make(new)))) == rows


def test_inside_structs_fields_are_found_by_id() -> None:
    old = _schema(_field(1, "s", _struct(_field(2, "x", "int"), _field(3, "y", "int"), _field(4, "z", "string"))))
    new = _schema(_field(1, "t", _struct(_field(5, "new", "date"), _field(3, "x", "int"), _field(2, "y", "int"))))
    rows: list[dict[str, Any]] = [{"s": {"x": 1, "y": 2, "z": "q"}}, {"s": None}, {"s": {"x": None, "y": 3, "z": None}}]
    assert _projected(rows, old, new) == [
        {"t": {"new": None, "x": 2, "y": 1}},
        {"t": None},
        {"t": {"new": None, "x": 3, "y": None}},
    ]


def test_names_that_were_swapped_inside_a_struct_are_not_confused() -> None:
    """The Arrow types are equal but for the ids."""
    old = _schema(_field(1, "s", _struct(_field(2, "x", "int"), _field(3, "y", "int"))))
    new = _schema(_field(1, "s", _struct(_field(3, "x", "int"), _field(2, "y", "int"))))
    assert _projected([{"s": {"x": 1, "y": 2}}], old, new) == [{"s": {"x": 2, "y": 1}}]


def test_structs_in_lists_and_maps() -> None:
    before, after = _struct(_field(8, "x", "int")), _struct(_field(9, "new", "string"), _field(8, "renamed", "long"))
    before_2, after_2 = (
        _struct(_field(18, "x", "int")),
        _struct(_field(19, "new", "string"), _field(18, "renamed", "long")),
    )
    old = _schema(_field(1, "l", _list(before)), _field(2, "m", _map("string", _list(before_2, 93))))
    new = _schema(_field(1, "l", _list(after)), _field(2, "m", _map("string", _list(after_2, 93))))
    rows: list[dict[str, Any]] = [
        {"l": [{"x": 1}, None], "m": {"k": [{"x": 5}]}},
        {"l": None, "m": None},
        {"l": [], "m": {}},
        {"l": [{"x": 2}], "m": {"k": None, "q": []}},
    ]
    assert _projected(rows, old, new) == [
        {"l": [{"new": None, "renamed": 1}, None], "m": [("k", [{"new": None, "renamed": 5}])]},
        {"l": None, "m": None},
        {"l": [], "m": []},
        {"l": [{"new": None, "renamed": 2}], "m": [("k", None), ("q", [])]},
    ]


EVERY = ["boolean", "int", "long", "float", "double", "date", "time", "timestamp", "timestamptz", "string", "uuid"]
EVERY += ["binary", "fixed[3]", "decimal(9,2)"]


@pytest.mark.parametrize("kind", [*EVERY, _list("int"), _map("string", "int"), _struct(_field(80, "q", "uuid", True))])
def test_a_new_struct_with_a_required_field_can_be_written(kind: Any) -> None:
    old = _schema(_field(1, "a", "long"))
    inner = _struct(_field(7, "must", kind, True), _field(8, "may", kind))
    if isinstance(kind, dict):
        inner = _struct(_field(7, "must", kind, True))
    new = _schema(_field(1, "a", "long"), _field(2, "s", inner))
    assert _projected([{"a": 1}, {"a": 2}], old, new) == [{"a": 1, "s": None}, {"a": 2, "s": None}]


@pytest.mark.parametrize("kind", EVERY)
def test_null_structs_with_required_fields_stay_null(kind: str) -> None:
    values = {
        "boolean": True, "int": 1, "long": 1, "float": 1.0, "double": 1.0, "date": dt.date(2020, 1, 1),
        "time": dt.time(1), "timestamp": dt.datetime(2020, 1, 1), "timestamptz": dt.datetime(2020, 1, 1, tzinfo=dt.UTC),
        "string": "x", "uuid": uuid.UUID(int=5), "binary": b"x", "fixed[3]": b"xyz", "decimal(9,2)": Decimal("1.25"),
    }  # fmt: skip
    old = _schema(_field(1, "s", _struct(_field(7, "must", kind, True))))
    new = _schema(_field(1, "s", _struct(_field(8, "new", "int"), _field(7, "renamed", kind, True))))
    rows: list[dict[str, Any]] = [{"s": None}, {"s": {"must": values[kind]}}, {"s": None}]
    found = _projected(rows, old, new)
    assert found == [{"s": None}, {"s": {"new": None, "renamed": values[kind]}}, {"s": None}]


def test_a_required_field_that_the_file_lacks_is_damage() -> None:
    old = _schema(_field(1, "a", "long"), _field(2, "s", _struct(_field(3, "x", "int"))))
    rows: list[dict[str, Any]] = [{"a": 1, "s": {"x": 1}}, {"a": 2, "s": None}]
    with pytest.raises(CorruptTableError, match="required field 'b'"):
        _projected(rows, old, _schema(_field(1, "a", "long"), _field(9, "b", "long", True)))
    with pytest.raises(CorruptTableError, match="required field 'y'"):
        _projected(rows, old, _schema(_field(2, "s", _struct(_field(9, "y", "int", True)))))
    hidden = _projected(rows[1:] * 2, old, _schema(_field(2, "s", _struct(_field(9, "y", "int", True)))))
    assert hidden == [{"s": None}, {"s": None}]


def test_values_that_do_not_fit_are_damage() -> None:
    rows = [{"a": 2**40}]
    with pytest.raises(CorruptTableError, match="does not fit"):
        _projected(rows, _schema(_field(1, "a", "long")), _schema(_field(1, "a", "int")))
    with pytest.raises(CorruptTableError, match="does not fit"):
        _projected(rows, _schema(_field(1, "a", "long")), _schema(_field(1, "a", _list("long"))))


def test_other_writers_wide_arrow_types_are_taken() -> None:
    new = _schema(_field(1, "s", "string"), _field(2, "l", _list("string")), _field(3, "b", "binary"))
    ours = list(new.to_arrow())
    element = pa.field("item", pa.large_string(), metadata={"PARQUET:field_id": "90"})
    kinds = [pa.large_string(), pa.large_list(element), pa.large_binary()]
    foreign = pa.schema([field.with_type(kind) for field, kind in zip(ours, kinds, strict=True)])
    rows = [{"s": "x", "l": ["p", None], "b": b"1"}, {"s": None, "l": None, "b": None}, {"s": "", "l": [], "b": b""}]
    table = pa.Table.from_pylist(rows, schema=foreign)
    assert project(table, new.to_arrow(), "f").to_pylist() == rows
    assert project(table.slice(1), new.to_arrow(), "f").to_pylist() == rows[1:]


def _without_ids(kind: Any) -> Any:
    if pa.types.is_struct(kind):
        return pa.struct([pa.field(one.name, _without_ids(one.type), one.nullable) for one in kind])
    if pa.types.is_list(kind):
        return pa.list_(_without_ids(kind.value_type))
    if pa.types.is_map(kind):
        return pa.map_(_without_ids(kind.key_type), _without_ids(kind.item_type))
    return kind


NESTED = _schema(
    _field(1, "a", "long"),
    _field(2, "s", _struct(_field(3, "x", "int"), _field(4, "deep", _struct(_field(5, "y", "string"))))),
    _field(6, "l", _list(_struct(_field(7, "z", "int")))),
    _field(8, "m", _map("string", _struct(_field(9, "w", "int")))),
)
ROWS: list[dict[str, Any]] = [
    {"a": 1, "s": {"x": 2, "deep": {"y": "q"}}, "l": [{"z": 3}], "m": [("k", {"w": 4})]},
    {"a": None, "s": None, "l": None, "m": None},
]


def _plain() -> pa.Schema:
    return pa.schema([pa.field(one.name, _without_ids(one.type)) for one in NESTED.to_arrow()])


def test_files_without_ids_are_read_by_name_at_every_depth() -> None:
    table = pa.Table.from_pylist(ROWS, schema=_plain())
    named = with_ids(table.schema, NESTED)
    table = pa.Table.from_arrays(table.columns, schema=named)
    assert columns_to_read(named, NESTED.to_arrow()) == [0, 1, 2, 3]
    assert project(table, NESTED.to_arrow(), "f").to_pylist() == ROWS


def test_a_scan_reads_files_without_ids(warehouse: Warehouse) -> None:
    """As tables have them that were made of files that were there before."""
    table = warehouse.create_table("t", NESTED)
    table.append([{"a": 1}, {"a": 2}])
    (file,) = table.scan().data_files()
    pq.write_table(pa.Table.from_pylist(ROWS, schema=_plain()), file.file_path.removeprefix("file://"))
    assert table.scan().to_records() == ROWS
    assert table.scan(columns=["l", "a"]).to_records() == [{"l": row["l"], "a": row["a"]} for row in ROWS]


def test_a_column_with_a_dot_in_its_name_is_read_alone(warehouse: Warehouse) -> None:
    schema = _schema(_field(1, "a", _struct(_field(3, "b", "int"))), _field(2, "a.c", "string"))
    table = warehouse.create_table("t", schema)
    rows: list[dict[str, Any]] = [{"a": {"b": 1}, "a.c": "x"}, {"a": None, "a.c": None}]
    table.append(rows)
    assert table.scan().to_records() == rows
    assert table.scan(columns=["a.c"]).to_records() == [{"a.c": "x"}, {"a.c": None}]


def test_rows_of_a_scan_with_null_structs_can_be_appended(warehouse: Warehouse) -> None:
    schema = _schema(_field(1, "s", _struct(_field(2, "must", "long", True))))
    one, two = warehouse.create_table("one", schema), warehouse.create_table("two", schema)
    rows: list[dict[str, Any]] = [{"s": None}, {"s": {"must": 5}}]
    one.append(rows)
    two.append(one.scan().to_arrow())
    assert two.scan().to_records() == rows


def test_a_file_with_some_ids_is_taken_as_it_is() -> None:
    first = _plain().field(0).with_metadata({"PARQUET:field_id": "77"})
    mixed = _plain().set(0, first)
    assert with_ids(mixed, NESTED).equals(mixed, check_metadata=True)


def test_types_survive_json() -> None:
    for field in NESTED.fields:
        assert parse_type(json.loads(json.dumps(type_to_json(field.type)))) == field.type
