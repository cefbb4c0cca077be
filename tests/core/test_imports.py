"""What is imported when: the package itself is light, and each extra is asked for where it is needed."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import pytest

HEAVY = ("boto3", "botocore", "pyarrow", "duckdb", "pandas", "polars", "fastavro", "numpy")

_REFUSE = """
import sys

class Refuse:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in {names!r}:
            raise ModuleNotFoundError(f"No module named {{name!r}}", name=name)
        return None

sys.meta_path.insert(0, Refuse())
"""


def _run(code: str, folder: Path) -> subprocess.CompletedProcess[str]:
    package = importlib.util.find_spec("datashard_core")
    assert package is not None
    assert package.origin is not None
    return subprocess.run(
        [sys.executable, "-c", code],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(Path(package.origin).parent.parent)},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def _loaded(code: str, folder: Path, names: tuple[str, ...] = HEAVY) -> list[str]:
    # An interpreter that has the package installed to be edited may begin with some of them.
    begin = "import sys; BEFORE = set(sys.modules)\n"
    report = f"\nimport sys\nprint('LOADED', *[name for name in {names!r} if name in set(sys.modules) - BEFORE])"
    done = _run(begin + code + report, folder)
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout.split("LOADED", 1)[1].split()


@pytest.mark.parametrize(
    "code",
    [
        "import datashard_core",
        "import datashard_core as ds; ds.Schema(fields=[{'id': 1, 'name': 'a', 'type': 'long'}])",
        "import datashard_core as ds; ds.S3Config('bucket', access_key='a', secret_key='s')",
        "import datashard_core as ds; ds.connect('warehouse')",
        "import datashard_core as ds; ds.connect('warehouse').list_tables()",
        "from datashard_core import *",
    ],
)
def test_what_needs_nothing_heavy_imports_nothing_heavy(code: str, tmp_path: Path) -> None:
    assert _loaded(code, tmp_path) == []


_ONE_APPEND = """
import datashard_core as ds
table = ds.create_table("warehouse/t", ds.Schema(fields=[{"id": 1, "name": "a", "type": "long"}]))
table.append([{"a": 1}])
assert ds.load_table("warehouse/t").append([{"a": 2}]).version == 2
"""


def test_an_append_brings_in_no_more_than_it_needs(tmp_path: Path) -> None:
    # Arrow's file systems alone take as long to import as all of our own modules.
    unneeded = ("pyarrow.fs", "pyarrow.parquet", "pyarrow.compute", "ssl", "inspect", "typing_extensions", "asyncio")
    unneeded += ("fastavro", "hashlib", "ctypes", "pyarrow")
    # Arrow looks at numpy and pandas where they are installed, and they at some of these.
    assert _loaded(_REFUSE.format(names={"numpy", "pandas"}) + _ONE_APPEND, tmp_path, unneeded) == []


_DEFERRED = """
import datashard_core as ds
table = ds.create_table("warehouse/t", ds.Schema(fields=[{"id": 1, "name": "a", "type": "long"}]))
for number in range(3):
    table.append([{"a": number}], commit="deferred", append_id=f"id {number}")
assert ds.load_table("warehouse/t").flush().count() == 3
"""


def test_plain_rows_are_staged_and_carried_without_arrow(tmp_path: Path) -> None:
    assert _loaded(_DEFERRED, tmp_path, ("pyarrow",)) == []


_ONE_READ = """
import datashard_core as ds
table = ds.load_table("warehouse/t").refresh()
found = table.scan(where=(ds.col("a") >= 1) & ds.col("a").isin([1, 2]) & ~ds.col("a").is_null())
assert found.to_arrow().num_rows == 2
assert found.count() == 2
"""


def test_a_read_brings_in_no_more_than_it_needs(tmp_path: Path) -> None:
    # Together they take as long to import as all that is needed.
    unneeded = ("pyarrow.fs", "pyarrow.parquet", "pyarrow.compute", "pyarrow.dataset", "ssl", "typing_extensions")
    refused = _REFUSE.format(names={"numpy", "pandas"})
    assert _loaded(refused + _ONE_APPEND, tmp_path, ()) == []
    assert _loaded(refused + _ONE_READ, tmp_path, unneeded) == []


_ONE_SCAN = """
import sys
import datashard_core as ds
from datashard_core.storage.local import LocalStorage
from datashard_core.table.plan import Planner
table = ds.load_table("warehouse/t")
get, fetch_first, asked, begun = LocalStorage.get, Planner.fetch_first, [], []
def recorded(storage, key, byte_range=None):
    asked.append(key)
    return get(storage, key, byte_range)
