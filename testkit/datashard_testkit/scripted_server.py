"""An HTTP server whose every answer is made by a function: for answers that no S3 server gives."""

from __future__ import annotations

import socket
import threading
from collections.abc import Callable
from contextlib import suppress
from types import TracebackType
from typing import BinaryIO

Reply = Callable[[bytes], bytes]
"""The whole answer to a request, of which it is given the first line and the headers."""


class ScriptedServer:
    """The server, in threads of this process; use it as a context manager.

    Args:
        reply: makes the answers.

    Attributes:
        endpoint: its URL.
        heads: first line and headers of every request so far.

    Example:
        >>> with ScriptedServer(lambda head: refusal(head, 403, "QuotaExceeded", "full")) as server:
        ...     server.endpoint.startswith("http://127.0.0.1:")
        True
    """

    def __init__(self, reply: Reply) -> None:
        self.heads: list[bytes] = []
        self._reply = reply
        self._connected: list[socket.socket] = []
        self._listening = socket.create_server(("127.0.0.1", 0))
        self.endpoint = f"http://127.0.0.1:{self._listening.getsockname()[1]}"

    def __enter__(self) -> ScriptedServer:
        threading.Thread(target=self._accept, name="scripted-server", daemon=True).start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
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
                return  # closed
            threading.Thread(target=self._serve, args=(connection,), daemon=True).start()

    def _serve(self, connection: socket.socket) -> None:
        with connection, connection.makefile("rb") as incoming:
            try:
                while (head := _head(incoming)) and self._answer(head, connection, incoming):
                    pass
            except OSError:
                return  # the client has gone

    def _answer(self, head: bytes, connection: socket.socket, incoming: BinaryIO) -> bool:
        """Answer one request; whether the connection lives on."""
        if b"100-continue" in head.lower():
            connection.sendall(b"HTTP/1.1 100 Continue\r\n\r\n")
        lengths = [line for line in head.lower().split(b"\r\n") if line.startswith(b"content-length:")]
        incoming.read(int(lengths[0].partition(b":")[2]) if lengths else 0)
        self.heads.append(head)
        answer = self._reply(head)
        connection.sendall(answer)
        return b"connection: close" not in answer.partition(b"\r\n\r\n")[0].lower()


def _head(incoming: BinaryIO) -> bytes:
    """The first line and the headers of a request; nothing once the client has gone."""
    lines = []
    while (line := incoming.readline()) not in (b"\r\n", b""):
        lines.append(line)
    return b"".join(lines)


def answer(head: bytes, status: int, body: str = "", *headers: str) -> bytes:
    """An answer with a body, of which a HEAD gets nothing."""
    data = b"" if head.startswith(b"HEAD") else body.encode()
    lines = [f"HTTP/1.1 {status} Scripted", f"Content-Length: {len(data)}", *headers]
    return "\r\n".join([*lines, "", ""]).encode() + data


def refusal(head: bytes, status: int, code: str, message: str = "scripted", more: str = "", *headers: str) -> bytes:
    """An error as S3 sends it.

    Args:
        head: the request.
        status: HTTP status.
        code: S3's code.
        message: S3's words.
        more: further elements.
        headers: further headers.
    """
    body = (
        f'<?xml version="1.0" encoding="UTF-8"?>\n<Error><Code>{code}</Code><Message>{message}</Message>{more}</Error>'
    )
    return answer(head, status, body, "Content-Type: application/xml", *headers)
