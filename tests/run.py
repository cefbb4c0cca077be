"""The test command: ``python3 tests/run.py [suite ...] [pytest options]``.

Without arguments it runs the suites core, airflow, prefect and interop, each in its own environment,
which it makes first where it is missing; they run side by side, and each one's output is printed when it
is over. It says for each suite how many tests ran, and what was left out. The end is a line such as
``412 passed, 0 failed``; the exit code is 0 only if everything passed.

With DATASHARD_REQUIRE_ALL=1 whatever could not run counts as a failure, and the suite of real stores, which
needs Go, runs with the others; with DATASHARD_THOROUGH=1 more examples and every place of a fault are tried,
and the code is checked, too.
"""

from __future__ import annotations

import os
import re
import sys
import tempfile
import time
import xml.etree.ElementTree as ElementTree
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "tools"))

import environments  # noqa: E402
from installers import interruptible  # noqa: E402
from side_by_side import Console, Job, run_jobs  # noqa: E402

THOROUGH = os.environ.get("DATASHARD_THOROUGH", "") not in ("", "0")
CHOSEN = "not system" if THOROUGH else "not system and not thorough"
AT_ONCE = 3
"""Suites that run side by side at least: those of the orchestrators wait a good part of the time."""
KEPT = (
    "DATASHARD_REQUIRE_ALL",
    "DATASHARD_SIMULATION_SEEDS",
    "DATASHARD_FUZZ_SECONDS",
    "DATASHARD_FUZZ_SEED",
    "DATASHARD_THOROUGH",
    "DATASHARD_MINIO",
    "DATASHARD_VERSITYGW",
)
"""Variables that say how much is tested; all others that begin so would change what is."""
BACKENDS = ("memory", "local", "s3", "obstore")


@dataclass(frozen=True)
class Suite:
    """Tests that run together.

    Attributes:
        name: how it is called on the command line.
        environment: the environment that it runs in.
        folders: where its tests are, below ``tests``.
        backends: the kinds of storage that its tests must have run on.
        options: its own pytest options.
    """

    name: str
    environment: str
    folders: tuple[str, ...]
    backends: tuple[str, ...] = ()
    options: tuple[str, ...] = ("-m", CHOSEN)


SUITES = (
    Suite(
        "core",
        "core",
        ("core", "simulation"),
        backends=BACKENDS,
        options=("-m", CHOSEN, "-n", "2", "--dist", "worksteal"),  # as many tests as all others together
    ),
    Suite("airflow", "airflow", ("airflow_provider",)),
    Suite(
        "prefect",
        "prefect",
        ("prefect_integration",),
        options=("-m", CHOSEN, "-o", "asyncio_mode=auto"),
    ),
    Suite("interop", "interop", ("interop",), backends=("local", "s3")),
)
SYSTEM = Suite("system", "core", ("system", "core"), options=("-m", "system"))
STORES = Suite("stores", "core", ("system",), options=("-m", "stores"))  # a part of it
STATIC = "static"


@dataclass
class Outcome:
    """What became of one suite."""

    name: str
    passed: int = 0
    failed: int = 0
    skipped: list[str] = field(default_factory=list)
    backends: dict[str, int] = field(default_factory=dict)
    faults: list[str] = field(default_factory=list)
    seconds: float = 0.0

    @property
    def line(self) -> str:
        text = f"{self.passed} passed, {self.failed} failed"
        if self.skipped:
            text += f", {len(self.skipped)} skipped"
        if self.backends:
            text += "; storage: " + ", ".join(f"{name} {n}" for name, n in self.backends.items())
        return f"{self.name:<8} {text}  ({self.seconds:.0f} s)"


