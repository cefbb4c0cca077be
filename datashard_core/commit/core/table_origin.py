"""Find the version that created a table if another engine wrote the newest version without that number.

A table that is created again under a name begins after the marker that dropped the earlier one. Another engine may drop
the property with the number of its first version. With 0 in its place, an append id of the earlier table would count as
committed in this one, and its rows would be lost.
"""

from __future__ import annotations

from collections.abc import Mapping

from msgspec.structs import replace

from datashard_core.commit.core.version_file import VersionFile, parse_version, uuid_in, version_key
from datashard_core.effects.requests import Get
from datashard_core.effects.tasks import outcomes_of, result_of
from datashard_core.storage.base import ObjectNotFoundError

AT_ONCE = 16


async def with_first_version(newest: VersionFile, bodies: Mapping[int, VersionFile], root: str) -> VersionFile:
    """The same version with the number of the version that created its table.

    Args:
        newest: a version.
        bodies: versions already read, which may tell.
        root: URI of the table's root, for messages.
    """
    if newest.metadata is None or newest.names is not None or newest.origin is not None or newest.version == 0:
        return newest
    first = _known_first(newest, bodies)
    if first is None:
        first = await _read_back(newest, root)
    return replace(newest, origin=first)


def _known_first(newest: VersionFile, bodies: Mapping[int, VersionFile]) -> int | None:
    """The number from earlier versions already read; None if they do not have it."""
    for version in sorted(bodies, reverse=True):
        if version < newest.version and (first := _first_by(bodies[version], newest.table.table_uuid)) is not None:
            return first
    return None


def _first_by(version_file: VersionFile, uuid: str) -> int | None:
    """The number from one earlier version; None if it does not have it."""
    if version_file.state == "dropped":
        return version_file.version + 1
    if version_file.metadata is None or version_file.metadata.table_uuid != uuid:
        return None
    return version_file.names.first if version_file.names is not None else version_file.origin


async def _read_back(newest: VersionFile, root: str) -> int:
    """Read earlier versions until one has the number; v0 along with the first, because most tables begin there."""
    uuid, wanted = newest.table.table_uuid, sorted({newest.version - 1, 0}, reverse=True)
    while wanted:
        outcomes = await outcomes_of([Get(version_key(version)) for version in wanted])
        for version, outcome in zip(wanted, outcomes, strict=True):
            if isinstance(outcome, ObjectNotFoundError):
                continue
            data: bytes = result_of(outcome).body
            if version == 0 and uuid_in(data) == uuid:
                return 0
            first = _first_by(parse_version(data, version, f"{root}/{version_key(version)}"), uuid)
            if first is not None:
                return first
        low = wanted[0] if wanted[-1] == 0 else wanted[-1]
        wanted = list(range(low - 1, max(0, low - 1 - AT_ONCE), -1))
    return 0  # a table of another engine, whose first versions are gone
