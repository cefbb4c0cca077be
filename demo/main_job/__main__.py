"""The main job, step by step. Started by ``demo/run.py`` in the core's environment."""

from __future__ import annotations

import argparse
import json
import os
import signal
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from types import FrameType
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.status import Status

from datashard_core import DataShardError
from environments import ENVIRONMENTS, ROOT
from main_job import report
from main_job.airflow_side import USER, Airflow
from main_job.place import Place, open_place
from main_job.prefect_side import Flow, Prefect
from main_job.processes import ChildError, Processes

EXAMPLES = ROOT / "example_dags"
AIRFLOW_FAILS_ONCE_AT = "2013-03"
PREFECT_FAILS_ONCE_AT = "2013-09"
READY_SECONDS = 300.0
WORK_SECONDS = 600.0


class Demo:
    """One run of the main job."""

    def __init__(self, console: Console, processes: Processes, place: Place, tasks: int) -> None:
        self._console = console
        self._processes = processes
        self._place = place
        self._tasks = tasks
        # Twelve a side at once is the point of 24 tasks; with 12, two cores are quicker at four a side.
        parallelism = 12 if tasks == 24 else 4
        python = {name: environment.python for name, environment in ENVIRONMENTS.items()}
        self._reader = python["interop"]
        self.airflow = Airflow(processes, python["airflow"], EXAMPLES, parallelism)
        self.prefect = Prefect(processes, python["prefect"], EXAMPLES)
        self._at_once = parallelism
        self._began = time.monotonic()

    @contextmanager
    def step(self, text: str) -> Iterator[Status]:
        """Show that something goes on, and afterwards how long it took."""
        started = time.monotonic()
        with self._console.status(text) as status:
            yield status
        self._console.print(f"[green]✓[/] {text} [dim]{time.monotonic() - started:.1f} s[/]", highlight=False)

    def run(self) -> bool:
        """Do all of it; return whether every check holds."""
        flow = self._start_hosts()
        self._work(flow)
        folder = self._processes.folder / "foreign"
        with self.step("PyIceberg reads the tables, in a process without our code"):
            foreign = self._read_with_pyiceberg(folder)
        warehouse = self._place.warehouse
        report.show(self._console, warehouse)
        log = warehouse.load_table(report.LOG).scan().to_records()
        overlap = report.overlap_seconds(log)
        self._console.print(f"Airflow and Prefect were at work at the same time for {overlap:.1f} s.")
        for name, seen in foreign.items():
            self._console.print(f"PyIceberg reads {seen['rows']} rows in {seen['snapshots']} snapshots of {name}.")
        found = report.checks(warehouse, self._tasks, folder, overlap)
        good = report.print_checks(self._console, found)
        self._console.print(
            f"{'Done' if good else 'Not as it should be'}, {time.monotonic() - self._began:.0f} s in all."
        )
        return good

    def _start_hosts(self) -> Flow:
        half: dict[str, Any] = {"halves": self._tasks == 24}
        with self.step("Airflow's database, Prefect's server"):
            self.prefect.start()
            self.airflow.start()
            self.prefect.wait_until_ready(READY_SECONDS)
        with self.step("the block is saved, the flow's process imports what it needs"):
            self.prefect.save_block(self._place.fields)
            parameters = {"first_month": 7, "last_month": 12, **half}
            parameters["fail_once_at"] = self._part(PREFECT_FAILS_ONCE_AT)
            flow = self.prefect.start_flow(parameters, self._at_once)
        with self.step("Airflow: API server, scheduler and Dag processor"):
            self.airflow.wait_until_ready(READY_SECONDS)
            self.airflow.store_connection(self._place.fields)
            flow.wait_until_ready(READY_SECONDS)
        return flow

    def _work(self, flow: Flow) -> None:
        """Both start together and append to the same two tables."""
        conf = {"first_month": 1, "last_month": 6, "halves": self._tasks == 24}
        text = f"{self._tasks} tasks, half of them Airflow's and half Prefect's, append to the same tables"
        with self.step(text) as status:
            run_id = self.airflow.trigger({**conf, "fail_once_at": self._part(AIRFLOW_FAILS_ONCE_AT)})
            # Airflow's scheduler takes seconds to start its tasks: until then the flow waits.
            self._processes.wait_for("Airflow has begun", lambda: self.airflow.has_begun(run_id), READY_SECONDS)
            flow.release()
            flow_over = False

            def both_are_over() -> bool:
                nonlocal flow_over
                status.update(f"{text}: {report.rows_so_far(self._place.warehouse):,} rows")
                flow_over = flow_over or flow.ended()
                state = self.airflow.run_state(run_id)
                if state == "failed":
                    raise ChildError(f"The Dag run failed.\n{self.airflow.task_errors()}")
                return flow_over and state == "success"

            self._processes.wait_for("both are over", both_are_over, WORK_SECONDS, pause=1.0)

    def _part(self, month: str) -> str:
        return f"{month}-01..15" if self._tasks == 24 else month

    def _read_with_pyiceberg(self, folder: Path) -> dict[str, dict[str, int]]:
        folder.mkdir()
        warehouse = self._place.warehouse
        tables = {name: warehouse.load_table(name).uri for name in (report.DELAYS, report.LOG)}
        script = [self._reader, "-P", ROOT / "demo" / "read_with_pyiceberg.py", folder]
        asked = json.dumps({"tables": tables, "properties": self._place.pyiceberg_properties})
        printed = self._processes.run("pyiceberg", script, {}, text=asked)
        found: dict[str, dict[str, int]] = json.loads(printed.strip().splitlines()[-1])
        return found


