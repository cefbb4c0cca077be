"""What Airflow reads of the package, what importing it brings in, and that its README tells the truth."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from importlib.metadata import distribution
from pathlib import Path
from typing import Any

import airflow
import jsonschema
import pytest
from airflow.sdk import DAG

from airflow_provider_datashard import __version__
from airflow_provider_datashard.fields import FIELDS, NAMES
from airflow_provider_datashard.provider_info import get_provider_info
from datashard_core import connect

ROOT = Path(__file__).resolve().parent.parent.parent
README = (ROOT / "providers/airflow/README.md").read_text()
BLOCKS = re.findall(r"```python\n(.*?)```", README, re.DOTALL)
BLOCKS += [
    block
    for block in re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text(), re.DOTALL)
    if "airflow" in block
]
HEAVY = ("boto3", "botocore", "pyarrow", "duckdb", "pandas", "polars", "fastavro", "numpy")


def schema_of_airflow(name: str) -> Any:
    return json.loads((Path(airflow.__path__[0]) / name).read_text())


def test_airflow_accepts_the_provider_information() -> None:
    info = get_provider_info()
    jsonschema.validate(info, schema_of_airflow("provider_info.schema.json"))
    # Of connection-types, the schema of first-party providers says more.
    full = schema_of_airflow("provider.yaml.schema.json")
    jsonschema.validate(info["connection-types"], full["properties"]["connection-types"])
    assert info["package-name"] == "airflow-provider-datashard"
    assert info["versions"] == [__version__] == [distribution(info["package-name"]).version]


def test_airflow_finds_the_provider_and_its_hook() -> None:
    from airflow.providers_manager import ProvidersManager

    manager = ProvidersManager()
    assert manager.providers["airflow-provider-datashard"].version == __version__
    hook = manager.hooks["datashard"]
    assert hook is not None
    assert (hook.hook_name, hook.connection_id_attribute_name) == ("DataShard", "datashard_conn_id")
    assert hook.connection_testable


def test_the_metadata_is_that_of_a_provider() -> None:
    found = distribution("airflow-provider-datashard").metadata
    classifiers = found.get_all("Classifier")
    assert classifiers is not None
    assert {"Framework :: Apache Airflow", "Framework :: Apache Airflow :: Provider"} <= set(classifiers)
    assert found["Requires-Python"] == ">=3.11"
    assert found["License-Expression"] == "Apache-2.0"


@pytest.mark.parametrize("module", ["hooks.datashard", "operators.datashard"])
def test_importing_brings_in_nothing_heavy(module: str) -> None:
    """Beyond what Airflow itself brings, a Dag file stays quick to parse."""
    code = (
        "import json, sys\n"
        "from airflow.sdk import DAG, Asset, BaseHook, BaseOperator, get_current_context\n"
        "before = set(sys.modules)\n"
        f"import airflow_provider_datashard.{module}\n"
        "print(json.dumps(sorted({name.partition('.')[0] for name in set(sys.modules) - before})))\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    brought = set(json.loads(done.stdout.splitlines()[-1]))
    assert brought, "nothing was imported"
    assert not brought & set(HEAVY)


def test_the_readme_tells_of_every_field() -> None:
    table = README.partition("## The connection")[2].partition("## The operator")[0]
    assert [name for name in NAMES if f"`{name}`" not in table] == []
    assert all(field.description.endswith(".") for field in FIELDS)


def test_the_readme_shows_what_the_suites_run() -> None:
    assert len(BLOCKS) >= 4
    assert {"DataShardHook(", "DataShardAppendOperator("} <= set(re.findall(r"DataShard\w+\(", "".join(BLOCKS)))


@pytest.mark.parametrize("block", BLOCKS, ids=lambda block: str(re.findall(r"def (\w+)", block)[0]))
def test_examples_run(block: str, tmp_path: Path, add_connection: Any, run_dag: Any) -> None:
    folder = str(tmp_path / "warehouse")
    add_connection("warehouse", {"folder": folder})
    names: dict[str, Any] = {"__name__": "example"}
    exec(compile(block, "README.md", "exec"), names)
    (make,) = [one for one in names.values() if callable(one) and _is_dag_function(one)]
    dag: DAG = make()
    ran = run_dag(dag)
    assert ran.state == "success", ran.errors
    assert all(state == "success" for state in ran.states.values())
    warehouse = connect(folder)
    assert sum(warehouse.load_table(name).count() for name in warehouse.list_tables()) >= 1


def _is_dag_function(value: Any) -> bool:
    return hasattr(value, "__wrapped__") and getattr(value, "__module__", "") == "example"


def test_the_example_dag_runs(
    tmp_path: Path, add_connection: Any, run_dag: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two months, one of which loses its first try; the demonstration runs it with all services."""
    monkeypatch.syspath_prepend(str(ROOT / "example_dags"))
    path = ROOT / "example_dags/dags/flight_delays.py"
    names: dict[str, Any] = {"__name__": "example"}
    exec(compile(path.read_text(), str(path), "exec"), names)
    dag: DAG = names["flight_delays"]()
    add_connection("flights_warehouse", {"folder": str(tmp_path)})
    ran = run_dag(dag, {"first_month": 1, "last_month": 2, "fail_once_at": "2013-02"})
    assert ran.state == "success"
    assert (ran.tries["add_up", 0], ran.tries["add_up", 1]) == (1, 2)
    results = [ran.result("add_up", index) for index in range(2)]
    assert [result["already_appended"] for result in results] == [False, True]
    warehouse = connect(str(tmp_path))
    flights = warehouse.load_table("flight_delays").scan().to_arrow()
    assert flights.num_rows == sum(result["rows"] for result in results)
    assert sum(flights["flights"].to_pylist()) == 27004 + 24951
    log = warehouse.load_table("workflow_log").scan().to_records()
    assert sorted(row["state"] for row in log) == ["failed", "success", "success"]
