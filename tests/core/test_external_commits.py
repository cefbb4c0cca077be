"""Commits whose metadata another library made: in the simulation beside our writers, and the pure rules."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from typing import Any

import msgspec
import pytest
from datashard_testkit.history import ROOT, History
from datashard_testkit.model_store import ModelStore
from datashard_testkit.scenario import Scenario, run_seed
from datashard_testkit.simulation import Simulation
from datashard_testkit.workloads import mix_for

from datashard_core.commit.core.next_version import first_version
from datashard_core.commit.core.recorded_ids import PROPERTY
from datashard_core.commit.core.version_file import VersionFile
from datashard_core.commit.external.commit import commit_external, first_external, following_version
from datashard_core.effects.requests import Sleep
from datashard_core.errors import CommitStateUnknownError, DataShardError, StorageError, UnsupportedTableError
from datashard_core.format.types.schema import Schema

SCHEMA = Schema(fields=[{"id": 1, "name": "tag", "type": "string"}])


def marked(parent: VersionFile, *, mark: str) -> Mapping[str, Any]:
    """What another library would make of a version: one more property, and our own dropped."""
    raw: dict[str, Any] = msgspec.json.decode(parent.table.to_json())
    kept = {key: text for key, text in raw["properties"].items() if not key.startswith("datashard.")}
    return {**raw, "properties": {**kept, mark: "1"}}


async def external(scenario: Scenario, name: str, told: dict[str, str]) -> None:
    """A process that commits marks, each try under a mark of its own, and notes what it was told."""
    for turn in range(5):
        await Sleep(0.2)
        for attempt in range(12):
            mark = f"mark/{name}/{turn}/{attempt}"
            told[mark] = "unknown"  # should the process die
            try:
                seen = await commit_external(scenario.target, partial(marked, mark=mark), 20.0)
            except CommitStateUnknownError:
                break
            except StorageError:
                told[mark] = "not committed"
                await Sleep(0.5)
                continue
            told[mark] = "committed" if seen is not None else "not committed"
            if seen is not None:
                break
            await Sleep(0.1)


@pytest.mark.parametrize("seed", (*range(12), 29, 31, 32))
def test_what_an_external_commit_is_told_is_so(seed: int) -> None:
    mix = replace(mix_for(seed), drops=0)  # a commit to a dropped table is refused: tested elsewhere
    told: dict[str, str] = {}
    stores: list[ModelStore] = []

    def prepare(scenario: Scenario) -> None:
        stores.append(scenario.simulation.store)
        for number in range(2):
            scenario.launch(external(scenario, str(number), told), f"external {number}")

    assert run_seed(seed, mix, prepare=prepare).violations == []
    versions = History(stores[0]).versions
    created: dict[str, int] = {}
    before: set[str] = set()
    for body in versions:
        marks = {key for key in body.table.properties if key.startswith("mark/")}
        assert before <= marks, f"version {body.version} lost what its parent had"
        for mark in marks - before:
            created[mark] = body.version
        before = marks
    assert set(created) <= set(told)
    for mark, said in told.items():
        assert said != "committed" or mark in created, f"{mark} was acknowledged and is lost"
        assert said != "not committed" or mark not in created, f"{mark} was reported as failed and is there"
    for version in created.values():
        names = versions[version].names
        assert names is not None
        assert names.version == version


def test_enough_of_the_seeds_commit_and_lose_races() -> None:
    words: set[str] = set()
    for seed in range(4):
        told: dict[str, str] = {}
        run_seed(
            seed,
            replace(mix_for(seed), drops=0),
            prepare=lambda scenario, told=told: scenario.launch(external(scenario, "0", told), "external"),
        )
        words |= set(told.values())
    assert {"committed", "not committed"} <= words


@pytest.fixture
def parent() -> VersionFile:
    """A table's first version."""
    body, _ = first_version(0, "0" * 8, "1" * 32, 5_000, location=ROOT, schema=SCHEMA, properties={"a": "b"})
    return body


def raw_of(body: VersionFile) -> dict[str, Any]:
    raw: dict[str, Any] = msgspec.json.decode(body.table.to_json())
    return raw


