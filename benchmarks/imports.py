"""How long the imports take.

    python3 benchmarks/imports.py

``import datashard_core`` in fresh interpreters, beside an interpreter that imports nothing, and the providers' modules
after everything of their host that they import is there already.
"""

from __future__ import annotations

import argparse
import subprocess
import time

from kit import start

if __name__ == "__main__":
    start.enter("bench-core", "airflow", "prefect")

from kit.report import Report
from kit.statistics import median

HOSTED = {
    "airflow": ("import airflow.sdk", "airflow_provider_datashard.hooks.datashard"),
    "prefect": (
        "from prefect import flow, task; import prefect.blocks.core, prefect.transactions",
        "prefect_datashard",
    ),
}


def whole(python: str, code: str) -> float:
    """Seconds of an interpreter's life."""
    started = time.monotonic()
    subprocess.run([python, "-c", code], check=True)
    return time.monotonic() - started


def beyond(python: str, host: str, module: str) -> tuple[float, float]:
    """Seconds, and CPU seconds, of an import once what a Dag or a flow imports of its host is there."""
    code = (
        f"{host}; import time; began = time.perf_counter(), time.process_time(); import {module}; "
        "print(time.perf_counter() - began[0], time.process_time() - began[1])"
    )
    said = subprocess.run([python, "-c", code], check=True, capture_output=True, text=True).stdout.split()
    return float(said[-2]), float(said[-1])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--times", type=int, default=15)
    parser.add_argument("--quick", action="store_true", help="three times; nothing is written")
    chosen = parser.parse_args()
    times = 3 if chosen.quick else chosen.times
    report = Report("imports", "Imports", ["bench-core"], keep=not chosen.quick)
    python = start.python_of("bench-core")
    plain: list[float] = []
    core: list[float] = []
    inside: list[tuple[float, float]] = []
    for _ in range(times):
        plain.append(whole(python, "pass"))
        core.append(whole(python, "import datashard_core"))
        inside.append(beyond(python, "import sys", "datashard_core"))
    rows: list[list[object]] = [
        ["an interpreter that imports nothing", 1000 * min(plain), 1000 * median(plain), ""],
        ["an interpreter that imports datashard_core", 1000 * min(core), 1000 * median(core), ""],
        _row("import datashard_core, by the interpreter's own clocks", inside),
    ]
    for environment, (host, module) in HOSTED.items():
        taken = [beyond(start.python_of(environment), host, module) for _ in range(max(3, times // 3))]
        rows.append(_row(f"import {module}, after `{host}`", taken))
    report.table(["", "fastest ms", "median ms", "CPU ms"], rows)


def _row(what: str, taken: list[tuple[float, float]]) -> list[object]:
    walls, cpus = zip(*taken, strict=True)
    return [what, 1000 * min(walls), 1000 * median(list(walls)), 1000 * min(cpus)]


if __name__ == "__main__":
    main()
