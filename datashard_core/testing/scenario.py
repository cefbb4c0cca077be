"""Scenarios for the simulation: writers, twins, foreign engines and readers on one table, and a judge.

Every run ends with a calm period and a flush; then the whole history is read and held against what
the writers were told. The invariants are those of ``docs/design/commit-protocol.md``.
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from datashard_core.commit.deferred import Deferred, defer, flush
from datashard_core.commit.lifecycle import create
from datashard_core.commit.names import LIBRARY_MADE
from datashard_core.commit.paths import key_of
from datashard_core.commit.pointer import find_current, move_hint
from datashard_core.commit.protocol import append
from datashard_core.commit.state import Append, Committed, Seen, Target, manifests_of
from datashard_core.commit.updates import new_manifest
from datashard_core.commit.version import VersionBody, parse_version, version_key
from datashard_core.errors import CommitStateUnknownError, DataShardError
from datashard_core.format.digest import id_digest, rows_digest
from datashard_core.format.manifest import DELETED, decode_manifest, encode_manifest_list
from datashard_core.format.parquet import encode_parquet
from datashard_core.format.schema import Schema
from datashard_core.format.snapshot import Snapshot, append_summary
from datashard_core.storage.requests import Now, Put, PutData, PutIfAbsent, Sleep, Steps, Unique, ask, each
from datashard_core.testing.simulation import Crashed, Faults, Latency, Process, Simulation

ROOT = "s3://simulated/table"
SCHEMA = Schema(schema_id=0, fields=[{"id": 1, "name": "tag", "type": "string", "required": True}])
CALM = 3600.0


@dataclass(frozen=True, slots=True)
class Mix:
    """Who does what in one scenario.

    Attributes:
        writers: processes that append in a closed loop.
        appends: appends of each.
        think: mean seconds between two appends of one writer.
        handed_in: share of appends whose id the caller hands in.
        twins: probability that another process runs the same append at the same time.
        deferred: share of appends that are deferred.
        fresh: share of appends that begin without a known version, as a new process would.
        give_up: seconds after which a writer stops waiting.
        foreign: processes of another engine, each committing a few versions.
        keep_property: probability that a foreign commit carries the table properties on.
        faults: what goes wrong, until the calm.
    """

    writers: int = 4
    appends: int = 4
    think: float = 0.2
    handed_in: float = 0.5
    twins: float = 0.2
    deferred: float = 0.15
    fresh: float = 0.3
    give_up: float = 60.0
    foreign: int = 1
    foreign_commits: int = 3
    keep_property: float = 0.5
    faults: Faults = field(default_factory=Faults)


@dataclass(slots=True)
class Told:
    """What callers were told of one append id."""

    committed: list[int] = field(default_factory=list)
    failed: int = 0
    unknown: int = 0
    deferred: int = 0
    running: int = 0


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
        self.told: dict[str, Told] = {}
        self.latencies: list[float] = []
        self.errors: list[str] = []
        self.choices = random.Random(simulation.seed * 7919 + 1)
        self.processes: list[Process] = []
        self.foreign_tags: list[str] = []
        made: list[Any] = []
        simulation_faults, simulation.faults = simulation.faults, Faults()
        simulation.start(create(ROOT, "t", SCHEMA, {}, 60.0), self._process("creator"), made.append)
        simulation.run()
        simulation.faults = simulation_faults
        self.seen: Seen = made[0].seen
        self.target = Target(ROOT, "t", self.seen.body.table.table_uuid)

    def _process(self, name: str) -> Process:
        process = self.simulation.process(name)
        self.processes.append(process)
        return process

    # Actors ----------------------------------------------------------------------------------

    def start(self) -> None:
        """Start everybody."""
        for number in range(self.mix.writers):
            self._launch(self._writer(number), f"writer {number}")
        for number in range(self.mix.foreign):
            self._launch(self._foreign(number), f"foreign {number}")

    def _launch(self, steps: Steps[None], name: str) -> None:
        def ended(result: Any) -> None:
            if isinstance(result, DataShardError) and not isinstance(result, Crashed):
                self.errors.append(f"{name} ended with {type(result).__name__}: {result}")

        self.simulation.start(steps, self._process(name), ended)

    def _writer(self, number: int) -> Steps[None]:
        choices = random.Random(self.choices.random())
        seen = self.seen
        for turn in range(self.mix.appends):
            yield from ask(Sleep(choices.expovariate(1.0 / self.mix.think) if self.mix.think else 0.0))
            tag = f"{number}/{turn}"
            handed_in = choices.random() < self.mix.handed_in
            if choices.random() < self.mix.fresh:
                found = yield from _patient(lambda: find_current(ROOT))
                seen = Seen(found.newest, None, found.hint)
            if handed_in and choices.random() < self.mix.twins:
                self._launch(self._twin(tag, choices.expovariate(1.0)), f"twin of {tag}")
            if choices.random() < self.mix.deferred:
                seen = yield from self._defer(tag, handed_in, seen)
            else:
                seen = yield from self._append(tag, handed_in, seen, choices)

    def _twin(self, tag: str, delay: float) -> Steps[None]:
        yield from ask(Sleep(delay))
        found = yield from _patient(lambda: find_current(ROOT))
        yield from self._append(tag, True, Seen(found.newest, None, found.hint), random.Random(tag))

    def _append(self, tag: str, handed_in: bool, seen: Seen, choices: random.Random) -> Steps[Seen]:
        item = _item(tag, handed_in, None if handed_in else seen.body.version)
        told = self.told.setdefault(tag, Told())
        told.running += 1
        begun = yield from ask(Now())
        for _ in range(4):
            results, known = yield from append([item], self.target, seen, self.mix.give_up)
            seen = known or seen
            result = results[item.id]
            if isinstance(result, Committed):
                told.committed.append(result.version)
                ended = yield from ask(Now())
                self.latencies.append(ended.monotonic - begun.monotonic)
                break
            if isinstance(result, CommitStateUnknownError):
                told.unknown += 1
                if choices.random() < 0.3:
                    break
                item = _item(tag, handed_in, result.base)
            else:
                told.failed += 1
                break
        told.running -= 1
        return seen

    def _defer(self, tag: str, handed_in: bool, seen: Seen) -> Steps[Seen]:
        item = _item(tag, handed_in, None if handed_in else seen.body.version)
        told = self.told.setdefault(tag, Told())
        told.running += 1
        try:
            result, seen = yield from defer(item, self.target, seen)
        except CommitStateUnknownError:
            told.unknown += 1
        except DataShardError:
            told.failed += 1
        else:
            if isinstance(result, Deferred):
                told.deferred += 1
                if result.commits:
                    seen = yield from self._flush(seen)
            elif isinstance(result, Committed):
                told.committed.append(result.version)
            else:
                told.failed += 1
        told.running -= 1
        return seen

    def _flush(self, seen: Seen) -> Steps[Seen]:
        try:
            return (yield from flush(self.target, seen, self.mix.give_up))
        except DataShardError:
            return seen  # what is staged stays staged

    def _foreign(self, number: int) -> Steps[None]:
        """Another engine: reads the newest version, appends a file, commits by the same condition."""
        choices = random.Random(self.choices.random())
        for turn in range(self.mix.foreign_commits):
            yield from ask(Sleep(choices.expovariate(1.0)))
            keep = choices.random() < self.mix.keep_property
            tag = f"foreign {number}/{turn}"
            try:
                landed = yield from _foreign_commit(tag, keep)
                self.foreign_tags += [landed] if landed else []
            except DataShardError:
                continue  # engines of others give up; theirs to explain

    # The end ---------------------------------------------------------------------------------

    def finish(self, calm_at: float) -> Report:
        """Run to the end: faults until ``calm_at``, then calm, a flush, and the judge."""
        simulation = self.simulation
        simulation.calm_after(calm_at)
        self.start()
        simulation.run()
        for process in self.processes:
            process.suspended_until = 0.0
        flushed: list[Any] = []
        simulation.calm_after(0.0)
        simulation.start(flush(self.target, None, CALM), self._process("last"), flushed.append)
        simulation.run()
        report = Report(simulation.seed, latencies=self.latencies, ended_at=simulation.now)
        report.violations += self.errors
        for process in self.processes:
            report.requests.update(process.requests)
        if not isinstance(flushed[0], Seen):
            report.violations.append(f"the last flush failed: {flushed[0]!r}")
            return report
        try:
            self._judge(report)
        except DataShardError as error:
            report.violations.append(f"the history cannot be read whole: {error}")
        return report

    def _judge(self, report: Report) -> None:
        history = History(self.simulation)
        report.versions = len(history.versions)
        report.violations += history.violations
        rows = history.rows_at(len(history.versions) - 1)
        for tag, told in self.told.items():
            count = rows.get(tag, 0)
            report.acknowledged += bool(told.committed)
            if count > 1:
                report.violations.append(f"append {tag} is in the table {count} times: {told}")
            if (told.committed or told.deferred) and count == 0:
                report.violations.append(f"append {tag} was acknowledged and is lost: {told}")
            if told.failed and not (told.committed or told.unknown or told.deferred or told.running) and count:
                report.violations.append(f"append {tag} was reported as failed and is there: {told}")
            for version in told.committed:
                if history.rows_at(version).get(tag, 0) != 1 or history.rows_at(version - 1).get(tag, 0) != 0:
                    report.violations.append(f"append {tag} is not what version {version} added")
        for tag in self.foreign_tags:
            if rows.get(tag, 0) != 1:
                report.violations.append(f"foreign append {tag} is in the table {rows.get(tag, 0)} times")
        report.violations += [f"row {tag!r} comes from nowhere" for tag in rows if not self._is_known(tag)]

    def _is_known(self, tag: str) -> bool:
        return tag in self.told or tag.startswith("foreign ")


class History:
    """Every version of the simulated table, read whole, and what is wrong with the chain."""

    def __init__(self, simulation: Simulation) -> None:
        self.store = simulation.store
        self.violations: list[str] = []
        self.versions: list[VersionBody] = []
        self._rows: dict[str, Counter[str]] = {}
        self._manifests: dict[str, Counter[str]] = {}
        while version_key(len(self.versions)) in self.store.objects:
            number = len(self.versions)
            body = self.store.objects[version_key(number)].body
            self.versions.append(parse_version(body, number, version_key(number)))
        names = [key for key in self.store.objects if key.startswith("metadata/v") and key.endswith(".json")]
        if len(names) != len(self.versions):
            self.violations.append("versions are not contiguous")
        if any(key.startswith("metadata/v") for key in self.store.deleted):
            self.violations.append("a version name was deleted")
        self._check_chain()

    def _check_chain(self) -> None:
        for before, after in zip(self.versions, self.versions[1:], strict=False):
            old, new = before.table, after.table
            if new.last_updated_ms <= old.last_updated_ms:
                self.violations.append(f"version {after.version} is not younger than its parent")
            if new.current_snapshot_id == old.current_snapshot_id:
                continue
            snapshot = new.current_snapshot
            if snapshot is None or snapshot.parent_snapshot_id != old.current_snapshot_id:
                self.violations.append(f"version {after.version} was not built from its parent")
            lost = self.rows_at(before.version) - self.rows_at(after.version)
            if lost:
                self.violations.append(f"version {after.version} lost rows of its parent: {dict(lost)}")

    def rows_at(self, version: int) -> Counter[str]:
        """How often each append's row is in a version."""
        if version < 0:
            return Counter()
        table = self.versions[version].table
        snapshot = table.current_snapshot
        if snapshot is None:
            return Counter()
        if snapshot.manifest_list not in self._rows:
            self._rows[snapshot.manifest_list] = self._read(table.location, snapshot)
        return self._rows[snapshot.manifest_list]

    def _read(self, location: str, snapshot: Snapshot) -> Counter[str]:
        total: Counter[str] = Counter()
        for manifest in _local(manifests_of(ROOT, location, snapshot), self.store):
            if manifest.manifest_path not in self._manifests:
                body = self.store.objects[key_of(manifest.manifest_path, location, ROOT)].body
                rows: Counter[str] = Counter()
                for entry in decode_manifest(body, manifest):
                    if entry.status != DELETED:
                        rows += self._tags(key_of(entry.data_file.file_path, location, ROOT))
                self._manifests[manifest.manifest_path] = rows
            total += self._manifests[manifest.manifest_path]
        return total

    def _tags(self, key: str) -> Counter[str]:
        import pyarrow as pa
        import pyarrow.parquet as pq

        table = pq.read_table(pa.BufferReader(self.store.objects[key].body))
        return Counter(table.column("tag").to_pylist())


