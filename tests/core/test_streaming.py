"""Files read side by side: what bounded memory must not do to their rows."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from concurrent.futures import Future
from typing import Any

import pyarrow as pa
import pytest

from datashard_core import Schema
from datashard_core.config import S3Config
from datashard_core.effects import driver
from datashard_core.storage.memory import MemoryStorage
from datashard_core.table import parquet_rows, streaming
from datashard_core.table.parquet_rows import FileRows
from datashard_core.table.warehouse import Warehouse, connect

SCHEMA = Schema(fields=[{"id": 1, "name": "a", "type": "long"}])


class _Fetched:
    """A file of two steps: the first finds nothing, and what it holds fills all the memory there is."""

    weight = 50
    held = 0

    def __init__(self, _reading: Any, number: Any) -> None:
        self._number = number
        self.at_hand = False

    def step(self) -> tuple[list[pa.RecordBatch], bool]:
        if not self.at_hand:
            self.at_hand, self.held = True, 100
            return [], True
        self.held = 0
        return [pa.record_batch({"a": [self._number]})], False


@pytest.mark.parametrize("memory", [99, 100, 101])
def test_memory_that_is_full_to_the_byte_loses_no_rows(memory: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(streaming, "FileRows", _Fetched)
    monkeypatch.setattr(streaming, "MAX_BYTES", memory)
    files: Iterator[Any] = iter(range(5))
    batches = streaming.read_files(None, files, ahead=1)  # type: ignore[arg-type] # it is the files' alone
    assert [batch["a"][0].as_py() for batch in batches] == list(range(5))


def test_files_that_are_fetched_leave_room_to_decode_several(monkeypatch: pytest.MonkeyPatch) -> None:
    table = Warehouse(MemoryStorage("memory://here")).create_table("t", SCHEMA)
    for number in range(12):
        table.append([{"a": number}])
    size = max(file.file_size_in_bytes for file in table.scan().plan())
    monkeypatch.setattr(parquet_rows, "STEP_BYTES", 2 * size)
    monkeypatch.setattr(streaming, "MAX_BYTES", 10 * size)
    fetches: list[tuple[Future[Any], Any]] = []
    queued: list[Future[Any]] = []

    class Fetched(Future[Any]):
        """All that is being fetched is there once somebody waits for one of it."""

        def result(self, timeout: float | None = None) -> Any:
            while fetches:
                one, work = fetches.pop()
                one.set_result(work())
            return super().result(timeout)

    class Fetching:
        def submit(self, work: Any) -> Future[Any]:
            fetches.append((Fetched(), work))
            return fetches[-1][0]

    class Decoding:
        """Nobody has the time: all is left to whoever waits."""

        def submit(self, work: Any) -> Future[Any]:
            queued.append(Future())
            return queued[-1]

    monkeypatch.setattr(streaming, "shared_pool", Fetching)
    monkeypatch.setattr(streaming, "decoding_pool", Decoding)
    batches = iter(table.scan().to_batches())
    found = next(batches)["a"].to_pylist()
    assert len(queued) >= 2, "with the first file decoded, others are still left to whoever comes"
    for batch in batches:
        found += batch["a"].to_pylist()
    assert found == list(range(12))


def test_files_of_a_bucket_are_fetched_by_many_threads_and_decoded_by_few(
    s3_config: S3Config, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Threads that decode keep memory, and take turns on few processors."""
    monkeypatch.setattr(parquet_rows.small_files, "max_object", 0)
    table = connect(config=s3_config).create_table("t", SCHEMA)
    for number in range(20):
        table.append([{"a": number}])
    fetched: set[int] = set()
    decoded: set[int] = set()
    step = FileRows.step

    def with_watermark(self: FileRows) -> Any:
        (decoded if self.at_hand else fetched).add(threading.get_ident())
        return step(self)

    monkeypatch.setattr(FileRows, "step", with_watermark)
    monkeypatch.setattr(driver._Shared, "decoders", driver.Pool(1))
    assert sorted(table.scan().to_arrow()["a"].to_pylist()) == list(range(20))
    assert fetched and decoded and not fetched & decoded
    assert len(decoded) <= 2, "one thread beside the one that waits for the rows"
