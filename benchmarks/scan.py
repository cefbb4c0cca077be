"""Reading: full scans, selective ones, planning, a small table, and a stream larger than memory should be.

    python3 benchmarks/scan.py             all parts, some 10 minutes
    python3 benchmarks/scan.py --quick     a trial
    python3 benchmarks/scan.py --only planning

Every system reads the same data files: the tables are written by the core's encoders, and a Delta log stands beside
each. Each system is one process that reads again and again, in turn with the others; the first round is not counted.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from shutil import rmtree
from typing import Any

from kit import start

if __name__ == "__main__":
    start.enter("bench-core", "bench-deltalake", "bench-pyiceberg", "interop")

from kit.latency import NONE, Latency
from kit.readers import NAMES, READERS, Answers, Reader, make_tables
from kit.report import Report
from kit.store import Store

GETS = Latency({"GET": 30.0, "HEAD": 30.0, "LIST": 45.0})
PACKAGES = ("bench-core", "bench-deltalake", "bench-pyiceberg", "interop")
SIZE = 2**20
OURS = "ours"
NEAR_ARROW, PLANNED_PART, PLANNED_ALL, SMALL_TABLE, STREAMED = 0.95, 1.0, 8.0, 0.15, 400.0
"""What is asked of ours: part of Arrow's speed, seconds, seconds, seconds, MB."""
LONG = 10.0
"""A first scan that takes so many seconds is not repeated."""
FIRST = (
    "Process: from the start of a fresh Python to the rows, whatever it imports and when. First: to open the table and "
    "read, by a process that has read another table before, so that everybody's imports are done."
)


@dataclass(frozen=True, slots=True)
class Sizes:
    """How much is read.

    Attributes:
        files: of the full scan.
        rows: in each of them.
        partitions: one file each.
        selective_files: of the table that bounds alone divide.
        planned_files: of the table that is planned and never read.
        stream_mb: of the streamed table's files, together.
        rounds: that are counted.
        processes: of each system, one after the other, for the full scan.
    """

    files: int = 100
    rows: int = 100_000
    partitions: int = 1_000
    selective_files: int = 10_000
    planned_files: int = 100_000
    stream_mb: int = 5_000
    rounds: int = 5
    processes: int = 5


QUICK = Sizes(10, 100_000, 50, 200, 4_000, 200, 2, 1)


@dataclass(frozen=True, slots=True)
class Bench:
    """What every part needs.

    Attributes:
        store: the S3 server.
        report: where results go.
        folder: of the local tables.
        sizes: how much is read.
        readers: the systems.
        bars: what is asked of ours, what was measured, whether that is enough.
    """

    store: Store
    report: Report
    folder: str
    sizes: Sizes
    readers: Sequence[str]
    bars: list[tuple[str, str, bool]] = field(default_factory=list)

    def ask(self, what: str, found: float, unit: str, enough: bool) -> None:
        """Add to what is asked of ours."""
        self.bars.append((what, f"{found:.3g} {unit}".rstrip(), enough))

    def fastest(self, what: str, seconds: dict[str, float]) -> None:
        """Ask whether ours is the fastest; nothing is asked where there is nobody beside it."""
        peers = {name: took for name, took in seconds.items() if name != OURS}
        if OURS in seconds and peers:
            best = min(peers, key=lambda name: peers[name])
            found = f"{seconds[OURS]:.2g} s, {NAMES[best]} {peers[best]:.2g} s"
            self.bars.append((f"{what}: the fastest of the peers", found, seconds[OURS] < peers[best]))

    def places(self) -> list[tuple[str, dict[str, str]]]:
        """Local disk and S3."""
        return [("local", {"folder": self.folder}), ("S3", self.store.place("scan"))]

    @contextmanager
    def table(self, place: dict[str, str], kind: str, files: int, rows: int) -> Iterator[str]:
        """The URI of a table, which is gone after the block."""
        self.store.set_latency(NONE)
        root = make_tables(place, [{"name": kind, "kind": kind, "files": files, "rows": rows}])
        yield f"{root}/{kind}"
        if "folder" in place:
            rmtree(Path(place["folder"], kind))
        else:
            self.store.set_latency(NONE)
            self.store.clear()


