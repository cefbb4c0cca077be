"""A table as its user holds it."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import TYPE_CHECKING, Any, Literal

from msgspec.structs import replace

from datashard_core import arguments
from datashard_core.clock import SYSTEM_CLOCK, Clock
from datashard_core.commit.append.deferred import Deferred, commit_backlog, defer, flush
from datashard_core.commit.append.outcome import Result
from datashard_core.commit.append.protocol import append
from datashard_core.commit.core.current_version import find_current
from datashard_core.commit.core.state import Append, Committed, TableState, Target, require_live
from datashard_core.commit.core.version_file import version_key
from datashard_core.config import DEFAULT_TIMEOUT
from datashard_core.effects.driver import run
from datashard_core.errors import ConfigurationError, DataShardError, InvalidRecordsError
from datashard_core.forks import ProcessLock
from datashard_core.format.types.schema import Schema
from datashard_core.table.append import AppendId, AppendResult, check_append_id, checked_rows, plan_append
from datashard_core.table.maintenance import Maintenance
from datashard_core.table.shared import SharedCommits

if TYPE_CHECKING:
    import pyarrow as pa
    import pyarrow.compute as pc

    from datashard_core.format.expressions.expressions import Condition
    from datashard_core.format.metadata.snapshot import Snapshot
    from datashard_core.query.sql import At
    from datashard_core.storage.base import Storage
    from datashard_core.storage.metrics import StorageMetrics
    from datashard_core.table.scan import Scan

# What only reading needs is imported where it is used: most processes append once, and end.

log = logging.getLogger(__name__)

CommitMode = Literal["now", "deferred"]


class Table(Maintenance):
    """One table: rows go in by :meth:`append`, and come out by :meth:`scan` or :meth:`sql`.

    A table object shows the version that it last saw: the one it was loaded at, or that of its own
    last append. :meth:`refresh` moves it to the newest. Appends always go on top of the newest.
    Objects are safe to share between threads; other processes load the table by its name.

    Example:
        >>> table = load_table("workflow_log")
        >>> table.append([{"task": "extract", "state": "success"}]).rows
        1
    """

    def __init__(
        self,
        storage: Storage,
        name: str,
        seen: TableState,
        clock: Clock = SYSTEM_CLOCK,
        shared: SharedCommits | None = None,
    ) -> None:
        self._storage = storage
        self._name = name
        self._seen = seen
        self._clock = clock
        self._appended = None
        self._lock = ProcessLock()
        self._shared = shared or SharedCommits()
        self._target = Target(storage.root, name, seen.body.table.table_uuid)

    def __repr__(self) -> str:
        return f"<Table {self._name} version {self.version} at {self.uri}>"

    @property
    def name(self) -> str:
        """Name in its warehouse, ``[namespace.]table``."""
        return self._name

    @property
    def uri(self) -> str:
        """URI of the table's folder; Iceberg readers open it."""
        return self._storage.root

    @property
    def version(self) -> int:
        """Number of the version that this object shows."""
        return self._seen.body.version

    @property
    def schema(self) -> Schema:
        """The table's current schema."""
        return self._seen.body.table.schema

    @property
    def properties(self) -> Mapping[str, str]:
        """The table's properties."""
        return self._seen.body.table.properties

    @property
    def metadata_location(self) -> str:
        """URI of the metadata file of this version, for engines and catalogs that want it."""
        return f"{self._storage.root}/{version_key(self.version)}"

    def append(
        self,
        data: Any,
        *,
        append_id: AppendId | None = None,
        base: int | None = None,
        timeout: float = DEFAULT_TIMEOUT,
        commit: CommitMode = "now",
    ) -> AppendResult:
        """Append rows: all of them, once, visible to every reader when this returns.

        Args:
            data: a list of dictionaries, a pyarrow Table or RecordBatch, record batches, or a
                pandas or Polars frame; its columns are matched with the schema by name.
            append_id: an id that stays the same when the same work is tried again. A second call
                with it and the same rows appends nothing and returns the first result. A function
                makes the id of the rows' digest.
            base: only with the ``append_id`` that a :class:`CommitStateUnknownError` carried: its
                ``base``.
            timeout: seconds after which it gives up.
            commit: "now"; or "deferred": the rows are durable when this returns, at the cost of one
                request, and visible with the next commit of anybody, a :meth:`flush`, or to a scan
                with ``include_staged=True``.

        Raises:
            InvalidRecordsError: the rows do not fit the schema; nothing was written.
            AppendIdConflictError: the id was used with other rows.
            CommitStateUnknownError: it may or may not be in the table; it says how to ask again.
            CommitTimeoutError: the deadline passed before anything was sent.
            NoSuchTableError: the table was dropped.
            StorageError: the store failed; nothing was appended.

        Example:
            >>> table.append([{"user_id": 1, "event": "login"}], append_id="etl/2026-11-24").already_appended
            False
        """
        check_append_id(append_id)
        timeout = arguments.seconds(timeout)
        if base is not None:
            base = arguments.whole(base, "base", "the base that CommitStateUnknownError carried", -1)
            if append_id is None:
                raise ConfigurationError("base= goes with the append_id that CommitStateUnknownError carried")
        if not isinstance(commit, str) or commit not in ("now", "deferred"):
            raise ConfigurationError(f"commit={arguments.shown(commit)}: pass 'now' or 'deferred'")
        seen = self._seen
        rows = checked_rows(data, seen.body.table.schema, self._name)
        item = plan_append(
            rows,
            schema=seen.body.table.schema,
            location=seen.body.table.location,
            storage=self._storage,
            clock=self._clock,
            append_id=append_id,
            base=base,
            known_version=seen.body.version,
        )
        if commit == "deferred" and item.rows is not None:
            done = self._defer(item, seen, timeout)
        else:
            done = self._shared.append(item, timeout, self._commit, self._name)
            self._compact_if_due()
        return AppendResult(
            table=self._name,
            version=done.version if done is not None else None,
            snapshot_id=done.snapshot_id if done is not None else None,
            rows=rows.num_rows,
            append_id=item.append_id,
            already_appended=done.already_appended if done is not None else False,
        )

    def flush(self, timeout: float = DEFAULT_TIMEOUT) -> Table:
        """Commit every deferred append that is staged now, whoever staged it, and show the result.

        Raises:
            AppendRefusedError: some of it is refused, and never will be in the table; everything else is.
            CommitStateUnknownError: some of it was staged before the versions whose appends are remembered
                (``datashard.append-id.retention``); everything else is in the table.
            AppendSetAsideError: some of it can be committed by a newer release alone, if at all; everything else is
                in the table.
            CommitTimeoutError: the deadline passed; what is staged stays staged.
            StorageError: the store failed, likewise.
        """
        timeout = arguments.seconds(timeout)
        self._learn(run(flush(self._target, self._seen, timeout), self._storage, self._clock, timeout=timeout))
        return self

    def _defer(self, item: Append, seen: TableState, timeout: float) -> Committed | None:
        """Stage an append; None: it is staged. Now and then commit what has piled up."""
        result, known = run(defer(item, self._target, seen), self._storage, self._clock)
        self._learn(known)
        if isinstance(result, Deferred):
            if result.commits:
                try:
                    self._learn(run(commit_backlog(self._target, known, timeout), self._storage, self._clock))
                except DataShardError as error:
                    # This append is durable all the same; the next commit carries what piled up.
                    log.warning("table %s: deferred appends were not committed yet: %s", self._name, error)
            return None
        if isinstance(result, Committed):
            return result
        raise result

    def append_records(
        self, records: Sequence[Mapping[str, Any]], schema: Schema | None = None, **options: Any
    ) -> AppendResult:
        """Append dictionaries, one per row.

        Args:
            records: the rows.
            schema: if given, it has to have the table's fields.
            options: ``append_id``, ``base``, ``timeout`` and ``commit`` of :meth:`append`.

        Raises:
            InvalidRecordsError: ``schema`` differs from the table's; and as :meth:`append`.
        """
        if schema is not None and not isinstance(schema, Schema):
            raise ConfigurationError(f"schema={arguments.shown(schema)} is not a Schema: pass table.schema, or none")
        if schema is not None and (differences := self.schema.differences(schema)):
            raise InvalidRecordsError(
                f"table {self._name}: the schema of these records is not the table's: {'; '.join(differences)}"
            )
        return self.append(records, **options)

    def refresh(self) -> Table:
        """Move to the newest version, and return the same object."""
        found = run(find_current(self._storage.root, self._seen.body), self._storage, self._clock)
        self._learn(require_live(found, self._seen, self._target))
        return self

    def current_snapshot(self) -> Snapshot | None:
        """The snapshot of this version; None while nothing was ever appended."""
        return self._seen.body.table.current_snapshot

    def snapshots(self) -> list[Snapshot]:
        """The snapshots that this version keeps, oldest first."""
        return list(self._seen.body.table.snapshots)

    def metrics(self) -> StorageMetrics:
        """What this table object has asked of the store since it was opened, and through which client.

        Example:
            >>> load_table("s3://my-bucket/warehouse/workflow_log").metrics().requests
            {'get': 3}
        """
        return self._storage.metrics()

    def scan(
        self,
        columns: Sequence[str] | None = None,
        where: str | Condition | pc.Expression | None = None,
        snapshot_id: int | None = None,
        as_of: datetime | None = None,
        limit: int | None = None,
        version: int | None = None,
        *,
        include_staged: bool = False,
    ) -> Scan:
        """Read rows of this version, or of an earlier snapshot.

        Args:
            columns: names of the columns wanted; None for all.
            where: a condition, as ``col("state") == "failed"`` (see :func:`~datashard_core.col`), as SQL text (needs
                the extra ``sql``), or as a ``pyarrow.compute`` expression; rows for which it is true are returned.
            snapshot_id: read that snapshot.
            as_of: read what was current at that time (a naive time counts as UTC).
            limit: at most so many rows, whichever are read first.
            version: read that version's rows.
            include_staged: read the newest version, and what waits beside it to be committed (deferred appends
                among it) at the time of this call.

        Raises:
            ConfigurationError: an unknown column, condition, snapshot, time or version.

        Example:
            >>> table.scan(columns=["task"], where="state = 'failed'").to_records()
            []
        """
        if arguments.flag(include_staged, "include_staged"):
            if snapshot_id is not None or as_of is not None or version is not None:
                raise ConfigurationError(
                    "include_staged=True reads the newest version: leave snapshot_id, as_of and version out"
                )
            from datashard_core.commit.append.staged_read import read_with_staged

            staged = run(read_with_staged(self._target, self._seen), self._storage, self._clock)
            newest = staged.state.body.table.current_snapshot
            return replace(self._scan(staged.state, newest, columns, where, limit), staged=staged)
        from datashard_core.table.history import History

        seen = self._seen
        snapshot = History(self._storage, self._name, seen.body).snapshot(snapshot_id, as_of, version)
        return self._scan(seen, snapshot, columns, where, limit)

    def count(self) -> int:
        """How many rows this version has; no data file is opened."""
        return self.scan().count()

    def sql(self, query: str, params: Sequence[Any] | Mapping[str, Any] | None = None) -> pa.Table:
        """Answer a SELECT over this table, under its name with or without the namespace (needs the extra ``sql``).

        Args:
            query: DuckDB's SQL; only the files that may hold rows that it asks for are read. An earlier state is
                named as ``workflow_log at (version => 3)`` or ``at (timestamp => timestamp '2026-01-01')``.
            params: values for ``?`` or ``$name``.

        Raises:
            ConfigurationError: the query is no SELECT, or names what is not there.

        Example:
            >>> table.sql("select state, count(*) as n from workflow_log group by state").to_pylist()
            [{'state': 'success', 'n': 1}]
        """
        from datashard_core.query.sql import Source, run_sql

        names = (self._name, self._name.rpartition(".")[2])

        def rows(name: str, at: At) -> Any:
            return self.dataset(at.snapshot_id, at.as_of, at.version) if name in names else None

        return run_sql(query, Source(f"table {self._name}", rows, lambda: [self._name]), params)

    def dataset(self, snapshot_id: int | None = None, as_of: datetime | None = None, version: int | None = None) -> Any:
        """The rows for an Arrow consumer such as DuckDB, which reads only what it needs."""
        from datashard_core.table.dataset import arrow_dataset

        return arrow_dataset(self.scan(snapshot_id=snapshot_id, as_of=as_of, version=version))

    def changes(
        self,
        from_version: int | None = None,
        to_version: int | None = None,
        *,
        from_snapshot_id: int | None = None,
        to_snapshot_id: int | None = None,
        columns: Sequence[str] | None = None,
        where: str | Condition | pc.Expression | None = None,
        limit: int | None = None,
    ) -> Scan:
        """The rows appended between two versions or snapshots: those of the first are left out.

        A consumer keeps the version that it has read up to, and asks for what came since. The span is one of
        sequence numbers, so a snapshot that has expired meanwhile does not matter.

        Args:
            from_version: the version that was read last.
            to_version: the version to read up to; None for the one that this object shows.
            from_snapshot_id: a snapshot, instead of a version.
            to_snapshot_id: likewise.
            columns: as for :meth:`scan`; likewise ``where`` and ``limit``.

        Raises:
            ConfigurationError: a version or snapshot is not there (any more), or the rows appended in between
                cannot be told any more, because they were compacted with older ones, deleted or overwritten.

        Example:
            >>> seen = table.version
            >>> table.append([{"task": "load", "state": "success"}]).rows
            1
            >>> table.changes(seen).count()
            1
        """
        from datashard_core.table.history import History

        seen = self._seen
        end, appends = History(self._storage, self._name, seen.body).appended(
            from_version, to_version, from_snapshot_id, to_snapshot_id
        )
        return self._scan(seen, end, columns, where, limit, appends)

    def _scan(
        self,
        seen: TableState,
        snapshot: Snapshot | None,
        columns: Sequence[str] | None,
        where: str | Condition | pc.Expression | None,
        limit: int | None,
        added_by: frozenset[int] | None = None,
    ) -> Scan:
        from datashard_core.query.where import prepare
        from datashard_core.table.scan import Scan, check_columns, check_limit

        metadata = seen.body.table
        if isinstance(where, str):
            where = arguments.text(where, "where")
        return Scan(
            storage=self._storage,
            table_name=self._name,
            metadata=metadata,
            snapshot=snapshot,
            schema=metadata.schema,
            columns=check_columns(columns, metadata.schema, self._name),
            where=where,
            limit=check_limit(limit),
            condition=prepare(where, metadata.schema, self._name),
            added_by=added_by,
        )

    def _commit(self, items: Sequence[Append], timeout: float) -> dict[str, Result]:
        results, seen = run(
            append(items, self._target, self._seen, timeout), self._storage, self._clock, timeout=timeout
        )
        if seen is not None:
            self._learn(seen)
            self._appended = seen
        return results

    def _learn(self, seen: TableState) -> None:
        """Keep the newest version that any thread has seen."""
        with self._lock:
            if seen.body.state == "table" and seen.body.version >= self._seen.body.version:
                self._seen = seen
