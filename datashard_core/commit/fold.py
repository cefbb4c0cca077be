"""One try to create the next version, carrying every staged append that may be carried.

Whoever commits checks the base rule for each append, its own and the strangers': no version in
(base, N] names its id. v(N+1) is created only if absent, so what was true of N is true of the
commit. Nothing is deleted before the version that names it exists.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from datashard_core.commit.lookup import look_up, upkeep
from datashard_core.commit.names import Record, Refusal
from datashard_core.commit.paths import key_of
from datashard_core.commit.pointer import move_hint
from datashard_core.commit.staging import (
    Judged,
    StagedBody,
    StagedName,
    UnreadableBodyError,
    decode_body,
    judge,
)
from datashard_core.commit.state import Append, Seen, Target, manifests_of
from datashard_core.commit.updates import NextVersion, append_version, check_schema_still_fits, new_manifest
from datashard_core.commit.version import VersionBody, version_key
from datashard_core.errors import CorruptTableError, DataShardError, StorageError
from datashard_core.format.data_file import DataFile
from datashard_core.format.parquet import encode_parquet
from datashard_core.format.projection import project
from datashard_core.storage.base import ObjectNotFoundError, OutcomeUnknownError, PreconditionFailedError
from datashard_core.storage.requests import (
    Delete,
    Get,
    Head,
    Now,
    Put,
    PutData,
    PutIfAbsent,
    Request,
    Steps,
    Unique,
    each,
    together,
    value,
)

if TYPE_CHECKING:
    import pyarrow as pa

log = logging.getLogger(__name__)

MAX_APPENDS = 512
MAX_BYTES = 64 * 2**20


@dataclass(frozen=True, slots=True)
class Outcome:
    """How a try to create a version ended.

    Attributes:
        created: the new version; None if that is not known or not so.
        cause: then, what the store answered.
        nothing: there was nothing to commit.
    """

    created: Seen | None = None
    cause: DataShardError | None = None
    nothing: bool = False


@dataclass(slots=True)
class _Load:
    """What one version is about to carry."""

    names: dict[str, Record] = field(default_factory=dict)
    tables: list[pa.Table] = field(default_factory=list)
    files: list[DataFile] = field(default_factory=list)
    carried: list[StagedName] = field(default_factory=list)


def commit(
    target: Target,
    state: Seen,
    listed: Sequence[StagedName],
    own: Mapping[str, Append],
    staged: Sequence[StagedName] = (),
) -> Steps[Outcome]:
    """Try once to create the version after ``state``.

    Args:
        target: the table.
        state: the version to build on.
        listed: what a listing of ``staging/`` showed.
        own: digest of append id -> the committer's own appends, known to be unnamed up to ``state``.
        staged: the committer's own staged objects, to be deleted once they are named.
    """
    judged = yield from _judge(target, state.body, listed, own)
    chosen = within_limits(judged.allowed, sum(_size(append) for append in own.values()), len(own))
    load = _Load()
    state = yield from _take(target, state, chosen, load)
    for append in own.values():
        _take_own(append, state.body, target, load)
    if not load.names:
        yield from _clean(judged.spent)
        return Outcome(nothing=True)
    prepared = yield from _write(target, state, load, next(iter(own), None))
    outcomes = yield (PutIfAbsent(version_key(prepared.version), prepared.data),)
    if isinstance(outcomes[0], (PreconditionFailedError, OutcomeUnknownError)):
        return Outcome(cause=outcomes[0])
    value(outcomes[0])
    named = {*judged.spent, *load.carried, *staged}
    hint, _, _ = yield from together(
        move_hint(prepared.version, state.hint, target.root),
        _clean(tuple(sorted(named))),
        upkeep(prepared.version, state.body, target.history),
    )
    return Outcome(created=Seen(prepared.body, prepared.manifests, hint))


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


def _judge(target: Target, body: VersionBody, listed: Sequence[StagedName], own: Mapping[str, Append]) -> Steps[Judged]:
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


def _take(target: Target, state: Seen, chosen: Sequence[StagedName], load: _Load) -> Steps[Seen]:
    """Read the staged bodies, and beside them the manifest list where it is not known."""
    reads: list[Request] = [Get(name.key) for name in chosen]
    table = state.body.table
    if state.manifests is None and reads:
        outcomes, manifests = yield from together(
            _outcomes(reads), manifests_of(target.root, table.location, table.current_snapshot)
        )
        state = replace(state, manifests=manifests)
    else:
        if state.manifests is None:
            manifests = yield from manifests_of(target.root, table.location, table.current_snapshot)
            state = replace(state, manifests=manifests)
        outcomes = (yield reads) if reads else []
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
    yield from _take_described(target, table.location, described, load)
    return state


def _outcomes(requests: Sequence[Request]) -> Steps[Sequence[Any]]:
    return (yield requests)


def _take_described(
    target: Target, location: str, described: Sequence[tuple[StagedName, StagedBody]], load: _Load
) -> Steps[None]:
    """Data files that a staged body describes have to be there, else the append is refused."""
    if not described:
        return
    files = [(index, file) for index, (_, body) in enumerate(described) for file in body.files]
    outcomes = yield [Head(key_of(file.file_path, location, target.root)) for _, file in files]
    gone: set[int] = set()
    unknown: set[int] = set()
    for (index, _), outcome in zip(files, outcomes, strict=True):
        if isinstance(outcome, ObjectNotFoundError):
            gone.add(index)
        elif isinstance(outcome, DataShardError):
            unknown.add(index)
    for index, (name, body) in enumerate(described):
        if index in gone:
            load.names[name.id] = Refusal("a data file that the staged body describes is gone")
        elif index in unknown:
            continue
        else:
            load.names[name.id] = body.digest
            load.files += body.files
        load.carried.append(name)


def _take_own(append: Append, body: VersionBody, target: Target, load: _Load) -> None:
    check_schema_still_fits(append.schema, body.table.schema, target.name)
    load.names[append.id] = append.digest
    if append.rows is not None:
        load.tables.append(_fitted(append.rows, body, target.name))
    load.files += append.files


def _fitted(rows: pa.Table, body: VersionBody, where: str) -> pa.Table:
    """Rows in the form of the table's current schema, by field id."""
    wanted = body.table.schema.to_arrow()
    return rows if rows.schema.equals(wanted, check_metadata=True) else project(rows, wanted, where)


