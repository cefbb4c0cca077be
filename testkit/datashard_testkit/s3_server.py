"""An S3 server on loopback for tests and trials: moto's, made atomic, in a process of its own.

moto checks a condition and writes without a lock, so two writers can both win; one lock around its
app makes it exact. Modes (:mod:`datashard_testkit.store_modes`) make it as odd as other stores.
Requests that do not carry the one access key are refused, so that a test (or the demonstration)
notices credentials that come from somewhere else.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from types import TracebackType
from typing import Any

from datashard_core.config import S3Config
from datashard_core.errors import StorageError
from datashard_testkit.store_http import App, Mode, respond
from datashard_testkit.store_modes import mode_of

START_SECONDS = 60.0
_CONTROL = "/_control/requests"
_CLOCK = "/_control/clock"
_MODES = "/_control/modes"
_REFUSED = (
    b'<?xml version="1.0" encoding="UTF-8"?><Error><Code>InvalidAccessKeyId</Code>'
    b"<Message>The AWS Access Key Id you provided does not exist in our records.</Message></Error>"
)


class S3Server:
    """A server process; use it as a context manager.

    Args:
        bucket: the bucket that it begins with.
        access_key: the only access key that it accepts.
        secret_key: its secret.
        modes: oddities of the store, by name (:mod:`datashard_testkit.store_modes`).

    Attributes:
        endpoint: URL of the running server.

    Raises:
        StorageError: the process ended before it was ready.

    Example:
        >>> with S3Server() as server:
        ...     connect(server.config("warehouse").uri, server.config("warehouse")).list_tables()
        []
    """

    def __init__(
        self,
        bucket: str = "datashard",
        access_key: str = "datashard-key",
        secret_key: str = "datashard-secret",
        modes: Sequence[str] = (),
    ) -> None:
        self.bucket = bucket
        self.access_key = access_key
        self.secret_key = secret_key
        self._first_modes = tuple(modes)
        self.endpoint = ""
        self._process: subprocess.Popen[str] | None = None

    def __enter__(self) -> S3Server:
        return self.start()

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.stop()

    def start(self) -> S3Server:
        """Start the process and wait until it answers."""
        command = [sys.executable, "-m", __name__, "--bucket", self.bucket, "--access-key", self.access_key]
        environment = {key: value for key, value in os.environ.items() if not key.startswith(("AWS_", "DATASHARD_"))}
        self._process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment
        )
        assert self._process.stdout is not None
        timer = threading.Timer(START_SECONDS, self._process.kill)
        timer.start()
        line = self._process.stdout.readline()
        timer.cancel()
        if not line:
            raise StorageError(
                f"the S3 server ended with exit code {self._process.wait()} before it was ready",
                reason="unreachable",
            )
        self.endpoint = json.loads(line)["endpoint"]
        if self._first_modes:
            self._set_modes(self._first_modes)
        return self

    @property
    def alive(self) -> bool:
        """Whether the process runs."""
        return self._process is not None and self._process.poll() is None

    def config(self, prefix: str = "", **changes: Any) -> S3Config:
        """The configuration that a client needs."""
        values: dict[str, Any] = {
            "bucket": self.bucket,
            "prefix": prefix,
            "endpoint": self.endpoint,
            "region": "us-east-1",
            "access_key": self.access_key,
            "secret_key": self.secret_key,
            **changes,
        }
        return S3Config(**values)

    def use_bucket(self, bucket: str) -> S3Server:
        """Make another bucket, and be its server from now on; what is in the others stays.

        For each listing moto looks at every object of a bucket, so that many tests in one bucket become slow.
        """
        from urllib.request import Request, urlopen

        headers = {"Authorization": f"AWS4-HMAC-SHA256 Credential={self.access_key}/20260101/us-east-1/s3/aws4_request"}
        with urlopen(Request(f"{self.endpoint}/{bucket}", method="PUT", headers=headers)):
            self.bucket = bucket
        return self

    def requests(self, *, reset: bool = False) -> list[tuple[str, str]]:
        """Method and path of the requests since the start or the last reset."""
        from urllib.request import Request, urlopen

        request = Request(self.endpoint + _CONTROL, method="DELETE" if reset else "GET")
        with urlopen(request) as answer:
            return [(method, path) for method, path in json.load(answer)]

    def move_clock(self, seconds: float) -> None:
        """Let the server's clock run ahead by so many seconds more: what lies there already is that much older."""
        from urllib.request import Request, urlopen

        with urlopen(Request(self.endpoint + _CLOCK, data=json.dumps(seconds).encode(), method="POST")) as answer:
            answer.read()

    @contextmanager
    def modes(self, *names: str) -> Iterator[S3Server]:
        """Behave like a store with these oddities until the block ends, and then as at the start.

        Args:
            names: as in :mod:`datashard_testkit.store_modes`; counters begin at zero.

        Raises:
            ValueError: there is no such mode.
        """
        self._set_modes(names)
        try:
            yield self
        finally:
            self._set_modes(self._first_modes)

    def _set_modes(self, names: Sequence[str]) -> None:
        from urllib.request import Request, urlopen

        for name in names:
            mode_of(name)  # refused here, where the traceback shows the caller
        with urlopen(Request(self.endpoint + _MODES, data=json.dumps(names).encode(), method="PUT")) as answer:
            answer.read()

    def stop(self) -> None:
        """End the process."""
        if self._process is None:
            return
        if self._process.stdin is not None:
            self._process.stdin.close()
        self._process.terminate()
        try:
            self._process.wait(10)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        if self._process.stdout is not None:
            self._process.stdout.close()
        self._process = None


