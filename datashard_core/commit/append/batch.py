"""Collect the appends of the next version: the committer's own, and every staged one that may be committed.

The committer checks the base rule for each append, its own and those of others: no version in (base, N] records the id.
v(N+1) is created only if it is absent, so what was true of version N is true of the commit.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from typing import Any

from msgspec import Struct, field
from msgspec.structs import replace

from datashard_core.commit.append.file_age import ensure_recent
from datashard_core.commit.append.manifest_reads import load_manifests
from datashard_core.commit.append_ids.lookback import ForgottenError, RecordedOutcome, lowest_recorded
from datashard_core.commit.append_ids.lookup import look_up
from datashard_core.commit.core.next_version import check_schema_still_fits
from datashard_core.commit.core.recorded_ids import Record, Refusal
from datashard_core.commit.core.state import Append, TableState, Target
from datashard_core.commit.core.version_file import VersionFile
from datashard_core.commit.staging.examine import Examined, Good, check_files, fit, opened, refusal
from datashard_core.commit.staging.key import Classified, StagedName, classify
from datashard_core.commit.staging.set_aside import MAX_BYTES, Aside
from datashard_core.effects.requests import Get, Request
from datashard_core.effects.tasks import gather, outcomes_of, result_of
from datashard_core.errors import CorruptTableError, DataShardError, StorageError
from datashard_core.format.metadata.data_file import DataFile
from datashard_core.format.rows.python_rows import Rows

log = logging.getLogger(__name__)

MAX_APPENDS = 512


class CommitBatch(Struct):
    """The appends that one version commits or refuses.

    Attributes:
        names: digest of append id -> what the version records of it.
        tables: rows.
        files: finished data files.
        carried: the staged objects that it records.
        keys: keys of the data files that staged objects describe.
        aside: objects that were read and set aside, and why.
    """

    names: dict[str, Record] = field(default_factory=dict)
    tables: list[Rows] = field(default_factory=list)
    files: list[DataFile] = field(default_factory=list)
    carried: list[StagedName] = field(default_factory=list)
    keys: set[str] = field(default_factory=set)
    aside: dict[StagedName, Aside] = field(default_factory=dict)


def within_limits(names: Sequence[StagedName], size: int, count: int) -> list[StagedName]:
    """The names that fit into one commit, oldest base first. One that is too large does not keep smaller ones out."""
    chosen = []
    for name in names:
        if count + 1 > MAX_APPENDS:
            break
        if size + name.size <= MAX_BYTES:
            chosen.append(name)
            size += name.size
            count += 1
    return chosen


async def classify_listed(
    target: Target, version_file: VersionFile, listed: Sequence[StagedName], own: Mapping[str, Append]
) -> Classified:
    """Apply the base rule and the delete rule to a listing; read the part of the history that they need."""
    known, recorded = await recorded_outcomes_of(target, version_file, listed)
    return classify(known, recorded, version_file.version, frozenset(own), version_file.first)


async def recorded_outcomes_of(
    target: Target, version_file: VersionFile, listed: Sequence[StagedName]
) -> tuple[Sequence[StagedName], Mapping[str, RecordedOutcome]]:
    """What the history records of the listed appends, each after its own base.

    Returns:
        The names whose history can be read, and the latest record of each id. The other names are left alone with
        their objects: the committer does not guess, and no writer waits for them.
    """
    below = [name for name in listed if name.base <= version_file.version]
    try:
        return below, (await _look_up(target, version_file, below))
    except (StorageError, CorruptTableError, ForgottenError) as error:
        floor = lowest_recorded(version_file) - 1
        if isinstance(error, ForgottenError):
            floor = min(floor, error.until - 1)
        kept = [name for name in below if name.base >= floor]
        log.warning(
            "table %s: %d staged appends are left alone: the append ids of versions from %d on cannot be read: %s",
            target.name,
            len(below) - len(kept),
            min(name.base for name in below) + 1,
            error,
        )
        return kept, (await _look_up(target, version_file, kept))


async def _look_up(
    target: Target, version_file: VersionFile, names: Sequence[StagedName]
) -> dict[str, RecordedOutcome]:
    if not names:
        return {}
    return await look_up(
        frozenset(name.id for name in names),
        version_file,
        above=min(name.base for name in names),
        bodies={},
        history=target.history,
    )


async def add_staged(
    target: Target,
    state: TableState,
    chosen: Sequence[StagedName],
    batch: CommitBatch,
    others: Mapping[str, Sequence[StagedName]] | None = None,
    exists: int | None = None,
) -> TableState:
    """Read the staged bodies and add them to the batch; read the missing live manifests in parallel.

    Args:
        target: the table.
        state: the version that is built on.
        chosen: one name for each id.
        batch: gets their rows and files, and the refusals.
        others: further names of the same ids. An id is refused only if all its bodies are bad: a
            writer whose first object was damaged may have staged again.
        exists: the newest version that surely exists; None: ``state``.
    """
    others = others or {}
    against = state.body.version if exists is None else exists
    outcomes, state = await gather(_outcomes([Get(name.key) for name in chosen]), load_manifests(target, state))
    examined = await _examine(target, state.body, chosen, outcomes, against)
    doubtful = [first for first in chosen if isinstance(examined[first], (Refusal, Aside))]
    more = [name for first in doubtful for name in others.get(first.id, ())]
    if more:
        outcomes = await outcomes_of([Get(name.key) for name in more])
        examined.update(await _examine(target, state.body, more, outcomes, against))
    batch.aside.update({name: one for name, one in examined.items() if isinstance(one, Aside)})
    for first in chosen:
        tries = (first, *others.get(first.id, ()))
        result = _verdict([examined[name] for name in tries if name in examined])
        if isinstance(result, Good) and not batch.keys.isdisjoint(result.keys):
            result = refusal("another staged append describes the same data file")
        if result is None or isinstance(result, Aside):
            continue  # gone, so a newer version records it; or not readable now, and the next commit adds it
        batch.names[first.id] = result.digest if isinstance(result, Good) else result
        if isinstance(result, Good):
            batch.tables += [result.rows] if result.rows is not None else []
            batch.files += result.files
            batch.keys.update(result.keys)
        batch.carried += tries
    return state


def _verdict(examined: Sequence[Examined]) -> Examined:
    """The result for an id: its first good body; else none while a body is missing or set aside; else the refusal."""
    good = next((one for one in examined if isinstance(one, Good)), None)
    unknown = next((one for one in examined if one is None or isinstance(one, Aside)), examined[0])
    return good if good is not None else unknown


async def _outcomes(requests: Sequence[Request[Any]]) -> Sequence[Any]:
    return (await outcomes_of(requests)) if requests else ()


async def _examine(
    target: Target, version_file: VersionFile, names: Sequence[StagedName], outcomes: Sequence[Any], against: int
) -> dict[StagedName, Examined]:
    """Decode the bodies; compare described files with their descriptions, and copy old files."""
    examined = opened(target, version_file, names, outcomes)
    described = {name: one for name, one in examined.items() if isinstance(one, Good) and one.files}
    if described:
        files = [file for good in described.values() for file in good.files]
        checked, named = await gather(
            check_files(described), ensure_recent(target, version_file.table.location, files, against)
        )
        outcome = iter(named)
        for name, good in described.items():
            mine = [next(outcome) for _ in good.files]
            examined[name] = _with_files(checked[name], mine)
    return examined


def _with_files(checked: Examined, outcomes: Sequence[DataFile | DataShardError]) -> Examined:
    if not isinstance(checked, Good) or any(isinstance(outcome, DataShardError) for outcome in outcomes):
        return checked if not isinstance(checked, Good) else None
    return replace(checked, files=tuple(result_of(outcome) for outcome in outcomes))


def add_own(append: Append, version_file: VersionFile, target: Target, batch: CommitBatch) -> None:
    """Add an append of the committer itself to the batch.

    Raises:
        InvalidRecordsError: the table's schema changed, and the rows do not fit it any longer.
    """
    check_schema_still_fits(append.schema, version_file.table.schema, target.name)
    batch.names[append.id] = append.digest
    if append.rows is not None:
        batch.tables.append(fit(append.rows, version_file, target.name))
    batch.files += append.files


def size_of(append: Append) -> int:
    """Bytes that count towards :data:`MAX_BYTES`."""
    return append.rows.nbytes if append.rows is not None else 0
