"""Readers of a simulated table, who hold what they read against what is sure to be there."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Sequence
from typing import TYPE_CHECKING

from datashard_core.commit.append.staged_read import read_with_staged
from datashard_core.commit.core.state import TableState
from datashard_core.commit.core.version_file import version_key
from datashard_core.effects.requests import Sleep
from datashard_core.errors import DataShardError, NoSuchTableError
from datashard_testkit.history import ROOT, tags_in

if TYPE_CHECKING:
    from datashard_testkit.scenario import Scenario


async def reader(scenario: Scenario, number: int) -> None:
    """Reads the newest version, by turns with and without what is staged, and holds it against what is sure."""
    choices = random.Random(scenario.choices.random())
    seen = scenario.seen
    for turn in range(scenario.mix.reads):
        await Sleep(choices.expovariate(1.0))
        staged = (number + turn) % 2 == 0
        uuid = seen.body.table.table_uuid
        expected = sure(scenario, uuid, deferred=staged)
        try:
            if staged:
                read = await read_with_staged(scenario.target_of(seen), seen)
                seen = read.state
                rows = rows_of(scenario, seen)
                for table in read.rows:
                    rows.update(table.column("tag").to_pylist())
                for file in read.files:
                    rows += tags_in(scenario.store.kept[file.file_path.removeprefix(f"{ROOT}/")])
            else:
                seen = await scenario.loaded()
                rows = rows_of(scenario, seen)
        except NoSuchTableError:
            seen = await scenario.loaded()
            continue
        except DataShardError:
            continue
        if seen.body.table.table_uuid != uuid:
            continue
        what = "with staged rows" if staged else "without staged rows"
        scenario.counts[f"read {what}"] += 1
        scenario.errors += [f"a reader {what} finds {key} gone" for key in _gone(scenario, seen)]
        scenario.errors += [f"a reader {what} misses append {tag}" for tag in missing(scenario, expected, rows)]
        scenario.errors += [
            f"a reader {what} sees append {tag} {n} times"
            for tag, n in rows.items()
            if n > 1 + _named_again(scenario, tag) and not scenario.may_come_again(scenario.told[uuid][tag])
        ]


def _named_again(scenario: Scenario, tag: str) -> int:
    """How often somebody has tried to name the file of an append once more."""
    kept = scenario.store.kept
    return sum(tags_in(kept[key])[tag] for keys in scenario.doubles.values() for key in keys)


def sure(scenario: Scenario, uuid: str, *, deferred: bool) -> list[str]:
    """Appends that have to be in what is read from now on; what is staged may be hidden or damaged."""
    deferred = deferred and not (scenario.mix.faults.stale_list or scenario.mix.faults.spoilt)
    return [tag for tag, told in scenario.told[uuid].items() if told.committed or (deferred and told.deferred)]


def missing(scenario: Scenario, expected: Sequence[str], rows: Counter[str]) -> list[str]:
    """Which appends are not in what was read, and were in no file that somebody has tried to delete."""
    absent = [tag for tag in expected if not rows[tag]]
    deleted = (tags_in(scenario.store.kept[key]) for key in scenario.deletes.values()) if absent else ()
    gone = set().union(*deleted)
    return [tag for tag in absent if tag not in gone]


def _gone(scenario: Scenario, seen: TableState) -> list[str]:
    """Files of a version that do not exist although it is the newest one at this moment."""
    store, table = scenario.store, seen.body.table
    if version_key(seen.body.version + 1) in store.objects or table.current_snapshot is None:
        return []
    keys = scenario.archive.files(table.location, table.current_snapshot)
    return [key for key in keys if key not in store.objects]


def rows_of(scenario: Scenario, seen: TableState) -> Counter[str]:
    table = seen.body.table
    if table.current_snapshot is None:
        return Counter()
    return scenario.archive.rows(table.location, table.current_snapshot)
