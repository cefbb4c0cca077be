"""From a connection to a warehouse: every way to credentials, and what is refused."""

from __future__ import annotations

import json
import threading
import traceback
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs

import pytest
from airflow.sdk import Connection
from datashard_testkit.s3_server import S3Server

from airflow_provider_datashard.aws import delegate
from airflow_provider_datashard.connection import TASKS, ConnectionSettings
from airflow_provider_datashard.hooks.datashard import DataShardHook
from datashard_core import Schema
from datashard_core.config import LocalConfig, S3Config
from datashard_core.errors import ConfigurationError, StorageError

SCHEMA = Schema(fields=[{"id": 1, "name": "n", "type": "long"}])
BUCKET = {"bucket": "tables"}
KEYS = {"access_key": "AK", "secret_key": "very-secret"}
ROLE = "arn:aws:iam::123456789012:role/writer"


def settings(fields: dict[str, Any] | None = None, **columns: Any) -> ConnectionSettings:
    given = {"conn_id": "c", "conn_type": "datashard", **columns}
    return ConnectionSettings.of(Connection(**given, extra=None if fields is None else json.dumps(fields)), "c")


def appends_and_reads(conn_id: str) -> None:
    """One append through the hook: boto3 for the metadata, Arrow for the rows."""
    table = DataShardHook(datashard_conn_id=conn_id).create_table("numbers", SCHEMA)
    table.append([{"n": 1}])
    assert table.scan().to_records() == [{"n": 1}]


# -- what a connection means ------------------------------------------------------------------


def test_every_field_arrives() -> None:
    config = settings(
        {
            **BUCKET,
            **KEYS,
            "prefix": "/a/b/",
            "endpoint": "https://minio.example.com:9000/",
            "region": "eu-central-1",
            "session_token": "tok",
            "addressing_style": "virtual",
            "verify_tls": "false",
            "sse": "aws:kms",
            "sse_kms_key_id": "key-1",
        }
    ).config()
    assert config == S3Config(
        bucket="tables",
        prefix="a/b",
        endpoint="https://minio.example.com:9000",
        region="eu-central-1",
        access_key="AK",
        secret_key="very-secret",
        session_token="tok",
        addressing_style="virtual",
        verify_tls=False,
        sse="aws:kms",
        sse_kms_key_id="key-1",
    )


def test_a_uri_has_keys_bucket_and_prefix_where_uris_have_them() -> None:
    uri = "datashard://AK:very-secret@tables/a/b?endpoint=http%3A%2F%2Fminio%3A9000"
    config = ConnectionSettings.of(Connection.from_uri(uri, conn_id="c"), "c").config()
    assert config == S3Config(bucket="tables", prefix="a/b", endpoint="http://minio:9000", **KEYS)


@pytest.mark.parametrize(
    ("given", "meant"), [(None, True), ("", True), (False, False), ("False", False), ("/etc/ca.pem", "/etc/ca.pem")]
)
def test_check_certificates(given: Any, meant: Any) -> None:
    config = settings({**BUCKET, **KEYS, "verify_tls": given}).config()
    assert isinstance(config, S3Config)
    assert config.verify_tls == meant


def test_the_role_of_the_machine() -> None:
    config = settings({**BUCKET, "auth": "instance_role"}).config()
    assert config == S3Config(bucket="tables", use_default_chain=True)


def test_a_folder(tmp_path: Path) -> None:
    assert settings({"folder": str(tmp_path), "bucket": "", "auth": None}).config() == LocalConfig(str(tmp_path))


