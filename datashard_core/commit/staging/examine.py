"""Examine staged bodies: each holds rows and files, or is refused, set aside, or unreadable for now.

No part of a body is trusted: its writer may be damaged, hostile or newer than this process. A body that no release
could commit is refused. One that a newer release may know is set aside
(:mod:`datashard_core.commit.staging.set_aside`). One that the store cannot read now is left for later.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

from msgspec import Struct

from datashard_core.commit.core.paths import key_of
from datashard_core.commit.core.recorded_ids import Refusal
from datashard_core.commit.core.state import Target
from datashard_core.commit.core.version_file import VersionFile
from datashard_core.commit.staging.body import decode_body
from datashard_core.commit.staging.errors import NewerBodyError, UnreadableBodyError
from datashard_core.commit.staging.key import StagedName
from datashard_core.commit.staging.set_aside import Aside, has_schema, remember
from datashard_core.effects.requests import Get, Head, Request
from datashard_core.effects.tasks import outcomes_of, result_of
from datashard_core.errors import CorruptTableError, DataShardError, StorageError, StorageReason
from datashard_core.format.metadata.data_file import DataFile
from datashard_core.format.rows.projection import project
from datashard_core.format.rows.python_rows import PlainRows, Rows
from datashard_core.storage.base import ObjectNotFoundError

MAX_REASON = 200
_DATA_KEY = r"data/[0-9A-Za-z][0-9A-Za-z._-]{0,199}\.parquet"
"""Keys of data files that appends write. Other keys would let a body name any object of the table."""
LASTING: frozenset[StorageReason] = frozenset({"access-denied", "unsupported"})
"""Failures of one object that a retry does not change."""


class Good(Struct, frozen=True):
    """A staged body that can be committed.

    Attributes:
        append_id: the id as its caller gave it.
        digest: digest of its rows; empty for an id that the library made.
        rows: the rows in the form of the current schema; None if ``files`` holds them.
        files: the data files that it describes.
        keys: their keys.
    """

    append_id: str
    digest: str
    rows: Rows | None
    files: tuple[DataFile, ...]
    keys: tuple[str, ...] = ()


Examined = Good | Refusal | Aside | None
"""The content of a staged body, or why it is refused or set aside; None if it is gone or the store failed."""


def refusal(reason: str) -> Refusal:
    """A refusal with a reason short enough for many versions to repeat."""
    return Refusal(reason[:MAX_REASON])


def opened(
    target: Target, version_file: VersionFile, names: Sequence[StagedName], outcomes: Sequence[Any]
) -> dict[StagedName, Examined]:
    """Decode staged objects that were read, without a look at the files that they describe.

    Args:
        target: the table.
        version_file: the version that they are checked against.
        names: the objects.
        outcomes: the outcomes of the reads.
    """
    examined: dict[StagedName, Examined] = {}
    for name, outcome in zip(names, outcomes, strict=True):
        examined[name] = one = _opened(target, version_file, name, outcome)
        if isinstance(one, Aside):
            remember(target.root, name, one)
    return examined


def _opened(target: Target, version_file: VersionFile, name: StagedName, outcome: Any) -> Examined:
    if isinstance(outcome, StorageError) and outcome.reason in LASTING:
        return Aside(f"it cannot be read: {outcome}", lasts=False)
    if isinstance(outcome, StorageError):
        return None
    table = version_file.table
    try:
        held = decode_body(result_of(outcome).body, name, table.table_uuid, table.schemas)
        if not has_schema(version_file, held.schema_id):
            return Aside(f"it was written with schema {held.schema_id}, which the table does not have", held.schema_id)
        rows = _checked(held.rows, version_file, name.key) if held.rows is not None else None
        keys = tuple(_key_of(file, version_file, target) for file in held.files)
    except NewerBodyError as error:
        return Aside(str(error))
    except MemoryError as error:
        return Aside(f"there is too little memory to read it ({error})", lasts=False)
    except (UnreadableBodyError, CorruptTableError) as error:
        return refusal(str(error))
    if len(set(keys)) < len(keys):
        return refusal("the staged body describes a data file twice")
    return Good(held.append_id, held.digest, rows, held.files, keys)


def _key_of(file: DataFile, version_file: VersionFile, target: Target) -> str:
    try:
        key = key_of(file.file_path, version_file.table.location, target.root)
    except DataShardError as error:
        raise UnreadableBodyError(
            f"the staged body describes {file.file_path[:100]!r}, which is no file of this table"
        ) from error
    if re.fullmatch(_DATA_KEY, key) is None:
        raise UnreadableBodyError(f"the staged body describes {file.file_path[:100]!r}, where no append writes data")
    return key


def _checked(rows: Rows, version_file: VersionFile, where: str) -> Rows:
    """Staged rows in the form of the table's current schema.

    Raises:
        UnreadableBodyError: they do not fit.
    """
    if isinstance(rows, PlainRows) and rows.schema == version_file.table.schema:
        return rows
    import pyarrow as pa

    from datashard_core.format.rows.required import first_null

    try:
        fitted = fit(rows, version_file, where)
        missing = None if isinstance(fitted, PlainRows) else first_null(fitted)
    except pa.ArrowMemoryError:
        raise
    except (pa.ArrowException, ArithmeticError, LookupError, NotImplementedError, TypeError, ValueError) as error:
        raise UnreadableBodyError(
            f"the rows of the staged body do not fit the table ({type(error).__name__}: {str(error)[:100]})"
        ) from error
    if missing is not None:
        raise UnreadableBodyError(f"the rows of the staged body have a null in the required field {missing!r}")
    return fitted


def fit(rows: Rows, version_file: VersionFile, where: str) -> Rows:
    """Rows in the form of the table's current schema, by field id.

    Raises:
        CorruptTableError: they do not fit.
    """
    if isinstance(rows, PlainRows):
        if rows.schema == version_file.table.schema:
            return rows
        rows = rows.to_arrow()
    wanted = version_file.table.schema.to_arrow()
    return rows if rows.schema.equals(wanted, check_metadata=True) else project(rows, wanted, where)


async def check_files(goods: Mapping[StagedName, Good]) -> dict[StagedName, Examined]:
    """Compare the descriptions of data files with the files: their sizes, and the rows in their footers."""
    from datashard_core.format.parquet.footer import TAIL

    requests: list[Request[Any]] = []
    for good in goods.values():
        for file, key in zip(good.files, good.keys, strict=True):
            end = file.file_size_in_bytes
            requests += (Head(key), Get(key, (max(0, end - TAIL), end)))
    outcomes = iter((await outcomes_of(requests)) if requests else ())
    checked: dict[StagedName, Examined] = {}
    for name, good in goods.items():
        looks = [_check_file(file, next(outcomes), next(outcomes)) for file in good.files]
        bad = next((look for look in looks if isinstance(look, Refusal)), None)
        unknown = next((look for look in looks if isinstance(look, (Aside, DataShardError))), None)
        checked[name] = bad or (good if unknown is None else unknown if isinstance(unknown, Aside) else None)
    return checked


def _check_file(file: DataFile, info: Any, tail: Any) -> Refusal | Aside | DataShardError | None:
    """What is wrong with a description; an error of the store if that is not known; None if it is right."""
    from datashard_core.format.parquet.footer import rows_in_tail

    path = file.file_path[-100:]
    if isinstance(info, ObjectNotFoundError):
        return refusal(f"the data file {path!r} that the staged body describes is gone")
    if isinstance(info, StorageError) and info.reason in LASTING:
        return Aside(f"the data file {path!r} that it describes cannot be read: {info}", lasts=False)
    if isinstance(info, DataShardError):
        return info
    if info.size != file.file_size_in_bytes:
        return refusal(f"the data file {path!r} has {info.size} bytes, not the {file.file_size_in_bytes} described")
    if isinstance(tail, DataShardError):
        return tail
    try:
        rows = rows_in_tail(tail.body)
    except ValueError as error:
        return refusal(f"the described data file {path!r} is no Parquet file: {error}")
    if rows is not None and rows != file.record_count:
        return refusal(f"the data file {path!r} has {rows} rows, not the {file.record_count} described")
    return None
