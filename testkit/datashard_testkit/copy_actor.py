"""Somebody who copies the folder of a table, and processes that go on in the original and in the copy at once.

The copy has the uuid of the original, its history and its append ids, and another place: see ``docs/copies.md``. Here
it is a scenario of its own, in a store of its own, with writers that use the ids of the original's writers once more.
What the commit code remembers in a process is shared by both, for a simulation runs in one; and some processes hold
both tables open, and let their threads share commits.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from datashard_core.commit.append.outcome import Result
from datashard_core.commit.append.protocol import append
from datashard_core.commit.append_ids.segment import PREFIX as IDS
from datashard_core.commit.core.state import Append, TableState, Target
from datashard_core.commit.core.version_file import HINT_KEY, version_key
from datashard_core.commit.staging.key import PREFIX as STAGED
from datashard_core.commit.staging.key import parse_listed
from datashard_core.effects.requests import Get, Instant, Now, Put, Sleep
from datashard_core.effects.tasks import outcomes_of
from datashard_core.errors import DataShardError
from datashard_core.format.rows.digest import id_digest
from datashard_core.storage.base import ObjectNotFoundError
from datashard_core.table import shared
from datashard_testkit.history import Archive, Copied, History
from datashard_testkit.model_store import ModelStore

if TYPE_CHECKING:
    from datashard_testkit.scenario import Scenario

PLACE = "s3://simulated/copy"
AT_ONCE = 8
"""Objects that are copied side by side."""

THREADS = 3
"""Threads for each of the two tables in a process that holds both."""

TURNS = 3


def start_copiers(scenario: Scenario) -> None:
    """Start those whom the mix asks for; a table that is dropped meanwhile has no rows to compare with."""
    for number in range(0 if scenario.mix.drops else scenario.mix.copiers):
        scenario.launch(_copier(scenario, number), f"copier {number}")


async def _copier(scenario: Scenario, number: int) -> None:
    """Copies the folder, and starts writers there; beside writers in the order that the documentation says."""
    choices = random.Random(scenario.choices.random())
    await Sleep(choices.uniform(0.3, 4.0))
    mix, store = scenario.mix, None
    # Files stay for a while after nothing names them. Where upkeep makes it shorter than a copy takes, nobody writes.
    if not mix.keepers and choices.random() < 0.7:
        began: Instant = await Now()
        store = await _copied_in_order(scenario)
        ended: Instant = await Now()
        if ended.monotonic - began.monotonic > mix.age:
            return  # it took longer than the day that such files stay, so it is not to be used
        scenario.counts["folder copied beside writers"] += 1
    else:
        store = _copied_at_once(scenario)
        scenario.counts["folder copied at one instant"] += 1
    _go_on(scenario, store, number, choices)


# The copy ------------------------------------------------------------------------------------


def _is_version(key: str) -> bool:
    return key.startswith("metadata/v") and key.endswith(".metadata.json")


STEPS: tuple[Callable[[str], bool], ...] = (
    lambda key: key.startswith(IDS),
    lambda key: key == HINT_KEY,
    _is_version,
    lambda key: not (key.startswith("_datashard/") or key == HINT_KEY or _is_version(key)),
)
"""The order of ``docs/copies.md``."""


async def _copied_in_order(scenario: Scenario) -> ModelStore:
    """An object after the other, while others write; a listing shows what is there at its moment."""
    source, copy = scenario.store, ModelStore()
    for belongs in STEPS:
        keys = [key for key in source.objects if belongs(key)]
        for start in range(0, len(keys), AT_ONCE):
            left = keys[start : start + AT_ONCE]
            while left:
                outcomes = await outcomes_of([Get(key) for key in left])
                for key, outcome in zip(left, outcomes, strict=True):
                    if not isinstance(outcome, DataShardError):
                        copy.perform(Put(key, outcome.body), scenario.simulation.store_now)
                gone = (ObjectNotFoundError,)  # removed since it was listed, so that no version names it
                again = [isinstance(one, DataShardError) and not isinstance(one, gone) for one in outcomes]
                left = [key for key, failed in zip(left, again, strict=True) if failed]
                if left:
                    await Sleep(0.2)
    return copy


def _copied_at_once(scenario: Scenario) -> ModelStore:
    """While nobody writes, or as a snapshot of a disk: everything, with what is staged if all of that is good."""
    mix, copy = scenario.mix, ModelStore()
    crafted = mix.crafters or mix.newcomers or mix.spoilers or mix.faults.spoilt
    for key, held in scenario.store.objects.items():
        if not (key.startswith(STAGED) and (crafted or mix.retention or mix.keepers)):
            copy.perform(Put(key, held.body), scenario.simulation.store_now)
    return copy


# Both go on ----------------------------------------------------------------------------------


def _go_on(scenario: Scenario, store: ModelStore, number: int, choices: random.Random) -> None:
    """Let writers append to the copy, and threads of one process to both."""
    copy = _copy_of(scenario, store)
    scenario.copies.append(copy)
    copy.launch(_begin(scenario, copy, number, choices), "opener of the copy")


async def _begin(scenario: Scenario, copy: Scenario, number: int, choices: random.Random) -> None:
    copy.seen = await copy.loaded()
    copy.start()
    for turn in range(2):
        process, line = scenario.process(f"process {turn} with both, {number}"), SharedCommits()
        for one in (scenario, copy):
            for thread in range(THREADS):
                name = f"{one.own_ids}thread {number}/{turn}/{thread}"
                steps = _thread(one, line, name, random.Random(choices.random()))
                one.launch(steps, name, process=process)


def _copy_of(original: Scenario, store: ModelStore) -> Scenario:
    """The copy as a table of its own. What the judge knows of the past, it knows of both."""
    newest = max(number for number in range(len(store.objects)) if version_key(number) in store.objects)
    known = {key: body for key, body in original.store.kept.items() if not _is_version(key)}
    versions = [version_key(number) for number in range(newest + 1)]
    store.kept = {**known, **{key: original.store.kept[key] for key in versions}}
    mix = original.mix
    own = replace(
        mix, writers=min(2, mix.writers), keepers=min(1, mix.keepers), readers=min(1, mix.readers), foreign=0,
        losers_of_nodes=0, spoilers=0, schema_changers=0, deleters=0, namers=0, crafters=0, newcomers=0, copiers=0,
    )  # fmt: skip

    copy = type(original)(original.simulation, own, Copied(PLACE, store, original.seen))
    copy.counts, copy.latencies, copy.calm_at = original.counts, original.latencies, original.calm_at
    copy.deletes, copy.doubles = dict(original.deletes), dict(original.doubles)
    history = History(store, Archive(store), copy.deletes, copy.doubles)
    copy.errors += history.violations  # every file that the newest version names was copied
    copy.inherited = history.appended(history.eras[-1])
    uuid = copy.seen.body.table.table_uuid
    staged = {name.id for name in parse_listed([held.info for held in store.objects.values()])}
    for tag, told in list(original.told[uuid].items()):
        if id_digest(f"id of {tag}") in staged:
            copy.told[uuid][tag].deferred += told.deferred
            copy.told[uuid][tag].unknown += 1
    return copy


# A process that holds both -------------------------------------------------------------------


@dataclass(slots=True)
class _Line:
    waiting: list[Append] = field(default_factory=list)
    results: dict[str, Result] = field(default_factory=dict)
    led: bool = False


class SharedCommits:
    """Commits that the threads of one simulated process share: the idea of :mod:`datashard_core.table.shared`,
    without threads, and by the same key."""

    def __init__(self) -> None:
        self._lines: dict[object, _Line] = {}

    async def append(
        self, items: Sequence[Append], target: Target, seen: TableState | None, timeout: float
    ) -> tuple[dict[str, Result], TableState | None]:
        """Commit appends together with those that other threads have queued by then."""
        line = self._lines.setdefault(shared.shared_by(target.root, target.uuid), _Line())
        line.waiting += items
        own = {item.id for item in items}
        while line.led:
            await Sleep(0.01)
        known: TableState | None = None
        group, line.waiting = line.waiting, []
        if group:
            line.led = True
            try:
                results, known = await append(group, target, seen, timeout)
                line.results.update(results)
            finally:
                line.led = False
        return {id_: line.results.pop(id_) for id_ in own}, known


async def _thread(scenario: Scenario, line: SharedCommits, name: str, choices: random.Random) -> None:
    """A thread that appends to one of the tables."""
    seen = await scenario.loaded()
    for turn in range(TURNS):
        await Sleep(choices.expovariate(5.0))
        scenario.counts["append of a process that holds both"] += 1
        seen = await scenario.append_tags([f"{name}/{turn}"], choices.random() < 0.5, False, seen, choices, line.append)
