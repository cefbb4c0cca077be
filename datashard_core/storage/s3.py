"""Objects in a bucket, whichever client carries the requests.

What a store's answers mean, what is tried again, what is counted: all that is here, and the same for
every transport. Large data files go through Arrow's own client, in parts and in parallel.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import TYPE_CHECKING, Any, TypeVar

from msgspec.structs import replace

from datashard_core.clock import SYSTEM_CLOCK
from datashard_core.config import S3Config
from datashard_core.errors import DataShardError, StorageError
from datashard_core.storage.base import (
    ObjectInfo,
    ObjectNotFoundError,
    OutcomeUnknownError,
    PreconditionFailedError,
    StoredObject,
    Version,
)
from datashard_core.storage.keys import MAX_BYTES, Listed, checked_key, checked_prefix, folder_names
from datashard_core.storage.metrics import Meter, StorageMetrics
from datashard_core.storage.retry import with_retries
from datashard_core.storage.s3_client import S3Clients, clients_for
from datashard_core.storage.s3_errors import CONDITIONAL, Answer, meaning, wrong_region
from datashard_core.storage.transport import (
    ABSENT,
    BrokenError,
    Condition,
    NotSentError,
    Page,
    RefusedError,
    Transport,
    TransportError,
    Written,
)

if TYPE_CHECKING:
    import pyarrow as pa
    import pyarrow.fs as pafs

T = TypeVar("T")

DELETE_BATCH = 1000
ONE_PUT = 16 * 2**20
"""Data files up to this many bytes are one PUT of the transport; larger ones are Arrow's."""