def main(arguments: Sequence[str]) -> int:
    known = {suite.name: suite for suite in (*SUITES, STORES, SYSTEM)}
    names = []
    rest = list(arguments)
    while rest and (rest[0] in known or rest[0] == STATIC):
        names.append(rest.pop(0))
    if rest and not rest[0].startswith("-"):
        print(f"No suite is called {rest[0]!r}; there are {STATIC}, {', '.join(known)}.")
        return 2
    whole = not names and not rest
    more = [STATIC] * THOROUGH + [STORES.name] * required()
    chosen = names or [*more, *(suite.name for suite in SUITES)]
    needed = {known[name].environment for name in chosen if name != STATIC}
    try:
        environments.prepare(sorted(needed | ({"core", "airflow", "prefect"} if STATIC in chosen else set())))
    except environments.InstallError as error:
        print(error)
        return 1
    except KeyboardInterrupt:
        print("Stopped.")
        return 130
    jobs = [
        Job(name, check_code if name == STATIC else partial(run_suite, known[name], rest))
        for name in sorted(chosen, key=lambda name: name in (STATIC, STORES.name))  # the longest first
    ]
    outcomes: list[Outcome] = []
    try:
        with interruptible():
            for outcome in run_jobs(jobs, at_once=max(AT_ONCE, os.cpu_count() or 1)):
                outcomes.append(outcome)
    except KeyboardInterrupt:
        report(outcomes, whole=False)
        over = {outcome.name for outcome in outcomes}
        print(f"Stopped: {', '.join(name for name in chosen if name not in over)} did not run to the end.")
        return 130
    return report(sorted(outcomes, key=lambda outcome: chosen.index(outcome.name)), whole)


def run_suite(suite: Suite, options: Sequence[str], console: Console) -> Outcome:
    """Run one suite in its environment and count what it did."""
    folders = [
        str(path) for path in (ROOT / "tests" / name for name in suite.folders) if any(path.glob("**/test_*.py"))
    ]
    outcome = Outcome(suite.name)
    if not folders:
        outcome.faults.append(f"{suite.name}: there are no tests in tests/{' or tests/'.join(suite.folders)}")
        return outcome
    console.print(banner(f"{suite.name} (environment {suite.environment})"))
    started = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="datashard-tests-") as folder:
        results = Path(folder) / "results.xml"
        python = str(environments.ENVIRONMENTS[suite.environment].python)
        # -P: `python -m` would put the checkout on sys.path, and what no wheel carries could be imported.
        command = [python, "-P", "-m", "pytest", "-q", "-rs", "--durations=5", f"--junitxml={results}"]
        code = console.run([*command, *suite.options, *options, *folders], ROOT, clean_environment())
        if results.exists():
            count(results, outcome)
    outcome.seconds = time.monotonic() - started
    judge(suite, outcome, code, chosen_part=bool(options))
    return outcome


def clean_environment() -> dict[str, str]:
    """The environment without what would decide which bucket the tests use."""
    kept = {
        name: value
        for name, value in os.environ.items()
        if name in KEPT or not name.startswith(("AWS_", "DATASHARD_", "AIRFLOW_", "PREFECT_", "PYTHON", "VIRTUAL_ENV"))
    }
    return {**kept, "AWS_EC2_METADATA_DISABLED": "true", "DO_NOT_TRACK": "1"}


def count(results: Path, outcome: Outcome) -> None:
    """Read pytest's own account of the run."""
    for case in ElementTree.parse(results).iter("testcase"):
        name = f"{case.get('classname')}::{case.get('name')}"
        skipped = case.find("skipped")
        if skipped is not None:
            outcome.skipped.append(f"{name}: {skipped.get('message')}")
            continue
        if case.find("failure") is not None or case.find("error") is not None:
            outcome.failed += 1
        else:
            outcome.passed += 1
        for backend in BACKENDS:
            if re.search(rf"[\[\-_]{backend}[\]\-_]", name.partition("[")[1] + name.partition("[")[2]):
                outcome.backends[backend] = outcome.backends.get(backend, 0) + 1


def judge(suite: Suite, outcome: Outcome, code: int, chosen_part: bool) -> None:
    """Add the faults that pytest's exit code does not show."""
    if code not in (0, 5) and not outcome.failed:
        outcome.faults.append(f"{suite.name}: pytest ended with exit code {code}")
    if not outcome.passed and not outcome.failed:
        outcome.faults.append(f"{suite.name}: no test ran")
    if chosen_part:
        return
    for backend in suite.backends:
        if not outcome.backends.get(backend):
            outcome.faults.append(f"{suite.name}: no test ran on {backend} storage")
    if required() and outcome.skipped:
        outcome.faults += [f"{suite.name}: skipped, and everything is required: {name}" for name in outcome.skipped]


