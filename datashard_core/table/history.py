"""Earlier states of a table, and what was appended between two of them."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime

from msgspec import Struct

from datashard_core import arguments
from datashard_core.commit.core.state import read_version
from datashard_core.commit.core.version_file import VersionFile
from datashard_core.effects.driver import run, shared_pool
from datashard_core.errors import ConfigurationError, CorruptTableError
from datashard_core.format.json_text import whole_number
from datashard_core.format.metadata.snapshot import Snapshot
from datashard_core.format.metadata.table_metadata import TableMetadata
from datashard_core.storage.base import ObjectNotFoundError, Storage
from datashard_core.table.plan import Planner

_ADDED = "added-records"


class History(Struct, frozen=True):
    """The versions of a table up to one that was seen.

    Attributes:
        storage: where the table is.
        table_name: for messages.
        newest: the version that the table object shows.
    """

    storage: Storage
    table_name: str
    newest: VersionFile

    def snapshot(
        self, snapshot_id: int | None = None, as_of: datetime | None = None, version: int | None = None
    ) -> Snapshot | None:
        """The snapshot that one of the arguments tells; the current one if none is given.

        Raises:
            ConfigurationError: there is no such snapshot, time or version, or two of them are given.
        """
        if sum(one is not None for one in (snapshot_id, as_of, version)) > 1:
            raise ConfigurationError("pass one of snapshot_id, as_of and version")
        metadata = self.newest.table
        if snapshot_id is not None:
            return self._by_id(snapshot_id)
        if as_of is not None:
            moment = arguments.moment(as_of, "as_of")
            found = metadata.snapshot_as_of(int(moment.timestamp() * 1000))
            if found is None:
                raise ConfigurationError(
                    f"table {self.table_name} had no snapshot yet at {moment.isoformat()}, or it is kept no more"
                )
            return found
        return metadata.current_snapshot if version is None else self.at(version).current_snapshot

    def at(self, version: int) -> TableMetadata:
        """The metadata of a version.

        Raises:
            ConfigurationError: there is no such version of this table, or it is kept no more.
        """
        version = arguments.whole(version, "version", "the number of a version", 0)
        if version == self.newest.version:
            return self.newest.table
        shown = f"version {version} of table {self.table_name}"
        if version > self.newest.version:
            raise ConfigurationError(
                f"there is no {shown}: this object shows version {self.newest.version}; refresh it?"
            )
        try:
            body = run(read_version(self.storage.root, version), self.storage)
        except ObjectNotFoundError as error:
            raise ConfigurationError(f"{shown} is not there any more, or never was") from error
        if body.state != "table":
            raise ConfigurationError(f"{shown} is kept by name only (a {body.state}): read a newer one")
        if body.table.table_uuid != self.newest.table.table_uuid:
            raise ConfigurationError(f"{shown} belongs to an earlier table of that name, which was dropped")
        return body.table

    def appended(
        self,
        from_version: int | None,
        to_version: int | None,
        from_snapshot_id: int | None,
        to_snapshot_id: int | None,
    ) -> tuple[Snapshot | None, frozenset[int]]:
        """The snapshot at the end of a span of history, and the snapshots in the span that appended rows.

        Raises:
            ConfigurationError: an end of the span is not there, or the rows appended in it cannot be told any more.
        """
        starts, ends = (
            [one is not None for one in pair]
            for pair in ((from_version, from_snapshot_id), (to_version, to_snapshot_id))
        )
        if sum(starts) != 1 or all(ends):
            raise ConfigurationError(
                "pass from_version or from_snapshot_id, and to_version or to_snapshot_id or neither (the newest)"
            )
        start = (
            self.at(from_version).last_sequence_number
            if from_version is not None
            else self._by_id(from_snapshot_id).sequence_number
        )
        end = self.snapshot(to_snapshot_id, version=to_version)
        if end is None or end.sequence_number <= start:
            return end, frozenset()
        steps = self._steps(start, end.sequence_number, from_version, to_version)
        appends = {step.snapshot_id for step in steps if step.summary.get("operation") == "append"}
        self._check_complete(end, start, steps, appends)
        return end, frozenset(appends)

    def _by_id(self, snapshot_id: int | None) -> Snapshot:
        metadata = self.newest.table
        found = metadata.snapshot_by_id(arguments.whole(snapshot_id, "snapshot_id", "the id of a snapshot", -(2**63)))
        if found is None:
            kept = ", ".join(str(snapshot.snapshot_id) for snapshot in metadata.snapshots[-5:])
            raise ConfigurationError(
                f"table {self.table_name} has no snapshot {arguments.shown(snapshot_id)} (any more); the newest are "
                f"{kept or 'none'}. Versions are remembered longer than snapshots."
            )
        return found

    def _steps(self, start: int, end: int, from_version: int | None, to_version: int | None) -> list[Snapshot]:
        """Every snapshot with a sequence number in (start, end]: those that have expired stand in older versions."""
        found = {one.sequence_number: one for one in self.newest.table.snapshots if start < one.sequence_number <= end}
        if len(found) < end - start:
            first = from_version if from_version is not None else 0
            last = to_version if to_version is not None else self.newest.version
            for snapshot in self._of_versions(range(first + 1, last + 1)):
                if start < snapshot.sequence_number <= end:
                    found.setdefault(snapshot.sequence_number, snapshot)
        missing = sorted(set(range(start + 1, end + 1)) - set(found))
        if missing:
            raise ConfigurationError(
                f"table {self.table_name}: what commit number {missing[0]} did cannot be told any more: its snapshot "
                "has expired and its version is kept by name only. Read the whole table, and go on from its version."
            )
        return [found[number] for number in sorted(found)]

    def _of_versions(self, versions: Sequence[int]) -> list[Snapshot]:
        def current(version: int) -> Snapshot | None:
            try:
                return self.at(version).current_snapshot
            except ConfigurationError:
                return None  # told as missing, if nothing else knows its snapshot

        return [one for one in shared_pool().map(current, versions) if one is not None]

    def _check_complete(self, end: Snapshot, start: int, steps: Sequence[Snapshot], appends: set[int]) -> None:
        """Whether the rows of every append of a span are still in the files that it wrote."""
        other = next((one for one in steps if one.summary.get("operation") == "overwrite"), None)
        if other is not None:
            raise ConfigurationError(
                f"table {self.table_name}: snapshot {other.snapshot_id} overwrote rows, so those appended cannot be "
                "told from those that were kept. Read the whole table, and go on from its version."
            )
        told = [whole_number(one.summary.get(_ADDED, "")) for one in steps if one.snapshot_id in appends]
        added = [number for number in told if number is not None]
        if len(added) < len(told):
            raise CorruptTableError(f"table {self.table_name}: an append does not say how many rows it added")
        planner = Planner(self.storage, self.newest.table, self.table_name)
        manifests = [one for one in planner.manifests(end) if one.sequence_number > start]
        rows = sum(entry.data_file.record_count for entry in planner.files(manifests) if entry.snapshot_id in appends)
        if rows != sum(added):
            raise ConfigurationError(
                f"table {self.table_name}: {sum(added)} rows were appended after commit number {start}, and "
                f"the files written for {sum(added) - rows} of them are gone: compacted with older rows, or "
                "deleted. Read the whole table, and go on from its version; consumers that read more often than the "
                "table is compacted do not meet this."
            )
