"""No commit loses or doubles rows: files that are named twice, and every other list that does not add up."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

import datashard_core as ds
from datashard_core.commit.core import manifest_merge
from datashard_core.commit.core.next_version import manifest_of, snapshot_id_from
from datashard_core.commit.core.paths import key_of
from datashard_core.commit.core.row_accounting import Change, adds_up, check_rewritten, check_rows
from datashard_core.commit.core.state import manifests_of
from datashard_core.commit.core.version_file import VersionFile
from datashard_core.commit.external.commit import commit_external
from datashard_core.commit.maintenance import compact as compaction
from datashard_core.effects.driver import run
from datashard_core.errors import CorruptTableError
from datashard_core.format.manifests.manifest import (
    ADDED,
    DELETED,
    EXISTING,
    ManifestEntry,
    ManifestFile,
    decode_manifest,
    encode_manifest_list,
)
from datashard_core.format.metadata.data_file import DataFile
from datashard_core.format.metadata.snapshot import Snapshot
from datashard_core.storage.memory import MemoryStorage
from datashard_core.table.table import Table
from datashard_core.table.warehouse import Warehouse

SCHEMA = ds.Schema(fields=[{"id": 1, "name": "n", "type": "long"}])
MERGING = {"commit.manifest.min-count-to-merge": "2"}


def _table(count: int, **properties: str) -> Table:
    table = Warehouse(MemoryStorage("memory://rows")).create_table("t", SCHEMA, properties=properties)
    for number in range(count):
        table.append([{"n": number}])
    return table


def _rows(table: Table) -> list[int]:
    fresh = Warehouse(_store(table)).load_table("t")
    rows = sorted(row["n"] for row in fresh.scan().to_records())
    assert fresh.count() == len(rows)
    return rows


def _store(table: Table) -> MemoryStorage:
    """The warehouse's storage, found again from the table's."""
    below: Any = table._storage
    above = MemoryStorage("memory://rows")
    above._lock, above._objects, above._numbers = below._lock, below._objects, below._numbers
    return above


def _listed(table: Table) -> list[ManifestFile]:
    return list(run(manifests_of(table.uri, table.uri, table.refresh().current_snapshot()), table._storage))


def _live(table: Table) -> list[ManifestEntry]:
    bodies = [(one, table._storage.get(key_of(one.manifest_path, table.uri, table.uri)).body) for one in _listed(table)]
    return [entry for one, body in bodies for entry in decode_manifest(body, one) if entry.status != DELETED]


def _commit(table: Table, manifests: Sequence[ManifestFile], snapshot_id: int, operation: str = "append") -> None:
    """Commit a manifest list as another library does, through our commit point."""
    metadata = table.refresh()._seen.body.table
    key = f"metadata/manifests/manifest_list_{snapshot_id}.avro"
    snapshot = Snapshot(
        snapshot_id=snapshot_id,
        parent_snapshot_id=metadata.current_snapshot_id,
        sequence_number=metadata.last_sequence_number + 1,
        timestamp_ms=metadata.last_updated_ms + 1,
        manifest_list=f"{table.uri}/{key}",
        summary={"operation": operation},
        schema_id=0,
    )
    table._storage.put(
        key,
        encode_manifest_list(
            manifests,
            snapshot_id=snapshot_id,
            parent_snapshot_id=snapshot.parent_snapshot_id,
            sequence_number=snapshot.sequence_number,
        ),
    )

    def build(newest: VersionFile) -> dict[str, Any]:
        changed = newest.table.with_snapshot(snapshot, now_ms=snapshot.timestamp_ms, previous_metadata=None)
        raw: dict[str, Any] = msgspec.json.decode(changed.to_json())
        return raw

    assert run(commit_external(table._target, build, 30.0), table._storage) is not None
    table.refresh()


def _new_manifest(table: Table, entries: Sequence[tuple[int, DataFile]]) -> tuple[ManifestFile, int]:
    """A manifest that somebody writes, in the store, as the next snapshot's list has it."""
    unique = table._clock.unique()
    snapshot_id = snapshot_id_from(unique)
    made = [
        ManifestEntry(status, snapshot_id, None if status == ADDED else 1, None if status == ADDED else 1, file)
        for status, file in entries
    ]
    manifest = manifest_of(unique, snapshot_id, made, SCHEMA, table._seen.body.table.spec)
    table._storage.put(manifest.key, manifest.data)
    return manifest.listed(table.uri, table._seen.body.table.last_sequence_number + 1), snapshot_id