def run_seed(
    seed: int, mix: Mix, *, latency: Latency | None = None, prepare: Callable[[Scenario], None] | None = None
) -> Report:
    """Run one scenario from one seed; the same seed and mix replay exactly."""
    simulation = Simulation(seed, latency=latency, faults=mix.faults)
    scenario = Scenario(simulation, mix)
    if prepare is not None:
        prepare(scenario)
    return scenario.finish(calm_at=simulation.now + 120.0)


def mix_for(seed: int) -> Mix:
    """A mix for a seed: every kind of fault appears somewhere, most runs have a few."""
    dice = random.Random(seed)

    def now_and_then(share: float, most: float) -> float:
        return dice.uniform(0.0, most) if dice.random() < share else 0.0

    faults = Faults(
        before=now_and_then(0.5, 0.05),
        after=now_and_then(0.6, 0.08),
        late=now_and_then(0.4, 0.05),
        twice=now_and_then(0.4, 0.10),
        conflict=now_and_then(0.3, 0.10),
        stale_hint=now_and_then(0.4, 0.5),
        stale_list=now_and_then(0.4, 0.3),
        crash=now_and_then(0.4, 0.01),
        suspend=now_and_then(0.4, 0.01),
        skew_seconds=dice.choice([0.0, 0.5, 30.0, 3600.0]),
        burst=now_and_then(0.2, 2.0),
    )
    return Mix(
        writers=dice.choice([1, 2, 3, 5, 8]),
        appends=dice.choice([1, 2, 4, 6]),
        think=dice.choice([0.0, 0.1, 1.0]),
        handed_in=dice.choice([0.0, 0.5, 1.0]),
        twins=dice.choice([0.0, 0.3, 0.7]),
        deferred=dice.choice([0.0, 0.15, 0.5]),
        fresh=dice.choice([0.0, 0.3, 1.0]),
        foreign=dice.choice([0, 0, 1, 2]),
        keep_property=dice.choice([0.0, 0.5, 1.0]),
        faults=faults,
    )


