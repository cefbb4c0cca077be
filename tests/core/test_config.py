"""Configuration: what is refused, what is shown, and where a script's tables live."""

from __future__ import annotations

import pickle
import re
import traceback
from pathlib import Path
from typing import Any

import pytest
from msgspec.structs import replace

import datashard_core as ds
from datashard_core.config import (
    DEFAULT_FOLDER,
    Credentials,
    LocalConfig,
    S3Config,
    resolve_warehouse,
    split_table_uri,
)
from datashard_core.errors import ConfigurationError

KEYS: dict[str, Any] = {"access_key": "AKIAPUBLIC", "secret_key": "very-secret-key"}


def _provider() -> Credentials:
    return Credentials("AKIAPUBLIC", "very-secret-key")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"bucket": ""}, "bucket"),
        ({"bucket": "No_Such"}, "name of a bucket"),
        ({"bucket": "ab"}, "name of a bucket"),
        ({"prefix": "a//b"}, "prefix='a//b'"),
        ({"prefix": ".."}, "prefix=''"),
        ({"prefix": "../a"}, "write prefix='a'"),
        ({"prefix": "a/../c"}, "write prefix='c'"),
        ({"prefix": "/a/./b/"}, "write prefix='a/b'"),
        ({"prefix": "a/.."}, "which a bucket does not resolve"),
        ({"prefix": "a%2F.."}, "prefix='a%2F..'"),
        ({"prefix": "a\\b"}, "single slashes"),
        ({"prefix": "a\nb"}, "prefix='a"),
        ({"prefix": "a\n"}, "prefix='a"),
        ({"prefix": "a\0"}, "prefix='a"),
        ({"prefix": "a?b"}, "prefix='a"),
        ({"prefix": "a" * 513}, "513 characters"),
        ({"prefix": 5}, "prefix=5: pass text"),
        ({"prefix": b"a"}, "prefix=b'a': pass text"),
        ({"prefix": "späti"}, "prefix"),
        ({"endpoint": "localhost:9000"}, "is not a URL"),
        ({"endpoint": "http://localhost:99999"}, "is not a URL"),
        ({"endpoint": "http://256.1.1.1"}, "is not a URL"),
        ({"endpoint": "http://local host"}, "is not a URL"),
        ({"endpoint": "http://h/a//b"}, "is not a URL"),
        ({"endpoint": "ftp://h"}, "is not a URL"),
        ({"secret_key": None}, "secret_key is missing"),
        ({"access_key": None}, "access_key is missing"),
        ({"access_key": None, "secret_key": None}, "no credentials"),
        ({"access_key": None, "secret_key": None, "session_token": "t"}, "session_token needs"),
        ({"use_default_chain": True}, "more than one source"),
        ({"credentials_provider": _provider}, "more than one source"),
        ({"addressing_style": "dns"}, "addressing_style"),
        ({"sse": "rot13"}, "sse"),
    ],
)
def test_what_cannot_work_is_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigurationError, match=message) as caught:
        S3Config(**{"bucket": "bucket", **KEYS, **changes})
    assert "very-secret-key" not in str(caught.value)


def test_secrets_are_not_shown() -> None:
    config = S3Config(bucket="bucket", prefix="p", session_token="very-secret-token", **KEYS)
    for text in (repr(config), str(config), f"{config}", f"{[config]}"):
        assert "very-secret" not in text
        assert "bucket='bucket'" in text
        assert "***" in text
    assert "very-secret" not in repr(_provider())
    assert "very-secret" not in f"{_provider()}"
    with_provider = repr(S3Config(bucket="bucket", credentials_provider=_provider))
    assert "_provider at" not in with_provider


@pytest.mark.parametrize(
    "config", [S3Config(bucket="bucket", **KEYS), S3Config("bucket", credentials_provider=_provider)]
)
def test_secrets_are_not_pickled(config: S3Config) -> None:
    with pytest.raises(TypeError, match="not pickled") as caught:
        pickle.dumps(config)
    assert "very-secret-key" not in str(caught.value)


@pytest.mark.parametrize("protocol", range(2, pickle.HIGHEST_PROTOCOL + 1))
def test_what_holds_no_secrets_is_pickled(protocol: int) -> None:
    config = S3Config(bucket="bucket", prefix="a/b", endpoint="http://localhost:1", use_default_chain=True)
    assert pickle.loads(pickle.dumps(config, protocol)) == config