def test_the_next_version_names_its_commit_and_is_younger(parent: VersionFile) -> None:
    raw = raw_of(parent)
    raw["last-updated-ms"] = 1_000  # the writer's clock is behind
    raw["properties"] = {}
    raw["unknown-to-us"] = {"x": 1}
    body = following_version(parent, raw, "2" * 32, ROOT)
    assert body.version == 1
    assert body.names is not None and "2" * 32 in body.named
    assert body.table.last_updated_ms == 5_001
    assert PROPERTY in body.table.properties
    assert raw_of(body)["unknown-to-us"] == {"x": 1}


def test_a_new_snapshot_is_younger_than_its_parent_and_an_old_one_keeps_its_time(parent: VersionFile) -> None:
    def snapshot(number: int, time: int) -> dict[str, Any]:
        return {"snapshot-id": number, "sequence-number": number, "timestamp-ms": time, "manifest-list": f"{ROOT}/m"}

    raw = raw_of(parent)
    raw.update({"snapshots": [snapshot(1, 10)], "snapshot-log": [{"snapshot-id": 1, "timestamp-ms": 10}]})
    raw.update({"current-snapshot-id": 1, "last-sequence-number": 1})
    first = following_version(parent, raw, "2" * 32, ROOT)
    assert [one.timestamp_ms for one in first.table.snapshots] == [5_001]
    again = copy.deepcopy(raw_of(first))
    again["snapshots"].append(snapshot(2, 20))
    again["snapshot-log"].append({"snapshot-id": 2, "timestamp-ms": 20})
    second = following_version(first, again, "3" * 32, ROOT)
    assert [one.timestamp_ms for one in second.table.snapshots] == [5_001, 5_002]
    assert second.table.last_updated_ms == 5_002


@pytest.mark.parametrize(
    ("change", "match"),
    [
        ({"table-uuid": "another"}, "another"),
        ({"location": "s3://elsewhere/t"}, "s3://elsewhere/t"),
        ({"format-version": 3}, "format version 3"),
    ],
)
def test_a_commit_cannot_make_another_table_of_it(parent: VersionFile, change: dict[str, Any], match: str) -> None:
    with pytest.raises(UnsupportedTableError, match=match):
        following_version(parent, {**raw_of(parent), **change}, "2" * 32, ROOT)


def test_a_table_made_again_gets_a_uuid_that_no_sleeper_knows(parent: VersionFile) -> None:
    raw = raw_of(parent)
    made, data = first_external(3, "fresh", "2" * 32, 9_000, raw=raw, location=ROOT)
    assert (made.version, made.table.table_uuid, made.first) == (3, "fresh", 3)
    assert msgspec.json.decode(data)["last-updated-ms"] == 9_000
    first, _ = first_external(0, "fresh", "2" * 32, 1_000, raw=raw, location=ROOT)
    assert (first.table.table_uuid, first.table.last_updated_ms) == (parent.table.table_uuid, 5_000)
    with pytest.raises(UnsupportedTableError, match="s3://other"):
        first_external(0, "fresh", "2" * 32, 1_000, raw=raw, location="s3://other")


def test_an_error_of_the_builder_is_the_callers(parent: VersionFile) -> None:
    scenario = Scenario(Simulation(1), mix_for(1))

    def refuse(body: VersionFile) -> None:
        raise UnsupportedTableError(f"not on version {body.version}")

    ended: list[Any] = []
    scenario.simulation.start(
        commit_external(scenario.target, refuse, 5.0), scenario.simulation.process("one"), ended.append
    )
    scenario.simulation.run()
    assert isinstance(ended[0], DataShardError)
    assert "not on version 0" in str(ended[0])
    assert len(History(scenario.simulation.store).versions) == 1


def test_nothing_to_change_commits_nothing(parent: VersionFile) -> None:
    scenario = Scenario(Simulation(1), mix_for(1))
    ended: list[Any] = []
    steps = commit_external(scenario.target, lambda body: None, 5.0)
    scenario.simulation.start(steps, scenario.simulation.process("one"), ended.append)
    scenario.simulation.run()
    assert ended[0].body.version == 0
    assert len(History(scenario.simulation.store).versions) == 1