def _item(tag: str, handed_in: bool, base: int | None) -> Append:
    import pyarrow as pa

    rows = pa.table({"tag": [tag]}, schema=SCHEMA.to_arrow())
    digest = rows_digest(rows, SCHEMA) if handed_in else LIBRARY_MADE
    return Append(f"id of {tag}", id_digest(f"id of {tag}"), digest, rows, (), SCHEMA, base)


def _patient(steps: Callable[[], Steps[Any]]) -> Steps[Any]:
    """Try until the store answers."""
    while True:
        try:
            return (yield from steps())
        except DataShardError:
            yield from ask(Sleep(1.0))


def _foreign_commit(name: str, keep_property: bool) -> Steps[str | None]:
    import pyarrow as pa

    for attempt in range(4):
        tag = f"{name}/{attempt}"  # it has no identity over its tries: each may land
        found = yield from find_current(ROOT)
        if found is None:
            return None
        table = found.newest.table
        now, for_data, for_list = yield from each((Now(), Unique(), Unique()))
        encoded = encode_parquet(pa.table({"tag": [tag]}, schema=SCHEMA.to_arrow()), SCHEMA)
        key = f"data/foreign_{for_data}.parquet"
        manifest = new_manifest(for_data, table, [encoded.data_file(f"{table.location}/{key}")], SCHEMA)
        live = yield from manifests_of(ROOT, table.location, table.current_snapshot)
        sequence = table.last_sequence_number + 1
        list_key = f"metadata/manifests/manifest_list_{for_list}.avro"
        snapshot = Snapshot(
            snapshot_id=manifest.snapshot_id,
            parent_snapshot_id=table.current_snapshot_id,
            sequence_number=sequence,
            timestamp_ms=now.wall_ms,
            manifest_list=f"{table.location}/{list_key}",
            summary=append_summary(table.current_snapshot, manifest.files),
            schema_id=table.schema.schema_id,
        )
        listed = (*live, manifest.listed(table.location, sequence))
        data = encode_manifest_list(
            listed,
            snapshot_id=snapshot.snapshot_id,
            parent_snapshot_id=snapshot.parent_snapshot_id,
            sequence_number=sequence,
        )
        properties = dict(table.properties)
        if not keep_property:
            properties = {k: v for k, v in properties.items() if not k.startswith("datashard.")}
        body = table.with_snapshot(snapshot, now_ms=now.wall_ms, previous_metadata=None).with_properties(properties)
        yield from each((PutData(key, encoded.data), Put(manifest.key, manifest.data), Put(list_key, data)))
        version = found.newest.version + 1
        outcomes = yield (PutIfAbsent(version_key(version), body.to_json()),)
        if not isinstance(outcomes[0], DataShardError):
            yield from move_hint(version, found.hint, ROOT)
            return tag
    return None


def _local(steps: Steps[Any], store: Any) -> Any:
    """Run steps at once against the store as it is."""
    try:
        batch = next(steps)
        while True:
            batch = steps.send([store.perform(request, 0.0) for request in batch])
    except StopIteration as stop:
        return stop.value


def percentile(values: Sequence[float], share: float) -> float:
    """A percentile by the nearest rank; 0.0 of nothing."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))] if ordered else 0.0