@pytest.mark.parametrize(("given", "kept"), [("", ""), ("a", "a"), ("/a/b/", "a/b"), ("a/b", "a/b")])
def test_uri(given: str, kept: str) -> None:
    config = S3Config(bucket="bucket", prefix=given, **KEYS)
    assert config.prefix == kept
    assert config.uri == (f"s3://bucket/{kept}" if kept else "s3://bucket")


@pytest.mark.parametrize(
    ("style", "endpoint", "path"),
    [
        ("auto", None, False),
        ("auto", "http://localhost:1", True),
        ("path", None, True),
        ("virtual", "http://localhost:1", False),
    ],
)
def test_addressing(style: Any, endpoint: str | None, path: bool) -> None:
    assert S3Config(bucket="bucket", endpoint=endpoint, addressing_style=style, **KEYS).uses_path_style is path


CONFIG = S3Config(bucket="other", prefix="q", endpoint="http://localhost:1", **KEYS)
PAIR = {"DATASHARD_S3_ACCESS_KEY": "AKIAPUBLIC", "DATASHARD_S3_SECRET_KEY": "very-secret-key"}
S3 = {"DATASHARD_STORAGE_TYPE": "s3", "DATASHARD_S3_BUCKET": "bucket", **PAIR}
BARE: dict[str, Any] = {"bucket": "bucket", "use_default_chain": True}


@pytest.mark.parametrize(
    ("environ", "uri", "config", "expected"),
    [
        ({}, None, None, LocalConfig(DEFAULT_FOLDER)),
        ({"DATASHARD_STORAGE_TYPE": "local"}, None, None, LocalConfig(DEFAULT_FOLDER)),
        ({}, "/srv/tables", None, LocalConfig("/srv/tables")),
        ({}, "file:///srv/tables", None, LocalConfig("/srv/tables")),
        (S3, "folder", None, LocalConfig("folder")),
        (S3, Path("folder"), None, LocalConfig("folder")),
        ({}, "./s3:", None, LocalConfig("s3:")),
        (S3, None, LocalConfig("mine"), LocalConfig("mine")),
        (S3, None, CONFIG, CONFIG),
        (S3, None, None, S3Config("bucket", **KEYS)),
        ({**S3, "DATASHARD_STORAGE_TYPE": " S3 "}, None, None, S3Config("bucket", **KEYS)),
        ({**S3, "DATASHARD_S3_PREFIX": "a/b/"}, None, None, S3Config("bucket", "a/b", **KEYS)),
        ({**S3, "DATASHARD_S3_REGION": "eu-west-1"}, None, None, S3Config("bucket", region="eu-west-1", **KEYS)),
        (
            {**S3, "DATASHARD_S3_ENDPOINT": "http://minio:9000/"},
            None,
            None,
            S3Config("bucket", endpoint="http://minio:9000", **KEYS),
        ),
        ({**S3, "DATASHARD_S3_ENDPOINT": "https://s3.amazonaws.com"}, None, None, S3Config("bucket", **KEYS)),
        ({**S3, "DATASHARD_S3_SESSION_TOKEN": "tok"}, None, None, S3Config("bucket", session_token="tok", **KEYS)),
        (
            {"DATASHARD_STORAGE_TYPE": "s3", "DATASHARD_S3_BUCKET": "bucket", "DATASHARD_S3_SESSION_TOKEN": "tok"},
            None,
            None,
            S3Config(**BARE),
        ),
        ({}, "s3://bucket/a", None, S3Config(prefix="a", **BARE)),
        ({}, "s3a://bucket/a/b", None, S3Config(prefix="a/b", **BARE)),
        ({"DATASHARD_STORAGE_TYPE": "local", **PAIR}, "s3://bucket", None, S3Config("bucket", **KEYS)),
        ({**S3, "DATASHARD_S3_PREFIX": "not"}, "s3://elsewhere/p", None, S3Config("elsewhere", "p", **KEYS)),
        (S3, "s3://bucket/p", CONFIG, S3Config("bucket", "p", endpoint="http://localhost:1", **KEYS)),
    ],
)
def test_where_a_script_has_its_tables(
    environ: dict[str, str], uri: str | Path | None, config: Any, expected: Any
) -> None:
    assert resolve_warehouse(uri, config, environ) == expected


