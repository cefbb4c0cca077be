"""A table made known to other catalogs: PyIceberg's SQL catalog, and Glue as moto serves it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from datashard_testkit.s3_server import S3Server
from pyiceberg.catalog import Catalog, load_catalog
from pyiceberg.exceptions import NoSuchTableError

import datashard_core as ds
from datashard_core.errors import ConfigurationError
from datashard_core.pyiceberg import register
from datashard_core.table.warehouse import Warehouse

SCHEMA = ds.Schema.from_arrow(pa.schema([("k", pa.int64())]))


@pytest.fixture(params=["sql", "glue"])
def other(
    request: pytest.FixtureRequest, catalog_properties: dict[str, str], s3_server: S3Server, tmp_path: Path
) -> Catalog:
    """A catalog that knows nothing of ours, and the keys to the files."""
    files = {key: text for key, text in catalog_properties.items() if key.startswith("s3.")}
    if request.param == "sql":
        return load_catalog("other", type="sql", uri=f"sqlite:///{tmp_path}/catalog.db", **files)
    glue = {
        "glue.endpoint": s3_server.endpoint,
        "glue.region": "us-east-1",
        "glue.access-key-id": s3_server.access_key,
        "glue.secret-access-key": s3_server.secret_key,
    }
    made = load_catalog("other", type="glue", **glue, **files)
    for name in made.list_tables("logs") if made.namespace_exists("logs") else []:
        made.drop_table(name)  # the server outlives a test
    return made


def test_a_registration_shows_the_version_it_was_made_at(any_warehouse: Warehouse, other: Catalog) -> None:
    table = any_warehouse.create_table("shop.t", SCHEMA)
    assert register(table, other, "logs.t").scan().to_arrow().num_rows == 0
    table.append([{"k": 1}])
    assert other.load_table("logs.t").scan().to_arrow().num_rows == 0
    for k in (2, 3):
        table.append([{"k": k}])
        assert sorted(register(table, other, ("logs", "t")).scan().to_arrow()["k"].to_pylist()) == list(range(1, k + 1))
    found = other.load_table("logs.t")
    assert found.metadata_location == table.metadata_location
    assert register(table, other, "logs.t").metadata_location == found.metadata_location
    assert other.list_tables("logs") == [("logs", "t")]


def test_what_another_process_appended_is_registered_too(any_warehouse: Warehouse, other: Catalog) -> None:
    table = any_warehouse.create_table("shop.t", SCHEMA)
    any_warehouse.load_table("shop.t").append([{"k": 1}])
    assert table.version == 0
    assert register(table, other, "logs.t").scan().to_arrow().num_rows == 1


def test_files_stay_when_a_registration_moves(any_warehouse: Warehouse, other: Catalog) -> None:
    table = any_warehouse.create_table("shop.t", SCHEMA)
    table.append([{"k": 1}])
    register(table, other, "logs.t")
    before = {info.key for info in any_warehouse._storage.at("shop/t").list("")}
    table.append([{"k": 2}])
    register(table, other, "logs.t")
    assert before <= {info.key for info in any_warehouse._storage.at("shop/t").list("")}
    assert table.count() == 2


def test_another_table_of_that_name_is_left_alone(any_warehouse: Warehouse, other: Catalog) -> None:
    first, second = (any_warehouse.create_table(f"shop.{name}", SCHEMA) for name in ("a", "b"))
    register(first, other, "logs.t")
    with pytest.raises(ConfigurationError, match=r"logs\.t is another table in the catalog other .*shop/a"):
        register(second, other, "logs.t")
    assert other.load_table("logs.t").location() == first.uri


class OneStep:
    """A catalog that moves a registration in one step, as REST servers can; or fails between two."""

    name = "steps"

    def __init__(self, known: Any, *, one_step: bool) -> None:
        self.known = known
        self.one_step = one_step
        self.calls: list[str] = []

    def create_namespace_if_not_exists(self, namespace: tuple[str, ...]) -> None:
        assert namespace == ("logs",)

    def load_table(self, name: tuple[str, ...]) -> Any:
        if self.known is None:
            raise NoSuchTableError(str(name))
        return self.known

    def drop_table(self, name: tuple[str, ...]) -> None:
        self.calls.append("drop")
        self.known = None

    def register_table(self, name: tuple[str, ...], location: str, overwrite: bool = False) -> str:
        self.calls.append("overwrite" if overwrite else "register")
        if overwrite and not self.one_step:
            raise NotImplementedError("`overwrite` isn't supported")
        if not self.one_step:
            raise OSError("the network is gone")
        return location


@pytest.mark.parametrize("one_step", [True, False])
def test_a_catalog_that_can_moves_it_in_one_step(any_warehouse: Warehouse, catalog: Catalog, one_step: bool) -> None:
    table = any_warehouse.create_table("shop.t", SCHEMA)
    other = OneStep(catalog.load_table("shop.t"), one_step=one_step)
    table.append([{"k": 1}])
    if one_step:
        assert register(table, other, "logs.t") == table.metadata_location
        assert other.calls == ["overwrite"]
        return
    with pytest.raises(OSError, match="network") as caught:
        register(table, other, "logs.t")
    assert "logs.t is not in the catalog steps just now: register the table again" in caught.value.__notes__
    assert other.calls == ["overwrite", "drop", "register"]
