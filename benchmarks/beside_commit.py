"""What this checkout costs beside an earlier commit: requests, and CPU, of appends and scans, in turn.

    python3 benchmarks/beside_commit.py COMMIT            some 5 minutes
    python3 benchmarks/beside_commit.py COMMIT --rounds 2

The commit is cloned below ``.envs``, with an environment of its own. Each round runs every case once with either, the
order changing from round to round; a case is CPU seconds (user and system) of one process, and the requests that the
server counted meanwhile. The ratio is that of the medians.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
from collections import defaultdict
from pathlib import Path
from typing import Any

from kit import start

if __name__ == "__main__":
    start.enter("bench-core")

from kit.processes import Worker, ask, ended
from kit.readers import Reader, make_tables
from kit.report import Report
from kit.statistics import by_kind, median
from kit.store import Store

COLD_APPENDS = 5
WARM_APPENDS = 100
AGAIN = 5
ENOUGH = 1.05
TABLES = [
    {"name": "full", "kind": "repeated", "files": 20, "rows": 200_000},
    {"name": "many", "kind": "distinct", "files": 2_000, "rows": 500},
    {"name": "described", "kind": "described", "files": 20_000, "rows": 1_000},
    {"name": "small", "kind": "repeated", "files": 300, "rows": 20},
]
SCANS: dict[str, tuple[str, dict[str, Any]]] = {
    "full scan of 4,000,000 rows": ("full", {"do": "scan"}),
    "scan of 300 small files": ("small", {"do": "scan"}),
    "scan of one file of 2,000": ("many", {"do": "scan", "where": [["run_id", "==", 500_250]]}),
    "plan of half of 20,000 files": ("described", {"do": "plan", "where": [["run_id", "<", 10_000_000]]}),
}
Measured = dict[str, dict[str, list[float]]]


def clone(commit: str) -> tuple[str, str]:
    """The abbreviated hash of a commit, and the Python of an environment that holds it."""
    repository = ["git", "-C", str(start.ROOT)]
    command = [*repository, "rev-parse", "--short=10", f"{commit}^{{commit}}"]
    found = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout.strip()
    folder = start.ROOT / ".envs" / "beside" / found
    if not folder.exists():
        subprocess.run(["git", "clone", "--quiet", "--no-checkout", str(start.ROOT), str(folder)], check=True)
        subprocess.run(["git", "-C", str(folder), "checkout", "--quiet", found], check=True)
    subprocess.run([sys.executable, "tools/environments.py", "bench-core"], cwd=folder, check=True)
    return found, str(folder / ".envs" / "bench-core" / "bin" / "python")


def table_for_appends(store: Store, name: str) -> dict[str, str]:
    """A fresh table with one append in it."""
    place = store.place(name)
    ask({"system": "ours", "place": place, "do": "create", "quiet": True})
    ask({"system": "ours", "place": place, "do": "once", "quiet": True, "rows": 1, "worker": 0})
    return place


def cold_appends(python: str, place: dict[str, str]) -> float:
    """CPU seconds of a process that opens a table and appends one row: the median of a few."""
    return median([cold_append(python, place) for _ in range(COLD_APPENDS)])


def cold_append(python: str, place: dict[str, str]) -> float:
    """CPU seconds of one such process."""
    worker = Worker({"system": "ours", "place": place, "do": "once", "rows": 1, "worker": 1, "python": python})
    with ended([worker], 120):
        said = worker.read()
        if said.get("failure", "no answer"):
            raise RuntimeError(said.get("failure", "it ended without a word"))
        return worker.used_by_its_end()[0]


def warm_appends(python: str, place: dict[str, str]) -> float:
    """CPU seconds of one of many appends of 100 rows."""
    order = {"system": "ours", "place": place, "do": "loop", "rows": 100, "seconds": 600, "warm": True, "worker": 1}
    worker = Worker({**order, "appends": WARM_APPENDS, "python": python})
    with ended([worker], 300):
        worker.read()
        worker.go()
        said = worker.read()
    failures = [failure for *_, failure in said["appends"] if failure]
    if failures:
        raise RuntimeError(failures[0])
    return float(said["cpu"]) / WARM_APPENDS


def scan(python: str, root: str, place: dict[str, str], order: dict[str, Any]) -> tuple[float, float, int]:
    """CPU seconds of a fresh process's first scan and the median of its further ones, and what they found."""
    reader = Reader("ours", root, place, python=python)
    try:
        answers = [reader.do(order) for _ in range(1 + AGAIN)]
    finally:
        reader.end()
    for said in answers:
        if "failure" in said:
            raise RuntimeError(said["failure"])
    again = median([float(said["cpu"]) for said in answers[1:]])
    return float(answers[0]["cpu"]), again, int(answers[-1]["found"])


