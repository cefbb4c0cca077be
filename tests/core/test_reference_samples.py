"""The samples of the S3 reference document, with only the import and the addresses changed."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import textwrap
import threading
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from datashard_testkit.s3_server import S3Server

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
table.append_records([
    {"task_id": "t2", "status": "success"}
], schema)
"""

SCHEMA = WORKER_1[: WORKER_1.index("table = ")]
"""The reference's second worker uses the first one's schema without stating it again."""

ANALYSIS = """
from datashard_core import load_table
# Query from different region
table = load_table("task-results")
# Get current snapshot
snapshot = table.current_snapshot()
print(f"Snapshot ID: {snapshot.snapshot_id}")
"""


VARIABLES = """
# Enable S3 storage
export DATASHARD_STORAGE_TYPE=s3
# S3 endpoint (use AWS S3 or custom endpoint for MinIO)
export DATASHARD_S3_ENDPOINT=https://s3.amazonaws.com
# S3 credentials
export DATASHARD_S3_ACCESS_KEY=your-access-key-id
export DATASHARD_S3_SECRET_KEY=your-secret-access-key
# S3 bucket and region
export DATASHARD_S3_BUCKET=my-datashard-bucket
export DATASHARD_S3_REGION=us-east-1
# Optional: Prefix within bucket
export DATASHARD_S3_PREFIX=optional/prefix/
"""

MINIO = """
export DATASHARD_STORAGE_TYPE=s3
export DATASHARD_S3_ENDPOINT=http://localhost:9000
export DATASHARD_S3_ACCESS_KEY=minioadmin
export DATASHARD_S3_SECRET_KEY=minioadmin
export DATASHARD_S3_BUCKET=datashard
export DATASHARD_S3_REGION=us-east-1
"""

IAM_ROLE = """
# No credentials needed - IAM role provides them
export DATASHARD_STORAGE_TYPE=s3
export DATASHARD_S3_BUCKET=my-bucket
export DATASHARD_S3_REGION=us-east-1
"""


def exported(sample: str) -> dict[str, str]:
    """The variables that a sample sets."""
    lines = [line.removeprefix("export ") for line in sample.splitlines() if line.startswith("export ")]
    return dict(line.split("=", 1) for line in lines)


@pytest.fixture(scope="module")
def minio() -> Iterator[S3Server]:
    """A server with the keys and the bucket of the reference's MinIO."""
    with S3Server(bucket="datashard", access_key="minioadmin", secret_key="minioadmin") as server:
        yield server.use_bucket("my-bucket")


@pytest.fixture(scope="module")
def role(minio: S3Server) -> Iterator[str]:
    """Where a container asks for the keys of its role."""

    class Keys(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            expires = datetime.now(UTC) + timedelta(hours=1)
            keys = {
                "AccessKeyId": minio.access_key,
                "SecretAccessKey": minio.secret_key,
                "Token": "of the role",
                "Expiration": expires.strftime("%Y-%m-%dT%H:%M:%SZ"),
            }
            self.send_response(200)
            self.end_headers()
            self.wfile.write(json.dumps(keys).encode())

        def log_message(self, *_: object) -> None:
            """Nobody reads it."""

    with ThreadingHTTPServer(("127.0.0.1", 0), Keys) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}/role"
        server.shutdown()


@pytest.fixture(params=["nothing", "variables", "MinIO", "IAM role"])
def variables(request: pytest.FixtureRequest) -> dict[str, str]:
    """The environment of a script: each of the reference's ways to configure it, or none at all."""
    clean = {key: value for key, value in os.environ.items() if not key.startswith(("AWS_", "DATASHARD_"))}
    if request.param == "nothing":
        return clean
    if request.param == "variables":
        server: S3Server = request.getfixturevalue("s3_server")
        ours = {
            "DATASHARD_S3_ENDPOINT": server.endpoint,
            "DATASHARD_S3_ACCESS_KEY": server.access_key,
            "DATASHARD_S3_SECRET_KEY": server.secret_key,
            "DATASHARD_S3_BUCKET": server.bucket,
            "DATASHARD_S3_PREFIX": f"optional/prefix-{os.urandom(4).hex()}/",
        }
        return {**clean, **exported(VARIABLES), **ours}
    endpoint = request.getfixturevalue("minio").endpoint
    if request.param == "MinIO":
        return {**clean, **exported(MINIO), "DATASHARD_S3_ENDPOINT": endpoint}
    keys = {"AWS_CONTAINER_CREDENTIALS_FULL_URI": request.getfixturevalue("role"), "AWS_ENDPOINT_URL_S3": endpoint}
    return {**clean, **exported(IAM_ROLE), **keys}


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
        place = f"{variables['DATASHARD_S3_BUCKET']}/{variables.get('DATASHARD_S3_PREFIX', '')}"
        assert uri == f"s3://{place}user-events"
        assert list(tmp_path.iterdir()) == []
    else:
        assert uri == f"file://{tmp_path}/datashard-warehouse/user-events"


@pytest.mark.parametrize("variables", ["nothing", "variables"], indirect=True)
def test_the_distributed_workflow_runs_as_three_processes(variables: dict[str, str], tmp_path: Path) -> None:
    output(script(WORKER_1, variables, tmp_path))
    second, third = (script(SCHEMA + WORKER_2, variables, tmp_path) for _ in range(2))
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
