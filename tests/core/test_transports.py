"""Both transports in the configurations that people have: tokens, roles, private CAs, proxies, forks, encryption."""

from __future__ import annotations

import datetime as dt
import ipaddress
import json
import logging
import os
import re
import ssl
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from datashard_testkit.fault_proxy import FaultProxy, Plan
from datashard_testkit.s3_server import S3Server

import datashard_core as ds
from datashard_core.config import S3Config, TransportChoice
from datashard_core.errors import ConfigurationError, StorageError
from datashard_core.storage import s3_client
from datashard_core.storage.s3 import ONE_PUT, S3Storage
from datashard_core.table.warehouse import Warehouse

TRANSPORTS: tuple[TransportChoice, ...] = ("boto3", "obstore")
SCHEMA = ds.Schema(fields=[{"id": 1, "name": "n", "type": "long"}, {"id": 2, "name": "b", "type": "binary"}])


@pytest.fixture(autouse=True)
def fresh_clients(monkeypatch: pytest.MonkeyPatch) -> None:
    """Clients are shared by a process, and read the environment when they are made: each test makes its own."""
    monkeypatch.setattr(s3_client, "_made", {})


def use(config: S3Config) -> ds.Table:
    """Create, append and read with small files and with one that Arrow's own client carries."""
    table = Warehouse(S3Storage(config)).create_table(f"t{os.urandom(4).hex()}", SCHEMA)
    table.append([{"n": 1, "b": b"x"}])
    table.append([{"n": 2, "b": os.urandom(ONE_PUT + 1)}])
    assert max(file.file_size_in_bytes for file in table.scan().data_files()) > ONE_PUT
    assert sorted(row["n"] for row in table.scan().to_records()) == [1, 2]
    return table


def headers(plan: Plan, name: str) -> list[str]:
    """What requests said in a header; "" for those that did not say it."""
    found = [re.search(rf"^{name}: *(.*?)\r?$", head, re.IGNORECASE | re.MULTILINE) for head in plan.heads]
    return [one[1] if one is not None else "" for one in found]


def signed_with(plan: Plan) -> set[str]:
    """The access keys that requests were signed with."""
    return {value.partition("Credential=")[2].partition("/")[0] for value in headers(plan, "authorization")}


@pytest.mark.parametrize("transport", TRANSPORTS)
def test_a_session_token_goes_with_every_request(
    s3_server: S3Server, s3_config: S3Config, transport: TransportChoice
) -> None:
    with FaultProxy(s3_server.endpoint) as proxy:
        config = s3_server.config(
            s3_config.prefix, endpoint=proxy.endpoint, session_token="the-token", transport=transport
        )
        table = use(config)
        assert table.metrics().transport == transport
        assert set(headers(proxy.plan, "x-amz-security-token")) == {"the-token"}
        signed = {re.search(r"SignedHeaders=([^,]*)", value)[1] for value in headers(proxy.plan, "authorization")}  # type: ignore[index]
        assert all("x-amz-security-token" in names for names in signed), signed