@pytest.mark.parametrize(
    ("environ", "uri", "config", "message"),
    [
        ({"DATASHARD_STORAGE_TYPE": "gcs"}, None, None, "gcs"),
        ({"DATASHARD_STORAGE_TYPE": "s3"}, None, None, "DATASHARD_S3_BUCKET is not set"),
        ({**S3, "DATASHARD_S3_SECRET_KEY": ""}, None, None, "DATASHARD_S3_SECRET_KEY is not set"),
        ({**S3, "DATASHARD_S3_ACCESS_KEY": ""}, None, None, "DATASHARD_S3_ACCESS_KEY is not set"),
        ({**S3, "DATASHARD_S3_ENDPOINT": "minio:9000"}, None, None, "minio:9000"),
        ({}, "file://relative", None, "three slashes"),
        ({}, "gs://bucket/a", None, "gs://bucket/a"),
        ({}, "s3://", None, "bucket"),
        ({}, "", None, "is no place"),
        ({}, "s3:", None, "or ./s3: for a folder"),
        ({}, "s3:/bucket/a", None, "write s3://bucket/prefix"),
        ({}, "s3://bucket/a/../c", None, "write prefix='c'"),
        ({}, "s3://bucket/./c", None, "write prefix='c'"),
        ({}, "s3://bucket/a//c", None, "single slashes"),
        ({}, "s3://bucket/a?b", None, "single slashes"),
        ({}, "s3://bucket/a/../c", CONFIG, "write prefix='c'"),
        (
            {"DATASHARD_STORAGE_TYPE": "s3", "DATASHARD_S3_BUCKET": "bkt", "DATASHARD_S3_PREFIX": "a/.."},
            None,
            None,
            "'..'",
        ),
        ({}, "lake\0", None, "cannot be a folder"),
        ({}, "file:///lake\0", None, "cannot be a folder"),
        ({}, "lake/a\ud800", None, "cannot be a folder"),
        ({}, "file:///lake/a\ud800", None, "cannot be a folder"),
        ({}, "s3://bucket/a\ud800", CONFIG, "pass text"),
        ({}, "s3://buc\0ket/a", CONFIG, "cannot be the name of a bucket"),
        ({}, 5, None, "5 is no place"),
        ({}, "s3://bucket/a", LocalConfig("folder"), "names the folder 'folder'"),
    ],
)
def test_what_leads_nowhere_is_refused(environ: dict[str, str], uri: Any, config: Any, message: str) -> None:
    with pytest.raises(ConfigurationError, match=message) as caught:
        resolve_warehouse(uri, config, environ)
    assert "very-secret-key" not in str(caught.value)


def test_the_variables_of_the_process_are_used(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in S3.items():
        monkeypatch.setenv(name, value)
    assert resolve_warehouse() == S3Config("bucket", **KEYS)


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ("events", (None, "events")),
        ("sales.events", (None, "sales.events")),
        ("s3://bucket/events", ("s3://bucket", "events")),
        ("s3://bucket/a/b/events/", ("s3://bucket/a/b", "events")),
        ("file:///srv/events", ("file:///srv", "events")),
        ("/srv/tables/events", ("/srv/tables", "events")),
        ("tables/events", ("tables", "events")),
    ],
)
def test_a_tables_uri_is_split(given: str, expected: tuple[str | None, str]) -> None:
    assert split_table_uri(given) == expected


@pytest.mark.parametrize("given", ["", "  ", "s3://bucket", "s3://", "s3:events", "file:///", "/events", "/"])
def test_what_names_no_table_is_refused(given: str) -> None:
    with pytest.raises(ConfigurationError):
        split_table_uri(given)


@pytest.mark.parametrize(
    "endpoint",
    [
        "http://me:hunter2@minio:9000",
        "https://hunter2@minio/storage/v1/s3",
        "http://me:hunter2@[::1",
        "me:hunter2@minio",
        "https://me:hunter2/with?slash#@minio",
        "https://minio/?X-Amz-Signature=hunter2",
        "https://minio#hunter2",
    ],
)
def test_a_secret_in_the_endpoint_is_refused_and_not_repeated(endpoint: str) -> None:
    for make in (
        lambda: S3Config(bucket="bucket", endpoint=endpoint, **KEYS),
        lambda: resolve_warehouse("s3://bucket/p", environ={"DATASHARD_S3_ENDPOINT": endpoint}),
    ):
        with pytest.raises(ConfigurationError, match="endpoint") as caught:
            make()
        told = "".join(traceback.format_exception(caught.value)) + repr(caught.value.args)
        assert "hunter2" not in told.replace(repr(endpoint), "").replace(endpoint, "") and "hunter2" not in str(
            caught.value
        )


