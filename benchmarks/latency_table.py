"""The reference document's table of latencies, our figures beside its own.

    python3 benchmarks/latency_table.py
    python3 benchmarks/latency_table.py --quick

Fixed latencies: same region GET 15, PUT 25 ms; cross region 80 ms more. The client is warm, the store proved. Local
disk with fsync, as tables are, and without it.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from kit import start

if __name__ == "__main__":
    start.enter("bench-core")

from kit.latency import CROSS_REGION, NONE, SAME_REGION, Latency
from kit.report import Report
from kit.statistics import median, round_trip_seconds, round_trips
from kit.store import Store

PROGRAM = str(Path(__file__).parent / "systems" / "reference_cells.py")
OPERATIONS = ("create", "append 100", "append 10,000", "read 50,000")
LOCAL = dict(zip(OPERATIONS, (1.0, 2.0, 50.0, 20.0), strict=True))
SAME = dict(zip(OPERATIONS, (50.0, 100.0, 500.0, 150.0), strict=True))
CROSS = dict(zip(OPERATIONS, (150.0, 300.0, 1500.0, 500.0), strict=True))


@dataclass(frozen=True, slots=True)
class Cell:
    """One operation at one place.

    Attributes:
        wall: milliseconds, median.
        trips: sequential round trips.
        alone: milliseconds that their latency alone takes.
    """

    wall: float
    trips: int
    alone: float


def measure(order: dict[str, Any], store: Store | None = None, latency: Latency = NONE) -> dict[str, Cell]:
    """All operations at one place."""
    command = [start.python_of("bench-core"), PROGRAM, json.dumps(order)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdin is not None and process.stdout is not None
        process.stdout.readline()
        if store is not None:
            store.set_latency(latency)
        process.stdin.write("go\n")
        process.stdin.flush()
        done: dict[str, list[tuple[float, float]]] = json.loads(process.stdout.readline())
    requests = store.requests() if store is not None else []
    if store is not None:
        store.set_latency(NONE)
    cells = {}
    for operation, spans in done.items():
        own = [[r for r in requests if began <= r.started <= ended] for began, ended in spans]
        cells[operation] = Cell(
            wall=1000 * median([ended - began for began, ended in spans]),
            trips=int(median([float(round_trips(requests)) for requests in own])),
            alone=1000 * median([round_trip_seconds(requests, latency.medians) for requests in own]),
        )
    return cells


def met(cell: Cell, promised: float) -> str:
    """Whether a cell keeps what the document says."""
    if cell.wall <= promised:
        return "yes"
    if cell.alone > promised:
        within = "within" if cell.wall <= 1.1 * cell.alone else "not within"
        return f"{within} 10 % of its round trips, which alone exceed it"
    return "no"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--times", type=int, default=15)
    parser.add_argument("--quick", action="store_true", help="three times; nothing is written")
    chosen = parser.parse_args()
    times = 3 if chosen.quick else chosen.times
    report = Report(
        "latency_table", "The reference document's table of latencies", ["bench-core"], keep=not chosen.quick
    )
    rows: list[list[object]] = []
    with Store() as store, tempfile.TemporaryDirectory(prefix="datashard-bench-") as folder:
        for fsync in (True, False):
            cells = measure({"folder": f"{folder}/{fsync}", "fsync": fsync, "times": times})
            where = "local, with fsync" if fsync else "local, without fsync"
            rows += [[where, op, LOCAL[op], cells[op].wall, "-", "-", met(cells[op], LOCAL[op])] for op in OPERATIONS]
        regions = (("same region", SAME_REGION, SAME), ("cross region", CROSS_REGION, CROSS))
        for where, medians, promised in regions:
            store.clear()
            cells = measure({"place": store.place(where.replace(" ", "-")), "times": times}, store, Latency(medians))
            for op in OPERATIONS:
                cell = cells[op]
                rows.append([where, op, promised[op], cell.wall, cell.trips, cell.alone, met(cell, promised[op])])
    report.text(
        f"Medians of {times}. Same region: {Latency(SAME_REGION)}; cross region: {Latency(CROSS_REGION)}. Warm client, "
        "store already proved. On a local disk a creation and a small append miss the document's figures even "
        "without fsync; what fsync adds to them is durability, and costs more than the document claims for all."
    )
    report.table(["where", "operation", "reference ms", "ms", "round trips", "their latency ms", "met"], rows)


if __name__ == "__main__":
    main()
