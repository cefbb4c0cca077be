"""Every way in which a request can fail, over real HTTP, means the same through both transports."""

from __future__ import annotations

import os
import socket
import struct
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any, BinaryIO

import pyarrow as pa
import pytest

from datashard_core import Schema
from datashard_core.config import S3Config, TransportChoice
from datashard_core.errors import DataShardError, StorageError, StoreNotConditionalError
from datashard_core.format.parquet.parquet import write_parquet
from datashard_core.storage.base import (
    ObjectNotFoundError,
    OutcomeUnknownError,
    PreconditionFailedError,
    Version,
)
from datashard_core.storage.s3 import S3Storage
from datashard_core.storage.s3_obstore import failure_of, refused_in
from datashard_core.storage.transport import BrokenError, NotSentError, RefusedError

TRANSPORTS: tuple[TransportChoice, ...] = ("boto3", "obstore")
SILENT_SECONDS = 0.5

OPERATIONS: dict[str, Callable[[S3Storage], object]] = {
    "get": lambda storage: storage.get("k"),
    "list": lambda storage: list(storage.list("k")),
    "put": lambda storage: storage.put("k", b"x"),
    "put_if_absent": lambda storage: storage.put_if_absent("k", b"x"),
    "replace": lambda storage: storage.replace("k", b"x", Version('"tag"')),
    "delete": lambda storage: storage.delete(["k"]),
}
READS_AND_WRITES = ("get", "list", "put", "delete")
CONDITIONAL = ("put_if_absent", "replace")

RESET = "reset"
SILENT = "silent"
CUT = "cut"
"""No answer: the connection is reset, or nothing comes, or the answer ends in the middle."""


class Scripted:
    """A server that gives every request the same answer, and counts them."""

    def __init__(self, answer: str) -> None:
        self.methods: list[str] = []
        self._answer = answer
        self._connected: list[socket.socket] = []
        self._listening = socket.create_server(("127.0.0.1", 0))
        self.endpoint = f"http://127.0.0.1:{self._listening.getsockname()[1]}"
        self._over = threading.Event()
        threading.Thread(target=self._accept, daemon=True).start()

    @property
    def requests(self) -> int:
        return len(self.methods)

    def close(self) -> None:
        self._over.set()
        # Also what is connected: a stream of Arrow's that is freed later writes again with the GIL held, so that no
        # thread of this process could answer it, and it would wait for its time-out.
        for one in (self._listening, *self._connected):
            with suppress(OSError):
                one.shutdown(socket.SHUT_RDWR)
        self._listening.close()

    def _accept(self) -> None:
        while True:
            try:
                connection, _ = self._listening.accept()
                self._connected.append(connection)
            except OSError:
                return
            threading.Thread(target=self._serve, args=(connection,), daemon=True).start()

    def _serve(self, connection: socket.socket) -> None:
        with connection, connection.makefile("rb") as incoming:
            while True:
                try:
                    head = _head(incoming)
                except OSError:
                    return
                if not head:
                    return
                length = [line for line in head.lower().split(b"\r\n") if line.startswith(b"content-length:")]
                incoming.read(int(length[0].partition(b":")[2]) if length else 0)
                self.methods.append(head.partition(b" ")[0].decode())
                if self._answer == SILENT:
                    self._over.wait()
                    return
                if self._answer == RESET:
                    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                    return
                if self._answer == CUT:
                    connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Le")
                    return
                connection.sendall(self._reply())

    def _reply(self) -> bytes:
        status, _, code = self._answer.partition(" ")
        body = f"<Error><Code>{code}</Code><Message>scripted</Message></Error>".encode() if code else b""
        head = f"HTTP/1.1 {status} Scripted\r\nContent-Type: application/xml\r\nContent-Length: {len(body)}\r\n\r\n"
        return head.encode() + body


def _head(incoming: BinaryIO) -> bytes:
    """The first line and the headers of a request; nothing once the client has gone."""
    lines = []
    while (line := incoming.readline()) not in (b"\r\n", b""):
        lines.append(line)
    return b"".join(lines)


@contextmanager
def scripted(answer: str) -> Iterator[Scripted]:
    server = Scripted(answer)
    try:
        yield server
    finally:
        server.close()


def storage_at(endpoint: str, transport: TransportChoice, read_timeout: float = SILENT_SECONDS) -> S3Storage:
    return S3Storage(
        S3Config(
            bucket="bucket",
            prefix="p",
            endpoint=endpoint,
            region="us-east-1",
            access_key="a",
            secret_key="s",
            read_timeout=read_timeout,
            max_attempts=1,
            transport=transport,
        )
    )


def failure(storage: S3Storage, operation: str) -> DataShardError:
    with pytest.raises(DataShardError) as caught:
        OPERATIONS[operation](storage)
    return caught.value


