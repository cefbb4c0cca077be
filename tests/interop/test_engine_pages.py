"""The pages of ``docs/engines``: their own lines open tables after every kind of commit, and give the rows.

Rows are compared by value and by type. What an engine has no type for is said in :data:`UNLIKE`.
"""

from __future__ import annotations

import datetime as dt
import importlib.util
import json
import os
import pickle
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from datashard_testkit.s3_server import S3Server
from datashard_testkit.tables import MAKERS, NUMBERS, Row, in_order, make_all, numbers, told
from pyiceberg.catalog import load_catalog
from pyiceberg.transforms import IdentityTransform
from pyiceberg.types import LongType

import datashard_core as ds
from datashard_core.config import S3Config
from datashard_core.table.warehouse import Warehouse

HERE = Path(__file__).parent
PAGES = HERE.parents[1] / "docs" / "engines"
ENGINES = ("pyiceberg", "duckdb", "polars", "daft", "clickhouse", "sail")
SECTIONS = {"local": "On local disk", "s3": "In a bucket"}
ROOTS = {"local": "/data/warehouse/shop/events", "s3": "my-bucket/warehouse/shop/events"}

# The tables ---------------------------------------------------------------------------------------


def evolved(warehouse: Warehouse, name: str) -> list[Row]:
    """PyIceberg changes rows, columns and partitions, with appends of ours in between."""
    table = warehouse.create_table(name, NUMBERS)
    table.append(numbers(0, 1))
    config = getattr(warehouse._storage, "config", None)
    theirs = load_catalog(
        "lake",
        **{"py-catalog-impl": "datashard_core.pyiceberg.DataShardCatalog", "warehouse": warehouse.uri},
        **(pyiceberg_keys(config) if isinstance(config, S3Config) else {}),
    ).load_table(name)
    with theirs.update_schema() as schema:
        schema.add_column("n", LongType())
        schema.rename_column("text", "words")
    table.refresh().append([{"k": 2, "words": "row 2", "n": 7}])
    theirs.refresh().delete("k = 0")
    with theirs.update_spec() as spec:
        spec.add_field("words", IdentityTransform(), "by_words")
    table.append([{"k": 3, "words": "row 3"}])
    theirs.refresh().append(theirs.scan("k = 2").to_arrow())
    return [
        {"k": 1, "words": "row 1", "n": None},
        {"k": 2, "words": "row 2", "n": 7},
        {"k": 2, "words": "row 2", "n": 7},
        {"k": 3, "words": "row 3", "n": None},
    ]


def pyiceberg_keys(config: S3Config) -> dict[str, str]:
    return {
        "s3.endpoint": str(config.endpoint),
        "s3.access-key-id": str(config.access_key),
        "s3.secret-access-key": str(config.secret_key),
        "s3.region": "us-east-1",
    }


@dataclass(frozen=True)
class Place:
    """Tables on one kind of storage, and their rows."""

    kind: str
    warehouse: Warehouse
    rows: dict[str, list[Row]]
    server: S3Server


@pytest.fixture(scope="module", params=["local", "s3"])
def place(request: pytest.FixtureRequest, s3_server: S3Server, tmp_path_factory: pytest.TempPathFactory) -> Place:
    """One table of each kind of history."""
    if request.param == "local":
        warehouse = ds.connect(str(tmp_path_factory.mktemp("pages") / "warehouse"))
    else:
        warehouse = ds.connect(config=s3_server.config(f"pages-{os.urandom(4).hex()}"))
    return Place(request.param, warehouse, make_all(warehouse, (*MAKERS, evolved)), s3_server)


# The engines --------------------------------------------------------------------------------------


def block(page: str, section: str) -> str:
    """The Python in a section of a page."""
    text = (PAGES / f"{page}.md").read_text()
    found = re.search(rf"^## {re.escape(section)}\n(.*?)(?=^## |\Z)", text, re.DOTALL | re.MULTILINE)
    assert found is not None, f"docs/engines/{page}.md has no section {section!r}"
    blocks = re.findall(r"```python\n(.*?)```", found[1], re.DOTALL)
    assert len(blocks) == 1
    return str(blocks[0])


def at_server(code: str, server: S3Server) -> str:
    """Code of a page, for the tests' server in the place of the page's."""
    host = server.endpoint.partition("//")[2]
    return code.replace("localhost:9000", host).replace("minioadmin", server.access_key)


def homes(folder: Path) -> dict[str, str]:
    """An environment in which DuckDB has its extensions: the packages hold what INSTALL would download."""
    import duckdb

    version = f"v{duckdb.__version__}"
    system = str(duckdb.sql("PRAGMA platform").fetchall()[0][0])
    target = folder / ".duckdb" / "extensions" / version / system
    target.mkdir(parents=True)
    for name in ("avro", "httpfs", "iceberg"):
        spec = importlib.util.find_spec(f"duckdb_extension_{name}")
        assert spec is not None
        assert spec.origin is not None
        shutil.copy(next(Path(spec.origin).parent.rglob(f"{name}.duckdb_extension")), target)
    kept = {key: text for key, text in os.environ.items() if not key.startswith(("AWS_", "DATASHARD_", "PYTHON"))}
    return {**kept, "HOME": str(folder)}