def _add(table: Table, *files: DataFile) -> None:
    manifest, snapshot_id = _new_manifest(table, [(ADDED, file) for file in files])
    _commit(table, [*_listed(table), manifest], snapshot_id)


def _respelled(file: DataFile) -> DataFile:
    return replace(file, file_path=file.file_path.replace("memory://rows/t", "memory:///rows/t"))


def _once_more(table: Table, file: DataFile) -> None:
    _add(table, file)


def _twice_in_one_manifest(table: Table, file: DataFile) -> None:
    _add(table, file, file)


def _in_two_manifests(table: Table, file: DataFile) -> None:
    _add(table, file)
    _add(table, file)


def _its_manifest_is_listed_twice(table: Table, file: DataFile) -> None:
    listed = _listed(table)
    holder = next(
        one
        for one in listed
        if any(
            entry.data_file.file_path == file.file_path
            for entry in decode_manifest(table._storage.get(key_of(one.manifest_path, table.uri, table.uri)).body, one)
        )
    )
    _commit_unchecked(table, [*listed, holder])


def _live_and_deleted(table: Table, file: DataFile) -> None:
    """One manifest names it as deleted and as existing: it was deleted, and added again."""
    manifest, snapshot_id = _new_manifest(table, [(DELETED, file), (ADDED, file)])
    _commit(table, [*_listed(table), manifest], snapshot_id)


NAMINGS: dict[Callable[[Table, DataFile], None], list[int]] = {
    _once_more: [2],
    _twice_in_one_manifest: [2, 2],
    _in_two_manifests: [2, 2],
    _its_manifest_is_listed_twice: [2],
}


@pytest.mark.parametrize("name", NAMINGS)
@pytest.mark.parametrize("act", ("compact", "auto", "merge", "maintain"))
def test_rows_stay_as_often_as_their_file_is_named(name: Callable[[Table, DataFile], None], act: str) -> None:
    properties = {"auto": {"datashard.auto-compact": "true"}, "merge": MERGING}.get(act, {})
    table = _table(6, **properties)
    name(
        table, next(entry.data_file for entry in _live(table) if entry.data_file.lower_bounds[1] == b"\x02" + bytes(7))
    )
    expected = sorted([*range(6), *NAMINGS[name]])
    if act == "merge" and name is _its_manifest_is_listed_twice:
        expected = _rows(table)  # it has been merged with others
        assert len(expected) > 7
    assert _rows(table) == expected
    if act == "compact":
        done = table.compact()
        assert (done.files, done.new_files) == (len(expected), 1)
        assert [entry.data_file.record_count for entry in _live(table)] == [len(expected)]
    elif act == "maintain":
        compacted = table.maintain().compacted
        assert compacted is not None
        assert compacted.files == len(expected)
    else:
        for number in range(10, 34):
            table.append([{"n": number}])
        expected += range(10, 34)
        if act == "auto":
            assert len(_live(table)) < len(expected) / 2, "nothing was compacted"
        else:
            assert len(_listed(table)) < 10, "nothing was merged"
    assert _rows(table) == sorted(expected)
    snapshot = table.refresh().current_snapshot()
    assert snapshot is not None
    assert snapshot.summary["total-records"] == str(len(expected))
    assert snapshot.summary["total-data-files"] == str(len(_live(table)))
    table.append([{"n": 99}])
    table.compact()
    assert _rows(table) == sorted([*expected, 99])


def test_a_file_of_which_one_entry_is_deleted_keeps_the_other() -> None:
    table = _table(3)
    _live_and_deleted(table, _live(table)[0].data_file)
    expected = _rows(table)
    assert len(expected) == 4
    assert table.compact().files == 4
    assert _rows(table) == expected