@pytest.mark.parametrize(
    ("fields", "columns", "says"),
    [
        ({}, {}, "neither a bucket nor a folder"),
        (BUCKET, {}, "no credentials for the bucket tables.*aws_conn_id.*instance_role"),
        ({**BUCKET, "access_key": "AK"}, {}, "secret_key is not: keys come in pairs"),
        ({**BUCKET, "secret_key": "s"}, {}, "access_key is not: keys come in pairs"),
        ({**BUCKET, "auth": "instance_role", "session_token": "t"}, {}, "session_token is filled in"),
        ({**BUCKET, **KEYS, "aws_conn_id": "aws"}, {}, "access_key and aws_conn_id are filled in"),
        ({**BUCKET, "aws_conn_id": "aws", "auth": "instance_role"}, {}, "aws_conn_id and auth are filled in"),
        ({**BUCKET, "auth": "iam"}, {}, "auth has 3 characters that are not 'instance_role', the only choice"),
        ({"folder": "/srv", **BUCKET}, {}, "folder and bucket are filled in"),
        ({"folder": "tables"}, {}, "'tables' is not an absolute path"),
        ({**BUCKET, **KEYS, "buckets": "x"}, {}, "'buckets', which is no setting; there are bucket,"),
        ({**BUCKET, **KEYS}, {"port": 9000}, "port 9000 has no meaning here"),
        ({**BUCKET, **KEYS}, {"host": "other"}, "bucket in its extra and its host differ"),
        ({**BUCKET, **KEYS, "deployment": "d" * 101}, {}, "more than 100 characters"),
        ({**BUCKET, **KEYS}, {"conn_type": "aws"}, "of the type 'aws'.*aws_conn_id"),
    ],
)
def test_what_is_refused(fields: dict[str, Any], columns: dict[str, Any], says: str) -> None:
    with pytest.raises(ConfigurationError, match=rf"(?s)connection 'c'.*{says}"):
        settings(fields, **columns)


@pytest.mark.parametrize("field", ["bucket", "prefix", "endpoint", "addressing_style", "sse"])
def test_unusable_values_are_named_with_their_connection(field: str) -> None:
    with pytest.raises(ConfigurationError, match=rf"connection 'c': .*{field}=.*not//ok"):
        settings({**BUCKET, **KEYS, field: "not//ok"}).config()


@pytest.mark.parametrize(("prefix", "meant"), [("a/../c", "c"), ("./a", "a"), ("a/b/..", "a")])
def test_a_prefix_with_dots_is_refused_with_the_one_that_is_meant(prefix: str, meant: str) -> None:
    with pytest.raises(ConfigurationError, match=rf"connection 'c': .*write prefix='{meant}'"):
        settings({**BUCKET, **KEYS, "prefix": prefix}).config()


def test_no_secret_is_shown() -> None:
    found = settings({**BUCKET, **KEYS, "session_token": "the-token"})
    for shown in (repr(found), repr(found.config())):
        assert "very-secret" not in shown and "the-token" not in shown
        assert "tables" in shown


# -- the hook ---------------------------------------------------------------------------------


def test_keys_are_used_whatever_the_environment_says(
    s3_fields: dict[str, str], environment_connection: Any, wrong_variables: None
) -> None:
    appends_and_reads(environment_connection("keys", {**s3_fields, "session_token": "any"}))


def test_hooks_of_equal_settings_share_a_warehouse(environment_connection: Any, tmp_path: Path) -> None:
    environment_connection("one", {"folder": str(tmp_path)})
    first, second = (DataShardHook(datashard_conn_id="one").get_warehouse() for _ in range(2))
    assert first is second
    environment_connection("one", {"folder": str(tmp_path / "other")})
    changed = DataShardHook(datashard_conn_id="one")
    assert changed.get_conn() is changed.warehouse is not first


def test_a_connection_that_is_not_there() -> None:
    with pytest.raises(ConfigurationError, match="there is no connection 'nowhere': create one of the type"):
        DataShardHook(datashard_conn_id="nowhere").get_warehouse()