def required() -> bool:
    return os.environ.get("DATASHARD_REQUIRE_ALL", "") not in ("", "0")


def check_code(console: Console) -> Outcome:
    """Format, lint, types and layers."""
    console.print(banner("static checks"))
    outcome = Outcome(STATIC)
    started = time.monotonic()
    tools = environments.ENVIRONMENTS["core"].folder / "bin"
    mypy = [str(tools / "mypy"), "--strict"]
    tools_and_demo = ["tools/environments.py", "tools/installers.py", "tools/side_by_side.py", "tests/run.py"]
    tools_and_demo += ["demo/run.py", "demo/main_job", "demo/read_with_pyiceberg.py"]
    hosts = {
        "airflow": ["providers/airflow/airflow_provider_datashard", "example_dags/dags"],
        "prefect": [
            "providers/prefect/prefect_datashard",
            "example_dags/flows",
            "demo/save_block.py",
            "demo/run_flow.py",
        ],
    }
    checks = {
        "ruff format": [str(tools / "ruff"), "format", "--check", "."],
        "ruff check": [str(tools / "ruff"), "check", "."],
        "import-linter": [str(tools / "lint-imports"), "--no-cache"],
        "mypy datashard_core": [*mypy, "datashard_core", "testkit/datashard_testkit"],
        "mypy example_dags": [*mypy, "example_dags/flights.py", "example_dags/tries.py"],
        "mypy tools and demo": [*mypy, *tools_and_demo],
    }
    for host, sources in hosts.items():
        environment = environments.ENVIRONMENTS[host]
        python = ["--python-executable", str(environment.python), "--cache-dir", f".mypy_cache/{host}"]
        python += ["--follow-imports", "silent"]  # the core is checked where its packages have types
        checks[f"mypy {' '.join(sources)}"] = [
            str(environment.folder / "bin" / "mypy"),
            "--strict",
            *python,
            *sources,
        ]
    for name, command in checks.items():
        code, printed = console.read(command, ROOT, clean_environment())
        console.print(f"{'FAIL' if code else 'ok  '} {name}")
        if code:
            outcome.failed += 1
            console.print(printed.strip())
        else:
            outcome.passed += 1
    outcome.seconds = time.monotonic() - started
    return outcome


def report(outcomes: Sequence[Outcome], whole: bool) -> int:
    """Say what ran, what did not, and the sum; return the exit code."""
    print(banner("summary"))
    for outcome in outcomes:
        print(outcome.line)
    for outcome in outcomes:
        for name in outcome.skipped:
            print(f"Skipped: {outcome.name}: {name}")
    if whole:
        marked = set(files_with("system"))
        if required():
            marked -= set(files_with("stores"))
        left_out = [f"the tier system ({len(marked)} files hold tests of it; on demand: python3 tests/run.py system)"]
        if not THOROUGH:
            left_out += [
                f"format, lint, types and layers (on demand: python3 tests/run.py {STATIC})",
                f"what is marked thorough in {len(files_with('thorough'))} files, and a part of what is much alike "
                "(all of it: DATASHARD_THOROUGH=1)",
            ]
        print(f"Left out: {'; '.join(left_out)}")
    faults = [fault for outcome in outcomes for fault in outcome.faults]
    for fault in faults:
        print(f"Fault: {fault}")
    passed = sum(outcome.passed for outcome in outcomes)
    failed = sum(outcome.failed for outcome in outcomes) + len(faults)
    skipped = sum(len(outcome.skipped) for outcome in outcomes)
    print(f"{passed} passed, {failed} failed" + (f", {skipped} skipped" if skipped else ""), flush=True)
    return 1 if failed or not passed else 0


def files_with(marker: str) -> list[Path]:
    """The files that hold tests of a marker."""
    return [path for path in (ROOT / "tests").rglob("test_*.py") if f"pytest.mark.{marker}" in path.read_text()]


def banner(text: str) -> str:
    return f"\n== {text} " + "=" * max(0, 76 - len(text))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
