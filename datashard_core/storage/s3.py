"""Objects in a bucket, whichever client carries the requests.

What a store's answers mean, what is tried again, what is counted: all that is here, and the same for
every transport. Large data files go through Arrow's own client, in parts and in parallel.
"""

from __future__ import annotations

import logging
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
    StoredObject,
    Version,
)
from datashard_core.storage.if_match import IfMatch, replace_by
from datashard_core.storage.keys import MAX_BYTES, Listed, checked_key, checked_prefix, folder_names
from datashard_core.storage.metrics import Meter, StorageMetrics
from datashard_core.storage.redact import clean
from datashard_core.storage.retry import with_retries
from datashard_core.storage.s3_client import S3Clients, clients_for
from datashard_core.storage.s3_errors import (
    CONDITIONAL,
    Answer,
    is_redirect,
    may_lack_bulk_delete,
    meaning,
    wrong_region,
)
from datashard_core.storage.transport import (
    ABSENT,
    UNKNOWN_SIZE,
    UNKNOWN_TIME,
    CannotError,
    Condition,
    Page,
    RefusedError,
    Transport,
    TransportError,
    Written,
)

if TYPE_CHECKING:
    import pyarrow as pa
    import pyarrow.fs as pafs

log = logging.getLogger(__name__)

T = TypeVar("T")

