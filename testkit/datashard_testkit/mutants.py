"""The safety rules of the commit protocol, each with a switch that breaks it.

A harness that finds nothing proves nothing unless it finds what is there: with each of these in
force the simulation has to report a violation. The switches patch the modules of the process that
they run in for as long as the block lasts, and exist here alone.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any
from unittest import mock

from datashard_core.commit.append import batch, group_append, protocol, publish, queue
from datashard_core.commit.core.current_version import find_current
from datashard_core.commit.core.recorded_ids import Refusal
from datashard_core.commit.core.state import require_live
from datashard_core.commit.staging import examine
from datashard_core.commit.staging.errors import UnreadableBodyError
from datashard_core.commit.staging.key import Classified, StagedName
from datashard_core.effects.requests import Delete
from datashard_core.effects.tasks import gather, join, outcomes_of
from datashard_testkit import mutants_of_history
from datashard_testkit.faults import Faults
from datashard_testkit.workloads import SHORT_LIVED, Mix


@dataclass(frozen=True)
class Mutant:
    """One rule switched off.

    Attributes:
        rule: its name in the design page.
        mix: a mix in which its absence shows.
        off: switches it off within a block.
    """

    rule: str
    mix: Mix
    off: Callable[[], Any]


@contextmanager
def _no_base_rule() -> Iterator[None]:
    """Whatever is listed is committed, named or not."""

    def classify(
        listed: Sequence[StagedName], recorded: Any, version: int, own: frozenset[str], table_first: int
    ) -> Classified:
        first: dict[str, StagedName] = {}
        for name in sorted(listed):
            if name.base <= version and name.id not in own:
                first.setdefault(name.id, name)
        return Classified(tuple(sorted(first.values())), ())

    with mock.patch.object(batch, "classify", classify):
        yield


@contextmanager
def _no_look_up_of_handed_in_ids() -> Iterator[None]:
    """A handed-in id is taken for unnamed up to the version that happens to be current."""

    async def enter(group: Any, state: Any, found: Any, *looked_up: Any) -> None:
        group.state = state
        await gather()
        group.bases = dict.fromkeys(group.waiting, state.body.version)

    with mock.patch.object(protocol, "_enter", enter):
        yield


@contextmanager
def _no_look_after_taken() -> Iterator[None]:
    """A lost race is a lost race: nobody looks whether the winner was oneself."""
    real = group_append.read_on

    async def read_on(group: Any, *, whole: bool = True) -> bool:
        if group.staged:
            return await real(group, whole=whole)
        found = await find_current(group.target.root, group.known.body)
        newer = found is not None and found.newest.version > group.known.body.version
        if newer:
            group.state = require_live(found, group.state, group.target)
            group.bases = dict.fromkeys(group.waiting, group.state.body.version)
        return newer

    with mock.patch.object(protocol, "read_on", read_on), mock.patch.object(queue, "read_on", read_on):
        yield


@contextmanager
def _unknown_taken_for_failed() -> Iterator[None]:
    """An unknown outcome is reported as a failure at once."""
    from datashard_core.errors import StorageError
    from datashard_core.storage.base import OutcomeUnknownError

    real = publish.commit

    async def commit(*arguments: Any, **options: Any) -> Any:
        outcome = await real(*arguments, **options)
        if isinstance(outcome.cause, OutcomeUnknownError):
            raise StorageError("the commit failed", reason="other")
        return outcome

    with mock.patch.object(protocol, "commit", commit):
        yield


@contextmanager
def _many_bodies_for_one_id() -> Iterator[None]:
    """Every staged object counts, also a second one of the same id."""
    from datashard_core.commit.staging import key as staging_key

    real = staging_key.classify

    def classify(
        listed: Sequence[StagedName], recorded: Any, version: int, own: frozenset[str], table_first: int
    ) -> Classified:
        allowed: list[StagedName] = []
        reclaimable: list[StagedName] = []
        for name in sorted(listed):
            one = real([name], recorded, version, own, table_first)
            allowed += one.allowed
            reclaimable += one.reclaimable
        return Classified(tuple(allowed), tuple(reclaimable))

    with mock.patch.object(batch, "classify", classify):
        yield


@contextmanager
def _staged_objects_deleted_on_a_guess() -> Iterator[None]:
    """What a try has taken along is deleted whether or not its version came to be."""
    real = batch.add_staged

    async def add_staged(
        target: Any, state: Any, chosen: Sequence[StagedName], load: Any, *rest: Any, **options: Any
    ) -> Any:
        known = await real(target, state, chosen, load, *rest, **options)
        if chosen:
            await outcomes_of((Delete(tuple(name.key for name in chosen)),))
        return known

    with mock.patch.object(publish, "add_staged", add_staged):
        yield


@contextmanager
def _clean_up_on_a_guess() -> Iterator[None]:
    """A try whose outcome is unknown deletes "its" files."""
    from datashard_core.storage.base import OutcomeUnknownError

    real = publish.create

    async def create(target: Any, draft: Any, reclaimable: Any) -> Any:
        outcome = await real(target, draft, reclaimable)
        if isinstance(outcome.cause, OutcomeUnknownError):
            await outcomes_of((Delete((draft.prepared.manifest_list_key,)),))
        return outcome

    with mock.patch.object(publish, "create", create), mock.patch.object(protocol, "create", create):
        yield


@contextmanager
def _uncommitted_refusals() -> Iterator[None]:
    """A waiter that meets a body which cannot be read reports a failure by its own judgement."""
    dice = iter(range(10**9))

    def decode(*arguments: Any) -> Any:
        if next(dice) % 3 == 0:
            raise UnreadableBodyError("this committer cannot read it")
        return real(*arguments)

    from datashard_core.commit.staging.body import decode_body as real

    real_take = batch.add_staged

    async def add_staged(
        target: Any, state: Any, chosen: Sequence[StagedName], load: Any, *rest: Any, **options: Any
    ) -> Any:
        known = await real_take(target, state, chosen, load, *rest, **options)
        refused = [own for own, record in load.names.items() if isinstance(record, Refusal)]
        for own in refused:
            del load.names[own]
            refusals.add(own)
        load.carried[:] = [name for name in load.carried if name.id not in refused]
        return known

    refusals: set[str] = set()
    real_position = queue._position

    async def position(group: Any, listed: Any) -> int:
        from datashard_core.errors import AppendRefusedError

        for own in [own for own in group.waiting if own in refusals]:
            group.results[own] = AppendRefusedError("refused")
            del group.waiting[own]
        if not group.waiting:
            return 1
        return await real_position(group, listed)

    with (
        mock.patch.object(examine, "decode_body", decode),
        mock.patch.object(publish, "add_staged", add_staged),
        mock.patch.object(queue, "_position", position),
    ):
        yield


_LISTS = "metadata/manifests/manifest_list_"
_BUSY = Mix(writers=6, appends=4, think=0.05, handed_in=0.5, twins=0.3, deferred=0.3, fresh=0.3, foreign=0)
_LOSSY = Faults(after=0.10, late=0.08, twice=0.10, before=0.03, suspend=0.01, crash=0.004)

_OLD = replace(_BUSY, handed_in=1.0, twins=0.9, fresh=0.5, appends=8, think=0.4, block=2, runs_again=8, deferred=0.1)
_DOZING = Faults(suspend=0.1, suspend_seconds=8.0)
_SLEEPY = replace(
    _BUSY,
    writers=4,
    appends=8,
    think=0.5,
    deferred=0.0,
    keepers=4,
    grace=1.0,
    faults=Faults(suspend=0.05, suspend_seconds=8.0),
)


@contextmanager
def _files_named_before_they_are_sent() -> Iterator[None]:
    """Whether the data files of an append reached the store is not looked at."""

    async def all_sent(group: Any, sent: Any) -> None:
        await join(sent)

    with mock.patch.object(protocol, "_all_sent", all_sent):
        yield


MUTANTS = (
    Mutant("base rule", replace(_BUSY, faults=_LOSSY), _no_base_rule),
    Mutant(
        "look-up of handed-in ids",
        replace(_BUSY, handed_in=1.0, twins=0.8, faults=Faults(suspend=0.02)),
        _no_look_up_of_handed_in_ids,
    ),
    Mutant(
        "one's own ids after taken",
        replace(_BUSY, faults=Faults(twice=0.4, after=0.15)),
        _no_look_after_taken,
    ),
    Mutant(
        "an unknown outcome is no failure",
        replace(_BUSY, writers=3, appends=8, think=1.0, twins=0.0, deferred=0.0, faults=Faults(after=0.25)),
        _unknown_taken_for_failed,
    ),
    Mutant(
        "one body for each id",
        replace(_BUSY, writers=8, think=0.0, twins=0.9, handed_in=0.8, faults=Faults(stale_list=0.5)),
        _many_bodies_for_one_id,
    ),
    Mutant(
        "the delete rule for staged objects",
        replace(_BUSY, deferred=0.6, faults=Faults(conflict=0.3, before=0.1, crash=0.01)),
        _staged_objects_deleted_on_a_guess,
    ),
    Mutant("never delete on a guess", replace(_BUSY, faults=Faults(after=0.3)), _clean_up_on_a_guess),
    Mutant("committed refusals", replace(_BUSY, deferred=0.0, faults=Faults()), _uncommitted_refusals),
    Mutant(
        "list before read, for staged rows",
        replace(
            _BUSY, deferred=0.7, think=0.3, readers=8, handed_in=0.0, faults=Faults(suspend=0.1, suspend_seconds=3.0)
        ),
        mutants_of_history.version_before_listing,
    ),
    Mutant(
        "property number", replace(_BUSY, foreign=2, keep_property=1.0), mutants_of_history.copied_property_believed
    ),
    Mutant("nodes are pure functions", replace(_OLD, faults=Faults()), mutants_of_history.impure_nodes),
    Mutant(
        "a missing read is an error",
        replace(_BUSY, fresh=1.0, think=1.0, faults=Faults(before=0.1)),
        mutants_of_history.missing_read_taken_for_empty,
    ),
    Mutant(
        "refused only if every body of the id is bad",
        replace(_BUSY, deferred=0.8, think=0.3, spoilers=4, faults=Faults()),
        mutants_of_history.refused_at_the_first_bad_body,
    ),
    Mutant(
        "uuid before look-up",
        replace(_BUSY, drops=2, deferred=0.0, handed_in=1.0, faults=Faults(suspend=0.02, suspend_seconds=5.0)),
        mutants_of_history.any_table_of_the_name_will_do,
    ),
    Mutant(
        "the origin of a table made again is looked for",
        replace(_OLD, drops=1, foreign=3, foreign_commits=8, keep_property=0.0, think=0.5),
        mutants_of_history.origin_forgotten,
    ),
    Mutant(
        "nodes before tombstones",
        replace(_OLD, handed_in=0.2, twins=0.0, keepers=3, turns=8, age=0.3, properties=SHORT_LIVED, faults=Faults()),
        mutants_of_history.tombstones_before_nodes,
    ),
    Mutant(
        "fence",
        replace(_SLEEPY, writers=1, think=1.0, twins=0.0, keepers=4, turns=20, faults=_DOZING),
        mutants_of_history.no_fence,
    ),
    Mutant(
        "files are in the store before they are named",
        replace(_BUSY, large=1.0, faults=Faults(before=0.1)),
        _files_named_before_they_are_sent,
    ),
    Mutant("age of finished files", replace(_SLEEPY, large=1.0), mutants_of_history.files_of_any_age),
)
