"""The code of the S3 reference document, with only the import changed."""

from __future__ import annotations

import os
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

from datashard_core.testing.s3_server import S3Server

BASIC = """
from datashard_core import create_table, Schema
# Configure S3 via environment variables
# Then use DataShard normally - API is identical!
schema = Schema(
    schema_id=1,
    fields=[
        {"id": 1, "name": "user_id", "type": "long", "required": True},
        {"id": 2, "name": "event", "type": "string", "required": True},
        {"id": 3, "name": "timestamp", "type": "long", "required": True}
    ]
)
# Creates table in S3 bucket
table = create_table("user-events", schema)
# Append records (stored in S3)
table.append_records([
    {"user_id": 1, "event": "login", "timestamp": 1700000000},
    {"user_id": 2, "event": "purchase", "timestamp": 1700000100}
], schema)
"""

WORKER_1 = """
from datashard_core import create_table, Schema
schema = Schema(schema_id=1, fields=[
    {"id": 1, "name": "task_id", "type": "string", "required": True},
    {"id": 2, "name": "status", "type": "string", "required": True},
])
table = create_table("task-results", schema)
table.append_records([
    {"task_id": "t1", "status": "success"}
], schema)
"""

WORKER_2 = """
from datashard_core import load_table
# Loads from S3, sees Worker 1's table
table = load_table("task-results")
# Concurrent append with ACID guarantees
schema = table.schema
table.append_records([
    {"task_id": "t2", "status": "success"}
], schema)
"""

ANALYSIS = """
from datashard_core import load_table
# Query from different region
table = load_table("task-results")
# Get current snapshot
snapshot = table.current_snapshot()
print(f"Snapshot ID: {snapshot.snapshot_id}")
"""


@pytest.fixture(params=["local", "s3"])
def variables(request: pytest.FixtureRequest, tmp_path: Path) -> dict[str, str]:
    """The environment of a script: the reference's variables, or none at all."""
    clean = {key: value for key, value in os.environ.items() if not key.startswith(("AWS_", "DATASHARD_"))}
    if request.param == "local":
        return clean
    server: S3Server = request.getfixturevalue("s3_server")
    return {
        **clean,
        "DATASHARD_STORAGE_TYPE": "s3",
        "DATASHARD_S3_ENDPOINT": server.endpoint,
        "DATASHARD_S3_ACCESS_KEY": server.access_key,
        "DATASHARD_S3_SECRET_KEY": server.secret_key,
        "DATASHARD_S3_BUCKET": server.bucket,
        "DATASHARD_S3_REGION": "us-east-1",
        "DATASHARD_S3_PREFIX": f"optional/prefix-{os.urandom(4).hex()}/",
    }


def script(code: str, variables: dict[str, str], folder: Path) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(code)],
        env=variables,
        cwd=folder,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def output(process: subprocess.Popen[str]) -> str:
    out, err = process.communicate(timeout=60)
    assert process.returncode == 0, err
    return out


def test_the_basic_sample(variables: dict[str, str], tmp_path: Path) -> None:
    output(script(BASIC, variables, tmp_path))
    seen = output(
        script(
            "from datashard_core import load_table\n"
            "t = load_table('user-events'); print(t.uri); print(t.scan().to_records())",
            variables,
            tmp_path,
        )
    )
    uri, rows = seen.strip().splitlines()
    assert rows == (
        "[{'user_id': 1, 'event': 'login', 'timestamp': 1700000000}, "
        "{'user_id': 2, 'event': 'purchase', 'timestamp': 1700000100}]"
    )
    if "DATASHARD_S3_BUCKET" in variables:
        assert uri.startswith(f"s3://datashard/{variables['DATASHARD_S3_PREFIX']}user-events")
        assert list(tmp_path.iterdir()) == []
    else:
        assert uri == f"file://{tmp_path}/datashard-warehouse/user-events"


def test_the_distributed_workflow_runs_as_three_processes(variables: dict[str, str], tmp_path: Path) -> None:
    output(script(WORKER_1, variables, tmp_path))
    second, third = script(WORKER_2, variables, tmp_path), script(WORKER_2, variables, tmp_path)
    output(second)
    output(third)
    assert output(script(ANALYSIS, variables, tmp_path)).startswith("Snapshot ID: ")
    counted = output(
        script(
            "from datashard_core import load_table\nprint(load_table('task-results').count())",
            variables,
            tmp_path,
        )
    )
    assert counted.strip() == "3"


def test_a_uri_is_a_bucket_whatever_the_environment_says(s3_server: S3Server, tmp_path: Path) -> None:
    """Never a folder called ``s3:``."""
    code = f"""
    from datashard_core import create_table, load_table, Schema
    schema = Schema(fields=[{{"id": 1, "name": "n", "type": "long"}}])
    uri = "s3://{s3_server.bucket}/elsewhere/{os.urandom(4).hex()}/t"
    create_table(uri, schema).append([{{"n": 1}}])
    print(load_table(uri).uri == uri, load_table(uri).count())
    """
    clean = {key: value for key, value in os.environ.items() if not key.startswith(("AWS_", "DATASHARD_"))}
    keys = {
        "DATASHARD_STORAGE_TYPE": "local",
        "DATASHARD_S3_ENDPOINT": s3_server.endpoint,
        "DATASHARD_S3_ACCESS_KEY": s3_server.access_key,
        "DATASHARD_S3_SECRET_KEY": s3_server.secret_key,
    }
    assert output(script(code, {**clean, **keys}, tmp_path)).split() == ["True", "1"]
    assert list(tmp_path.iterdir()) == []
