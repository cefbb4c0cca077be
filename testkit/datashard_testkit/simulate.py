"""Run many seeds of the simulation: ``python -m datashard_testkit.simulate --seeds 50000``.

With ``--state FILE`` the run can be stopped and goes on where it was; a failing seed is printed and
replays exactly with ``--seed N --trace``.
"""

from __future__ import annotations

import argparse
import json
import logging
import os
import time
from collections import Counter
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field, fields
from pathlib import Path

from datashard_testkit.faults import FAULTS
from datashard_testkit.report import ACTIONS, Report
from datashard_testkit.scenario import Scenario, run_seed
from datashard_testkit.workloads import mix_for

CHUNK = 25


@dataclass(slots=True)
class State:
    """How far a run has come, and what it found."""

    done: int = 0
    acknowledged: int = 0
    versions: int = 0
    failed: list[int] = field(default_factory=list)
    counts: Counter[str] = field(default_factory=Counter)

    def add(self, report: Report) -> None:
        """Count one seed."""
        self.done += 1
        self.acknowledged += report.acknowledged
        self.versions += report.versions
        self.counts.update(report.counts)
        if report.violations:
            self.failed.append(report.seed)
            print(f"seed {report.seed}: {report.violations[0]}", flush=True)

    @property
    def never(self) -> list[str]:
        """Faults and actions that the mix is meant to have, and that never occurred."""
        return [name for name in (*FAULTS, *ACTIONS) if not self.counts[name]]

    def __str__(self) -> str:
        return (
            f"{self.done} seeds, {self.acknowledged} acknowledged appends, {self.versions} versions, "
            f"{len(self.failed)} seeds with violations"
        )


def run_chunk(seeds: Sequence[int]) -> list[Report]:
    """Run some seeds in this process."""
    logging.disable(logging.CRITICAL)  # a fault that is injected is no news
    return [run_seed(seed, mix_for(seed)) for seed in seeds]


def main(arguments: Sequence[str] | None = None) -> int:
    """Run seeds; the exit code is 1 if any of them violated an invariant."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, default=1000, help="how many seeds")
    parser.add_argument("--first", type=int, default=0, help="the first seed")
    parser.add_argument("--seed", type=int, help="run this one alone, and say what it did")
    parser.add_argument("--trace", action="store_true", help="with --seed: every request and its outcome")
    parser.add_argument("--processes", type=int, default=os.cpu_count() or 1, help="processes to run in")
    parser.add_argument("--state", type=Path, help="file that keeps how far the run is")
    options = parser.parse_args(arguments)
    if options.seed is not None:
        return _one(options.seed, trace=options.trace)
    state = State()
    if options.state is not None and options.state.exists():
        held = json.loads(options.state.read_text())
        state = State(**{**held, "counts": Counter(held["counts"])})
    started, before = time.monotonic(), state.done
    first, last = options.first + state.done, options.first + options.seeds
    chunks = [range(low, min(low + CHUNK, last)) for low in range(first, last, CHUNK)]
    with ProcessPoolExecutor(options.processes) as pool:
        for reports in pool.map(run_chunk, chunks):
            for report in reports:
                state.add(report)
            if options.state is not None:
                _save(state, options.state)
            seconds = time.monotonic() - started
            print(f"{state}; {(state.done - before) / seconds:.1f} seeds/s, {seconds:.0f} s", flush=True)
    for name, count in sorted(state.counts.items()):
        print(f"{count:12,d}  {name}")
    for name in state.never:
        print(f"never: {name}")
    return 1 if state.failed else 0


def _save(state: State, path: Path) -> None:
    """Whole or not at all: the run may be stopped at any moment."""
    new = path.with_name(f"{path.name}.new")
    new.write_text(json.dumps({one.name: getattr(state, one.name) for one in fields(state)}))
    new.replace(path)


def _one(seed: int, *, trace: bool) -> int:
    mix = mix_for(seed)
    lines: list[str] = []

    def prepare(scenario: Scenario) -> None:
        scenario.simulation.trace = lines

    report = run_seed(seed, mix, prepare=prepare if trace else None)
    print(*lines, sep="\n", end="\n" if lines else "")
    print(f"seed {seed}: {mix}")
    print(f"{report.acknowledged} acknowledged, {report.versions} versions, {dict(report.requests)}")
    for name, count in sorted(report.counts.items()):
        print(f"{count:8,d}  {name}")
    for violation in report.violations:
        print(f"  {violation}")
    return 1 if report.violations else 0


if __name__ == "__main__":
    raise SystemExit(main())
