"""The catalog keeps PyIceberg's contract: the errors, names and results of PyIceberg's own catalogs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from pyiceberg.catalog import Catalog, load_catalog
from pyiceberg.exceptions import (
    CommitFailedException,
    NamespaceAlreadyExistsError,
    NamespaceNotEmptyError,
    NoSuchNamespaceError,
    NoSuchTableError,
    NoSuchViewError,
    TableAlreadyExistsError,
)
from pyiceberg.partitioning import PartitionField, PartitionSpec
from pyiceberg.schema import Schema
from pyiceberg.table.sorting import SortField, SortOrder
from pyiceberg.transforms import IdentityTransform
from pyiceberg.types import LongType, NestedField, StringType

import datashard_core as ds
from datashard_core.errors import ConfigurationError, TableExistsError
from datashard_core.table.warehouse import Warehouse

ROWS = pa.table({"k": pa.array([1, 2], pa.int64()), "text": ["a", "b"]})
SCHEMA = Schema(NestedField(1, "k", LongType(), required=False), NestedField(2, "text", StringType(), required=False))


# Tables -----------------------------------------------------------------------------------------


def test_a_table_is_created_loaded_and_listed(catalog: Catalog, any_warehouse: Warehouse) -> None:
    spec = PartitionSpec(PartitionField(1, 1000, IdentityTransform(), "part"))
    made = catalog.create_table(
        ("shop", "t"), SCHEMA, partition_spec=spec, sort_order=SortOrder(SortField(2)), properties={"a": "b", "n": 3}
    )
    found = catalog.load_table("shop.t")
    assert found.name() == ("shop", "t")
    assert found.metadata == made.metadata
    assert found.metadata_location == made.metadata_location == f"{any_warehouse.uri}/shop/t/metadata/v0.metadata.json"
    assert found.location() == f"{any_warehouse.uri}/shop/t"
    assert found.schema().as_struct() == SCHEMA.as_struct()
    assert found.spec().fields == spec.fields
    assert found.sort_order().fields[0].source_id == 2
    assert (found.properties["a"], found.properties["n"]) == ("b", "3")
    assert catalog.list_tables("shop") == [("shop", "t")]
    assert catalog.table_exists("shop.t")
    assert any_warehouse.list_tables() == ["shop.t"]
    assert any_warehouse.load_table("shop.t").schema.names == ["k", "text"]


def test_a_table_that_exists_is_not_made_again(catalog: Catalog) -> None:
    catalog.create_table("shop.t", SCHEMA, properties={"first": "yes"})
    with pytest.raises(TableAlreadyExistsError, match=r"shop\.t"):
        catalog.create_table("shop.t", SCHEMA)
    with pytest.raises(TableAlreadyExistsError, match=r"shop\.t"):
        catalog.create_table_transaction("shop.t", SCHEMA)
    assert catalog.create_table_if_not_exists("shop.t", SCHEMA).properties["first"] == "yes"


def test_a_table_of_ours_is_theirs_too(catalog: Catalog, any_warehouse: Warehouse) -> None:
    ours = any_warehouse.create_table("shop.t", ds.Schema.from_arrow(ROWS.schema))
    ours.append(ROWS)
    assert catalog.load_table("shop.t").scan().to_arrow().sort_by("k").to_pylist() == ROWS.to_pylist()
    assert any_warehouse.create_table("alone", ds.Schema.from_arrow(ROWS.schema)).version == 0
    assert catalog.list_tables(()) == [("alone",)]
    assert catalog.load_table("alone").name() == ("alone",)


def test_what_is_not_there(catalog: Catalog) -> None:
    with pytest.raises(NoSuchTableError, match=r"Table does not exist: shop\.none"):
        catalog.load_table("shop.none")
    with pytest.raises(NoSuchTableError, match=r"Table does not exist: shop\.none"):
        catalog.drop_table("shop.none")
    with pytest.raises(NoSuchTableError, match=r"Table does not exist: shop\.none"):
        catalog.purge_table("shop.none")
    with pytest.raises(NoSuchTableError):
        catalog.load_table(("a", "b", "c"))
    with pytest.raises(NoSuchNamespaceError, match="nowhere"):
        catalog.create_table("nowhere.t", SCHEMA)
    with pytest.raises(NoSuchNamespaceError, match="nowhere"):
        catalog.list_tables("nowhere")
    assert not catalog.table_exists("shop.none")
    assert not catalog.table_exists("shop.data")  # a folder of tables cannot be one


def test_a_table_lies_where_its_name_says(catalog: Catalog, any_warehouse: Warehouse) -> None:
    own = f"{any_warehouse.uri}/shop/t/"
    assert catalog.create_table("shop.t", SCHEMA, location=own).location() == own.rstrip("/")
    with pytest.raises(ValueError, match="cannot be chosen"):
        catalog.create_table("shop.far", SCHEMA, location="/elsewhere")
    for properties in ({"write.data.path": "s3://other"}, {"write.metadata.path": "x"}, {"datashard.commit": "{}"}):
        with pytest.raises(ValueError, match=r"write\.|datashard\.commit"):
            catalog.create_table("shop.far", SCHEMA, properties=properties)
    with pytest.raises(ValueError, match="format version 2"):
        catalog.create_table("shop.far", SCHEMA, properties={"format-version": "3"})
    assert catalog.list_tables("shop") == [("shop", "t")]


def test_a_creation_in_a_transaction(catalog: Catalog, any_warehouse: Warehouse) -> None:
    with catalog.create_table_transaction("shop.t", SCHEMA, properties={"a": "b"}) as transaction:
        with transaction.update_schema() as update:
            update.add_column("n", LongType())
        assert not catalog.table_exists("shop.t")
    table = catalog.load_table("shop.t")
    assert table.schema().column_names == ["k", "text", "n"]
    assert table.properties["a"] == "b"
    assert any_warehouse.load_table("shop.t").schema.names == ["k", "text", "n"]


def test_names_that_engines_cannot_tell_apart_are_refused(catalog: Catalog, any_warehouse: Warehouse) -> None:
    cased = Schema(NestedField(1, "k", LongType(), required=False), NestedField(2, "K", LongType(), required=False))
    with pytest.raises(ValueError, match=r"'k' \(id 1\) and 'K' \(id 2\)"):
        catalog.create_table("shop.cased", cased)
    with (
        pytest.raises(ValueError, match=r"'text' \(id 2\) and 'TEXT' \(id 3\)"),
        catalog.create_table_transaction("shop.cased", SCHEMA) as transaction,
        transaction.update_schema() as update,
    ):
        update.add_column("TEXT", LongType())
    assert not catalog.table_exists("shop.cased")
    table = catalog.create_table("shop.t", SCHEMA)
    for name in ("K", "te\x00xt"):
        with (
            pytest.raises(ValueError, match="which engines cannot tell apart or write"),
            table.update_schema() as update,
        ):
            update.add_column(name, LongType())
    assert any_warehouse.load_table("shop.t").version == 0
    with pytest.raises(ValueError, match="which engines cannot tell apart"), table.update_schema() as update:
        update.rename_column("text", "K")
    with table.update_schema() as update:
        update.add_column("n", LongType())
    assert any_warehouse.load_table("shop.t").schema.names == ["k", "text", "n"]


def test_of_two_creations_at_once_one_fails(catalog: Catalog) -> None:
    transaction = catalog.create_table_transaction("shop.t", SCHEMA)
    transaction.set_properties(who="late")
    catalog.create_table("shop.t", SCHEMA, properties={"who": "early"})
    with pytest.raises(CommitFailedException):
        transaction.commit_transaction()
    assert catalog.load_table("shop.t").properties["who"] == "early"


def test_a_rename_is_refused_with_the_reason(catalog: Catalog) -> None:
    catalog.create_table("shop.t", SCHEMA)
    catalog.create_table("shop.taken", SCHEMA)
    with pytest.raises(NotImplementedError, match="its folder"):
        catalog.rename_table("shop.t", "shop.new")
    with pytest.raises(NoSuchTableError):
        catalog.rename_table("shop.none", "shop.new")
    with pytest.raises(TableAlreadyExistsError):
        catalog.rename_table("shop.t", "shop.taken")
    with pytest.raises(NoSuchNamespaceError):
        catalog.rename_table("shop.t", "nowhere.t")
    assert catalog.list_tables("shop") == [("shop", "t"), ("shop", "taken")]


def test_a_dropped_table_is_gone_and_its_name_is_free(catalog: Catalog, any_warehouse: Warehouse) -> None:
    table = catalog.create_table("shop.t", SCHEMA)
    table.append(ROWS)
    catalog.drop_table("shop.t")
    assert catalog.list_tables("shop") == []
    with pytest.raises(NoSuchTableError):
        catalog.load_table("shop.t")
    with pytest.raises(NoSuchTableError, match="was dropped"):
        table.append(ROWS)
    again = catalog.create_table("shop.t", SCHEMA)
    assert again.metadata.table_uuid != table.metadata.table_uuid
    with pytest.raises(ValueError, match="UUID does not match"):
        table.append(ROWS)  # no writer of the old table gets into the new one
    again.append(ROWS)
    assert any_warehouse.load_table("shop.t").count() == 2


def test_a_purge_leaves_no_file_but_the_names_of_versions(catalog: Catalog, any_warehouse: Warehouse) -> None:
    table = catalog.create_table("shop.t", SCHEMA)
    table.append(ROWS)
    catalog.purge_table(table.name())
    left = [info.key for info in any_warehouse._storage.at("shop/t").list("")]
    assert [key for key in left if not key.startswith("metadata/v")] == []
    assert catalog.list_tables("shop") == []
    assert catalog.create_table("shop.t", SCHEMA).scan().to_arrow().num_rows == 0


def test_a_dropped_table_is_registered_again(catalog: Catalog, any_warehouse: Warehouse, tmp_path: Path) -> None:
    table = catalog.create_table("shop.t", SCHEMA)
    table.append(ROWS)
    with pytest.raises(TableAlreadyExistsError):
        catalog.register_table("shop.t", table.metadata_location)
    catalog.drop_table("shop.t")
    back = catalog.register_table("shop.t", table.metadata_location)
    assert back.scan().to_arrow().num_rows == 2
    back.append(ROWS)
    assert any_warehouse.load_table("shop.t").count() == 4
    with pytest.raises(ValueError, match="lies at"):
        catalog.register_table("shop.other", table.metadata_location)
    with pytest.raises(NotImplementedError, match=r"shop\.t is not overwritten .*: drop it first"):
        catalog.register_table("shop.t", table.metadata_location, overwrite=True)


def test_views_are_refused_and_absent(catalog: Catalog) -> None:
    assert catalog.list_views("shop") == []
    assert not catalog.view_exists("shop.v")
    with pytest.raises(NoSuchViewError):
        catalog.load_view("shop.v")
    with pytest.raises(NoSuchViewError):
        catalog.drop_view("shop.v")
    with pytest.raises(NotImplementedError, match="tables alone"):
        catalog.register_view("shop.v", "x")
    with pytest.raises(NotImplementedError, match="tables alone"):
        catalog.create_view("shop.v", SCHEMA, None)


# Namespaces -------------------------------------------------------------------------------------


def test_a_namespace_is_created_once(catalog: Catalog) -> None:
    assert catalog.list_namespaces() == [("shop",)]
    assert catalog.namespace_exists("shop")
    assert not catalog.namespace_exists("sho_")
    assert not catalog.namespace_exists("none")
    with pytest.raises(NamespaceAlreadyExistsError, match="shop"):
        catalog.create_namespace("shop")
    catalog.create_namespace_if_not_exists("shop", {"owner": "you"})
    assert catalog.load_namespace_properties("shop") == {"owner": "me"}
    catalog.create_namespace_if_not_exists("b")
    assert catalog.list_namespaces() == [("b",), ("shop",)]
    assert catalog.list_namespaces("shop") == []
    with pytest.raises(NoSuchNamespaceError):
        catalog.list_namespaces("none")


@pytest.mark.parametrize("name", ["", (), ("", ""), " ", "a.b", ("a", "b"), "data", "a/b", "_a"])
def test_names_that_cannot_be_namespaces(catalog: Catalog, name: Any) -> None:
    with pytest.raises(NoSuchNamespaceError, match="cannot be a namespace"):
        catalog.create_namespace(name)
    assert not catalog.namespace_exists(name)
    assert catalog.list_namespaces() == [("shop",)]


def test_a_namespace_is_dropped_when_it_is_empty(catalog: Catalog) -> None:
    catalog.create_table("shop.t", SCHEMA)
    with pytest.raises(NamespaceNotEmptyError, match=r"Namespace shop is not empty.*shop\.t"):
        catalog.drop_namespace("shop")
    catalog.drop_table("shop.t")
    catalog.drop_namespace("shop")
    assert catalog.list_namespaces() == []
    with pytest.raises(NoSuchNamespaceError):
        catalog.drop_namespace("shop")
    catalog.create_namespace("shop")
    assert catalog.load_namespace_properties("shop") == {}


def test_the_properties_of_a_namespace(catalog: Catalog, any_warehouse: Warehouse) -> None:
    any_warehouse.create_table("ops.t", ds.Schema.from_arrow(ROWS.schema))
    assert catalog.load_namespace_properties("ops") == {}  # it exists because it holds a table
    assert catalog.update_namespace_properties("ops", updates={"team": "a"}).updated == ["team"]
    summary = catalog.update_namespace_properties("ops", {"team", "none"}, {"owner": "x", "n": "1"})
    assert (summary.removed, summary.missing, sorted(summary.updated)) == (["team"], ["none"], ["n", "owner"])
    assert catalog.load_namespace_properties("ops") == {"owner": "x", "n": "1"}
    with pytest.raises(ValueError, match="overlap"):
        catalog.update_namespace_properties("ops", {"n"}, {"n": "2"})
    with pytest.raises(ValueError, match="keys and values are text"):
        catalog.update_namespace_properties("ops", updates={"n": None})
    with pytest.raises(ValueError, match="keys and values are text"):
        catalog.create_namespace("new", {"n": None})
    with pytest.raises(NoSuchNamespaceError):
        catalog.load_namespace_properties("none")
    with pytest.raises(NoSuchNamespaceError):
        catalog.update_namespace_properties("none", updates={"a": "b"})
    assert not catalog.namespace_exists("new")


def test_a_namespace_and_a_table_do_not_share_a_name(catalog: Catalog, any_warehouse: Warehouse) -> None:
    with pytest.raises(TableAlreadyExistsError, match="namespace"):
        catalog.create_table("shop", SCHEMA)
    with pytest.raises(TableExistsError, match="namespace"):
        any_warehouse.create_table("shop", ds.Schema.from_arrow(ROWS.schema))
    catalog.create_table("t", SCHEMA)
    with pytest.raises(NamespaceAlreadyExistsError, match="table"):
        catalog.create_namespace("t")


# How it is configured -----------------------------------------------------------------------------


def test_keys_without_a_warehouse_are_refused() -> None:
    keys = {"s3.access-key-id": "a", "s3.secret-access-key": "s"}
    with pytest.raises(ConfigurationError, match="add warehouse='s3://bucket/prefix'"):
        load_catalog("lake", **{"py-catalog-impl": "datashard_core.pyiceberg.DataShardCatalog", **keys})


def test_the_catalog_is_the_same_without_its_loader(catalog_properties: dict[str, str]) -> None:
    from datashard_core.pyiceberg import DataShardCatalog

    with DataShardCatalog("lake", **catalog_properties) as catalog:
        catalog.create_namespace("n")
        assert catalog.list_namespaces() == [("n",)]
        assert catalog.name == "lake"
    with pytest.raises(ConfigurationError, match="secret_key is missing"):
        DataShardCatalog("lake", warehouse="s3://some-bucket/w", **{"s3.access-key-id": "a"})


@pytest.mark.parametrize("wrong", [None, 1, b"a.t", ["a", "t"], (1,), ("a", None), {"a": 1}])
def test_a_name_of_another_type_is_an_error_that_names_the_argument(catalog: Catalog, wrong: Any) -> None:
    schema = Schema(NestedField(1, "n", LongType(), required=False))
    for call in (
        catalog.load_table,
        catalog.drop_table,
        catalog.purge_table,
        lambda v: catalog.create_table(v, schema),
    ):
        with pytest.raises(TypeError, match=r"identifier=.*pass a name"):
            call(wrong)
    for call in (catalog.list_tables, catalog.create_namespace, catalog.drop_namespace, catalog.list_namespaces):
        with pytest.raises(TypeError, match=r"namespace=.*pass a name"):
            call(wrong)
    with pytest.raises(TypeError, match=r"properties=.*pass a mapping"):
        catalog.create_table("t", schema, properties=[("a", wrong)])  # type: ignore[arg-type]
