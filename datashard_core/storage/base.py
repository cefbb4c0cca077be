"""The storage protocol: objects and conditions, with no knowledge of Iceberg.

Keys are relative to the storage's root and use ``/``, and no key is a folder prefix of another. Ours have
the characters ``[A-Za-z0-9._=-]``; other engines name their files as they like, within what
:func:`datashard_core.storage.keys.checked_key` lets through. Every method that takes a key or a prefix
raises :class:`~datashard_core.storage.keys.InvalidKeyError` for any other before it sends a request, and
a listing leaves out what cannot be a key. A :data:`Version` is opaque (an ETag on S3). The doc comments
here are the contract; ``datashard_testkit.contract`` checks every backend against them.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING, Any, NewType, Protocol, runtime_checkable

from msgspec import Struct

from datashard_core.errors import StorageError

if TYPE_CHECKING:
    import pyarrow as pa

    from datashard_core.storage.metrics import StorageMetrics

Version = NewType("Version", str)


class StoredObject(Struct, frozen=True):
    """The body of one object as the store returned it."""

    body: bytes
    version: Version
    last_modified: float  # seconds since 1970, by the store's clock


class ObjectInfo(Struct, frozen=True):
    """What the store knows of one object without its body."""

    key: str
    size: int
    version: Version
    last_modified: float  # seconds since 1970, by the store's clock


class ObjectNotFoundError(StorageError):
    """There is no object of that name."""

    def __init__(self, message: str, *, key: str = "") -> None:
        super().__init__(message, reason="not-found", key=key)


class PreconditionFailedError(StorageError):
    """The condition did not hold when the store looked (the name was taken, maybe by you)."""

    def __init__(self, message: str, *, key: str = "") -> None:
        super().__init__(message, reason="precondition-failed", key=key)


class OutcomeUnknownError(StorageError):
    """The write may have landed, may land later, or never."""

    def __init__(self, message: str, *, key: str = "") -> None:
        super().__init__(message, reason="outcome-unknown", key=key)


@runtime_checkable
class Storage(Protocol):
    """Objects below one root. Safe to use from several threads at once."""

    @property
    def root(self) -> str:
        """URI of the root without a trailing slash: ``s3://bucket/prefix``, ``file:///folder``."""

    def at(self, folder: str) -> Storage:
        """The same store, client and credentials with ``folder`` appended to the root.

        What it is asked is counted by itself.
        """

    def metrics(self) -> StorageMetrics:
        """What this storage has been asked so far, and through which transport."""

    def get(self, key: str, byte_range: tuple[int, int] | None = None) -> StoredObject:
        """The object's body, or bytes ``[start, end)`` of it.

        Raises:
            ObjectNotFoundError: there is no such object.
            StorageError: anything else, never an empty body instead.
        """

    def get_data(self, key: str) -> bytes | memoryview:
        """As :meth:`get`, the whole body of a data file: as the client has it, copied for nobody."""

    def head(self, key: str) -> ObjectInfo:
        """Size, version and time of an object. Raises as :meth:`get` does."""

    def list(self, prefix: str, after: str | None = None) -> Iterator[ObjectInfo]:
        """Objects whose key begins with ``prefix`` and sorts after ``after``, sorted by key.

        Pages are fetched lazily, so taking the first 1,000 costs one request. The version may be
        empty where a listing does not tell it.
        """

    def folders(self, folder: str = "") -> Sequence[str]:
        """Names of the folders directly below ``folder`` ("" is the root), sorted."""

    def put(self, key: str, data: bytes) -> Version:
        """Write a fresh unique name, or an object whose bytes are always equal (or may be set back, as the hint).

        May be retried freely; a reader sees all of it or nothing. Durable when it returns.
        """

    def put_data(self, key: str, data: bytes | pa.Buffer) -> None:
        """As :meth:`put`, for data files: on S3 the large ones go through Arrow's own client."""

    def open_data(self, key: str) -> AbstractContextManager[Any]:
        """A binary sink for one large data file, for Arrow's writers.

        The file is whole and durable when the block ends without an error; after an error it is
        absent, or a leftover that no table names.
        """

    def put_if_absent(self, key: str, data: bytes) -> Version:
        """Create an object, sent **once**, with no retry underneath.

        Raises:
            PreconditionFailedError: the name was taken when the store looked, maybe by you.
            OutcomeUnknownError: a time-out, a reset, a 5xx, a 409: it may land now, later or never.
            StorageError: refused before any effect (access denied, bucket missing, unreachable
                before a byte was sent).
        """

    def replace(self, key: str, data: bytes, version: Version) -> Version:
        """Overwrite if the object still has ``version``. For small objects that may change, and tombstones.

        Raises:
            PreconditionFailedError: the object has another version now, or is gone.
            StorageError: with reason "unsupported" where the store is known to have no usable ``If-Match``;
                nothing was written.
            OutcomeUnknownError: it may or may not have happened.
        """

    def delete(self, keys: Sequence[str]) -> None:
        """Delete objects; absent is fine, any other failure is raised and names its keys."""

    def open_input(self, key: str) -> pa.NativeFile:
        """A data file as a stream of Arrow's that can seek, for Arrow's readers.

        Raises:
            ObjectNotFoundError: there is no such object.
        """

    def remove_unfinished(self, age: float) -> Sequence[ObjectInfo]:
        """Delete what writers that died left half-written and no listing shows.

        Args:
            age: seconds since its last change, by the store's clock.

        Returns:
            What was deleted. Stores that keep no such files delete nothing.
        """
