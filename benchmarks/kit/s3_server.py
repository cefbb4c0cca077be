"""An S3 server in memory for benchmarks: fast, atomic, with latencies that cost no CPU, and a log of requests.

``python s3_server.py`` serves on a free port of loopback until its standard input ends, and prints
``{"endpoint": ...}`` first. Every answer waits for as long as a real store would take: a request has
its effect half-way. Signatures are not looked at. The paths below ``/_control/`` set latencies and
the clock, and tell what was asked.
"""

from __future__ import annotations

import asyncio
import gc
import json
import os
import random
import signal
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast
from urllib.parse import parse_qsl, unquote

import httptools
import uvloop

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from kit.latency import Latency
from kit.s3_objects import Objects, Reply, decode_aws_chunks, error, xml

CONTROL = "/_control/"
REASONS = {200: b"OK", 204: b"No Content", 206: b"Partial Content", 404: b"Not Found", 412: b"Precondition Failed"}


class Server:
    """The state behind all connections.

    Args:
        bucket: the one bucket.
    """

    def __init__(self, bucket: str) -> None:
        self.bucket = bucket
        self.latency = Latency({})
        self.chance = random.Random(0)
        self.set_clock(0.0, 1.0)
        self.objects = Objects(self.clock)
        self.log: list[tuple[float, float, str, str, int, int, int]] = []

    def set_clock(self, ahead: float, speed: float) -> None:
        """Let the store's clock run ahead of the machine's, and faster from now on."""
        self._since, self._ahead, self._speed = time.time(), ahead, speed

    def clock(self) -> float:
        """Seconds since 1970, as the store says."""
        return self._since + self._ahead + (time.time() - self._since) * self._speed

    def answer(self, method: str, key: str, query: Mapping[str, str], headers: Mapping[str, str], body: bytes) -> Reply:
        """The answer to a request to an object."""
        upload = query.get("uploadId", "")
        if method in ("GET", "HEAD"):
            return self.objects.get(key, headers.get("range", ""), head=method == "HEAD")
        if method == "PUT" and upload:
            return self.objects.put_part(upload, int(query["partNumber"]), body)
        if method == "PUT" and "x-amz-copy-source" not in headers:
            return self.objects.put(key, body, headers.get("if-none-match", ""), headers.get("if-match", ""))
        if method == "POST" and "uploads" in query:
            return self.objects.begin_upload(self.bucket, key)
        if method == "POST" and upload:
            return self.objects.end_upload(key, upload, headers.get("if-none-match", ""))
        if method == "DELETE":
            return self.objects.abort_upload(upload) if upload else self.objects.delete(key)
        return error(501, "NotImplemented", f"{method} {key}")

    def answer_bucket(self, method: str, query: Mapping[str, str], body: bytes) -> Reply:
        """The answer to a request to the bucket."""
        if method == "GET" and "location" in query:
            return xml("<LocationConstraint/>")
        if method == "GET":
            return self.objects.listing(self.bucket, query)
        if method == "POST" and "delete" in query:
            return self.objects.delete_many(body)
        if method in ("HEAD", "PUT"):
            return Reply(200, headers={"x-amz-bucket-region": "us-east-1"})
        return error(501, "NotImplemented", method)

    def control(self, what: str, query: Mapping[str, str], body: bytes) -> Any:
        """What the benchmark programs ask of the server itself."""
        if what == "latency":
            self.latency = Latency(**json.loads(body))
            self.chance = random.Random(0)
        elif what == "clock":
            self.set_clock(**json.loads(body))
        elif what == "reset":
            self.log.clear()
        elif what == "clear":
            self.log.clear()
            self.objects.clear()
            gc.collect()
        elif what == "log":
            return self.log[int(query.get("since", 0)) :]
        elif what == "keys":
            return self.objects.sizes(query.get("prefix", ""))
        elif what == "now":
            return {"requests": len(self.log), "monotonic": time.monotonic(), "cpu": time.process_time()}
        else:
            raise ValueError(f"no such control: {what}")
        return {}


def kind_of(method: str, is_bucket: bool, query: Mapping[str, str]) -> str:
    """The kind that a request is counted, priced and delayed as."""
    if method == "GET":
        return "LIST" if is_bucket and "location" not in query else "GET"
    if method == "POST":
        return "DELETE" if "delete" in query else "PUT"
    return method


