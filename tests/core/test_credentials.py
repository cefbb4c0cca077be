"""Credentials come from where the configuration says, whatever a worker's environment holds.

The server refuses every access key but one, so a request that was signed with another one fails.
"""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import pyarrow.fs as pafs
import pytest
from datashard_testkit.s3_server import S3Server

from datashard_core import Schema
from datashard_core.config import Credentials, S3Config
from datashard_core.errors import ConfigurationError, StorageError
from datashard_core.storage import s3_client
from datashard_core.storage.aws_settings import with_aws_settings
from datashard_core.storage.s3 import S3Storage
from datashard_core.storage.s3_boto import make_session
from datashard_core.table.warehouse import Warehouse

TRANSPORTS = ("boto3", "obstore")

_CHILD = """
import json, os, sys
import datashard_core as ds
from datashard_core.config import S3Config

settings = json.loads(sys.stdin.read())
warehouse = ds.connect(config=S3Config(**settings))
before = dict(os.environ)
schema = ds.Schema(fields=[{"id": 1, "name": "n", "type": "long"}, {"id": 2, "name": "b", "type": "binary"}])
table = warehouse.create_table("small", schema)
table.append([{"n": 1, "b": b"x"}])
assert table.scan().to_records() == [{"n": 1, "b": b"x"}]
large = warehouse.create_table("large", schema)
large.append([{"n": n, "b": os.urandom(1 << 20)} for n in range(20)])
(file,) = large.scan().data_files()
assert file.file_size_in_bytes > 16 << 20, file
assert large.scan(columns=["n"]).to_arrow()["n"].to_pylist() == list(range(20))
assert {len(row["b"]) for row in large.scan().to_records()} == {1 << 20}
assert large.sql("select count(*) as c from large").to_pylist() == [{"c": 20}]
assert dict(os.environ) == before, "the environment was changed"
assert table.metrics().transport == settings["transport"], table.metrics()
print("done")
"""


