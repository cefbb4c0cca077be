"""Names of fields that engines cannot tell apart: refused in new schemas, and read by id in the tables of others."""

from __future__ import annotations

import sys
from typing import Any

import msgspec
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest

from datashard_core import Schema, Table, Warehouse, col
from datashard_core.commit.external.commit import following_version
from datashard_core.errors import ConfigurationError, DataShardError, InvalidRecordsError, TableExistsError
from datashard_core.format.expressions.binding import find
from datashard_core.format.types.distinct import check_distinct, fold, told_apart
from datashard_core.storage.local import LocalStorage


def field(name: str, kind: Any = "long") -> dict[str, Any]:
    return {"name": name, "type": kind}


def struct(*names: str) -> dict[str, Any]:
    return {"type": "struct", "fields": [field(name) for name in names]}


def listed(kind: Any) -> dict[str, Any]:
    return {"type": "list", "element": kind}


def mapped(key: Any, value: Any) -> dict[str, Any]:
    return {"type": "map", "key": key, "value": value}


CLASHES: list[tuple[str, list[dict[str, Any]], tuple[str, ...]]] = [
    ("case", [field("v"), field("V")], ("'v'", "'V'", "id 1", "id 2")),
    ("case within", [field("userId"), field("x"), field("userid")], ("'userId'", "'userid'")),
    ("sharp s", [field("straße"), field("STRASSE")], ("'straße'",)),
    ("dotless i", [field("ID"), field("\u0131d")], ("'ID'",)),
    ("dotted capital i", [field("İd"), field("id")], ("'id'",)),
    ("Kelvin", [field("K"), field("\u212a")], ("'K'",)),
    ("composed and decomposed", [field("caf\u00e9"), field("cafe\u0301")], ("'caf\u00e9'",)),
    ("greek sigma", [field("ΣΑΣ"), field("σας")], ("'ΣΑΣ'",)),
    ("path", [field("a", struct("b")), field("a.b")], ("'a.b'", "by the same path")),
    ("path in the other order", [field("a.b"), field("a", struct("b"))], ("'a.b'", "by the same path")),
    ("path and case", [field("A.B"), field("a", struct("b"))], ("'A.B'", "'a.b'")),
    ("in a struct", [field("s", struct("x", "X"))], ("'s.x'", "'s.X'")),
    ("path in a struct", [field("s", {**struct(), "fields": [field("a", struct("b")), field("a.b")]})], ("'s.a.b'",)),
    ("path over two structs", [field("a", struct("b.c")), field("a.b", struct("c"))], ("'a.b.c'",)),
    ("element of a list", [field("l", listed("long")), field("l.element")], ("'l.element'",)),
    ("key of a map", [field("m", mapped("string", "long")), field("m.key")], ("'m.key'",)),
    ("value of a map", [field("m", mapped("string", "long")), field("M.Value")], ("'m.value'",)),
    ("field of an element", [field("l", listed(struct("x"))), field("l.element.x")], ("'l.element.x'",)),
    ("in an element", [field("l", listed(struct("x", "X")))], ("'l.element.x'", "'l.element.X'")),
    ("in a map's value", [field("m", mapped("string", struct("x", "X")))], ("'m.value.X'",)),
    ("control character", [field("a\x00b")], ("control characters",)),
    ("newline", [field("a\nb")], ("control characters",)),
    ("delete", [field("a\x7f")], ("control characters",)),
    ("C1 control", [field("a\x85")], ("control characters",)),
    ("blank", [field(" ")], ("blank name",)),
    ("in a struct, control character", [field("s", struct("x\t"))], ("control characters",)),
]  # fmt: skip


@pytest.mark.parametrize(("fields", "parts"), [case[1:] for case in CLASHES], ids=[case[0] for case in CLASHES])
def test_a_table_is_not_created_with_names_that_engines_cannot_tell_apart(
    fields: list[dict[str, Any]], parts: tuple[str, ...], warehouse: Warehouse
) -> None:
    with pytest.raises(ConfigurationError) as raised:
        warehouse.create_table("shop.t", Schema(fields=fields))
    for part in ("table shop.t", *parts, "rename one"):
        assert part in str(raised.value)
    assert not warehouse.table_exists("shop.t")


