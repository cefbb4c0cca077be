"""Many files read side by side, their rows handed on in the order of the files, in bounded memory.

Every step of a file decodes a few megabytes in a thread of the pool and ends; no thread ever waits for
the consumer, so scans that are read in turns cannot block one another.
"""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future
from typing import TYPE_CHECKING

from datashard_core.format.data_file import DataFile
from datashard_core.storage.driver import Pool, decoding_pool, shared_pool
from datashard_core.table.parquet_rows import FileRows, Reading

if TYPE_CHECKING:
    import pyarrow as pa

MAX_BYTES = 96 * 2**20
"""What is decoded ahead of the consumer, and being decoded, stays about below this."""
FILES_AHEAD = 32
"""Of a bucket: small files cost waiting and little else."""


class _Lane:
    """One file on its way."""

    def __init__(self, rows: FileRows) -> None:
        self.rows = rows
        self.ready: deque[pa.RecordBatch] = deque()
        self.running: Future[tuple[list[pa.RecordBatch], bool]] | None = None
        self.more = True
        self.size = 0

    def collect(self) -> None:
        """Take what the last step has found; waits for it."""
        if self.running is None:
            return
        batches, self.more = self.running.result()
        self.running = None
        self.ready += batches
        self.size += sum(batch.nbytes for batch in batches)

    def start(self, pool: Pool) -> None:
        self.running = pool.submit(self.rows.step)

    @property
    def weight(self) -> int:
        return self.size + (self.rows.weight if self.running is not None else 0)

    @property
    def idle(self) -> bool:
        """Whether its next step could be started."""
        return self.more and self.running is None


def read_files(reading: Reading, files: Iterator[DataFile], ahead: int | None = None) -> Iterator[pa.RecordBatch]:
    """The rows of files, in their order.

    Args:
        reading: what is wanted of each.
        files: the files; they are taken as they are needed.
        ahead: files read side by side; None chooses.

    Raises:
        CorruptTableError: a file is missing or damaged.
        StorageError: the store failed.
    """
    if ahead is None:
        ahead = (os.cpu_count() or 1) + 1 if reading.is_local else FILES_AHEAD
    pool = decoding_pool() if reading.is_local else shared_pool()
    lanes: deque[_Lane] = deque()
    try:
        while True:
            _go_on(lanes, reading, files, ahead, pool)
            if not lanes:
                return
            first = lanes[0]
            if first.ready:
                batch = first.ready.popleft()
                first.size -= batch.nbytes
                yield batch
            elif first.running is not None:
                first.collect()
            else:
                lanes.popleft()
    finally:
        for lane in lanes:
            if lane.running is not None:
                lane.running.cancel()


def _go_on(lanes: deque[_Lane], reading: Reading, files: Iterator[DataFile], ahead: int, pool: Pool) -> None:
    """Start what may run: the first file always, the others while there is room."""
    for lane in lanes:
        if lane.running is not None and lane.running.done():
            lane.collect()
    room = MAX_BYTES - sum(lane.weight for lane in lanes)
    for place, lane in enumerate(lanes):
        if lane.idle and (not lane.ready if place == 0 and room < 0 else room > 0):
            lane.start(pool)
            room -= lane.rows.weight
    while len(lanes) < ahead and (room > 0 or not lanes):
        file = next(files, None)
        if file is None:
            return
        lane = _Lane(FileRows(reading, file))
        lane.start(pool)
        lanes.append(lane)
        room -= lane.rows.weight
