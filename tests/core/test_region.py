"""Where a bucket of AWS is: asked for once, whatever else AWS answers, and corrected when AWS says elsewhere."""

from __future__ import annotations

import logging
import socket
import threading
from collections.abc import Callable
from typing import Any

import pytest
from datashard_testkit.scripted_server import ScriptedServer, answer, refusal

from datashard_core.config import S3Config, TransportChoice
from datashard_core.errors import StorageError
from datashard_core.storage import region, s3_client, s3_obstore
from datashard_core.storage.s3 import S3Storage
from datashard_core.storage.s3_boto import BotoTransport

TRANSPORTS: tuple[TransportChoice, ...] = ("boto3", "obstore")
WHOLE = ('ETag: "a"', "Last-Modified: Mon, 30 Nov 2026 11:00:00 GMT")


class Aws:
    """AWS on loopback: tells a bucket's region, and takes requests that are signed for it alone.

    Args:
        told: makes the answer to the question where the bucket is.
        region: where the bucket is.
    """

    def __init__(self, told: Callable[[bytes], bytes], region: str = "eu-west-1") -> None:
        self.told, self.region = told, region
        self.asked: list[bytes] = []
        self.served: list[str] = []

    def __call__(self, head: bytes) -> bytes:
        _, _, signed = head.decode("latin-1").partition("Credential=")
        if not signed:
            self.asked.append(head.split(b"\r\n")[0])
            return self.told(head)
        used = signed.split("/")[2]
        self.served.append(used)
        if used != self.region:
            more = f"<Region>{self.region}</Region>"
            return refusal(head, 400, "AuthorizationHeaderMalformed", f"the region {used!r} is wrong", more)
        return answer(head, 200, "hello" if head.startswith(b"GET") else "", *WHOLE)


