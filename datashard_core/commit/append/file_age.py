"""Data files that were finished before the commit that names them: young enough, or copied to a fresh name first.

A file on its way into a version looks like an orphan, and :mod:`datashard_core.commit.maintenance.orphans` deletes
orphans that are older than its grace period, after a version in which nothing changes. Who slept through
that version loses a race against it. Who builds on it or on a later one sees here that the file is old,
by one ``Last-Modified`` against another.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from msgspec.structs import replace

from datashard_core.commit.core.paths import key_of
from datashard_core.commit.core.state import Append, Target
from datashard_core.commit.core.version_file import VersionFile, version_key
from datashard_core.effects.requests import Get, Head, PutData, Unique
from datashard_core.effects.tasks import outcomes_of, result_of
from datashard_core.errors import CorruptTableError, DataShardError
from datashard_core.format.metadata.data_file import DataFile
from datashard_core.storage.base import ObjectNotFoundError

SHORTEST_GRACE = 3600.0
"""Seconds that every orphan is left alone at least."""
RECENT_SECONDS = SHORTEST_GRACE / 2
"""Seconds up to which a file is named as it is. The other half is for the commit."""


async def ensure_recent(
    target: Target, location: str, files: Sequence[DataFile], against: int
) -> list[DataFile | DataShardError]:
    """Files as the next version may name them.

    Args:
        target: the table.
        location: its ``location``.
        files: finished data files.
        against: the newest version that surely exists: the one that is built on, or, where that is still
            on its way, its parent.

    Returns:
        For each file itself, its copy under a fresh name, or the error that it could not be had with.

    Raises:
        StorageError: the age of the version could not be learnt.
    """
    newest, *infos = await outcomes_of(
        [
            Head(version_key(against)),
            *(Head(key_of(file.file_path, location, target.root)) for file in files),
        ]
    )
    now = result_of(newest).last_modified
    named: list[DataFile | DataShardError] = []
    for file, info in zip(files, infos, strict=True):
        if isinstance(info, DataShardError):
            named.append(info)
        elif now - info.last_modified < RECENT_SECONDS:
            named.append(file)
        else:
            named.append(await _copied(target, location, file))
    return named


async def is_recent(target: Target, location: str, file: DataFile, against: int) -> bool:
    """Whether a file is there, and may be named on top of a version as it is.

    Raises:
        StorageError: that could not be learnt.
    """
    newest, info = await outcomes_of((Head(version_key(against)), Head(key_of(file.file_path, location, target.root))))
    if isinstance(info, ObjectNotFoundError):
        return False
    return bool(result_of(newest).last_modified - result_of(info).last_modified < RECENT_SECONDS)


async def _copied(target: Target, location: str, file: DataFile) -> DataFile | DataShardError:
    outcomes = await outcomes_of((Get(key_of(file.file_path, location, target.root)), Unique()))
    if isinstance(outcomes[0], DataShardError):
        return outcomes[0]
    key = f"data/auto_{outcomes[1]}.parquet"
    written = await outcomes_of((PutData(key, result_of(outcomes[0]).body),))
    if isinstance(written[0], DataShardError):
        return written[0]
    return replace(file, file_path=f"{location}/{key}")


async def ensure_own_recent(
    target: Target, version_file: VersionFile, own: Mapping[str, Append]
) -> Mapping[str, Append]:
    """A committer's own appends, with files that the version after ``body`` may name.

    A file that was begun when ``body`` or a later version was known is younger than that version, and
    needs no look.

    Raises:
        CorruptTableError: a file is gone, so its rows have to be appended again.
        StorageError: a file could not be looked at or copied.
    """
    doubtful = {key: one for key, one in own.items() if one.files and one.written_on < version_file.version}
    if not doubtful:
        return own
    files = [file for one in doubtful.values() for file in one.files]
    named = iter(await ensure_recent(target, version_file.table.location, files, version_file.version))
    renewed = dict(own)
    for key, one in doubtful.items():
        mine: list[DataFile] = []
        for file in one.files:
            outcome = next(named)
            if isinstance(outcome, ObjectNotFoundError):
                raise CorruptTableError(
                    f"table {target.name}: {file.file_path}, written for append {one.append_id!r}, is gone: orphans "
                    "were removed before it was committed. Append the rows again."
                ) from outcome
            mine.append(result_of(outcome))
        renewed[key] = replace(one, files=tuple(mine))
    return renewed
