"""Warehouses that foreign readers are tried on: local disk and S3 over HTTP."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from datashard_testkit.s3_server import S3Server
from pyiceberg.catalog import Catalog, load_catalog

from datashard_core.clock import SystemClock
from datashard_core.commit.append import deferred
from datashard_core.storage.local import LocalStorage
from datashard_core.storage.s3 import S3Storage
from datashard_core.table.warehouse import Warehouse


@pytest.fixture(scope="session")
def s3_server() -> Iterator[S3Server]:
    """A real S3 protocol over HTTP."""
    with S3Server() as server:
        yield server


@pytest.fixture(params=["local", "s3"])
def any_warehouse(request: pytest.FixtureRequest, tmp_path: Path) -> Warehouse:
    """An empty warehouse of each kind."""
    if request.param == "local":
        return Warehouse(LocalStorage(tmp_path / "warehouse"))
    server: S3Server = request.getfixturevalue("s3_server")
    return Warehouse(S3Storage(server.config(f"interop-{os.urandom(4).hex()}")))


@pytest.fixture(autouse=True)
def no_lot(monkeypatch: pytest.MonkeyPatch) -> None:
    """A deferred append stays staged: none draws the lot by which one in many commits what is there."""
    monkeypatch.setattr(deferred, "ONE_IN", 2**64)


@pytest.fixture
def days_pass(
    any_warehouse: Warehouse, request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Callable[[float], None]]:
    """Lets days pass, for us and for the store, until the test ends."""
    server: S3Server | None = None
    if isinstance(any_warehouse._storage, S3Storage):
        server = request.getfixturevalue("s3_server")
    passed = 0.0

    def pass_by(days: float) -> None:
        nonlocal passed
        seconds = days * 24 * 3600
        passed += seconds
        monkeypatch.setattr(SystemClock, "now_ms", lambda _: int(1000 * (time.time() + passed)))
        if server is not None:
            server.move_clock(seconds)
            return
        for path in (tmp_path / "warehouse").rglob("*"):
            if path.is_file():
                os.utime(path, (time.time(), path.stat().st_mtime - seconds))

    yield pass_by
    if server is not None:
        server.move_clock(-passed)  # it serves the tests that follow, too


@pytest.fixture
def catalog_properties(any_warehouse: Warehouse) -> dict[str, str]:
    """What PyIceberg is told of the warehouse: its place, and its keys."""
    properties = {"warehouse": any_warehouse.uri}
    if isinstance(any_warehouse._storage, S3Storage):
        config = any_warehouse._storage.config
        properties |= {
            "s3.endpoint": str(config.endpoint),
            "s3.region": str(config.region),
            "s3.access-key-id": str(config.access_key),
            "s3.secret-access-key": str(config.secret_key),
        }
    return properties


@pytest.fixture
def catalog(catalog_properties: dict[str, str]) -> Catalog:
    """Our catalog as PyIceberg loads it, on each kind of storage, with the namespace ``shop``."""
    made = load_catalog(
        "lake", **{"py-catalog-impl": "datashard_core.pyiceberg.DataShardCatalog"}, **catalog_properties
    )
    made.create_namespace("shop", {"owner": "me"})
    return made