class Connection(asyncio.Protocol):
    """One connection; requests on it are answered in turn."""

    def __init__(self, server: Server, loop: asyncio.AbstractEventLoop) -> None:
        self._server = server
        self._loop = loop
        self._parser = httptools.HttpRequestParser(self)
        self._transport: asyncio.Transport | None = None
        self._url = b""
        self._headers: dict[str, str] = {}
        self._parts: list[bytes] = []

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)

    def connection_lost(self, exc: Exception | None) -> None:
        # The parser holds this object: with the collector off, the last body would stay for good.
        self._transport = None
        self._parts.clear()

    def data_received(self, data: bytes) -> None:
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserError:
            if self._transport is not None:
                self._transport.close()

    # What the parser calls.

    def on_message_begin(self) -> None:
        self._url, self._headers, self._parts = b"", {}, []

    def on_url(self, url: bytes) -> None:
        self._url += url

    def on_header(self, name: bytes, value: bytes) -> None:
        self._headers[name.decode("latin-1").lower()] = value.decode("latin-1")

    def on_headers_complete(self) -> None:
        if self._headers.get("expect", "").lower() == "100-continue" and self._transport is not None:
            self._transport.write(b"HTTP/1.1 100 Continue\r\n\r\n")

    def on_body(self, body: bytes) -> None:
        self._parts.append(body)

    def on_message_complete(self) -> None:
        method = self._parser.get_method().decode()
        path, _, query_text = self._url.decode("latin-1").partition("?")
        query = dict(parse_qsl(query_text, keep_blank_values=True))
        headers = self._headers
        body = b"".join(self._parts)
        sent = len(body)
        if path.startswith(CONTROL):
            answer = json.dumps(self._server.control(path.removeprefix(CONTROL), query, body)).encode()
            self._reply(method, Reply(200, answer))
            return
        if "aws-chunked" in headers.get("content-encoding", "") or headers.get("x-amz-content-sha256", "").startswith(
            "STREAMING"
        ):
            body = decode_aws_chunks(body)
        bucket, _, key = unquote(path).lstrip("/").partition("/")
        if bucket != self._server.bucket:
            self._reply(method, error(404, "NoSuchBucket", bucket))
            return
        arrived = time.monotonic()
        kind = kind_of(method, not key, query)
        delay = self._server.latency.seconds(kind, self._server.chance)

        def perform() -> None:
            if key:
                reply = self._server.answer(method, key, query, headers, body)
            else:
                reply = self._server.answer_bucket(method, query, body)
            if delay:
                self._loop.call_at(due + delay, finish, reply)
            else:
                finish(reply)

        def finish(reply: Reply) -> None:
            name = key or "?" + query.get("prefix", "")
            entry = (arrived, time.monotonic(), kind, name, reply.status, sent, len(reply.body))
            self._server.log.append(entry)
            self._reply(method, reply)

        if delay:
            due = self._loop.time()
            self._loop.call_at(due + delay / 2, perform)
        else:
            perform()

    def _reply(self, method: str, reply: Reply) -> None:
        if self._transport is None:
            return
        head = b"HTTP/1.1 %d %s\r\n" % (reply.status, REASONS.get(reply.status, b"Error"))
        lines = [f"{name}: {value}\r\n" for name, value in reply.headers.items()]
        if "Content-Length" not in reply.headers and reply.status != 204:
            lines.append(f"Content-Length: {len(reply.body)}\r\n")
        head += "".join(lines).encode("latin-1") + b"Server: benchmark\r\n\r\n"
        if method == "HEAD" or not reply.body:
            self._transport.write(head)
        elif len(reply.body) < 65536:
            self._transport.write(head + reply.body)
        else:
            self._transport.writelines([head, reply.body])


async def serve(bucket: str) -> None:
    """Serve until the standard input ends."""
    loop = asyncio.get_running_loop()
    server = Server(bucket)
    listening = await loop.create_server(lambda: Connection(server, loop), "127.0.0.1", 0, backlog=1024)
    port = listening.sockets[0].getsockname()[1]
    print(json.dumps({"endpoint": f"http://127.0.0.1:{port}", "bucket": bucket}), flush=True)
    ended = asyncio.Event()
    loop.add_reader(sys.stdin.fileno(), lambda: ended.set() if not os.read(sys.stdin.fileno(), 1024) else None)
    loop.add_signal_handler(signal.SIGTERM, ended.set)
    await ended.wait()


def main() -> None:
    gc.freeze()
    gc.disable()  # the objects live long and hold no cycles: collecting would only add pauses
    uvloop.run(serve(sys.argv[1] if len(sys.argv) > 1 else "bench"))


if __name__ == "__main__":
    main()
