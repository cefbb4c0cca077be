"""The examples of the READMEs and the example flow are run as they stand, so that they stay true."""

from __future__ import annotations

import importlib.util
import re
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any, cast

import pytest
from prefect import Flow

import prefect_datashard
from datashard_core import Warehouse, connect
from prefect_datashard import DataShardBlock

ROOT = Path(__file__).resolve().parent.parent.parent
PAGES = (ROOT / "providers/prefect/README.md", ROOT / "README.md")
BLOCKS = [
    block
    for page in PAGES
    for block in re.findall(r"```python\n(.*?)```", page.read_text(), re.DOTALL)
    if "prefect" in block
]
FLOWS = [block for block in BLOCKS if "@flow" in block]
SAVED = "warehouse"  # as the READMEs call it
LoadModule = Callable[[Path], ModuleType]


@pytest.fixture
def load_module() -> Iterator[LoadModule]:
    """Imports a file that is on no path, as Prefect imports a flow's file."""
    loaded: list[str] = []

    def load(path: Path) -> ModuleType:
        spec = importlib.util.spec_from_file_location(path.stem, path)
        assert spec is not None and spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        sys.modules[path.stem] = module
        loaded.append(path.stem)
        spec.loader.exec_module(module)
        return module

    yield load
    for name in loaded:
        del sys.modules[name]


@pytest.fixture
def warehouse(tmp_path: Path) -> Warehouse:
    """A folder, and the saved block of the READMEs, which leads there."""
    folder = tmp_path / "tables"
    DataShardBlock(folder=str(folder)).save(SAVED, overwrite=True)
    return connect(folder)


def test_the_readme_tells_of_every_field_and_task() -> None:
    readme = PAGES[0].read_text()
    table = readme.partition("## The block")[2].partition("## In flows")[0]
    assert [name for name in DataShardBlock.model_fields if f"`{name}`" not in table] == []
    tasks = [name for name in prefect_datashard.__all__ if name.startswith("datashard_")]
    assert len(tasks) == 5
    assert [name for name in tasks if f"`{name}`" not in readme] == []


def test_the_readmes_show_how_to_save_a_block_and_how_to_use_it() -> None:
    assert len(FLOWS) == 3
    assert len(BLOCKS) - len(FLOWS) == 1


def test_the_block_is_saved_as_the_readme_says(tmp_path: Path, load_module: LoadModule) -> None:
    (saving,) = [block for block in BLOCKS if block not in FLOWS]
    file = tmp_path / "saving.py"
    file.write_text(saving.replace('.save("warehouse")', '.save("warehouse-of-the-readme")'))
    load_module(file)
    saved = cast(DataShardBlock, DataShardBlock.load("warehouse-of-the-readme"))
    assert (saved.bucket, saved.prefix) == ("my-bucket", "warehouse")
    assert saved.secret_key is not None and saved.secret_key.get_secret_value() == "..."


@pytest.mark.parametrize("number", range(len(FLOWS)))
def test_flows_of_the_readmes_run(number: int, warehouse: Warehouse, tmp_path: Path, load_module: LoadModule) -> None:
    block = DataShardBlock.load(SAVED)
    events = cast(DataShardBlock, block).create_table(
        "shop.events", [{"name": "user_id", "type": "long"}, {"name": "event", "type": "string"}]
    )
    file = tmp_path / f"readme_flow_{number}.py"
    file.write_text(FLOWS[number])
    (etl,) = [value for value in vars(load_module(file)).values() if isinstance(value, Flow)]
    etl()
    rows = events.refresh().scan().to_records()
    assert len(rows) == FLOWS[number].count('"event": "login"') >= 1
    assert all(row["event"] == "login" for row in rows)


def test_the_example_flow_runs(warehouse: Warehouse, load_module: LoadModule, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two months, one of which loses its first try; the demonstration runs it with a server of its own."""
    monkeypatch.syspath_prepend(str(ROOT / "example_dags"))
    example = load_module(ROOT / "example_dags/flows/flight_delays.py")
    monkeypatch.setattr(example.add_up, "retry_delay_seconds", 0)
    results: list[dict[str, Any]] = example.flight_delays(SAVED, first_month=7, last_month=8, fail_once_at="2013-08")
    assert [result["already_appended"] for result in results] == [False, True]
    flights = warehouse.load_table("flight_delays").scan().to_arrow()
    assert flights.num_rows == sum(result["rows"] for result in results)
    assert sum(flights["flights"].to_pylist()) == 29425 + 29327
    log = warehouse.load_table("workflow_log").scan().to_records()
    assert sorted(row["state"] for row in log) == ["failed", "success", "success"]
    (failed,) = [row for row in log if row["state"] == "failed"]
    assert (failed["orchestrator"], failed["task_id"], failed["try_number"]) == ("prefect", "add_up", 1)
    assert "2013-08: lost after the append, on purpose" in failed["error"]