@pytest.mark.parametrize("fields", [[field("a\ud800")], [field("s", struct("x", "a\udcff"))]])
def test_a_table_is_not_created_with_names_that_are_no_text(fields: list[dict[str, Any]], warehouse: Warehouse) -> None:
    with pytest.raises(ConfigurationError) as raised:
        warehouse.create_table("shop.t", Schema(fields=fields))
    for part in ("table shop.t", "the name of field", "half of a surrogate pair", "encoded as UTF-8"):
        assert part in str(raised.value)
    assert not warehouse.table_exists("shop.t")


@pytest.mark.parametrize(
    "fields",
    [
        [field("a"), field("b"), field("a_b"), field("ab")],
        [field("a", struct("b")), field("b")],
        [field("a", struct("x")), field("b", struct("x"))],
        [field("a.b"), field("a.c"), field("b", struct("a"))],
        [field("l", listed("long")), field("element"), field("key"), field("value")],
        [field("naïve"), field("naive"), field("ñ"), field("n")],
        [field("日本"), field("日本語"), field("a b"), field(" a"), field("🙂")],
        [field("s", struct("s")), field("x", {"type": "struct", "fields": [field("s", struct("s"))]})],
    ],
)
def test_other_names_are_taken_and_come_back(fields: list[dict[str, Any]], warehouse: Warehouse) -> None:
    table = warehouse.create_table("t", Schema(fields=fields))
    table.append([{}, {}])
    assert warehouse.load_table("t").scan().to_arrow().column_names == [one["name"] for one in fields]


def test_folding_is_coarser_than_the_rules_of_all_engines() -> None:
    for code in range(sys.maxunicode + 1):
        character = chr(code)
        if character.isalpha():
            folds = {fold(one) for one in (character, character.lower(), character.upper(), character.casefold())}
            assert len(folds) == 1, (hex(code), folds)
    assert len({fold(name) for name in ("I", "i", "\u0130", "\u0131")}) == 1
    assert fold(fold("Straße İ")) == fold("Straße İ")


def made_elsewhere(warehouse: Warehouse, name: str, fields: list[dict[str, Any]]) -> Table:
    """A table whose schema this library would not create: made with other names, which its first version then loses."""
    schema = Schema(fields=fields)
    table = warehouse.create_table(name, _with_names(schema, lambda one: f"c{one['id']}"))
    assert isinstance(table._storage, LocalStorage)
    path = warehouse.uri.removeprefix("file://") + f"/{name}/metadata/v0.metadata.json"
    with open(path, "rb") as file:
        raw = msgspec.json.decode(file.read())
    raw["schemas"] = [schema.to_dict()]
    with open(path, "wb") as file:
        file.write(msgspec.json.encode(raw))
    return Warehouse(warehouse._storage).load_table(name)


def _with_names(schema: Schema, name_of: Any) -> Schema:
    def renamed(raw: Any) -> Any:
        if isinstance(raw, dict):
            raw = {key: renamed(value) for key, value in raw.items()}
            return {**raw, "name": name_of(raw)} if "name" in raw else raw
        return [renamed(one) for one in raw] if isinstance(raw, list) else raw

    return Schema.from_dict(renamed(schema.to_dict()))


CASED = [field("id"), field("v"), field("V"), field("s", struct("x", "X"))]
ROWS = [{"id": n, "v": n, "V": 10 - n, "s": {"x": n * 2, "X": n * 3}} for n in range(6)]


