"""Many processes append to one table over the latencies of a bucket: how many appends a second, how long each takes.

    python3 benchmarks/contention.py                       all systems, some 35 minutes
    python3 benchmarks/contention.py --quick               a trial of a few seconds each
    python3 benchmarks/contention.py --systems ours --writers 64

N processes that have appended once already append one row after the other in a closed loop for 30 s (an append that
has begun may end up to 40 s later); then 200 fresh processes, started within a second, append once each. In the end
every acknowledged row has to be in the table once.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from kit import start

if __name__ == "__main__":
    start.enter("bench-core", "bench-deltalake", "bench-pyiceberg", "bench-datashard")

from kit.latency import NONE, S3_STANDARD
from kit.processes import ENVIRONMENTS, SYSTEMS, Worker, ask, ended
from kit.report import NAMES, Report
from kit.statistics import LoggedRequest, by_kind, percentile
from kit.store import Moment, Store

GRACE = 40.0
HEADERS = (
    "system",
    "writers",
    "appends/s",
    "p50 s",
    "p99 s",
    "max s",
    "failed",
    "unfinished",
    "PUT+LIST",
    "GET",
    "DELETE",
    "client CPU ms",
    "server CPU %",
    "lost",
    "double",
)


@dataclass(frozen=True, slots=True)
class Trial:
    """What one system did with so many writers.

    Attributes:
        appends: (started, ended, worker, number, failure) of those that ended, in seconds.
        unfinished: writers that had not ended their last append when they were stopped.
        seconds: what the rate is taken over.
        requests: of all writers.
        cpu: seconds of all writers.
        server: share of one core that the server used.
        rows: (worker, number) of every row in the table afterwards.
    """

    appends: Sequence[tuple[float, float, int, int, str]]
    unfinished: int
    seconds: float
    requests: Sequence[LoggedRequest]
    cpu: float
    server: float
    rows: Sequence[tuple[int, int]]

    @property
    def acknowledged(self) -> list[tuple[float, float, int, int, str]]:
        return [append for append in self.appends if not append[4]]

    def row(self, system: str, writers: str) -> list[object]:
        """One line of the table."""
        good = self.acknowledged
        if not good:
            return [system, writers, 0.0, "-", "-", "-", len(self.appends), self.unfinished, *["-"] * 7]
        first = min(append[0] for append in good)
        in_time = sum(1 for append in good if append[1] - first <= self.seconds)
        lasted = [append[1] - append[0] for append in good]
        kinds = by_kind(self.requests)
        there = Counter(map(tuple, self.rows))
        return [
            system,
            writers,
            in_time / self.seconds,
            percentile(lasted, 0.5),
            percentile(lasted, 0.99),
            max(lasted),
            len(self.appends) - len(good),
            self.unfinished,
            (kinds.get("PUT", 0) + kinds.get("LIST", 0)) / len(good),
            (kinds.get("GET", 0) + kinds.get("HEAD", 0)) / len(good),
            kinds.get("DELETE", 0) / len(good),
            1000 * self.cpu / len(good),
            100 * self.server,
            sum(1 for append in good if (append[2], append[3]) not in there),
            sum(1 for count in there.values() if count > 1),
        ]

    def failures(self) -> str:
        """The commonest failure."""
        found = Counter(append[4] for append in self.appends if append[4])
        return found.most_common(1)[0][0] if found else ""


def closed_loop(store: Store, system: str, place: dict[str, str], writers: int, seconds: float) -> Trial:
    """N processes in a closed loop."""
    order = {"system": system, "place": place, "do": "loop", "rows": 1, "seconds": seconds, "warm": True, "quiet": True}
    workers = [Worker({**order, "worker": number}) for number in range(writers)]
    with ended(workers, 120 + seconds + GRACE):
        ready = [worker.read() for worker in workers]
        if not all(ready):
            raise RuntimeError(f"{system}: {ready.count({})} of {writers} writers could not open the table")
        store.set_latency(S3_STANDARD)
        since = store.now()
        for worker in workers:
            worker.go()
        with ended(workers, seconds + GRACE):
            results = [worker.read() for worker in workers]
    appends = [
        (started, stopped, worker.order["worker"], number, failure)
        for worker, result in zip(workers, results, strict=True)
        for started, stopped, number, failure in result.get("appends", ())
    ]
    return _trial(store, system, place, appends, results, since, seconds)


def burst(store: Store, system: str, place: dict[str, str], processes: int) -> Trial:
    """Fresh processes that append once each; the rate is over the whole burst."""
    store.set_latency(S3_STANDARD)
    since = store.now()
    order = {"system": system, "place": place, "do": "once", "rows": 1, "quiet": True}
    workers: list[Worker] = []
    begun: list[float] = []
    with ended(workers, 240):
        for number in range(processes):
            begun.append(time.monotonic())
            workers.append(Worker({**order, "worker": number}))
        results = [worker.read() for worker in workers]
    appends = [
        (started, result["acknowledged"], worker.order["worker"], 1, result["failure"])
        for worker, result, started in zip(workers, results, begun, strict=True)
        if result
    ]
    whole = max((append[1] for append in appends), default=begun[0] + 1) - begun[0]
    return _trial(store, system, place, appends, results, since, whole)


def _trial(
    store: Store,
    system: str,
    place: dict[str, str],
    appends: Sequence[tuple[float, float, int, int, str]],
    results: Sequence[dict[str, Any]],
    since: Moment,
    seconds: float,
) -> Trial:
    until = store.now()
    requests = store.requests(since)
    store.set_latency(NONE)
    rows = ask({"system": system, "place": place, "do": "pairs", "quiet": True})["pairs"]
    return Trial(
        appends=appends,
        unfinished=sum(1 for result in results if not result),
        seconds=seconds,
        requests=requests,
        cpu=sum(result.get("cpu", 0.0) for result in results),
        server=(until.cpu - since.cpu) / (until.monotonic - since.monotonic),
        rows=rows,
    )


def sizes(chosen: argparse.Namespace, system: str) -> list[int]:
    """Numbers of writers; a burst is negative."""
    writers, processes = chosen.writers, chosen.burst
    if system != "ours":
        writers = writers if chosen.peer_writers is None else chosen.peer_writers
        processes = processes if chosen.peer_burst is None else chosen.peer_burst
    return [*writers, *([-processes] if processes else [])]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--systems", nargs="*", default=list(SYSTEMS), choices=SYSTEMS)
    parser.add_argument("--writers", nargs="*", type=int, default=[1, 8, 32, 64])
    parser.add_argument("--peer-writers", nargs="*", type=int, help="of the peers, where they are to be fewer")
    parser.add_argument("--peer-burst", type=int, help="of the peers; 0 for none")
    parser.add_argument("--seconds", type=float, default=30.0)
    parser.add_argument("--burst", type=int, default=200, help="fresh processes; 0 for none")
    parser.add_argument("--quick", action="store_true", help="short settings; nothing is written")
    chosen = parser.parse_args()
    if chosen.quick:
        chosen.writers, chosen.seconds, chosen.burst = [1, 4], 3.0, 8
    used = [ENVIRONMENTS[system] for system in chosen.systems]
    report = Report("contention", "Many writers, one table", used, keep=not chosen.quick)
    report.text(
        f"One row an append; {S3_STANDARD}; the server in a process on the same machine. Seconds from the call (in "
        "the burst: from the start of the process) to the acknowledgement. Requests and client CPU are per "
        "acknowledged append."
    )
    rows: list[list[object]] = []
    failures: list[str] = []
    rates: dict[str, list[tuple[float, float]]] = {system: [] for system in chosen.systems}
    waits: dict[str, list[tuple[float, float]]] = {system: [] for system in chosen.systems}
    with Store() as store, tempfile.TemporaryDirectory(prefix="datashard-bench-") as folder:
        for system in chosen.systems:
            for writers in sizes(chosen, system):
                store.set_latency(NONE)
                store.clear()
                place = {**store.place(f"{system}-{writers}"), "catalog": f"{folder}/{system}{writers}.db"}
                ask({"system": system, "place": place, "do": "create", "quiet": True})
                if writers > 0:
                    trial = closed_loop(store, system, place, writers, chosen.seconds)
                else:
                    trial = burst(store, system, place, -writers)
                row = trial.row(NAMES[system], str(writers) if writers > 0 else f"burst of {-writers}")
                print(*row, sep="  ", flush=True)
                rows.append(row)
                if trial.failures():
                    failures.append(f"{NAMES[system]}, {row[1]}: {trial.failures()}")
                if writers > 0 and trial.acknowledged:
                    rates[system].append((writers, float(str(row[2])) or 1e-3))
                    waits[system].append((writers, float(str(row[4]))))
    report.table(HEADERS, rows)
    if failures:
        report.text("The commonest failure of each:\n\n" + "\n".join(f"- `{text}`" for text in failures))
    report.lines("rate", rates, x="writers", y="appends a second", title="Appends a second, one table")
    report.lines("p99", waits, x="writers", y="seconds", title="99th percentile of an append, in seconds")


if __name__ == "__main__":
    main()
