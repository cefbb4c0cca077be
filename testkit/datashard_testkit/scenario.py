"""Scenarios for the simulation: writers, twins, foreign engines and readers on one table, and a judge.

Every run ends with a calm period and a flush; then the whole history is read and held against what
the writers were told. The invariants are those of ``docs/design/commit-protocol.md``.
"""

from __future__ import annotations

import random
from collections import Counter, defaultdict
from collections.abc import Callable, Coroutine, Sequence
from functools import partial
from typing import Any

from msgspec.structs import replace

from datashard_core.commit.append.deferred import Deferred, commit_backlog, defer, flush
from datashard_core.commit.append.outcome import Result
from datashard_core.commit.append.protocol import append
from datashard_core.commit.core.current_version import Found, find_current, find_hinted
from datashard_core.commit.core.state import Append, Committed, TableState, Target
from datashard_core.commit.staging import set_aside
from datashard_core.commit.versions.lifecycle import Created, create
from datashard_core.effects.requests import Now, Sleep
from datashard_core.errors import (
    AppendIdConflictError,
    AppendRefusedError,
    CommitStateUnknownError,
    CorruptTableError,
    DataShardError,
    NoSuchTableError,
)
from datashard_core.format.rows.digest import id_digest
from datashard_testkit.actors import start_others
from datashard_testkit.appends import Written, encode_large, item_of, write_large
from datashard_testkit.checker import classify
from datashard_testkit.faults import Faults, Latency
from datashard_testkit.history import ROOT, Archive, Copied
from datashard_testkit.readers import missing, reader, rows_of, sure
from datashard_testkit.report import Report, Told
from datashard_testkit.simulation import Crashed, Process, Simulation
from datashard_testkit.staged_actors import is_of_crafted
from datashard_testkit.workloads import Mix, scaled_to

Commit = Callable[
    [Sequence[Append], Target, TableState | None, float],
    Coroutine[Any, Any, tuple[dict[str, Result], TableState | None]],
]
"""How appends are committed: :func:`append`, or together with those of other threads."""

CALM = 3600.0
PATIENT = 30.0
"""Seconds that an append may take when nothing fails."""


