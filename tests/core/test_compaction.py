"""Small files become one: rows stay what they are, whoever appends, deletes or compacts meanwhile."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from msgspec.structs import replace

import datashard_core as ds
from datashard_core.commit.core.state import manifests_of
from datashard_core.commit.maintenance import compact as compaction
from datashard_core.commit.maintenance import rewrite_rows
from datashard_core.commit.maintenance.small_files import AFTER_APPEND, CALLED_FOR, Budget, chosen
from datashard_core.effects.driver import run
from datashard_core.errors import CorruptTableError, UnsupportedTableError
from datashard_core.format.manifests.manifest import ADDED, DELETED, EXISTING, ManifestEntry, decode_manifest
from datashard_core.format.metadata.data_file import DataFile
from datashard_core.format.metadata.table_metadata import new_table_metadata
from datashard_core.storage.base import Version
from datashard_core.storage.memory import MemoryStorage
from datashard_core.table.table import Table
from datashard_core.table.warehouse import Warehouse

SCHEMA = ds.Schema(fields=[{"id": 1, "name": "n", "type": "long"}, {"id": 2, "name": "text", "type": "string"}])
AUTO = {"datashard.auto-compact": "true"}


def _table(**properties: str) -> Table:
    return Warehouse(MemoryStorage()).create_table("t", SCHEMA, properties=properties)


def _append(table: Table, first: int, last: int) -> None:
    for number in range(first, last + 1):
        table.append([{"n": number, "text": f"row {number}"}])


def _rows(table: Table) -> list[int]:
    records = table.refresh().scan().to_records()
    assert all(record["text"] == f"row {record['n']}" for record in records)
    return [record["n"] for record in records]


def _entries(table: Table) -> list[ManifestEntry]:
    snapshot = table.current_snapshot()
    manifests = run(manifests_of(table.uri, table.uri, snapshot), table._storage)
    bodies = [table._storage.get(one.manifest_path.removeprefix(f"{table.uri}/")).body for one in manifests]
    return [entry for body, one in zip(bodies, manifests, strict=True) for entry in decode_manifest(body, one)]


def _live(table: Table) -> list[ManifestEntry]:
    return [entry for entry in _entries(table) if entry.status != DELETED]


def test_a_call_compacts_everything_that_is_small(any_warehouse: Warehouse) -> None:
    table = any_warehouse.create_table("t", SCHEMA)
    _append(table, 0, 11)
    before = table.current_snapshot()
    done = table.compact()
    assert (done.files, done.new_files) == (12, 1)
    assert done.bytes > 0
    assert _rows(table) == list(range(12))
    assert _rows(any_warehouse.load_table("t")) == list(range(12))
    assert [entry.status for entry in _live(table)] == [ADDED]
    snapshot = table.current_snapshot()
    assert snapshot is not None
    assert before is not None
    assert snapshot.parent_snapshot_id == before.snapshot_id
    assert {key: snapshot.summary[key] for key in ("operation", "total-records", "total-data-files")} == {
        "operation": "replace",
        "total-records": "12",
        "total-data-files": "1",
    }
    assert snapshot.summary["deleted-data-files"] == "12"
    assert int(snapshot.summary["total-files-size"]) == _live(table)[0].data_file.file_size_in_bytes
    assert table.scan(snapshot_id=before.snapshot_id).count() == 12, "old snapshots keep their files"
    assert table.compact().files == 0
    _append(table, 12, 13)
    assert _rows(table) == list(range(14))
    assert table.compact().files == 3


def test_a_table_made_as_a_log_keeps_few_files_by_itself(any_warehouse: Warehouse) -> None:
    table = any_warehouse.create_table("t", SCHEMA, properties=AUTO)
    plain = any_warehouse.create_table("plain", SCHEMA)
    _append(table, 0, 19)
    _append(plain, 0, 19)
    assert _rows(table) == _rows(plain) == list(range(20))
    assert len(_live(plain)) == 20
    assert len(_live(table)) < 12
    assert table.version > plain.version


def test_many_appends_leave_few_files_and_rows_are_written_once_for_each_tier() -> None:
    table = _table(**AUTO)
    _append(table, 0, 199)
    assert sorted(_rows(table)) == list(range(200))
    assert len(_live(table)) < 25
    written = sum(int(s.summary["added-records"]) for s in table.snapshots() if s.summary["operation"] == "replace")
    assert written <= 2 * 200


def test_an_append_that_compacts_makes_a_fixed_number_of_requests() -> None:
    table = _table(**AUTO)
    asked: list[str] = []

    def counted(name: str) -> Callable[..., Any]:
        method = getattr(table._storage, name)

        def call(*arguments: Any, **options: Any) -> Any:
            asked.append(name)
            return method(*arguments, **options)

        return call

    for name in ("get", "head", "list", "put", "put_if_absent", "replace", "delete"):
        setattr(table._storage, name, counted(name))
    counts = []
    for number in range(80):
        asked.clear()
        _append(table, number, number)
        counts.append(len(asked))
    assert max(counts) <= 3 * sorted(counts)[40], counts


def test_nothing_is_compacted_while_many_write_nor_by_an_append_that_merged_nothing() -> None:
    table = _table(**AUTO)
    _append(table, 0, 7)
    assert compaction.due(table._seen) == ()
    _append(table, 8, 8)
    replaces = [s for s in table.snapshots() if s.summary["operation"] == "replace"]
    assert len(replaces) == 1
    hot = table._seen
    assert hot.body.names is not None
    names = {**hot.body.names.names, hot.body.version: {"a" * 32: "", "b" * 32: ""}}
    crowded = replace(hot, body=replace(hot.body, names=replace(hot.body.names, names=names)))
    assert compaction.due(crowded) == ()


class _Meddler:
    """Does something between the writing of a compacted file and the creation of its version."""

    def __init__(self, table: Table, what: Callable[[], None]) -> None:
        self.left = [what]
        self.real = table._storage.put_if_absent
        table._storage.put_if_absent = self  # type: ignore[method-assign]

    def __call__(self, key: str, data: bytes) -> Version:
        if key.startswith("metadata/v") and self.left:
            self.left.pop()()
        return self.real(key, data)


def test_an_append_that_comes_first_keeps_its_rows() -> None:
    table = _table()
    _append(table, 0, 9)
    other = Table(table._storage, "t", table._seen)
    _Meddler(table, lambda: _append(other, 10, 10))
    done = table.compact()
    assert (done.files, done.new_files) == (12, 2), "ten, and then what they became with the one that came"
    assert sorted(_rows(table)) == list(range(11))
    assert len(_live(table)) == 1


def test_appends_that_merge_the_manifests_of_the_sources_do_not_stop_it() -> None:
    table = _table()
    _append(table, 0, 6)
    other = Table(table._storage, "t", table._seen)
    _Meddler(table, lambda: _append(other, 7, 12))  # the sources' manifests are merged by one of them
    assert table.compact().files >= 7
    assert sorted(_rows(table)) == list(range(13))


def test_two_compactions_at_once_double_nothing() -> None:
    table = _table()
    _append(table, 0, 9)
    other = Table(table._storage, "t", table._seen)
    done: list[int] = []
    _Meddler(table, lambda: done.append(other.compact().files))
    assert table.compact().files == 0
    assert done == [10]
    assert _rows(table) == list(range(10))
    assert len(_live(table)) == 1


@pytest.mark.parametrize("answer", ["lost reply", "late"])
def test_a_reply_that_was_lost_doubles_nothing(answer: str) -> None:
    from datashard_core.storage.base import OutcomeUnknownError

    table = _table()
    _append(table, 0, 9)
    real, waiting = table._storage.put_if_absent, list[tuple[str, bytes]]()

    def put(key: str, data: bytes) -> Version:
        if not waiting:
            waiting.append((key, data))
            if answer == "lost reply":
                real(key, data)
            raise OutcomeUnknownError("no reply", key=key)
        if answer == "late" and len(waiting) == 1:
            waiting.append(waiting[0])
            real(*waiting[0])  # it lands now
        return real(key, data)

    table._storage.put_if_absent = put  # type: ignore[method-assign]
    assert table.compact().files == 10
    assert _rows(table) == list(range(10))
    assert table.version == 11


def test_row_level_deletes_of_another_engine_stop_it(monkeypatch: pytest.MonkeyPatch) -> None:
    table = _table()
    _append(table, 0, 9)
    real = compaction.manifests_of

    async def with_deletes(*arguments: Any) -> Any:
        listed = await real(*arguments)
        return (*listed, replace(listed[0], content=1, manifest_path=f"{table.uri}/metadata/deletes.avro"))

    monkeypatch.setattr(compaction, "manifests_of", with_deletes)
    fresh = Table(table._storage, "t", replace(table._seen, manifests=None))
    with pytest.raises(UnsupportedTableError, match="row-level deletes"):
        fresh.compact()
    monkeypatch.undo()
    assert table.refresh().version == 10


def test_a_file_that_cannot_be_read_stops_it_and_the_table_stays_as_it_is() -> None:
    table = _table(**AUTO)
    _append(table, 0, 7)
    key = _live(table)[3].data_file.file_path.removeprefix(f"{table.uri}/")
    whole = table._storage.get(key).body
    table._storage.put(key, whole[:-9])
    version = table.version
    with pytest.raises(CorruptTableError, match=r"is not readable .*Nothing was compacted"):
        table.compact()
    _append(table, 8, 8)  # merges, tries to compact, and is none the worse for it
    assert table.version == version + 1
    table._storage.put(key, whole)
    assert _rows(table) == list(range(9))


def test_a_compaction_that_took_longer_than_orphans_are_kept_gives_up(moved_clock: Any) -> None:
    table = _table()
    _append(table, 0, 9)
    other = Table(table._storage, "t", table._seen)

    def sleep() -> None:
        moved_clock.ahead += 2 * 24 * 3600.0
        _append(other, 10, 10)
        assert other.remove_orphans().files >= 1

    _Meddler(table, sleep)
    assert table.compact().files == 11, "it began again, with a new file"
    assert sorted(_rows(table)) == list(range(11))


def test_the_schema_of_the_day_decides_what_is_written() -> None:
    table = _table()
    _append(table, 0, 3)
    raw = table._seen.body.table._raw
    wider = {"type": "struct", "schema-id": 1, "fields": [
        {"id": 2, "name": "words", "type": "string", "required": False},
        {"id": 1, "name": "n", "type": "long", "required": False},
        {"id": 3, "name": "new", "type": "double", "required": False},
    ]}  # fmt: skip
    changed = type(table._seen.body.table)(
        {**raw, "schemas": [*raw["schemas"], wider], "current-schema-id": 1, "last-column-id": 3}
    )
    table._seen = replace(table._seen, body=replace(table._seen.body, metadata=changed))
    table.append([{"n": 4, "words": "row 4", "new": 0.5}])
    assert table.compact().files == 5
    assert [(r["n"], r["words"], r["new"]) for r in table.scan().to_records()] == [
        *((number, f"row {number}", None) for number in range(4)),
        (4, "row 4", 0.5),
    ]


@pytest.mark.parametrize("missing", [0, 1])
def test_files_whose_rows_fill_the_budget_alone_are_passed_over_once(
    monkeypatch: pytest.MonkeyPatch, missing: int
) -> None:
    """Files of few bytes whose rows become many in the schema of the day: the call did not end."""
    table = _table()
    for number in range(4):
        table.append([{"n": number, "text": f"row {number}"}] * 10)
    file = _live(table)[0].data_file
    body = table._storage.get(file.file_path.removeprefix(f"{table.uri}/")).body
    size = sum(part.nbytes for part in rewrite_rows.parts_of(body, file, table.schema, "x", 2**20))
    monkeypatch.setattr(compaction, "CALLED_FOR", replace(CALLED_FOR, decoded=size - missing))
    assert table.compact(timeout=30).files == 0
    assert len(_live(table)) == 4
    monkeypatch.setattr(compaction, "CALLED_FOR", replace(CALLED_FOR, decoded=size + 1))
    assert table.compact().new_files == 2, "two files fill it together"
    assert len(_rows(table)) == 40


def test_rows_that_do_not_fit_in_memory_together_are_encoded_as_a_stream(monkeypatch: pytest.MonkeyPatch) -> None:
    table = _table()
    _append(table, 0, 39)
    monkeypatch.setattr(rewrite_rows, "IN_MEMORY", 500)
    before = [entry.data_file for entry in _live(table)]
    assert table.compact().files == len(before)
    (file,) = [entry.data_file for entry in _live(table)]
    assert file.record_count == 40
    assert (min(one.lower_bounds[1] for one in before), file.value_counts) == (file.lower_bounds[1], {1: 40, 2: 40})
    assert _rows(table) == list(range(40))


def _file(rows: int, size: int, **changes: Any) -> ManifestEntry:
    file = DataFile(file_path=f"f{rows}/{size}", record_count=rows, file_size_in_bytes=size)
    return ManifestEntry(changes.pop("status", EXISTING), 1, 1, 1, replace(file, **changes))


def test_only_plain_small_files_of_one_tier_are_chosen() -> None:
    table = new_table_metadata(table_uuid="u", location="s3://b/t", schema=SCHEMA, properties={}, now_ms=1)
    ones, eights = [_file(1, 1000)] * 9, [_file(8, 2000)] * 7
    assert len(chosen([*ones, *eights], table, AFTER_APPEND)) == 9
    assert chosen([*ones[:7], *eights], table, AFTER_APPEND) == ()
    for odd in (
        _file(1, 1000, status=DELETED),
        _file(1, AFTER_APPEND.small + 1),
        _file(1, 1000, content=1),
        _file(1, 1000, file_format="ORC"),
        _file(1, 1000, partition={"day": 3}),
        _file(1, 1000, spec_id=4),
    ):
        assert chosen([*ones[:7], odd], table, AFTER_APPEND) == ()
    everything = Budget(files=10, size=20_000, at_least=2, tiers=False)
    assert len(chosen([*ones, *eights], table, everything)) == 10
    assert len(chosen([*eights, *ones], table, replace(everything, size=5_000))) == 0, "2,000 is not small then"


def test_a_workflow_log_is_made_with_it() -> None:
    from datashard_core.workflow_log import open_log

    warehouse = Warehouse(MemoryStorage())
    assert open_log(warehouse).properties["datashard.auto-compact"] == "true"
    assert open_log(warehouse).version == 0
    with pytest.raises(ds.ConfigurationError, match=r"datashard\.auto-compact='perhaps' has to be 'true' or 'false'"):
        warehouse.create_table("t", SCHEMA, properties={"datashard.auto-compact": "perhaps"})