@pytest.mark.parametrize("transport", TRANSPORTS)
def test_a_role_is_assumed_and_its_keys_are_renewed(
    s3_server: S3Server,
    s3_config: S3Config,
    transport: TransportChoice,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    profiles = tmp_path / "config"
    profiles.write_text(
        "[profile base]\n"
        f"aws_access_key_id = {s3_server.access_key}\naws_secret_access_key = {s3_server.secret_key}\n"
        "[profile job]\nsource_profile = base\nrole_arn = arn:aws:iam::123456789012:role/writer\n"
        "region = us-east-1\n"
        # Keys with less than 15 minutes to live are renewed: these at every look.
        "duration_seconds = 900\n"
    )
    for name in [name for name in os.environ if name.startswith("AWS_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("AWS_CONFIG_FILE", str(profiles))
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", os.devnull)
    monkeypatch.setenv("AWS_PROFILE", "job")
    monkeypatch.setenv("AWS_ENDPOINT_URL_STS", s3_server.endpoint)
    with FaultProxy(s3_server.endpoint) as proxy:
        place = {"bucket": s3_server.bucket, "prefix": s3_config.prefix, "endpoint": proxy.endpoint}
        table = use(S3Config(**place, region="us-east-1", use_default_chain=True, transport=transport))
        assert table.metrics().transport == transport
        keys = signed_with(proxy.plan)
        assert s3_server.access_key not in keys, "a request was signed by who may only assume the role"
        assert len(keys) > 1, "keys that are about to expire were never renewed"
        assert "" not in headers(proxy.plan, "x-amz-security-token")


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, ssl.SSLContext]:
    """A CA of our own, and a server's certificate from it."""
    from cryptography import x509
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec

    folder = tmp_path_factory.mktemp("ca")
    now = dt.datetime.now(dt.UTC)

    def certificate(name: str, issuer: str, public: Any, signer: Any, extension: Any) -> Any:
        return (
            x509.CertificateBuilder()
            .subject_name(x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, name)]))
            .issuer_name(x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, issuer)]))
            .public_key(public)
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - dt.timedelta(days=1))
            .not_valid_after(now + dt.timedelta(days=30))
            .add_extension(extension, critical=False)
            .sign(signer, hashes.SHA256())
        )

    root, leaf = ec.generate_private_key(ec.SECP256R1()), ec.generate_private_key(ec.SECP256R1())
    own = certificate("test CA", "test CA", root.public_key(), root, x509.BasicConstraints(ca=True, path_length=None))
    names = x509.SubjectAlternativeName([x509.DNSName("localhost"), x509.IPAddress(ipaddress.ip_address("127.0.0.1"))])
    servers = certificate("localhost", "test CA", leaf.public_key(), root, names)
    pem = serialization.Encoding.PEM
    (folder / "ca.pem").write_bytes(own.public_bytes(pem))
    (folder / "server.pem").write_bytes(
        leaf.private_bytes(pem, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
        + servers.public_bytes(pem)
    )
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(folder / "server.pem")
    return str(folder / "ca.pem"), context


@pytest.mark.parametrize("transport", TRANSPORTS)
def test_a_certificate_of_a_private_authority(
    s3_server: S3Server,
    s3_config: S3Config,
    transport: TransportChoice,
    authority: tuple[str, ssl.SSLContext],
    tmp_path: Path,
) -> None:
    bundle, context = authority
    with FaultProxy(s3_server.endpoint, context) as proxy:
        place: dict[str, Any] = {"endpoint": proxy.endpoint, "transport": transport, "max_attempts": 1}
        table = use(s3_server.config(s3_config.prefix, verify_tls=bundle, **place))
        assert table.metrics().transport == transport
        seen = len(proxy.plan.seen)
        with pytest.raises(StorageError, match=r"(?i)certificate") as caught:
            S3Storage(s3_server.config(s3_config.prefix, **place)).get("k")
        assert (caught.value.reason, proxy.endpoint in str(caught.value)) == ("unreachable", True)
        assert len(proxy.plan.seen) == seen, "a request went to a server that nobody vouches for"
        unchecked = S3Storage(s3_server.config(s3_config.prefix, verify_tls=False, **place))
        unchecked.put("k", b"x")
        assert unchecked.get("k").body == b"x"
        with pytest.raises(ConfigurationError, match="verify_tls"):
            unchecked.filesystem()
        missing = str(tmp_path / "missing.pem")
        with pytest.raises(ConfigurationError, match=re.escape(missing)):
            S3Storage(s3_server.config(s3_config.prefix, verify_tls=missing, **place)).get("k")


@pytest.mark.parametrize("transport", TRANSPORTS)
def test_proxies_of_the_environment_are_used(
    s3_server: S3Server, s3_config: S3Config, transport: TransportChoice, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "NO_PROXY"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.lower(), raising=False)
    with FaultProxy(s3_server.endpoint) as proxy:
        monkeypatch.setenv("http_proxy", proxy.endpoint)
        s3_server.requests(reset=True)
        table = use(s3_server.config(s3_config.prefix, transport=transport))
        assert table.metrics().transport == transport
        assert len(proxy.plan.seen) == len(s3_server.requests()) > 10, "some requests went past the proxy"
        monkeypatch.setenv("no_proxy", "127.0.0.1")
        monkeypatch.setattr(s3_client, "_made", {})
        seen = len(proxy.plan.seen)
        use(s3_server.config(s3_config.prefix, transport=transport))
        assert len(proxy.plan.seen) == seen, "requests went through a proxy that is not for them"


_FORKING = """
import json, os, sys
import datashard_core as ds
from datashard_core import S3Config, connect

settings = json.loads(sys.stdin.read())
warehouse = connect(config=S3Config(**settings))
schema = ds.Schema(fields=[{"id": 1, "name": "n", "type": "long"}])
table = warehouse.create_table("t", schema)
table.append([{"n": 0}])
said = {"parent": table.metrics().transport}
read, write = os.pipe()
child = os.fork()
if child == 0:
    try:
        table.append([{"n": 1}])  # the very object that the parent used
        connect(config=S3Config(**settings)).load_table("t").append([{"n": 2}])
        told = table.metrics().transport
    except BaseException as error:
        told = f"{type(error).__name__}: {error}"
    os.write(write, told.encode())
    os._exit(0)
os.close(write)
said["child"] = b"".join(iter(lambda: os.read(read, 65536), b"")).decode()
os.waitpid(child, 0)
table.append([{"n": 3}])
said["rows"] = sorted(row["n"] for row in table.refresh().scan().to_records())
print(json.dumps(said))
"""


@pytest.mark.parametrize(("wanted", "parents", "childs"), [("boto3", "boto3", "boto3"), ("auto", "obstore", "boto3")])
def test_a_child_of_a_process_that_used_a_store(
    s3_server: S3Server, s3_config: S3Config, wanted: str, parents: str, childs: str
) -> None:
    said = _fork(s3_server, s3_config, wanted)
    assert said == {"parent": parents, "child": childs, "rows": [0, 1, 2, 3]}


def test_a_child_that_insists_on_obstore_is_told_why_not(s3_server: S3Server, s3_config: S3Config) -> None:
    said = _fork(s3_server, s3_config, "obstore")
    assert said["child"].startswith("ConfigurationError: ") and "was forked from one that used obstore" in said["child"]
    assert "Use transport='auto' or 'boto3'" in said["child"]
    assert said["rows"] == [0, 3]


def _fork(server: S3Server, config: S3Config, transport: str) -> Any:
    settings = {
        "bucket": config.bucket,
        "prefix": config.prefix,
        "endpoint": server.endpoint,
        "region": "us-east-1",
        "access_key": server.access_key,
        "secret_key": server.secret_key,
        "transport": transport,
    }
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", _FORKING],
        input=json.dumps(settings),
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads(done.stdout)


def test_encryption_is_asked_for_with_every_write(s3_server: S3Server, s3_config: S3Config) -> None:
    with FaultProxy(s3_server.endpoint) as proxy:
        place: dict[str, Any] = {"endpoint": proxy.endpoint, "sse": "aws:kms", "sse_kms_key_id": "key-1"}
        table = use(s3_server.config(s3_config.prefix, **place))
        assert table.metrics().transport == "boto3"
        writes = [place for place, (method, _) in enumerate(proxy.plan.seen) if method == "PUT"]
        assert len(writes) > 6
        said = headers(proxy.plan, "x-amz-server-side-encryption")
        keys = headers(proxy.plan, "x-amz-server-side-encryption-aws-kms-key-id")
        assert {(said[at], keys[at]) for at in writes} == {("aws:kms", "key-1")}
        with pytest.raises(ConfigurationError, match=r"obstore' cannot be used: .*\(sse\)"):
            S3Storage(s3_server.config(s3_config.prefix, transport="obstore", **place))


@pytest.mark.parametrize(
    ("changes", "chosen", "reason"),
    [
        ({}, "obstore", "it is the cheaper one"),
        ({"transport": "obstore"}, "obstore", "the configuration says so"),
        ({"transport": "boto3"}, "boto3", "the configuration says so"),
        ({"sse": "AES256"}, "boto3", "obstore does not tell whether the store encrypted"),
    ],
)
def test_the_choice_is_shown(
    s3_server: S3Server,
    s3_config: S3Config,
    changes: dict[str, Any],
    chosen: str,
    reason: str,
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.INFO, logger="datashard_core")
    warehouse = Warehouse(S3Storage(s3_server.config(s3_config.prefix, **changes)))
    table = warehouse.create_table("t", SCHEMA)
    assert table.metrics().transport == chosen
    said = [record.getMessage() for record in caplog.records if "requests go through" in record.getMessage()]
    assert len(said) == 1, "once for a process and a store"
    assert said[0].startswith(f"bucket {s3_config.bucket}: requests go through {chosen}: {reason}")
