"""How many writers one table takes: the real commit code in virtual time, from 1 to 10,000 writers.

    python3 benchmarks/simulated_scale.py                    # 8 minutes of one core; writes the page
    python3 benchmarks/simulated_scale.py --only 64 --seed 7 # one case; nothing is written

Each writer appends one row after another (a closed loop). Requests take lognormal times around those
of S3 Standard, each costs its client some CPU, and the store refuses with 503 what is above 3,500
writes or 5,500 reads a second. Nothing else is simulated: the code that decides is the product's own.
What a pure function makes of one and the same body or key is worked out once for all writers, and shared.
"""

from __future__ import annotations

import argparse
import dataclasses
import logging
import sys
import time
from collections import Counter
from collections.abc import Coroutine, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import lru_cache, partial
from typing import Any
from unittest import mock

from kit import start

if __name__ == "__main__":
    start.enter("bench-core")

from datashard_testkit.faults import Throttle
from datashard_testkit.report import percentile
from datashard_testkit.simulation import Process, Simulation
from kit.report import Report, markdown_table

from datashard_core.commit.append.deferred import Deferred, commit_backlog, defer, flush
from datashard_core.commit.append.protocol import append
from datashard_core.commit.core import current_version
from datashard_core.commit.core.current_version import find_current
from datashard_core.commit.core.next_version import first_version
from datashard_core.commit.core.recorded_ids import LIBRARY_MADE
from datashard_core.commit.core.state import Append, Committed, TableState, Target
from datashard_core.commit.staging import key as staging_key
from datashard_core.commit.versions.lifecycle import create
from datashard_core.effects.requests import Now, Sleep, Unique
from datashard_core.effects.tasks import start
from datashard_core.errors import StorageError
from datashard_core.format.rows.digest import id_digest, rows_digest
from datashard_core.format.types.schema import Schema

ROOT = "s3://simulated/table"
SCHEMA = Schema(schema_id=0, fields=[{"id": 1, "name": "tag", "type": "string", "required": True}])
PAID = ("Put", "PutData", "PutIfAbsent", "Replace", "ListPage")
READS = ("Get", "Head")
TIMEOUT = 600.0


@dataclass(frozen=True)
class Case:
    """One line of the table.

    Attributes:
        name: how it is called there.
        writers: how many append at the same time.
        seconds: virtual seconds of the closed loop.
        fresh: every append comes from a new process, which knows nothing of the table.
        handed_in: append ids come from the caller, and are looked up.
        deferred: appends are staged, and a flush ends the run.
        once: every writer appends once, all within a second.
        seeds: how many seeds are run.
        at_least: appends a second that are asked for; 0: nothing is.
        p99: seconds that the 99th percentile has to stay below; 0: nothing is asked.
    """

    name: str
    writers: int
    seconds: float = 20.0
    fresh: bool = False
    handed_in: bool = False
    deferred: bool = False
    once: bool = False
    seeds: int = 1
    at_least: float = 0.0
    p99: float = 0.0

    @property
    def asked(self) -> str:
        parts = [f"{self.at_least:.0f}/s"] if self.at_least else []
        return ", ".join([*parts, *([f"p99 {self.p99} s"] if self.p99 else [])])


CASES = (
    Case("1", 1, seconds=60.0),
    Case("8", 8),
    Case("64", 64, seeds=5, at_least=85.0, p99=1.5),
    Case("64 fresh", 64, fresh=True, seeds=5, at_least=65.0, p99=1.7),
    Case("64 fresh, ids handed in", 64, fresh=True, handed_in=True),
    Case("256", 256, seeds=3, at_least=220.0),
    Case("1,000", 1000, seeds=2, at_least=200.0),
    Case("burst of 500 fresh", 500, fresh=True, once=True),
    Case("64 deferred", 64, deferred=True),
    Case("10,000", 10000, seconds=10.0),
)


