"""What a store's refusals mean: case by case, and from a real server."""

from __future__ import annotations

import socket
from collections.abc import Callable

import pytest
from datashard_testkit.s3_server import S3Server

from datashard_core.config import S3Config, TransportChoice
from datashard_core.errors import DataShardError, StorageError, StoreNotConditionalError
from datashard_core.storage.base import ObjectNotFoundError, OutcomeUnknownError, PreconditionFailedError
from datashard_core.storage.s3 import S3Storage
from datashard_core.storage.s3_errors import PERMISSIONS, Answer, meaning

CONFIG = S3Config("bucket", "p", endpoint="http://localhost:1", region="eu-west-1", access_key="a", secret_key="s")
CASES: list[tuple[str, str, int, type[DataShardError], str | None]] = [
    ("get", "NoSuchBucket", 404, StorageError, "bucket-missing"),
    ("put_if_absent", "NoSuchBucket", 404, StorageError, "bucket-missing"),
    ("replace", "NoSuchBucket", 404, StorageError, "bucket-missing"),
    ("get", "NoSuchKey", 404, ObjectNotFoundError, None),
    ("head", "404", 404, ObjectNotFoundError, None),
    ("delete", "NotFound", 404, ObjectNotFoundError, None),
    ("replace", "NoSuchKey", 404, PreconditionFailedError, None),
    ("put_if_absent", "PreconditionFailed", 412, PreconditionFailedError, None),
    ("replace", "412", 412, PreconditionFailedError, None),
    ("put_if_absent", "ConditionalRequestConflict", 409, OutcomeUnknownError, None),
    ("put_if_absent", "InternalError", 500, OutcomeUnknownError, None),
    ("replace", "RequestTimeout", 408, OutcomeUnknownError, None),
    ("replace", "SlowDown", 503, OutcomeUnknownError, None),
    ("put_if_absent", "429", 429, OutcomeUnknownError, None),
    ("put_if_absent", "NotImplemented", 501, StoreNotConditionalError, None),
    ("replace", "501", 501, StoreNotConditionalError, None),
    ("put_if_absent", "AccessDenied", 403, StorageError, "access-denied"),
    ("put_if_absent", "InvalidAccessKeyId", 403, StorageError, "credentials-missing"),
    ("get", "SignatureDoesNotMatch", 403, StorageError, "credentials-missing"),
    ("get", "ExpiredToken", 400, StorageError, "credentials-missing"),
    ("get", "403", 403, StorageError, "access-denied"),
    ("put", "SlowDown", 503, StorageError, "throttled"),
    ("get", "ServiceUnavailable", 503, StorageError, "throttled"),
    ("get", "429", 429, StorageError, "throttled"),
    ("get", "InternalError", 500, StorageError, "unreachable"),
    ("put", "502", 502, StorageError, "unreachable"),
    ("put", "EntityTooLarge", 400, StorageError, "other"),
    ("put", "PreconditionFailed", 412, StorageError, "other"),
]


@pytest.mark.parametrize(("operation", "code", "status", "kind", "reason"), CASES)
def test_an_answer_means(
    operation: str, code: str, status: int, kind: type[DataShardError], reason: str | None
) -> None:
    found = meaning(Answer(code, status, "as the store says"), operation, "p/t/x", CONFIG)
    assert type(found) is kind
    if reason is not None:
        assert isinstance(found, StorageError)
        assert found.reason == reason
    assert "bucket" in str(found)


def test_a_missing_bucket_tells_how_to_make_it() -> None:
    text = str(meaning(Answer("NoSuchBucket", 404), "get", "p/x", CONFIG))
    assert "aws s3 mb s3://bucket --region eu-west-1 --endpoint-url http://localhost:1" in text
    on_aws = S3Config("bucket", use_default_chain=True)
    assert str(meaning(Answer("NoSuchBucket", 404), "get", "x", on_aws)).endswith("aws s3 mb s3://bucket")


@pytest.mark.parametrize("operation", list(PERMISSIONS))
def test_a_denial_names_the_permission_and_the_object(operation: str) -> None:
    text = str(meaning(Answer("AccessDenied", 403), operation, "p/t/x", CONFIG))
    assert f"{PERMISSIONS[operation]} is missing on s3://bucket/p/t/x" in text
    assert ("s3:ListBucket on s3://bucket," in text) == (operation in ("get", "head"))


def _refused(config: S3Config) -> list[StorageError]:
    """What each operation answers."""
    storage = S3Storage(config)
    operations: list[Callable[[], object]] = [
        lambda: storage.get("k"),
        lambda: list(storage.list("")),
        lambda: storage.put("k", b"x"),
        lambda: storage.put_if_absent("k", b"x"),
    ]
    found = []
    for operation in operations:
        with pytest.raises(StorageError) as caught:
            operation()
        found.append(caught.value)
    return found


@pytest.mark.parametrize("transport", ["boto3", "obstore"])
def test_a_bucket_that_is_not_there(s3_server: S3Server, transport: str) -> None:
    for error in _refused(s3_server.config("p", bucket="no-such-bucket", transport=transport)):
        assert error.reason == "bucket-missing"
        assert "aws s3 mb s3://no-such-bucket" in str(error)
        assert s3_server.endpoint in str(error)


@pytest.mark.parametrize("transport", ["boto3", "obstore"])
def test_keys_that_are_not_accepted(s3_server: S3Server, transport: str) -> None:
    for error in _refused(s3_server.config("p", access_key="wrong", secret_key="hidden-secret", transport=transport)):
        assert error.reason == "credentials-missing"
        assert s3_server.endpoint in str(error)
        assert "hidden-secret" not in str(error)


@pytest.mark.parametrize("transport", ["boto3", "obstore"])
def test_an_endpoint_that_nobody_listens_on(transport: TransportChoice) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))  # bound and not listening: connections are refused
        endpoint = f"http://127.0.0.1:{free.getsockname()[1]}"
        config = S3Config(
            "bucket", endpoint=endpoint, access_key="a", secret_key="s", max_attempts=1, transport=transport
        )
        storage = S3Storage(config)
        with pytest.raises(StorageError, match=endpoint) as caught:
            storage.get("k")
        assert caught.value.reason == "unreachable"
        with pytest.raises((StorageError, OutcomeUnknownError), match=endpoint):
            storage.put_if_absent("k", b"x")


def test_an_object_that_is_not_there(s3_config: S3Config) -> None:
    with pytest.raises(ObjectNotFoundError, match="no/such/key"):
        S3Storage(s3_config).get("no/such/key")