@pytest.mark.parametrize(
    ("answer", "reason", "says"),
    [
        ("403 AccessDenied", "access-denied", "s3:PutObject is missing on s3://bucket/p/t/data/auto_"),
        ("403 InvalidAccessKeyId", "credentials-missing", "does not accept the credentials"),
        ("404 NoSuchBucket", "bucket-missing", "aws s3 mb s3://bucket"),
        ("400 EntityTooLarge", "other", "EntityTooLarge"),
    ],
)
def test_a_large_file_that_arrow_may_not_write(answer: str, reason: str, says: str) -> None:
    schema = Schema(fields=[{"id": 1, "name": "b", "type": "binary"}])
    rows = pa.table({"b": [os.urandom(1 << 20) for _ in range(12)]}).cast(schema.to_arrow())
    with scripted(answer) as server, pytest.raises(StorageError) as caught:
        storage = storage_at(server.endpoint, "boto3", read_timeout=10).at("t")  # a busy machine takes its time
        with storage.open_data("data/auto_1.parquet") as sink:
            write_parquet(rows, schema, sink, "s3://bucket/p/t/data/auto_1.parquet")
    assert caught.value.reason == reason
    assert says in str(caught.value)


Meaning = tuple[type[DataShardError], str]
CASES: list[tuple[str, tuple[str, ...], Meaning]] = [
    ("403 AccessDenied", READS_AND_WRITES + CONDITIONAL, (StorageError, "access-denied")),
    ("403 InvalidAccessKeyId", READS_AND_WRITES + CONDITIONAL, (StorageError, "credentials-missing")),
    ("403 SignatureDoesNotMatch", ("get", "put_if_absent"), (StorageError, "credentials-missing")),
    ("400 ExpiredToken", READS_AND_WRITES + CONDITIONAL, (StorageError, "credentials-missing")),
    ("404 NoSuchBucket", READS_AND_WRITES + CONDITIONAL, (StorageError, "bucket-missing")),
    ("404 NoSuchKey", ("get",), (ObjectNotFoundError, "not-found")),
    ("404 NoSuchKey", ("replace",), (PreconditionFailedError, "precondition-failed")),
    ("412 PreconditionFailed", CONDITIONAL, (PreconditionFailedError, "precondition-failed")),
    ("409 ConditionalRequestConflict", CONDITIONAL, (OutcomeUnknownError, "outcome-unknown")),
    ("500 InternalError", CONDITIONAL, (OutcomeUnknownError, "outcome-unknown")),
    ("500 InternalError", READS_AND_WRITES, (StorageError, "unreachable")),
    ("502", CONDITIONAL, (OutcomeUnknownError, "outcome-unknown")),
    ("502", ("get", "put"), (StorageError, "unreachable")),
    ("501 NotImplemented", ("put_if_absent",), (StoreNotConditionalError, "unsupported")),
    ("503 SlowDown", CONDITIONAL, (OutcomeUnknownError, "outcome-unknown")),
    ("503 SlowDown", READS_AND_WRITES, (StorageError, "throttled")),
    ("429 TooManyRequests", ("get", "put"), (StorageError, "throttled")),
    ("400 InvalidRequest", ("get", "list", "put"), (StorageError, "other")),
    (RESET, CONDITIONAL, (OutcomeUnknownError, "outcome-unknown")),
    (RESET, READS_AND_WRITES, (StorageError, "unreachable")),
    (CUT, CONDITIONAL, (OutcomeUnknownError, "outcome-unknown")),
    (CUT, ("get", "put"), (StorageError, "unreachable")),
    (SILENT, CONDITIONAL, (OutcomeUnknownError, "outcome-unknown")),
    (SILENT, ("get", "put"), (StorageError, "unreachable")),
]


@pytest.mark.parametrize("transport", TRANSPORTS)
@pytest.mark.parametrize(
    ("answer", "operations", "wanted"), CASES, ids=[f"{answer}-{operations[0]}" for answer, operations, _ in CASES]
)
def test_a_failure_means_the_same_through_both(
    answer: str, operations: tuple[str, ...], wanted: Meaning, transport: TransportChoice
) -> None:
    with scripted(answer) as server:
        for number, operation in enumerate(operations, 1):
            storage = storage_at(server.endpoint, transport)
            storage.if_match.form = "given"  # an ETag has held in this process: the storage need not look, either
            found = failure(storage, operation)
            assert isinstance(found, StorageError)
            assert (type(found), found.reason) == wanted, f"{operation}: {found}"
            assert "s3://bucket" in str(found) or "bucket 'bucket'" in str(found) or "bucket bucket" in str(found)
            assert server.requests == number, "a transport sends a request once"