_HANDED_OUT = re.compile(rb"<AccessKeyId>(\w+)</AccessKeyId>")


class _Guard:
    """The WSGI app that stands before moto's: one request at a time, and only with the right key."""

    def __init__(self, app: App, access_key: str) -> None:
        self._app = app
        self._keys = {access_key}
        self._lock = threading.Lock()
        self._log: list[tuple[str, str]] = []
        self._ahead = 0.0
        self._modes: Sequence[Mode] = ()

    def __call__(self, environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
        method, path = environ["REQUEST_METHOD"], environ["PATH_INFO"]
        if path == _CONTROL:
            return self._control(method, start_response)
        if path == _CLOCK:
            return self._move_clock(environ, start_response)
        if path == _MODES:
            return self._set_modes(environ, start_response)
        _, _, signed = environ.get("HTTP_AUTHORIZATION", "").partition("Credential=")
        if signed.partition("/")[0] not in self._keys:
            start_response("403 Forbidden", [("Content-Type", "application/xml")])
            return [_REFUSED]
        with self._lock:
            self._log.append((method, path))
        return respond(self._one_at_a_time, self._modes, environ, start_response)

    def _one_at_a_time(self, environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
        """Moto's app under the lock. The body has been read before: a slow client must not hold the lock."""
        with self._lock:
            answer = list(self._app(environ, start_response))
            if (environ["REQUEST_METHOD"], environ["PATH_INFO"]) == ("POST", "/"):
                # The same server is STS: a role that is assumed gets keys of its own.
                self._keys |= {key.decode() for key in _HANDED_OUT.findall(b"".join(answer))}
            return answer

    def _set_modes(self, environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
        self._modes = [mode_of(name) for name in json.loads(environ["wsgi.input"].read(int(environ["CONTENT_LENGTH"])))]
        start_response("204 No Content", [])
        return []

    def _control(self, method: str, start_response: Callable[..., Any]) -> Iterable[bytes]:
        with self._lock:
            body = json.dumps(self._log).encode()
            if method == "DELETE":
                self._log.clear()
        start_response("200 OK", [("Content-Type", "application/json"), ("Content-Length", str(len(body)))])
        return [body]

    def _move_clock(self, environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
        from datetime import timedelta

        from moto.core.utils import utcnow
        from moto.s3 import models

        with self._lock:
            self._ahead += json.loads(environ["wsgi.input"].read(int(environ["CONTENT_LENGTH"])))
            ahead = timedelta(seconds=self._ahead)
            setattr(models, "utcnow", lambda: utcnow() + ahead)  # noqa: B010 - mypy: moto exports no such name
        start_response("200 OK", [("Content-Length", "0")])
        return []


def serve(bucket: str, access_key: str) -> None:
    """Serve on a free port until the standard input ends; print the endpoint as JSON first."""
    import logging

    from moto.moto_server.werkzeug_app import DomainDispatcherApplication, create_backend_app
    from werkzeug.serving import WSGIRequestHandler, make_server

    class Handler(WSGIRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_request(self, *_: Any) -> None:
            """Tests read the log of requests, people do not."""

    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    _make_bucket(bucket)
    app = _Guard(DomainDispatcherApplication(create_backend_app), access_key)
    server = make_server("127.0.0.1", 0, app, threaded=True, request_handler=Handler)
    print(json.dumps({"endpoint": f"http://127.0.0.1:{server.server_port}"}), flush=True)
    signal.signal(signal.SIGTERM, lambda *_: os._exit(0))
    threading.Thread(target=_end_with_parent, daemon=True).start()
    server.serve_forever()


def _make_bucket(bucket: str) -> None:
    from moto.s3.models import s3_backends

    s3_backends["123456789012"]["aws"].create_bucket(bucket, "us-east-1")


def _end_with_parent() -> None:
    sys.stdin.read()
    os._exit(0)


def main() -> None:
    """The server's process."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--bucket", required=True)
    parser.add_argument("--access-key", required=True)
    arguments = parser.parse_args()
    serve(arguments.bucket, arguments.access_key)


if __name__ == "__main__":
    main()
