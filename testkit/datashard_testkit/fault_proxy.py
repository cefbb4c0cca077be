"""An HTTP proxy before an S3 server that lets chosen requests go wrong as networks and stores do.

It counts the requests that reach it and applies one fault to the k-th, or to all from the k-th on:
what is simulated elsewhere by the million happens here to real clients on real sockets. Requests
pass through unchanged (the Host header too, so signatures hold).
"""

from __future__ import annotations

import asyncio
import socket
import ssl
import struct
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from types import TracebackType
from typing import Literal
from urllib.parse import urlsplit

Kind = Literal["none", "reset", "reply lost", "late", "500", "500 after", "503", "409", "501"]
"""What happens to a request.

* ``reset``: the connection is reset, and the store never sees the request;
* ``reply lost``: the store does it, and the connection is reset instead of the reply;
* ``late``: the connection is reset, and the store does it some time after;
* ``500``, ``503``: answered in the store's place; ``500 after``: once the store has done it;
* ``409``: the same, for conditional requests alone: stores answer it to no other; ``501``: likewise, by a
  store that knows no conditions.
"""

START_SECONDS = 10.0
_ANSWERS: dict[str, tuple[str, str]] = {
    "500": ("500 Internal Server Error", "InternalError"),
    "500 after": ("500 Internal Server Error", "InternalError"),
    "503": ("503 Slow Down", "SlowDown"),
    "409": ("409 Conflict", "ConditionalRequestConflict"),
    "501": ("501 Not Implemented", "NotImplemented"),
}


@dataclass
class Plan:
    """Which requests go wrong, and how.

    Attributes:
        kind: what happens to them.
        at: number of the first of them, counted from 1.
        lasting: whether all later ones share its fate.
        late_seconds: how long after the reset a ``late`` request reaches the store.
        hook: called with the number of each request before anything happens to it.
        seen: method and path of every request so far.
        heads: their first lines and headers.
    """

    kind: Kind = "none"
    at: int = 0
    lasting: bool = False
    late_seconds: float = 0.3
    hook: Callable[[int], None] | None = None
    seen: list[tuple[str, str]] = field(default_factory=list)
    heads: list[str] = field(default_factory=list)

    def next(self, method: str, path: str, head: str = "") -> tuple[int, Kind]:
        """Count a request; its number and its fate."""
        self.seen.append((method, path))
        self.heads.append(head)
        number = len(self.seen)
        hit = number == self.at or (self.lasting and number > self.at > 0)
        return number, self.kind if hit else "none"


@dataclass(frozen=True)
class _Message:
    head: bytes
    body: bytes

    @property
    def first_line(self) -> list[str]:
        return self.head.split(b"\r\n", 1)[0].decode("latin-1").split(" ", 2)

    def header(self, name: bytes) -> bytes:
        for line in self.head.split(b"\r\n")[1:]:
            key, _, value = line.partition(b":")
            if key.strip().lower() == name:
                return value.strip()
        return b""