def measured(
    bench: Bench, root: str, place: dict[str, str], order: dict[str, Any], rounds: int, processes: int = 1
) -> Answers:
    """What each system says of an order that it carries out again and again, in turn with the others.

    Two processes of one system differ by a tenth for as long as they live: where that matters, several take part, one
    after the other.
    """
    answers = Answers()
    for _ in range(processes):
        with Reader.each(bench.readers, root, place) as readers:
            for round_ in range(rounds + 1):
                for reader in readers:
                    since = bench.store.now()
                    said = reader.do(order)
                    requests = bench.store.requests(since)
                    said["requests"] = len(requests)
                    said["bytes"] = sum(request.received for request in requests)
                    if round_ or "failure" in said:
                        answers.add(reader.name, said)
    return answers


def full(bench: Bench) -> None:
    """Every row of every file, into memory."""
    sizes = bench.sizes
    rows: list[list[object]] = []
    for where, place in bench.places():
        with bench.table(place, "repeated", sizes.files, sizes.rows) as root:
            answers = measured(bench, root, place, {"do": "scan"}, sizes.rounds, sizes.processes)
        for name in bench.readers:
            if failure := answers.failure(name):
                rows.append([NAMES[name], where, failure])
                continue
            assert answers.found(name) == sizes.files * sizes.rows, (name, answers.found(name))
            row: list[object] = [NAMES[name], where, answers.median(name, "seconds"), answers.least(name, "seconds")]
            row += [answers.median(name, "cpu"), answers.ratio(name, "pyarrow", "seconds")]
            rows.append([*row, answers.ratio(name, "pyarrow", "cpu"), int(answers.median(name, "requests"))])
            if name == OURS and "pyarrow" in bench.readers:
                speed = answers.ratio(name, "pyarrow", "seconds")
                bench.ask(
                    f"full scan, {where}: at least {NEAR_ARROW} of pyarrow.dataset", speed, "", speed >= NEAR_ARROW
                )
    count = sizes.files * sizes.rows
    bench.report.text(
        f"## A full scan\n\n{count:,} rows in {sizes.files} files, into memory, {sizes.rounds} times by each of "
        f"{sizes.processes} processes. S3 without latency, and its server on the same cores. Speed: the median "
        "time of pyarrow.dataset over that of the row."
    )
    headers = ["system", "store", "median s", "fastest s", "CPU s", "speed", "CPU of pyarrow / own", "requests"]
    bench.report.table(headers, rows)