def test_the_machines_credentials_come_from_the_default_chain(
    s3_server: S3Server, s3_fields: dict[str, str], environment_connection: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    fields = {name: value for name, value in s3_fields.items() if not name.endswith("_key")}
    environment_connection("machine", {**fields, "auth": "instance_role"})
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", s3_server.access_key)
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", s3_server.secret_key)
    appends_and_reads("machine")


# -- credentials of an aws connection ---------------------------------------------------------


def delegating(fields: dict[str, str], **changes: Any) -> dict[str, Any]:
    place = {"bucket": fields["bucket"], "prefix": fields["prefix"], "aws_conn_id": "aws_store"}
    return {**place, **changes}


def test_keys_of_an_aws_connection(
    s3_fields: dict[str, str], environment_connection: Any, wrong_variables: None
) -> None:
    extra = {"region_name": "us-east-1", "endpoint_url": s3_fields["endpoint"]}
    keys = {"login": s3_fields["access_key"], "password": s3_fields["secret_key"]}
    environment_connection("aws_store", extra, conn_type="aws", **keys)
    appends_and_reads(environment_connection("delegates", delegating(s3_fields)))


def test_its_own_fields_win(environment_connection: Any) -> None:
    extra = {
        "region_name": "eu-west-1",
        "verify": False,
        "service_config": {"s3": {"endpoint_url": "http://theirs:9000"}},
        "config_kwargs": {"s3": {"addressing_style": "virtual"}},
    }
    environment_connection("aws_store", extra, conn_type="aws", login="AK", password="s")
    theirs = settings({**BUCKET, "aws_conn_id": "aws_store"}).config()
    assert isinstance(theirs, S3Config)
    assert (theirs.endpoint, theirs.region, theirs.verify_tls) == ("http://theirs:9000", "eu-west-1", False)
    assert theirs.addressing_style == "virtual"
    own = {"endpoint": "http://ours:9000", "region": "eu-north-1", "verify_tls": True, "addressing_style": "path"}
    ours = settings({**BUCKET, "aws_conn_id": "aws_store", **own}).config()
    assert isinstance(ours, S3Config)
    assert {name: getattr(ours, name) for name in own} == own


def test_a_missing_aws_connection_is_an_error(environment_connection: Any, wrong_variables: None) -> None:
    """The amazon provider would go on with the worker's credentials."""
    with pytest.raises(ConfigurationError, match="aws_conn_id='not_there': there is no connection of that id"):
        settings({**BUCKET, "aws_conn_id": "not_there"}).config()
    environment_connection("db", conn_type="postgres")
    with pytest.raises(ConfigurationError, match="'db': that connection is of the type 'postgres', not 'aws'"):
        settings({**BUCKET, "aws_conn_id": "db"}).config()


class TokenService:
    """Answers AssumeRole with keys that are about to expire, so that each use asks anew."""

    def __init__(self, access_key: str) -> None:
        self.asked: list[dict[str, list[str]]] = []
        self.refuses = False
        service = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                service.asked.append(parse_qs(self.rfile.read(int(self.headers["Content-Length"])).decode()))
                body = service.answer(access_key).encode()
                self.send_response(403 if service.refuses else 200)
                self.send_header("Content-Type", "text/xml")
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *_: Any) -> None:
                """Nobody reads it."""

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.endpoint = f"http://127.0.0.1:{self._server.server_port}"
        threading.Thread(target=self._server.serve_forever, daemon=True).start()

    def answer(self, access_key: str) -> str:
        if self.refuses:
            return "<ErrorResponse><Error><Code>AccessDenied</Code><Message>not you</Message></Error></ErrorResponse>"
        expires = (datetime.now(UTC) + timedelta(minutes=2)).isoformat()
        return (
            "<AssumeRoleResponse><AssumeRoleResult><Credentials>"
            f"<AccessKeyId>{access_key}</AccessKeyId><SecretAccessKey>s</SecretAccessKey>"
            f"<SessionToken>token-{len(self.asked)}</SessionToken><Expiration>{expires}</Expiration>"
            "</Credentials></AssumeRoleResult></AssumeRoleResponse>"
        )

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()


@pytest.fixture
def token_service(s3_server: S3Server) -> Iterator[TokenService]:
    service = TokenService(s3_server.access_key)
    yield service
    service.close()