@pytest.mark.parametrize("form", ["rows", "arrow", "deferred"])
def test_columns_that_differ_by_case_are_read_by_their_exact_names(form: str, warehouse: Warehouse) -> None:
    table = made_elsewhere(warehouse, "t", CASED)
    table.append(
        pa.Table.from_pylist(ROWS, table.schema.to_arrow()) if form == "arrow" else ROWS,
        commit="deferred" if form == "deferred" else "now",
    )
    table.flush()
    assert table.scan().to_records() == ROWS
    assert table.scan(columns=["V"]).to_records() == [{"V": row["V"]} for row in ROWS]
    assert table.scan(columns=["V", "v"]).to_records() == [{"V": row["V"], "v": row["v"]} for row in ROWS]
    for name in ("v", "V"):
        expected = [row for row in ROWS if row[name] > 6 or row[name] == 2]
        assert table.scan(where=(col(name) > 6) | (col(name) == 2)).to_records() == expected
        assert table.scan(where=(pc.field(name) > 6) | (pc.field(name) == 2)).to_records() == expected
    for name in ("x", "X"):
        expected = [row for row in ROWS if row["s"][name] > 8]
        assert table.scan(where=col(f"s.{name}") > 8).to_records() == expected
        assert table.scan(where=pc.field("s", name) > 8).to_records() == expected
    assert table.scan(where=(col("v") == 5) & (col("V") == 5)).to_records() == [ROWS[5]]
    assert list(table.scan().to_pandas()["V"]) == [row["V"] for row in ROWS]
    assert table.scan().to_polars()["V"].to_list() == [row["V"] for row in ROWS]


def test_appends_match_such_columns_by_their_exact_names(warehouse: Warehouse) -> None:
    table = made_elsewhere(warehouse, "t", CASED)
    table.append([{"V": 1}])
    table.append(pa.table({"v": [2]}))
    assert [(row["v"], row["V"]) for row in table.scan().to_records()] == [(None, 1), (2, None)]
    with pytest.raises(InvalidRecordsError, match="'Id'"):
        table.append([{"Id": 1}])
    with pytest.raises(InvalidRecordsError, match="'ID'"):
        table.append(pa.table({"ID": [1]}))


def test_sql_gives_such_columns_names_with_their_ids(warehouse: Warehouse) -> None:
    table = made_elsewhere(warehouse, "t", CASED)
    table.append(ROWS[:3])
    table.append(ROWS[3:])
    assert warehouse.sql("select * from t limit 0").column_names == ["id", "v_2", "V_3", "s"]
    assert table.sql("select id from t where v_2 > 4").to_pylist() == [{"id": 5}]
    assert table.sql("select id from t where V_3 > 9").to_pylist() == [{"id": 0}]
    assert table.sql('select id, "V_3" as n from t where v_2 = 1').to_pylist() == [{"id": 1, "n": 9}]
    assert table.sql("select id from t where s.X_6 > 14").to_pylist() == [{"id": 5}]
    assert table.sql("select s.x_5 as n from t where s.x_5 > 9").to_pylist() == [{"n": 10}]
    assert table.sql("select count(*) as n, sum(v_2) as a, sum(V_3) as b from t").to_pylist() == [
        {"n": 6, "a": 15, "b": 45}
    ]
    with pytest.raises(ConfigurationError, match="v_2"):
        table.sql("select v from t")
    relation = table.scan(where=col("V") > 6).to_duckdb()
    assert relation.filter("v_2 > 1").project("id, V_3").fetchall() == [(2, 8), (3, 7)]


DOTTED = [field("id"), field("a", struct("b", "c")), field("a.b"), field("a.c.d")]
DOTTED_ROWS = [{"id": n, "a": {"b": n, "c": 1}, "a.b": 10 - n, "a.c.d": 7} for n in range(6)]


