"""The rules about counting rows and remembering bases, each with a switch that breaks it.

See :mod:`datashard_testkit.mutants`.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any
from unittest import mock

from msgspec.structs import replace as with_changes

from datashard_core.commit.append import protocol, publish
from datashard_core.commit.append_ids.lookup import LookupResult
from datashard_core.commit.core import manifest_merge
from datashard_core.commit.core.manifest_merge import as_existing
from datashard_core.commit.core.next_version import manifest_of, snapshot_id_from
from datashard_core.commit.maintenance import compact
from datashard_core.format.manifests.manifest import ADDED, DELETED, ManifestEntry
from datashard_testkit.faults import Faults
from datashard_testkit.mutants import Mutant
from datashard_testkit.workloads import SHORT_LIVED, Mix


@contextmanager
def nobody_counts() -> Iterator[None]:
    """Whether the rows of a commit add up is not looked at."""

    def account_for(*_: Any) -> None:
        return None

    with mock.patch.object(publish, "account_for", account_for), mock.patch.object(compact, "account_for", account_for):
        yield


@contextmanager
def _sources_are_a_set() -> Iterator[None]:
    """A compaction takes out every entry of its sources at once, however often each of them was read."""

    def rewritten(unique: str, table: Any, holders: Sequence[Any], sources: Sequence[Any], new: Any) -> Any:
        left = {file.file_path for file in sources}
        snapshot_id = snapshot_id_from(unique)
        entries: list[ManifestEntry] = []
        for entry in (entry for _, held in holders for entry in held if entry.status != DELETED):
            if entry.data_file.file_path not in left:
                entries.append(as_existing(entry))
                continue
            if len(left) == len(sources):
                entries.append(ManifestEntry(ADDED, snapshot_id, None, None, new))
            left.discard(entry.data_file.file_path)
            entries.append(with_changes(entry, status=DELETED, snapshot_id=snapshot_id))
        return None if left else manifest_of(unique, snapshot_id, entries, table.schema, table.spec)

    with nobody_counts(), mock.patch.object(compact, "rewritten", rewritten):
        yield


@contextmanager
def _a_merge_names_each_file_once() -> Iterator[None]:
    """Manifests are merged by the paths of their files, and nobody counts."""
    real = manifest_merge.merged

    def merged(unique: str, table: Any, snapshot_id: int, read: Sequence[Any]) -> Any:
        seen: set[str] = set()
        once = []
        for manifest, entries in read:
            kept = [entry for entry in entries if entry.data_file.file_path not in seen]
            seen.update(entry.data_file.file_path for entry in kept)
            once.append((manifest, tuple({entry.data_file.file_path: entry for entry in kept}.values())))
        return real(unique, table, snapshot_id, once)

    with nobody_counts(), mock.patch.object(manifest_merge, "merged", merged):
        yield


@contextmanager
def _a_base_is_only_good_until_others_commit() -> Iterator[None]:
    """Two look-ups one after the other count as one that begins where the second does."""

    def joined(earlier: LookupResult, later: LookupResult, above: int) -> LookupResult:
        return LookupResult({**earlier.recorded, **later.recorded}, max(earlier.since, later.since))

    with mock.patch.object(protocol, "_joined", joined):
        yield


_TWICE = Mix(
    writers=4, appends=8, think=0.5, handed_in=0.3, twins=0.1, deferred=0.1, fresh=0.3, foreign=0, readers=1,
    namers=6, keepers=6, grace=30.0, age=1.0, turns=8, properties=SHORT_LIVED,
)  # fmt: skip
_ASKED_AGAIN = Mix(
    writers=6, appends=8, think=0.5, handed_in=0.3, twins=0.1, deferred=0.0, fresh=0.3, foreign=0, give_up=2.0,
    faults=Faults(late=0.5, late_seconds=30.0),
)  # fmt: skip

ROW_ACCOUNTING_MUTANTS = (
    Mutant("a file that is named twice counts twice", _TWICE, _sources_are_a_set),
    Mutant("rows are accounted for", replace(_TWICE, keepers=0), _a_merge_names_each_file_once),
    Mutant("a base stays good while others commit", _ASKED_AGAIN, _a_base_is_only_good_until_others_commit),
)
