"""Foreign readers, each in a process that never imports our code: ``python readers.py NAME < request``.

The request is JSON with the table's URI and the S3 settings; the answer is the rows, pickled.
"""

from __future__ import annotations

import importlib.util
import json
import pickle
import sys
from typing import Any


def read_pyiceberg(uri: str, s3: dict[str, str] | None) -> list[dict[str, Any]]:
    """PyIceberg, by the table's folder."""
    from pyiceberg.table import StaticTable

    properties = {}
    if s3 is not None:
        properties = {
            "s3.endpoint": s3["endpoint"],
            "s3.access-key-id": s3["access_key"],
            "s3.secret-access-key": s3["secret_key"],
            "s3.region": "us-east-1",
        }
    rows: list[dict[str, Any]] = StaticTable.from_metadata(uri, properties=properties).scan().to_arrow().to_pylist()
    return rows


def read_duckdb(uri: str, s3: dict[str, str] | None) -> list[dict[str, Any]]:
    """DuckDB's iceberg extension, from its wheels."""
    import duckdb

    connection = duckdb.connect(config={"allow_unsigned_extensions": "true"})
    for name in ("avro", "httpfs", "iceberg"):
        connection.execute(f"LOAD '{_extension(name)}'")
    connection.execute("SET TimeZone = 'UTC'")
    if s3 is not None:
        connection.execute(
            "CREATE SECRET (TYPE s3, KEY_ID '{access_key}', SECRET '{secret_key}', ENDPOINT '{host}', "
            "URL_STYLE 'path', USE_SSL false, REGION 'us-east-1')".format(host=s3["endpoint"].partition("//")[2], **s3)
        )
    answer = connection.execute(f"SELECT * FROM iceberg_scan('{uri.removeprefix('file://')}')")
    names = [column[0] for column in answer.description]
    return [dict(zip(names, row, strict=True)) for row in answer.fetchall()]


def _extension(name: str) -> str:
    """The extension's file in its wheel."""
    from pathlib import Path

    spec = importlib.util.find_spec(f"duckdb_extension_{name}")
    assert spec is not None
    assert spec.submodule_search_locations is not None
    found = sorted(Path(spec.submodule_search_locations[0]).rglob(f"{name}.duckdb_extension"))
    return str(found[0])


READERS = {"pyiceberg": read_pyiceberg, "duckdb": read_duckdb}


if __name__ == "__main__":
    request = json.load(sys.stdin)
    rows = READERS[sys.argv[1]](request["uri"], request["s3"])
    assert not any(name.partition(".")[0] == "datashard_core" for name in sys.modules)
    sys.stdout.buffer.write(pickle.dumps(rows))
