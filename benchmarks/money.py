"""What the requests of a month cost at S3's list prices: 100,000 appends, 10,000 reads.

    python3 benchmarks/money.py             2,048 appends of each kind, scaled up
    python3 benchmarks/money.py --quick

Each append opens the table anew, as a process that lives for a second does. Immediate and deferred, with and without
ids that the caller hands in.
"""

from __future__ import annotations

import argparse
import json
import subprocess
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
PARTS = ("created", "appended", "flushed", "read")
REFERENCE = 0.53
WITHOUT_IDS, WITH_IDS = 0.70, 0.85


def measure(store: Store, *, deferred: bool, ids: bool, appends: int, reads: int) -> dict[str, dict[str, int]]:
    """Requests of each kind in each part."""
    store.clear()
    order = {"place": store.place(f"money-{deferred}-{ids}"), "deferred": deferred, "ids": ids}
    command = [start.python_of("bench-core"), PROGRAM, json.dumps({**order, "appends": appends, "reads": reads})]
    found: dict[str, dict[str, int]] = {}
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdin is not None and process.stdout is not None
        since = store.now()
        for part in PARTS:
            if not process.stdout.readline():
                raise RuntimeError(f"the appends ended before the part {part!r}")
            found[part] = by_kind(store.requests(since))
            since = store.now()
            process.stdin.write("go\n")
            process.stdin.flush()
    if process.returncode:
        raise RuntimeError("the rows in the end are not those that were appended")
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--appends", type=int, default=2048)
    parser.add_argument("--quick", action="store_true", help="128 appends; nothing is written")
    chosen = parser.parse_args()
    appends, reads = (128 if chosen.quick else chosen.appends), 16
    report = Report("money", "A month at S3's list prices", ["bench-core"], keep=not chosen.quick)
    rows: list[list[object]] = []
    bars: list[tuple[str, str, bool]] = []
    with Store() as store:
        for deferred in (False, True):
            for ids in (False, True):
                parts = measure(store, deferred=deferred, ids=ids, appends=appends, reads=reads)
                each = {kind: count / appends for kind, count in parts["appended"].items()}
                read = {kind: count / reads for kind, count in parts["read"].items()}
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
        f"whole table, a month; 1 GB stored. Counted over {appends:,} appends and {reads} reads. "
        "Lists and puts $0.005, gets $0.0004 a thousand, deletes free. "
        f"The reference document says ${REFERENCE}, for one PUT an execution and one GET a read."
    )
    headers = [
        "appends",
        "ids",
        "PUT",
        "LIST",
        "GET",
        "DELETE",
        "requests a read",
        "writing $",
        "reading $",
        "storage $",
    ]
    report.table([*headers, "month $"], rows)
    report.bars(bars)


if __name__ == "__main__":
    main()