@pytest.fixture(autouse=True)
def fresh_clients(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(s3_client, "_made", {})
    for name in ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "http_proxy", "https_proxy", "all_proxy"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture(params=TRANSPORTS)
def storage_on(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Callable[..., S3Storage]:
    """Makes a storage of AWS whose addresses lead to a server on loopback."""
    if request.param == "obstore":
        pytest.importorskip("obstore")

    def make(address: str, **changes: Any) -> S3Storage:
        monkeypatch.setattr(region, "AWS", address)
        monkeypatch.setattr(s3_obstore, "address", lambda config: (address, False))
        made = BotoTransport._make

        def make_client(transport: BotoTransport, name: str) -> Any:
            from msgspec.structs import replace

            config, transport._config = transport._config, replace(transport._config, endpoint=address)
            try:
                return made(transport, name)
            finally:
                transport._config = config

        monkeypatch.setattr(BotoTransport, "_make", make_client)
        values: dict[str, Any] = {"access_key": "key", "secret_key": "secret", "max_attempts": 1, **changes}
        return S3Storage(S3Config(bucket="bucket", transport=request.param, **values))

    return make


def told(status: int, *headers: str) -> Callable[[bytes], bytes]:
    return lambda head: answer(head, status, "", *headers)


@pytest.mark.parametrize("status", [200, 301, 307, 400, 403])
def test_the_region_that_aws_names_is_used_and_asked_for_once(
    status: int, storage_on: Callable[..., S3Storage]
) -> None:
    aws = Aws(told(status, "x-amz-bucket-region: eu-west-1", "Location: http://127.0.0.1:9/elsewhere"))
    with ScriptedServer(aws) as server:
        storage = storage_on(server.endpoint)
        for _ in range(3):
            assert storage.get("k").body == b"hello"
    assert aws.asked == [b"HEAD /bucket HTTP/1.1"], "one question, no redirect is followed"
    assert aws.served == ["eu-west-1"] * 3


def test_threads_ask_once(storage_on: Callable[..., S3Storage]) -> None:
    aws = Aws(told(403, "x-amz-bucket-region: eu-west-1"))
    with ScriptedServer(aws) as server:
        storage = storage_on(server.endpoint)
        threads = [threading.Thread(target=storage.get, args=("k",)) for _ in range(6)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert len(aws.asked) == 1 and aws.served == ["eu-west-1"] * 6


def test_a_region_that_is_given_is_not_asked_for(storage_on: Callable[..., S3Storage]) -> None:
    aws = Aws(told(500))
    with ScriptedServer(aws) as server:
        assert storage_on(server.endpoint, region="eu-west-1").get("k").body == b"hello"
    assert aws.asked == [] and aws.served == ["eu-west-1"]


def test_a_wrong_region_is_corrected_once(
    storage_on: Callable[..., S3Storage], caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.WARNING, logger="datashard_core")
    aws = Aws(told(403, "x-amz-bucket-region: eu-west-1"))
    with ScriptedServer(aws) as server:
        storage = storage_on(server.endpoint, region="us-west-2")
        assert storage.get("k").body == storage.get("k").body == b"hello"
        assert storage.put_if_absent("new", b"x") == '"a"', "a write that was refused had no effect, and is sent again"
    assert len(aws.asked) == 1
    assert aws.served == ["us-west-2", "eu-west-1", "eu-west-1", "eu-west-1"]
    assert [one.getMessage() for one in caplog.records] == [
        "bucket bucket is in eu-west-1, not in us-west-2: pass region="
    ]


def test_an_answer_without_the_header_means_the_default_region(storage_on: Callable[..., S3Storage]) -> None:
    aws = Aws(told(404), region="us-east-1")
    with ScriptedServer(aws) as server:
        assert storage_on(server.endpoint).get("k").body == b"hello"
    assert aws.served == ["us-east-1"] and len(aws.asked) == 1


def test_a_default_region_that_is_wrong_is_told_with_the_right_one(storage_on: Callable[..., S3Storage]) -> None:
    aws = Aws(told(403))
    with ScriptedServer(aws) as server, pytest.raises(StorageError, match="region='eu-west-1'") as caught:
        storage_on(server.endpoint).get("k")
    assert caught.value.reason == "other"
    assert aws.served == ["us-east-1"], "what is wrong is not sent again"


@pytest.mark.parametrize("operation", ["get", "put_if_absent"])
def test_a_network_that_fails_is_no_region(operation: str, storage_on: Callable[..., S3Storage]) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))  # bound and not listening: connections are refused
        storage = storage_on(f"http://127.0.0.1:{free.getsockname()[1]}", connect_timeout=1.0)
        with pytest.raises(StorageError, match=r"region of bucket bucket .*pass region=") as caught:
            storage.get("k") if operation == "get" else storage.put_if_absent("k", b"x")
    assert caught.value.reason == "unreachable"


def test_an_answer_that_is_no_http_is_a_failure_of_the_network(storage_on: Callable[..., S3Storage]) -> None:
    with (
        ScriptedServer(lambda head: b"SSH-2.0-OpenSSH\r\n\r\n") as server,
        pytest.raises(StorageError, match="pass region=") as caught,
    ):
        storage_on(server.endpoint).get("k")
    assert caught.value.reason == "unreachable"


def test_another_store_than_aws_is_not_asked(storage_on: Callable[..., S3Storage]) -> None:
    aws = Aws(told(500), region="us-east-1")
    with ScriptedServer(aws) as server:
        assert storage_on(server.endpoint, endpoint=server.endpoint).get("k").body == b"hello"
    assert aws.asked == [] and aws.served == ["us-east-1"]


def test_another_store_that_names_its_region_is_quoted(storage_on: Callable[..., S3Storage]) -> None:
    aws = Aws(told(200))
    with ScriptedServer(aws) as server, pytest.raises(StorageError, match="region='eu-west-1'"):
        storage_on(server.endpoint, endpoint=server.endpoint).get("k")
    assert aws.served == ["us-east-1"]


def test_a_redirect_names_the_place_that_the_store_names(storage_on: Callable[..., S3Storage]) -> None:
    def elsewhere(head: bytes) -> bytes:
        return answer(head, 301, "", "x-amz-bucket-region: ap-south-1", "Location: http://other.example.com/bucket")

    with ScriptedServer(elsewhere) as server, pytest.raises(StorageError, match="region='ap-south-1'") as caught:
        storage_on(server.endpoint, endpoint=server.endpoint).put_if_absent("k", b"x")
    assert caught.value.reason == "other" and "http://other.example.com/bucket" in str(caught.value)
