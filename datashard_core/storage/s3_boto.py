"""The transport that works everywhere: botocore's client.

It sends each request once; what may be tried again is tried again above it. Where a configuration
holds keys or a provider, nothing is taken from the environment: not AWS_PROFILE, not AWS_REGION, not
AWS_ENDPOINT_URL, no file of AWS's tools.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from datashard_core.config import Credentials, S3Config
from datashard_core.errors import StorageError
from datashard_core.storage.base import ObjectInfo, StoredObject, Version
from datashard_core.storage.s3_errors import Answer, read_answer
from datashard_core.storage.transport import (
    PAGE,
    UNKNOWN_SIZE,
    UNKNOWN_TIME,
    BrokenError,
    Condition,
    NotSentError,
    Page,
    RefusedError,
    TransportError,
    UnfitError,
    Written,
)

if TYPE_CHECKING:
    from datashard_core.storage.s3_client import S3Clients

POOL = 64
SMALL = 1 << 20
_USUAL_HEADERS = ("content-length", "transfer-encoding", "connection", "date", "etag", "last-modified")
_BODY = "DatashardBody"


class BotoTransport:
    """botocore's S3 client.

    Args:
        clients: whose credentials and region it uses.
    """

    name = "boto3"

    def __init__(self, clients: S3Clients) -> None:
        self._clients = clients
        self._config = clients.config
        self._lock = threading.Lock()
        self._made: tuple[str, Any] | None = None

    @property
    def _client(self) -> Any:
        """The client for the bucket's region, which may turn out to be another one than was thought."""
        region = self._clients.region
        made = self._made
        if made is None or made[0] != region:
            with self._lock:
                made = self._made
                if made is None or made[0] != region:
                    made = self._made = (region, self._make(region))
        return made[1]

    def get(self, key: str, byte_range: tuple[int, int] | None) -> StoredObject:
        extra: dict[str, str] = {}
        if byte_range is not None:
            start, end = byte_range
            extra["Range"] = f"bytes={start}-{end - 1}"
        with self._told():
            answer = self._client.get_object(Bucket=self._config.bucket, Key=key, **extra)
            _check_whole(answer)
            body: bytes = answer["Body"].read()
            if byte_range is not None and answer["ResponseMetadata"]["HTTPStatusCode"] == 200:
                body = body[byte_range[0] : byte_range[1]]  # the store has no ranges, and sent all
            return StoredObject(body, _version(answer), _seconds(answer))

    def get_data(self, key: str) -> bytes:
        return self.get(key, None).body

    def head(self, key: str) -> ObjectInfo:
        with self._told():
            answer = self._client.head_object(Bucket=self._config.bucket, Key=key)
            _check_whole(answer)
            return ObjectInfo(key, answer.get("ContentLength", UNKNOWN_SIZE), _version(answer), _seconds(answer))

    def page(self, prefix: str, after: str | None) -> Page:
        more = {} if after is None else {"StartAfter": after}
        with self._told():
            answer = self._client.list_objects_v2(Bucket=self._config.bucket, Prefix=prefix, MaxKeys=PAGE, **more)
        objects = [_listed(found) for found in answer.get("Contents", ())]
        return Page(objects, objects[-1].key if answer.get("IsTruncated") and objects else None)

    def folders(self, prefix: str) -> list[str]:
        arguments: dict[str, Any] = {"Bucket": self._config.bucket, "Prefix": prefix, "Delimiter": "/"}
        names: list[str] = []
        while True:
            with self._told():
                answer = self._client.list_objects_v2(**arguments)
            names += [found["Prefix"] for found in answer.get("CommonPrefixes", ())]
            if not answer.get("IsTruncated"):
                return names
            arguments["ContinuationToken"] = answer["NextContinuationToken"]

    def put(self, key: str, data: Any, condition: Condition | None) -> Written:
        arguments: dict[str, Any] = {"Bucket": self._config.bucket, "Key": key, "Body": _body(data)}
        if condition is not None:
            arguments |= {"IfNoneMatch": "*"} if condition.version is None else {"IfMatch": condition.version}
        if self._config.sse is not None:
            arguments["ServerSideEncryption"] = self._config.sse
        if self._config.sse_kms_key_id is not None:
            arguments["SSEKMSKeyId"] = self._config.sse_kms_key_id
        with self._told():
            answer = self._client.put_object(**arguments)
            _check_whole(answer)
            return Written(_version(answer), answer.get("ServerSideEncryption"))

    def delete(self, keys: Sequence[str]) -> Sequence[tuple[str, Answer]]:
        wanted = {"Objects": [{"Key": key} for key in keys], "Quiet": True}
        with self._told():
            answer = self._client.delete_objects(Bucket=self._config.bucket, Delete=wanted)
        return [
            (refused.get("Key", ""), Answer(refused.get("Code", ""), 200, refused.get("Message", "")))
            for refused in answer.get("Errors", ())
        ]

    def delete_one(self, key: str) -> None:
        with self._told():
            self._client.delete_object(Bucket=self._config.bucket, Key=key)

    # -----------------------------------------------------------------------------------------

    def _make(self, region: str) -> Any:
        from botocore.config import Config

        config = self._config
        client = self._clients.session().create_client(
            "s3",
            region_name=region,
            endpoint_url=config.endpoint,
            # With the default chain, AWS's own settings (AWS_CA_BUNDLE among them) are the user's wish.
            verify=None if config.use_default_chain and config.verify_tls is True else config.verify_tls,
            config=Config(
                connect_timeout=config.connect_timeout,
                read_timeout=config.read_timeout,
                retries={"mode": "standard", "total_max_attempts": 1},
                max_pool_connections=POOL,
                tcp_keepalive=True,
                request_checksum_calculation="when_required",
                response_checksum_validation="when_required",
                ignore_configured_endpoint_urls=not config.use_default_chain,
                user_agent_extra="datashard",
                s3={"addressing_style": "path" if config.uses_path_style else "virtual"},
            ),
        )
        client.meta.events.register("before-call.s3.PutObject", _without_expect)
        client.meta.events.register("before-call.s3", _without_redirects)
        client.meta.events.register("response-received.s3", _with_page)
        return client

    @contextmanager
    def _told(self) -> Iterator[None]:
        """Turn what botocore raises into how it failed."""
        try:
            yield
        except TransportError:
            raise
        except Exception as error:
            raise self._failure(error) from error

    def _failure(self, error: Exception) -> Exception:
        from botocore import exceptions as botocore
        from botocore.parsers import ResponseParserError
        from urllib3.exceptions import HTTPError

        if isinstance(error, botocore.ClientError):
            return RefusedError(_answer(error.response))
        if isinstance(error, (botocore.NoCredentialsError, botocore.PartialCredentialsError)):
            return StorageError(
                f"no credentials for bucket {self._config.bucket}: {error}",
                reason="credentials-missing",
                key=self._config.uri,
            )
        if isinstance(error, ResponseParserError) or (isinstance(error, ValueError) and "timestamp" in str(error)):
            return UnfitError(f"a value in the answer cannot be read: {error}")
        kind: type[TransportError] | None = None
        if isinstance(error, (botocore.EndpointConnectionError, botocore.ConnectTimeoutError)):
            kind = NotSentError
        elif isinstance(error, (botocore.BotoCoreError, HTTPError)):
            kind = BrokenError
        return error if kind is None else kind(str(error))


