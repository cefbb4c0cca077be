"""Storages to test on: every storage test runs over each kind, and the end of a run says which ran."""

from __future__ import annotations

import os
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from datashard_testkit.s3_server import S3Server
from datashard_testkit.sampling import THOROUGH
from hypothesis import HealthCheck, settings
from msgspec.structs import replace

from datashard_core.clock import SystemClock
from datashard_core.commit.append import deferred
from datashard_core.config import S3Config
from datashard_core.storage.base import Storage
from datashard_core.storage.local import LocalStorage
from datashard_core.storage.memory import MemoryStorage
from datashard_core.storage.s3 import S3Storage
from datashard_core.table.warehouse import Warehouse

# How long an example takes depends on what else the machine does.
UNTIMED = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.register_profile("quick", UNTIMED, max_examples=20)
settings.register_profile("thorough", UNTIMED, max_examples=150)
settings.load_profile("thorough" if THOROUGH else "quick")

BACKENDS = ("memory", "local", "s3", "obstore")
"""Kinds of storage; "s3" is the S3 server through boto3, "obstore" the same through obstore."""


@pytest.fixture(scope="session")
def s3_process() -> Iterator[S3Server]:
    """A real S3 protocol over HTTP, in a process of its own."""
    with S3Server() as server:
        yield server


@pytest.fixture(scope="module")
def s3_server(s3_process: S3Server) -> S3Server:
    """That server, with a bucket that no other module uses."""
    return s3_process.use_bucket(f"datashard-{os.urandom(4).hex()}")


@pytest.fixture
def s3_config(s3_server: S3Server, request: pytest.FixtureRequest) -> S3Config:
    """A folder of the bucket that no other test uses."""
    return s3_server.config(f"t{abs(hash(request.node.nodeid)):x}-{os.urandom(4).hex()}")


@pytest.fixture(params=BACKENDS)
def any_storage(request: pytest.FixtureRequest, tmp_path: Path) -> Storage:
    """A fresh storage of each kind."""
    request.node.user_properties.append(("storage", request.param))
    if request.param == "memory":
        return MemoryStorage("memory://test")
    if request.param == "local":
        return LocalStorage(tmp_path / "store")
    config: S3Config = request.getfixturevalue("s3_config")
    return S3Storage(replace(config, transport="boto3" if request.param == "s3" else "obstore"))


@pytest.fixture(autouse=True)
def no_lot(monkeypatch: pytest.MonkeyPatch) -> None:
    """A deferred append stays staged: none draws the lot by which one in many commits what is there."""
    monkeypatch.setattr(deferred, "ONE_IN", 2**64)


@dataclass
class MovedClock:
    """How many seconds the world's clock has been moved on."""

    ahead: float = 0.0


@pytest.fixture
def moved_clock(monkeypatch: pytest.MonkeyPatch) -> MovedClock:
    """Moves the clock that every warehouse of the test goes by, and every store in memory."""
    clock = MovedClock()
    monkeypatch.setattr(SystemClock, "now_ms", lambda _: time.time_ns() // 1_000_000 + int(1000 * clock.ahead))
    return clock


@pytest.fixture
def time_passes(
    any_storage: Storage, moved_clock: MovedClock, request: pytest.FixtureRequest, tmp_path: Path
) -> Iterator[Callable[[float], None]]:
    """Lets so many seconds pass, for us and for the store, until the test ends."""
    server: S3Server | None = request.getfixturevalue("s3_server") if isinstance(any_storage, S3Storage) else None

    passed = 0.0

    def pass_by(seconds: float) -> None:
        nonlocal passed
        passed += seconds
        moved_clock.ahead += seconds
        if isinstance(any_storage, LocalStorage):
            for path in (tmp_path / "store").rglob("*"):
                if path.is_file():
                    os.utime(path, (time.time(), path.stat().st_mtime - seconds))
        elif server is not None:
            server.move_clock(seconds)

    yield pass_by
    if server is not None:
        server.move_clock(-passed)  # it serves the tests that follow, too


@pytest.fixture
def any_warehouse(any_storage: Storage) -> Warehouse:
    """An empty warehouse on each kind of storage."""
    return Warehouse(any_storage)


@pytest.fixture
def warehouse(tmp_path: Path) -> Warehouse:
    """An empty warehouse on local disk."""
    return Warehouse(LocalStorage(tmp_path / "warehouse"))


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Say which kinds of storage were really tested, in whatever processes."""
    ran = Counter(
        value
        for reports in terminalreporter.stats.values()
        for report in reports
        if isinstance(report, pytest.TestReport) and report.when == "call"
        for name, value in report.user_properties
        if name == "storage"
    )
    if ran:
        counts = ", ".join(f"{name} ({ran[name]} tests)" for name in BACKENDS if ran[name])
        terminalreporter.write_line(f"storage backends: {counts}")
