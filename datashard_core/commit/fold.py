"""What the next version carries: a committer's own appends, and every staged one that may be carried.

Whoever commits checks the base rule for each append, its own and the strangers': no version in
(base, N] names its id. v(N+1) is created only if absent, so what was true of N is true of the
commit.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from msgspec import Struct, field

from datashard_core.commit.fresh import young
from datashard_core.commit.live import learn
from datashard_core.commit.lookup import look_up
from datashard_core.commit.names import Record, Refusal
from datashard_core.commit.staging import (
    Judged,
    StagedBody,
    StagedName,
    UnreadableBodyError,
    decode_body,
    judge,
)
from datashard_core.commit.state import Append, Seen, Target
from datashard_core.commit.updates import check_schema_still_fits
from datashard_core.commit.version import VersionBody
from datashard_core.errors import CorruptTableError, DataShardError, StorageError
from datashard_core.format.data_file import DataFile
from datashard_core.format.projection import project
from datashard_core.storage.base import ObjectNotFoundError
from datashard_core.storage.requests import Get, Request, Steps, together, value

if TYPE_CHECKING:
    import pyarrow as pa

MAX_APPENDS = 512
MAX_BYTES = 64 * 2**20


class Load(Struct):
    """What one version is about to carry."""

    names: dict[str, Record] = field(default_factory=dict)
    tables: list[pa.Table] = field(default_factory=list)
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
    below = [name for name in listed if name.base <= body.version]
    if not below:
        return Judged((), ())
    said = yield from look_up(
        frozenset(name.id for name in below),
        body,
        above=min(name.base for name in below),
        bodies={},
        history=target.history,
    )
    return judge(below, said, body.version, frozenset(own))


def take(
    target: Target, state: Seen, chosen: Sequence[StagedName], load: Load, exists: int | None = None
) -> Steps[Seen]:
    """Read the staged bodies, and beside them what is not known of the live manifests.

    Args:
        target: the table.
        state: the version to build on.
        chosen: staged objects that may be carried.
        load: gets what they hold.
        exists: the newest version that surely exists; None: ``state``.
    """
    table = state.body.table
    outcomes, state = yield from together(_outcomes([Get(name.key) for name in chosen]), learn(target, state))
    described: list[tuple[StagedName, StagedBody]] = []
    for name, outcome in zip(chosen, outcomes, strict=True):
        if isinstance(outcome, StorageError):
            continue  # gone: named by a newer version. Not to be had now: the next commit takes it
        try:
            body = decode_body(value(outcome).body, name, table.table_uuid)
            if body.rows is None:
                described.append((name, body))
                continue
            if body.schema_id not in {schema.schema_id for schema in table.schemas}:
                continue  # its writer saw a schema that this version does not have: never guessed at
            rows = _fitted(body.rows, state.body, name.key)
        except (UnreadableBodyError, CorruptTableError) as error:
            load.names[name.id] = Refusal(str(error)[:200])
            load.carried.append(name)
            continue
        load.names[name.id] = body.digest
        load.tables.append(rows)
        load.carried.append(name)
    against = state.body.version if exists is None else exists
    yield from _take_described(target, table.location, described, load, against)
    return state


def _outcomes(requests: Sequence[Request]) -> Steps[Sequence[Any]]:
    return (yield requests) if requests else ()


def _take_described(
    target: Target, location: str, described: Sequence[tuple[StagedName, StagedBody]], load: Load, against: int
) -> Steps[None]:
    """Data files that a staged body describes have to be there, else the append is refused; old ones are copied."""
    if not described:
        return
    files = [file for _, body in described for file in body.files]
    named = iter((yield from young(target, location, files, against)))
    for name, body in described:
        outcomes = [next(named) for _ in body.files]
        if any(isinstance(outcome, ObjectNotFoundError) for outcome in outcomes):
            load.names[name.id] = Refusal("a data file that the staged body describes is gone")
        elif any(isinstance(outcome, DataShardError) for outcome in outcomes):
            continue  # not to be had now: the next commit takes it
        else:
            load.names[name.id] = body.digest
            load.files += [value(outcome) for outcome in outcomes]
        load.carried.append(name)


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


def _fitted(rows: pa.Table, body: VersionBody, where: str) -> pa.Table:
    """Rows in the form of the table's current schema, by field id."""
    wanted = body.table.schema.to_arrow()
    return rows if rows.schema.equals(wanted, check_metadata=True) else project(rows, wanted, where)


def size_of(append: Append) -> int:
    """Bytes that count towards :data:`MAX_BYTES`."""
    return append.rows.nbytes if append.rows is not None else 0
