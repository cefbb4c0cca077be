"""Writers that are interrupted, terminated or killed at every request of an append.

The table stays readable, the append is in it once or not at all, and the next try of the same work
(same id, same rows) makes it once.
"""

from __future__ import annotations

import itertools
import multiprocessing
import os
import signal
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from datashard_testkit.fault_proxy import FaultProxy, Plan
from datashard_testkit.s3_server import S3Server

from datashard_core import Schema, connect
from datashard_core.table.warehouse import Warehouse

SCHEMA = Schema(schema_id=1, fields=[{"id": 1, "name": "n", "type": "long", "required": True}])
ROWS = [{"n": 10}, {"n": 11}]  # as in killed_writer.py
PATIENCE = 30.0
AT_ONCE = 1.0
"""Seconds within which an interrupt has to reach the caller, though a request hangs."""

_names = itertools.count()


@pytest.fixture(scope="module")
def proxy(s3_server: S3Server) -> Iterator[FaultProxy]:
    with FaultProxy(s3_server.endpoint) as running:
        yield running


@pytest.fixture(scope="module")
def processes() -> Iterator[Any]:
    """Fresh processes that have the imports done: each is a fork of a server without threads."""
    # multiprocessing imports what it runs, and the tests are no package.
    sys.path.insert(0, str(Path(__file__).parent))
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["datashard_core.table.warehouse", "boto3", "pyarrow.parquet", "fastavro"])
    yield context
    sys.path.remove(str(Path(__file__).parent))


class Writer:
    """A child process that is about to append through the proxy."""

    def __init__(self, processes: Any, server: S3Server, proxy: FaultProxy, prefix: str, name: str) -> None:
        settings = {
            "bucket": server.bucket,
            "prefix": prefix,
            "endpoint": proxy.endpoint,
            "region": "us-east-1",
            "access_key": server.access_key,
            "secret_key": server.secret_key,
        }
        self.pipe, theirs = processes.Pipe()
        from killed_writer import write

        self.process = processes.Process(target=write, args=(settings, name, theirs))
        self.process.start()
        assert self.pipe.poll(PATIENCE) and self.pipe.recv() == "loaded"

    def go(self) -> None:
        self.pipe.send("go")

    def last_word(self, seconds: float = PATIENCE) -> str:
        """What it said of its append; nothing if it was killed."""
        try:
            return str(self.pipe.recv()) if self.pipe.poll(seconds) else "silence"
        except EOFError:
            return "silence"

    def end(self) -> None:
        self.process.join(PATIENCE)
        if self.process.is_alive():
            self.process.kill()
            self.process.join()
            raise AssertionError("the writer did not end")


def fresh_table(warehouse: Warehouse) -> str:
    name = f"t{next(_names)}"
    warehouse.create_table(name, SCHEMA).append([{"n": 0}])
    return name


@pytest.mark.parametrize(
    ("number", "landing"),
    [
        pytest.param(signal.SIGKILL, True, id="SIGKILL, the request lands", marks=pytest.mark.thorough),
        pytest.param(signal.SIGKILL, False, id="SIGKILL, the request is lost", marks=pytest.mark.system),
        pytest.param(signal.SIGTERM, True, id="SIGTERM, the request lands", marks=pytest.mark.system),
        pytest.param(signal.SIGTERM, False, id="SIGTERM, the request is lost", marks=pytest.mark.system),
        pytest.param(signal.SIGINT, True, id="SIGINT, the request lands", marks=pytest.mark.system),
        pytest.param(signal.SIGINT, False, id="SIGINT, the request is lost", marks=pytest.mark.system),
    ],
)
def test_a_writer_may_die_at_any_request(
    processes: Any, s3_server: S3Server, proxy: FaultProxy, number: signal.Signals, landing: bool
) -> None:
    prefix = f"killed-{os.urandom(6).hex()}"
    warehouse = connect(config=s3_server.config(prefix))
    in_table, k = 0, 0
    while True:
        k += 1
        name = fresh_table(warehouse)
        proxy.plan = Plan()
        writer = Writer(processes, s3_server, proxy, prefix, name)
        word = _die(writer, proxy, k, number, landing)
        if word == "acknowledged":
            break  # an append has fewer requests than that
        found = sorted(row["n"] for row in warehouse.load_table(name).scan().to_records())
        assert found in ([0], [0, 10, 11]), f"killed at request {k}"
        in_table += found != [0]
        warehouse.load_table(name).append(ROWS, append_id="the task")
        warehouse.load_table(name).flush()
        found = sorted(row["n"] for row in warehouse.load_table(name).scan().to_records())
        assert found == [0, 10, 11], f"killed at request {k}"
    assert k > 6, "some requests of an append went unnoticed"
    assert in_table >= 1, "a writer that dies after its commit has committed"


def _die(writer: Writer, proxy: FaultProxy, k: int, number: signal.Signals, landing: bool) -> str:
    """Let a writer be hit at its k-th request; its last word."""
    done = threading.Event()

    def hit(request: int) -> None:
        if request == k:
            assert writer.process.pid is not None
            os.kill(writer.process.pid, number)
            done.wait(PATIENCE)

    proxy.plan = Plan("none" if landing else "reset", at=k, hook=hit)
    writer.go()
    word = writer.last_word()
    done.set()
    writer.end()
    assert proxy.plan.seen
    proxy.require_live()
    return word


@pytest.mark.thorough
def test_an_interrupt_reaches_the_caller_at_once(processes: Any, s3_server: S3Server, proxy: FaultProxy) -> None:
    """Whichever request hangs, of the calling thread or of the pool, Ctrl-C does not wait for it."""
    prefix = f"interrupted-{os.urandom(6).hex()}"
    warehouse = connect(config=s3_server.config(prefix))
    slow: dict[int, float] = {}
    k = 0
    while True:
        k += 1
        proxy.plan = Plan()
        writer = Writer(processes, s3_server, proxy, prefix, fresh_table(warehouse))
        struck = threading.Event()
        released = threading.Event()

        def hang(
            request: int, k: int = k, struck: threading.Event = struck, released: threading.Event = released
        ) -> None:
            if request == k:
                struck.set()
            if request >= k:
                released.wait(PATIENCE)

        proxy.plan = Plan(hook=hang)
        writer.go()
        until = time.monotonic() + PATIENCE
        while not struck.wait(0.05) and not writer.pipe.poll():
            assert time.monotonic() < until
        if not struck.is_set():
            assert writer.last_word() == "acknowledged"  # an append has fewer requests than that
            writer.end()
            break
        time.sleep(0.1)  # the other requests of its batch are on their way
        begun = time.monotonic()
        assert writer.process.pid is not None
        os.kill(writer.process.pid, signal.SIGINT)
        word = writer.last_word()
        took = time.monotonic() - begun
        released.set()
        writer.end()
        assert word == "KeyboardInterrupt"
        if took > AT_ONCE:
            slow[k] = took
    assert k > 6, "some requests of an append went unnoticed"
    assert slow == {}