def _run_child(settings: dict[str, Any], environ: dict[str, str]) -> subprocess.CompletedProcess[str]:
    inherited = {name: value for name, value in os.environ.items() if not name.startswith(("AWS_", "DATASHARD_"))}
    return subprocess.run(
        [sys.executable, "-c", _CHILD],
        input=json.dumps(settings),
        env={**inherited, "AWS_EC2_METADATA_DISABLED": "true", **environ},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


def _closed_port() -> str:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return f"http://127.0.0.1:{free.getsockname()[1]}"


def _misleading(folder: Path) -> dict[str, str]:
    garbage = folder / "garbage"
    garbage.write_text("[default\nthis is = no [config file\n\x00")
    return {
        "AWS_ACCESS_KEY_ID": "wrong",
        "AWS_SECRET_ACCESS_KEY": "wrong",
        "AWS_SESSION_TOKEN": "wrong",
        "AWS_PROFILE": "no-such-profile",
        "AWS_DEFAULT_PROFILE": "no-such-profile",
        "AWS_REGION": "mars-north-1",
        "AWS_DEFAULT_REGION": "mars-north-1",
        "AWS_ENDPOINT_URL": _closed_port(),
        "AWS_ENDPOINT_URL_S3": _closed_port(),
        "AWS_CA_BUNDLE": str(folder / "missing.pem"),
        "AWS_CONFIG_FILE": str(garbage),
        "AWS_SHARED_CREDENTIALS_FILE": str(garbage),
        "AWS_ROLE_ARN": "arn:aws:iam::123456789012:role/no",
        "AWS_WEB_IDENTITY_TOKEN_FILE": str(folder / "missing-token"),
        # What Rust's object_store would read.
        "AWS_SKIP_SIGNATURE": "true",
        "AWS_ENDPOINT": _closed_port(),
        "AWS_BUCKET": "no-such-bucket",
        "AWS_TOKEN": "wrong",
        "AWS_SERVER_SIDE_ENCRYPTION": "aws:kms",
        "AWS_PROXY_URL": _closed_port(),
        "AWS_VIRTUAL_HOSTED_STYLE_REQUEST": "true",
        "DATASHARD_STORAGE_TYPE": "local",
        "DATASHARD_S3_ENDPOINT": _closed_port(),
        "DATASHARD_S3_ACCESS_KEY": "wrong",
        "DATASHARD_S3_SECRET_KEY": "wrong",
        "DATASHARD_S3_BUCKET": "no-such-bucket",
        "DATASHARD_S3_REGION": "mars-north-1",
        "DATASHARD_S3_PREFIX": "elsewhere",
    }


def _settings(server: S3Server, prefix: str, **changes: Any) -> dict[str, Any]:
    place = {"bucket": server.bucket, "prefix": prefix, "endpoint": server.endpoint}
    return {**place, **changes}


@pytest.mark.parametrize("transport", TRANSPORTS)
@pytest.mark.parametrize("region", [None, "us-east-1"])
def test_given_keys_are_used_whatever_the_environment_holds(
    s3_server: S3Server, tmp_path: Path, region: str | None, transport: str
) -> None:
    keys = {"access_key": s3_server.access_key, "secret_key": s3_server.secret_key, "region": region}
    keys["transport"] = transport
    done = _run_child(_settings(s3_server, f"given-{os.urandom(4).hex()}", **keys), _misleading(tmp_path))
    assert done.stdout == "done\n", done.stderr[-3000:]


@pytest.mark.parametrize("transport", TRANSPORTS)
def test_the_default_chain_takes_variables(s3_server: S3Server, transport: str) -> None:
    environ = {"AWS_ACCESS_KEY_ID": s3_server.access_key, "AWS_SECRET_ACCESS_KEY": s3_server.secret_key}
    settings = _settings(s3_server, f"chain-{os.urandom(4).hex()}", use_default_chain=True, transport=transport)
    done = _run_child(settings, environ)
    assert done.stdout == "done\n", done.stderr[-3000:]


@pytest.mark.parametrize("transport", TRANSPORTS)
def test_the_default_chain_takes_a_profile(s3_server: S3Server, tmp_path: Path, transport: str) -> None:
    profiles = tmp_path / "credentials"
    profiles.write_text(
        "[default]\naws_access_key_id = wrong\naws_secret_access_key = wrong\n"
        f"[ours]\naws_access_key_id = {s3_server.access_key}\naws_secret_access_key = {s3_server.secret_key}\n"
    )
    environ = {"AWS_SHARED_CREDENTIALS_FILE": str(profiles), "AWS_PROFILE": "ours"}
    settings = _settings(s3_server, f"profile-{os.urandom(4).hex()}", use_default_chain=True, transport=transport)
    done = _run_child(settings, environ)
    assert done.stdout == "done\n", done.stderr[-3000:]


def test_the_default_chain_takes_the_endpoint_for_every_client(s3_server: S3Server, tmp_path: Path) -> None:
    (tmp_path / ".aws").mkdir()
    (tmp_path / ".aws" / "credentials").write_text(
        f"[default]\naws_access_key_id = {s3_server.access_key}\naws_secret_access_key = {s3_server.secret_key}\n"
    )
    (tmp_path / ".aws" / "config").write_text(f"[default]\nregion = eu-west-1\nendpoint_url = {s3_server.endpoint}\n")
    place = {"bucket": s3_server.bucket, "prefix": f"endpoint-{os.urandom(4).hex()}", "transport": "boto3"}
    # A large file is written and read by Arrow, all else by boto3.
    done = _run_child({**place, "use_default_chain": True}, {"HOME": str(tmp_path)})
    assert done.stdout == "done\n", done.stderr[-3000:]


@pytest.mark.parametrize(
    ("profile", "variables", "endpoint", "region"),
    [
        ("", {"AWS_ENDPOINT_URL_S3": "http://store:9000"}, "http://store:9000", None),
        ("services = s\n[services s]\ns3 =\n  endpoint_url = http://store\n", {}, "http://store", None),
        ("endpoint_url = http://store\nregion = gra\n", {}, "http://store", "gra"),
        ("endpoint_url = http://store\n", {"AWS_IGNORE_CONFIGURED_ENDPOINT_URLS": "true"}, None, None),
        ("endpoint_url = https://s3.amazonaws.com\nregion = eu-west-1\n", {}, None, None),
        ("region = eu-west-1\n", {}, None, None),
    ],
)
def test_where_the_default_chain_says_the_store_is(
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    profile: str,
    variables: dict[str, str],
    endpoint: str | None,
    region: str | None,
) -> None:
    (tmp_path / "config").write_text(f"[default]\n{profile}")
    for name in [name for name in os.environ if name.startswith("AWS_")]:
        monkeypatch.delenv(name)
    for name, value in {"AWS_CONFIG_FILE": str(tmp_path / "config"), **variables}.items():
        monkeypatch.setenv(name, value)
    config = S3Config("bucket", f"p-{os.urandom(4).hex()}", use_default_chain=True)
    found = with_aws_settings(config, make_session(config, lambda: Credentials("", "")))
    # A bucket of AWS is asked for its region; other stores do not say.
    assert (found.endpoint, found.region) == (endpoint, region)


@pytest.mark.parametrize(
    ("name", "value", "says"),
    [
        ("AWS_PROFILE", "no-such", "The config profile (no-such) could not be found"),
        ("AWS_ENDPOINT_URL", "nonsense", "Invalid endpoint: nonsense"),
        ("AWS_ENDPOINT_URL", "http://127.0.0.1:9/path?x=1", "the endpoint http://127.0.0.1:9/path has a query"),
    ],
)
def test_settings_of_aws_that_cannot_be_used(monkeypatch: pytest.MonkeyPatch, name: str, value: str, says: str) -> None:
    monkeypatch.setenv(name, value)
    monkeypatch.setattr(s3_client, "_made", {})  # another test of this process may have used this bucket
    with pytest.raises(ConfigurationError) as caught:
        S3Storage(S3Config("bucket", use_default_chain=True))
    assert says in str(caught.value)


def test_a_default_chain_that_finds_nothing_says_so(s3_server: S3Server, tmp_path: Path) -> None:
    environ = {"HOME": str(tmp_path), "AWS_CONFIG_FILE": os.devnull, "AWS_SHARED_CREDENTIALS_FILE": os.devnull}
    done = _run_child(_settings(s3_server, "none", use_default_chain=True), environ)
    assert done.returncode == 1
    last = done.stderr.strip().splitlines()[-1]
    assert last.startswith("datashard_core.errors.StorageError: no credentials for bucket"), done.stderr[-3000:]


class _Changing:
    """A provider whose keys are wrong until somebody mends them."""

    def __init__(self, server: S3Server) -> None:
        self.server = server
        self.right = False
        self.asked = 0
        self._lock = threading.Lock()

    def __call__(self) -> Credentials:
        with self._lock:
            self.asked += 1
        return Credentials(self.server.access_key if self.right else "wrong", self.server.secret_key)

    def storage(self, transport: str) -> S3Storage:
        place = _settings(self.server, f"changing-{os.urandom(4).hex()}", region="us-east-1", transport=transport)
        return S3Storage(S3Config(credentials_provider=self, **place))


@pytest.mark.parametrize("transport", TRANSPORTS)
def test_a_provider_is_asked_again_for_each_request(s3_server: S3Server, transport: str) -> None:
    provider = _Changing(s3_server)
    storage = provider.storage(transport)
    with pytest.raises(StorageError) as caught:
        storage.put("k", b"x")
    assert caught.value.reason == "credentials-missing"
    provider.right = True
    storage.put("k", b"x")
    assert storage.get("k").body == b"x"
    provider.right = False
    with pytest.raises(StorageError):
        storage.get("k")


def test_a_provider_is_asked_again_by_arrow(s3_server: S3Server) -> None:
    provider = _Changing(s3_server)
    storage = provider.storage("auto")
    filesystem, root = storage.filesystem()
    with pytest.raises(OSError, match=r"ACCESS_DENIED|403|InvalidAccessKeyId|INVALID_ACCESS_KEY"):
        filesystem.open_output_stream(f"{root}/k").write(b"x" * 100)
        filesystem.get_file_info(f"{root}/k")
    provider.right = True
    filesystem, root = storage.filesystem()
    with filesystem.open_output_stream(f"{root}/k") as stream:
        stream.write(b"x" * 100)
    assert filesystem.get_file_info(f"{root}/k").type == pafs.FileType.File
    again, _ = storage.filesystem()
    assert again is filesystem  # made anew only when the keys have changed


@pytest.mark.parametrize("transport", TRANSPORTS)
def test_a_table_goes_on_with_new_keys(s3_server: S3Server, transport: str) -> None:
    provider = _Changing(s3_server)
    provider.right = True
    warehouse = Warehouse(provider.storage(transport))
    table = warehouse.create_table("t", Schema(fields=[{"id": 1, "name": "n", "type": "long"}]))
    table.append([{"n": 1}])
    provider.right = False
    with pytest.raises(StorageError):
        table.append([{"n": 2}], timeout=5)
    provider.right = True
    table.append([{"n": 3}])
    assert sorted(row["n"] for row in table.refresh().scan().to_records()) == [1, 3]
    assert provider.asked > 3
