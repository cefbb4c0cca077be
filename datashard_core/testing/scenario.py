"""Scenarios for the simulation: writers, twins, foreign engines and readers on one table, and a judge.

Every run ends with a calm period and a flush; then the whole history is read and held against what
the writers were told. The invariants are those of ``docs/design/commit-protocol.md``.
"""

from __future__ import annotations

import random
from collections import Counter, defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from datashard_core.commit.deferred import Deferred, commit_backlog, defer, flush
from datashard_core.commit.lifecycle import create, drop, list_own, purge
from datashard_core.commit.names import LIBRARY_MADE
from datashard_core.commit.pointer import find_current
from datashard_core.commit.protocol import append
from datashard_core.commit.staged_read import read_with_staged
from datashard_core.commit.state import Append, Committed, Seen, Target
from datashard_core.commit.updates import first_version
from datashard_core.errors import AppendIdConflictError, CommitStateUnknownError, DataShardError, NoSuchTableError
from datashard_core.format.digest import id_digest, rows_digest
from datashard_core.format.parquet import encode_parquet
from datashard_core.format.schema import Schema
from datashard_core.storage.requests import Delete, ListPage, Now, PutData, Sleep, Steps, Unique, ask
from datashard_core.testing.foreign import foreign_commit
from datashard_core.testing.history import ROOT, Era, History, rows_of, tags_in
from datashard_core.testing.mixes import Mix, blocks_of
from datashard_core.testing.simulation import Crashed, Faults, Latency, Process, Simulation

SCHEMA = Schema(schema_id=0, fields=[{"id": 1, "name": "tag", "type": "string", "required": True}])
FIRST = partial(first_version, location=ROOT, schema=SCHEMA, properties={})
CALM = 3600.0
PATIENT = 30.0
"""Seconds that an append may take when nothing fails."""


@dataclass(slots=True)
class Told:
    """What callers were told of one append id."""

    committed: list[int] = field(default_factory=list)
    failed: int = 0
    gone: int = 0
    unknown: int = 0
    deferred: int = 0
    running: int = 0

    @property
    def surely_absent(self) -> bool:
        """Whether every call with this id was told that it failed, other than by the table's end."""
        return bool(self.failed) and not (self.committed or self.unknown or self.deferred or self.running or self.gone)


@dataclass(slots=True)
class Report:
    """How a run ended."""

    seed: int
    violations: list[str] = field(default_factory=list)
    acknowledged: int = 0
    versions: int = 0
    latencies: list[float] = field(default_factory=list)
    requests: Counter[str] = field(default_factory=Counter)
    ended_at: float = 0.0


