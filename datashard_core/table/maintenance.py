"""What keeps a table small beyond what its appends do by themselves. Nobody has to call any of it."""

from __future__ import annotations

import logging
from abc import ABC, abstractmethod
from datetime import datetime, timedelta

from msgspec import Struct

from datashard_core import arguments
from datashard_core.clock import Clock
from datashard_core.commit.append.deferred import flush_all
from datashard_core.commit.append.file_age import SHORTEST_GRACE
from datashard_core.commit.core.properties import settings_of
from datashard_core.commit.core.state import TableState, Target
from datashard_core.commit.versions.metadata_expiry import expire_all_metadata
from datashard_core.effects.driver import call, run
from datashard_core.errors import AppendSetAsideError, DataShardError, UnsupportedTableError
from datashard_core.storage.base import Storage

# What does the work is imported where it is used: most processes append once, and end.

log = logging.getLogger(__name__)

GRACE = timedelta(hours=24)
SHORTEST = timedelta(seconds=SHORTEST_GRACE)
MAX_BYTES = 2**30
TIMEOUT = 600.0


class RemovedOrphans(Struct, frozen=True):
    """What :meth:`Maintenance.remove_orphans` did.

    Attributes:
        files: files deleted.
        bytes: their bytes.
        too_young: files that nothing names either, and that a later call will delete.
    """

    files: int
    bytes: int
    too_young: int


class CompactedFiles(Struct, frozen=True):
    """What :meth:`Maintenance.compact` did.

    Attributes:
        files: small files whose rows were written again.
        bytes: their bytes.
        new_files: the files that hold those rows now.
    """

    files: int
    bytes: int
    new_files: int


class Maintained(Struct, frozen=True):
    """What :meth:`Maintenance.maintain` did.

    Attributes:
        expired_snapshots: snapshots that are kept no more.
        compacted: what was compacted; None where another engine's row-level deletes stand in the way.
        tombstones: old versions that are kept by name only from now on.
        orphans: files that were deleted.
        id_nodes: objects below ``_datashard/ids`` that were deleted: names of versions that are out of
            ``datashard.append-id.retention``, or that a later one of these objects holds as well.
        removed_staged: objects below ``_datashard/staging`` that were deleted, for no commit took them within
            ``datashard.append-id.retention`` and the grace period.
        set_aside: objects there that no commit takes now; keys below the table's root.
    """

    expired_snapshots: int
    compacted: CompactedFiles | None
    tombstones: int
    orphans: RemovedOrphans
    id_nodes: int
    removed_staged: int = 0
    set_aside: tuple[str, ...] = ()


