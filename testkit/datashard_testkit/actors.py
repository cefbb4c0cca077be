"""Who else is at work on a simulated table, besides its writers and readers.

Each actor is a generator that runs in a process of its own, and may die or be suspended like any other.
"""

from __future__ import annotations

import random
from functools import partial
from typing import TYPE_CHECKING

from datashard_core.commit.append_ids.segment import parse_key
from datashard_core.commit.core.state import TableState, Target
from datashard_core.commit.maintenance.compact import compact
from datashard_core.commit.maintenance.expire import expire
from datashard_core.commit.maintenance.id_expiry import make_large_segments, remove_segments
from datashard_core.commit.maintenance.orphans import remove_orphans
from datashard_core.commit.staging.key import PREFIX, StagedName, parse_listed
from datashard_core.commit.versions import metadata_expiry
from datashard_core.commit.versions.lifecycle import create, drop, list_own, purge
from datashard_core.commit.versions.metadata_expiry import expire_all_metadata
from datashard_core.effects.requests import Delete, Instant, ListPage, Now, Put, Sleep, Unique
from datashard_core.errors import DataShardError
from datashard_testkit.copy_actor import start_copiers
from datashard_testkit.foreign import foreign_commit
from datashard_testkit.history import ROOT, SCHEMA
from datashard_testkit.other_committers import add_a_column, delete_a_file, name_again
from datashard_testkit.staged_actors import remove_what_is_set_aside, start_staged

if TYPE_CHECKING:
    from datashard_testkit.scenario import Scenario

PATIENCE = 3600.0
PATIENT = 60.0


def start_others(scenario: Scenario) -> None:
    """Start everybody whom the mix asks for."""
    mix = scenario.mix
    for number in range(mix.foreign):
        scenario.launch(_foreign(scenario, number), f"foreign {number}")
    for number in range(mix.drops):
        # If it dies half way another makes the table again, else everybody would wait for ever.
        name = f"dropper {number}"
        scenario.launch(_dropper(scenario), name, again=partial(_make, scenario, name))
    for number in range(mix.losers_of_nodes):
        scenario.launch(_loser_of_nodes(scenario), f"loser of nodes {number}")
    for number in range(mix.spoilers):
        scenario.launch(_spoiler(scenario), f"spoiler {number}")
    for number in range(mix.schema_changers):
        scenario.launch(_schema_changer(scenario), f"schema changer {number}")
    for number in range(mix.deleters):
        scenario.launch(_deleter(scenario), f"deleter {number}")
    for number in range(mix.namers):
        scenario.launch(_namer(scenario), f"namer {number}")
    for number in range(mix.keepers):
        scenario.launch(_keeper(scenario), f"keeper {number}")
    start_staged(scenario)
    start_copiers(scenario)


def _choices(scenario: Scenario) -> random.Random:
    return random.Random(scenario.choices.random())


async def _foreign(scenario: Scenario, number: int) -> None:
    """Another engine, which commits by path."""
    mix, choices = scenario.mix, _choices(scenario)
    for turn in range(mix.foreign_commits):
        await Sleep(choices.expovariate(1.0))
        keep = choices.random() < mix.keep_property
        try:
            landed = await foreign_commit(ROOT, SCHEMA, f"foreign {number}/{turn}", keep)
        except DataShardError:
            continue  # engines of others give up; theirs to explain
        if landed is not None:
            scenario.foreign_tags.append(landed)
            scenario.counts["foreign commit that " + ("copies" if keep else "drops") + " our properties"] += 1


async def _dropper(scenario: Scenario) -> None:
    """Drops the table, and makes it again."""
    await Sleep(_choices(scenario).uniform(0.5, 5.0))
    try:
        seen = await scenario.loaded()
        listed = (await list_own()) if scenario.mix.purge else frozenset()
        marker = await drop(scenario.target_of(seen), PATIENCE)
        scenario.counts["drop"] += 1
        if scenario.mix.purge:
            await purge(ROOT, seen.body.table.table_uuid, marker.version, listed)
            scenario.counts["purge"] += 1
    except DataShardError:
        pass  # whether it was dropped or not, the next step makes sure that there is a table
    await _maker(scenario)


def _make(scenario: Scenario, name: str) -> None:
    """Start a process that makes the table if there is none, and another one if it dies."""
    scenario.launch(_maker(scenario), name, again=partial(_make, scenario, name))


async def _maker(scenario: Scenario) -> None:
    """Makes the table if there is none, patiently."""
    while True:
        try:
            made = await create(ROOT, "t", scenario.mix.first, PATIENCE)
        except DataShardError:
            await Sleep(1.0)
            continue
        scenario.counts["table made again"] += made.made
        return