@pytest.mark.parametrize(
    "endpoint",
    ["https://host/storage/v1/s3", "http://[::1]:9000", "http://10.0.0.1:9000/a", "https://a.b-c.example/x_y"],
)
def test_endpoints_may_have_a_path(endpoint: str) -> None:
    assert S3Config(bucket="bucket", endpoint=f"{endpoint}/", **KEYS).endpoint == endpoint


def test_a_bucket_never_stands_before_an_address() -> None:
    there = S3Config(bucket="bucket", endpoint="http://127.0.0.1:9000", addressing_style="virtual", **KEYS)
    assert there.uses_path_style
    assert not replace(there, endpoint="http://store:9000").uses_path_style


SECRET = "hunter2SECRETvalue"


def everything(error: BaseException | None) -> str:
    """An error and all that is behind it."""
    return (
        "" if error is None else f"{error!r} {error} {vars(error)} " + everything(error.__cause__ or error.__context__)
    )


@pytest.mark.parametrize(
    "endpoint",
    [
        f"https://key:{SECRET}@host:99999",
        f"https://key:{SECRET}@[::1",
        f"https://key:{SECRET}\u2100@host",  # urllib quotes it
        f"https://key:{SECRET}%40host",
        f"https://key:{SECRET}\uff20host",
        f"https://key:{SECRET}",
        f"https:/key:{SECRET}@host",
        f"https://host/;secret={SECRET}",
        f"https://host/a&secret={SECRET}",
        f"https://key:p?{SECRET}@host",
        f"https://key:{SECRET}?x",
    ],
)
def test_no_secret_of_an_endpoint_is_in_its_error(endpoint: str) -> None:
    with pytest.raises(ConfigurationError, match="endpoint") as caught:
        S3Config("bucket", endpoint=endpoint, access_key="a", secret_key="b")
    assert SECRET not in everything(caught.value)


@pytest.mark.parametrize(
    ("uri", "told"),
    [
        (f"s3://key:{SECRET}@bucket/p", "bucket='key:***@bucket' .*keys go into access_key= and secret_key="),
        (f"s3a://{SECRET}@bucket", "bucket='***@bucket'"),
        (f"s3://bucket/p?secret_key={SECRET}", "prefix='p?***'"),
        (f"s3://bucket/p?X-Amz-Signature={SECRET}&x=1", "prefix='p?***'"),
        (f"s3:key:{SECRET}@bucket", "write s3://bucket/prefix, or ./s3:***@bucket"),
        (f"https://key:{SECRET}@host/b", "'https://***@host/b' is no place"),
        (f"https://b.s3.amazonaws.com/p?X-Amz-Signature={SECRET}", "'https://b.s3.amazonaws.com/p?***' is no place"),
        (f"file://key:{SECRET}@host/x", "'file://***@host/x': a file URI"),
    ],
)
def test_no_secret_of_a_place_is_in_its_error(uri: str, told: str) -> None:
    pattern = re.escape(told).replace(re.escape(".*"), ".*")
    with pytest.raises(ConfigurationError, match=pattern) as caught:
        resolve_warehouse(uri, None, {})
    assert SECRET not in everything(caught.value)
    with pytest.raises(ConfigurationError) as caught:
        ds.load_table(f"{uri}/t")
    assert SECRET not in everything(caught.value)
    with pytest.raises(ConfigurationError, match="cannot be the name of a bucket") as caught:
        resolve_warehouse(None, None, {"DATASHARD_STORAGE_TYPE": "s3", "DATASHARD_S3_BUCKET": uri})
    assert SECRET not in everything(caught.value)


def test_rich_shows_no_secret_of_a_config() -> None:
    """Prefect and Typer print the local variables of a traceback by Rich, which asks for ``__rich_repr__``."""
    config = S3Config("bucket", access_key="a", secret_key=SECRET, session_token=f"{SECRET}2")
    assert dict(config.__rich_repr__()) == {
        "bucket": "bucket",
        "access_key": "a",
        "secret_key": "***",
        "session_token": "***",
    }
    assert repr(config) == "S3Config(bucket='bucket', access_key='a', secret_key='***', session_token='***')"
