"""What carries requests to an S3 store: the few calls that a client has to offer, and how they fail.

A transport knows no tables, no prefixes and no retries: it sends one request, once, and says what
came back. :mod:`datashard_core.storage.s3` does everything else, the same way for every transport.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

from msgspec import Struct

from datashard_core.storage.base import ObjectInfo, StoredObject, Version
from datashard_core.storage.s3_errors import Answer

PAGE = 1000
"""Objects that one request of a listing tells."""

UNKNOWN_TIME = -1.0
UNKNOWN_SIZE = -1
"""What stands for a time and a size that an answer lacks; :class:`S3Storage` looks them up elsewhere."""


class TransportError(Exception):
    """A request was not answered as hoped. Never leaves the storage layer."""


class RefusedError(TransportError):
    """The store answered, and refused."""

    def __init__(self, answer: Answer) -> None:
        super().__init__(f"{answer.status} {answer.code} {answer.message}".strip())
        self.answer = answer


class NotSentError(TransportError):
    """There was no connection, so not a byte of the request was sent."""


class BrokenError(TransportError):
    """The request was sent, perhaps in part, and no answer came: it may have had its effect, or not."""


class UnfitError(TransportError):
    """The store answered with success, and the answer lacks what is needed, or it cannot be read."""


class CannotError(TransportError):
    """This client cannot do it, or cannot take the store's answer, which has had no effect; boto3 can."""


class Page(Struct, frozen=True):
    """One page of a listing.

    Attributes:
        objects: what it tells, sorted by key; keys are whole, from the bucket's root.
        following: what to list after for the next page; None: there is no more.
    """

    objects: Sequence[ObjectInfo]
    following: str | None


class Condition(Struct, frozen=True):
    """What has to hold for a write to happen: that the object is absent, or has this version."""

    version: Version | None = None


ABSENT = Condition()


class Written(Struct, frozen=True):
    """What the store said of an object that it wrote.

    Attributes:
        version: its new version; "" where the store does not say.
        encrypted: how the store says that it encrypted it; None where it does not say.
    """

    version: Version
    encrypted: str | None = None


class Transport(Protocol):
    """One client of one bucket. Keys are whole, from the bucket's root. Safe to use from threads.

    Every method sends exactly one request (``folders``: one a page) and raises
    :class:`TransportError`, or a :class:`~datashard_core.errors.StorageError` about credentials.
    """

    @property
    def name(self) -> str:
        """As ``S3Config.transport`` names it."""

    def get(self, key: str, byte_range: tuple[int, int] | None) -> StoredObject:
        """A body, or bytes ``[start, end)`` of it."""

    def get_data(self, key: str) -> bytes | memoryview:
        """A whole body, not copied."""

    def head(self, key: str) -> ObjectInfo:
        """Size, version and time."""

    def page(self, prefix: str, after: str | None) -> Page:
        """At most :data:`PAGE` objects whose key begins with ``prefix`` and sorts after ``after``."""

    def folders(self, prefix: str) -> list[str]:
        """Keys up to the first ``/`` after ``prefix``, with that ``/``."""

    def put(self, key: str, data: Any, condition: Condition | None) -> Written:
        """Write bytes, or anything with the buffer protocol."""

    def delete(self, keys: Sequence[str]) -> Sequence[tuple[str, Answer]]:
        """Delete at most 1,000 objects; what was refused, by key."""

    def delete_one(self, key: str) -> None:
        """Delete one object by a DELETE of its own; absent is fine."""
