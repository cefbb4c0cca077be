"""Ensure that data files which a commit adds are recent; copy old ones to a new name.

A data file that no version names yet looks like an orphan. :mod:`datashard_core.commit.maintenance.orphans` commits a
version in which nothing changes, and then deletes orphans older than its grace period. A commit built on an earlier
version loses the race against that version. A commit built on it, or on a later one, finds here that the file is old:
it compares two ``Last-Modified`` times of the store.
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
"""Shortest age in seconds at which an orphan is deleted."""
RECENT_SECONDS = SHORTEST_GRACE / 2
"""Age in seconds up to which a file is added as it is. The other half of the grace period is for the commit."""


async def ensure_recent(
    target: Target, location: str, files: Sequence[DataFile], against: int
) -> list[DataFile | DataShardError]:
    """Return files that the next version may name: the given files, or copies of old ones.

    Args:
        target: the table.
        location: its ``location``.
        files: finished data files.
        against: the newest version that surely exists: the one that is built on, or its parent while it is being
            created.

    Returns:
        For each file the file itself, its copy under a new name, or the error of reading it.

    Raises:
        StorageError: the age of the version could not be read.
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
    """Whether a file exists and is recent enough to be added on top of a version.

    Raises:
        StorageError: its age could not be read.
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
    """Return a committer's own appends with files that the version after ``version_file`` may name.

    A file that was begun when that version or a later one was known is younger than the version, and is not checked.

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
