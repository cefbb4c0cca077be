"""The real commit code over a model of S3 in virtual time, with everything that can go wrong going wrong.

DATASHARD_SIMULATION_SEEDS says how many seeds run (100 if it does not). Many more are run by
``python -m datashard_testkit.simulate --seeds 50000 --state FILE``.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections import Counter
from dataclasses import replace
from pathlib import Path
from unittest import mock

import pytest
from datashard_testkit.faults import Faults
from datashard_testkit.mutants import MUTANTS, Mutant
from datashard_testkit.mutants_of_copies import COPIED, COPY_MUTANTS
from datashard_testkit.mutants_of_id_retention import FORGETFUL, ID_RETENTION_MUTANTS
from datashard_testkit.mutants_of_row_accounting import ROW_ACCOUNTING_MUTANTS
from datashard_testkit.mutants_of_staging import STAGED_MUTANTS
from datashard_testkit.mutants_of_upkeep import UPKEEP_MUTANTS
from datashard_testkit.scenario import run_seed
from datashard_testkit.workloads import Mix, mix_for

from datashard_core.commit.core import chain, current_version
from datashard_core.commit.core.recorded_ids import MAX_PROPERTY_BYTES

SEEDS = int(os.environ.get("DATASHARD_SIMULATION_SEEDS", "100"))

PLAIN = Mix(
    handed_in=0, twins=0, deferred=0, large=0, grouped=0, flushes=0, fresh=0, foreign=0, readers=0, faults=Faults()
)
"""Writers that append and do nothing else, and nothing goes wrong."""

FAILED_ONCE: tuple[int, ...] = (67, 71, 166, 170, 172, 224, 248, 3499, 5090, 11558, 24418)
"""Seeds that once showed a violation: of the protocol, or of the harness itself."""

DROPPED_ONCE = (63, 135, 187, 746, 747)
"""Seeds that once failed when the table is dropped and made again while writers wait.