def test_a_copy_that_is_taken_away_before_the_commit_stops_the_compaction(monkeypatch: pytest.MonkeyPatch) -> None:
    table = _table(3)
    file = _live(table)[1].data_file
    _add(table, file)
    expected = _rows(table)
    real, done = compaction._commit, []

    async def commit(target: Any, state: Any, rewrite: Any, deadline: float) -> Any:
        if not done:
            done.append(True)
            listed = _listed(table)
            manifest, snapshot_id = _new_manifest(table, [(DELETED, file)])
            _commit(table, [*listed[:-1], manifest], snapshot_id, "delete")
        return await real(target, state, rewrite, deadline)

    monkeypatch.setattr(compaction, "_commit", commit)
    # The version that it was planned on is not the newest any more, so it has to look whether all its sources live.
    table.compact()
    assert done
    left = Counter(expected)
    left[1] -= 1
    assert _rows(table) == sorted(left.elements())


def test_a_record_count_that_is_not_the_files_own_stops_the_compaction() -> None:
    table = _table(3)
    _add(table, replace(_live(table)[0].data_file, record_count=5))
    version = table.version
    with pytest.raises(CorruptTableError, match="holds 1 rows, and its manifest says 5"):
        table.compact()
    assert table.refresh().version == version


def test_a_manifest_whose_counts_say_that_it_is_empty_is_not_dropped() -> None:
    """The list says that it has no live file, and it has one: the next append leaves it where it is."""
    table = _table(2)
    listed = _listed(table)
    lying = replace(listed[0], added_files_count=0, added_rows_count=0)
    _commit_unchecked(table, [lying, listed[1]])
    with pytest.raises(CorruptTableError):
        table.scan().to_records()
    table.append([{"n": 5}])
    assert lying.manifest_path in [one.manifest_path for one in _listed(table)]


def _commit_unchecked(table: Table, manifests: Sequence[ManifestFile]) -> None:
    from unittest import mock

    from datashard_core.commit.external import files as external_files

    with mock.patch.object(external_files, "check_rewritten", lambda *_: None):
        _commit(table, manifests, snapshot_id_from(table._clock.unique()))


def test_a_merge_that_would_lose_a_file_fails_the_append_and_changes_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    table = _table(7)
    real = manifest_merge.merged

    def merged(unique: str, metadata: Any, snapshot_id: int, read: Any) -> Any:
        return real(unique, metadata, snapshot_id, [(one, entries[1:]) for one, entries in read])

    monkeypatch.setattr(manifest_merge, "merged", merged)
    refused = 0
    for number in range(7, 12):
        try:
            table.append([{"n": number}])
        except CorruptTableError as error:
            assert "rows do not add up" in str(error)
            assert "Nothing was committed" in str(error)
            refused += 1
            break
    assert refused == 1
    assert _rows(table) == list(range(table.refresh().version))


def test_a_compaction_that_would_lose_a_file_changes_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    table = _table(4)
    real = compaction.rewritten

    def rewritten(unique: str, metadata: Any, holders: Any, sources: Any, new: Any) -> Any:
        return real(unique, metadata, holders, sources, replace(new, record_count=new.record_count - 1))

    monkeypatch.setattr(compaction, "rewritten", rewritten)
    version = table.version
    with pytest.raises(CorruptTableError, match="rows do not add up"):
        table.compact()
    assert table.refresh().version == version
    assert _rows(table) == [0, 1, 2, 3]


def test_a_commit_of_another_library_that_drops_a_manifest_is_refused() -> None:
    table = _table(4)
    version = table.version
    with pytest.raises(CorruptTableError, match="of 1 rows, would be lost 1 times without being deleted"):
        _commit(table, _listed(table)[1:], 77, "replace")
    with pytest.raises(CorruptTableError, match="rows do not add up"):
        manifest, snapshot_id = _new_manifest(table, [(EXISTING, _live(table)[0].data_file)] * 2)
        _commit(table, [*_listed(table)[1:], manifest], snapshot_id, "replace")
    assert table.refresh().version == version
    assert _rows(table) == [0, 1, 2, 3]


# The pure rule ------------------------------------------------------------------------------------


def _file(name: str, rows: int, content: int = 0) -> DataFile:
    return DataFile(
        content=content,
        file_path=f"s3://b/t/data/{name}",
        file_format="PARQUET",
        partition={},
        record_count=rows,
        file_size_in_bytes=100,
    )