@pytest.fixture
def role(token_service: TokenService, s3_fields: dict[str, str], environment_connection: Any) -> str:
    """The connection ``aws_store``, which assumes a role."""
    extra = {
        "role_arn": ROLE,
        "region_name": "us-east-1",
        "service_config": {
            "s3": {"endpoint_url": s3_fields["endpoint"]},
            "sts": {"endpoint_url": token_service.endpoint},
        },
    }
    found: str = environment_connection("aws_store", extra, conn_type="aws", login="may-assume", password="s")
    return found


def test_an_assumed_role_is_refreshed(
    role: str, token_service: TokenService, s3_fields: dict[str, str], environment_connection: Any
) -> None:
    appends_and_reads(environment_connection("assumes", delegating(s3_fields)))
    assert token_service.asked[0]["RoleArn"] == [ROLE]
    credentials = delegate(role, None, TASKS).credentials
    tokens = [credentials().session_token for _ in range(3)]
    assert len(set(tokens)) == 3, "keys that were about to expire were used again"
    assert repr(credentials) == "<AwsCredentials of aws_store>"


def test_a_role_that_is_refused(role: str, token_service: TokenService, s3_fields: dict[str, str]) -> None:
    credentials = delegate(role, None, TASKS).credentials
    token_service.refuses = True
    with pytest.raises(StorageError, match=r"connection 'aws_store' \(aws\) gives no credentials: .*not you") as told:
        credentials()
    assert told.value.reason == "credentials-missing"


# -- the Test button, without its server ------------------------------------------------------


def test_the_test_of_a_folder(environment_connection: Any, tmp_path: Path) -> None:
    hook = DataShardHook(datashard_conn_id=environment_connection("folder", {"folder": str(tmp_path / "tables")}))
    hook.create_table("numbers", SCHEMA)
    works, message = hook.test_connection()
    assert works, message
    assert "(1 tables or namespaces) from the machine of the API server" in message


def test_the_test_of_a_role_that_is_refused(
    role: str, token_service: TokenService, s3_fields: dict[str, str], environment_connection: Any
) -> None:
    token_service.refuses = True
    hook = DataShardHook(datashard_conn_id=environment_connection("assumes", delegating(s3_fields)))
    works, message = hook.test_connection()
    assert not works
    assert "connection 'aws_store' (aws) gives no credentials" in message


def test_the_test_leaves_nothing_behind(
    s3_fields: dict[str, str], s3_server: S3Server, environment_connection: Any
) -> None:
    s3_server.requests(reset=True)
    hook = DataShardHook(datashard_conn_id=environment_connection("button", s3_fields))
    works, message = hook.test_connection()
    assert works, message
    put = {path for method, path in s3_server.requests() if method == "PUT"}
    assert put and all("/_datashard/test-" in path for path in put)
    assert hook.warehouse._storage.folders() == []


@pytest.mark.parametrize(
    "changes",
    [
        {"auth": "hunter2-secret"},
        {"auth": "Basic aHVudGVyMi1zZWNyZXQ= hunter2-secret"},
        {"endpoint": "http://me:hunter2-secret@minio:9000"},
        {"endpoint": "http://hunter2-secret@minio:9000/"},
        {"endpoint": "me:hunter2-secret@minio:9000"},
        {"endpoint": "http://me:hunter2-secret@[minio"},
        {"endpoint": "https://minio:9000/?X-Amz-Signature=hunter2-secret"},
    ],
)
def test_a_secret_in_a_field_that_has_none_is_refused_and_not_repeated(changes: dict[str, str]) -> None:
    extra = {"bucket": "logs", "access_key": "key", "secret_key": "s3cret-of-its-own", **changes}
    if "auth" in changes:
        del extra["access_key"], extra["secret_key"]
    connection = Connection(conn_id="w", conn_type="datashard", extra=json.dumps(extra))
    with pytest.raises(ConfigurationError, match="connection 'w'") as caught:
        ConnectionSettings.of(connection, "w").config()
    told = "".join(traceback.format_exception(caught.value)) + repr(caught.value.args)
    assert "hunter2" not in told and "s3cret-of-its-own" not in told
    assert next(iter(changes)) in str(caught.value)
    assert "hunter2" not in repr(ConnectionSettings(conn_id="w", bucket="logs", **changes))
