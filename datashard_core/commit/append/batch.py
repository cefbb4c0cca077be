"""What the next version carries: a committer's own appends, and every staged one that may be carried.

Whoever commits checks the base rule for each append, its own and the strangers': no version in
(base, N] names its id. v(N+1) is created only if absent, so what was true of N is true of the
commit.
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
    """What one version is about to carry.

    Attributes:
        names: digest of append id -> what the version says of it.
        tables: rows.
        files: finished data files.
        carried: the staged objects that it names.
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
    """The names that fit into one commit, oldest base first; one that is too large keeps no smaller one out."""
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
    target: Target, body: VersionFile, listed: Sequence[StagedName], own: Mapping[str, Append]
) -> Classified:
    """Base rule and delete rule over a listing, reading what of the history they need."""
    known, said = await recorded_outcomes_of(target, body, listed)
    return classify(known, said, body.version, frozenset(own), body.first)


async def recorded_outcomes_of(
    target: Target, body: VersionFile, listed: Sequence[StagedName]
) -> tuple[Sequence[StagedName], Mapping[str, RecordedOutcome]]:
    """What the history says of the listed appends, each after its own base.

    Returns:
        The names that can be judged, and the last word on each. A name whose history cannot be read is
        left alone, with its object: nothing is guessed at, and it holds nobody up.
    """
    below = [name for name in listed if name.base <= body.version]
    try:
        return below, (await _look_up(target, body, below))
    except (StorageError, CorruptTableError, ForgottenError) as error:
        floor = lowest_recorded(body) - 1
        if isinstance(error, ForgottenError):
            floor = min(floor, error.until - 1)
        told = [name for name in below if name.base >= floor]
        log.warning(
            "table %s: %d staged appends are left alone, for the names of versions from %d on cannot be read: %s",
            target.name,
            len(below) - len(told),
            min(name.base for name in below) + 1,
            error,
        )
        return told, (await _look_up(target, body, told))


async def _look_up(target: Target, body: VersionFile, names: Sequence[StagedName]) -> dict[str, RecordedOutcome]:
    if not names:
        return {}
    return await look_up(
        frozenset(name.id for name in names),
        body,
        above=min(name.base for name in names),
        bodies={},
        history=target.history,
    )


async def add_staged(
    target: Target,
    state: TableState,
    chosen: Sequence[StagedName],
    load: CommitBatch,
    others: Mapping[str, Sequence[StagedName]] | None = None,
    exists: int | None = None,
) -> TableState:
    """Read the staged bodies, and beside them what is not known of the live manifests.

    Args:
        target: the table.
        state: the version that is built on.
        chosen: one name for each id.
        load: gets what they hold, and the refusals.
        others: further names of the same ids. An id is refused only if all its bodies are bad: a
            writer whose first try was spoilt may have staged again.
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
    load.aside.update({name: one for name, one in examined.items() if isinstance(one, Aside)})
    for first in chosen:
        tries = (first, *others.get(first.id, ()))
        verdict = _verdict([examined[name] for name in tries if name in examined])
        if isinstance(verdict, Good) and not load.keys.isdisjoint(verdict.keys):
            verdict = refusal("another staged append describes the same data file")
        if verdict is None or isinstance(verdict, Aside):
            continue  # gone: named by a newer version. Not to be had now: the next commit takes it
        load.names[first.id] = verdict.digest if isinstance(verdict, Good) else verdict
        if isinstance(verdict, Good):
            load.tables += [verdict.rows] if verdict.rows is not None else []
            load.files += verdict.files
            load.keys.update(verdict.keys)
        load.carried += tries
    return state


def _verdict(examined: Sequence[Examined]) -> Examined:
    """What becomes of an id: the first good body, else nothing while one is missing or set aside, else the refusal."""
    good = next((one for one in examined if isinstance(one, Good)), None)
    unknown = next((one for one in examined if one is None or isinstance(one, Aside)), examined[0])
    return good if good is not None else unknown


async def _outcomes(requests: Sequence[Request[Any]]) -> Sequence[Any]:
    return (await outcomes_of(requests)) if requests else ()


async def _examine(
    target: Target, body: VersionFile, names: Sequence[StagedName], outcomes: Sequence[Any], against: int
) -> dict[StagedName, Examined]:
    """What the bodies hold; files that they describe have to be as described, and old ones are copied."""
    examined = opened(target, body, names, outcomes)
    described = {name: one for name, one in examined.items() if isinstance(one, Good) and one.files}
    if described:
        files = [file for good in described.values() for file in good.files]
        checked, named = await gather(
            check_files(described), ensure_recent(target, body.table.location, files, against)
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


def add_own(append: Append, body: VersionFile, target: Target, load: CommitBatch) -> None:
    """Take along an append of the committer itself.

    Raises:
        InvalidRecordsError: the table's schema changed, and the rows do not fit it any more.
    """
    check_schema_still_fits(append.schema, body.table.schema, target.name)
    load.names[append.id] = append.digest
    if append.rows is not None:
        load.tables.append(fit(append.rows, body, target.name))
    load.files += append.files


def size_of(append: Append) -> int:
    """Bytes that count towards :data:`MAX_BYTES`."""
    return append.rows.nbytes if append.rows is not None else 0