def test_a_path_that_leads_to_two_fields_is_an_error_and_an_exact_one_is_not(warehouse: Warehouse) -> None:
    table = made_elsewhere(warehouse, "t", DOTTED)
    table.append(DOTTED_ROWS)
    table.append(pa.Table.from_pylist(DOTTED_ROWS, table.schema.to_arrow()))
    assert table.scan().to_records() == DOTTED_ROWS * 2
    assert table.scan(columns=["a.b"]).to_records()[:2] == [{"a.b": 10}, {"a.b": 9}]
    with pytest.raises(ConfigurationError, match=r"table t: 'a\.b' is the name of several fields, .*ids 5 and 3"):
        table.scan(where=col("a.b") > 4)
    assert table.scan(where=col("a.c") == 1).count() == 12
    assert table.scan(where=col("a.c.d") == 7).count() == 12
    # An Arrow expression says which one is meant.
    assert {row["id"] for row in table.scan(where=pc.field("a.b") > 8).to_records()} == {0, 1}
    assert {row["id"] for row in table.scan(where=pc.field("a", "b") > 4).to_records()} == {5}
    assert table.sql("from t").column_names == ["id", "a", "a.b_3", "a.c.d"]
    assert {row["id"] for row in table.sql('select id from t where "a.b_3" > 8').to_pylist()} == {0, 1}
    assert {row["id"] for row in table.sql("select id from t where a.b_5 > 4").to_pylist()} == {5}
    assert {row["id"] for row in table.sql('select id from t where a.c = 1 and "a.c.d" = 7').to_pylist()} == set(
        range(6)
    )
    assert table.scan(where="id > 3").count() == 4


def test_floats_of_one_path_keep_their_statistics_apart(warehouse: Warehouse) -> None:
    """NaN is left out of Parquet's statistics, so a column with NaN has none, whatever another of its path has."""
    floats = {"type": "struct", "fields": [field("b", "double")]}
    table = made_elsewhere(warehouse, "t", [field("a", floats), field("a.b", "double")])
    rows = pa.table(
        {
            "a": pa.array([{"b": 1.0}] * 2000, pa.struct([("b", pa.float64())])),
            "a.b": pa.array([float("nan")] + [2.0] * 1999),
        }
    )
    table.append(rows)
    table.append(rows)
    for file in table.scan().data_files():
        footer = pq.read_metadata(file.file_path.removeprefix("file://")).row_group(0)
        told = [footer.column(place).statistics for place in range(2)]
        assert [one is not None and one.has_min_max for one in told] == [False, False]
    assert table.sql('select count(*) as n from t where "a.b_2" > 5').to_pylist() == [{"n": 2}]
    assert table.sql("select count(*) as n from t where a.b_3 > 5").to_pylist() == [{"n": 0}]


def test_dots_within_names_of_structs_are_found() -> None:
    schema = Schema(fields=[field("a", {"type": "struct", "fields": [field("b.c"), field("d", struct("e.f"))]})])
    assert find("a.b.c", schema, "t").names == ("a", "b.c")
    assert find("a.d.e.f", schema, "t").names == ("a", "d", "e.f")
    for name in ("a.b", "a.", ".a", "a.d.e", "b.c", ""):
        with pytest.raises(ConfigurationError, match="no column"):
            find(name, schema, "t")


def test_conditions_reach_fields_whose_names_have_dots_in_front(warehouse: Warehouse) -> None:
    table = warehouse.create_table("t", Schema(fields=[field("s", struct(".x", "[0]", "y"))]))
    table.append([{"s": {".x": 1, "[0]": 2, "y": 3}}])
    for name, value in ((".x", 1), ("[0]", 2), ("y", 3)):
        assert table.scan(where=col(f"s.{name}") == value).count() == 1
        assert table.scan(where=col(f"s.{name}") != value).count() == 0


def test_names_told_apart_are_new_and_stay_the_same_in_any_order() -> None:
    schema = Schema(
        fields=[
            {"id": 1, "name": "a", "type": "int"},
            {"id": 2, "name": "A", "type": "int"},
            {"id": 3, "name": "a_1", "type": "int"},
            {"id": 4, "name": "b", "type": "int"},
        ]
    )
    assert told_apart(schema).names == ["a_1_1", "A_2", "a_1_3", "b"]
    back = Schema(fields=list(reversed(schema.fields)))
    assert told_apart(back).names == ["b", "a_1_3", "A_2", "a_1_1"]
    nested = Schema(fields=[field("l", listed("long")), field("l.element"), field("s", struct("x", "X"))])
    assert str(told_apart(nested).fields[1:]) == str(
        Schema(
            fields=[
                {"id": 2, "name": "l.element_2", "type": "long"},
                {
                    "id": 3,
                    "name": "s",
                    "type": {
                        "type": "struct",
                        "fields": [{"id": 5, **field("x_5")}, {"id": 6, **field("X_6")}],
                    },
                },
            ]
        ).fields
    )
    plain = Schema(fields=[field("a"), field("b", struct("a"))])
    assert told_apart(plain) is plain