class Scenario:
    """One table in one simulation, with the record of what everybody was told."""

    def __init__(self, simulation: Simulation, mix: Mix) -> None:
        self.simulation = simulation
        self.mix = mix
        self.told: defaultdict[str, defaultdict[str, Told]] = defaultdict(lambda: defaultdict(Told))
        self.latencies: list[float] = []
        self.errors: list[str] = []
        self.choices = random.Random(simulation.seed * 7919 + 1)
        self.processes: list[Process] = []
        self.foreign_tags: list[tuple[str, str]] = []
        self.calm_at = 0.0
        self._tags: dict[str, Counter[str]] = {}
        simulation_faults, simulation.faults = simulation.faults, Faults()
        self.seen: Seen = self._at_once(create(ROOT, "t", FIRST, 60.0)).seen
        simulation.faults = simulation_faults
        self.target = self._target_of(self.seen)

    @staticmethod
    def _target_of(seen: Seen) -> Target:
        return Target(ROOT, "t", seen.body.table.table_uuid)

    def _process(self, name: str) -> Process:
        process = self.simulation.process(name)
        self.processes.append(process)
        return process

    def _at_once(self, steps: Steps[Any]) -> Any:
        results: list[Any] = []
        self.simulation.start(steps, self._process("alone"), results.append)
        self.simulation.run()
        return results[0]

    # Actors ----------------------------------------------------------------------------------

    def start(self) -> None:
        """Start everybody."""
        mix = self.mix
        for number in range(mix.writers):
            self._launch(self._writer(number), f"writer {number}")
        for number in range(mix.foreign):
            self._launch(self._foreign(number), f"foreign {number}")
        for number in range(mix.readers):
            self._launch(self._reader(number), f"reader {number}")
        for number in range(mix.drops):
            self._drop(number)
        for number in range(mix.losers_of_nodes):
            self._launch(self._loser_of_nodes(), f"loser of nodes {number}")

    def _drop(self, number: int) -> None:
        """Start a dropper; if it dies half way another makes the table again, else everybody would wait for ever."""
        name = f"dropper {number}"
        self._launch(self._dropper(), name, again=lambda: self._make(name))

    def _make(self, name: str) -> None:
        """Start a process that makes the table if there is none, and another one if it dies."""
        self._launch(self._maker(), name, again=lambda: self._make(name))

    def _launch(self, steps: Steps[None], name: str, again: Callable[[], None] | None = None) -> None:
        def ended(result: Any) -> None:
            if isinstance(result, Crashed):
                if again is not None:
                    again()
            elif isinstance(result, DataShardError):
                self.errors.append(f"{name} ended with {type(result).__name__}: {result}")

        self.simulation.start(steps, self._process(name), ended)

    def _writer(self, number: int) -> Steps[None]:
        mix, choices = self.mix, random.Random(self.choices.random())
        seen = self.seen
        for turn in range(mix.appends):
            yield from ask(Sleep(choices.expovariate(1.0 / mix.think) if mix.think else 0.0))
            count = 3 if choices.random() < mix.grouped else 1
            tags = [f"{number}/{turn}" + (f"+{index}" if index else "") for index in range(count)]
            handed_in = choices.random() < mix.handed_in
            if choices.random() < mix.fresh:
                seen = yield from self._loaded()
            if handed_in and choices.random() < mix.twins:
                self._launch(self._twin(tags[:1], choices.expovariate(1.0)), f"twin of {tags[0]}")
            if choices.random() < mix.deferred:
                seen = yield from self._defer(tags[0], handed_in, seen, choices)
            else:
                large = choices.random() < mix.large
                seen = yield from self._append(tags, handed_in, large, seen, choices)
            if choices.random() < mix.flushes:
                seen = yield from self._flush(seen)

    def _loaded(self) -> Steps[Seen]:
        """Open the table as a new process does, patiently."""
        while True:
            try:
                found = yield from find_current(ROOT)
            except DataShardError:
                found = None
            if found is not None and found.newest.state == "table":
                return Seen(found.newest, None, found.hint)
            yield from ask(Sleep(1.0))

    def _twin(self, tags: Sequence[str], delay: float) -> Steps[None]:
        """The same appends run again by another process, as an orchestrator does."""
        yield from ask(Sleep(delay))
        seen = yield from self._loaded()
        yield from self._append(tags, True, False, seen, random.Random(tags[0]))

    def _append(
        self, tags: Sequence[str], handed_in: bool, large: bool, seen: Seen, choices: random.Random
    ) -> Steps[Seen]:
        target = self._target_of(seen)
        bases: dict[str, int | None] = dict.fromkeys(tags, None if handed_in else seen.body.version)
        told = {tag: self.told[target.uuid][tag] for tag in tags}
        files: dict[str, tuple[Any, ...]] = {}
        for tag in tags:
            told[tag].running += 1
            files[tag] = (yield from _write_large(tag)) if large else ()
        begun = (yield from ask(Now())).monotonic
        for _ in range(4):
            items = {tag: _item(tag, handed_in, base, files[tag]) for tag, base in bases.items()}
            results, known = yield from append(list(items.values()), target, seen, self.mix.give_up)
            seen = known or seen
            took = (yield from ask(Now())).monotonic - begun
            for tag, item in items.items():
                again = self._note(told[tag], results[item.id], took, begun)
                bases.pop(tag)
                if again and choices.random() < 0.7:
                    bases[tag] = results[item.id].base  # type: ignore[union-attr]
            if not bases:
                break
        for tag in tags:
            told[tag].running -= 1
        return seen if seen.body.state == "table" else (yield from self._loaded())

    def _note(self, told: Told, result: Any, took: float, begun: float) -> bool:
        """Note what a caller was told; whether it may ask again."""
        calm = begun > self.calm_at > 0.0
        if isinstance(result, Committed):
            told.committed.append(result.version)
            self.latencies.append(took)
            if calm and took > PATIENT:
                self.errors.append(f"an append took {took:.0f} s though nothing failed")
            return False
        if calm and not isinstance(result, NoSuchTableError):
            self.errors.append(f"an append ended with {type(result).__name__} though nothing failed: {result}")
        if isinstance(result, CommitStateUnknownError):
            told.unknown += 1
            return True
        if isinstance(result, NoSuchTableError):
            told.gone += 1  # who slept through the end of the table cannot know how it ended in it
            return False
        if isinstance(result, AppendIdConflictError):
            self.errors.append(f"equal rows were taken for others: {result}")
        told.failed += 1
        return False

    def _defer(self, tag: str, handed_in: bool, seen: Seen, choices: random.Random) -> Steps[Seen]:
        target = self._target_of(seen)
        item = _item(tag, handed_in, None if handed_in else seen.body.version, ())
        told = self.told[target.uuid][tag]
        told.running += 1
        try:
            result, seen = yield from defer(item, target, seen)
        except CommitStateUnknownError:
            told.unknown += 1
        except DataShardError:
            told.failed += 1
        else:
            if isinstance(result, Deferred):
                told.deferred += 1
                if result.commits or choices.random() < self.mix.backlogs:
                    seen = yield from self._commit_backlog(target, seen)
            elif isinstance(result, Committed):
                told.committed.append(result.version)
            else:
                told.failed += 1
        told.running -= 1
        return seen

    def _commit_backlog(self, target: Target, seen: Seen) -> Steps[Seen]:
        try:
            return (yield from commit_backlog(target, seen, self.mix.give_up))
        except DataShardError:
            return seen  # what is staged stays staged

    def _flush(self, seen: Seen) -> Steps[Seen]:
        sure = self._sure(seen.body.table.table_uuid, deferred=True)
        try:
            known = yield from flush(self._target_of(seen), seen, self.mix.give_up)
        except DataShardError:
            return seen  # what is staged stays staged
        rows = self._rows(known)
        self.errors += [f"append {tag} was staged before a flush that left it out" for tag in sure if not rows[tag]]
        return known

    def _foreign(self, number: int) -> Steps[None]:
        choices = random.Random(self.choices.random())
        for turn in range(self.mix.foreign_commits):
            yield from ask(Sleep(choices.expovariate(1.0)))
            keep = choices.random() < self.mix.keep_property
            try:
                landed = yield from foreign_commit(ROOT, SCHEMA, f"foreign {number}/{turn}", keep)
                self.foreign_tags += [landed] if landed else []
            except DataShardError:
                continue  # engines of others give up; theirs to explain

    def _reader(self, number: int) -> Steps[None]:
        """Reads the newest version, by turns with and without what is staged, and holds it against what is sure."""
        choices = random.Random(self.choices.random())
        seen = self.seen
        for turn in range(self.mix.reads):
            yield from ask(Sleep(choices.expovariate(1.0)))
            staged = (number + turn) % 2 == 0
            uuid = seen.body.table.table_uuid
            sure = self._sure(uuid, deferred=staged)
            try:
                if staged:
                    read = yield from read_with_staged(self._target_of(seen), seen)
                    seen = read.seen
                    rows = self._rows(seen)
                    for table in read.rows:
                        rows.update(table.column("tag").to_pylist())
                    for file in read.files:
                        rows += tags_in(self.simulation.store.kept[file.file_path.removeprefix(f"{ROOT}/")])
                else:
                    seen = yield from self._loaded()
                    rows = self._rows(seen)
            except NoSuchTableError:
                seen = yield from self._loaded()
                continue
            except DataShardError:
                continue
            if seen.body.table.table_uuid != uuid:
                continue
            what = "with staged rows" if staged else "without staged rows"
            self.errors += [f"a reader {what} misses append {tag}" for tag in sure if not rows[tag]]
            self.errors += [f"a reader {what} sees append {tag} {n} times" for tag, n in rows.items() if n > 1]

    def _sure(self, uuid: str, *, deferred: bool) -> list[str]:
        """Appends that have to be in what is read from now on; a stale listing may hide what is staged."""
        deferred = deferred and not self.mix.faults.stale_list
        return [tag for tag, told in self.told[uuid].items() if told.committed or (deferred and told.deferred)]

    def _rows(self, seen: Seen) -> Counter[str]:
        table = seen.body.table
        if table.current_snapshot is None:
            return Counter()
        return rows_of(self.simulation.store, table.location, table.current_snapshot, self._tags)

    def _dropper(self) -> Steps[None]:
        """Drops the table, and makes it again."""
        choices = random.Random(self.choices.random())
        yield from ask(Sleep(choices.uniform(0.5, 5.0)))
        try:
            seen = yield from self._loaded()
            listed = (yield from list_own()) if self.mix.purge else frozenset()
            marker = yield from drop(self._target_of(seen), CALM)
            if self.mix.purge:
                yield from purge(ROOT, seen.body.table.table_uuid, marker.version, listed)
        except DataShardError:
            pass  # whether it was dropped or not, the next step makes sure that there is a table
        yield from self._maker()

    @staticmethod
    def _maker() -> Steps[None]:
        """Makes the table if there is none, patiently."""
        while True:
            try:
                yield from create(ROOT, "t", FIRST, CALM)
                return
            except DataShardError:
                yield from ask(Sleep(1.0))

    def _loser_of_nodes(self) -> Steps[None]:
        """Some other engine's orphan removal: it deletes an id node, and nothing depends on that."""
        choices = random.Random(self.choices.random())
        yield from ask(Sleep(choices.uniform(0.5, 10.0)))
        try:
            page = yield from ask(ListPage("_datashard/ids/"))
            if page:
                yield from ask(Delete((choices.choice(page).key,)))
        except DataShardError:
            return

    # The end ---------------------------------------------------------------------------------

    def finish(self, calm_at: float) -> Report:
        """Run to the end: faults until ``calm_at``, then calm, a flush, and the judge."""
        simulation = self.simulation
        simulation.calm_after(calm_at)
        self.calm_at = calm_at
        self.start()
        simulation.run()
        for process in self.processes:
            process.suspended_until = 0.0
        simulation.calm_after(0.0)
        report = Report(simulation.seed, latencies=self.latencies, ended_at=simulation.now)
        ended = self._at_once(self._last_flush())
        report.violations += self.errors
        for process in self.processes:
            report.requests.update(process.requests)
        if isinstance(ended, DataShardError):
            report.violations.append(f"the last flush failed: {ended!r}")
            return report
        try:
            self._judge(report)
        except DataShardError as error:
            report.violations.append(f"the history cannot be read whole: {error}")
        return report

    def _last_flush(self) -> Steps[Seen]:
        made = yield from create(ROOT, "t", FIRST, CALM)  # a dropper may have died half way
        return (yield from flush(self._target_of(made.seen), None, CALM))

    def _judge(self, report: Report) -> None:
        history = History(self.simulation.store)
        report.versions = len(history.versions)
        report.violations += history.violations
        known = {era.uuid for era in history.eras}
        report.violations += [f"appends went to table {uuid}, which never was" for uuid in self.told.keys() - known]
        for era in history.eras:
            self._judge_era(era, history, report)

    def _judge_era(self, era: Era, history: History, report: Report) -> None:
        rows = history.rows_at(era.last)
        told_here = self.told[era.uuid]
        for tag, told in told_here.items():
            count = rows[tag]
            report.acknowledged += bool(told.committed)
            if count > 1:
                report.violations.append(f"append {tag} is in the table {count} times: {told}")
            if (told.committed or (told.deferred and not era.dropped)) and count == 0:
                report.violations.append(f"append {tag} was acknowledged and is lost: {told}")
            if told.surely_absent and count:
                report.violations.append(f"append {tag} was reported as failed and is there: {told}")
            for version in told.committed:
                if history.rows_at(version)[tag] != 1 or history.rows_at(version - 1)[tag] != 0:
                    report.violations.append(f"append {tag} is not what version {version} added")
        for tag, uuid in self.foreign_tags:
            if uuid == era.uuid and rows[tag] != 1:
                report.violations.append(f"foreign append {tag} is in the table {rows[tag]} times")
        report.violations += [
            f"row {tag!r} comes from nowhere" for tag in rows if tag not in told_here and not tag.startswith("foreign ")
        ]


