"""What a reader sees who wants the staged appends too: one version, and the rows that it does not hold yet.

List, **then** read the version: the other way round a commit in between could carry an object and
delete it, and neither would show its rows. What the version names is left out of the listing. An
object that is gone is named by a newer version, by the delete rule, so that version is read instead.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from msgspec import Struct

from datashard_core.commit.deferred import staged_names
from datashard_core.commit.history import ForgottenError, Named
from datashard_core.commit.lookup import look_up
from datashard_core.commit.paths import key_of
from datashard_core.commit.staged_body import StagedBody, UnreadableBodyError, decode_body
from datashard_core.commit.staging import StagedName, judge
from datashard_core.commit.state import Seen, Target, newest
from datashard_core.errors import CorruptTableError, StorageError
from datashard_core.format.data_file import DataFile
from datashard_core.format.plain_rows import arrow_of
from datashard_core.format.projection import project
from datashard_core.storage.base import ObjectNotFoundError
from datashard_core.storage.requests import Get, Head, Steps, value

if TYPE_CHECKING:
    import pyarrow as pa

log = logging.getLogger(__name__)

TRIES = 10
BODIES_AT_ONCE = 64


class WithStaged(Struct, frozen=True):
    """A version, and what is staged beside it.

    Attributes:
        seen: the version.
        rows: rows staged and not in it, in the form of its schema.
        files: finished data files that staged appends describe, likewise.
    """

    seen: Seen
    rows: tuple[pa.Table, ...]
    files: tuple[DataFile, ...]


def read_with_staged(target: Target, seen: Seen | None) -> Steps[WithStaged]:
    """Read the newest version and the staged appends that it does not hold.

    Raises:
        NoSuchTableError: the table was dropped.
        StorageError: a read failed, or objects went away without being committed.
    """
    for _ in range(TRIES):
        names = yield from staged_names()
        seen = yield from newest(target, seen)
        bodies: dict[StagedName, StagedBody | None] = {}
        while True:
            # A body that cannot be shown gives way to another of the same id.
            wanted = [name for name in names if bodies.get(name, name) is not None]
            try:
                left = yield from _unnamed(target, seen, wanted)
            except CorruptTableError:
                newer = yield from newest(target, seen)
                if newer.body.version == seen.body.version:
                    raise
                seen = newer  # the other was purged, or is long past
                continue
            if all(name in bodies for name in left):
                return _shown(seen, [body for name in left if (body := bodies[name]) is not None], target)
            if not (yield from _read(target, seen, [name for name in left if name not in bodies], bodies)):
                continue
            newer = yield from newest(target, seen)
            if newer.body.version == seen.body.version:
                break  # gone, and no version names it: the listing was stale, or somebody cleans up
            seen = newer
    raise StorageError(
        f"table {target.name}: staged appends went away {TRIES} times while they were read, and no version names them. "
        "If something deletes objects below _datashard/staging, stop it; else scan again.",
        key=target.root,
    )


def _unnamed(target: Target, seen: Seen, names: Sequence[StagedName]) -> Steps[tuple[StagedName, ...]]:
    """One name for each id that no version after its base names."""
    below = [name for name in names if name.base <= seen.body.version]
    if not below:
        return ()
    try:
        said = yield from _said(target, seen, below)
    except ForgottenError as error:
        # Left alone by every commit: nobody knows whether the version holds them already.
        log.warning("table %s: staged appends of before version %d are not shown: %s", target.name, error.until, error)
        below = [name for name in below if name.base >= error.until - 1]
        said = yield from _said(target, seen, below)
    return judge(below, said, seen.body.version, frozenset(), seen.body.first).allowed


def _said(target: Target, seen: Seen, names: Sequence[StagedName]) -> Steps[dict[str, Named]]:
    above = min((name.base for name in names), default=seen.body.version)
    ids = frozenset(name.id for name in names)
    return (yield from look_up(ids, seen.body, above=above, bodies={}, history=target.history))


def _read(
    target: Target, seen: Seen, wanted: Sequence[StagedName], bodies: dict[StagedName, StagedBody | None]
) -> Steps[bool]:
    """Read staged bodies; whether one of them is gone. A body that cannot be shown counts as None."""
    gone = False
    for start in range(0, len(wanted), BODIES_AT_ONCE):
        batch = wanted[start : start + BODIES_AT_ONCE]
        for name, outcome in zip(batch, (yield [Get(name.key) for name in batch]), strict=True):
            if isinstance(outcome, ObjectNotFoundError):
                gone = True
                continue
            bodies[name] = yield from _decoded(target, seen, name, value(outcome).body)
    return gone


def _decoded(target: Target, seen: Seen, name: StagedName, data: bytes) -> Steps[StagedBody | None]:
    """A staged body as far as a commit would carry it; None: the next commit refuses or leaves it."""
    table = seen.body.table
    try:
        body = decode_body(data, name, table.table_uuid, table.schemas)
    except UnreadableBodyError as error:
        log.info("table %s: %s is not shown: %s", target.name, name.key, error)
        return None
    if body.schema_id not in {schema.schema_id for schema in table.schemas}:
        return None
    files = [Head(key_of(file.file_path, table.location, target.root)) for file in body.files]
    for outcome in (yield files) if files else ():
        if isinstance(outcome, ObjectNotFoundError):
            return None
        value(outcome)
    return body


def _shown(seen: Seen, bodies: Sequence[StagedBody], target: Target) -> WithStaged:
    wanted: Any = seen.body.table.schema.to_arrow()
    rows = []
    for body in bodies:
        if body.rows is None:
            continue
        try:
            where = f"staged append {body.append_id!r} of table {target.name}"
            rows.append(project(arrow_of(body.rows), wanted, where))
        except CorruptTableError as error:
            log.info("table %s: append %r is not shown: %s", target.name, body.append_id, error)
    return WithStaged(seen, tuple(rows), tuple(file for body in bodies for file in body.files))