def _version(found: Any) -> Version:
    """An ETag, or "" where the store has none."""
    return Version(found.get("ETag") or "")


def _seconds(found: Any) -> float:
    changed = found.get("LastModified")
    return UNKNOWN_TIME if changed is None else float(changed.timestamp())


def _listed(found: Any) -> ObjectInfo:
    for name in ("Key", "Size", "LastModified"):
        if found.get(name) in (None, ""):
            raise UnfitError(f"an object in the store's listing has no {name}")
    return ObjectInfo(found["Key"], found["Size"], _version(found), _seconds(found))


def _check_whole(answer: Any) -> None:
    """Notice headers that were cut off on the way: botocore takes what there is for all of them.

    Raises:
        BrokenError: not one header is there that every server sends.
    """
    headers = answer["ResponseMetadata"]["HTTPHeaders"]
    if not any(name in headers for name in _USUAL_HEADERS):
        raise BrokenError("the answer was cut short in its headers")


def _answer(response: Any) -> Answer:
    """A refusal as the store sent it; botocore's reading of it where the body is not at hand."""
    told = response.get("ResponseMetadata", {})
    headers, status, body = told.get("HTTPHeaders", {}), int(told.get("HTTPStatusCode", 0)), told.get(_BODY)
    region, location = headers.get("x-amz-bucket-region", ""), headers.get("location", "")
    if body is not None:
        return read_answer(status, body.decode("utf-8", "replace"), region, location)
    detail = response.get("Error", {})
    return Answer(str(detail.get("Code") or status), status, "", region, location)


def _body(data: Any) -> Any:
    """What botocore takes for a body: bytes, or an open file."""
    return data if isinstance(data, bytes) or hasattr(data, "read") else bytes(data)


def make_session(config: S3Config, credentials: Callable[[], Credentials]) -> Any:
    """A botocore session that knows AWS's settings (default chain), or nothing but our credentials."""
    import botocore.session

    if config.use_default_chain:
        return botocore.session.Session()
    # Every variable that the environment could set is given a name of its own that nobody sets, so
    # that a worker's AWS_PROFILE or AWS_CONFIG_FILE is not even looked at.
    session = botocore.session.Session(
        session_vars={name: (None, None, None, None) for name in ("profile", "region", "ca_bundle")}
    )
    session.set_config_variable("config_file", os.devnull)
    session.set_config_variable("credentials_file", os.devnull)
    session.register_component("credential_provider", _provider(credentials))
    return session


def _provider(credentials: Callable[[], Credentials]) -> Any:
    """What botocore asks for credentials: ours, asked of their owner again for each request."""
    from botocore.credentials import Credentials as BotoCredentials
    from botocore.credentials import ReadOnlyCredentials

    class Provided(BotoCredentials):  # type: ignore[misc]
        def get_frozen_credentials(self) -> Any:
            return ReadOnlyCredentials(*credentials())

    class Provider:
        def load_credentials(self) -> Any:
            return Provided(*credentials(), method="datashard")

    return Provider()


def _without_expect(params: Any, **_: Any) -> None:
    """``Expect: 100-continue`` costs a round trip, and a small body is sent as quickly as it asks."""
    body = params.get("body")
    if isinstance(body, bytes) and len(body) < SMALL:
        params["headers"].pop("Expect", None)


def _without_redirects(params: Any, **_: Any) -> None:
    """Let the answers 301 and 307 come back: botocore follows them, in a circle until the stack ends."""
    params.get("context", {}).setdefault("s3_redirect", {})["redirected"] = True


def _with_page(response_dict: Any = None, parsed_response: Any = None, **_: Any) -> None:
    """Keep the body of a refusal, of which botocore keeps nothing if it is no XML of S3."""
    if parsed_response is None or response_dict is None or "Error" not in parsed_response:
        return
    told = parsed_response.setdefault("ResponseMetadata", {})
    told["HTTPStatusCode"] = response_dict["status_code"]
    body = response_dict.get("body")
    if isinstance(body, bytes) and body:
        told[_BODY] = body
