"""The rules of maintenance, each with a switch that breaks it: see :mod:`datashard_testkit.mutants`."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from typing import Any
from unittest import mock

from msgspec.structs import replace as with_changes

from datashard_core.commit.append import batch, publish
from datashard_core.commit.append_ids import lookback
from datashard_core.commit.core import current_version, state
from datashard_core.commit.core.version_file import VersionFile, parse_version
from datashard_core.commit.maintenance import compact, orphans, small_files
from datashard_core.commit.versions import metadata_expiry
from datashard_core.effects.requests import Delete, Head, Put
from datashard_core.effects.tasks import gather, outcomes_of
from datashard_core.format.manifests.manifest import DELETED
from datashard_testkit.faults import Faults
from datashard_testkit.mutants import Mutant
from datashard_testkit.mutants_of_row_accounting import nobody_counts
from datashard_testkit.workloads import SHORT_LIVED, Mix


@contextmanager
def _no_nodes_before_tombstones() -> Iterator[None]:
    """Versions are replaced whether or not an id node holds their names; whoever commits dies before it writes one."""

    async def remembered(*_: Any) -> bool:
        await gather()
        return True

    async def upkeep(*_: Any) -> None:
        await gather()

    with mock.patch.object(metadata_expiry, "_remembered", remembered), mock.patch.object(publish, "upkeep", upkeep):
        yield


@contextmanager
def _tombstones_name_nothing() -> Iterator[None]:
    """A tombstone counts as a version that names nothing."""

    def parse(data: bytes, version: int, where: str) -> VersionFile:
        body = parse_version(data, version, where)
        return with_changes(body, state="emptied") if body.state == "tombstone" else body

    with ExitStack() as stack:
        for module in (lookback, current_version, state):
            stack.enter_context(mock.patch.object(module, "parse_version", parse))
        yield


@contextmanager
def _no_fence() -> Iterator[None]:
    """Orphans are deleted without a version that fences it, by the age that they have now."""

    async def fence(target: Any, known: Any, commit_id: str) -> Any:
        await gather()
        return known

    async def delete(_target: Any, doomed: Sequence[Any], fence: int, grace: float) -> Any:
        await outcomes_of((Put(_NOW, b""),))
        now = await Head(_NOW)
        old = tuple(info.key for info in doomed if now.last_modified - info.last_modified >= grace)
        if old:
            await Delete(old)
        return orphans.Removed(len(old), 0, len(doomed) - len(old), fence)

    with mock.patch.object(orphans, "_fence", fence), mock.patch.object(orphans, "_delete", delete):
        yield


_NOW = "_datashard/now"


@contextmanager
def _no_age_check() -> Iterator[None]:
    """Files are named as new however old they are."""

    async def ensure_recent(target: Any, location: str, files: Sequence[Any], against: int) -> list[Any]:
        await gather()
        return list(files)

    async def ensure_own_recent(target: Any, body: Any, own: Mapping[str, Any]) -> Mapping[str, Any]:
        await gather()
        return own

    with (
        mock.patch.object(batch, "ensure_recent", ensure_recent),
        mock.patch.object(publish, "ensure_own_recent", ensure_own_recent),
    ):
        yield


@contextmanager
def _staged_descriptions_not_read() -> Iterator[None]:
    """Files that staged appends describe are orphans like others, and their age is not asked."""

    async def described(target: Any) -> Any:
        await gather()
        return orphans._Described(set())

    with _no_age_check(), mock.patch.object(orphans, "_described", described):
        yield


@contextmanager
def _sources_not_checked() -> Iterator[None]:
    """A compaction is committed though some of its sources are not live any more."""
    real = small_files.rewritten

    def rewritten(unique: str, table: Any, holders: Sequence[Any], sources: Sequence[Any], new: Any) -> Any:
        there = {one.data_file.file_path for _, entries in holders for one in entries if one.status != DELETED}
        found = [file for file in sources if file.file_path in there]
        return real(unique, table, holders, found, new) if found else None

    with nobody_counts(), mock.patch.object(compact, "rewritten", rewritten):  # else the count stops it
        yield


_BUSY = Mix(
    writers=6, appends=6, think=1.0, handed_in=0.5, twins=0.3, deferred=0.2, fresh=0.3, foreign=0, readers=0,
    keepers=6, grace=4.0, age=1.0, block=2, properties=SHORT_LIVED,
)  # fmt: skip
_QUIET = replace(_BUSY, writers=3, think=3.0, handed_in=0.0, twins=0.0, deferred=0.0, grace=2.0, keepers=12)
"""Where nobody commits while one sleeps, only the fence takes the name that it wants to create."""
_OFTEN_AGAIN = replace(_BUSY, appends=10, handed_in=1.0, twins=0.9, late=30.0, runs_again=24)
"""Who runs an append again a while later asks for its id where tombstones are by then."""
_SLEEPY = Faults(suspend=0.05, suspend_seconds=120.0)

UPKEEP_MUTANTS = (
    Mutant(
        "nodes before tombstones",
        replace(_BUSY, writers=2, appends=24, think=0.5, handed_in=0.1, twins=0.0, deferred=0.0),
        _no_nodes_before_tombstones,
    ),
    Mutant(
        "a tombstone names what the nodes say",
        replace(_OFTEN_AGAIN, block=4, faults=Faults(suspend=0.06, suspend_seconds=60.0)),
        _tombstones_name_nothing,
    ),
    Mutant("the fence", replace(_QUIET, faults=Faults(suspend=0.1, suspend_seconds=20.0)), _no_fence),
    Mutant("the age of files named as new", replace(_BUSY, large=0.7, faults=_SLEEPY), _no_age_check),
    Mutant(
        "what staged appends describe is live",
        replace(_BUSY, large=0.7, faults=_SLEEPY),
        _staged_descriptions_not_read,
    ),
    Mutant("a compaction's sources are live", replace(_BUSY, keepers=24, think=0.3), _sources_not_checked),
)