def main() -> int:
    parser = argparse.ArgumentParser()
    parser.add_argument("--tasks", type=int, default=12)
    parser.add_argument("--warehouse")
    parser.add_argument("--keep", action="store_true")
    parser.add_argument("--ui", action="store_true")
    arguments = parser.parse_args()
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, _interrupt)
    for name in ("no_proxy", "NO_PROXY"):
        os.environ[name] = ",".join(filter(None, [os.environ.get(name), "127.0.0.1", "localhost"]))
    console = Console(width=None if sys.stdout.isatty() else 140)
    try:
        return run(console, arguments)
    except KeyboardInterrupt:
        console.print("Stopped; everything that was started has ended.")
        return 130
    except (ChildError, DataShardError) as error:
        console.print(f"[red]The demo failed:[/] {escape(str(error))}", soft_wrap=True)  # commands stay whole
        return 1


def run(console: Console, arguments: argparse.Namespace) -> int:
    """Run the demo in folders of its own; when this returns, nothing that it started is left."""
    with ExitStack() as stack:
        folder = Path(
            stack.enter_context(tempfile.TemporaryDirectory(prefix="datashard-demo-", ignore_cleanup_errors=True))
        )
        place = stack.enter_context(open_place(arguments.warehouse, keep=arguments.keep))
        console.print(f"The tables are in {place.warehouse.uri}")
        with Processes(folder) as processes:
            demo = Demo(console, processes, place, arguments.tasks)
            good = demo.run()
            if arguments.keep:
                console.print(place.how_to_look(ENVIRONMENTS["core"].python), highlight=False, soft_wrap=True)
            if arguments.ui:
                console.print(f"Airflow: {demo.airflow.url}  (user {USER}, password {demo.airflow.password})")
                console.print(f"Prefect: {demo.prefect.url}")
                wait_for_interrupt(console)
            with console.status("ending every process"):
                processes.stop()
        if arguments.keep and place.ends_with_the_demo and not arguments.ui:
            console.print("The embedded server keeps the tables only as long as it runs.")
            wait_for_interrupt(console)
    return 0 if good else 1


def wait_for_interrupt(console: Console) -> None:
    """Go on until Ctrl-C, which is here no failure."""
    console.print("Press Ctrl-C to end it.")
    try:
        signal.pause()
    except KeyboardInterrupt:
        console.print("Ending.")


def _interrupt(number: int, frame: FrameType | None) -> None:
    raise KeyboardInterrupt


if __name__ == "__main__":
    sys.exit(main())