@dataclass
class Measured:
    """What a case came to."""

    latencies: list[float] = field(default_factory=list)
    ended: list[float] = field(default_factory=list)
    requests: Counter[str] = field(default_factory=Counter)
    failures: list[str] = field(default_factory=list)
    left: list[str] = field(default_factory=list)
    versions: int = 0
    refused: int = 0
    seconds: float = 0.0
    until: float = 0.0
    cpu_seconds: float = 0.0

    @property
    def appends(self) -> int:
        return len(self.latencies)

    @property
    def rate(self) -> float:
        """Appends a second that ended while the loops were going on."""
        return sum(1 for ended in self.ended if ended <= self.until) / self.seconds if self.seconds else 0.0

    def missed(self, case: Case) -> bool:
        """Whether something failed, or was slower than is asked."""
        slow = bool(case.p99) and percentile(self.latencies, 0.99) >= case.p99
        return bool(self.failures) or slow or self.rate < case.at_least

    def per_append(self, kinds: Sequence[str]) -> float:
        return sum(self.requests[kind] for kind in kinds) / max(1, self.appends)


class Scale:
    """One case in one simulation."""

    def __init__(self, case: Case, cpu: float, seed: int) -> None:
        self.case = case
        self.throttle = Throttle()
        self.simulation = Simulation(seed, cpu=cpu, throttle=self.throttle)
        self.measured = Measured()
        self.processes: list[Process] = []
        first = partial(first_version, location=ROOT, schema=SCHEMA, properties={})
        made = self._now(create(ROOT, "t", first, TIMEOUT))
        self.seen: TableState = made.state
        self.target = Target(ROOT, "t", self.seen.body.table.table_uuid)
        self.processes.clear()

    def run(self) -> Measured:
        begun, start = time.process_time(), self.simulation.now
        for number in range(self.case.writers):
            process = self._process()
            self.simulation.start(self._writer(number, process, start), process, self._ended)
        self.simulation.run()
        if self.case.deferred:
            self._now(flush(self.target, None, TIMEOUT))
        measured = self.measured
        for process in self.processes:
            measured.requests.update(process.requests)
        found = self._now(find_current(ROOT))
        measured.versions = found.newest.version
        measured.refused = self.throttle.refused
        measured.seconds = (max(measured.ended, default=start) - start) if self.case.once else self.case.seconds
        measured.until = start + measured.seconds
        measured.cpu_seconds = time.process_time() - begun
        return measured

    def _process(self) -> Process:
        process = self.simulation.process("writer")
        self.processes.append(process)
        return process

    def _now(self, steps: Coroutine[Any, Any, Any]) -> Any:
        results: list[Any] = []
        self.simulation.start(steps, self._process(), results.append)
        self.simulation.run()
        if isinstance(results[0], Exception):
            raise results[0]
        return results[0]

    def _ended(self, result: Any) -> None:
        if isinstance(result, Exception):
            self.measured.failures.append(f"{type(result).__name__}: {result}")

    async def _writer(self, number: int, process: Process, start: float) -> None:
        """Append in a closed loop until the time is over; what began in time is finished and counted."""
        seen: TableState | None = None if self.case.fresh else self.seen
        pause = self.simulation.random.random()
        await Sleep(pause if self.case.once else 0.1 * pause)
        turn = 0
        while True:
            begun = (await Now()).monotonic
            if begun - start > self.case.seconds:
                return
            seen = await self._one(f"{number}/{turn}", None if self.case.fresh else seen)
            ended = (await Now()).monotonic
            self.measured.latencies.append(ended - begun)
            self.measured.ended.append(ended)
            turn += 1
            if self.case.once:
                return

    async def _one(self, tag: str, seen: TableState | None) -> TableState:
        if seen is None:
            found = await find_current(ROOT)  # what opening a table does
            assert found is not None
            seen = TableState(found.newest, None, found.hint)
        item = _item(tag, (await Unique()), seen.body.version, handed_in=self.case.handed_in)
        if self.case.deferred:
            result, seen = await defer(item, self.target, seen)
            if isinstance(result, Deferred) and result.commits:
                try:
                    seen = await commit_backlog(self.target, seen, TIMEOUT)
                except StorageError as error:
                    self.measured.left.append(str(error))  # as in life, the next one commits
            return seen
        results, known = await append([item], self.target, seen, TIMEOUT)
        if not isinstance(results[item.id], Committed):
            self.measured.failures.append(f"{tag}: {results[item.id]!r}")
        return known or seen


@contextmanager
def shared_parsing() -> Iterator[None]:
    """Thousands of writers that read the same versions and listings parse them once, for a while."""
    versions = lru_cache(maxsize=256)(current_version.parse_version)
    names = lru_cache(maxsize=2**18)(staging_key._parsed.__wrapped__)
    with (
        mock.patch.object(current_version, "parse_version", versions),
        mock.patch.object(staging_key, "_parsed", names),
    ):
        yield


