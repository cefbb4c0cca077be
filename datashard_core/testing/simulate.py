"""Run many seeds of the simulation: ``python -m datashard_core.testing.simulate --seeds 50000``.

With ``--state FILE`` the run can be stopped and goes on where it was; a failing seed is printed and
replays exactly with ``--seed N --trace``.
"""

from __future__ import annotations

import argparse
import json
import logging
import time
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass, field
from pathlib import Path

from datashard_core.testing.mixes import mix_for
from datashard_core.testing.scenario import Report, run_seed

CHUNK = 50


@dataclass(slots=True)
class State:
    """How far a run has come, and what it found."""

    done: int = 0
    acknowledged: int = 0
    versions: int = 0
    failed: list[int] = field(default_factory=list)

    def add(self, report: Report) -> None:
        """Count one seed."""
        self.done += 1
        self.acknowledged += report.acknowledged
        self.versions += report.versions
        if report.violations:
            self.failed.append(report.seed)
            print(f"seed {report.seed}: {report.violations[0]}", flush=True)

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
    parser.add_argument("--processes", type=int, default=2, help="processes to run in")
    parser.add_argument("--state", type=Path, help="file that keeps how far the run is")
    options = parser.parse_args(arguments)
    if options.seed is not None:
        return _one(options.seed)
    state = State()
    if options.state is not None and options.state.exists():
        state = State(**json.loads(options.state.read_text()))
    started = time.monotonic()
    first, last = options.first + state.done, options.first + options.seeds
    chunks = [range(low, min(low + CHUNK, last)) for low in range(first, last, CHUNK)]
    with ProcessPoolExecutor(options.processes) as pool:
        for reports in pool.map(run_chunk, chunks):
            for report in reports:
                state.add(report)
            if options.state is not None:
                options.state.write_text(json.dumps(asdict(state)))
    print(f"{state}, {time.monotonic() - started:.0f} s")
    return 1 if state.failed else 0


def _one(seed: int) -> int:
    mix = mix_for(seed)
    report = run_seed(seed, mix)
    print(f"seed {seed}: {mix}")
    print(f"{report.acknowledged} acknowledged, {report.versions} versions, {dict(report.requests)}")
    for violation in report.violations:
        print(f"  {violation}")
    return 1 if report.violations else 0


if __name__ == "__main__":
    raise SystemExit(main())
