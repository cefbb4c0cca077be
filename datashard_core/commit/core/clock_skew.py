"""Warn once about a version whose clock is far ahead of the store's: it shortens the retention of append ids.

The times of versions may not run backwards, so every version after such a version has its time or a later one. Rows
are safe, but snapshots expire and append ids are forgotten by these times.
"""

from __future__ import annotations

import logging

from datashard_core.commit.core.version_file import VersionFile

log = logging.getLogger(__name__)

TOLERATED_MS = 5 * 60 * 1000
"""Unsynchronised clocks differ by less."""

_warned: set[str] = set()
"""Tables for which this process has logged the warning."""


def warn_if_clock_ahead(root: str, version_file: VersionFile, last_modified: float) -> None:
    """Log a warning, once for each table and process, if a version's time is far ahead of the store's clock.

    Args:
        root: URI of the table's root.
        body: the version.
        last_modified: when it was written by the store's clock, in seconds since 1970.
    """
    ahead = milliseconds_ahead(version_file, last_modified)
    if ahead <= TOLERATED_MS or root in _warned:
        return
    _warned.add(root)
    log.warning(
        "table %s: version %d has the commit time %d ms since 1970, %.0f s later than the store's time for it: the "
        "clock of a writer, or of another engine, was ahead. Every later version has to have a later time, so until "
        "then snapshots expire and append ids are forgotten that much too early. Correct the writers' clocks; no row "
        "of the table is lost.",
        root,
        version_file.version,
        version_file.table.last_updated_ms,
        ahead / 1000.0,
    )


def milliseconds_ahead(version_file: VersionFile, last_modified: float) -> int:
    """Milliseconds by which a version's own time is later than the store's; 0 for a tombstone or a dropped table."""
    if version_file.metadata is None:
        return 0
    return max(0, version_file.metadata.last_updated_ms - int(1000 * last_modified))
