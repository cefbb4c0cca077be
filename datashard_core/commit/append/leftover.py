"""Errors and warnings of a flush about staged objects that it could not commit."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping, Sequence

from datashard_core.commit.core.state import Target
from datashard_core.commit.staging.key import PREFIX, StagedName, parse_listed
from datashard_core.commit.staging.set_aside import Aside
from datashard_core.errors import AppendRefusedError, AppendSetAsideError, CommitStateUnknownError, DataShardError
from datashard_core.storage.base import ObjectInfo

log = logging.getLogger(__name__)

MOST_SHOWN = 20
"""Number of objects in a message; the error has all of them as an attribute."""


def error_of(
    target: Target, refused: Mapping[str, str], forgotten: Iterable[StagedName], set_aside: Mapping[StagedName, Aside]
) -> DataShardError | None:
    """The error of a flush that could not commit everything; None if it could.

    Args:
        target: the table.
        refused: why appends are refused, by their ids.
        forgotten: staged so long ago that it is not known whether they were committed.
        set_aside: neither committed nor refused, and why.
    """
    table = f"table {target.name} at {target.root}"
    aside = "; ".join(f"{name.key} ({why.reason})" for name, why in sorted(set_aside.items())[:MOST_SHOWN])
    if len(set_aside) > MOST_SHOWN:
        aside += f"; and {len(set_aside) - MOST_SHOWN} more"
    if refused:
        reasons = "; ".join(sorted(set(refused.values()))[:MOST_SHOWN])
        return AppendRefusedError(
            f"{table}: {len(refused)} of the staged appends were refused and will never be committed "
            f"({reasons}). Their ids are, as BLAKE2b-128, "
            f"{', '.join(sorted(refused))}. Everything else that was staged is in the table"
            f"{f', but for what is set aside: {aside}' if aside else ''}. Fix their rows and append them again."
        )
    if old := sorted(name.key for name in forgotten):
        keys = ", ".join(old)
        return CommitStateUnknownError(
            f"{table}: it is not known whether {len(old)} staged appends "
            "are in the table: they were staged before the retention of append ids (table property "
            "datashard.append-id.retention). Everything else that was staged is in the table"
            f"{f', but for what is set aside: {aside}' if aside else ''}. They are {keys}. Check "
            "whether the table has their rows, append those that it does not have, and delete the objects.",
            table=target.root,
        )
    if set_aside:
        return AppendSetAsideError(
            f"{table}: {len(set_aside)} staged objects were set aside: this release of datashard-core cannot "
            f"commit them on top of the newest version: {aside}. Everything else that was staged is in the table. If a "
            "newer release of datashard-core writes this table, upgrade this one and flush again; if no writer of "
            "yours made the objects, delete them. maintain() deletes them once they are older than "
            "datashard.append-id.retention.",
            keys=tuple(sorted(name.key for name in set_aside)),
            table=target.root,
        )
    return None


def warn_of_strangers(target: Target, infos: Sequence[ObjectInfo]) -> None:
    """Log a warning about objects in the folder of staged appends that are none: they delay no commit."""
    ours = {name.key for name in parse_listed(infos)}
    strangers = [info.key for info in infos if info.key not in ours]
    if strangers:
        log.warning(
            "table %s: %d objects at %s/%s are not staged appends and are left alone: %s. Delete them, or let "
            "maintain() delete them once they are older than datashard.append-id.retention.",
            target.name,
            len(strangers),
            target.root,
            PREFIX,
            ", ".join(map(repr, strangers[:MOST_SHOWN])),
        )
