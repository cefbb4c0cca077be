"""The judge of a scenario: what its writers were told, against every version that ever was."""

from __future__ import annotations

from itertools import pairwise
from typing import TYPE_CHECKING

from datashard_core.commit.staging.key import PREFIX as STAGED
from datashard_core.format.rows.digest import id_digest
from datashard_testkit.history import Era, History
from datashard_testkit.report import Report, Told

if TYPE_CHECKING:
    from datashard_testkit.scenario import Scenario


def classify(scenario: Scenario, report: Report) -> list[str]:
    """Read the whole history, and hold it against what everybody was told; what is wrong.

    Raises:
        DataShardError: it cannot be read whole.
    """
    history = History(scenario.store, scenario.archive, scenario.deletes, scenario.doubles)
    report.versions += len(history.versions)
    scenario.counts["tombstone of a version"] += 0 if scenario.mix.purge else history.tombstones
    scenario.counts["snapshot expired"] += history.expired
    violations = list(history.violations)
    known = {era.uuid for era in history.eras}
    violations += [f"appends went to table {uuid}, which never was" for uuid in scenario.told.keys() - known]
    for era in history.eras:
        report.acknowledged += sum(bool(told.committed) for told in scenario.told[era.uuid].values())
        _judge_era(scenario, era, history, violations)
    return violations


def _judge_era(scenario: Scenario, era: Era, history: History, violations: list[str]) -> None:
    rows = history.appended(era)
    told_here = scenario.told[era.uuid]
    for tag, told in told_here.items():
        count = rows[tag]
        if count > 1:
            _judge_again(scenario, era, history, tag, told, count, violations)
        promised = (
            told.deferred
            and not era.dropped
            and not (scenario.spoils and history.refuses(era, id_digest(f"id of {tag}")))
        )
        if promised and count == 0 and not told.committed and scenario.mix.retention and _is_staged(scenario, tag):
            scenario.counts["left alone, being forgotten"] += 1
        elif (told.committed or promised) and count == 0:
            violations.append(f"append {tag} was acknowledged and is lost: {told}")
        if told.surely_absent and count > scenario.inherited[tag]:
            violations.append(f"append {tag} was reported as failed and is there: {told}")
        for version in told.committed:
            if history.rows_at(version)[tag] != history.rows_at(version - 1)[tag] + 1:
                violations.append(f"append {tag} is not what version {version} added")
    for tag, uuid in scenario.foreign_tags:
        if uuid == era.uuid and rows[tag] != 1:
            violations.append(f"foreign append {tag} is in the table {rows[tag]} times")
    violations += [
        f"row {tag!r} comes from nowhere"
        for tag, count in rows.items()
        if tag not in told_here and not tag.startswith("foreign ") and count > scenario.inherited[tag]
    ]
    violations += [
        f"row {tag!r} was copied and is lost" for tag, count in scenario.inherited.items() if rows[tag] < count
    ]


def _judge_again(
    scenario: Scenario, era: Era, history: History, tag: str, told: Told, count: int, violations: list[str]
) -> None:
    """An append that is there more than once: never within the retention of a caller's id, and no other."""
    commits = history.commits(era, id_digest(f"id of {tag}"))
    forgotten = len(commits) == count and all(
        history.forgotten_by(first, again, 1000 * scenario.mix.retention) for first, again in pairwise(commits)
    )
    if scenario.may_come_again(told) and forgotten:
        scenario.counts["appended again, being forgotten"] += 1
    else:
        violations.append(f"append {tag} is in the table {count} times, by versions {commits}: {told}")


def _is_staged(scenario: Scenario, tag: str) -> bool:
    own = id_digest(f"id of {tag}")
    return any(f"-{own}-" in key for key in scenario.store.objects if key.startswith(STAGED))