@pytest.mark.parametrize("transport", TRANSPORTS)
@pytest.mark.parametrize(
    ("answer", "requests", "wanted"),
    [
        ("403 AccessDenied", ["PUT", "HEAD"], (StorageError, "access-denied")),
        ("404 NoSuchKey", ["PUT", "HEAD"], (PreconditionFailedError, "precondition-failed")),
        ("412 PreconditionFailed", ["PUT", "HEAD"], (PreconditionFailedError, "precondition-failed")),
        ("403 InvalidAccessKeyId", ["PUT"], (StorageError, "credentials-missing")),
        ("404 NoSuchBucket", ["PUT"], (StorageError, "bucket-missing")),
        (RESET, ["PUT"], (OutcomeUnknownError, "outcome-unknown")),
    ],
)
def test_the_first_replacement_is_checked_once_and_a_refusal_stays_what_it_is(
    answer: str, requests: list[str], wanted: Meaning, transport: TransportChoice
) -> None:
    """While no ETag has held, the object is looked at; that this fails, too, does not hide what the PUT met."""
    with scripted(answer) as server:
        found = failure(storage_at(server.endpoint, transport), "replace")
        assert isinstance(found, StorageError)
        assert (type(found), found.reason) == wanted, found
        assert server.methods == requests
        if wanted[1] == "access-denied":
            assert "s3:PutObject is missing" in str(found)


@pytest.mark.parametrize("transport", TRANSPORTS)
def test_what_was_never_sent_is_no_unknown_outcome(transport: TransportChoice) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))  # bound and not listening: connections are refused
        storage = storage_at(f"http://127.0.0.1:{free.getsockname()[1]}", transport)
        for operation in OPERATIONS:
            found = failure(storage, operation)
            assert isinstance(found, StorageError) and not isinstance(found, OutcomeUnknownError)
            assert (found.reason, "cannot be reached" in str(found)) == ("unreachable", True), operation


@pytest.mark.parametrize("transport", TRANSPORTS)
def test_a_bulk_delete_that_is_refused_in_part(transport: TransportChoice, monkeypatch: pytest.MonkeyPatch) -> None:
    """HTTP 200, and each key's fate in the body."""
    body = (
        b'<?xml version="1.0"?><DeleteResult xmlns="http://s3.amazonaws.com/doc/2006-03-01/">'
        b"<Error><Key>p/k</Key><Code>AccessDenied</Code><Message>no</Message></Error></DeleteResult>"
    )
    reply = b"HTTP/1.1 200 OK\r\nContent-Type: application/xml\r\nContent-Length: %d\r\n\r\n%s" % (len(body), body)
    monkeypatch.setattr(Scripted, "_reply", lambda _: reply)
    with scripted("200") as server:
        found = failure(storage_at(server.endpoint, transport), "delete")
    assert isinstance(found, StorageError)
    assert found.reason == "access-denied"
    assert "s3:DeleteObject is missing on s3://bucket/p/k" in str(found)


@pytest.mark.parametrize(
    ("text", "kind", "detail"),
    [
        (
            "Generic S3 error: Error performing PUT http://h/b/k in 1ms - Server returned non-2xx status code: 409 "
            "Conflict: <Error><Code>OperationAborted</Code><Message>busy</Message></Error>\n\nDebug source:\nx",
            RefusedError,
            "409 OperationAborted busy",
        ),
        ("Server returned non-2xx status code: 503 Service Unavailable: ", RefusedError, "503 503"),
        ("Server returned error response: <Error><Code>SlowDown</Code></Error>", RefusedError, "200"),
        ("Received redirect without LOCATION, this normally indicates", RefusedError, "301 PermanentRedirect"),
        ("Generic S3 error: x\n\nDebug source:\nreqwest::Error { kind: Connect, source }", NotSentError, "x"),
        ("Generic S3 error: x\n\nDebug source:\nreqwest::Error { kind: Request, TimedOut }", BrokenError, "TimedOut"),
        ("a text of a later release that says nothing of this", BrokenError, "a text of a later release"),
        ("", BrokenError, ""),
    ],
)
def test_texts_of_obstore(text: str, kind: type[Any], detail: str) -> None:
    found = failure_of(text)
    assert type(found) is kind
    assert detail in str(found)


def test_refused_keys_are_read_from_the_answer() -> None:
    one = "<Error><Key>a/b</Key><Code>AccessDenied</Code><Message>no</Message></Error>"
    found = refused_in(f"<DeleteResult>{one}<Deleted><Key>c</Key></Deleted><Error></Error></DeleteResult>")
    assert [(key, answer.code, answer.message) for key, answer in found] == [
        ("a/b", "AccessDenied", "no"),
        ("", "", ""),
    ]
