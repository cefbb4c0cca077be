"""Tables as their users hold them, on every kind of storage."""

from __future__ import annotations

import datetime as dt
import threading
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pytest

import datashard_core as ds
from datashard_core.commit.append import deferred
from datashard_core.commit.core.version_file import version_key
from datashard_core.storage.base import Storage
from datashard_core.storage.memory import MemoryStorage
from datashard_core.table.warehouse import Warehouse

EVENTS = ds.Schema(
    schema_id=1,
    fields=[
        {"id": 1, "name": "user_id", "type": "long", "required": True},
        {"id": 2, "name": "event", "type": "string"},
    ],
)
ROWS = [{"user_id": 1, "event": "login"}, {"user_id": 2, "event": None}]


def test_rows_that_were_appended_are_read(any_warehouse: Warehouse) -> None:
    table = any_warehouse.create_table("user-events", EVENTS)
    assert (table.version, table.count(), table.current_snapshot()) == (0, 0, None)
    assert table.scan().to_records() == []
    result = table.append(ROWS)
    assert (result.table, result.version, result.rows, result.already_appended) == (
        "user-events",
        1,
        2,
        False,
    )
    snapshot = table.current_snapshot()
    assert snapshot is not None
    assert snapshot.snapshot_id == result.snapshot_id
    assert snapshot.summary["total-records"] == "2"
    assert table.scan().to_records() == ROWS
    assert table.scan().to_arrow().schema.names == ["user_id", "event"]
    other = any_warehouse.load_table("user-events")
    assert other.scan().to_records() == ROWS
    other.append(pa.table({"event": ["x"], "user_id": pa.array([3], pa.int32())}))
    assert table.count() == 2
    assert table.refresh().count() == 3
    assert [snapshot.sequence_number for snapshot in table.snapshots()] == [1, 2]


def test_an_append_id_appends_once(any_warehouse: Warehouse) -> None:
    table = any_warehouse.create_table("t", EVENTS)
    first = table.append(ROWS, append_id="dag/run/task")
    for number in range(40):  # beyond what one version repeats of the history
        table.append([{"user_id": number}])
    for handle in (table, any_warehouse.load_table("t")):
        again = handle.append(pa.Table.from_pylist(ROWS), append_id="dag/run/task")
        assert again.already_appended
        assert (again.version, again.snapshot_id) == (first.version, first.snapshot_id)
    with pytest.raises(ds.AppendIdConflictError, match="other rows") as conflict:
        table.append(ROWS[:1], append_id="dag/run/task")
    assert conflict.value.version == first.version
    assert conflict.value.committed_digest in str(conflict.value)
    assert conflict.value.given_digest in str(conflict.value)
    assert table.refresh().count() == 42


def test_who_draws_the_lot_commits_what_is_staged(any_warehouse: Warehouse, monkeypatch: pytest.MonkeyPatch) -> None:
    table = any_warehouse.create_table("t", EVENTS)
    table.append(ROWS, commit="deferred")
    assert table.refresh().count() == 0
    monkeypatch.setattr(deferred, "ONE_IN", 1)
    table.append(ROWS, commit="deferred")
    assert table.refresh().count() == 0, "a version within the last second: others commit often enough"
    monkeypatch.setattr(deferred, "RECENT_MS", 0)
    table.append(ROWS, commit="deferred")
    assert table.refresh().count() == 6


def test_deferred_rows_are_there_after_a_flush_or_anybodys_commit(any_warehouse: Warehouse) -> None:
    table = any_warehouse.create_table("t", EVENTS)
    staged = table.append(ROWS, commit="deferred")
    assert staged.version is None
    assert table.refresh().count() == 0
    any_warehouse.load_table("t").append([{"user_id": 9}])
    assert table.refresh().count() == 3
    one = table.append([{"user_id": 10}], commit="deferred", append_id="once")
    two = table.append([{"user_id": 10}], commit="deferred", append_id="once")
    assert (one.version, two.version) == (None, None)
    assert table.flush().count() == 4
    three = table.append([{"user_id": 10}], commit="deferred", append_id="once")
    assert three.already_appended
    with pytest.raises(ds.AppendIdConflictError):
        table.append([{"user_id": 11}], commit="deferred", append_id="once")


