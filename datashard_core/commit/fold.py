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

from datashard_core.commit.fresh import young
from datashard_core.commit.history import ForgottenError, Named, lowest_told
from datashard_core.commit.live import learn
from datashard_core.commit.lookup import look_up
from datashard_core.commit.names import Record, Refusal
from datashard_core.commit.staged_body import UnreadableBodyError, decode_body
from datashard_core.commit.staging import Judged, StagedName, judge
from datashard_core.commit.state import Append, Seen, Target
from datashard_core.commit.updates import check_schema_still_fits
from datashard_core.commit.version import VersionBody
from datashard_core.errors import CorruptTableError, DataShardError, StorageError
from datashard_core.format.data_file import DataFile
from datashard_core.format.plain_rows import PlainRows, Rows
from datashard_core.format.projection import project
from datashard_core.storage.base import ObjectNotFoundError
from datashard_core.storage.requests import Get, Request, Steps, together, value

log = logging.getLogger(__name__)

MAX_APPENDS = 512
MAX_BYTES = 64 * 2**20


class Load(Struct):
    """What one version is about to carry."""

    names: dict[str, Record] = field(default_factory=dict)
    tables: list[Rows] = field(default_factory=list)
    files: list[DataFile] = field(default_factory=list)
    carried: list[StagedName] = field(default_factory=list)


def within_limits(names: Sequence[StagedName], size: int, count: int) -> list[StagedName]:
    """The first names that fit into one commit, oldest base first."""
    chosen = []
    for name in names:
        size += name.size
        count += 1
        if count > MAX_APPENDS or size > MAX_BYTES:
            break
        chosen.append(name)
    return chosen


def judge_listed(
    target: Target, body: VersionBody, listed: Sequence[StagedName], own: Mapping[str, Append]
) -> Steps[Judged]:
    """Base rule and delete rule over a listing, reading what of the history they need."""
    known, said = yield from said_of(target, body, listed)
    return judge(known, said, body.version, frozenset(own), body.first)


def said_of(
    target: Target, body: VersionBody, listed: Sequence[StagedName]
) -> Steps[tuple[Sequence[StagedName], Mapping[str, Named]]]:
    """What the history says of the listed appends, each after its own base.

    Returns:
        The names that can be judged, and the last word on each. A name whose history cannot be read is
        left alone, with its object: nothing is guessed at, and it holds nobody up.
    """
    below = [name for name in listed if name.base <= body.version]
    try:
        return below, (yield from _look_up(target, body, below))
    except (StorageError, CorruptTableError, ForgottenError) as error:
        floor = lowest_told(body) - 1
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
        return told, (yield from _look_up(target, body, told))


def _look_up(target: Target, body: VersionBody, names: Sequence[StagedName]) -> Steps[dict[str, Named]]:
    if not names:
        return {}
    return (
        yield from look_up(
            frozenset(name.id for name in names),
            body,
            above=min(name.base for name in names),
            bodies={},
            history=target.history,
        )
    )


class _Good(Struct, frozen=True):
    """A staged body that can be committed."""

    digest: str
    rows: Rows | None
    files: tuple[DataFile, ...]


Examined = _Good | Refusal | None
"""Of one staged body: what it holds, or why no committer can take it; None: not to be had just now."""


def take(
    target: Target,
    state: Seen,
    chosen: Sequence[StagedName],
    load: Load,
    others: Mapping[str, Sequence[StagedName]] | None = None,
    exists: int | None = None,
) -> Steps[Seen]:
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
    outcomes, state = yield from together(_outcomes([Get(name.key) for name in chosen]), learn(target, state))
    examined = yield from _examine(target, state.body, chosen, outcomes, against)
    more = [name for first in chosen if isinstance(examined[first], Refusal) for name in others.get(first.id, ())]
    if more:
        outcomes = yield [Get(name.key) for name in more]
        examined.update((yield from _examine(target, state.body, more, outcomes, against)))
    for first in chosen:
        tries = (first, *others.get(first.id, ()))
        verdict = _verdict([examined[name] for name in tries if name in examined])
        if verdict is None:
            continue  # gone: named by a newer version. Not to be had now: the next commit takes it
        load.names[first.id] = verdict.digest if isinstance(verdict, _Good) else verdict
        if isinstance(verdict, _Good):
            load.tables += [verdict.rows] if verdict.rows is not None else []
            load.files += verdict.files
        load.carried += tries
    return state


def _verdict(examined: Sequence[Examined]) -> Examined:
    """What becomes of an id: the first good body, else nothing while one is missing, else the refusal."""
    good = next((one for one in examined if isinstance(one, _Good)), None)
    return good if good is not None or None in examined else examined[0]


def _outcomes(requests: Sequence[Request]) -> Steps[Sequence[Any]]:
    return (yield requests) if requests else ()


def _examine(
    target: Target, body: VersionBody, names: Sequence[StagedName], outcomes: Sequence[Any], against: int
) -> Steps[dict[StagedName, Examined]]:
    """What the bodies hold; files that they describe have to be there, and old ones are copied."""
    examined: dict[StagedName, Examined] = {}
    described: list[tuple[StagedName, _Good]] = []
    for name, outcome in zip(names, outcomes, strict=True):
        one = None if isinstance(outcome, StorageError) else _decoded(value(outcome).body, name, body)
        examined[name] = one
        if isinstance(one, _Good) and one.files:
            described.append((name, one))
    if described:
        files = [file for _, good in described for file in good.files]
        named = iter((yield from young(target, body.table.location, files, against)))
        for name, good in described:
            examined[name] = _with_files(good, [next(named) for _ in good.files])
    return examined


def _decoded(data: bytes, name: StagedName, version: VersionBody) -> Examined:
    table = version.table
    try:
        body = decode_body(data, name, table.table_uuid, table.schemas)
        if body.schema_id not in {schema.schema_id for schema in table.schemas}:
            return None  # its writer saw a schema that this version does not have: never guessed at
        rows = _fitted(body.rows, version, name.key) if body.rows is not None else None
    except (UnreadableBodyError, CorruptTableError) as error:
        return Refusal(str(error)[:200])
    return _Good(body.digest, rows, body.files)


def _with_files(good: _Good, outcomes: Sequence[DataFile | DataShardError]) -> Examined:
    if any(isinstance(outcome, ObjectNotFoundError) for outcome in outcomes):
        return Refusal("a data file that the staged body describes is gone")
    if any(isinstance(outcome, DataShardError) for outcome in outcomes):
        return None
    return replace(good, files=tuple(value(outcome) for outcome in outcomes))


def take_own(append: Append, body: VersionBody, target: Target, load: Load) -> None:
    """Take along an append of the committer itself.

    Raises:
        InvalidRecordsError: the table's schema changed, and the rows do not fit it any more.
    """
    check_schema_still_fits(append.schema, body.table.schema, target.name)
    load.names[append.id] = append.digest
    if append.rows is not None:
        load.tables.append(_fitted(append.rows, body, target.name))
    load.files += append.files


def _fitted(rows: Rows, body: VersionBody, where: str) -> Rows:
    """Rows in the form of the table's current schema, by field id."""
    if isinstance(rows, PlainRows):
        if rows.schema == body.table.schema:
            return rows
        rows = rows.to_arrow()
    wanted = body.table.schema.to_arrow()
    return rows if rows.schema.equals(wanted, check_metadata=True) else project(rows, wanted, where)


def size_of(append: Append) -> int:
    """Bytes that count towards :data:`MAX_BYTES`."""
    return append.rows.nbytes if append.rows is not None else 0
