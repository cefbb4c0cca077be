"""Warehouses that foreign readers are tried on: local disk and S3 over HTTP."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from datashard_core.storage.local import LocalStorage
from datashard_core.storage.s3 import S3Storage
from datashard_core.table.warehouse import Warehouse
from datashard_core.testing.s3_server import S3Server


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
