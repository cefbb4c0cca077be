"""What the ten-thousandth append to a table costs, beside the hundredth.

    python3 benchmarks/growth.py                     10,000 appends of ours, 1,000 of the peers, some 25 minutes
    python3 benchmarks/growth.py --quick             up to 100

One process appends one row again and again, over a store without latency. Figures are over the 64 appends after each
mark. What becomes of metadata that is a week old shows ``metadata_alive.py``.
"""

from __future__ import annotations

import argparse
import tempfile
from bisect import bisect_left
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from kit import start

if __name__ == "__main__":
    start.enter("bench-core", "bench-deltalake", "bench-pyiceberg", "bench-datashard")

from kit.processes import ENVIRONMENTS, SYSTEMS, Worker, ask, ended
from kit.report import NAMES, Report
from kit.statistics import LoggedRequest, median, percentile
from kit.store import Store

WINDOW = 64
SECONDS = 3600.0
METADATA = ("/metadata/", "/_delta_log/", "/_datashard/", "/metadata.")
HEADERS = (
    "system",
    "commits",
    "requests p50",
    "p99",
    "KB up p50",
    "KB down p50",
    "CPU ms p50",
    "wall ms p50",
    "p99 ",
    "metadata KB written p50",
    "metadata KB alive",
    "objects alive",
    "of them metadata",
)


@dataclass(frozen=True, slots=True)
class Window:
    """The appends after a mark.

    Attributes:
        mark: how many came before.
        requests: of each append.
        appends: (started, ended, CPU seconds) of each.
        alive: (objects, bytes) below the table, and of its metadata.
    """

    mark: int
    requests: Sequence[Sequence[LoggedRequest]]
    appends: Sequence[tuple[float, float, float]]
    objects: int
    metadata_objects: int
    metadata_bytes: int

    def row(self, system: str) -> list[object]:
        """One line of the table."""
        counts = [float(len(own)) for own in self.requests]
        walls = [1000 * (stopped - began) for began, stopped, _ in self.appends]
        written = [sum(r.sent for r in own if _is_metadata(r.key)) / 1024 for own in self.requests]
        return [
            system,
            self.mark,
            int(median(counts)),
            int(percentile(counts, 0.99)),
            median([sum(request.sent for request in own) / 1024 for own in self.requests]),
            median([sum(request.received for request in own) / 1024 for own in self.requests]),
            median([1000 * used for _, _, used in self.appends]),
            median(walls),
            percentile(walls, 0.99),
            median(written),
            self.metadata_bytes / 1024,
            self.objects,
            self.metadata_objects,
        ]


def grow(
    store: Store,
    system: str,
    place: dict[str, str],
    marks: Sequence[int],
    look: Callable[[Window], None] = lambda _: None,
) -> list[Window]:
    """Append up to 64 after the last mark, and look at the store after each."""
    ask({"system": system, "place": place, "do": "create", "quiet": True})
    stages = [number for mark in marks for number in (mark, mark + WINDOW)]
    order = {"system": system, "place": place, "do": "stages", "rows": 1, "worker": 1, "stages": stages, "quiet": True}
    worker = Worker(order)
    windows = []
    with ended([worker], SECONDS):
        for mark in marks:
            if not worker.read():
                raise RuntimeError(f"{system} ended before append {mark}")
            since = store.now()
            worker.go()
            said = worker.read()
            if not said:
                raise RuntimeError(f"{system} ended before append {mark + WINDOW}")
            appends = [tuple(append) for append in said["appends"]]
            own = _by_append(store.requests(since), appends)
            keys = store.keys(place["prefix"])
            metadata = [size for key, size in keys if _is_metadata(key)]
            windows.append(Window(mark, own, appends, len(keys), len(metadata), sum(metadata)))
            print(*windows[-1].row(system), flush=True)
            look(windows[-1])
            worker.go()
    return windows


def _by_append(
    requests: Sequence[LoggedRequest], appends: Sequence[tuple[float, float, float]]
) -> list[list[LoggedRequest]]:
    """The requests of each append: those that began after it did, and before the next one."""
    starts = [append[0] for append in appends]
    own: list[list[LoggedRequest]] = [[] for _ in appends]
    for request in requests:
        own[max(0, bisect_left(starts, request.started) - 1)].append(request)
    return own


def _is_metadata(key: str) -> bool:
    return any(part in key for part in METADATA)


def goals(windows: Sequence[Window]) -> list[tuple[str, str, bool]]:
    """How the last mark compares with that of 100 commits, and with what is asked."""
    if len(windows) < 2:
        return []
    by_mark = {window.mark: window.row("") for window in windows}
    first, last = by_mark.get(100, windows[0].row("")), windows[-1].row("")
    names = {
        2: "requests",
        4: "bytes up",
        5: "bytes down",
        6: "CPU",
        7: "wall",
        9: "metadata written",
    }
    asked = []
    for column, name in names.items():
        share = _number(last[column]) / max(_number(first[column]), 1e-9)
        asked.append((f"{name} at {last[1]}: at most 1.2 of those at {first[1]}", f"{share:.2f}", share <= 1.2))
    for mark, row in by_mark.items():
        spread = _number(row[3]) / _number(row[2])
        asked.append((f"requests p99 at {mark}: at most 3 times the p50", f"{spread:.1f}", spread <= 3))
    return asked


def _number(cell: object) -> float:
    assert isinstance(cell, (int, float))
    return float(cell)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--systems", nargs="*", default=list(SYSTEMS), choices=SYSTEMS)
    parser.add_argument("--marks", nargs="*", type=int, default=[10, 100, 1000, 10_000])
    parser.add_argument("--peers-up-to", type=int, default=1000)
    parser.add_argument("--quick", action="store_true", help="short settings; nothing is written")
    chosen = parser.parse_args()
    if chosen.quick:
        chosen.marks = [10, 100]
    report = Report("growth", "Growth", [ENVIRONMENTS[system] for system in chosen.systems], keep=not chosen.quick)
    rows: list[list[object]] = []
    charts: dict[str, dict[str, list[tuple[float, float]]]] = {"wall": {}, "alive": {}, "up": {}}
    compared: list[tuple[str, str, bool]] = []
    with Store() as store, tempfile.TemporaryDirectory(prefix="datashard-bench-") as folder:
        for system in chosen.systems:
            store.clear()
            marks = [mark for mark in chosen.marks if system == "ours" or mark <= chosen.peers_up_to]
            windows = grow(store, system, {**store.place(system), "catalog": f"{folder}/{system}.db"}, marks)
            found = [window.row(NAMES[system]) for window in windows]
            rows += found
            for chart, column in (("wall", 7), ("alive", 10), ("up", 4)):
                charts[chart][system] = [(_number(row[1]), _number(row[column])) for row in found]
            if system == "ours":
                compared = goals(windows)
    report.text(
        f"One-row appends by one process over a store without latency; the {WINDOW} appends after each mark. Metadata "
        "is everything but data files, and nothing of it gets old in these minutes: see [a month](metadata_alive.md)."
    )
    report.table(HEADERS, rows)
    report.bars(compared)
    titles = {
        "wall": ("milliseconds", "Wall time of an append, median"),
        "alive": ("KB", "Metadata alive"),
        "up": ("KB", "Bytes written by an append, median"),
    }
    for chart, (label, title) in titles.items():
        report.lines(chart, charts[chart], x="commits before", y=label, title=title)


if __name__ == "__main__":
    main()