def test_a_change_of_schema_may_not_bring_such_names(warehouse: Warehouse) -> None:
    table = warehouse.create_table("t", Schema(fields=[field("v")]))
    parent = table._seen.body

    def following(*fields: dict[str, Any]) -> Any:
        raw = msgspec.json.decode(parent.table.to_json())
        schema = Schema(1, [{"id": 1, "name": "v", "type": "long"}, *fields])
        raw |= {"schemas": [*raw["schemas"], schema.to_dict()], "current-schema-id": 1, "last-column-id": 9}
        return following_version(parent, raw, "c" * 32, parent.table.location)

    with pytest.raises(ConfigurationError, match=r"'v' .* and 'V' "):
        following({"id": 2, "name": "V", "type": "long"})
    with pytest.raises(ConfigurationError, match="control"):
        following({"id": 2, "name": "x\x01", "type": "long"})
    assert following({"id": 2, "name": "w", "type": "long"}).table.schema.names == ["v", "w"]


def test_what_was_wrong_before_a_change_may_stay() -> None:
    before = Schema(fields=[{"id": 1, "name": "v", "type": "int"}, {"id": 2, "name": "V", "type": "int"}])
    added = Schema(1, [*before.fields, {"id": 3, "name": "w", "type": "int"}])
    check_distinct(added, "t", before)
    with pytest.raises(ConfigurationError, match="'w'"):
        check_distinct(Schema(1, [*added.fields, {"id": 4, "name": "W", "type": "int"}]), "t", before)
    with pytest.raises(ConfigurationError, match="'v'"):
        check_distinct(before, "t")
    # Another field under the name of the second one is a new pair.
    with pytest.raises(ConfigurationError, match="id 5"):
        check_distinct(Schema(1, [before.fields[0], {"id": 5, "name": "V", "type": "int"}]), "t", before)


def test_a_table_that_is_there_is_opened_by_its_own_schema(warehouse: Warehouse) -> None:
    table = made_elsewhere(warehouse, "t", CASED)
    again = Warehouse(warehouse._storage)
    assert again.create_table("t", table.schema, if_exists="open").schema == table.schema
    with pytest.raises(TableExistsError):
        again.create_table("t", table.schema)
    with pytest.raises(DataShardError):
        again.create_table("other", table.schema, if_exists="open")


def test_a_scan_keeps_its_own_condition_and_limit_under_duckdb(warehouse: Warehouse) -> None:
    table = warehouse.create_table("t", Schema(fields=[field("a"), field("b")]))
    table.append([{"a": n, "b": n % 3} for n in range(10)])
    relation = table.scan(where=col("a") > 5).to_duckdb()
    assert relation.filter("b = 0").fetchall() == [(6, 0), (9, 0)]
    assert relation.filter("b = 0").count("*").fetchall() == [(2,)]
    assert relation.project("b").filter("b > 0").fetchall() == [(1,), (2,)]
    narrow = table.scan(columns=["b", "a"], where="a % 2 = 0", limit=3).to_duckdb()
    assert narrow.columns == ["b", "a"]
    assert narrow.fetchall() == [(0, 0), (2, 2), (1, 4)]
    assert narrow.filter("a >= 4").fetchall() == [(1, 4)]


def test_a_name_is_inferred_as_it_is_or_refused(warehouse: Warehouse) -> None:
    """In the stream of Arrow's C interface a name ends at its first NUL, and would be another one."""
    rows = pa.table({"a\0b": [1]})
    for data in (rows, rows.to_batches()[0], rows.to_reader()):
        schema = Schema.infer(data)
        assert schema.names == ["a\0b"]
        with pytest.raises(ConfigurationError, match="control characters"):
            warehouse.create_table("t", schema)
