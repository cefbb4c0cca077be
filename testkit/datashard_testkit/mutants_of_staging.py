"""The rules of what is refused and what is set aside, each with a switch: see :mod:`datashard_testkit.mutants`."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any
from unittest import mock

from msgspec.structs import replace as changed

from datashard_core.commit.append import batch, deferred, protocol, publish, queue
from datashard_core.commit.core.paths import key_of
from datashard_core.commit.core.properties import settings_of
from datashard_core.commit.core.recorded_ids import Refusal
from datashard_core.commit.maintenance import abandoned
from datashard_core.commit.staging import examine, set_aside
from datashard_core.commit.staging import key as staging_key
from datashard_core.commit.staging.key import StagedName
from datashard_core.commit.staging.set_aside import Aside
from datashard_core.effects.tasks import gather
from datashard_testkit.faults import Faults
from datashard_testkit.mutants import Mutant
from datashard_testkit.workloads import Mix


@contextmanager
def _a_place_outside_is_an_error() -> Iterator[None]:
    """A body that describes a file elsewhere fails whoever meets it, as it did once."""

    def key(file: Any, body: Any, target: Any) -> str:
        return key_of(file.file_path, body.table.location, target.root)

    with mock.patch.object(examine, "_key_of", key):
        yield


@contextmanager
def _descriptions_believed() -> Iterator[None]:
    """Nobody looks whether a described file is what the body says."""

    async def check_files(goods: Mapping[StagedName, Any]) -> Mapping[StagedName, Any]:
        await gather()
        return goods

    with mock.patch.object(batch, "check_files", check_files):
        yield


@contextmanager
def _flush_waits_for_what_is_set_aside() -> Iterator[None]:
    """A flush goes on until its deadline, as it does for bodies that the store does not give now."""
    with mock.patch.object(deferred, "_set_aside", lambda *_: None):
        yield


@contextmanager
def _unknown_schema_refused() -> Iterator[None]:
    """A schema that the committer does not know is taken for one that never will be."""
    real = examine._opened

    def opened(*arguments: Any) -> Any:
        one = real(*arguments)
        return Refusal(one.reason) if isinstance(one, Aside) and one.schema is not None else one

    with mock.patch.object(examine, "_opened", opened):
        yield


@contextmanager
def _set_aside_for_good() -> Iterator[None]:
    """What a process has once set aside it never looks at again, whatever schema the table gets."""
    real = set_aside.remember

    def remember(root: str, name: StagedName, one: Aside) -> None:
        real(root, name, changed(one, schema=None))

    with mock.patch.object(examine, "remember", remember):
        yield


@contextmanager
def _base_above_the_newest_committed() -> Iterator[None]:
    """A base that is above the newest version is taken for the newest version."""
    real_judge, real_aside = staging_key.classify, set_aside.aside_by_name

    def classify(listed: Sequence[StagedName], recorded: Any, version: int, own: frozenset[str], first: int = 0) -> Any:
        return real_judge(
            [changed(name, base=min(name.base, version)) for name in listed], recorded, version, own, first
        )

    def by_name(root: str, name: StagedName, body: Any) -> Aside | None:
        return real_aside(root, changed(name, base=min(name.base, body.version)), body)

    async def recorded_outcomes_of(target: Any, body: Any, listed: Sequence[StagedName]) -> Any:
        return await real_said(target, body, [changed(n, base=min(n.base, body.version)) for n in listed])

    real_said = batch.recorded_outcomes_of
    real_key = StagedName.key.fget  # type: ignore[attr-defined]
    bases: dict[str, int] = {}

    def parsed(infos: Any) -> list[StagedName]:
        names = real_parse(infos)
        bases.update({name.nonce: name.base for name in names})
        return names

    def key(name: StagedName) -> str:
        return str(real_key(changed(name, base=bases.get(name.nonce, name.base))))

    real_parse = staging_key.parse_listed
    with (
        mock.patch.object(batch, "classify", classify),
        mock.patch.object(batch, "recorded_outcomes_of", recorded_outcomes_of),
        mock.patch.object(set_aside, "aside_by_name", by_name),
        mock.patch.object(deferred, "aside_by_name", by_name),
        mock.patch.object(StagedName, "key", property(key)),
        mock.patch.object(deferred, "parse_listed", parsed),
        mock.patch.object(publish, "parse_listed", parsed),
        mock.patch.object(queue, "parse_listed", parsed),
        mock.patch.object(protocol, "parse_listed", parsed),
    ):
        yield


@contextmanager
def _removed_before_their_time() -> Iterator[None]:
    """Maintenance removes what is set aside however young it is."""

    def settings(properties: Mapping[str, str]) -> Any:
        return changed(settings_of(properties), id_retention_ms=-10_000_000)

    with mock.patch.object(abandoned, "settings_of", settings):
        yield


_CRAFTED = Mix(writers=3, appends=4, deferred=0.4, handed_in=0.3, twins=0.0, foreign=0, readers=1, faults=Faults())
_NEWER = replace(_CRAFTED, newcomers=4, give_up=20.0)

STAGED_MUTANTS = (
    Mutant("a described file lies in the table", replace(_CRAFTED, crafters=6), _a_place_outside_is_an_error),
    Mutant("descriptions are held against the files", replace(_CRAFTED, crafters=6), _descriptions_believed),
    Mutant("nothing waits for what is set aside", _NEWER, _flush_waits_for_what_is_set_aside),
    Mutant("an unknown schema is set aside", _NEWER, _unknown_schema_refused),
    Mutant("what was set aside is looked at again", _NEWER, _set_aside_for_good),
    Mutant("a base above the newest version is set aside", _NEWER, _base_above_the_newest_committed),
    Mutant("set aside for the retention", replace(_NEWER, keepers=3, turns=20, grace=4.0), _removed_before_their_time),
)