def selective(bench: Bench) -> None:
    """Few rows of many files: by partition, and by the bounds of a column."""
    sizes = bench.sizes
    cases = [
        ("partitioned", sizes.partitions, [("day", "==", sizes.partitions // 2)], 1000),
        ("distinct", sizes.selective_files, [("run_id", ">=", 50_000), ("run_id", "<", 60_000)], 1000),
    ]
    for kind, files, where, per_file in cases:
        rows: list[list[object]] = []
        what = "partitions" if kind == "partitioned" else "files, by the bounds of a column"
        for name, place in bench.places():
            with bench.table(place, kind, files, per_file) as root:
                bench.store.set_latency(GETS if name == "S3" else NONE)
                order = {"do": "scan", "where": where}
                first = measured_first(bench, root, place, order)
                warm = measured(bench, root, place, order, min(2, sizes.rounds))
            rows += [selective_row(one, name, first, warm) for one in bench.readers]
            asked = ("process", "a process", first), ("seconds", "first", first), ("seconds", "again", warm)
            for key, when, answers in asked:
                took = {one: answers.median(one, key) for one in bench.readers if not answers.failure(one)}
                bench.fastest(f"{files:,} {what}, {name}, {when}", took)
        condition = " and ".join(f"{column} {operator} {value:,}" for column, operator, value in where)
        bench.report.text(
            f"## A selective scan over {files:,} {what}\n\nRows with `{condition}`; {per_file:,} rows a file. "
            f"{FIRST} Again: the same scan, later in that process. S3: {GETS}."
        )
        headers = ["system", "store", "process s", "first s", "requests", "KB read", "again s", "requests ", "KB read "]
        bench.report.table(headers, rows)


def selective_row(name: str, where: str, first: Answers, warm: Answers) -> list[object]:
    """One line of the table."""
    if failure := first.failure(name) or warm.failure(name):
        return [NAMES[name], where, failure]
    row: list[object] = [NAMES[name], where, first.median(name, "process")]
    for answers in (first, warm):
        counted = [int(answers.median(name, "requests")), answers.median(name, "bytes") / 1024]
        row += [answers.median(name, "seconds"), *(counted if where == "S3" else ("", ""))]
    return row


def measured_first(bench: Bench, root: str, place: dict[str, str], order: dict[str, Any]) -> Answers:
    """The first answer of fresh processes of each system, in turn: ``process`` from the start of the process to the
    rows; ``seconds`` to open the table and read in a process that has read another table, and is asked for nothing
    that it has not imported."""
    answers = Answers()
    latency = bench.store.latency
    bench.store.set_latency(NONE)
    other = make_tables(place, [{"name": "other", "kind": "repeated", "files": 1, "rows": 10}]) + "/other"
    bench.store.set_latency(latency)
    for round_ in range(min(3, bench.sizes.rounds)):
        for name in bench.readers:
            if round_ and (answers.failure(name) or answers.median(name, "process") > LONG):
                continue
            since = bench.store.now()
            with Reader.each([name], root, place) as (reader,):
                said = reader.do(order)
                process = time.monotonic() - reader.begun
            requests = bench.store.requests(since)
            if "failure" not in said:
                with Reader.each([name], root, place, other) as (reader,):
                    said = reader.do(order)
                    said["seconds"] = said.get("seconds", 0.0) + reader.opened
            said |= {"process": process, "requests": len(requests)}
            said["bytes"] = sum(request.received for request in requests)
            answers.add(name, said)
    return answers


def planning(bench: Bench) -> None:
    """Which files have to be read, of a table of very many."""
    files = bench.sizes.planned_files
    rows: list[list[object]] = []
    place = {"folder": bench.folder}
    part = [("run_id", ">=", files * 100), ("run_id", "<", files * 110)]
    with bench.table(place, "described", files, 1000) as root:
        for name in bench.readers:
            if name in ("pyarrow", "duckdb"):
                continue
            for what, where in (("1 %", part), ("all", [])):
                with Reader.each([name], root, place) as (reader,):
                    said = reader.do({"do": "plan", "where": where, "memory": True})
                if "failure" in said:
                    rows.append([NAMES[name], what, said["failure"]])
                    continue
                assert said["found"] == (files // 100 if where else files), said
                if name == OURS:
                    most = PLANNED_PART if where else PLANNED_ALL
                    asked = f"planning over {files:,} files, {what}: under {most:.0f} s"
                    bench.ask(asked, said["seconds"], "s", said["seconds"] < most)
                row: list[object] = [NAMES[name], what, said["found"], said["seconds"], said["cpu"]]
                rows.append([*row, said["peak"] / SIZE, (said["peak"] - said["before"]) / SIZE])
    bench.report.text(
        f"## Planning over {files:,} data files\n\nOne process each, which has planned nothing before; local disk, no "
        "partitions, so the bounds of every file have to be looked at. Memory is the most that the process had."
    )
    bench.report.table(["system", "selects", "files", "seconds", "CPU s", "memory MB", "of it by planning MB"], rows)


def small(bench: Bench) -> None:
    """50,000 rows over a store that takes its time."""
    rows: list[list[object]] = []
    place = bench.store.place("scan")
    for files, per_file in ((1, 50_000), (128, 391)):
        with bench.table(place, "repeated", files, per_file) as root:
            bench.store.set_latency(GETS)
            first = measured_first(bench, root, place, {"do": "scan"})
            answers = measured(bench, root, place, {"do": "scan"}, max(5, bench.sizes.rounds))
        for name in bench.readers:
            if failure := first.failure(name) or answers.failure(name):
                rows.append([NAMES[name], files, failure])
                continue
            row: list[object] = [NAMES[name], files]
            row += [first.median(name, key) for key in ("process", "seconds")]
            row.append(int(first.median(name, "requests")))
            again = answers.median(name, "seconds")
            if name == OURS:
                what = f"50,000 rows in {files} files, warm: under {SMALL_TABLE} s"
                bench.ask(what, again, "s", again < SMALL_TABLE)
            row += [again, answers.least(name, "seconds"), answers.median(name, "cpu")]
            rows.append([*row, int(answers.median(name, "requests"))])
    bench.report.text(
        f"## 50,000 rows\n\n{FIRST} Again: by one that has read them before, looking for newer versions first. {GETS}."
    )
    headers = [
        "system",
        "files",
        "process s",
        "first s",
        "requests",
        "again s (median)",
        "fastest s",
        "CPU s",
        "requests ",
    ]
    bench.report.table(headers, rows)


def stream(bench: Bench) -> None:
    """Rows in pieces of which none is kept."""
    place = {"folder": bench.folder}
    rows: list[list[object]] = []
    per_file = 1_000_000
    with bench.table(place, "repeated", 4, per_file) as root:
        files = sum(path.stat().st_size for path in Path(root.removeprefix("file://"), "data").iterdir())
    count = max(4, bench.sizes.stream_mb * 1_000_000 * 4 // files)
    with bench.table(place, "repeated", count, per_file) as root:
        for name in bench.readers:
            with Reader.each([name], root, place) as (reader,):
                said = reader.do({"do": "stream", "memory": True})
            if "failure" in said:
                rows.append([NAMES[name], said["failure"]])
                continue
            assert said["found"] == count * per_file, said
            peak = said["peak"] / SIZE
            rows.append([NAMES[name], said["seconds"], said["cpu"], peak])
            if name == OURS:
                what = f"{count * files / 4e9:.1f} GB streamed: under {STREAMED:.0f} MB of memory"
                bench.ask(what, peak, "MB", peak < STREAMED)
    bench.report.text(
        f"## A stream\n\n{count * per_file:,} rows in {count} files, {count * files / 4e9:.1f} GB on a local disk "
        "(many names for four files), read in batches of which none is kept. Memory is the most that the process had."
    )
    bench.report.table(["system", "seconds", "CPU s", "memory MB"], rows)


PARTS: dict[str, Callable[[Bench], None]] = {
    "full": full,
    "selective": selective,
    "planning": planning,
    "small": small,
    "stream": stream,
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--readers", nargs="*", default=list(READERS), choices=list(READERS))
    parser.add_argument("--only", choices=list(PARTS))
    parser.add_argument("--rounds", type=int, help="that are counted")
    parser.add_argument("--stream-mb", type=int, help="size of the streamed table's files")
    parser.add_argument("--quick", action="store_true", help="small tables; nothing is written")
    chosen = parser.parse_args()
    sizes = QUICK if chosen.quick else Sizes()
    sizes = Sizes(
        *(getattr(sizes, name) for name in ("files", "rows", "partitions", "selective_files", "planned_files")),
        stream_mb=chosen.stream_mb or sizes.stream_mb,
        rounds=chosen.rounds or sizes.rounds,
    )
    keep = not chosen.quick and chosen.only is None
    report = Report("scan", "Reading", PACKAGES, keep=keep)
    bars: list[tuple[str, str, bool]] = []
    for name, part in PARTS.items():
        if chosen.only in (None, name):
            with Store() as store, tempfile.TemporaryDirectory(prefix="datashard-bench-") as folder:
                part(Bench(store, report, folder, sizes, chosen.readers, bars))
    report.text("## The bars")
    report.bars(bars)


if __name__ == "__main__":
    main()
