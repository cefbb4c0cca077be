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
from datashard_core.storage.if_match import IfMatch, forms_of, same, unusable
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
_OF_ETAGS = frozenset({"precondition-failed", "other"})
"""Answers to a right ETag that may be due to the form in which it is sent."""
_OF_IF_MATCH = _OF_ETAGS | {"unsupported", "access-denied"}
"""Answers to a PUT with If-Match that may be due to that header."""


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
        deeper._config = replace(self._config, prefix=f"{self._base}{folder}")
        deeper._base = f"{self._base}{folder}/"
        deeper._shared = self._clients
        deeper._meter = Meter()
        # A table is about to be used. Imported here, the client is there when the first request wants it; in the
        # thread of that request it would have to share the interpreter with the imports of the main thread.
        _ = deeper._shared.transport
        return deeper

    def metrics(self) -> StorageMetrics:
        return self._meter.read(self._clients.transport_name)

    def get(self, key: str, byte_range: tuple[int, int] | None = None) -> StoredObject:
        found: StoredObject = self._ask("get", key, lambda transport: transport.get(self._base + key, byte_range))
        self._meter.received(len(found.body))
        return found

    def get_data(self, key: str) -> bytes | memoryview:
        body: bytes | memoryview = self._ask("get", key, lambda transport: transport.get_data(self._base + key))
        self._meter.received(len(body))
        return body

    def head(self, key: str) -> ObjectInfo:
        return replace(self._ask("head", key, lambda transport: transport.head(self._base + key)), key=key)

    def list(self, prefix: str, after: str | None = None) -> Iterator[ObjectInfo]:
        start = None if after is None else self._base + after
        while True:
            page = self._page(prefix, start)
            for found in page.objects:
                yield replace(found, key=found.key[len(self._base) :])
            if page.following is None:
                return
            start = page.following

    def _page(self, prefix: str, start: str | None) -> Page:
        return self._ask("list", prefix, lambda transport: transport.page(self._base + prefix, start))

    def folders(self, folder: str = "") -> Sequence[str]:
        prefix = self._base + (f"{folder}/" if folder else "")
        found = self._ask("list", folder, lambda transport: transport.folders(prefix))
        return sorted(name[len(prefix) : -1] for name in found if name.startswith(prefix))

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
        with self._arrow(key):
            filesystem = self._clients.filesystem()
            sink = filesystem.open_output_stream(f"{self._config.bucket}/{self._base}{key}")
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

    @property
    def if_match(self) -> IfMatch:
        """What this process knows of If-Match in the bucket."""
        return self._clients.if_match

    def replace(self, key: str, data: bytes, version: Version) -> Version:
        known = self.if_match
        refusal: StorageError | None = None
        for form, sent in forms_of(version, known.form):
            if known.why or not sent:
                break
            try:
                written = self._write("replace", key, data, Condition(sent), len(data))
            except StorageError as error:
                if known.form or not self._is_of_if_match(error):
                    known.refuses |= isinstance(error, PreconditionFailedError)
                    raise
                refusal = error
                # No ETag has held in this process yet: is this one stale, or does the store refuse a right one?
                self._check_unchanged(key, version, refusal)
                if error.reason not in _OF_ETAGS:
                    break
            else:
                known.form = form
                return written
        if not known.why:
            if not version:
                self._check_unchanged(key, version, None)
            known.why = _why_unusable(refusal)
        raise unusable(self.root, key, known.why)

    def _is_of_if_match(self, error: StorageError) -> bool:
        """Whether an error may be due to the header If-Match, or to the form of its ETag."""
        if error.reason == "unsupported" and self._config.sse is not None:
            return False  # it was written, and not encrypted
        return error.reason in _OF_IF_MATCH

    def _check_unchanged(self, key: str, version: Version, refusal: StorageError | None) -> None:
        """Refuse to replace an object that has another version by now, or is gone."""
        known = self.if_match
        try:
            current = self.head(key).version
        except ObjectNotFoundError as error:
            known.refuses |= isinstance(refusal, PreconditionFailedError)
            raise PreconditionFailedError(f"{self.root}/{key} is gone", key=key) from error
        if current and not same(current, version):
            known.refuses |= isinstance(refusal, PreconditionFailedError)
            raise PreconditionFailedError(f"{self.root}/{key} is not {version} any more", key=key) from refusal

    def delete(self, keys: Sequence[str]) -> None:
        for start in range(0, len(keys), DELETE_BATCH):
            batch = [self._base + key for key in keys[start : start + DELETE_BATCH]]
            refused = self._ask("delete", keys[start], partial(_delete, batch))
            for key, answer in refused:
                if answer.code not in ("NoSuchKey", "NotFound"):
                    raise meaning(answer, "delete", key, self._config)

    def open_input(self, key: str) -> pa.NativeFile:
        filesystem, root = self.filesystem()
        try:
            return filesystem.open_input_file(f"{root}/{key}")
        except FileNotFoundError as error:
            raise ObjectNotFoundError(f"{self.root}/{key} does not exist", key=key) from error

    def filesystem(self) -> tuple[pafs.FileSystem, str]:
        """Arrow's file system for the bucket, and the path of the root in it."""
        return self._clients.filesystem(), f"{self._config.bucket}/{self._base}".rstrip("/")

    # -----------------------------------------------------------------------------------------

    @property
    def _clients(self) -> S3Clients:
        """Those of this process, also where the storage was made before a fork."""
        if self._shared.pid != os.getpid():
            self._shared = clients_for(self._config)
        return self._shared

    def _write(self, operation: str, key: str, data: Any, condition: Condition | None, size: int) -> Version:
        def send(transport: Transport) -> Written:
            if hasattr(data, "seek"):
                data.seek(0)
            return transport.put(self._base + key, data, condition)

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


def _why_unusable(refusal: StorageError | None) -> str:
    """Why If-Match cannot be used, by how a PUT with a right ETag was refused; None: there is no ETag to name."""
    if refusal is None:
        return "the store sends no ETags, which If-Match could name"
    answers = {"precondition-failed": "412 Precondition Failed", "unsupported": "501 Not Implemented"}
    answer = answers.get(refusal.reason) or ("403" if refusal.reason == "access-denied" else str(refusal))
    return f"the store refuses a PUT whose If-Match names the current ETag: {answer}"


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
