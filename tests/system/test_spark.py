"""Spark with Iceberg's own runtime reads tables by path, by the lines of its page.

Needs Java 17 or newer and Maven's repository: the first session downloads the runtime.
"""

from __future__ import annotations

import json
import os
import pickle
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from datashard_testkit.s3_server import S3Server
from datashard_testkit.tables import in_order, make_all, told

import datashard_core as ds

ROOT = Path(__file__).resolve().parents[2]
PAGE = ROOT / "docs" / "engines" / "spark.md"
READER = ROOT / "tests" / "interop" / "page_reader.py"
SECONDS = 900.0

pytestmark = pytest.mark.system


@pytest.fixture(scope="module")
def python() -> str:
    """Python of an environment with Spark."""
    assert shutil.which("java"), "Spark needs Java (Debian and Ubuntu: apt-get install openjdk-17-jre-headless)"
    made = subprocess.run(
        [sys.executable, str(ROOT / "tools" / "environments.py"), "spark"], capture_output=True, text=True, check=False
    )
    assert made.returncode == 0, made.stdout + made.stderr
    return str(ROOT / ".envs" / "spark" / "bin" / "python")


def code_of(section: str) -> str:
    """The lines in a section of the page."""
    found = re.search(rf"^## {section}\n.*?```python\n(.*?)```", PAGE.read_text(), re.DOTALL | re.MULTILINE)
    assert found is not None
    return found[1]


def read(python: str, code: str, of: str, roots: dict[str, str]) -> dict[str, Any]:
    """What the lines say of each table: its rows, or the text of an error."""
    kept = {key: text for key, text in os.environ.items() if not key.startswith(("AWS_", "DATASHARD_", "PYTHON"))}
    done = subprocess.run(
        [python, "-P", str(READER)],
        input=json.dumps({"code": code, "of": of, "roots": roots}).encode(),
        env=kept,
        capture_output=True,
        timeout=SECONDS,
        check=False,
    )
    assert done.returncode == 0, done.stderr.decode()[-4000:]
    answers: dict[str, Any] = pickle.loads(done.stdout.partition(b"ANSWER")[2])
    return answers


def check(warehouse: ds.Warehouse, answers: dict[str, Any], tables: dict[str, list[dict[str, Any]]]) -> None:
    """Every table gave its rows, but for those that Spark cannot read."""
    for name, rows in tables.items():
        answer = answers[name]
        if name == "every_type":
            assert "time" in answer, f"a column of the type time is refused: {answer}"
            continue
        assert not isinstance(answer, str), f"{name}: {answer}"
        assert in_order([told(row) for row in answer]) == in_order(rows), name
        assert warehouse.load_table(name).count() == len(rows)
    assert isinstance(answers["dropped"], str), "a dropped table is an error, not an empty one"


def test_local_tables(python: str, tmp_path: Path) -> None:
    warehouse = ds.connect(str(tmp_path / "warehouse"))
    tables = make_all(warehouse)
    roots = {name: f"{tmp_path}/warehouse/{name}" for name in (*tables, "dropped")}
    check(warehouse, read(python, code_of("On local disk"), "/data/warehouse/shop/events", roots), tables)


def test_tables_in_a_bucket(python: str) -> None:
    with S3Server(bucket="my-bucket", access_key="minioadmin", secret_key="minioadmin") as server:
        warehouse = ds.connect(config=server.config("warehouse"))
        tables = make_all(warehouse)
        roots = {name: f"s3://my-bucket/warehouse/{name}" for name in (*tables, "dropped")}
        code = code_of("In a bucket").replace("http://localhost:9000", server.endpoint)
        check(warehouse, read(python, code, "s3://my-bucket/warehouse/shop/events", roots), tables)