class Scenario:
    """One table in one simulation, with the record of what everybody was told."""

    def __init__(self, simulation: Simulation, mix: Mix, copied: Copied | None = None) -> None:
        self.simulation = simulation
        self.mix = mix
        self.root = ROOT if copied is None else copied.root
        self.store = simulation.store if copied is None else copied.store
        self.own_ids = "" if copied is None else "copy "  # what ids begin with that the library makes
        self.told: defaultdict[str, defaultdict[str, Told]] = defaultdict(lambda: defaultdict(Told))
        self.latencies: list[float] = []
        self.errors: list[str] = []
        self.counts: Counter[str] = Counter()
        self.under_way: dict[str, tuple[str, ...]] = {}
        self.choices = random.Random(simulation.seed * 7919 + 1)
        self.processes: list[Process] = []
        self.foreign_tags: list[tuple[str, str]] = []
        self.deletes: dict[int, str] = {}
        self.doubles: dict[int, list[str]] = {}
        self.crafted: dict[str, str] = {}
        self.calm_at = 0.0
        self.copies: list[Scenario] = []
        self.inherited: Counter[str] = Counter()
        self.archive = Archive(self.store)
        self.seen: TableState = self._created() if copied is None else copied.seen
        self.target = self.target_of(self.seen)
        # Whether an id may be refused: a damaged copy alone does nothing, for the good body counts.
        hidden = mix.faults.stale_list or mix.drops
        self.spoils = bool(mix.faults.spoilt or (mix.spoilers and hidden))

    def _created(self) -> TableState:
        faults, self.simulation.faults = self.simulation.faults, Faults()
        made: Created = self._at_once(create(self.root, "t", self.mix.first, 60.0))
        self.simulation.faults = faults
        return made.state

    def target_of(self, seen: TableState) -> Target:
        return Target(self.root, "t", seen.body.table.table_uuid)

    def process(self, name: str) -> Process:
        process = self.simulation.process(name)
        self.processes.append(process)
        return process

    def _at_once(self, steps: Coroutine[Any, Any, Any]) -> Any:
        results: list[Any] = []
        self.simulation.start(steps, self.process("alone"), results.append, self.store)
        self.simulation.run()
        return results[0]

    # Actors ----------------------------------------------------------------------------------

    def start(self) -> None:
        """Start everybody."""
        mix = self.mix
        for number in range(mix.writers):
            name = f"writer {number}"
            self.launch(self._writer(number, name), name, again=partial(self._run_again, name))
        for number in range(mix.readers):
            self.launch(reader(self, number), f"reader {number}")
        start_others(self)

    def launch(
        self,
        steps: Coroutine[Any, Any, None],
        name: str,
        again: Callable[[], None] | None = None,
        process: Process | None = None,
    ) -> None:
        def ended(result: Any) -> None:
            if isinstance(result, Crashed):
                if again is not None:
                    again()
            elif isinstance(result, DataShardError):
                self.errors.append(f"{name} ended with {type(result).__name__}: {result}")

        self.simulation.start(steps, process or self.process(name), ended, self.store)

    async def _writer(self, number: int, name: str) -> None:
        mix, choices = self.mix, random.Random(self.choices.random())
        seen = self.seen
        for turn in range(mix.appends):
            await Sleep(choices.expovariate(1.0 / mix.think) if mix.think else 0.0)
            count = 3 if choices.random() < mix.grouped else 1
            tags = [f"{number}/{turn}" + (f"+{index}" if index else "") for index in range(count)]
            handed_in = choices.random() < mix.handed_in
            if not handed_in:
                tags = [f"{self.own_ids}{tag}" for tag in tags]
            fresh = choices.random() < mix.fresh
            if fresh:
                seen = await self.loaded()
            if handed_in and choices.random() < mix.twins:
                self.launch(self._twin(tags[:1], choices.expovariate(1.0 / mix.late)), f"twin of {tags[0]}")
            self.under_way[name] = tuple(tags) if handed_in else ()
            if choices.random() < mix.deferred:
                if fresh and not handed_in:
                    seen = await self.loaded(find_hinted)
                seen = await self._defer(tags[0], handed_in, seen, choices)
            else:
                large = choices.random() < mix.large
                seen = await self.append_tags(tags, handed_in, large, seen, choices)
            if choices.random() < mix.flushes:
                seen = await self._flush(seen)

    async def loaded(self, find: Callable[[str], Coroutine[Any, Any, Found | None]] = find_current) -> TableState:
        """Open the table as a new process does, patiently."""
        while True:
            try:
                found = await find(self.root)
            except DataShardError:
                found = None
            if found is not None and found.newest.state == "table":
                return TableState(found.newest, None, found.hint)
            await Sleep(1.0)

    def _run_again(self, name: str) -> None:
        """A process died: an orchestrator runs what it was about again, under the same ids."""
        tags = self.under_way.pop(name, ())
        if tags:
            self.counts["run again after a crash"] += 1
            other = f"{name}, again"
            self.under_way[other] = tags
            self.launch(self._twin(tags, 1.0), other, again=partial(self._run_again, other))

    async def _twin(self, tags: Sequence[str], delay: float) -> None:
        """The same appends run again by another process, as an orchestrator does."""
        await Sleep(delay)
        seen = await self.loaded()
        running = self.told[seen.body.table.table_uuid][tags[0]].running
        self.counts["run by another process while the first lives"] += bool(running)
        await self.append_tags(tags, True, False, seen, random.Random(tags[0]))

    async def append_tags(
        self,
        tags: Sequence[str],
        handed_in: bool,
        large: bool,
        seen: TableState,
        choices: random.Random,
        commit: Commit = append,
    ) -> TableState:
        target = self.target_of(seen)
        bases: dict[str, int | None] = dict.fromkeys(tags, None if handed_in else seen.body.version)
        told = {tag: self.told[target.uuid][tag] for tag in tags}
        written: dict[str, Written] = {}
        for tag in tags:
            told[tag].running += 1
            told[tag].handed_in |= handed_in
            if large:
                written[tag] = await encode_large(tag, seen)
                if choices.random() < 0.5:
                    written[tag] = await write_large(written[tag])
        begun = (await Now()).monotonic
        for turn in range(4):
            # Who asks again hands the id in, also one that the library had made.
            items = {tag: item_of(tag, handed_in or turn > 0, base, written.get(tag)) for tag, base in bases.items()}
            self.counts["file sent beside the first look"] += sum(bool(item.unsent) for item in items.values())
            self.counts["large append" if large else "direct append"] += len(items)
            self.counts["grouped append"] += len(items) > 1
            self.counts["append to a copy"] += len(items) * (self.root != ROOT)
            results, known = await commit(list(items.values()), target, seen, self.mix.give_up)
            seen = known or seen
            took = (await Now()).monotonic - begun
            for tag, item in items.items():
                again = self._note(told[tag], results[item.id], took, begun)
                bases.pop(tag)
                if again and choices.random() < 0.7:
                    self.counts["asked again with its base"] += 1
                    bases[tag] = results[item.id].base  # type: ignore[union-attr]
            if not bases:
                break
            written = {tag: replace(one, unsent=(), on=-1) for tag, one in written.items()}
            if choices.random() < 0.5:  # by another table object, which has seen what others have committed since
                await Sleep(choices.expovariate(1.0))
                newer = await self.loaded()
                seen = newer if newer.body.table.table_uuid == target.uuid else seen
        for tag in tags:
            told[tag].running -= 1
        return seen if seen.body.state == "table" else (await self.loaded())

    def _note(self, told: Told, result: Any, took: float, begun: float) -> bool:
        """Note what a caller was told; whether it may ask again."""
        calm = begun > self.calm_at > 0.0
        if isinstance(result, Committed):
            self.counts["found to be appended already"] += result.already_appended
            told.committed.append(result.version)
            self.latencies.append(took)
            if calm and took > PATIENT:
                self.errors.append(f"an append took {took:.0f} s though nothing failed")
            return False
        spoilt = self.spoils and isinstance(result, AppendRefusedError)
        # The file of a large append that slept may be removed as an orphan: then its owner is told so.
        collected = self.mix.keepers > 0 and "orphans were removed before it was committed" in str(result)
        if calm and not isinstance(result, NoSuchTableError) and not spoilt and not collected:
            self.errors.append(f"an append ended with {type(result).__name__} though nothing failed: {result}")
        if isinstance(result, CorruptTableError) and not (calm or collected or self.mix.losers_of_nodes):
            self.errors.append(f"an append found the table damaged: {result}")
        if isinstance(result, CommitStateUnknownError):
            if "are no longer kept" in str(result) and not self.mix.retention:
                self.errors.append(f"an append was told that it is forgotten, within the retention: {result}")
            told.unknown += 1
            self.counts["unknown, and said so"] += 1
            return True
        if isinstance(result, NoSuchTableError):
            told.gone += 1  # who slept through the end of the table cannot know how it ended in it
            return False
        if isinstance(result, AppendIdConflictError):
            self.errors.append(f"equal rows were taken for others: {result}")
        self.counts["refused, and said so"] += isinstance(result, AppendRefusedError)
        told.failed += 1
        return False

    async def _defer(self, tag: str, handed_in: bool, seen: TableState, choices: random.Random) -> TableState:
        target = self.target_of(seen)
        item = item_of(tag, handed_in, None if handed_in else seen.body.version)
        told = self.told[target.uuid][tag]
        told.running += 1
        told.handed_in |= handed_in
        try:
            result, seen = await defer(item, target, seen)
        except CommitStateUnknownError:
            told.unknown += 1
        except DataShardError:
            told.failed += 1
        else:
            if isinstance(result, Deferred):
                told.deferred += 1
                self.counts["deferred append"] += 1
                if result.commits or choices.random() < self.mix.backlogs:
                    seen = await self._commit_backlog(target, seen)
            elif isinstance(result, Committed):
                told.committed.append(result.version)
            else:
                told.failed += 1
        told.running -= 1
        return seen

    async def _commit_backlog(self, target: Target, seen: TableState) -> TableState:
        try:
            return await commit_backlog(target, seen, self.mix.give_up)
        except DataShardError:
            return seen  # what is staged stays staged

    async def _flush(self, seen: TableState) -> TableState:
        expected = sure(self, seen.body.table.table_uuid, deferred=True)
        try:
            known = await flush(self.target_of(seen), seen, self.mix.give_up)
        except DataShardError:
            return seen  # what is staged stays staged
        rows = rows_of(self, known)
        self.counts["flush"] += 1
        left_out = missing(self, expected, rows)
        self.errors += [f"append {tag} was staged before a flush that left it out" for tag in left_out]
        return known

    def may_come_again(self, told: Told) -> bool:
        """Whether an append may be in the table twice, its id having been forgotten in between."""
        return bool(self.mix.retention) and told.handed_in

    # The end ---------------------------------------------------------------------------------

    def finish(self, calm_at: float) -> Report:
        """Run to the end: faults until ``calm_at``, then calm, a flush, and the judge."""
        simulation = self.simulation
        simulation.calm_after(calm_at)
        self.calm_at = calm_at
        self.start()
        simulation.run()
        for process in [process for one in (self, *self.copies) for process in one.processes]:
            process.suspended_until = 0.0
        simulation.calm_after(0.0)
        report = Report(simulation.seed, latencies=self.latencies)
        for one in (self, *self.copies):
            one._end(report)
        report.counts = self.counts + simulation.counts
        return report

    def _end(self, report: Report) -> None:
        """What a table comes to, now that everybody is done with it."""
        self._run_again_long_after()
        report.ended_at = self.simulation.now
        ended = self._at_once(self._last_flush())
        for process in self.processes:
            report.requests.update(process.requests)
        if isinstance(ended, AppendRefusedError) and (self.spoils or self._were_collected(ended)):
            self.counts["flush that tells of a refusal"] += 1
        elif is_of_crafted(self, self.seen.body.table.table_uuid, ended):
            self.counts["flush that tells of what was crafted"] += 1
        elif isinstance(ended, CommitStateUnknownError) and self.mix.retention:
            self.counts["flush that tells of what is forgotten"] += 1
        elif isinstance(ended, DataShardError):
            self.errors.append(f"the last flush failed: {ended!r}")
        try:
            self.errors += classify(self, report)
        except DataShardError as error:
            self.errors.append(f"the history cannot be read whole: {error}")
        where = "" if self.root == ROOT else "in the copy: "
        report.violations += [f"{where}{error}" for error in self.errors]

    def _were_collected(self, refused: AppendRefusedError) -> bool:
        """Whether refusals are of appends whose files were removed before they were staged, and nobody was told else.

        The grace period of the simulated upkeep is seconds, so a large append that waits out a burst of 503,
        or whose staged body lands late, is one that slept for longer than an hour.
        """
        owners = self.told[self._at_once(find_current(self.root)).newest.table.table_uuid]
        promised = {id_digest(f"id of {tag}") for tag, told in owners.items() if told.committed or told.deferred}
        ours = "that the staged body describes is gone" in str(refused)
        return self.mix.keepers > 0 and ours and not any(own in str(refused) for own in promised)

    def _run_again_long_after(self) -> None:
        """An orchestrator's tasks are cleared and run again, under the same ids: nothing may be doubled."""
        self.calm_at = self.simulation.now
        found: Found | DataShardError = self._at_once(find_current(self.root))
        if isinstance(found, DataShardError) or found.newest.metadata is None:
            return  # what is wrong with it, the judge finds out
        told = self.told[found.newest.table.table_uuid]
        tags = sorted(tag for tag, one in told.items() if one.handed_in)
        for tag in self.choices.sample(tags, min(len(tags), self.mix.runs_again)):
            self.counts["run again long after"] += 1
            self.launch(self._twin([tag], 1.0 + self.choices.random()), f"{tag}, long after")
        self.simulation.run()

    async def _last_flush(self) -> TableState:
        made = await create(self.root, "t", self.mix.first, CALM)  # a dropper may have died half way
        return await flush(self.target_of(made.state), None, CALM)


def run_seed(
    seed: int, mix: Mix, *, latency: Latency | None = None, prepare: Callable[[Scenario], None] | None = None
) -> Report:
    """Run one scenario from one seed; the same seed and mix replay exactly."""
    simulation = Simulation(seed, latency=latency, faults=mix.faults)
    set_aside.forget()
    with scaled_to(mix):
        scenario = Scenario(simulation, mix)
        if prepare is not None:
            prepare(scenario)
        return scenario.finish(calm_at=simulation.now + 120.0)
