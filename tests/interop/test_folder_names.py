"""A local folder either has a name that other engines read tables from, or no table is created in it."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

import datashard_core as ds

SCHEMA = ds.Schema(fields=[{"id": 1, "name": "n", "type": "long"}])
FOLDER = Path(__file__).parent
READ = [
    "a b",
    "größe",
    "日本",
    "a%b",
    "a%20b",
    "a%2Fb",
    "a%23b",
    "a+b",
    "a&b=c",
    "a'b",
    "a[b]",
    "a{b}",
    "a*b",
    "a,b;c:d@e",
]
REFUSED = ["a#b", "a?b", 'a"b', "a\\b", "a\nb", "a\x7fb", "#", "?x=1", "a\udcffb"]


def _rows(reader: str, uris: list[str]) -> list[list[int]]:
    """What a reader finds in each of some tables, in one process that does not import ours."""
    program = (
        "import json, sys\n"
        "sys.path.insert(0, sys.argv[1])\n"
        "import readers\n"
        "read = readers.READERS[sys.argv[2]]\n"
        "print(json.dumps([sorted(row['n'] for row in read(uri, None)) for uri in json.load(sys.stdin)]))\n"
    )
    done = subprocess.run(
        [sys.executable, "-P", "-c", program, str(FOLDER), reader],
        input=json.dumps(uris).encode(),
        capture_output=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr.decode()[-2000:]
    rows: list[list[int]] = json.loads(done.stdout.splitlines()[-1])
    return rows


def test_others_read_what_is_in_the_folder(tmp_path: Path) -> None:
    tables = [ds.connect(tmp_path / name).create_table("t", SCHEMA) for name in READ]
    for table in tables:
        table.append([{"n": 1}])
        table.append([{"n": 2}])
    wanted = [[1, 2]] * len(READ)
    assert _rows("pyiceberg", [table.metadata_location for table in tables]) == wanted
    assert _rows("pyiceberg", [table.uri for table in tables]) == wanted
    assert _rows("duckdb", [table.uri.replace("'", "''") for table in tables]) == wanted
    assert [ds.load_table(f"{tmp_path / name}/t").count() for name in READ] == [2] * len(READ)


@pytest.mark.parametrize("name", REFUSED)
def test_no_table_is_created_where_others_do_not_find_it(tmp_path: Path, name: str) -> None:
    lake = ds.connect(tmp_path / name)
    with pytest.raises(ds.ConfigurationError, match="no table can be created in"):
        lake.create_table("ns.t", SCHEMA)
    assert not (tmp_path / name).exists()


def test_a_table_that_is_there_already_is_opened(tmp_path: Path) -> None:
    ds.connect(tmp_path / "plain").create_table("t", SCHEMA).append([{"n": 1}])
    (tmp_path / "plain").rename(tmp_path / "a#b?c")
    lake = ds.connect(tmp_path / "a#b?c")
    table = lake.load_table("t")
    table.append([{"n": 2}])
    table.maintain()
    assert table.count() == 2
    assert lake.create_table("t", SCHEMA, if_exists="open").count() == 2
