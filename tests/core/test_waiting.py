"""Waiting over real HTTP: it says what for, ends at the deadline, and leaves an overloaded store alone.

That Ctrl-C ends it at once, whichever request hangs, is in test_killed_writers.py.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Iterator
from typing import get_args

import pytest
from datashard_testkit.fault_proxy import FaultProxy, Plan
from datashard_testkit.s3_server import S3Server

import datashard_core as ds
from datashard_core.commit.append import group_append
from datashard_core.config import S3Config, TransportChoice
from datashard_core.errors import CommitStateUnknownError, CommitTimeoutError, StorageError
from datashard_core.storage.base import ObjectInfo
from datashard_core.storage.memory import MemoryStorage
from datashard_core.storage.s3 import S3Storage
from datashard_core.table.warehouse import Warehouse

TRANSPORTS = [choice for choice in get_args(TransportChoice) if choice != "auto"]
SCHEMA = ds.Schema(fields=[{"id": 1, "name": "n", "type": "long"}])
LEEWAY = 15.0
"""Seconds beyond the deadline that a busy machine may take; a client's own patience is many times that."""


@pytest.fixture
def proxy(s3_server: S3Server) -> Iterator[FaultProxy]:
    with FaultProxy(s3_server.endpoint) as running:
        yield running


def behind(proxy: FaultProxy, server: S3Server, config: S3Config, transport: str = "obstore") -> ds.Table:
    """A table with one row, as a client behind the proxy has it, with the patience that is the default."""
    Warehouse(S3Storage(config)).create_table("t", SCHEMA).append([{"n": 0}])
    faulty = server.config(config.prefix, endpoint=proxy.endpoint, transport=transport)
    table = Warehouse(S3Storage(faulty)).load_table("t")
    table.append([{"n": 1}])
    proxy.plan = Plan()
    return table


def commit_put(proxy: FaultProxy, table: ds.Table) -> int:
    """Which request of an append is the one that commits."""
    table.append([{"n": 2}])
    paths = [path.partition("?")[0] for _, path in proxy.plan.seen]
    at = 1 + next(
        place
        for place, path in enumerate(paths)
        if path.endswith(f"/v{table.version}.metadata.json") and proxy.plan.seen[place][0] == "PUT"
    )
    proxy.plan = Plan()
    return at


@pytest.mark.parametrize("in_thread", [False, True], ids=["main thread", "another thread"])
@pytest.mark.parametrize("transport", TRANSPORTS)
def test_a_store_that_does_not_answer_is_waited_for_until_the_deadline(
    proxy: FaultProxy, s3_server: S3Server, s3_config: S3Config, transport: str, in_thread: bool
) -> None:
    table = behind(proxy, s3_server, s3_config, transport)
    for at in (1, commit_put(proxy, table)):
        released = threading.Event()

        def hang(request: int, at: int = at, released: threading.Event = released) -> None:
            if request >= at:
                released.wait(60)

        proxy.plan = Plan(hook=hang)
        ended: list[BaseException] = []

        def append(ended: list[BaseException] = ended) -> None:
            try:
                table.append([{"n": 10}], append_id="hanging", timeout=1.0)
            except (StorageError, CommitTimeoutError, CommitStateUnknownError) as error:
                ended.append(error)

        begun = time.monotonic()
        if in_thread:
            thread = threading.Thread(target=append)
            thread.start()
            thread.join(60)
        else:
            append()
        took = time.monotonic() - begun
        released.set()
        assert len(ended) == 1, "it was acknowledged though nothing answered"
        assert 1.0 <= took < 1.0 + LEEWAY
        assert isinstance(ended[0], CommitStateUnknownError) == (at > 1), ended
    proxy.plan = Plan()
    table.append([{"n": 10}], append_id="hanging")
    assert sorted(row["n"] for row in table.refresh().scan().to_records()) == [0, 1, 2, 10]


def test_a_store_that_is_overloaded_is_slowed_down_for_and_the_log_says_so_once(
    proxy: FaultProxy,
    s3_server: S3Server,
    s3_config: S3Config,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.setattr(group_append, "LOG_AFTER", 0.5)
    caplog.set_level(logging.INFO, logger="datashard_core")
    table = behind(proxy, s3_server, s3_config)
    proxy.plan = Plan("503", at=commit_put(proxy, table), lasting=True)
    times: list[float] = []
    proxy.plan.hook = lambda request: times.append(time.monotonic()) if request > proxy.plan.at else None
    begun = time.monotonic()
    with pytest.raises(CommitStateUnknownError, match=r"slow down|no answer before the deadline"):
        table.append([{"n": 10}], append_id="throttled", timeout=6.0)
    took = time.monotonic() - begun
    assert 6.0 <= took < 6.0 + LEEWAY
    # At full speed it would have sent hundreds; and the waits grow.
    assert 2 <= len(times) <= 16, times
    lines = [record.getMessage() for record in caplog.records if "waiting" in record.getMessage()]
    assert len(lines) == 1
    assert lines[0].startswith("table t: waiting for ") and "for a commit to include 1 append(s)" in lines[0]
    assert "503" in lines[0] or "slow down" in lines[0]
    proxy.plan = Plan()
    again = table.append([{"n": 10}], append_id="throttled")
    assert again.rows == 1
    assert sorted(row["n"] for row in table.refresh().scan().to_records()) == [0, 1, 2, 10]


class Overloaded(MemoryStorage):
    """A store that answers 503 to listings, so many times."""

    times = 0
    asked = 0

    def list(self, prefix: str, after: str | None = None) -> Iterator[ObjectInfo]:
        type(self).asked += 1
        if type(self).times:
            type(self).times -= 1
            raise StorageError("503 SlowDown", reason="throttled")
        return super().list(prefix, after)

    def at(self, folder: str) -> MemoryStorage:
        deeper = super().at(folder)
        deeper.__class__ = Overloaded
        return deeper


def test_an_append_that_meets_an_overloaded_store_before_it_sent_anything_waits_too(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(group_append, "SLOW", 0.05)
    table = Warehouse(Overloaded()).create_table("t", SCHEMA)
    Overloaded.asked, Overloaded.times = 0, 3
    begun = time.monotonic()
    assert table.append([{"n": 1}], append_id="a").already_appended is False
    assert time.monotonic() - begun > 0.5 * (0.05 + 0.1 + 0.2), "each wait is longer than the one before"
    assert Overloaded.asked == 4
    assert table.refresh().count() == 1
    Overloaded.times = 10**6
    with pytest.raises(CommitTimeoutError, match="before a commit was sent"):
        table.append([{"n": 2}], append_id="b", timeout=0.3)
    assert Overloaded.asked < 20
    Overloaded.times = 0
    assert table.refresh().count() == 1
