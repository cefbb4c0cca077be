"""An AWS connection that assumes a role: its keys are the role's, refreshed while a task runs, in all requests."""

from __future__ import annotations

import re
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import pytest

from airflow_provider_datashard.hooks.datashard import DataShardHook
from datashard_core import Schema

OWN_KEY = "AKIAOWNKEY"
ROLE = "arn:aws:iam::123456789012:role/writer"
_SIGNED = re.compile(r"Credential=([^/]+)/\d+/[^/]+/([a-z0-9]+)/")


@dataclass
class Aws:
    """A server of STS and S3, and who asked it.

    Attributes:
        app: moto's.
        keys: the access keys that signed requests, by service.
        endpoint: its URL.
    """

    app: Callable[..., Iterable[bytes]]
    keys: dict[str, list[str]] = field(default_factory=lambda: {"sts": [], "s3": []})
    endpoint: str = ""
    lock: threading.Lock = field(default_factory=threading.Lock)

    def __call__(self, environ: Mapping[str, Any], start_response: Any) -> Iterable[bytes]:
        signed = _SIGNED.search(environ.get("HTTP_AUTHORIZATION", ""))
        assert signed is not None, f"{environ['REQUEST_METHOD']} {environ['PATH_INFO']} is not signed"
        with self.lock:  # moto looks at a condition and writes without one
            self.keys[signed[2]].append(signed[1])
            return list(self.app(environ, start_response))


@pytest.fixture
def aws() -> Iterator[Aws]:
    from moto.moto_server.werkzeug_app import DomainDispatcherApplication, create_backend_app
    from moto.s3.models import s3_backends
    from werkzeug.serving import WSGIRequestHandler, make_server

    class Quiet(WSGIRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_request(self, *_: Any) -> None:
            """The test reads the keys."""

    s3_backends["123456789012"]["aws"].create_bucket("of-the-role", "us-east-1")
    made = Aws(DomainDispatcherApplication(create_backend_app))
    server = make_server("127.0.0.1", 0, made, threaded=True, request_handler=Quiet)  # type: ignore[arg-type]
    made.endpoint = f"http://127.0.0.1:{server.server_port}"
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield made
    server.shutdown()
    server.server_close()


@pytest.mark.usefixtures("wrong_variables")
def test_the_role_is_assumed_and_its_keys_are_refreshed(aws: Aws, environment_connection: Any) -> None:
    environment_connection(
        "aws_role",
        conn_type="aws",
        login=OWN_KEY,
        password="own-secret",
        fields={
            "region_name": "us-east-1",
            "role_arn": ROLE,
            # As short as AWS allows, and shorter than the time that botocore keeps in hand: asked anew each time.
            "assume_role_kwargs": {"DurationSeconds": 900},
            "service_config": {"s3": {"endpoint_url": aws.endpoint}, "sts": {"endpoint_url": aws.endpoint}},
        },
    )
    environment_connection("role_warehouse", {"bucket": "of-the-role", "prefix": "tables", "aws_conn_id": "aws_role"})
    hook = DataShardHook(datashard_conn_id="role_warehouse")
    table = hook.create_table("events", Schema(fields=[{"id": 1, "name": "n", "type": "long"}]))
    first = set(aws.keys["s3"])
    for number in range(2):
        table.append([{"n": number}])
    assert sorted(row["n"] for row in table.scan().to_records()) == [0, 1]
    assert set(aws.keys["sts"]) == {OWN_KEY}
    assert OWN_KEY not in aws.keys["s3"] and "wrong-key" not in aws.keys["s3"]
    assert set(aws.keys["s3"]) - first, "the keys of the role were never refreshed"