def run_seed(
    seed: int, mix: Mix, *, latency: Latency | None = None, prepare: Callable[[Scenario], None] | None = None
) -> Report:
    """Run one scenario from one seed; the same seed and mix replay exactly."""
    simulation = Simulation(seed, latency=latency, faults=mix.faults)
    with blocks_of(mix.block):
        scenario = Scenario(simulation, mix)
        if prepare is not None:
            prepare(scenario)
        return scenario.finish(calm_at=simulation.now + 120.0)


def _item(tag: str, handed_in: bool, base: int | None, files: tuple[Any, ...]) -> Append:
    import pyarrow as pa

    rows = pa.table({"tag": [tag]}, schema=SCHEMA.to_arrow())
    digest = rows_digest(rows, SCHEMA) if handed_in else LIBRARY_MADE
    return Append(f"id of {tag}", id_digest(f"id of {tag}"), digest, None if files else rows, files, SCHEMA, base)


def _write_large(tag: str) -> Steps[tuple[Any, ...]]:
    """Write the data file of an append that is too large to be copied; tried until it is there."""
    import pyarrow as pa

    encoded = encode_parquet(pa.table({"tag": [tag]}, schema=SCHEMA.to_arrow()), SCHEMA)
    while True:
        unique: str = yield from ask(Unique())
        key = f"data/auto_{unique}.parquet"
        try:
            yield from ask(PutData(key, encoded.data))
        except DataShardError:
            yield from ask(Sleep(0.5))
            continue
        return (encoded.data_file(f"{ROOT}/{key}"),)


def percentile(values: Sequence[float], share: float) -> float:
    """A percentile by the nearest rank; 0.0 of nothing."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))] if ordered else 0.0
