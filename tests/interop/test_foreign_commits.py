"""Sail and ClickHouse write to a table while we do: nothing is lost or doubled on any side.

Both create the next version by path, on the same condition as we do, so a version of theirs may come
between any two of ours.
"""

from __future__ import annotations

import json
import os
import pickle
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from datashard_testkit.s3_server import S3Server

import datashard_core as ds
from datashard_core.commit.core.version_file import HINT_KEY, parse_version, version_key
from datashard_core.format.metadata.snapshot import TOTALS
from datashard_core.storage.s3 import S3Storage
from datashard_core.table.warehouse import Warehouse

HERE = Path(__file__).parent
ENGINES = ("sail", "clickhouse", "datashard")
FOREIGN = ("sail", "clickhouse")
ROWS_EACH = 5
SECONDS = 90.0  # a limit that a quiet machine is far from
AT_FULL_SPEED = 15
"""Appends after which we leave the others more room: engines give up after a few lost races."""
START_SECONDS = 90.0
SCHEMA = ds.Schema(
    fields=[{"id": 1, "name": "writer", "type": "string"}, {"id": 2, "name": "n", "type": "long"}],
)
Row = tuple[str, int]


class Writer:
    """An engine in a process of its own."""

    def __init__(self, name: str, environ: dict[str, str]) -> None:
        self.name = name
        self._process = subprocess.Popen(
            [sys.executable, "-P", str(HERE / "writers.py"), name],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
            env=environ,
        )

    def line(self, seconds: float) -> str:
        """The next line that it says; it is killed if it stays silent."""
        assert self._process.stdout is not None
        timer = threading.Timer(seconds, self._process.kill)
        timer.start()
        try:
            text = self._process.stdout.readline().strip()
        finally:
            timer.cancel()
        assert text, f"{self.name} ended with {self._process.poll()}, or said nothing for {seconds} s"
        return text

    def begin(self, job: dict[str, Any]) -> None:
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps(job) + "\n")
        self._process.stdin.flush()

    def end(self) -> None:
        assert self._process.stdin is not None and self._process.stdout is not None
        self._process.stdin.close()
        try:
            self._process.wait(10)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._process.stdout.close()


@pytest.fixture(scope="module")
def writers(s3_server: S3Server) -> Iterator[dict[str, Writer]]:
    """All engines, up and warm; one set serves local disk and S3."""
    environ = {key: value for key, value in os.environ.items() if not key.startswith(("AWS_", "DATASHARD_"))}
    environ |= {
        "AWS_ACCESS_KEY_ID": s3_server.access_key,
        "AWS_SECRET_ACCESS_KEY": s3_server.secret_key,
        "AWS_ENDPOINT_URL": s3_server.endpoint,
        "AWS_ENDPOINT": s3_server.endpoint,
        "AWS_REGION": "us-east-1",
        "AWS_ALLOW_HTTP": "true",
    }
    running = {name: Writer(name, environ) for name in ENGINES}
    try:
        for writer in running.values():
            assert writer.line(START_SECONDS) == "ready"
        yield running
    finally:
        for writer in running.values():
            writer.end()


@dataclass
class Account:
    """What each side says that it wrote.

    Attributes:
        acknowledged: rows that have to be in the table, once.
        failed: rows whose writer got an error, with the error.
        ids: append id -> the rows under it and the version that has them.
    """

    acknowledged: Counter[Row] = field(default_factory=Counter)
    failed: dict[Row, str] = field(default_factory=dict)
    ids: dict[str, tuple[list[dict[str, Any]], int | None]] = field(default_factory=dict)

    def of(self, writer: str) -> int:
        return sum(count for (name, _), count in self.acknowledged.items() if name == writer)


def we_write(warehouse: Warehouse, done: threading.Event, account: Account) -> None:
    """Appends with ids and without, at once and deferred, for as long as the others write."""
    table = warehouse.load_table("t")
    number = 0
    while not done.is_set():
        rows = [{"writer": "us", "n": number}]
        if number % 3 == 0:
            result = table.append(rows, append_id=f"id {number}")
            account.ids[f"id {number}"] = (rows, result.version)
        else:
            table.append(rows, commit="deferred" if number % 3 == 1 else "now")
        account.acknowledged["us", number] += 1
        number += 1
        time.sleep(0.1 if number < AT_FULL_SPEED else 0.5)
    table.flush()


def write_together(warehouse: Warehouse, writers: dict[str, Writer]) -> Account:
    """Let all of them append to the table at the same time; what each says of it."""
    account, done = Account(), threading.Event()
    uri, s3 = warehouse.load_table("t").uri, s3_of(warehouse)
    failures: list[BaseException] = []

    def ours() -> None:
        try:
            we_write(warehouse, done, account)
        except BaseException as error:
            failures.append(error)
            raise

    thread = threading.Thread(target=ours)
    thread.start()
    try:
        for writer in writers.values():
            writer.begin({"uri": uri, "s3": s3, "rows": ROWS_EACH, "seconds": SECONDS})
        for name, writer in writers.items():
            answer = json.loads(writer.line(SECONDS + 60))
            account.acknowledged.update((name, number) for number in answer["acknowledged"])
            account.failed |= {(name, number): error for number, error in answer["failed"]}
    finally:
        done.set()
        thread.join()
    assert not failures
    return account