def _item(tag: str, unique: str, known: int, *, handed_in: bool) -> Append:
    import pyarrow as pa

    own = f"run/{tag}/{unique}"
    rows = pa.table({"tag": [tag]}, schema=SCHEMA.to_arrow())
    digest = rows_digest(rows, SCHEMA) if handed_in else LIBRARY_MADE
    return Append(own, id_digest(own), digest, rows, (), SCHEMA, None if handed_in else known)


HEADINGS = (
    "writers",
    "seed",
    "appends/s",
    "p50 s",
    "p99 s",
    "max s",
    "appends a version",
    "PUT+LIST an append",
    "GET an append",
    "503",
    "failed",
    "asked",
)
HOW = """The product's own commit code in virtual time: the machine and its load do not enter.

Each writer appends one row after another for 20 s (one alone: 60 s, 10,000: 10 s), or all once within a second.
Lognormal latencies of GET 30, PUT 60, LIST 45, DELETE 30 ms (sigma 0.35); {cpu:g} ms of a client's CPU a request; 503
above 3,500 PUT, POST, LIST and DELETE, or 5,500 GET and HEAD, a second on the table's prefix. *Fresh*: a new process
for each append, which opens the table first. Appends that ended within the time count for the rate, all that began in
it for the latencies; all begin at once, so the first seconds count too. Requests of commits, hints and openings are
all counted. PUT+LIST are what costs money."""
ADVICE = """What to do where that is not enough is in [the page on benchmarks](../../docs/benchmarks.md)."""


def cells(case: Case, seed: int, measured: Measured) -> tuple[str, ...]:
    return (
        case.name,
        str(seed),
        f"{measured.rate:.1f}",
        f"{percentile(measured.latencies, 0.5):.2f}",
        f"{percentile(measured.latencies, 0.99):.2f}",
        f"{max(measured.latencies, default=0.0):.2f}",
        f"{measured.appends / max(1, measured.versions):.1f}",
        f"{measured.per_append(PAID):.2f}",
        f"{measured.per_append(READS):.1f}",
        f"{measured.refused:,}",
        str(len(measured.failures)),
        case.asked,
    )


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", action="append", help="name of a case; may be given again. Nothing is written")
    parser.add_argument("--cpu", type=float, default=1.5, help="milliseconds of CPU a request")
    parser.add_argument("--seed", type=int, help="this seed alone. Nothing is written")
    parser.add_argument("--seconds", type=float, help="virtual seconds of a closed loop. Nothing is written")
    parser.add_argument("--quick", action="store_true", help="up to 64 writers, one seed. Nothing is written")
    options = parser.parse_args(arguments)
    logging.disable(logging.CRITICAL)
    trial = bool(options.only or options.seed is not None or options.seconds or options.quick)
    report = Report("simulated_scale", "How many writers one table takes, simulated", ["bench-core"], keep=not trial)
    report.text(HOW.format(cpu=options.cpu))
    rows: list[tuple[str, ...]] = []
    missed: list[str] = []
    for one in CASES:
        if (options.only and one.name not in options.only) or (options.quick and one.writers > 64):
            continue
        case = dataclasses.replace(one, seconds=options.seconds) if options.seconds else one
        seeds = range(1, 1 + (1 if options.quick else case.seeds)) if options.seed is None else (options.seed,)
        for seed in seeds:
            with shared_parsing():
                measured = Scale(case, options.cpu / 1000.0, seed).run()
            rows.append(cells(case, seed, measured))
            print(markdown_table(HEADINGS, rows[-1:]).splitlines()[-1], flush=True)
            print(
                f"{case.name}: {measured.cpu_seconds:.0f} s of CPU", *measured.failures[:3], sep="\n", file=sys.stderr
            )
            if measured.missed(case):
                missed.append(f"{case.name}, seed {seed}")
    report.table(HEADINGS, rows)
    report.text(
        f"Missed: {'; '.join(missed)}." if missed else "Nothing that is asked for was missed, and nothing failed."
    )
    report.text(ADVICE)
    return 1 if missed else 0


if __name__ == "__main__":
    raise SystemExit(main())
