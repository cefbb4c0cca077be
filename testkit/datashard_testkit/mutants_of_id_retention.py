"""The rules of how long append ids are remembered, each with a switch: see :mod:`datashard_testkit.mutants`."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from typing import Any
from unittest import mock

from datashard_core.commit.append import batch, group_append
from datashard_core.commit.append_ids import lookup
from datashard_core.commit.append_ids.segment import SegmentName
from datashard_core.commit.maintenance import id_expiry
from datashard_core.effects.tasks import gather
from datashard_testkit.faults import Faults
from datashard_testkit.mutants import Mutant
from datashard_testkit.workloads import SHORT_LIVED, Mix


@contextmanager
def _retention_ignored_by_removal() -> Iterator[None]:
    """Nodes are removed however young the versions are whose names they hold."""
    with mock.patch.object(id_expiry, "retention_cutoff_ms", lambda _newest: 2**62):
        yield


@contextmanager
def _retention_ignored_by_look_ups() -> Iterator[None]:
    """A look-up ends at the first node of the top level, whatever its age."""
    with mock.patch.object(lookup, "retention_cutoff_ms", lambda _newest: 2**62):
        yield


@contextmanager
def _removed_without_a_cover() -> Iterator[None]:
    """Nodes are removed as soon as they are old, also where no later one holds what they do."""
    real = id_expiry.choose

    def choose(old: Iterable[SegmentName], headers: Mapping[SegmentName, Any], *rest: Any) -> Any:
        names = list(old)
        doomed = real(names, headers, *rest)
        return id_expiry.ToRemove(doomed.forgotten, tuple(names), doomed.before)

    with mock.patch.object(id_expiry, "choose", choose):
        yield


@contextmanager
def _no_mark() -> Iterator[None]:
    """Nodes out of the retention are removed, and nothing says that they were."""

    async def move_mark(*_: Any) -> None:
        await gather()

    with mock.patch.object(id_expiry, "_move_watermark", move_mark):
        yield


@contextmanager
def _forgotten_taken_for_unnamed() -> Iterator[None]:
    """Who judges an append by its base takes what is forgotten for a history that names nothing."""

    async def look_up(*arguments: Any, **options: Any) -> dict[str, Any]:
        remembered = await lookup.look_up_since(*arguments, **options)
        return dict(remembered.recorded)

    with mock.patch.object(batch, "look_up", look_up), mock.patch.object(group_append, "look_up", look_up):
        yield


FORGETFUL = Mix(
    writers=4, appends=12, think=0.5, handed_in=1.0, twins=0.9, late=6.0, retention=2.0, deferred=0.2, large=0.0,
    grouped=0.0, foreign=0, readers=1, keepers=5, turns=20, grace=4.0, age=0.5, block=2, properties=SHORT_LIVED,
    runs_again=8, faults=Faults(suspend=0.02, suspend_seconds=20.0),
)  # fmt: skip
"""A table that remembers ids for two seconds, with maintenance all the time, and writers that doze."""

_LONG = replace(FORGETFUL, retention=30.0)
_DOZING = replace(FORGETFUL, writers=8, faults=Faults(suspend=0.05, suspend_seconds=20.0))

ID_RETENTION_MUTANTS = (
    Mutant("nodes within the retention stay", _LONG, _retention_ignored_by_removal),
    Mutant("look-ups reach as far back as the retention", _LONG, _retention_ignored_by_look_ups),
    Mutant("a node is removed only where a later one covers it", _LONG, _removed_without_a_cover),
    Mutant("what is forgotten is marked before it is removed", _DOZING, _no_mark),
    Mutant(
        "what is forgotten is not taken for unnamed",
        replace(FORGETFUL, handed_in=0.2, faults=Faults(suspend=0.05, suspend_seconds=20.0)),
        _forgotten_taken_for_unnamed,
    ),
)