class S3Storage:
    """Objects below a prefix of a bucket.

    Args:
        config: bucket, prefix, endpoint and credentials.
    """

    def __init__(self, config: S3Config) -> None:
        self._base = f"{config.prefix}/" if config.prefix else ""
        self._shared: S3Clients = clients_for(config)
        self._config = replace(self._shared.config, prefix=config.prefix)
        self._meter = Meter()

    @property
    def root(self) -> str:
        return self._config.uri

    @property
    def config(self) -> S3Config:
        """The configuration that it was made from, and with the default chain the endpoint that AWS's settings name."""
        return self._config

    def at(self, folder: str) -> S3Storage:
        deeper = S3Storage.__new__(S3Storage)
        deeper._config = replace(self._config, prefix=self._whole(folder))
        deeper._base = f"{deeper._config.prefix}/"
        deeper._shared = self._clients
        deeper._meter = Meter()
        # A table is about to be used. Imported here, the client is there when the first request wants it; in the
        # thread of that request it would have to share the interpreter with the imports of the main thread.
        _ = deeper._shared.transport
        return deeper

    def metrics(self) -> StorageMetrics:
        return self._meter.read(self._clients.transport_name)

    def get(self, key: str, byte_range: tuple[int, int] | None = None) -> StoredObject:
        whole = self._whole(key)
        found: StoredObject = self._ask("get", key, lambda transport: transport.get(whole, byte_range))
        self._meter.received(len(found.body))
        return found

    def get_data(self, key: str) -> bytes | memoryview:
        whole = self._whole(key)
        body: bytes | memoryview = self._ask("get", key, lambda transport: transport.get_data(whole))
        self._meter.received(len(body))
        return body

    def head(self, key: str) -> ObjectInfo:
        whole = self._whole(key)
        return replace(self._ask("head", key, lambda transport: transport.head(whole)), key=key)

    def list(self, prefix: str, after: str | None = None) -> Iterator[ObjectInfo]:
        checked_prefix(prefix, self.root, MAX_BYTES - len(self._base))
        listed = Listed(self.root, prefix, after)
        start = None if after is None else self._base + after
        try:
            while True:
                page = self._page(prefix, start)
                for found in page.objects:
                    key = found.key[len(self._base) :]
                    if not found.key.startswith(self._base):
                        listed.skip(found.key)
                    elif listed.is_key(key):
                        yield replace(found, key=key)
                if page.following is None:
                    return
                if start is not None and page.following <= start:
                    raise StorageError(
                        f"the listing of {self.root}/{prefix} does not advance: after {start!r} the store names "
                        f"{page.following!r} again. It must support ListObjectsV2 with StartAfter.",
                        reason="unsupported",
                        key=f"{self.root}/{prefix}",
                    )
                start = page.following
        finally:
            listed.report()

    def _page(self, prefix: str, start: str | None) -> Page:
        return self._ask("list", prefix, lambda transport: transport.page(self._base + prefix, start))

    def folders(self, folder: str = "") -> Sequence[str]:
        prefix = f"{self._whole(folder)}/" if folder else self._base
        found = self._ask("list", folder, lambda transport: transport.folders(prefix))
        return sorted(folder_names(name[len(prefix) : -1] for name in found if name.startswith(prefix)))

    def put(self, key: str, data: bytes) -> Version:
        return self._write("put", key, data, None, len(data))

    def put_data(self, key: str, data: bytes | pa.Buffer) -> None:
        size = memoryview(data).nbytes
        if size <= ONE_PUT or self._config.sse is not None:  # Arrow cannot ask for encryption
            self._write("put", key, data, None, size)
            return
        self._meter.sent("put", size)
        with self.open_data(key) as sink:
            sink.write(data)

    @contextmanager
    def open_data(self, key: str) -> Iterator[Any]:
        if self._config.sse is not None:
            import tempfile

            with tempfile.TemporaryFile() as spool:  # Arrow cannot ask for encryption
                yield spool
                size = spool.tell()
                self._write("put", key, spool, None, size)
            return
        whole = self._whole(key)
        with self._arrow(key):
            filesystem = self._clients.filesystem()
            sink = filesystem.open_output_stream(f"{self._config.bucket}/{whole}")
        try:
            yield sink
        except BaseException as error:
            # Arrow uploads what there is when the stream goes: a leftover that no table names.
            del sink
            if isinstance(error, OSError) and _ARROW_SAYS in str(error):
                with self._arrow(key):
                    raise
            raise
        with self._arrow(key):
            sink.close()

    def put_if_absent(self, key: str, data: bytes) -> Version:
        return self._write("put_if_absent", key, data, ABSENT, len(data))

    def replace(self, key: str, data: bytes, version: Version) -> Version:
        try:
            return self._write("replace", key, data, Condition(version), len(data))
        except StorageError as error:
            if error.reason != "unsupported" or self._config.sse is not None:
                raise
            return self._replace_by_looking(key, data, version)

    def delete(self, keys: Sequence[str]) -> None:
        doomed = [self._whole(key) for key in keys]
        for start in range(0, len(keys), DELETE_BATCH):
            batch = doomed[start : start + DELETE_BATCH]
            refused = self._ask("delete", keys[start], partial(_delete, batch))
            for key, answer in refused:
                if answer.code not in ("NoSuchKey", "NotFound"):
                    raise meaning(answer, "delete", key, self._config)

    def open_input(self, key: str) -> pa.NativeFile:
        whole = self._whole(key)
        try:
            return self._clients.filesystem().open_input_file(f"{self._config.bucket}/{whole}")
        except FileNotFoundError as error:
            raise ObjectNotFoundError(f"{self.root}/{key} does not exist", key=key) from error

    def filesystem(self) -> tuple[pafs.FileSystem, str]:
        """Arrow's file system for the bucket, and the path of the root in it."""
        return self._clients.filesystem(), f"{self._config.bucket}/{self._base}".rstrip("/")

    def remove_unfinished(self, age: float) -> Sequence[ObjectInfo]:
        return ()  # parts of an upload that was never completed: a lifecycle rule of the bucket aborts those

    # -----------------------------------------------------------------------------------------

    @property
    def _clients(self) -> S3Clients:
        """Those of this process, also where the storage was made before a fork."""
        if self._shared.pid != os.getpid():
            self._shared = clients_for(self._config)
        return self._shared

    def _whole(self, key: str) -> str:
        """The key from the bucket's root."""
        return self._base + checked_key(key, self.root, MAX_BYTES - len(self._base))

    def _write(self, operation: str, key: str, data: Any, condition: Condition | None, size: int) -> Version:
        whole = self._whole(key)

        def send(transport: Transport) -> Written:
            if hasattr(data, "seek"):
                data.seek(0)
            return transport.put(whole, data, condition)

        written = self._ask(operation, key, send, size)
        if self._config.sse is not None and not written.encrypted:
            # Some stores take the header and ignore it: then the wish was not granted.
            raise StorageError(
                f"{self.root}/{key} was written, but the store did not encrypt it with {self._config.sse}, as the "
                "configuration asks. Use a store that does, or leave sse unset.",
                reason="unsupported",
                key=key,
            )
        return written.version

    def _replace_by_looking(self, key: str, data: bytes, version: Version) -> Version:
        """For stores without If-Match: look before and after. Good enough for a hint, which may lag."""
        if self.head(key).version != version:
            raise PreconditionFailedError(f"{self.root}/{key} is not {version} any more", key=key)
        written = self.put(key, data)
        if self.head(key).version != written:
            raise PreconditionFailedError(f"{self.root}/{key} was replaced by another writer", key=key)
        return written

    def _ask(self, operation: str, key: str, call: Callable[[Transport], T], size: int = 0) -> T:
        """Send a request; again where that cannot do harm and may help."""
        attempts = 1 if operation in CONDITIONAL else self._config.max_attempts
        return with_retries(lambda: self._ask_once(operation, key, call, size), attempts, SYSTEM_CLOCK)

    def _ask_once(self, operation: str, key: str, call: Callable[[Transport], T], size: int) -> T:
        clients = self._clients
        transport = clients.transport
        try:
            self._meter.sent(operation, size)
            try:
                return call(transport)
            except RefusedError as error:
                # Refused where it arrived, so without effect: once more, to where the bucket is.
                if not wrong_region(error.answer) or not clients.correct_region():
                    raise
            self._meter.sent(operation, size)
            return call(transport)
        except TransportError as error:
            raise self._translated(error, operation, key) from error.__cause__

    def _translated(self, error: TransportError, operation: str, key: str) -> DataShardError:
        """What a failure of the transport means to whoever asked."""
        if isinstance(error, RefusedError):
            return meaning(error.answer, operation, self._base + key, self._config)
        where = f"{self.root}/{key}"
        if isinstance(error, NotSentError):
            return StorageError(
                f"{self._config.endpoint or 'AWS S3'} cannot be reached ({error}): check the endpoint, the network and "
                "that the store runs",
                reason="unreachable",
                key=where,
            )
        assert isinstance(error, BrokenError)
        if operation in CONDITIONAL:
            return OutcomeUnknownError(f"{where}: {error}: the write may have landed or not", key=key)
        return StorageError(f"{operation} of {where} failed: {error}", reason="unreachable", key=where)

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


def _delete(keys: Sequence[str], transport: Transport) -> Sequence[tuple[str, Answer]]:
    return transport.delete(keys)


_ARROW_SAYS = "AWS Error"
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
