"""The three distributions: what is in them, and that they work where the checkout is not."""

from __future__ import annotations

import os
import subprocess
import sys
import tarfile
import zipfile
from dataclasses import dataclass
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent.parent
UV = ROOT / ".envs" / "tools" / "bin" / "uv"


@dataclass(frozen=True)
class Distribution:
    name: str
    folder: str
    package: str
    constraints: str
    files: tuple[str, ...] = ("README.md", "LICENSE", "PKG-INFO", "pyproject.toml", ".gitignore")

    @property
    def stem(self) -> str:
        return self.name.replace("-", "_")


CORE = Distribution("datashard-core", ".", "datashard_core", "core")
AIRFLOW = Distribution("airflow-provider-datashard", "providers/airflow", "airflow_provider_datashard", "airflow")
PREFECT = Distribution("prefect-datashard", "providers/prefect", "prefect_datashard", "prefect")
ALL = (CORE, AIRFLOW, PREFECT)


def tried(*command: str | Path, cwd: Path) -> subprocess.CompletedProcess[str]:
    """Run a command with nothing of the checkout in its environment."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("PYTHON", "VIRTUAL_ENV"))}
    return subprocess.run(
        [str(part) for part in command],
        cwd=cwd,
        env={**kept, "AIRFLOW_HOME": str(cwd / "airflow-home"), "PREFECT_HOME": str(cwd / "prefect-home")},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
    )


def run(*command: str | Path, cwd: Path) -> str:
    """Run a command that has to succeed, with nothing of the checkout in its environment; return what it printed."""
    done = tried(*command, cwd=cwd)
    assert done.returncode == 0, f"{command}\n{done.stdout}{done.stderr}"
    return done.stdout


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("dist")
    for distribution in ALL:
        command = (
            sys.executable,
            "-P",
            "-m",
            "hatchling",
            "build",
            "-t",
            "wheel",
            "-t",
            "sdist",
            "-d",
            folder,
        )
        run(*command, cwd=ROOT / distribution.folder)
    return folder


def only(folder: Path, pattern: str) -> Path:
    (found,) = folder.glob(pattern)
    return found


def sources(package: Path) -> set[str]:
    return {
        str(file.relative_to(package.parent))
        for file in package.rglob("*")
        if file.is_file() and "__pycache__" not in file.parts
    }


@pytest.mark.parametrize("distribution", ALL, ids=lambda each: each.name)
def test_wheel_holds_its_own_package_and_all_of_it(built: Path, distribution: Distribution) -> None:
    with zipfile.ZipFile(only(built, f"{distribution.stem}-*.whl")) as wheel:
        names = {name for name in wheel.namelist() if ".dist-info/" not in name}
        (license_file,) = [name for name in wheel.namelist() if name.endswith("licenses/LICENSE")]
        assert b"Apache License" in wheel.read(license_file)
    assert names == sources(ROOT / distribution.folder / distribution.package)
    assert f"{distribution.package}/py.typed" in names


@pytest.mark.parametrize("distribution", ALL, ids=lambda each: each.name)
def test_sdist_holds_its_own_package_and_builds_the_same_wheel(
    built: Path, distribution: Distribution, tmp_path: Path
) -> None:
    with tarfile.open(only(built, f"{distribution.stem}-*.tar.gz")) as sdist:
        sdist.extractall(tmp_path, filter="data")
    (unpacked,) = tmp_path.iterdir()
    extra = {"CHANGELOG.md"} if distribution is CORE else set()
    assert {path.name for path in unpacked.iterdir()} == {distribution.package, *distribution.files, *extra}
    again = tmp_path / "again"
    run(sys.executable, "-P", "-m", "hatchling", "build", "-t", "wheel", "-d", again, cwd=unpacked)
    with (
        zipfile.ZipFile(only(again, "*.whl")) as rebuilt,
        zipfile.ZipFile(only(built, f"{distribution.stem}-*.whl")) as wheel,
    ):
        assert sorted(rebuilt.namelist()) == sorted(wheel.namelist())


def installed(folder: Path, constraints: str, *wheels: str) -> Path:
    """The Python of a fresh environment outside the checkout, with wheels and what they ask for."""
    python = folder / "environment" / "bin" / "python"
    limits = ROOT / "constraints" / f"{constraints}.txt"
    if UV.exists():
        run(UV, "venv", "--quiet", "--python", sys.executable, python.parent.parent, cwd=folder)
        done = tried(UV, "pip", "install", "--quiet", "--python", python, "-c", limits, *wheels, cwd=folder)
        if "Failed to fetch" not in done.stderr:
            assert done.returncode == 0, f"{wheels}\n{done.stderr}"
            return python
    # As where the environments are made: an index whose certificate only pip trusts is out of uv's reach.
    run(sys.executable, "-m", "venv", "--clear", python.parent.parent, cwd=folder)
    run(python, "-m", "pip", "install", "--quiet", "-c", limits, *wheels, cwd=folder)
    return python


LOCAL_TABLE = """
import sys, datashard_core as ds
table = ds.connect("warehouse").create_table("t", ds.Schema(fields=[{"id": 1, "name": "n", "type": "long"}]))
table.append([{"n": 41}])
assert table.count() == 1
assert "boto3" not in sys.modules and "duckdb" not in sys.modules
try:
    config = ds.S3Config(bucket="bucket", access_key="a", secret_key="b")
    ds.connect("s3://bucket/prefix", config).list_tables()
except ds.DataShardError as error:
    print(error)
try:
    table.sql("select 1")
except ds.DataShardError as error:
    print(error)
print(ds.__file__)
"""


def test_core_alone_keeps_local_tables_and_names_the_extras(built: Path, tmp_path: Path) -> None:
    python = installed(tmp_path, "core", str(only(built, "datashard_core-*.whl")))
    printed = run(python, "-I", "-c", LOCAL_TABLE, cwd=tmp_path)
    assert "pip install 'datashard-core[s3]'" in printed
    assert "pip install 'datashard-core[sql]'" in printed
    assert printed.splitlines()[-1].startswith(str(tmp_path))


@pytest.mark.parametrize(
    ("distribution", "entry_point", "check"),
    [
        (
            AIRFLOW,
            "apache_airflow_provider",
            "assert loaded()['package-name'] == 'airflow-provider-datashard'",
        ),
        (PREFECT, "prefect.collections", "assert loaded.DataShardBlock.__name__ == 'DataShardBlock'"),
    ],
    ids=["airflow", "prefect"],
)
def test_provider_is_found_by_its_host(
    built: Path, tmp_path: Path, distribution: Distribution, entry_point: str, check: str
) -> None:
    core = only(built, "datashard_core-*.whl")
    python = installed(
        tmp_path, distribution.constraints, f"{core}[s3]", str(only(built, f"{distribution.stem}-*.whl"))
    )
    code = f"""
from importlib.metadata import entry_points
(point,) = [each for each in entry_points(group={entry_point!r}) if each.dist.name == {distribution.name!r}]
loaded = point.load()
{check}
import {distribution.package} as package
print(package.__file__)
"""
    printed = run(python, "-I", "-c", code, cwd=tmp_path)
    assert printed.splitlines()[-1].startswith(str(tmp_path))
