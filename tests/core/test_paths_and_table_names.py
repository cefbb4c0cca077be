"""From URIs in metadata to keys, and from names to folders."""

from __future__ import annotations

from typing import Any

import pytest

import datashard_core as ds
from datashard_core.commit.core.paths import key_of
from datashard_core.errors import ConfigurationError, UnsupportedTableError
from datashard_core.table.names import parse_name
from datashard_core.table.warehouse import Warehouse


@pytest.mark.parametrize(
    ("uri", "location", "root"),
    [
        ("s3://b/w/t/data/x.parquet", "s3://b/w/t", "s3://b/w/t"),
        ("s3a://b/w/t/data/x.parquet", "s3://b/w/t/", "s3://b/w/t"),
        ("file:///srv/t/data/x.parquet", "file:///srv/t", "file:///srv/t"),
        ("file:/srv/t/data/x.parquet", "file:///srv/t", "file:///srv/t"),
        ("/srv/t/data/x.parquet", "file:///srv/t", "file:///srv/t"),
        ("file:///old/t/data/x.parquet", "file:///old/t", "file:///moved/t"),
        ("file:///srv/a%20b/data/x.parquet", "file:///srv/a b", "file:///srv/a b"),
    ],
)
def test_a_file_below_the_table_has_a_key(uri: str, location: str, root: str) -> None:
    assert key_of(uri, location, root) == "data/x.parquet"


@pytest.mark.parametrize(
    "uri", ["s3://b/w/t2/data/x.parquet", "s3://other/w/t/data/x.parquet", "s3://b/w/t_export/data/x"]
)
def test_a_file_outside_the_table_is_refused_by_name(uri: str) -> None:
    with pytest.raises(UnsupportedTableError, match="outside its folder"):
        key_of(uri, "s3://b/w/t", "s3://b/w/t")


@pytest.mark.parametrize(
    ("name", "folder"),
    [("user-events", "user-events"), ("ops.workflow_log", "ops/workflow_log"), ("T1", "T1"), ("9", "9")],
)
def test_a_name_stands_for_a_folder(name: str, folder: str) -> None:
    assert parse_name(name).folder == folder
    assert str(parse_name(name)) == name


@pytest.mark.parametrize(
    "name",
    [
        "",
        ".",
        "a.",
        ".a",
        "a.b.c",
        "data",
        "metadata",
        "x.data",
        "_hidden",
        "a b",
        "a/b",
        "s3://b/t",
        "é",
        "a" * 129,
    ],
)
def test_a_name_that_cannot_be_is_refused_with_the_rule(name: str) -> None:
    with pytest.raises(ConfigurationError, match="A name is"):
        parse_name(name)


@pytest.mark.parametrize(
    ("uri", "location"),
    [
        ("file:///lake/t/data/text=a%2Fb/f.parquet", "file:///lake/t"),
        ("file:/lake/t/data/text=a%2Fb/f.parquet", "/lake/t"),
        ("s3://bucket/t/data/text=a%2Fb/f.parquet", "s3a://bucket/t"),
    ],
)
def test_a_percent_sign_in_the_name_of_a_folder_stays(uri: str, location: str) -> None:
    assert key_of(uri, location, location) == "data/text=a%2Fb/f.parquet"


@pytest.mark.parametrize(
    "namespace", ["a/b", "a.b", "", "/", "a/", "..", "../other", "data", "metadata", "a b", "s3://b/w", 5, b"a"]
)
def test_what_cannot_be_a_namespace_is_refused_with_the_rule(any_warehouse: Warehouse, namespace: Any) -> None:
    schema = ds.Schema(fields=[{"id": 1, "name": "n", "type": "long"}])
    any_warehouse.create_table("a.b", schema)
    any_warehouse.create_table("c", schema)
    with pytest.raises(ConfigurationError, match=r"cannot be the name of a namespace.*A name is") as caught:
        any_warehouse.list_tables(namespace)
    assert repr(namespace) in str(caught.value)
    assert any_warehouse.list_tables() == ["a.b", "c"]
    assert any_warehouse.list_tables("a") == ["a.b"]
    assert any_warehouse.list_tables("c") == []
    assert any_warehouse.list_tables("nothing") == []
