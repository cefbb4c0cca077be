"""Objects in a bucket: boto3 for metadata, Arrow's own client for Parquet."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from datashard_core.config import S3Config
from datashard_core.errors import DataShardError, StorageError
from datashard_core.storage.base import (
    ObjectInfo,
    OutcomeUnknownError,
    PreconditionFailedError,
    StoredObject,
    Version,
)
from datashard_core.storage.s3_client import S3Clients, clients_for
from datashard_core.storage.s3_errors import Answer, meaning

if TYPE_CHECKING:
    import pyarrow as pa
    import pyarrow.fs as pafs

DELETE_BATCH = 1000


class S3Storage:
    """Objects below a prefix of a bucket.

    Args:
        config: bucket, prefix, endpoint and credentials.
    """

    def __init__(self, config: S3Config) -> None:
        self._config = config
        self._base = f"{config.prefix}/" if config.prefix else ""
        self._shared: S3Clients = clients_for(config)

    @property
    def root(self) -> str:
        return self._config.uri

    @property
    def config(self) -> S3Config:
        """The configuration that it was made from."""
        return self._config

    def at(self, folder: str) -> S3Storage:
        deeper = S3Storage.__new__(S3Storage)
        deeper._config = replace(self._config, prefix=f"{self._base}{folder}")
        deeper._base = f"{self._base}{folder}/"
        deeper._shared = self._shared
        return deeper

    def get(self, key: str, byte_range: tuple[int, int] | None = None) -> StoredObject:
        extra: dict[str, str] = {}
        if byte_range is not None:
            start, end = byte_range
            extra["Range"] = f"bytes={start}-{end - 1}"
        with self._asking("get", key):
            answer = self._shared.retrying.get_object(Bucket=self._config.bucket, Key=self._base + key, **extra)
            body: bytes = answer["Body"].read()
        return StoredObject(body, Version(answer["ETag"]), answer["LastModified"].timestamp())

    def head(self, key: str) -> ObjectInfo:
        with self._asking("head", key):
            answer = self._shared.retrying.head_object(Bucket=self._config.bucket, Key=self._base + key)
        return ObjectInfo(key, answer["ContentLength"], Version(answer["ETag"]), answer["LastModified"].timestamp())

    def list(self, prefix: str, after: str | None = None) -> Iterator[ObjectInfo]:
        arguments: dict[str, Any] = {"Bucket": self._config.bucket, "Prefix": self._base + prefix}
        if after is not None:
            arguments["StartAfter"] = self._base + after
        while True:
            with self._asking("list", prefix):
                page = self._shared.retrying.list_objects_v2(**arguments)
            for found in page.get("Contents", ()):
                yield ObjectInfo(
                    found["Key"][len(self._base) :],
                    found["Size"],
                    Version(found["ETag"]),
                    found["LastModified"].timestamp(),
                )
            if not page.get("IsTruncated"):
                return
            arguments["ContinuationToken"] = page["NextContinuationToken"]

    def folders(self, folder: str = "") -> Sequence[str]:
        prefix = self._base + (f"{folder}/" if folder else "")
        arguments: dict[str, Any] = {"Bucket": self._config.bucket, "Prefix": prefix, "Delimiter": "/"}
        names: list[str] = []
        while True:
            with self._asking("list", folder):
                page = self._shared.retrying.list_objects_v2(**arguments)
            names += [found["Prefix"][len(prefix) : -1] for found in page.get("CommonPrefixes", ())]
            if not page.get("IsTruncated"):
                return sorted(names)
            arguments["ContinuationToken"] = page["NextContinuationToken"]

    def put(self, key: str, data: bytes) -> Version:
        with self._asking("put", key):
            answer = self._shared.retrying.put_object(**self._write(key, data))
        self._check_encryption(answer, key)
        return Version(answer["ETag"])

    def put_data(self, key: str, data: bytes | pa.Buffer) -> None:
        if self._config.sse is not None:
            # Arrow cannot ask for encryption, so such files go the way of the metadata.
            self.put(key, bytes(data))
            return
        with self.open_data(key) as sink:
            sink.write(data)

    @contextmanager
    def open_data(self, key: str) -> Iterator[Any]:
        with self._arrow(key):
            filesystem = self._shared.filesystem()
            sink = filesystem.open_output_stream(f"{self._config.bucket}/{self._base}{key}")
        try:
            yield sink
        except BaseException:
            # Arrow uploads what there is when the stream goes: a leftover that no table names.
            del sink
            raise
        with self._arrow(key):
            sink.close()

    def put_if_absent(self, key: str, data: bytes) -> Version:
        with self._asking("put_if_absent", key):
            answer = self._shared.once.put_object(**self._write(key, data), IfNoneMatch="*")
        self._check_encryption(answer, key)
        return Version(answer["ETag"])

    def replace(self, key: str, data: bytes, version: Version) -> Version:
        try:
            with self._asking("replace", key):
                answer = self._shared.once.put_object(**self._write(key, data), IfMatch=version)
        except StorageError as error:
            if error.reason != "unsupported":
                raise
            return self._replace_by_looking(key, data, version)
        return Version(answer["ETag"])

    def delete(self, keys: Sequence[str]) -> None:
        for start in range(0, len(keys), DELETE_BATCH):
            batch = keys[start : start + DELETE_BATCH]
            objects = [{"Key": self._base + key} for key in batch]
            with self._asking("delete", batch[0]):
                answer = self._shared.retrying.delete_objects(
                    Bucket=self._config.bucket, Delete={"Objects": objects, "Quiet": True}
                )
            for refused in answer.get("Errors", ()):
                if refused.get("Code") in ("NoSuchKey", "NotFound"):
                    continue
                status = 403 if refused.get("Code") == "AccessDenied" else 400
                raise meaning(
                    Answer(refused.get("Code", ""), status, refused.get("Message", "")),
                    "delete",
                    refused.get("Key", ""),
                    self._config,
                )

    def filesystem(self) -> tuple[pafs.FileSystem, str]:
        return self._shared.filesystem(), f"{self._config.bucket}/{self._base}".rstrip("/")

    # -----------------------------------------------------------------------------------------

    def _write(self, key: str, data: bytes) -> dict[str, Any]:
        arguments: dict[str, Any] = {
            "Bucket": self._config.bucket,
            "Key": self._base + key,
            "Body": bytes(data),
        }
        if self._config.sse is not None:
            arguments["ServerSideEncryption"] = self._config.sse
        if self._config.sse_kms_key_id is not None:
            arguments["SSEKMSKeyId"] = self._config.sse_kms_key_id
        return arguments

    def _check_encryption(self, answer: Any, key: str) -> None:
        """Some stores take the header and ignore it: then the wish was not granted."""
        if self._config.sse is not None and not answer.get("ServerSideEncryption"):
            raise StorageError(
                f"{self.root}/{key} was written, but the store did not encrypt it with {self._config.sse}, as the "
                "configuration asks. Use a store that does, or leave sse unset.",
                reason="unsupported",
                key=key,
            )

    def _replace_by_looking(self, key: str, data: bytes, version: Version) -> Version:
        """For stores without If-Match: look before and after. Good enough for a hint, which may lag."""
        if self.head(key).version != version:
            raise PreconditionFailedError(f"{self.root}/{key} is not {version} any more", key=key)
        written = self.put(key, data)
        if self.head(key).version != written:
            raise PreconditionFailedError(f"{self.root}/{key} was replaced by another writer", key=key)
        return written

    @contextmanager
    def _asking(self, operation: str, key: str) -> Iterator[None]:
        """Turn what botocore raises into what it means."""
        try:
            yield
        except DataShardError:
            raise
        except Exception as error:
            raise self._translated(error, operation, key) from error

    def _translated(self, error: Exception, operation: str, key: str) -> Exception:
        from botocore import exceptions as botocore
        from urllib3.exceptions import HTTPError

        where = f"{self.root}/{key}"
        if isinstance(error, botocore.ClientError):
            detail = error.response.get("Error", {})
            status = error.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0)
            answer = Answer(str(detail.get("Code", status)), int(status), str(detail.get("Message", "")))
            return meaning(answer, operation, self._base + key, self._config)
        if isinstance(error, (botocore.NoCredentialsError, botocore.PartialCredentialsError)):
            return StorageError(
                f"no credentials for bucket {self._config.bucket}: {error}",
                reason="credentials-missing",
                key=where,
            )
        conditional = operation in ("put_if_absent", "replace")
        if isinstance(error, (botocore.EndpointConnectionError, botocore.ConnectTimeoutError)):
            # Nothing was sent: there was no connection to send it on.
            return StorageError(
                f"{self._config.endpoint or 'AWS S3'} cannot be reached ({error}): check the endpoint, the network and "
                "that the store runs",
                reason="unreachable",
                key=where,
            )
        if isinstance(error, (botocore.BotoCoreError, HTTPError)):
            if conditional:
                return OutcomeUnknownError(f"{where}: {error}: the write may have landed or not", key=key)
            return StorageError(f"{operation} of {where} failed: {error}", reason="unreachable", key=where)
        return error

    @contextmanager
    def _arrow(self, key: str) -> Iterator[None]:
        """Turn what Arrow raises into what it means; its messages carry S3's codes as text."""
        try:
            yield
        except OSError as error:
            text = str(error)
            for code, status in _ARROW_CODES.items():
                if code in text:
                    answer = Answer(_ARROW_NAMES.get(code, code), status, "")
                    raise meaning(answer, "put", self._base + key, self._config) from error
            raise StorageError(
                f"put of {self.root}/{key} failed: {text[:300]}", reason="unreachable", key=key
            ) from error


_ARROW_CODES = {
    "NoSuchBucket": 404,
    "NO_SUCH_BUCKET": 404,
    "InvalidAccessKeyId": 403,
    "INVALID_ACCESS_KEY_ID": 403,
    "SignatureDoesNotMatch": 403,
    "ExpiredToken": 403,
    "ACCESS_DENIED": 403,
    "AccessDenied": 403,
    "SLOW_DOWN": 503,
    "SlowDown": 503,
}
_ARROW_NAMES = {
    "NO_SUCH_BUCKET": "NoSuchBucket",
    "INVALID_ACCESS_KEY_ID": "InvalidAccessKeyId",
    "ACCESS_DENIED": "AccessDenied",
    "SLOW_DOWN": "SlowDown",
}