63 and 135 did not end: the harness had nobody who made the table again. In the others a waiter was
carried by the last versions of the old table, slept through its end, and learnt only that the table
is another one: that is told as the end of the table, and says nothing of the append.
"""


def test_no_seed_violates_an_invariant_and_nothing_is_left_out(tmp_path: Path) -> None:
    """By the command that runs many seeds, on every core; it is stopped half way and goes on where it was."""
    state = tmp_path / "state.json"
    for seeds in (SEEDS // 4, SEEDS):
        command = [sys.executable, "-m", "datashard_testkit.simulate", f"--seeds={seeds}", f"--state={state}"]
        ended = subprocess.run(command, capture_output=True, text=True, check=False)
        assert ended.returncode == 0, ended.stdout + ended.stderr
    held = json.loads(state.read_text())
    assert (held["done"], held["failed"]) == (SEEDS, [])
    assert held["acknowledged"] > SEEDS
    assert SEEDS < 1000 or "never: " not in ended.stdout, (
        "a mix that never does what it is meant to do proves nothing of it"
    )
    assert f"{SEEDS} seeds, {held['acknowledged']} acknowledged" in ended.stdout


@pytest.mark.thorough
@pytest.mark.parametrize("seed", FAILED_ONCE)
def test_a_seed_that_failed_once_stays_mended(seed: int) -> None:
    # Smaller properties and copies came to the mixes later, and would make other runs of these.
    assert run_seed(seed, replace(mix_for(seed), room=MAX_PROPERTY_BYTES, copiers=0)).violations == []


@pytest.mark.thorough
@pytest.mark.parametrize("seed", DROPPED_ONCE)
def test_a_table_is_dropped_and_made_again_while_writers_wait(seed: int) -> None:
    report = run_seed(seed, replace(mix_for(seed), drops=1))
    assert report.violations == []
    assert report.versions > 2


@pytest.mark.parametrize("seed", (6, 8, 22))
def test_a_table_made_again_begins_there_whatever_other_engines_drop(seed: int) -> None:
    """Ids of the earlier table come again, and another engine dropped the number that says where this one begins."""
    mix = Mix(drops=1, foreign=3, foreign_commits=8, keep_property=0, handed_in=1, twins=0.9, block=2, writers=5)
    report = run_seed(seed, replace(mix, think=0.5, large=0, grouped=0))
    assert report.violations == []
    assert report.versions > 20


@pytest.mark.parametrize("seed", (4, 22))
def test_a_flush_shows_what_it_waited_for(seed: int) -> None:
    """Others carry what it listed, and delete it, while it sleeps: it returns a version that has it."""
    faults = Faults(suspend=0.1, suspend_seconds=3.0)
    mix = Mix(writers=6, think=0.3, handed_in=0, twins=0.3, deferred=0.7, readers=8, foreign=0, faults=faults)
    report = run_seed(seed, mix)
    assert report.violations == []
    assert report.counts["flush"] > 0


def test_an_id_is_appended_again_once_it_is_forgotten_and_never_before() -> None:
    """The judge lets an id come again only after the retention, by the times of the versions."""
    report = run_seed(1, FORGETFUL)
    assert report.violations == []
    assert report.counts["appended again, being forgotten"] > 0
    assert report.counts["id node removed"] > 0
    remembered = run_seed(1, replace(FORGETFUL, retention=3600.0))
    assert remembered.violations == []
    assert remembered.counts["appended again, being forgotten"] == 0


@pytest.mark.parametrize("keepers", (0, 1), ids=("copied beside writers", "copied at one instant"))
def test_a_table_and_its_copy_go_on_apart(keepers: int) -> None:
    """The copy has what the original had, each has its own appends from then on, and processes hold both."""
    counts: Counter[str] = Counter()
    for seed in range(4):
        report = run_seed(seed, replace(COPIED, keepers=keepers))
        assert report.violations == []
        counts += report.counts
    assert counts["folder copied at one instant" if keepers else "folder copied beside writers"] > 0
    assert counts["append to a copy"] > 40
    assert counts["append of a process that holds both"] > 40
    assert counts["found to be appended already"] > 0


@pytest.mark.parametrize("seed", (7, 9))
def test_a_seed_replays_exactly(seed: int) -> None:
    mix = replace(mix_for(seed), copiers=seed == 9)
    first, second = (run_seed(seed, mix) for _ in range(2))
    assert (first.latencies, first.requests, first.ended_at) == (second.latencies, second.requests, second.ended_at)
    assert first.versions == second.versions > 1


@pytest.mark.thorough
@pytest.mark.parametrize(
    "mutant",
    (*MUTANTS, *UPKEEP_MUTANTS, *ID_RETENTION_MUTANTS, *ROW_ACCOUNTING_MUTANTS, *STAGED_MUTANTS, *COPY_MUTANTS),
    ids=lambda mutant: mutant.rule,
)
def test_the_harness_notices_the_absence_of_a_rule(mutant: Mutant) -> None:
    with mutant.off():
        noticed = next((seed for seed in range(24) if _violates(seed, mutant.mix)), None)
    assert noticed is not None, f"with {mutant.rule!r} switched off, no seed showed a violation"
    assert not _violates(noticed, mutant.mix), "the same seed is clean with the rule"


def _violates(seed: int, mix: Mix) -> bool:
    return bool(run_seed(seed, mix).violations)


UNSAFE = replace(PLAIN, writers=4, appends=8, think=0.3, handed_in=0.3, fresh=0.2, faults=Faults(check_then_write=1.0))
"""A store that checks a condition first and writes later, which the trial at creation did not catch."""


def _run_unsafe(seed: int) -> tuple[int, int, int]:
    """Versions that two writers were told to have created, violations, and how often the chain was found broken."""
    with mock.patch.object(chain, "broken", wraps=chain.broken) as noticed:
        report = run_seed(seed, UNSAFE)
    return report.counts["created twice"], len(report.violations), noticed.call_count


def test_commits_that_a_store_lost_are_noticed() -> None:
    """Every run in which two writers created one version ends with errors that say so, and no other run does."""
    runs = [_run_unsafe(seed) for seed in range(24)]
    assert sum(twice > 0 for twice, _, _ in runs) >= 8
    for twice, violations, noticed in runs:
        assert (twice > 0) == (violations > 0) == (noticed > 0)


def test_the_harness_notices_that_the_chain_is_not_looked_at() -> None:
    """With the rule off, rows are lost and every append was reported as a success."""
    with (
        mock.patch.object(chain, "is_broken", lambda *_: False),
        mock.patch.object(current_version, "check_own", lambda *_: None),
    ):
        runs = [_run_unsafe(seed) for seed in range(8)]
    assert any(violations for _, violations, _ in runs)
    assert not any(noticed for _, _, noticed in runs)


def test_a_lone_writer_costs_what_it_should() -> None:
    """At most 6.2 requests that cost money an append, and 4 sequential round trips when warm."""
    mix = replace(PLAIN, writers=1, appends=60, think=1.0)
    report = run_seed(3, mix)
    paid = sum(report.requests[kind] for kind in ("Put", "PutData", "PutIfAbsent", "Replace", "ListPage"))
    assert paid / 60 <= 6.3  # creation and the closing flush included
    assert sorted(report.latencies)[30] < 0.45


@pytest.mark.parametrize(("writers", "at_least", "p99"), [(8, 10.0, 2.0), (32, 28.0, 2.5)])
def test_writers_that_race_are_carried(writers: int, at_least: float, p99: float) -> None:
    mix = replace(PLAIN, writers=writers, appends=12, think=0)
    report = run_seed(5, mix)
    assert report.violations == []
    ordered = sorted(report.latencies)
    assert len(ordered) == writers * 12
    assert ordered[int(0.99 * len(ordered))] < p99
    assert len(ordered) / report.ended_at > at_least * 0.5  # the start and the end of so short a run count in