def test_creating_what_exists_is_an_error_or_opens_it(any_warehouse: Warehouse) -> None:
    any_warehouse.create_table("t", EVENTS).append(ROWS)
    with pytest.raises(ds.TableExistsError, match="if_exists='open'"):
        any_warehouse.create_table("t", EVENTS)
    assert any_warehouse.create_table("t", EVENTS, if_exists="open").count() == 2
    other = ds.Schema(fields=[{"id": 1, "name": "user_id", "type": "string", "required": True}])
    for wish in ("open", "error"):
        with pytest.raises(ds.TableExistsError, match="'user_id' is long, in the other schema string"):
            any_warehouse.create_table("t", other, if_exists=wish)


def test_many_that_create_one_table_get_one_table(any_warehouse: Warehouse) -> None:
    def create(number: int) -> str:
        table = any_warehouse.create_table("t", EVENTS, if_exists="open")
        table.append([{"user_id": number}])
        return str(table._target.uuid)

    with ThreadPoolExecutor(8) as pool:
        uuids = list(pool.map(create, range(8)))
    assert len(set(uuids)) == 1
    table = any_warehouse.load_table("t")
    assert sorted(row["user_id"] for row in table.scan().to_records()) == list(range(8))


def test_threads_of_one_process_share_commits(any_warehouse: Warehouse) -> None:
    table = any_warehouse.create_table("t", EVENTS)
    with ThreadPoolExecutor(16) as pool:
        results = list(pool.map(lambda number: table.append([{"user_id": number}]), range(64)))
    assert sorted(row["user_id"] for row in table.scan().to_records()) == list(range(64))
    versions = {result.version for result in results}
    assert len(versions) < 64
    assert table.version == max(version for version in versions if version is not None)


def test_the_same_id_in_many_threads_appends_once(any_warehouse: Warehouse) -> None:
    table = any_warehouse.create_table("t", EVENTS)
    with ThreadPoolExecutor(8) as pool:
        results = list(pool.map(lambda _: table.append(ROWS, append_id="same"), range(8)))
    assert table.refresh().count() == 2
    assert len({result.version for result in results}) == 1
    assert sum(not result.already_appended for result in results) == 1


def test_a_dropped_table_is_gone_and_its_name_can_be_used_again(any_warehouse: Warehouse) -> None:
    old = any_warehouse.create_table("ops.t", EVENTS)
    old.append(ROWS, append_id="x")
    assert any_warehouse.list_tables() == ["ops.t"]
    any_warehouse.drop_table("ops.t", purge=True)
    assert any_warehouse.list_tables() == []
    assert not any_warehouse.table_exists("ops.t")
    for action in (lambda: any_warehouse.load_table("ops.t"), lambda: old.append(ROWS)):
        with pytest.raises(ds.NoSuchTableError, match="dropped"):
            action()
    with pytest.raises(ds.NoSuchTableError):
        any_warehouse.drop_table("ops.t")
    made_again = any_warehouse.create_table("ops.t", EVENTS)
    assert (made_again.version, made_again.count()) == (3, 0)
    assert not made_again.append(ROWS, append_id="x").already_appended
    with pytest.raises(ds.NoSuchTableError, match="created again"):
        old.append(ROWS)
    assert made_again.refresh().scan().to_records() == ROWS


def test_a_purge_leaves_nothing_but_version_names(any_warehouse: Warehouse, any_storage: Storage) -> None:
    table = any_warehouse.create_table("t", EVENTS)
    any_warehouse.create_table("t_export", EVENTS).append(ROWS)
    for _ in range(3):
        table.append(ROWS)
    table.append(ROWS, commit="deferred")
    any_warehouse.drop_table("t", purge=True)
    left = [info.key for info in any_storage.list("t/")]
    assert left == [f"t/{version_key(n)}" for n in range(5)] + ["t/metadata/version-hint.text"]
    assert b"tombstone" in any_storage.get(f"t/{version_key(3)}").body
    assert any_warehouse.load_table("t_export").count() == 2


