"""What one append costs: in a fresh process, in a warm one, and a large one.

    python3 benchmarks/append.py             all three, some 5 minutes
    python3 benchmarks/append.py --quick     a trial
    python3 benchmarks/append.py --only cold

Cold: a new process opens a table and appends one row; from the start of the process to the acknowledgement. Warm: a
process appends 100 rows again and again over fixed latencies; the requests that had to wait for each other are counted
in the server's log. Large: 1,000,000 rows against ``pyarrow.parquet.write_table`` of the same rows to the same store.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import tempfile
import time
from pathlib import Path
from typing import Any

from kit import start

if __name__ == "__main__":
    start.enter("bench-core", "bench-deltalake", "bench-pyiceberg", "bench-datashard")

from kit.latency import NONE, S3_FIXED, S3_STANDARD, STANDARD, Latency
from kit.processes import ENVIRONMENTS, SYSTEMS, Worker, ask, ended
from kit.report import NAMES, Report
from kit.statistics import by_kind, median, percentile, round_trip_seconds, round_trips
from kit.store import Store

LARGE_PROCESSES = 5
LARGE = str(Path(__file__).parent / "systems" / "large_append.py")


def places(store: Store, systems: list[str], folder: str, what: str) -> dict[str, dict[str, str]]:
    """A fresh table of each system, with one append in it."""
    store.set_latency(NONE)
    made = {}
    for system in systems:
        place = {**store.place(f"{what}-{system}"), "catalog": f"{folder}/{what}-{system}.db"}
        ask({"system": system, "place": place, "do": "create", "quiet": True})
        ask({"system": system, "place": place, "do": "once", "quiet": True, "rows": 1, "worker": 0})
        made[system] = place
    return made


def cold_append(system: str, place: dict[str, str]) -> tuple[float, float, float]:
    """Seconds from the start of a process to its acknowledgement; CPU seconds and MB of memory of its whole life."""
    started = time.monotonic()
    worker = Worker({"system": system, "place": place, "do": "once", "quiet": True, "rows": 1, "worker": 1})
    with ended([worker], 120):
        said = worker.read()
        if said.get("failure", "no answer"):
            raise RuntimeError(f"{system}: {said.get('failure', 'it ended without a word')}")
        cpu, memory = worker.used_by_its_end()
    return said["acknowledged"] - started, cpu, memory


def cold(store: Store, report: Report, systems: list[str], folder: str, times: int) -> None:
    """Cold appends with and without latencies, the systems in turn."""
    rows: list[list[object]] = []
    middle: dict[bool, dict[str, float]] = {False: {}, True: {}}
    for latency in (NONE, S3_STANDARD):
        made = places(store, systems, folder, "cold" if latency is NONE else "cold-latency")
        store.set_latency(latency)
        taken: dict[str, list[tuple[float, float, float]]] = {system: [] for system in systems}
        requests: dict[str, list[int]] = {system: [] for system in systems}
        for _ in range(times):
            for system in systems:  # side by side, so that what else the machine does meets all of them
                since = store.now()
                taken[system].append(cold_append(system, made[system]))
                requests[system].append(len(store.requests(since)))
        for system in systems:
            walls, cpus, memories = zip(*taken[system], strict=True)
            row = [NAMES[system], str(latency) if latency is NONE else "S3 latencies", min(walls), median(walls)]
            row += [percentile(walls, 0.9), median(cpus), median(memories)]
            rows.append([*row, int(median(requests[system]))])
            middle[latency is not NONE][system] = median(walls)
    report.text(f"## A cold append\n\nOne row by a new process, {times} times; S3 latencies: {S3_STANDARD}.")
    report.table(["system", "store", "fastest s", "median s", "90th s", "CPU s", "memory MB", "requests"], rows)
    report.bars(cold_bars(middle))


def cold_bars(medians: dict[bool, dict[str, float]]) -> list[tuple[str, str, bool]]:
    """How the medians, by whether there were latencies, compare with what is asked of them."""
    asked = []
    for late, found in medians.items():
        others = {system: seconds for system, seconds in found.items() if system != "ours"}
        if "ours" not in found or not others:
            continue
        fastest = min(others, key=lambda system: others[system])
        where = "with S3 latencies" if late else "without latency"
        share = f"{found['ours'] / others[fastest]:.2f} of {NAMES[fastest]}'s median"
        asked.append((f"the fastest of all, {where}", share, found["ours"] < others[fastest]))
        if late and "deltalake" in others:
            ratio = found["ours"] / others["deltalake"]
            asked.append(("at most 0.75 of deltalake's, with S3 latencies", f"{ratio:.2f}", ratio <= 0.75))
    return asked


def warm(store: Store, report: Report, systems: list[str], folder: str, times: int) -> None:
    """Warm appends of 100 rows over fixed latencies."""
    made = places(store, systems, folder, "warm")
    rows: list[list[object]] = []
    bars: list[tuple[str, str, bool]] = []
    for system in systems:
        order = {
            "system": system,
            "place": made[system],
            "do": "loop",
            "rows": 100,
            "seconds": 600,
            "warm": True,
            "quiet": True,
        }
        worker = Worker({**order, "worker": 1, "appends": times})
        with ended([worker], 300):
            worker.read()
            store.set_latency(S3_FIXED)
            since = store.now()
            worker.go()
            said = worker.read()
        requests = store.requests(since)
        trips, nominal, walls, kinds = [], [], [], []
        for began, stopped, _, failure in said["appends"]:
            assert not failure, failure
            own = [request for request in requests if began <= request.started <= stopped]
            trips.append(float(round_trips(own)))
            nominal.append(round_trip_seconds(own, STANDARD))
            walls.append(stopped - began)
            kinds.append(by_kind(own))
        shares = [wall / alone for wall, alone in zip(walls, nominal, strict=True)]
        usual = kinds[len(kinds) // 2]
        row: list[object] = [NAMES[system], int(median(trips)), int(max(trips)), 1000 * median(nominal)]
        row += [1000 * median(walls), median(shares), 1000 * said["cpu"] / times]
        rows.append([*row, ", ".join(f"{count} {kind}" for kind, count in sorted(usual.items()))])
        if system == "ours":
            count, share = int(median(trips)), median(shares)
            bars = [
                ("at most 3 round trips", str(count), count <= 3),
                ("at most 1.15 times their latency", f"{share:.2f}", share <= 1.15),
            ]
        store.set_latency(NONE)
    report.text(
        f"## A warm append of 100 rows\n\n{times} appends by one process; {S3_FIXED}. Round trips: requests that had "
        "to wait for another; side by side they count once. Their latency alone is the floor of the wall time."
    )
    headers = [
        "system",
        "round trips",
        "at most",
        "latency alone ms",
        "wall ms",
        "wall / latency",
        "CPU ms",
        "requests",
    ]
    report.table(headers, rows)
    report.bars(bars)


def large(store: Store, report: Report, count: int, times: int, processes: int) -> None:
    """Large appends against Arrow's own writer, by several processes: each is faster or slower all its life."""
    rows: list[list[object]] = []
    bars: list[tuple[str, str, bool]] = []
    for latency in (NONE, S3_FIXED):
        done: dict[str, list[float]] = {}
        for number in range(processes):
            store.clear()
            store.set_latency(NONE)
            for name, seconds in large_run(store, latency, count, times, number).items():
                done.setdefault(name, []).extend(seconds)
        ours = median(done["ours"])
        for name, seconds in done.items():
            taken = median(seconds)
            rows.append([name, "none" if latency is NONE else "fixed S3 latencies", taken, count / taken, taken / ours])
        where = "without latency" if latency is NONE else "with latencies"
        for name, seconds in done.items():
            share = median(seconds) / ours
            if name != "ours":
                bars.append((f"at least 0.9 of {name}, {where}", f"{share:.2f}", share >= 0.9))
    report.text(
        f"## {count:,} rows in one append\n\nThe same rows in turn, {times} times by each of {processes} processes, "
        "to the same store; medians. The last column is the throughput of DataShard over that of the row."
    )
    report.table(["writer", "latency", "seconds", "rows/s", "DataShard's throughput / its own"], rows)
    report.bars(bars)


