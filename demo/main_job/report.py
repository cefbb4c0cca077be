"""What the demo asks the tables afterwards, how it shows the answers, and what it checks."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.markup import escape
from rich.table import Table as RichTable

if TYPE_CHECKING:
    import pyarrow as pa

    from datashard_core import Table, Warehouse

DELAYS = "flight_delays"
LOG = "workflow_log"

WHICH_TASKS = f"""
select orchestrator,
       task_id || '[' || map_index || ']' as task,
       try_number as try,
       state,
       strftime(started at time zone 'UTC', '%H:%M:%S') as "started (UTC)",
       printf('%.1f', epoch(finished) - epoch(started)) as seconds,
       rows
from {LOG}
order by workflow_log.started
"""

WHICH_FAILED = f"""
select orchestrator || ' ' || task_id || '[' || map_index || '], try ' || try_number as try, error
from {LOG}
where state = 'failed'
order by workflow_log.started
"""

WORST_CARRIERS = f"""
select carrier,
       sum(flights)::bigint as flights,
       sum(cancelled)::bigint as cancelled,
       round(sum(arr_delay_sum) / sum(n_arr_delay), 1) as minutes_late
from {DELAYS}
group by carrier
order by minutes_late desc
limit 5
"""

EXPECTED_SUMS = {
    "rows": 11_864,
    "sum(flights)": 336_776,
    "sum(n_arr_delay)": 327_346,
    "sum(arr_delay_sum)": 2_257_174,
}
SUMS = f"""
select count(*) as "rows",
       sum(flights)::bigint as "sum(flights)",
       sum(n_arr_delay)::bigint as "sum(n_arr_delay)",
       sum(arr_delay_sum)::bigint as "sum(arr_delay_sum)"