def _write(target: Target, state: Seen, load: _Load, own_id: str | None) -> Steps[NextVersion]:
    """Write data file, manifest and manifest list side by side, under fresh names."""
    now, for_data, for_manifest, for_list, for_commit = yield from each((Now(), Unique(), Unique(), Unique(), Unique()))
    table = state.body.table
    puts: list[Request] = []
    files = list(load.files)
    if load.tables:
        import pyarrow as pa

        key = f"data/auto_{for_data}.parquet"
        encoded = encode_parquet(pa.concat_tables(load.tables), table.schema)
        puts.append(PutData(key, encoded.data))
        files.append(encoded.data_file(f"{table.location}/{key}"))
    added = new_manifest(for_manifest, table, files, table.schema) if files else None
    prepared = append_version(
        state.body,
        state.manifests or (),
        added,
        commit_id=own_id or for_commit,
        names=load.names,
        unique=for_list,
        now_ms=now.wall_ms,
    )
    if added is not None:
        puts.append(Put(added.key, added.data))
        puts.append(Put(prepared.manifest_list_key, prepared.manifest_list))
    yield from each(puts)
    return prepared


def _clean(names: Sequence[StagedName]) -> Steps[None]:
    """Delete staged objects that a version after their base names; a failure costs only time."""
    if not names:
        return
    outcomes = yield (Delete(tuple(name.key for name in names)),)
    if isinstance(outcomes[0], StorageError):
        log.warning("staged objects that are committed were not deleted, and the next commit tries: %s", outcomes[0])
    else:
        value(outcomes[0])


def _size(append: Append) -> int:
    return append.rows.nbytes if append.rows is not None else 0
