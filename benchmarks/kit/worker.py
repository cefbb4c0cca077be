"""A process that uses one of the systems: run by the Python of that system's environment.

Standard library only, apart from the system itself. It reads one JSON object from its arguments and
prints one JSON object a line; the last one is its result.
"""

from __future__ import annotations

import json
import resource
import sys
import time
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from typing import Any

SYSTEMS = Path(__file__).resolve().parent.parent / "systems"
sys.path.insert(0, str(SYSTEMS))  # a system may import what stands beside it


def system_of(order: dict[str, Any]) -> Any:
    """The system that an order names, at its place."""
    file = SYSTEMS / f"{order['system']}_system.py"
    spec = spec_from_file_location(file.stem, file)
    assert spec is not None and spec.loader is not None
    module = module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.System(order["place"])


def say(result: dict[str, Any]) -> None:
    """Tell the program that measures."""
    sys.stdout.write(json.dumps(result) + "\n")
    sys.stdout.flush()


def cpu() -> float:
    """CPU seconds of this process so far."""
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime


def rows_of(worker: int, first: int, count: int) -> list[dict[str, Any]]:
    """Rows as a workflow log has them: which worker, its how many-th row, and some text."""
    return [
        {"worker": worker, "n": n, "message": f"task {n} of worker {worker} ended"} for n in range(first, first + count)
    ]


def create(order: dict[str, Any]) -> None:
    """Make the table."""
    system_of(order).create()
    say({})


def loop(order: dict[str, Any]) -> None:
    """Append in a closed loop, from the word go until the time is over."""
    system = system_of(order)
    system.open()
    warmed = ""
    if order.get("warm"):
        try:
            system.append(rows_of(order["worker"], 0, order["rows"]))
        except Exception as error:  # noqa: BLE001 - where many write at once some systems fail; it was for the imports
            warmed = f"{type(error).__name__}: {error}"[:200]
    say({"ready": True, "warmed": warmed})
    sys.stdin.readline()
    begun, used = time.monotonic(), cpu()
    done: list[tuple[float, float, int, str]] = []
    n = 1
    while time.monotonic() - begun < order["seconds"] and n <= order.get("appends", 10**9):
        started, failure = time.monotonic(), ""
        try:
            system.append(rows_of(order["worker"], n * order["rows"], order["rows"]))
        except Exception as error:  # noqa: BLE001 - how often a system fails is what is measured
            failure = f"{type(error).__name__}: {error}"[:200]
        done.append((started, time.monotonic(), n, failure))
        n += 1
    say({"appends": done, "cpu": cpu() - used, "memory": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss})


def stages(order: dict[str, Any]) -> None:
    """Append one after the other, and stop at given numbers of appends until told to go on."""
    system = system_of(order)
    system.open()
    n = 0
    for last in order["stages"]:
        done: list[tuple[float, float, float]] = []
        while n < last:
            n += 1
            started, used = time.monotonic(), cpu()
            system.append(rows_of(order["worker"], n * order["rows"], order["rows"]))
            done.append((started, time.monotonic(), cpu() - used))
        say({"appends": done})
        sys.stdin.readline()


def once(order: dict[str, Any]) -> None:
    """Open the table, append once, say so at once."""
    failure = ""
    try:
        system = system_of(order)
        system.open()
        system.append(rows_of(order["worker"], 1, order["rows"]))
    except Exception as error:  # noqa: BLE001 - how often a system fails is what is measured
        failure = f"{type(error).__name__}: {error}"[:200]
    say({"acknowledged": time.monotonic(), "failure": failure, "cpu": cpu()})


def pairs(order: dict[str, Any]) -> None:
    """Worker and number of every row in the table."""
    say({"pairs": system_of(order).pairs()})


def main() -> None:
    order = json.loads(sys.argv[1])
    {"create": create, "loop": loop, "stages": stages, "once": once, "pairs": pairs}[order["do"]](order)


if __name__ == "__main__":
    main()
