"""A real Prefect server for the whole run, an S3 server, and warehouses to append to."""

from __future__ import annotations

import atexit
import logging
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

# Prefect reads its settings when it is imported.
_HOME = tempfile.mkdtemp(prefix="prefect-home-")
atexit.register(shutil.rmtree, _HOME, ignore_errors=True)
for _name in [name for name in os.environ if name.startswith(("PREFECT_", "AWS_", "DATASHARD_S", "DATASHARD_L"))]:
    del os.environ[_name]
os.environ.update(
    PREFECT_HOME=_HOME,
    PREFECT_TEST_MODE="1",
    PREFECT_LOGGING_LEVEL="INFO",
    PREFECT_INTERNAL_LOGGING_LEVEL="ERROR",
    PREFECT_LOGGING_TO_API_ENABLED="false",
    PREFECT_SERVER_ANALYTICS_ENABLED="false",
    PREFECT_UI_ENABLED="false",
    DO_NOT_TRACK="1",
    AWS_EC2_METADATA_DISABLED="true",
)

from datashard_testkit.s3_server import S3Server  # noqa: E402
from prefect.settings import PREFECT_API_URL  # noqa: E402
from prefect.testing.utilities import prefect_test_harness  # noqa: E402

from prefect_datashard import DataShardBlock  # noqa: E402

WRONG = {
    "DATASHARD_STORAGE_TYPE": "s3",
    "DATASHARD_S3_ENDPOINT": "http://127.0.0.1:1",
    "DATASHARD_S3_BUCKET": "wrong-bucket",
    "DATASHARD_S3_ACCESS_KEY": "wrong-key",
    "DATASHARD_S3_SECRET_KEY": "wrong-secret",
    "DATASHARD_S3_REGION": "xx-wrong-1",
    "AWS_ACCESS_KEY_ID": "wrong-key",
    "AWS_SECRET_ACCESS_KEY": "wrong-secret",
    "AWS_SESSION_TOKEN": "wrong-token",
    "AWS_DEFAULT_REGION": "xx-wrong-1",
    "AWS_REGION": "xx-wrong-1",
    "AWS_PROFILE": "no-such-profile",
    "AWS_ENDPOINT_URL": "http://127.0.0.1:1",
    "AWS_ENDPOINT_URL_S3": "http://127.0.0.1:1",
    "AWS_CA_BUNDLE": "/no/such/bundle.pem",
}
"""Variables that would lead elsewhere, if anybody looked at them."""


@pytest.fixture(scope="session", autouse=True)
def prefect_server() -> Iterator[None]:
    """Flows run against a server of their own. Its start takes up to a minute on a busy machine."""
    with prefect_test_harness(server_startup_timeout=180):
        yield


@pytest.fixture(scope="session")
def s3_server() -> Iterator[S3Server]:
    """A real S3 protocol over HTTP, in a process of its own, that refuses other access keys."""
    with S3Server() as server:
        yield server


@pytest.fixture
def s3_fields(s3_server: S3Server) -> dict[str, Any]:
    """Fields of a block for a folder of the bucket that no other test uses."""
    return {
        "bucket": s3_server.bucket,
        "prefix": f"prefect-{os.urandom(6).hex()}",
        "endpoint": s3_server.endpoint,
        "region": "us-east-1",
        "access_key": s3_server.access_key,
        "secret_key": s3_server.secret_key,
    }


@pytest.fixture
def wrong() -> dict[str, str]:
    """The variables that would lead elsewhere."""
    return WRONG


@pytest.fixture
def wrong_variables(monkeypatch: pytest.MonkeyPatch) -> None:
    """An environment in which nothing is right."""
    for name, value in WRONG.items():
        monkeypatch.setenv(name, value)


@pytest.fixture
def block(tmp_path: Path) -> DataShardBlock:
    """A block for a local warehouse with an empty table ``events`` of one column, ``n``."""
    made = DataShardBlock(folder=str(tmp_path / "warehouse"))
    made.create_table("events", [{"id": 1, "name": "n", "type": "long"}])
    return made


@pytest.fixture
def run_log() -> Iterator[list[str]]:
    """The warnings that runs log."""
    messages: list[str] = []

    class Keep(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            messages.append(record.getMessage())

    handler = Keep(level=logging.WARNING)
    logger = logging.getLogger("prefect")
    logger.addHandler(handler)
    yield messages
    logger.removeHandler(handler)


@pytest.fixture
def in_another_process() -> Callable[..., str]:
    """Runs Python code in a fresh process that uses the same server; returns what it prints."""

    def run(code: str, *arguments: str, environment: dict[str, str] | None = None) -> str:
        done = subprocess.run(
            [sys.executable, "-P", "-c", code, *arguments],
            env={**os.environ, "PREFECT_API_URL": PREFECT_API_URL.value() or "", **(environment or {})},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        return done.stdout

    return run
