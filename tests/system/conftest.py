"""S3 servers that real people run, built from their sources at pinned versions.

A binary is taken from the variable of its store where one is set; else it is built once by ``go install``,
below ``.envs``, which takes some minutes and needs Go.
"""

from __future__ import annotations

import base64
import os
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.error import HTTPError, URLError
from urllib.request import urlopen

import pytest

from datashard_core.config import S3Config

BUILT = Path(__file__).resolve().parents[2] / ".envs" / "stores"
BUILD_SECONDS = 1800
START_SECONDS = 60.0
KEY, SECRET = "datashard-key", "datashard-secret"


@dataclass(frozen=True)
class Kind:
    """A store, and how it is built and started.

    Attributes:
        name: of its binary.
        module: where its main package is.
        version: the version that is tested.
        variable: the variable that names a binary that is there already.
    """

    name: str
    module: str
    version: str
    variable: str

    def binary(self) -> Path:
        """Its program, built if need be."""
        given = os.environ.get(self.variable)
        if given:
            assert os.access(given, os.X_OK), f"{self.variable}={given} is no program"
            return Path(given)
        folder = BUILT / f"{self.name}-{self.version}"
        if not (folder / self.name).exists():
            if shutil.which("go") is None:
                pytest.skip(f"{self.name} is built by Go, which is not here: install it, or set {self.variable}")
            environ = {**os.environ, "GOBIN": str(folder), "GOFLAGS": "-buildvcs=false"}
            subprocess.run(
                ["go", "install", f"{self.module}@{self.version}"], env=environ, check=True, timeout=BUILD_SECONDS
            )
        return folder / self.name

    def command(self, folder: Path, port: int) -> tuple[list[str], dict[str, str]]:
        """Its command line and variables."""
        program, address = str(self.binary()), f"127.0.0.1:{port}"
        data = folder / "data"
        data.mkdir()
        if self.name == "minio":
            variables = {
                "MINIO_ROOT_USER": KEY,
                "MINIO_ROOT_PASSWORD": SECRET,
                "MINIO_BROWSER": "off",
                "MINIO_UPDATE": "off",
                "MINIO_CALLHOME_ENABLE": "off",
                "MINIO_KMS_SECRET_KEY": f"k1:{base64.b64encode(bytes(range(32))).decode()}",
                "HOME": str(folder),
            }
            return [program, "server", str(data), "--address", address, "--quiet"], variables
        for name in ("users", "versions"):
            (folder / name).mkdir()
        access = ["--port", address, "--access", KEY, "--secret", SECRET, "--iam-dir", str(folder / "users")]
        return [program, *access, "posix", "--versioning-dir", str(folder / "versions"), str(data)], {}


MINIO = Kind("minio", "github.com/minio/minio", "v0.0.0-20260212201848-7aac2a2c5b7c", "DATASHARD_MINIO")
VERSITYGW = Kind("versitygw", "github.com/versity/versitygw/cmd/versitygw", "v1.8.0", "DATASHARD_VERSITYGW")


@dataclass(frozen=True)
class Store:
    """A running store with two buckets, one of which keeps old versions of objects.

    Attributes:
        kind: which store it is.
        endpoint: its URL.
    """

    kind: Kind
    endpoint: str

    def config(self, prefix: str, *, versioned: bool = False, **changes: Any) -> S3Config:
        values: dict[str, Any] = {
            "bucket": "versioned" if versioned else "plain",
            "prefix": prefix,
            "endpoint": self.endpoint,
            "region": "us-east-1",
            "access_key": KEY,
            "secret_key": SECRET,
            **changes,
        }
        return S3Config(**values)

    def client(self, service: str) -> Any:
        """A client of boto3 with the root's keys."""
        import boto3

        return boto3.client(
            service,
            endpoint_url=self.endpoint,
            region_name="us-east-1",
            aws_access_key_id=KEY,
            aws_secret_access_key=SECRET,
        )


KINDS = {kind.name: kind for kind in (MINIO, VERSITYGW)}


@pytest.fixture(scope="session", params=list(KINDS))
def store(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Store]:
    """Each store, in a process of its own."""
    kind = KINDS[request.param]
    folder = tmp_path_factory.mktemp(kind.name)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command, variables = kind.command(folder, port)
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen(command, env=_without_aws(variables), stdout=log, stderr=subprocess.STDOUT)
        try:
            running = Store(kind, f"http://127.0.0.1:{port}")
            _wait(process, running, folder / "log")
            client = running.client("s3")
            for bucket in ("plain", "versioned"):
                client.create_bucket(Bucket=bucket)
            client.put_bucket_versioning(Bucket="versioned", VersioningConfiguration={"Status": "Enabled"})
            yield running
        finally:
            process.kill()
            process.wait()


def _without_aws(more: Mapping[str, str]) -> dict[str, str]:
    return {name: value for name, value in os.environ.items() if not name.startswith("AWS_")} | dict(more)


def _wait(process: subprocess.Popen[bytes], store: Store, log: Path) -> None:
    """Wait until the store answers; what answers at its port while it is dead is somebody else's."""
    end = time.monotonic() + START_SECONDS
    while time.monotonic() < end:
        assert process.poll() is None, f"{store.kind.name} ended: {log.read_text()[-2000:]}"
        try:
            path = "/minio/health/ready" if store.kind is MINIO else "/"
            urlopen(store.endpoint + path, timeout=5).close()
        except HTTPError as error:
            if error.code == 403 and store.kind is not MINIO:
                return
        except (URLError, OSError):
            pass
        else:
            return
        time.sleep(0.1)
    raise AssertionError(f"{store.kind.name} did not answer: {log.read_text()[-2000:]}")