class Maintenance(ABC):
    """The upkeep of a table, as part of :class:`~datashard_core.table.table.Table`."""

    _storage: Storage
    _clock: Clock
    _name: str
    _target: Target
    _seen: TableState
    _appended: TableState | None
    """The version that the last append of this object created, and that nobody has looked at for compaction."""

    @abstractmethod
    def _learn(self, seen: TableState) -> None:
        """Keep the newest version that any thread has seen."""

    def remove_orphans(self, grace: timedelta = GRACE, timeout: float = TIMEOUT) -> RemovedOrphans:
        """Delete data files, manifests and manifest lists that no snapshot of the newest version names.

        On local disk also the temporary files (``.tmp-*``) of writers that were killed. Symbolic links, and objects
        whose names cannot be keys, are left where they are, with a warning in the log.

        They come from appends that lost a race or died, from snapshots that expired and from compactions.
        Safe beside appends: they never name a file that may be deleted here. Rows that are staged, and
        files that staged appends describe, are never touched. Commits one version, in which nothing changes.

        Args:
            grace: how old a file has to be, by the store's clock; an hour at least. A scan of an older version
                that is under way may miss a file that its newest snapshot names no more.
            timeout: seconds after which it gives up if others are always faster with the next version.

        Raises:
            ConfigurationError: the grace period is shorter than an hour, or an argument is of another type.
            CorruptTableError: something that may name files cannot be read. Nothing was deleted.
            CommitTimeoutError: it could not commit in time. Nothing was deleted.
            StorageError: the store failed.

        Example:
            >>> table.remove_orphans(grace=timedelta(hours=48)).files
            3
        """
        from datashard_core.commit.maintenance.orphans import remove_orphans

        grace, timeout = arguments.span(grace, "grace", SHORTEST), arguments.seconds(timeout)
        steps = remove_orphans(self._target, self._seen, grace.total_seconds(), timeout)
        removed, seen = run(steps, self._storage, self._clock)
        self._learn(seen)
        unfinished = call(self._storage.remove_unfinished, grace.total_seconds())
        size = removed.size + sum(info.size for info in unfinished)
        return RemovedOrphans(removed.files + len(unfinished), size, removed.too_young)

    def compact(self, max_bytes: int = MAX_BYTES, timeout: float = TIMEOUT) -> CompactedFiles:
        """Write the rows of small data files into fewer, larger ones; the table's rows stay what they are.

        Safe beside appends, and beside deletes of other engines: what is not live any more when the new
        file is to be committed is not brought back. Small are files up to 16 MB; they become files of
        128 MB at most. The old files stay for readers of older snapshots, until :meth:`remove_orphans`.

        Args:
            max_bytes: after so many bytes read nothing further is begun.
            timeout: seconds after which it gives up if others are always faster with the next version.

        Raises:
            UnsupportedTableError: the table has row-level deletes of another engine.
            CommitTimeoutError: it could not commit in time. What was compacted before stays so.
            CorruptTableError: a data file cannot be read. Nothing was lost.
            StorageError: the store failed.

        Example:
            >>> table.compact().new_files
            1
        """
        from datashard_core.commit.maintenance.compact import compact

        max_bytes = arguments.whole(max_bytes, "max_bytes", "a number of bytes", 1)
        timeout = arguments.seconds(timeout)
        done, seen = run(compact(self._target, self._seen, max_bytes, timeout), self._storage, self._clock)
        self._learn(seen)
        return CompactedFiles(done.files, done.size, done.new_files)

    def expire_snapshots(
        self, older_than: datetime | None = None, retain_last: int | None = None, timeout: float = TIMEOUT
    ) -> int:
        """Keep fewer snapshots. Every commit does that by the table's properties; this does it at once.

        Rows stay what they are. A snapshot that a branch or tag leads to is kept. The files that only
        expired snapshots named stay until :meth:`remove_orphans`.

        Args:
            older_than: snapshots made before that time go (a naive time counts as UTC); None: as
                ``history.expire.max-snapshot-age-ms`` asks.
            retain_last: so many of the newest stay however old they are, one at least; None: as
                ``history.expire.min-snapshots-to-keep`` asks.
            timeout: seconds after which it gives up if others are always faster with the next version.

        Returns:
            How many went; with 0 nothing was committed.

        Raises:
            ConfigurationError: ``retain_last`` is less than 1.
            CommitTimeoutError: it could not commit in time.
            StorageError: the store failed.

        Example:
            >>> table.expire_snapshots(older_than=datetime(2026, 11, 1), retain_last=1)
            17
        """
        from datashard_core.commit.maintenance.expire import expire

        if retain_last is not None:
            what = "how many snapshots are kept at least, the current one among them"
            retain_last = arguments.whole(retain_last, "retain_last", what, 1)
        before = None
        if older_than is not None:
            before = int(arguments.moment(older_than, "older_than").timestamp() * 1000)
        timeout = arguments.seconds(timeout)
        steps = expire(self._target, self._seen, before, retain_last, timeout)
        gone, seen = run(steps, self._storage, self._clock)
        self._learn(seen)
        return gone

    def maintain(self, grace: timedelta = GRACE, timeout: float = TIMEOUT) -> Maintained:
        """Do all upkeep that is due, at once: for a quiet hour, once a day or never.

        Commits deferred appends, expires snapshots as the properties ask, compacts small files, turns old
        versions into tombstones, forgets append ids that are out of ``datashard.append-id.retention``, and
        removes orphans. Staged objects that no commit takes (see :meth:`Table.flush`) are named in the result, and
        deleted once they are older than that retention and the grace period.

        Args:
            grace: as for :meth:`remove_orphans`.
            timeout: seconds for each of these.

        Raises:
            AppendRefusedError: deferred appends were refused. All else was done.
            CommitStateUnknownError: deferred appends are older than the retention. All else was done.
            DataShardError: as the methods named say. What was done before stays done.

        Example:
            >>> table.maintain().orphans.files
            3
        """
        from datashard_core.commit.maintenance.abandoned import remove_abandoned
        from datashard_core.commit.maintenance.id_expiry import make_large_segments, remove_segments

        grace, timeout = arguments.span(grace, "grace", SHORTEST), arguments.seconds(timeout)
        seen, left = run(flush_all(self._target, self._seen, timeout), self._storage, self._clock)
        self._learn(seen)
        abandoned, seen = run(remove_abandoned(self._target, seen, grace.total_seconds()), self._storage, self._clock)
        self._learn(seen)
        expired = self.expire_snapshots(timeout=timeout)
        try:
            compacted = self.compact(timeout=timeout)
        except UnsupportedTableError as error:
            log.info("table %s: not compacted: %s", self._name, error)
            compacted = None
        newest = self._seen.body
        run(make_large_segments(self._target, newest), self._storage, self._clock)
        tombstones = run(expire_all_metadata(self._target, newest), self._storage, self._clock)
        id_nodes = run(remove_segments(self._target, newest), self._storage, self._clock)
        orphans = self.remove_orphans(grace, timeout)
        if isinstance(left, AppendSetAsideError):
            log.warning("%s", left)
        elif left is not None:
            raise left
        return Maintained(
            expired, compacted, tombstones, orphans, id_nodes, len(abandoned.removed), tuple(abandoned.left)
        )

    def _compact_if_due(self) -> None:
        """After an append, in tables with ``datashard.auto-compact``: one small compaction where one is due."""
        appended, self._appended = self._appended, None
        if appended is None or appended.body.version != self._seen.body.version:
            return
        if not settings_of(appended.body.table.properties).auto_compact:
            return
        from datashard_core.commit.maintenance.compact import compact_after_append, due

        if not due(appended):
            return
        try:
            self._learn(run(compact_after_append(self._target, appended), self._storage, self._clock))
        except DataShardError as error:
            # The append is committed; its files stay small until the next compaction.
            log.info("table %s: small files were not compacted: %s", self._name, error)
