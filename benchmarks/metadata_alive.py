"""What a month of appends leaves in the bucket, and what a reader that lists it finds.

    python3 benchmarks/metadata_alive.py             some 4 minutes
    python3 benchmarks/metadata_alive.py --quick     a hundredth of it

One process appends one row again and again, while its clock and the store's run so fast that all of it takes thirty
days: versions that are a week old become tombstones, and what only they named is deleted. Then ClickHouse, which lists
``metadata/`` to find the newest version, reads the table with all its tombstones, and without them.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import time
from pathlib import Path

from kit import start

if __name__ == "__main__":
    start.enter("bench-core", "interop")

from growth import Window, grow
from kit.report import Report
from kit.start import python_of
from kit.statistics import median
from kit.store import Store
from systems.place import config_of

import datashard_core as ds
from datashard_core.commit.versions.metadata_expiry import SMALL

DAY = 86_400.0
DAYS = 30.0
MARKS = (3500, 7000, 14_000)
"""Appends after which is looked: at the second and third of them, versions have been a week old for a while."""
TRIAL = 200
CLICKHOUSE = str(Path(__file__).parent / "systems" / "clickhouse_reads.py")


def tombstones(store: Store, place: dict[str, str]) -> list[str]:
    """Keys of the old versions that are tombstones."""
    keys = store.keys(place["prefix"])
    return [key for key, size in keys if key.endswith(".metadata.json") and size < SMALL]


def pace_of(store: Store) -> float:
    """Appends a second that this machine does."""
    begun = time.monotonic()
    grow(store, "ours", store.place("trial"), (TRIAL,))
    return TRIAL / (time.monotonic() - begun)


def a_month(store: Store, place: dict[str, str], marks: tuple[int, ...]) -> tuple[list[tuple[Window, int]], float]:
    """Append while the clock runs; what was alive at each mark with its tombstones, and how many days it took."""
    speed = DAYS * DAY / (marks[-1] / pace_of(store))
    store.clear()
    store.set_clock(speed=speed)
    begun = time.monotonic()
    found = []

    def look(window: Window) -> None:
        found.append((window, len(tombstones(store, place))))

    grow(store, "ours", {**place, "clock": str(speed)}, marks, look)
    return found, (time.monotonic() - begun) * speed / DAY


def clickhouse(store: Store, place: dict[str, str]) -> list[list[object]]:
    """The same table read with its tombstones and without: first query, the next ones, requests of a query."""
    table = ds.connect(config=config_of(place)).load_table("log")
    table.compact()
    rows = table.refresh().count()
    folder = f"{place['prefix']}/log/"
    url = f"{place['endpoint']}/{place['bucket']}/{folder}"
    lines: list[list[object]] = []
    for there in (tombstones(store, place), []):
        since = store.now()
        command = [python_of("interop"), CLICKHOUSE, url, place["key"], place["secret"]]
        answers = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
        if {answer["rows"] for answer in answers} != {rows}:
            raise RuntimeError(f"the table has {rows} rows, and ClickHouse finds {answers}")
        seconds = [answer["seconds"] for answer in answers]
        asked = len(store.requests(since)) / len(answers)
        lines.append([f"{len(there):,} tombstones", seconds[0], median(seconds[1:]), asked])
        table._storage.delete([key.removeprefix(folder) for key in there])
    return lines


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="a hundredth of the appends; nothing is written")
    chosen = parser.parse_args()
    marks = tuple(mark // 100 for mark in MARKS) if chosen.quick else MARKS
    report = Report("metadata_alive", "What a month leaves", ["bench-core", "interop"], keep=not chosen.quick)
    with Store() as store:
        place = store.place("month")
        found, days = a_month(store, place, marks)
        report.text(
            f"One-row appends by one process, {marks[-1]:,} of them while its clock and the store's ran {days:.0f} "
            "days. The table is made as always, and nobody calls maintenance. Versions that are a week old become "
            "tombstones of some 80 bytes, which stay for ever, and what only they named is deleted."
        )
        headers = ("appends", "metadata MB alive", "objects but data and tombstones", "tombstones")
        rows = [
            (f"{window.mark:,}", window.metadata_bytes / 2**20, window.metadata_objects - buried, buried)
            for window, buried in found
        ]
        report.table(headers, rows)
        _, half, whole = rows
        report.bars(
            [
                (f"{what} after {whole[0]}: at most 1.2 of those after {half[0]}", f"{share:.2f}", share <= 1.2)
                for what, share in ((headers[1], whole[1] / half[1]), (headers[2], whole[2] / half[2]))
            ]
        )
        report.text(
            "ClickHouse lists `metadata/` to find the newest version. It counts and sums up the same table, compacted "
            "into few data files, in one process, before and after its tombstones were taken away (which a benchmark "
            "may do, and nobody else):"
        )
        report.table(
            ("metadata holds", "first query s", "the next ones s", "requests a query"), clickhouse(store, place)
        )


if __name__ == "__main__":
    main()
