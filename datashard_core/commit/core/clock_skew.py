"""A version whose clock ran far ahead of the store's: said once, for it costs what its table is promised.

Versions may not run backwards in time, so whatever is committed after such a version bears its time or a
later one. Rows are safe; but snapshots expire, and append ids are forgotten, by these times.
"""

from __future__ import annotations

import logging

from datashard_core.commit.core.version_file import VersionFile

log = logging.getLogger(__name__)

TOLERATED_MS = 5 * 60 * 1000
"""Clocks that nobody looks after differ by less."""

_warned: set[str] = set()
"""Tables that this process has warned of."""


def warn_if_clock_ahead(root: str, version_file: VersionFile, last_modified: float) -> None:
    """Log a warning, once for each table and process, if a version's time is far ahead of the store's clock.

    Args:
        root: URI of the table's root.
        body: the version.
        last_modified: when the store says that it was written, in seconds since 1970.
    """
    ahead = milliseconds_ahead(version_file, last_modified)
    if ahead <= TOLERATED_MS or root in _warned:
        return
    _warned.add(root)
    log.warning(
        "table %s: version %d says it was committed at %d ms since 1970, %.0f s after the store says it was written: a "
        "writer's clock, or an engine's, was ahead. Every later version has to bear a later time, so until the world "
        "has caught up snapshots expire and append ids are forgotten that much too early. Set the writers' clocks "
        "right; nothing is lost from the table.",
        root,
        version_file.version,
        version_file.table.last_updated_ms,
        ahead / 1000.0,
    )


def milliseconds_ahead(version_file: VersionFile, last_modified: float) -> int:
    """By how much a version's own time is later than the store's time of writing it; 0 for what is no table."""
    if version_file.metadata is None:
        return 0
    return max(0, version_file.metadata.last_updated_ms - int(1000 * last_modified))