def measure(
    store: Store, pythons: dict[str, str], rounds: int, local: str
) -> tuple[Measured, dict[str, dict[str, int]]]:
    """CPU by case and version, round after round, and the requests of a version in the last round of each case."""
    taken: Measured = defaultdict(lambda: defaultdict(list))
    requests: dict[str, dict[str, int]] = {}
    places = {"local": {"folder": local}, "S3": store.place("scan")}
    roots = {where: make_tables(place, TABLES) for where, place in places.items()}
    for number in range(rounds):
        order = list(pythons.items())[:: 1 if number % 2 == 0 else -1]
        for name, python in order:
            cold, warm = (table_for_appends(store, f"{what}-{number}-{name}") for what in ("cold", "warm"))
            for what, place, case in (("a cold append", cold, cold_appends), ("a warm append", warm, warm_appends)):
                since = store.now()
                taken[what][name].append(case(python, place))
                requests[f"{what} {name}"] = by_kind(store.requests(since))
        for what, (table, asked) in SCANS.items():
            for where, place in places.items():
                found = set()
                for name, python in order:
                    since = store.now()
                    first, second, rows = scan(python, f"{roots[where]}/{table}", place, asked)
                    found.add(rows)
                    taken[f"{what}, {where}"][name].append(first)
                    taken[f"{what}, {where}, again"][name].append(second)
                    requests[f"{what}, {where} {name}"] = by_kind(store.requests(since))
                if len(found) != 1:
                    raise RuntimeError(f"{what}, {where}: the two found {sorted(found)}")
    return taken, requests


def kinds(requests: dict[str, int] | None) -> str:
    """Requests as they stand in the table; empty where they are counted in another row."""
    if requests is None:
        return ""
    return ", ".join(f"{count} {kind}" for kind, count in sorted(requests.items())) or "none"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("commit", help="the earlier commit")
    parser.add_argument("--rounds", type=int, default=5)
    chosen = parser.parse_args()
    before, python = clone(chosen.commit)
    report = Report("beside_commit", f"Beside commit {before}", ["bench-core"], keep=chosen.rounds >= 5)
    pythons = {"before": python, "now": start.python_of("bench-core")}
    with Store() as store, tempfile.TemporaryDirectory(prefix="datashard-bench-") as folder:
        taken, requests = measure(store, pythons, chosen.rounds, str(Path(folder)))
    rows: list[list[object]] = []
    worst = 0.0
    for what, found in taken.items():
        old, new = median(found["before"]), median(found["now"])
        worst = max(worst, new / old)
        counts = [requests.get(f"{what} {name}") for name in ("before", "now")]
        shown = [kinds(count) for count in counts]
        rows.append([what, 1000 * old, 1000 * new, new / old, *shown])
    report.text(
        f"Medians of {chosen.rounds} rounds in turn. Requests are those of {COLD_APPENDS} cold appends, {WARM_APPENDS} "
        f"warm ones, and a first scan with {AGAIN} further ones (the rows that end with `again`) in one process."
    )
    headers = ["case", f"{before} CPU ms", "now CPU ms", "now / before", "requests before", "requests now"]
    report.table(headers, rows)
    report.bars([(f"at most {ENOUGH} of the CPU, in each case", f"{worst:.2f}", worst <= ENOUGH)])


if __name__ == "__main__":
    main()