def test_a_name_is_a_table_or_a_namespace(any_warehouse: Warehouse) -> None:
    any_warehouse.create_table("a", EVENTS)
    any_warehouse.create_table("b.c", EVENTS)
    with pytest.raises(ds.TableExistsError, match="is a table"):
        any_warehouse.create_table("a.x", EVENTS)
    with pytest.raises(ds.TableExistsError, match="is a namespace"):
        any_warehouse.create_table("b", EVENTS)
    assert any_warehouse.list_tables() == ["a", "b.c"]
    assert any_warehouse.list_tables("b") == ["b.c"]
    with pytest.raises(ds.NoSuchTableError, match="create it first"):
        any_warehouse.load_table("nothing")


def test_rows_that_do_not_fit_leave_no_trace(any_warehouse: Warehouse, any_storage: Storage) -> None:
    table = any_warehouse.create_table("t", EVENTS)
    before = sorted(info.key for info in any_storage.list(""))
    misfits: list[tuple[list[dict[str, Any]], str]] = [
        ([{"event": "x"}], "row 0, field 'user_id': the required field of type long is missing"),
        ([{"user_id": 1, "evnt": "x"}], "row 0, field 'evnt': there is no such field"),
        ([{"user_id": "1"}], "row 0, field 'user_id': '1' of type str is not long"),
        ([{"user_id": 2**63}], "row 0, field 'user_id': 9223372036854775808 .* out of the range of 64 bits"),
        ([], "there are no rows to append"),
    ]
    for rows, why in misfits:
        with pytest.raises(ds.InvalidRecordsError, match=f"^table t: {why}.*Nothing was written"):
            table.append(rows)
    with pytest.raises(ds.InvalidRecordsError, match="not the table's"):
        table.append_records(ROWS, ds.Schema(fields=[{"id": 1, "name": "user_id", "type": "long"}]))
    assert sorted(info.key for info in any_storage.list("")) == before


def test_conditions_columns_and_snapshots(any_warehouse: Warehouse) -> None:
    table = any_warehouse.create_table("t", EVENTS)
    table.append(ROWS)
    first = table.current_snapshot()
    assert first is not None
    table.append([{"user_id": 3, "event": "logout"}])
    scan = table.scan
    assert scan(columns=["event"], where="user_id >= 2").to_records() == [
        {"event": None},
        {"event": "logout"},
    ]
    assert scan(where="event != 'login'").to_records() == [{"user_id": 3, "event": "logout"}]
    assert scan(where="event is null or user_id = 3").count() == 2
    assert scan(where=pc.field("event").is_null()).to_records() == [{"user_id": 2, "event": None}]
    assert scan(where=pc.field("user_id") > 2, columns=["event"]).to_records() == [{"event": "logout"}]
    assert scan(snapshot_id=first.snapshot_id).to_records() == ROWS
    moment = dt.datetime.fromtimestamp(first.timestamp_ms / 1000, tz=dt.UTC)
    assert scan(as_of=moment).count() == 2
    with pytest.raises(ds.ConfigurationError, match="had no snapshot yet"):
        scan(as_of=moment - dt.timedelta(days=1))
    with pytest.raises(ds.ConfigurationError, match="no snapshot 12"):
        scan(snapshot_id=12)
    with pytest.raises(ds.ConfigurationError, match="no column 'evnt'"):
        scan(columns=["evnt"])
    for wrong in ("evnt = 'x'", "user_id +", "user_id = 'x'", "", 5):
        with pytest.raises(ds.ConfigurationError, match="condition"):
            scan(where=wrong).to_records()  # type: ignore[arg-type]


def test_sql_over_several_tables(any_warehouse: Warehouse) -> None:
    table = any_warehouse.create_table("ops.user-events", EVENTS)
    table.append(ROWS)
    any_warehouse.create_table("empty", EVENTS)
    query = """
        with named as (select * from ops."user-events" where event is not null)
        select user_id, (select count(*) from empty) as nothing from named where user_id < ?
    """
    assert any_warehouse.sql(query, [5]).to_pylist() == [{"user_id": 1, "nothing": 0}]
    with pytest.raises(ds.ConfigurationError, match=r"the query names 'missing', and .* has no such table"):
        any_warehouse.sql("select * from missing")
    for forbidden, why in (
        ("drop table empty", "pass one SELECT"),
        ("select 1; select 2", "pass one SELECT"),
        ("select * from read_csv('/etc/passwd')", "file system operations are disabled"),
    ):
        with pytest.raises(ds.ConfigurationError, match=why):
            any_warehouse.sql(forbidden)