from {DELAYS}
"""
TRIES = f"""
select orchestrator || ' ' || state as tries, count(*) as n, sum(rows)::bigint as rows
from {LOG}
group by orchestrator, state
"""


@dataclass(frozen=True)
class Check:
    """One thing that must be so."""

    what: str
    expected: Any
    found: Any

    @property
    def good(self) -> bool:
        return bool(self.expected == self.found)


def show(console: Console, warehouse: Warehouse) -> None:
    """Print the answers of SQL and the history of the table; 80 columns are enough."""
    print_rows(console, "Which tasks ran, how long, how many rows?", warehouse, WHICH_TASKS)
    # The errors stand below: a column of a table leaves them no room on a narrow screen.
    console.print("[italic]Which failed, and why?[/]")
    for row in warehouse.sql(WHICH_FAILED).to_pylist():
        console.print(f"[red]{escape(row['try'])}[/]: {escape(row['error'])}", highlight=False)
    console.print()
    print_rows(console, "The carriers that came latest", warehouse, WORST_CARRIERS)
    table = warehouse.load_table(DELAYS)
    shown = _table(f"The history of {DELAYS} (version {table.version})")
    for heading in ("snapshot", "at (UTC)", "operation", "+ files", "+ rows", "rows"):
        shown.add_column(heading, justify="right", no_wrap=True)
    for snapshot in table.snapshots():
        summary = snapshot.summary
        counts = [f"{int(summary.get(key, 0)):,}" for key in ("added-data-files", "added-records", "total-records")]
        at = datetime.fromtimestamp(snapshot.timestamp_ms / 1000, UTC).strftime("%H:%M:%S.%f")[:-3]
        shown.add_row(str(snapshot.snapshot_id), at, summary.get("operation", ""), *counts)
    console.print(shown)


def print_rows(console: Console, title: str, warehouse: Warehouse, query: str) -> None:
    """Print the answer to a query as a table."""
    answer = warehouse.sql(query)
    shown = _table(title)
    for column in answer.column_names:
        number = column == "seconds" or str(answer.schema.field(column).type).startswith(("int", "double"))
        shown.add_column(column, justify="right" if number else "left")
    for row in answer.to_pylist():
        style = "red" if row.get("state") == "failed" else None
        shown.add_row(*("" if value is None else _text(value) for value in row.values()), style=style)
    console.print(shown)


def rows_so_far(warehouse: Warehouse) -> int:
    """How many rows the table has at this moment: anybody may look while others append."""
    from datashard_core import NoSuchTableError

    try:
        snapshot = warehouse.load_table(DELAYS).current_snapshot()
    except NoSuchTableError:
        return 0
    return int(snapshot.summary.get("total-records", 0)) if snapshot is not None else 0


def _table(title: str) -> RichTable:
    return RichTable(title=title, title_justify="left")


def overlap_seconds(log: Sequence[dict[str, Any]]) -> float:
    """For how many seconds a task of Airflow and a task of Prefect ran at the same time."""
    spans = {
        side: _union((row["started"], row["finished"]) for row in log if row["orchestrator"] == side)
        for side in ("airflow", "prefect")
    }
    total = 0.0
    for begin, end in spans["airflow"]:
        for other_begin, other_end in spans["prefect"]:
            total += max(0.0, (min(end, other_end) - max(begin, other_begin)).total_seconds())
    return total


def _union(spans: Iterable[tuple[datetime, datetime]]) -> list[tuple[datetime, datetime]]:
    found: list[tuple[datetime, datetime]] = []
    for begin, end in sorted(spans):
        if found and begin <= found[-1][1]:
            found[-1] = (found[-1][0], max(end, found[-1][1]))
        else:
            found.append((begin, end))
    return found


def checks(warehouse: Warehouse, tasks: int, foreign: Path, overlap: float) -> list[Check]:
    """Everything that must be so at the end.

    Args:
        warehouse: where the tables are.
        tasks: how many tasks there were.
        foreign: the folder with what PyIceberg read.
        overlap: for how many seconds both orchestrators were at work.
    """
    (sums,) = warehouse.sql(SUMS).to_pylist()
    found = [Check(f"{DELAYS}: {name}", value, sums[name]) for name, value in EXPECTED_SUMS.items()]
    tries = warehouse.sql(TRIES).to_pylist()
    wanted = {"success": tasks // 2, "failed": 1}
    expected = {f"{side} {state}": n for side in ("airflow", "prefect") for state, n in wanted.items()}
    found.append(Check(f"{LOG}: tries", expected, {row["tries"]: row["n"] for row in tries}))
    logged = sum(row["rows"] or 0 for row in tries)
    found.append(Check(f"{LOG}: rows by the tries", EXPECTED_SUMS["rows"], logged))
    for name in (DELAYS, LOG):
        found.append(Check(f"{name}: PyIceberg agrees", "yes", same(warehouse.load_table(name), foreign)))
    found.append(Check("Airflow and Prefect at the same time", "yes", "yes" if overlap > 0 else "no"))
    return found


def same(table: Table, foreign: Path) -> str:
    """``"yes"``, or how what PyIceberg read differs from our own scan, value by value."""
    import pyarrow as pa

    with pa.OSFile(str(foreign / f"{table.name}.arrow"), "rb") as file:
        theirs = _rows(pa.ipc.open_file(file).read_all())
    ours = _rows(table.scan().to_arrow())
    if ours == theirs:
        return "yes"
    apart = next((pair for pair in zip(ours, theirs, strict=False) if pair[0] != pair[1]), None)
    return f"no: {len(ours)} and {len(theirs)} rows; first difference: {apart}"


def _rows(table: pa.Table) -> list[str]:
    names = sorted(table.column_names)
    return sorted(repr([(name, _plain(row[name])) for name in names]) for row in table.to_pylist())


def _plain(value: Any) -> Any:
    """Two libraries may give one moment with different time zone objects."""
    return value.astimezone(UTC).isoformat() if isinstance(value, datetime) else value


def print_checks(console: Console, found: Sequence[Check]) -> bool:
    """Print what was checked; return whether all of it is so."""
    shown = _table("Checks")
    for heading in ("", "what", "expected", "found"):
        shown.add_column(heading)
    for check in found:
        mark = "[green]ok[/]" if check.good else "[red]FAIL[/]"
        shown.add_row(mark, check.what, _text(check.expected), _text(check.found))
    console.print(shown)
    return all(check.good for check in found)


def _text(value: Any) -> str:
    if isinstance(value, dict):
        return "\n".join(f"{n} {key}" for key, n in sorted(value.items()))
    return f"{value:,}" if isinstance(value, int) else str(value)