def read(page: str, place: Place, folder: Path) -> dict[str, Any]:
    """What the lines of a page say of each table: its rows, or the text of an error."""
    uris = {name: f"{place.warehouse.uri}/{name}" for name in (*place.rows, "dropped")}
    scheme = "file://" if place.kind == "local" else "s3://"
    request = {
        "code": at_server(block(page, SECTIONS[place.kind]), place.server),
        "of": ROOTS[place.kind],
        "roots": {name: uri.removeprefix(scheme) for name, uri in uris.items()},
    }
    done = subprocess.run(
        [sys.executable, "-P", str(HERE / "page_reader.py")],
        input=json.dumps(request).encode(),
        env=homes(folder),
        capture_output=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stderr.decode()[-3000:]
    answers: dict[str, Any] = pickle.loads(done.stdout.partition(b"ANSWER")[2])
    return answers


# Values -------------------------------------------------------------------------------------------


def unlike_clickhouse(row: Row) -> Row:
    """ClickHouse: no null lists, maps or structs, no type for times of day, and every time stamp has a zone."""
    row = dict(row)
    if "local" not in row:
        return row
    if row.get("clock") is not None:
        row["clock"] = row["clock"].hour * 3600 + row["clock"].minute * 60 + row["clock"].second
    if row["local"] is not None:
        row["local"] = row["local"].replace(tzinfo=dt.UTC)
    row["tags"] = row["tags"] or []
    row["counts"] = row["counts"] or []
    row["place"] = row["place"] or {"x": None, "names": []}
    return row


UNLIKE: dict[str, Callable[[Row], Row]] = {"clickhouse": unlike_clickhouse}


# The tests ----------------------------------------------------------------------------------------


def test_our_own_scan_gives_the_rows(place: Place) -> None:
    for name, rows in place.rows.items():
        found = place.warehouse.load_table(name).scan().to_records()
        assert in_order([told(row) for row in found]) == in_order(rows), name


@pytest.mark.parametrize("engine", ENGINES)
def test_the_lines_of_the_page_read_every_table(place: Place, engine: str, tmp_path: Path) -> None:
    answers = read(engine, place, tmp_path)
    unlike = UNLIKE.get(engine, lambda row: row)
    for name, rows in place.rows.items():
        answer = answers[name]
        assert not isinstance(answer, str), f"{name}: {answer}"
        assert in_order([told(row) for row in answer]) == in_order([unlike(row) for row in rows]), name
    assert isinstance(answers["dropped"], str), "a dropped table is an error, not an empty one"


def run_page(code: str, folder: Path) -> None:
    """Run a page's lines as a script."""
    script = folder / "page.py"
    script.write_text(code)
    kept = {key: text for key, text in os.environ.items() if not key.startswith(("AWS_", "DATASHARD_", "PYTHON"))}
    done = subprocess.run(
        [sys.executable, "-P", str(script)], cwd=folder, env=kept, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr[-3000:]


def test_the_lines_on_writing_with_pyiceberg_run(tmp_path: Path) -> None:
    code = block("pyiceberg", "Writing, through the catalog")
    run_page(code.replace("/data/warehouse", str(tmp_path / "warehouse")), tmp_path)
    assert ds.load_table(f"{tmp_path}/warehouse/crm.prices").count() == 2


def test_the_lines_on_registration_run(tmp_path: Path) -> None:
    code = block("trino-athena", "Athena, and Trino on Glue")
    with S3Server(bucket="my-bucket", access_key="minioadmin", secret_key="minioadmin") as server:
        table = ds.connect(config=server.config("warehouse")).create_table("shop.events", NUMBERS)
        table.append(numbers(1, 2))
        run_page(at_server(code, server) + "\nassert rows.num_rows == 2\n", tmp_path)


def test_the_file_for_pyiceberg_names_the_catalog() -> None:
    text = (PAGES / "pyiceberg.md").read_text()
    found = re.search(r"```yaml\n(.*?)```", text, re.DOTALL)
    assert found is not None
    assert "py-catalog-impl: datashard_core.pyiceberg.DataShardCatalog" in found[1]


def test_every_page_is_linked_and_tested() -> None:
    pages = {path.stem for path in PAGES.glob("*.md")} - {"README"}
    assert pages == {*ENGINES, "spark", "trino-athena"}
    assert set(re.findall(r"\]\((\S+)\.md\)", (PAGES / "README.md").read_text())) == pages