def s3_of(warehouse: Warehouse) -> dict[str, str] | None:
    storage = warehouse._storage
    if not isinstance(storage, S3Storage):
        return None
    config = storage.config
    return {
        "endpoint": str(config.endpoint),
        "access_key": str(config.access_key),
        "secret_key": str(config.secret_key),
    }


def rows_in(table: ds.Table) -> Counter[Row]:
    return Counter((row["writer"], row["n"]) for row in table.scan().to_records())


def read_by(reader: str, warehouse: Warehouse) -> Counter[Row]:
    """The table's rows as a foreign reader sees them, in a process of its own."""
    request = json.dumps({"uri": warehouse.load_table("t").uri, "s3": s3_of(warehouse)})
    done = subprocess.run(
        [sys.executable, "-P", str(HERE / "readers.py"), reader],
        input=request.encode(),
        capture_output=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr.decode()[-2000:]
    return Counter((row["writer"], row["n"]) for row in pickle.loads(done.stdout))


def test_sail_and_clickhouse_write_while_we_do(any_warehouse: Warehouse, writers: dict[str, Writer]) -> None:
    table = any_warehouse.create_table("t", SCHEMA)
    table.append([{"writer": "us", "n": -1}])
    account = write_together(any_warehouse, writers)
    account.acknowledged["us", -1] = 1

    table = any_warehouse.load_table("t")
    found = rows_in(table)
    assert {row: count for row, count in found.items() if count != 1} == {}
    assert set(account.acknowledged) - set(found) == set()
    assert set(found) - set(account.acknowledged) - set(account.failed) == set()
    # Each side got through, and ours never failed.
    assert {row: error for row, error in account.failed.items() if row[0] == "datashard"} == {}
    assert account.of("datashard") == ROWS_EACH
    for engine in FOREIGN:
        assert account.of(engine) >= 1, account.failed
    authors = one_chain(table)
    assert authors["ours"] >= 3 and authors["foreign"] >= 2, authors

    ids_are_known(any_warehouse, account)
    table.refresh()
    assert rows_in(table) == found
    newest_hint(table)
    totals_are_true(table)
    for reader in ("pyiceberg", "duckdb"):
        assert read_by(reader, any_warehouse) == rows_in(any_warehouse.load_table("t"))


def one_chain(table: ds.Table) -> Counter[str]:
    """Each version was built from the one before; how many were ours, how many of the others."""
    authors: Counter[str] = Counter()
    before: Any = None
    for version in range(table.version + 1):
        stored = table._storage.get(version_key(version))
        body = parse_version(stored.body, version, f"version {version}")
        if before is not None:
            current, parent = body.table.current_snapshot, before.current_snapshot
            if current != parent:
                assert current is not None
                assert current.parent_snapshot_id == (parent.snapshot_id if parent is not None else None)
        authors["ours" if body.named else "foreign"] += 1
        before = body.table
    return authors


def ids_are_known(warehouse: Warehouse, account: Account) -> None:
    """Every id is known to a process that has just begun, and its rows are not appended again."""
    assert account.ids
    for append_id, (rows, version) in account.ids.items():
        again = warehouse.load_table("t").append(rows, append_id=append_id)
        assert (again.already_appended, again.version) == (True, version), append_id
    for number in range(ROWS_EACH):
        row = [{"writer": "datashard", "n": number}]
        assert warehouse.load_table("t").append(row, append_id=f"task {number}").already_appended
    append_id = next(iter(account.ids))
    with pytest.raises(ds.AppendIdConflictError, match=append_id):
        warehouse.load_table("t").append([{"writer": "other rows", "n": 0}], append_id=append_id)


def newest_hint(table: ds.Table) -> None:
    """The hint names the newest version once we have committed: engines that write it blindly may leave it behind."""
    table.append([{"writer": "us", "n": -2}])
    newest = max(
        int(info.key.removeprefix("metadata/v").partition(".")[0])
        for info in table._storage.list("metadata/v")
        if info.key.endswith(".metadata.json")
    )
    assert table.version == newest
    assert table._storage.get(HINT_KEY).body == str(newest).encode()


def totals_are_true(table: ds.Table) -> None:
    """A summary of ours has every total, though Sail's have not: ClickHouse goes on from no other."""
    snapshot = table.current_snapshot()
    assert snapshot is not None and set(TOTALS) <= set(snapshot.summary)
    files = table.scan().data_files()
    assert snapshot.summary["total-records"] == str(table.count())
    assert snapshot.summary["total-data-files"] == str(len(files))
    assert snapshot.summary["total-files-size"] == str(sum(file.file_size_in_bytes for file in files))
