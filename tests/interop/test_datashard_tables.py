"""Tables of the package ``datashard``: written by the package itself, opened, read and appended to by ours."""

from __future__ import annotations

import datetime as dt
import json
import os
import pickle
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
from datashard_testkit.s3_server import S3Server

from datashard_core.errors import CorruptTableError
from datashard_core.storage.local import LocalStorage
from datashard_core.storage.s3 import S3Storage
from datashard_core.table.warehouse import Warehouse

ROOT = Path(__file__).resolve().parents[2]
WRITER = Path(__file__).with_name("datashard_writer.py")
Package = Callable[..., list[dict[str, Any]]]


def python_of(environment: str) -> str:
    """Python of an environment with a release of the package; made in seconds."""
    made = subprocess.run(
        [sys.executable, str(ROOT / "tools" / "environments.py"), environment],
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
    )
    assert made.returncode == 0, made.stdout + made.stderr
    return str(ROOT / ".envs" / environment / "bin" / "python")


@pytest.fixture(params=["datashard-0.10/local", "bench-datashard/local", "bench-datashard/s3"])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> tuple[str, Warehouse]:
    """Python with a release of the package, 0.10.0 or the newest, and an empty warehouse."""
    environment, _, kind = request.param.partition("/")
    if kind == "local":
        return python_of(environment), Warehouse(LocalStorage(tmp_path / "warehouse"))
    server: S3Server = request.getfixturevalue("s3_server")
    return python_of(environment), Warehouse(S3Storage(server.config(f"interop-{os.urandom(4).hex()}")))


@pytest.fixture
def any_warehouse(place: tuple[str, Warehouse]) -> Warehouse:
    """The warehouse that the package writes to."""
    return place[1]


@pytest.fixture
def package(place: tuple[str, Warehouse]) -> Package:
    """Runs the package on a table of the warehouse; its rows as the package reads them."""
    python, warehouse = place
    storage = warehouse._storage
    kept = {key: text for key, text in os.environ.items() if not key.startswith(("AWS_", "DATASHARD_", "PYTHON"))}
    path = warehouse.uri.removeprefix("file://")
    if isinstance(storage, S3Storage):
        config = storage.config
        path = ""
        kept |= {
            "DATASHARD_STORAGE_TYPE": "s3",
            "DATASHARD_S3_ENDPOINT": str(config.endpoint),
            "DATASHARD_S3_ACCESS_KEY": str(config.access_key),
            "DATASHARD_S3_SECRET_KEY": str(config.secret_key),
            "DATASHARD_S3_BUCKET": config.bucket,
            "DATASHARD_S3_PREFIX": config.prefix,
        }

    def run(table: str, appends: Sequence[Sequence[int]] = (), **options: bool) -> list[dict[str, Any]]:
        request = {"path": os.path.join(path, table), "appends": appends, "create": False, **options}
        done = subprocess.run(
            [python, "-P", str(WRITER)],
            input=json.dumps(request).encode(),
            env=kept,
            capture_output=True,
            timeout=120,
            check=False,
        )
        assert done.returncode == 0, done.stderr.decode()[-2000:]
        rows: list[dict[str, Any]] = pickle.loads(done.stdout)
        return rows

    return run


def by_key(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return sorted(rows, key=lambda one: one["k"])


@pytest.mark.parametrize("compact", [False, True])
def test_a_table_is_read_as_it_is(any_warehouse: Warehouse, package: Package, compact: bool) -> None:
    theirs = package("t", [[0, 1], [2, 3], [4]], create=True, compact=compact)
    table = any_warehouse.load_table("t")
    assert any_warehouse.list_tables() == ["t"]
    rows = by_key(table.scan().to_records())
    assert rows == theirs
    assert rows[2] == {
        "k": 2,
        "text": "text 2 ä",
        "real": 0.25,
        "flag": False,
        "at": dt.datetime(2026, 1, 3, 5, 0, 0, 1),
        "day": dt.date(2026, 1, 3),
        "small": -2,
        "single": 0.5,
        "raw": b"\x02\xff",
    }
    assert rows[1] == {**dict.fromkeys(rows[1]), "k": 1}
    assert by_key(table.scan(where="k >= 3", columns=["k"]).to_records()) == [{"k": 3}, {"k": 4}]
    assert table.scan(where="text = 'text 4 ä'").count() == 1
    assert [table.scan(version=version).count() for version in (1, 2, 3, 4)] == [0, 2, 4, 5]
    assert table.changes(3).to_records() == [theirs[4]]
    assert any_warehouse.sql("select count(*) as n, sum(k) as s from t").to_pylist() == [{"n": 5, "s": 10}]


def test_appends_of_ours_go_on_where_the_package_stopped(any_warehouse: Warehouse, package: Package) -> None:
    package("t", [[0], [1]], create=True)
    table = any_warehouse.load_table("t")
    table.append([{"k": 10, "text": "ours"}], append_id="once")
    table.append([{"k": 11}], commit="deferred")
    table.flush()
    assert [one["k"] for one in package("t", [[20]])] == [0, 1, 10, 11, 20]
    for k in range(30, 41):  # over the 16th version, where the names so far are written down
        table.append([{"k": k}])
    assert table.append([{"k": 10, "text": "ours"}], append_id="once").already_appended
    wanted = [0, 1, 10, 11, 20, *range(30, 41)]
    assert [one["k"] for one in by_key(table.refresh().scan().to_records())] == wanted


@pytest.mark.parametrize("place", ["bench-datashard/local"], indirect=True)
def test_the_package_must_not_merge_our_manifests(any_warehouse: Warehouse, package: Package) -> None:
    """It writes our files down without their sequence numbers. That is refused, not guessed at."""
    package("t", [[0]], create=True)
    table = any_warehouse.load_table("t")
    table.append([{"k": 1}])
    before = table.version
    package("t", compact=True)
    with pytest.raises(CorruptTableError, match="has no sequence number"):
        table.refresh().scan().to_records()
    assert table.scan(version=before).count() == 2