class FaultProxy:
    """The proxy, in a thread of this process; use it as a context manager.

    Args:
        upstream: URL of the S3 server behind it.
        tls: certificate and key, for clients that speak HTTPS to it (as ``localhost``).

    Example:
        >>> with FaultProxy(server.endpoint) as proxy:
        ...     proxy.plan = Plan("reply lost", at=3)
        ...     connect(config=server.config("warehouse", endpoint=proxy.endpoint))
        <Warehouse s3://datashard/warehouse>
    """

    def __init__(self, upstream: str, tls: ssl.SSLContext | None = None) -> None:
        parts = urlsplit(upstream)
        self._host, self._port = str(parts.hostname), int(parts.port or 80)
        self._tls = tls
        self.plan = Plan()
        self.endpoint = ""
        self._loop = asyncio.new_event_loop()
        self._ready = threading.Event()
        self._thread = threading.Thread(target=self._run, name="fault-proxy", daemon=True)
        self._later: set[asyncio.Task[None]] = set()

    def __enter__(self) -> FaultProxy:
        self._thread.start()
        if not self._ready.wait(START_SECONDS):
            raise TimeoutError("the fault proxy did not start")
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(START_SECONDS)

    def require_live(self) -> None:
        """Wait until every late request has reached the store."""

        async def wait() -> None:
            while self._later:
                await asyncio.gather(*self._later, return_exceptions=True)

        asyncio.run_coroutine_threadsafe(wait(), self._loop).result(START_SECONDS)

    # -----------------------------------------------------------------------------------------

    def _run(self) -> None:
        asyncio.set_event_loop(self._loop)
        server = self._loop.run_until_complete(asyncio.start_server(self._serve, "127.0.0.1", 0, ssl=self._tls))
        port = server.sockets[0].getsockname()[1]
        self.endpoint = f"https://localhost:{port}" if self._tls is not None else f"http://127.0.0.1:{port}"
        self._ready.set()
        self._loop.run_forever()
        server.close()
        for task in asyncio.all_tasks(self._loop):
            task.cancel()
        self._loop.run_until_complete(asyncio.sleep(0))
        self._loop.close()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while (request := await _read_request(reader, writer)) is not None:
                if not await self._handle(request, writer):
                    break
        except (ConnectionError, asyncio.IncompleteReadError, asyncio.CancelledError):
            return  # the client has gone (killed, or out of patience), or the proxy stops
        finally:
            writer.close()

    async def _handle(self, request: _Message, writer: asyncio.StreamWriter) -> bool:
        """Let one request have its fate; whether the connection lives on."""
        method, path, _ = request.first_line
        plan = self.plan
        number, kind = plan.next(method, path, request.head.decode("latin-1"))
        if kind in ("409", "501") and not (request.header(b"if-none-match") or request.header(b"if-match")):
            kind = "none"
        if plan.hook is not None:
            await asyncio.to_thread(plan.hook, number)
        if kind == "reset":
            _reset(writer)
            return False
        if kind == "late":
            task = self._loop.create_task(self._forward_later(request, plan.late_seconds))
            self._later.add(task)
            task.add_done_callback(self._later.discard)
            _reset(writer)
            return False
        reply = b""
        if kind in ("none", "reply lost", "500 after"):
            reply = await self._forward(request)
        if kind == "reply lost":
            _reset(writer)
            return False
        writer.write(reply if kind == "none" else _answer(kind, bodiless=method == "HEAD"))
        await writer.drain()
        return True

    async def _forward_later(self, request: _Message, seconds: float) -> None:
        await asyncio.sleep(seconds)
        await self._forward(request)

    async def _forward(self, request: _Message) -> bytes:
        """Send a request to the store on a connection of its own, and read the whole reply."""
        reader, writer = await asyncio.open_connection(self._host, self._port)
        try:
            writer.write(request.head + request.body)
            await writer.drain()
            reply = await _read_message(reader, bodiless=request.first_line[0] == "HEAD")
            return reply.head + reply.body if reply is not None else b""
        finally:
            writer.close()


async def _read_request(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> _Message | None:
    try:
        head = await reader.readuntil(b"\r\n\r\n")
    except asyncio.IncompleteReadError:
        return None
    if b"100-continue" in _Message(head, b"").header(b"expect"):
        writer.write(b"HTTP/1.1 100 Continue\r\n\r\n")
        head = b"\r\n".join(line for line in head.split(b"\r\n") if not line.lower().startswith(b"expect:"))
    return _Message(head, await _read_body(reader, _Message(head, b"")))


async def _read_message(reader: asyncio.StreamReader, *, bodiless: bool) -> _Message | None:
    head = await reader.readuntil(b"\r\n\r\n")
    shell = _Message(head, b"")
    if bodiless or shell.first_line[1] in ("204", "304"):
        return shell
    return _Message(head, await _read_body(reader, shell))


async def _read_body(reader: asyncio.StreamReader, shell: _Message) -> bytes:
    if b"chunked" not in shell.header(b"transfer-encoding").lower():
        return await reader.readexactly(int(shell.header(b"content-length") or 0))
    parts = []
    while True:
        size = await reader.readuntil(b"\r\n")
        length = int(size.split(b";")[0], 16)
        if length == 0:
            parts.append(size)
            while (line := await reader.readuntil(b"\r\n")) != b"\r\n":  # trailers
                parts.append(line)
            return b"".join([*parts, b"\r\n"])
        parts += [size, await reader.readexactly(length + 2)]


def _answer(kind: str, *, bodiless: bool) -> bytes:
    status, code = _ANSWERS[kind]
    body = f'<?xml version="1.0"?><Error><Code>{code}</Code><Message>by the fault proxy</Message></Error>'.encode()
    head = f"HTTP/1.1 {status}\r\nContent-Type: application/xml\r\nContent-Length: {len(body)}\r\n\r\n"
    return head.encode() + (b"" if bodiless else body)


def _reset(writer: asyncio.StreamWriter) -> None:
    """Close with RST: the client sees a reset connection, not an orderly end."""
    raw = writer.get_extra_info("socket")
    raw.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    writer.transport.abort()
