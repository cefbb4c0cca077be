"""Detect that the folder or bucket of a table vanished while a process has the table open, when the hint is moved.

Names of versions are never deleted, and a hint that was there stays. An append on top of a version that is
known reads no object that has to be there, so it cannot tell an empty folder from a quiet table until it moves
the hint: that is on condition of the hint as it was last seen, so it fails where the hint is gone, or is that of
a table made since under the same name. Only then one more request is made: if the version that was built on is
gone too, the new one stands on nothing.
"""

from __future__ import annotations

from collections.abc import Iterable

from datashard_core.commit.core.version_file import HINT_KEY, version_key
from datashard_core.effects.requests import Head
from datashard_core.effects.tasks import outcomes_of, result_of
from datashard_core.errors import CorruptTableError
from datashard_core.storage.base import ObjectNotFoundError


class VanishedTableError(CorruptTableError):
    """The version hint is gone or went back, and versions that have to be there are gone."""


async def check_still_there(root: str, created: int, known: Iterable[int]) -> None:
    """After the hint was found to be gone, or older than it was: the versions that this process has seen must be there.

    Args:
        root: URI of the table, for messages.
        created: the version that the hint was to be moved to.
        known: versions that exist, or the table is not there any more.

    Raises:
        VanishedTableError: one of them is gone. Nothing was removed.
        StorageError: that could not be learnt.
    """
    versions = sorted({version for version in known if version >= 0})
    outcomes = await outcomes_of([Head(version_key(version)) for version in versions])
    for version, outcome in zip(versions, outcomes, strict=True):
        if isinstance(outcome, ObjectNotFoundError):
            raise VanishedTableError(
                f"{root}/{version_key(version)} is gone, and {HINT_KEY} is gone or older: the folder or bucket was "
                f"removed, renamed or emptied while this process held the table. Version {created} was written on top "
                "of nothing, and nothing was removed. Move the folder back, or restore it from a backup, beside what "
                "is there now; or remove what is left of it and create the table again"
            )
        result_of(outcome)