async def _loser_of_nodes(scenario: Scenario) -> None:
    """Some other engine's orphan removal: it deletes an id node, and nothing depends on that.

    Of the nodes that can be made again, that is: the names of a tombstone are in the nodes alone, and the
    documentation warns of this. So it is done at one instant, and spares what a sweep may be looking at.
    """
    choices, store = _choices(scenario), scenario.simulation.store
    for _ in range(3):
        await Sleep(choices.uniform(0.2, 4.0))
        newest = max(int(key[10:-14]) for key in store.objects if key.endswith(".metadata.json"))
        names = [name for key in store.objects if (name := parse_key(key)) is not None]
        lost = [name for name in names if name.since > newest - metadata_expiry.KEPT]
        if lost:
            store.perform(Delete((choices.choice(lost).key,)), scenario.simulation.store_now)
            scenario.counts["id node deleted"] += 1


async def _spoiler(scenario: Scenario) -> None:
    """Somebody whose PUT was spoilt on its way: a damaged body lies beside the good one of the same id."""
    choices = _choices(scenario)
    for _ in range(4):
        await Sleep(choices.expovariate(2.0))
        try:
            names = parse_listed(await ListPage(PREFIX))
            if names:
                chosen = choices.choice(names)
                unique: str = await Unique()
                name = StagedName(chosen.base, chosen.kind, chosen.id, f"0000{unique[4:]}")
                await Put(name.key, b"spoilt")
                scenario.counts["damaged copy beside a staged body"] += 1
        except DataShardError:
            continue


async def _schema_changer(scenario: Scenario) -> None:
    """Adds optional columns, as PyIceberg does through our catalog: rows of older schemas are on their way."""
    choices = _choices(scenario)
    for _ in range(3):
        await Sleep(choices.expovariate(1.0))
        seen = await scenario.loaded()
        try:
            scenario.counts["schema changed"] += await add_a_column(scenario.target_of(seen))
        except DataShardError:
            continue  # whether it was committed or not, the table is whole


async def _deleter(scenario: Scenario) -> None:
    """Deletes the rows of a data file, likewise: whoever compacts or retries must not bring them back."""
    choices = _choices(scenario)
    for _ in range(3):
        await Sleep(choices.expovariate(1.0))
        seen = await scenario.loaded()
        try:
            target = scenario.target_of(seen)
            scenario.counts["file deleted"] += await delete_a_file(target, seen, choices, scenario.deletes)
        except DataShardError:
            continue  # the judge finds out whether it was committed


async def _namer(scenario: Scenario) -> None:
    """Adds a data file that is live already: its rows count twice, and stay so whatever is merged or compacted."""
    choices = _choices(scenario)
    for _ in range(3):
        await Sleep(choices.expovariate(1.0))
        seen = await scenario.loaded()
        try:
            target = scenario.target_of(seen)
            scenario.counts["file named again"] += await name_again(target, seen, choices, scenario.doubles)
        except DataShardError:
            continue  # the judge finds out whether it was committed


async def _keeper(scenario: Scenario) -> None:
    """Does the upkeep that a user may call for, one piece after the other, in any order."""
    mix, choices = scenario.mix, _choices(scenario)
    for _ in range(mix.turns):
        await Sleep(choices.uniform(0.2, min(4.0, mix.grace)))
        seen = await scenario.loaded()
        target = scenario.target_of(seen)
        try:
            pieces = [_remove_orphans, _compact, _expire, _sweep, _forget]
            if mix.crafters or mix.newcomers:
                pieces.append(remove_what_is_set_aside)
            await choices.choice(pieces)(scenario, target, seen)
        except DataShardError:
            continue  # nothing is lost by what was done, or not: the judge looks


async def _remove_orphans(scenario: Scenario, target: Target, seen: TableState) -> None:
    """With a grace period as short as the history."""
    removed, _ = await remove_orphans(target, seen, scenario.mix.grace, PATIENT)
    scenario.counts["orphans removed"] += removed.files
    scenario.counts["orphans left, being young"] += removed.too_young


async def _compact(scenario: Scenario, target: Target, seen: TableState) -> None:
    compacted, _ = await compact(target, seen, 2**20, PATIENT)
    scenario.counts["file compacted"] += compacted.files


async def _expire(scenario: Scenario, target: Target, seen: TableState) -> None:
    now: Instant = await Now()
    expired, _ = await expire(target, seen, now.wall_ms, 1, PATIENT)
    scenario.counts["snapshot expired on demand"] += expired


async def _forget(scenario: Scenario, target: Target, seen: TableState) -> None:
    await make_large_segments(target, seen.body)
    scenario.counts["id node removed"] += await remove_segments(target, seen.body)


async def _sweep(scenario: Scenario, target: Target, seen: TableState) -> None:
    scenario.counts["tombstone on demand"] += await expire_all_metadata(target, seen.body)