def fetching(*arguments):
    begun.append("pyarrow" in sys.modules)
    return fetch_first(*arguments)
LocalStorage.get, Planner.fetch_first = recorded, fetching
assert sorted(row["a"] for row in table.scan().to_records()) == [1, 2]
manifests = [key for key in asked if key.endswith(".avro")]
assert len(manifests) == len(set(manifests)) == 2, asked
assert begun == [False], "they were not asked for before Arrow was imported, and once"
"""


def test_manifests_are_fetched_while_arrow_is_imported_and_only_then(tmp_path: Path) -> None:
    assert _loaded(_ONE_APPEND, tmp_path, ("pyarrow",)) == []
    assert _loaded(_ONE_SCAN, tmp_path, ("pyarrow",)) == ["pyarrow"]
    manifest = next((tmp_path / "warehouse/t/metadata/manifests").glob("manifest_[!l]*.avro"))
    manifest.unlink()
    done = _run(_ONE_SCAN, tmp_path)
    assert done.returncode == 1
    assert f"CorruptTableError: table t: file://{manifest} is missing" in done.stderr


def test_what_msgspec_was_not_given_can_be_imported_later(tmp_path: Path) -> None:
    code = "import datashard_core as ds; ds.Schema; import typing_extensions, msgspec; typing_extensions.TypedDict"
    assert _loaded(code, tmp_path, ("typing_extensions", "msgspec")) == ["typing_extensions", "msgspec"]


_WHOLE_JOB = """
import datashard_core as ds
import pyarrow.compute as pc
table = ds.create_table("warehouse/t", ds.Schema(fields=[{"id": 1, "name": "a", "type": "long"}]))
table.append([{"a": 1}])
assert ds.load_table("warehouse/t").scan(where=pc.field("a") == 1).to_records() == [{"a": 1}]
assert table.count() == 1
"""


def test_a_local_table_needs_no_extra(tmp_path: Path) -> None:
    # Arrow itself looks at pandas where that is installed.
    extras = ("boto3", "botocore", "duckdb", "polars")
    assert _loaded(_WHOLE_JOB, tmp_path, extras) == []


def test_a_local_table_works_where_no_extra_is_installed(tmp_path: Path) -> None:
    names = {"boto3", "botocore", "duckdb", "pandas", "polars", "rich", "typer", "numpy"}
    done = _run(_REFUSE.format(names=names) + _WHOLE_JOB, tmp_path)
    assert done.returncode == 0, done.stderr[-3000:]


@pytest.mark.parametrize(
    ("names", "code", "extra"),
    [
        (
            {"boto3", "botocore", "obstore"},
            "ds.connect(config=ds.S3Config('bucket', access_key='a', secret_key='s')).list_tables()",
            "s3",
        ),
        ({"boto3"}, "ds.connect(config=ds.S3Config('bucket', use_default_chain=True)).list_tables()", "s3"),
        ({"duckdb"}, "table.scan(where='a = 1')", "sql"),
        ({"duckdb"}, "table.sql('select * from t')", "sql"),
        ({"pandas"}, "table.scan().to_pandas()", "pandas"),
        ({"polars"}, "table.scan().to_polars()", "polars"),
        ({"pyiceberg"}, "import datashard_core.pyiceberg", "pyiceberg"),
    ],
)
def test_an_extra_that_is_missing_is_named(names: set[str], code: str, extra: str, tmp_path: Path) -> None:
    done = _run(_REFUSE.format(names=names) + _WHOLE_JOB + code, tmp_path)
    assert done.returncode == 1
    last = done.stderr.strip().splitlines()[-1]
    assert last.startswith("datashard_core.errors.ConfigurationError"), done.stderr[-3000:]
    assert f"pip install 'datashard-core[{extra}]'" in last


def test_every_public_name_is_there() -> None:
    import datashard_core

    for name in datashard_core.__all__:
        assert getattr(datashard_core, name) is not None
    assert set(datashard_core.__all__) <= set(dir(datashard_core))
    with pytest.raises(AttributeError, match="no_such_name"):
        datashard_core.no_such_name  # noqa: B018
