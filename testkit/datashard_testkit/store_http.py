"""WSGI requests and answers with whole bodies, and layers that change them: what store modes are made of."""

from __future__ import annotations

import io
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from http import HTTPStatus
from typing import Any

App = Callable[[dict[str, Any], Callable[..., Any]], Iterable[bytes]]


@dataclass(frozen=True)
class Request:
    """A request with its whole body.

    Attributes:
        environ: the WSGI environment.
        body: the body.
    """

    environ: dict[str, Any]
    body: bytes = b""

    @property
    def method(self) -> str:
        return str(self.environ["REQUEST_METHOD"])

    @property
    def path(self) -> str:
        return str(self.environ["PATH_INFO"])

    @property
    def deletes_objects(self) -> bool:
        """Whether it is a DeleteObjects request."""
        return self.method == "POST" and "delete" in self.environ.get("QUERY_STRING", "").split("&")

    def header(self, name: str) -> str | None:
        value = self.environ.get(_variable(name))
        return None if value is None else str(value)

    def without(self, *names: str) -> Request:
        dropped = {_variable(name) for name in names}
        return self._with({key: value for key, value in self.environ.items() if key not in dropped})

    def with_header(self, name: str, value: str) -> Request:
        return self._with({**self.environ, _variable(name): value})

    def as_head(self) -> Request:
        """A HEAD of the same object, without conditions."""
        plain = self.without("If-None-Match", "If-Match", "Content-Length", "Content-MD5").environ
        return Request({**plain, "REQUEST_METHOD": "HEAD"})

    def _with(self, environ: dict[str, Any]) -> Request:
        return replace(self, environ=environ)


@dataclass(frozen=True)
class Answer:
    """An answer with its whole body."""

    status: int
    headers: Sequence[tuple[str, str]] = ()
    body: bytes = b""

    def header(self, name: str) -> str | None:
        return next((value for key, value in self.headers if key.lower() == name.lower()), None)

    def with_header(self, name: str, value: str) -> Answer:
        return replace(self.without(name), headers=[*self.without(name).headers, (name, value)])

    def without(self, name: str) -> Answer:
        return replace(self, headers=[pair for pair in self.headers if pair[0].lower() != name.lower()])

    def with_body(self, body: bytes) -> Answer:
        """The same with another body of which the length is declared."""
        return replace(self, body=body).with_header("Content-Length", str(len(body)))


Send = Callable[[Request], Answer]
Mode = Callable[[Request, Send], Answer]


def error(request: Request, status: int, code: str, message: str, *more: tuple[str, str]) -> Answer:
    """An error of S3, without a body where the request is a HEAD."""
    body = f'<?xml version="1.0" encoding="UTF-8"?><Error><Code>{code}</Code><Message>{message}</Message></Error>'
    headers = [("Content-Type", "application/xml"), *more]
    return Answer(status, headers).with_body(b"" if request.method == "HEAD" else body.encode())


def respond(
    app: App, modes: Sequence[Mode], environ: dict[str, Any], start_response: Callable[..., Any]
) -> list[bytes]:
    """Answer a request by a WSGI app, with modes before it."""
    send: Send = _sender(app)
    for mode in reversed(modes):
        send = _layer(mode, send)
    answer = send(Request(environ, _body(environ)))
    start_response(f"{answer.status} {HTTPStatus(answer.status).phrase}", list(answer.headers))
    return [answer.body]


def _layer(mode: Mode, inner: Send) -> Send:
    return lambda request: mode(request, inner)


def _sender(app: App) -> Send:
    def send(request: Request) -> Answer:
        environ = {key: value for key, value in request.environ.items() if key != "HTTP_TRANSFER_ENCODING"}
        environ |= {"wsgi.input": io.BytesIO(request.body), "CONTENT_LENGTH": str(len(request.body))}
        started: list[tuple[str, list[tuple[str, str]]]] = []
        parts = app(environ, lambda status, headers, *_: started.append((status, headers)))
        body = b"".join(parts)
        status, headers = started[-1]
        return Answer(int(status.split(" ", 1)[0]), headers, body)

    return send


def _body(environ: dict[str, Any]) -> bytes:
    stream = environ["wsgi.input"]
    if "chunked" in environ.get("HTTP_TRANSFER_ENCODING", "").lower():
        return bytes(stream.read())
    return bytes(stream.read(int(environ.get("CONTENT_LENGTH") or 0)))


def _variable(header: str) -> str:
    name = header.upper().replace("-", "_")
    return name if name in ("CONTENT_TYPE", "CONTENT_LENGTH") else f"HTTP_{name}"