def test_a_data_file_that_is_gone_is_an_error_and_never_fewer_rows(
    any_warehouse: Warehouse, any_storage: Storage
) -> None:
    table = any_warehouse.create_table("t", EVENTS)
    table.append(ROWS)
    table.append(ROWS)
    victim = next(info.key for info in any_storage.list("t/data/"))
    any_storage.delete([victim])
    with pytest.raises(ds.CorruptTableError, match=victim.rpartition("/")[2]):
        table.scan().to_arrow()


def test_a_manifest_that_cannot_be_read_stops_the_append(any_warehouse: Warehouse, any_storage: Storage) -> None:
    any_warehouse.create_table("t", EVENTS).append(ROWS)
    snapshot = any_warehouse.load_table("t").current_snapshot()
    assert snapshot is not None
    key = "t/" + snapshot.manifest_list.partition("/t/")[2]
    body = any_storage.get(key).body
    any_storage.put(key, body[:-30])
    table = any_warehouse.load_table("t")
    with pytest.raises(ds.CorruptTableError, match="the manifest list is not readable as Avro"):
        table.append(ROWS)
    any_storage.delete([key])
    with pytest.raises(ds.DataShardError, match=key.rpartition("/")[2]):
        table.append(ROWS)
    any_storage.put(key, body)
    assert table.append(ROWS).version == 2


def test_a_hint_is_only_a_hint(any_warehouse: Warehouse, any_storage: Storage) -> None:
    table = any_warehouse.create_table("t", EVENTS)
    for number in range(40):
        table.append([{"user_id": number}])
    key = "t/metadata/version-hint.text"
    for version, hint in enumerate([None, b"", b"rubbish", b"0", b"17"], 40):
        assert any_storage.get(key).body == b"%d" % version
        any_storage.delete([key])
        if hint is not None:
            any_storage.put(key, hint)
        found = any_warehouse.load_table("t")
        assert (found.version, found.count()) == (version, version), hint
        found.append([{"user_id": 99}])
    assert any_storage.get(key).body == b"45"


def test_a_newer_protocol_is_refused_by_name(any_warehouse: Warehouse) -> None:
    with pytest.raises(ds.ConfigurationError, match=r"datashard\.protocol-version"):
        any_warehouse.create_table("t", EVENTS, properties={"datashard.protocol-version": "2"})
    table = any_warehouse.create_table("t", EVENTS, properties={"owner": "ops"})
    assert table.properties["owner"] == "ops"
    assert table.properties["datashard.protocol-version"] == "1"


def test_large_rows_are_written_once_and_committed_by_description(any_warehouse: Warehouse) -> None:
    schema = ds.Schema(fields=[{"id": 1, "name": "blob", "type": "binary"}])
    table = any_warehouse.create_table("t", schema)
    blobs = [bytes([number]) * 2**20 for number in range(20)]
    assert table.append([{"blob": blob} for blob in blobs]).rows == 20
    assert [row["blob"] for row in table.scan().to_records()] == blobs


def test_an_interrupt_while_waiting_in_a_thread_does_not_stop_the_others() -> None:
    warehouse = Warehouse(MemoryStorage("memory://test"))
    table = warehouse.create_table("t", EVENTS)
    entered, go_on = threading.Event(), threading.Event()
    original = table._storage.put_if_absent

    def slow(key: str, data: bytes) -> object:
        entered.set()
        assert go_on.wait(10)
        return original(key, data)

    table._storage.put_if_absent = slow  # type: ignore[method-assign, assignment]
    with ThreadPoolExecutor(4) as pool:
        first = pool.submit(table.append, [{"user_id": 1}])
        assert entered.wait(10)
        late = pool.submit(table.append, [{"user_id": 2}], timeout=0.0)
        patient = pool.submit(table.append, [{"user_id": 3}])
        go_on.set()
        assert first.result(20).version == 1
        assert patient.result(20).rows == 1
        late.exception(20)
    assert {1, 3} <= {row["user_id"] for row in table.refresh().scan().to_records()}