DELETE_BATCH = 1000
SINGLE_DELETES = 8
"""Requests at once where objects are deleted one by one."""
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
        if found.last_modified == UNKNOWN_TIME:
            return replace(found, last_modified=self._listed(key).last_modified)
        return found

    def get_data(self, key: str) -> bytes | memoryview:
        whole = self._whole(key)
        body: bytes | memoryview = self._ask("get", key, lambda transport: transport.get_data(whole))
        self._meter.received(len(body))
        return body

    def head(self, key: str) -> ObjectInfo:
        whole = self._whole(key)
        found: ObjectInfo = self._ask("head", key, lambda transport: transport.head(whole))
        if found.last_modified == UNKNOWN_TIME or found.size == UNKNOWN_SIZE:
            listed = self._listed(key)
            return replace(listed, version=found.version or listed.version)
        return replace(found, key=key)

    def _listed(self, key: str) -> ObjectInfo:
        """An object as a listing shows it, for a store whose answers about one object lack its time or size.

        Raises:
            ObjectNotFoundError: it was deleted meanwhile.
        """
        for found in self._page(key, None).objects:
            if found.key == self._base + key:
                return replace(found, key=key)
        raise ObjectNotFoundError(f"{self.root}/{key} does not exist", key=key)

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
        sink = self._by_arrow("put", key, self._open_sink, key)
        try:
            yield sink
        except BaseException as error:
            # Arrow uploads what there is when the stream goes: a leftover that no table names.
            del sink
            from datashard_core.storage.arrow_errors import is_of_arrow

            if isinstance(error, OSError) and is_of_arrow(error):
                raise self.arrow_failure(error, "put", key) from error
            raise
        self._by_arrow("put", key, sink.close)

    def _open_sink(self, key: str) -> Any:
        return self._clients.filesystem().open_output_stream(f"{self._config.bucket}/{self._whole(key)}")

    def put_if_absent(self, key: str, data: bytes) -> Version:
        return self._write("put_if_absent", key, data, ABSENT, len(data))

    @property
    def if_match(self) -> IfMatch:
        """What this process knows of If-Match in the bucket."""
        return self._clients.if_match

    def replace(self, key: str, data: bytes, version: Version) -> Version:
        def write(sent: Version) -> Version:
            return self._write("replace", key, data, Condition(sent), len(data))

        # With encryption, "unsupported" may mean that it was written and not encrypted.
        told_apart = self._config.sse is None
        return replace_by(self.if_match, version, write, lambda: self.head(key).version, self.root, key, told_apart)

    def delete(self, keys: Sequence[str]) -> None:
        for key in keys:
            self._whole(key)  # all of them are checked before one is deleted
        for start in range(0, len(keys), DELETE_BATCH):
            batch = keys[start : start + DELETE_BATCH]
            failed = self._delete_one_by_one(batch) if self._clients.lacks_bulk_delete else self._delete_batch(batch)
            if failed:
                from datashard_core.storage.s3_failures import of_all

                raise of_all(failed)

    def _delete_batch(self, keys: Sequence[str]) -> Sequence[DataShardError]:
        """Delete by DeleteObjects, or one by one where the store does not offer that; what failed."""
        whole = [self._whole(key) for key in keys]
        try:
            refused = self._ask("delete", keys[0], partial(_delete, whole), quietly=may_lack_bulk_delete)
        except RefusedError as error:
            why = error.answer
        else:
            left = [(key, answer) for key, answer in refused if answer.code not in ("NoSuchKey", "NotFound")]
            if not left or left[0][1].code != "NotImplemented":
                return [self._meaning(answer, "delete", key) for key, answer in left]
            why = left[0][1]
        failed = self._delete_one_by_one(keys)
        if not failed:
            text = "bucket %s: objects are deleted one by one: the store answered %d %s to DeleteObjects"
            log.info(text, self._config.bucket, why.status, why.code)
            self._clients.lacks_bulk_delete = True
        return failed

    def _delete_one_by_one(self, keys: Sequence[str]) -> Sequence[DataShardError]:
        def one(key: str) -> DataShardError | None:
            try:
                self._ask("delete", key, lambda transport: transport.delete_one(self._whole(key)))
            except ObjectNotFoundError:
                return None
            except DataShardError as error:
                return error
            return None

        from concurrent.futures import ThreadPoolExecutor

        with ThreadPoolExecutor(min(SINGLE_DELETES, len(keys))) as pool:
            return [error for error in pool.map(one, keys) if error is not None]

    def open_input(self, key: str) -> pa.NativeFile:
        whole = self._whole(key)
        filesystem, _ = self.filesystem()
        return self._by_arrow("get", key, filesystem.open_input_file, f"{self._config.bucket}/{whole}")

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

    def _ask(
        self,
        operation: str,
        key: str,
        call: Callable[[Transport], T],
        size: int = 0,
        quietly: Callable[[Answer], bool] | None = None,
    ) -> T:
        """Send a request; again where that cannot do harm and may help.

        Raises:
            RefusedError: ``quietly`` is true of the store's answer.
        """
        attempts = 1 if operation in CONDITIONAL else self._config.max_attempts
        return with_retries(lambda: self._ask_once(operation, key, call, size, quietly), attempts, SYSTEM_CLOCK)

    def _ask_once(
        self,
        operation: str,
        key: str,
        call: Callable[[Transport], T],
        size: int,
        quietly: Callable[[Answer], bool] | None,
    ) -> T:
        self._meter.sent(operation, size)
        try:
            return call(self._clients.transport)
        except TransportError as error:
            failed = error
        # Out of the handler: what a client raised may hold the request, and is not to be the context of an error.
        if isinstance(failed, RefusedError) and quietly is not None and quietly(failed.answer):
            raise failed.with_traceback(None)
        again = self._again(failed)
        if again is not None:
            self._meter.sent(operation, size)
            try:
                return call(again)
            except TransportError as error:
                failed = error
        raise self._translated(failed, operation, key)

    def _again(self, failed: TransportError) -> Transport | None:
        """What to send a request through once more that was refused where it arrived, so without effect."""
        clients = self._clients
        if isinstance(failed, CannotError):
            return clients.use_boto3(str(failed))
        if isinstance(failed, RefusedError) and wrong_region(failed.answer) and clients.correct_region():
            return clients.transport
        return None

    def _translated(self, error: TransportError, operation: str, key: str) -> DataShardError:
        """What a failure of the transport means to its caller."""
        if not isinstance(error, RefusedError):
            from datashard_core.storage.s3_failures import without_answer

            return without_answer(error, operation, f"{self.root}/{key}", self._config, self._clients.secrets)
        answer = error.answer
        if is_redirect(answer) and not (answer.region or answer.endpoint):
            place = self._clients.place()
            answer = replace(answer, region=place.region, endpoint=place.location)
        return self._meaning(answer, operation, self._base + key)

    def _meaning(self, answer: Answer, operation: str, key: str) -> DataShardError:
        return meaning(answer, operation, key, self._config, self._clients.secrets)

    def _by_arrow(self, operation: str, key: str, work: Callable[..., Any], *arguments: Any) -> Any:
        """Do something by Arrow's client, and turn what it raises into what it means."""
        try:
            return work(*arguments)
        except OSError as error:
            failed = error
        raise self.arrow_failure(failed, operation, key)

    def arrow_failure(self, error: OSError, operation: str, key: str) -> DataShardError:
        """What an error of Arrow's S3 client means; the error itself keeps no secret.

        Args:
            error: it.
            operation: "get" or "put", where its text does not say more.
            key: the data file.
        """
        text = clean(str(error), self._clients.secrets)
        error.args = (text,)
        from datashard_core.storage.arrow_errors import read_arrow
        from datashard_core.storage.s3_failures import of_arrow

        told = None if isinstance(error, FileNotFoundError) else read_arrow(text)
        if told is not None:
            return self._meaning(told[0], told[1], self._base + key)
        return of_arrow(error, operation, f"{self.root}/{key}")


def _delete(keys: Sequence[str], transport: Transport) -> Sequence[tuple[str, Answer]]:
    return transport.delete(keys)
