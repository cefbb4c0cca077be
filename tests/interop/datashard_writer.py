"""The package ``datashard``, in an environment of its own: ``python datashard_writer.py < request``.

The request is JSON: the table's path, and what to do. The answer is the rows as the package reads them, pickled.
"""

from __future__ import annotations

import datetime as dt
import json
import os
import pickle
import sys
from typing import Any

import datashard

FIELDS = [
    {"id": 1, "name": "k", "type": "long", "required": True},
    {"id": 2, "name": "text", "type": "string", "required": False},
    {"id": 3, "name": "real", "type": "double", "required": False},
    {"id": 4, "name": "flag", "type": "boolean", "required": False},
    {"id": 5, "name": "at", "type": "timestamp", "required": False},
    {"id": 6, "name": "day", "type": "date", "required": False},
    {"id": 7, "name": "small", "type": "int", "required": False},
    {"id": 8, "name": "single", "type": "float", "required": False},
    {"id": 9, "name": "raw", "type": "binary", "required": False},
]
SCHEMA = datashard.Schema(schema_id=1, fields=FIELDS)


def row(k: int) -> dict[str, Any]:
    """A row with a value in each column, or with nulls alone for an odd key."""
    if k % 2:
        return {**dict.fromkeys(field["name"] for field in FIELDS), "k": k}
    return {
        "k": k,
        "text": f"text {k} ä",
        "real": k / 8,
        "flag": k % 4 == 0,
        "at": dt.datetime(2026, 1, 1, 5, 0, 0, 1) + dt.timedelta(days=k),
        "day": dt.date(2026, 1, 1) + dt.timedelta(days=k),
        "small": -k,
        "single": k / 4,
        "raw": bytes([k, 255]),
    }


def main() -> None:
    """Carry out the request."""
    request = json.load(sys.stdin)
    if request["create"]:
        table = datashard.create_table(request["path"], SCHEMA)
    else:
        table = datashard.load_table(request["path"])
    for keys in request["appends"]:
        table.append_records([row(k) for k in keys], SCHEMA)
    if request.get("compact"):
        table.compact_manifests()
    sys.stdout.buffer.write(pickle.dumps(sorted(table.scan(), key=lambda one: one["k"])))
    sys.stdout.flush()
    os._exit(0)  # the threads of its Arrow abort the interpreter's end now and then


if __name__ == "__main__":
    main()
