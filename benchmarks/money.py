"""What the requests of a month cost at S3's list prices: 100,000 appends, 10,000 reads.

    python3 benchmarks/money.py             1,024 immediate and 16,384 deferred appends of each kind, scaled up
    python3 benchmarks/money.py --quick

Each append opens the table anew, as a process that lives for a second does, and comes 26 s after the one before, as
in a month of 100,000; one other process reads one column of the whole table after every tenth. Immediate and
deferred, with and without ids that the caller hands in. What is deferred is committed in the end, and what it costs
to make tombstones of old versions is counted with the rest.
"""

from __future__ import annotations

import argparse
import json
import subprocess
from collections import Counter
from pathlib import Path

from kit import start

if __name__ == "__main__":
    start.enter("bench-core")

from kit.prices import STORAGE, price
from kit.report import Report
from kit.statistics import by_kind
from kit.store import Store

PROGRAM = str(Path(__file__).parent / "systems" / "month_of_appends.py")
APPENDS, READS = 100_000, 10_000
PAUSE_MS = 30 * 86_400_000 // APPENDS
DEFERRED_MORE = 16  # so many times as many of them, for they make fewer versions
REFERENCE = 0.53
WITHOUT_IDS, WITH_IDS = 0.70, 0.85


def measure(store: Store, *, deferred: bool, ids: bool, appends: int) -> tuple[dict[str, float], dict[str, float]]:
    """Requests of each kind for each append, and for each read."""
    store.clear()
    order = {
        "place": store.place(f"money-{deferred}-{ids}"),
        "deferred": deferred,
        "ids": ids,
        "appends": appends,
        "pause": PAUSE_MS,
        "read_every": APPENDS // READS,
    }
    command = [start.python_of("bench-core"), PROGRAM, json.dumps(order)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdin is not None and process.stdout is not None
        if not process.stdout.readline():
            raise RuntimeError("there is no table to append to")
        since = store.now()
        process.stdin.write("go\n")
        process.stdin.flush()
        said = process.stdout.readline()
        if not said:
            raise RuntimeError("the appends ended early")
        sent = Counter(by_kind(store.requests(since)))
        reading = Counter({kind.upper(): count for kind, count in json.loads(said).items()})
        process.stdin.write("go\n")
        process.stdin.flush()
    if process.returncode:
        raise RuntimeError("the rows in the end are not those that were appended")
    reads = len(range(0, appends, APPENDS // READS))
    return (
        {kind: count / appends for kind, count in (sent - reading).items()},
        {kind: count / reads for kind, count in reading.items()},
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--appends", type=int, default=1024, help=f"immediate ones; deferred {DEFERRED_MORE} times")
    parser.add_argument("--quick", action="store_true", help="64 and 1,024 appends; nothing is written")
    chosen = parser.parse_args()
    immediate = 64 if chosen.quick else chosen.appends
    report = Report("money", "A month at S3's list prices", ["bench-core"], keep=not chosen.quick)
    rows: list[list[object]] = []
    bars: list[tuple[str, str, bool]] = []
    with Store() as store:
        store.set_clock(ahead=60 * 86_400.0)  # the writers' clocks are moved on, and may not pass it
        for deferred in (False, True):
            for ids in (False, True):
                appends = immediate * (DEFERRED_MORE if deferred else 1)
                each, read = measure(store, deferred=deferred, ids=ids, appends=appends)
                writing = price({kind: APPENDS * count for kind, count in each.items()})
                reading = price({kind: READS * count for kind, count in read.items()})
                row: list[object] = ["deferred" if deferred else "immediate", "handed in" if ids else "made here"]
                row += [each.get(kind, 0.0) for kind in ("PUT", "LIST", "GET", "DELETE")]
                whole = writing + reading + STORAGE
                rows.append([*row, sum(read.values()), writing, reading, STORAGE, whole])
                if deferred:
                    most = WITH_IDS if ids else WITHOUT_IDS
                    what = f"deferred, ids {'handed in' if ids else 'made here'}: at most ${most:.2f}"
                    bars.append((what, f"${whole:.2f}, ${whole - REFERENCE:+.2f} to the reference", whole <= most))
    report.text(
        f"{APPENDS:,} appends, each by a process that opens the table anew, and {READS:,} reads of one column of the "
        "whole table by one process that goes on, evenly over a month; 1 GB stored. Counted over "
        f"{immediate:,} immediate and {DEFERRED_MORE * immediate:,} deferred appends, from the creation of the table "
        "until all of them were committed. Versions become tombstones as soon as that is safe, and not after a week, "
        "so what that costs is in. Lists and puts $0.005, gets $0.0004 a thousand, deletes free. "
        f"The reference document says ${REFERENCE}, for one PUT an execution and one GET a read."
    )
    headers = ["appends", "ids", "PUT", "LIST", "GET", "DELETE", "requests a read"]
    report.table([*headers, "writing $", "reading $", "storage $", "month $"], rows)
    report.bars(bars)


if __name__ == "__main__":
    main()
