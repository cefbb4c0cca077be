"""Many files read side by side, their rows handed on in the order of the files, in bounded memory.

Every step of a file decodes a few megabytes in a thread of the pool and ends; no thread ever waits for
the consumer, so scans that are read in turns cannot block one another.
"""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future
from typing import TYPE_CHECKING, Protocol

from datashard_core.effects.driver import decoding_pool, shared_pool
from datashard_core.format.metadata.data_file import DataFile
from datashard_core.table.parquet_rows import FileRows, Reading

if TYPE_CHECKING:
    import pyarrow as pa

MAX_BYTES = 96 * 2**20
"""What is decoded ahead of the consumer, and being decoded, stays about below this."""
FILES_AHEAD = 32
"""Of a bucket: small files cost waiting and little else."""


TOGETHER, TOGETHER_BYTES = 8, 2**20
"""So many files that are at hand, or bytes of them, are one lane: handing a small file over takes as long as a fifth of
what reading it does."""


class _Rows(Protocol):
    """One file that is read, or some; see :class:`FileRows`."""

    @property
    def weight(self) -> int: ...

    @property
    def held(self) -> int: ...

    @property
    def at_hand(self) -> bool: ...

    def step(self) -> tuple[list[pa.RecordBatch], bool]: ...


class _Several:
    """Small files, read one after the other in one step."""

    at_hand = True

    def __init__(self, files: list[FileRows]) -> None:
        self._files = files
        self.weight = sum(file.weight for file in files)
        self.held = sum(file.held for file in files)

    def step(self) -> tuple[list[pa.RecordBatch], bool]:
        found: list[pa.RecordBatch] = []
        while self._files:
            batches, more = self._files[0].step()
            found += batches
            if more:
                return found, True
            self._files.pop(0)
        return found, False


class _Lane:
    """One file on its way, or some."""

    def __init__(self, rows: _Rows) -> None:
        self.rows = rows
        self.ready: deque[pa.RecordBatch] = deque()
        self.running: Future[tuple[list[pa.RecordBatch], bool]] | None = None
        self.more = True
        self.size = 0

    def collect(self) -> None:
        """Take what the last step has found; waits for it."""
        if self.running is not None:
            self._take(*self.running.result())

    def help(self) -> bool:
        """Do the step here, if no thread has begun with it and there is nothing to wait for; whether it was done."""
        if self.running is None or not self.rows.at_hand or not self.running.cancel():
            return False
        self._take(*self.rows.step())
        return True

    def _take(self, batches: list[pa.RecordBatch], more: bool) -> None:
        self.running, self.more = None, more
        self.ready += batches
        self.size += sum(batch.get_total_buffer_size() for batch in batches)

    def start(self) -> None:
        pool = decoding_pool() if self.rows.at_hand else shared_pool()
        self.running = pool.submit(self.rows.step)

    @property
    def weight(self) -> int:
        return self.size + (self.rows.held if self.running is None else self.rows.weight)

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
    opened = (FileRows(reading, file) for file in files)
    waiting: Iterator[_Rows] = opened
    if ahead is None:
        ahead = (os.cpu_count() or 1) + 2 if reading.is_local else FILES_AHEAD
        waiting = _together(opened)
    lanes: deque[_Lane] = deque()
    try:
        while True:
            _go_on(lanes, waiting, ahead)
            if not lanes:
                return
            first = lanes[0]
            if first.ready:
                batch = first.ready.popleft()
                first.size -= batch.get_total_buffer_size()
                yield batch
            elif first.running is not None:
                # Whoever waits for rows is one of those that decode: there are as many as there are processors.
                if first.running.done() or not any(lane.help() for lane in lanes):
                    first.collect()
            else:
                lanes.popleft()
    finally:
        for lane in lanes:
            if lane.running is not None:
                lane.running.cancel()


def _together(files: Iterator[FileRows]) -> Iterator[_Rows]:
    """The files, those that are small and at hand put together."""
    small: list[FileRows] = []
    size = 0
    for file in files:
        if not file.at_hand or file.size > TOGETHER_BYTES:
            if small:
                yield _Several(small)
            yield file
            small, size = [], 0
            continue
        small.append(file)
        size += file.size
        if len(small) == TOGETHER or size > TOGETHER_BYTES:
            yield _Several(small)
            small, size = [], 0
    if small:
        yield _Several(small)


def _go_on(lanes: deque[_Lane], waiting: Iterator[_Rows], ahead: int) -> None:
    """Start what may run: the first file always, the others while there is room."""
    for lane in lanes:
        if lane.running is not None and lane.running.done():
            lane.collect()
    room = MAX_BYTES - sum(lane.weight for lane in lanes)
    for place, lane in enumerate(lanes):
        if lane.idle and (room > 0 or (place == 0 and not lane.ready)):
            lane.start()
            room -= lane.rows.weight
    while len(lanes) < ahead and (room > 0 or not lanes):
        rows = next(waiting, None)
        if rows is None:
            return
        lane = _Lane(rows)
        lane.start()
        lanes.append(lane)
        room -= lane.rows.weight