def _manifest(name: str, entries: Sequence[tuple[int, DataFile]]) -> tuple[ManifestFile, list[ManifestEntry]]:
    made = [ManifestEntry(status, 7, 1, 1, file) for status, file in entries]
    counts: dict[str, int] = {}
    for status, what in ((ADDED, "added"), (EXISTING, "existing"), (DELETED, "deleted")):
        mine = [file for one, file in entries if one == status]
        counts |= {f"{what}_files_count": len(mine), f"{what}_rows_count": sum(file.record_count for file in mine)}
    listed = ManifestFile(
        manifest_path=f"s3://b/t/metadata/{name}",
        manifest_length=10,
        partition_spec_id=0,
        content=0,
        sequence_number=1,
        min_sequence_number=1,
        added_snapshot_id=7,
        **counts,
    )
    return listed, made


@given(
    st.lists(st.lists(st.tuples(st.sampled_from("abc"), st.integers(1, 3)), max_size=4), min_size=1, max_size=5),
    st.data(),
)
def test_exactly_the_right_list_is_accepted(held: list[list[tuple[str, int]]], data: st.DataObject) -> None:
    """Some manifests are replaced by one with any part of their files: it has to be the part that is told."""
    made = [
        _manifest(f"m{index}", [(EXISTING, _file(name, rows)) for name, rows in files])
        for index, files in enumerate(held)
    ]
    entries = {listed.manifest_path: inside for listed, inside in made}
    before = [listed for listed, _ in made]
    gone = data.draw(st.lists(st.sampled_from(range(len(made))), unique=True))
    kept = [one for index, one in enumerate(before) if index not in gone]
    files = [entry.data_file for index in gone for entry in made[index][1]]
    removed = data.draw(st.lists(st.sampled_from(range(len(files))), unique=True)) if files else []
    added = [_file("new", data.draw(st.integers(0, 9)))]
    left = [file for index, file in enumerate(files) if index not in removed]
    listed, inside = _manifest("after", [*((EXISTING, file) for file in left), *((ADDED, file) for file in added)])
    entries[listed.manifest_path] = inside
    out = [files[index] for index in removed]
    change = Change(
        removed=out,
        added=added,
        deleted_rows=sum(file.record_count for file in out),
        new_rows=added[0].record_count,
    )
    after = [*kept, listed]
    check_rows("t", before, after, entries, change)
    for wrong in (
        replace(change, deleted_rows=change.deleted_rows + 1),
        replace(change, new_rows=change.new_rows + 1),
        replace(change, added=[*added, *added]),
        replace(change, added=[]),
        replace(change, removed=[*out, _file("a", 1)]),
    ):
        with pytest.raises(CorruptTableError, match="do not add up"):
            check_rows("t", before, after, entries, wrong)
    for list_ in (kept, [*after, listed], *([after[1:]] if kept and made[before.index(kept[0])][1] else [])):
        with pytest.raises(CorruptTableError, match="do not add up"):
            check_rows("t", before, list_, entries, change)


def test_a_manifest_that_leaves_the_list_unread_is_refused() -> None:
    listed, _ = _manifest("m", [(EXISTING, _file("a", 1))])
    with pytest.raises(CorruptTableError, match="are not known"):
        check_rows("t", [listed], [], {}, Change(removed=[_file("a", 1)], deleted_rows=1))


def test_deletes_of_another_snapshot_do_not_count() -> None:
    """An entry that an earlier snapshot deleted says nothing of this one."""
    before, was = _manifest("m", [(EXISTING, _file("a", 3))])
    _, inside = _manifest("n", [(DELETED, _file("a", 3))])
    assert adds_up(7, [before], inside)
    check_rewritten("t", 7, was, inside)
    assert not adds_up(8, [before], inside)
    with pytest.raises(CorruptTableError, match="of 3 rows, would be lost 1 times without being deleted"):
        check_rewritten("t", 8, was, inside)


def test_what_its_writer_did_not_count_is_read() -> None:
    before, was = _manifest("m", [(EXISTING, _file("a", 3))])
    uncounted = replace(before, existing_rows_count=None)
    assert not adds_up(7, [uncounted], was)
    check_rewritten("t", 7, was, was)
    with pytest.raises(CorruptTableError, match="named as existing 1 times though it was not there so often"):
        check_rewritten("t", 7, was, [*was, *was])