def large_run(store: Store, latency: Latency, count: int, times: int, number: int) -> dict[str, list[float]]:
    """Seconds of each writer in one process."""
    place = store.place(f"large-{latency is NONE}-{number}")
    order: dict[str, Any] = {"place": place, "rows": count, "times": times}
    command = [start.python_of("bench-core"), LARGE, json.dumps(order)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdin is not None and process.stdout is not None
        process.stdout.readline()  # the table is there
        store.set_latency(latency)
        process.stdin.write("go\n")
        process.stdin.flush()
        found: dict[str, list[float]] = json.loads(process.stdout.readline())
    store.set_latency(NONE)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--systems", nargs="*", default=list(SYSTEMS), choices=SYSTEMS)
    parser.add_argument("--only", choices=["cold", "warm", "large"])
    parser.add_argument("--times", type=int, default=15, help="cold and warm appends of each system")
    parser.add_argument("--rows", type=int, default=1_000_000, help="of the large append")
    parser.add_argument("--quick", action="store_true", help="short settings; nothing is written")
    chosen = parser.parse_args()
    if chosen.quick:
        chosen.times, chosen.rows = 3, 100_000
    keep = not chosen.quick and chosen.only is None
    report = Report("append", "One append", [ENVIRONMENTS[system] for system in chosen.systems], keep=keep)
    with Store() as store, tempfile.TemporaryDirectory(prefix="datashard-bench-") as folder:
        if chosen.only in (None, "cold"):
            cold(store, report, chosen.systems, folder, chosen.times)
        if chosen.only in (None, "warm"):
            warm(store, report, chosen.systems, folder, chosen.times)
        if chosen.only in (None, "large"):
            large(store, report, chosen.rows, max(3, chosen.times // 3), 1 if chosen.quick else LARGE_PROCESSES)


if __name__ == "__main__":
    main()
