"""Every argument of the public API with values of every wrong type and size: an error that names it, or a result.

An argument that is refused is refused before anything is written.
"""

from __future__ import annotations

import datetime as dt
import math
from collections.abc import Callable
from decimal import Decimal
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import datashard_core as ds
from datashard_core import col, workflow_log
from datashard_core.arguments import LONGEST_TIMEOUT, moment, seconds, shown, whole
from datashard_core.errors import CommitTimeoutError, ConfigurationError, CorruptTableError, DataShardError
from datashard_core.storage.memory import MemoryStorage
from datashard_core.table.namespaces import Namespaces
from datashard_core.table.table import Table
from datashard_core.table.warehouse import Warehouse

SURROGATE = "\ud800"
HALF = "a\udfff b"
SCHEMA = ds.Schema(fields=[{"id": 1, "name": "n", "type": "long"}, {"id": 2, "name": "s", "type": "string"}])


class Odd:
    """A value that cannot even be shown."""

    def __repr__(self) -> str:
        raise RuntimeError("no")


WRONG: tuple[Any, ...] = (
    None, np.array([1, 2]), Decimal("sNaN"),
    True, False, "x", "", SURROGATE, HALF, "a\0b", "5", b"x", bytearray(b"x"), -1, 0, 1.5, -0.5, math.nan,
    math.inf, -math.inf, 1j, 2**31, 2**63, 10**30, -(10**30), 10**5000, Decimal("NaN"), Decimal("1e400"), [], [None],
    [1, "x"], {}, {"a": 1}, {1: "a"}, set(), object(), Odd,
    dt.datetime.max, dt.datetime(2026, 1, 1), dt.timedelta(hours=30),
    dt.timedelta(-1), dt.timedelta.max, dt.date(2026, 1, 1),
    dt.datetime.min.replace(tzinfo=dt.timezone(dt.timedelta(hours=14))), lambda *_: None, range(3),
)  # fmt: skip
Call = Callable[[Warehouse, Table, Any], object]
LOG = {"orchestrator": "a", "workflow": "b", "run_id": "c", "task_id": "d", "try_number": 1, "state": "success"}
ROWS = [{"n": 1}]

CALLS: dict[str, Call] = {
    "append data": lambda w, t, v: t.append(v),
    "append row": lambda w, t, v: t.append([v]),
    "append number": lambda w, t, v: t.append([{"n": v}]),
    "append text": lambda w, t, v: t.append([{"s": v}]),
    "scan include_staged": lambda w, t, v: t.scan(include_staged=v),
    "scan to_duckdb": lambda w, t, v: t.scan().to_duckdb(v),
    "load_table to_defer": lambda w, t, v: w.load_table("t", to_defer=v),
    "drop_table purge": lambda w, t, v: w.drop_table("nowhere", purge=v),
    "open_log warehouse": lambda w, t, v: workflow_log.open_log(v),
    "append many texts": lambda w, t, v: t.append([{"s": v}] * 600),
    "append append_id": lambda w, t, v: t.append(ROWS, append_id=v),
    "append append_id function": lambda w, t, v: t.append(ROWS, append_id=lambda _: v),
    "append base": lambda w, t, v: t.append(ROWS, append_id="a", base=v),
    "append timeout": lambda w, t, v: t.append(ROWS, timeout=v),
    "append deferred timeout": lambda w, t, v: t.append(ROWS, timeout=v, commit="deferred"),
    "append commit": lambda w, t, v: t.append(ROWS, commit=v),
    "append_records records": lambda w, t, v: t.append_records(v),
    "append_records schema": lambda w, t, v: t.append_records(ROWS, v),
    "append_records timeout": lambda w, t, v: t.append_records(ROWS, timeout=v),
    "flush timeout": lambda w, t, v: t.flush(v),
    "scan columns": lambda w, t, v: t.scan(v),
    "scan column": lambda w, t, v: t.scan([v]),
    "scan where": lambda w, t, v: t.scan(where=v).to_records(),
    "scan snapshot_id": lambda w, t, v: t.scan(snapshot_id=v),
    "scan as_of": lambda w, t, v: t.scan(as_of=v),
    "scan limit": lambda w, t, v: t.scan(limit=v).to_records(),
    "scan version": lambda w, t, v: t.scan(version=v),
    "dataset snapshot_id": lambda w, t, v: t.dataset(snapshot_id=v),
    "dataset as_of": lambda w, t, v: t.dataset(as_of=v),
    "dataset version": lambda w, t, v: t.dataset(version=v),
    "changes from_version": lambda w, t, v: t.changes(v),
    "changes to_version": lambda w, t, v: t.changes(0, v),
    "changes from_snapshot_id": lambda w, t, v: t.changes(from_snapshot_id=v),
    "changes to_snapshot_id": lambda w, t, v: t.changes(0, to_snapshot_id=v),
    "changes columns": lambda w, t, v: t.changes(0, columns=v),
    "changes limit": lambda w, t, v: t.changes(0, limit=v),
    "changes where": lambda w, t, v: t.changes(0, where=v).to_records(),
    "table sql": lambda w, t, v: t.sql(v),
    "table sql params": lambda w, t, v: t.sql("select * from t where n = ?", v),
    "table sql param": lambda w, t, v: t.sql("select * from t where s = ?", [v]),
    "remove_orphans grace": lambda w, t, v: t.remove_orphans(v),
    "remove_orphans timeout": lambda w, t, v: t.remove_orphans(timeout=v),
    "compact max_bytes": lambda w, t, v: t.compact(v),
    "compact timeout": lambda w, t, v: t.compact(timeout=v),
    "expire_snapshots older_than": lambda w, t, v: t.expire_snapshots(v),
    "expire_snapshots retain_last": lambda w, t, v: t.expire_snapshots(None, v),
    "expire_snapshots timeout": lambda w, t, v: t.expire_snapshots(timeout=v),
    "maintain grace": lambda w, t, v: t.maintain(v),
    "maintain timeout": lambda w, t, v: t.maintain(timeout=v),
    "create_table name": lambda w, t, v: w.create_table(v, SCHEMA),
    "create_table schema": lambda w, t, v: w.create_table("u", v),
    "create_table if_exists": lambda w, t, v: w.create_table("u", SCHEMA, if_exists=v),
    "create_table properties": lambda w, t, v: w.create_table("u", SCHEMA, properties=v),
    "create_table property": lambda w, t, v: w.create_table("u", SCHEMA, properties={"a": v}),
    "create_table timeout": lambda w, t, v: w.create_table("u", SCHEMA, timeout=v),
    "create_table comment": lambda w, t, v: w.create_table("u", _schema(doc=v)),
    "create_table column": lambda w, t, v: w.create_table("u", _schema(name=v)),
    "load_table name": lambda w, t, v: w.load_table(v),
    "table_exists name": lambda w, t, v: w.table_exists(v),
    "list_tables namespace": lambda w, t, v: w.list_tables(v),
    "drop_table name": lambda w, t, v: w.drop_table(v),
    "drop_table timeout": lambda w, t, v: w.drop_table("t", timeout=v),
    "warehouse sql": lambda w, t, v: w.sql(v),
    "warehouse sql params": lambda w, t, v: w.sql("select * from t where n = $a", v),
    "namespace properties": lambda w, t, v: Namespaces(w).create("ns", v),
    "connect uri": lambda w, t, v: ds.connect(v),
    "connect config": lambda w, t, v: ds.connect("s3://bucket/x", v),
    "connect config alone": lambda w, t, v: ds.connect(config=v),
    "load_table by uri": lambda w, t, v: ds.load_table(v),
    "create_table by uri": lambda w, t, v: ds.create_table(v, SCHEMA),
    "LocalConfig folder": lambda w, t, v: ds.connect(config=ds.LocalConfig(v)),
    "rows_digest table": lambda w, t, v: ds.rows_digest(v, SCHEMA),
    "rows_digest schema": lambda w, t, v: ds.rows_digest(ROWS, v),
    "Schema fields": lambda w, t, v: ds.Schema(fields=v),
    "Schema field": lambda w, t, v: ds.Schema(fields=[v]),
    "Schema schema_id": lambda w, t, v: ds.Schema(v, SCHEMA.fields),
    "Schema field name": lambda w, t, v: _schema(name=v),
    "Schema field id": lambda w, t, v: _schema(id=v),
    "Schema field type": lambda w, t, v: _schema(type=v),
    "Schema field required": lambda w, t, v: _schema(required=v),
    "Schema infer": lambda w, t, v: ds.Schema.infer(v),
    "Schema from_arrow": lambda w, t, v: ds.Schema.from_arrow(v),
    "col name": lambda w, t, v: t.scan(where=col(v) == 1),
    "col equals": lambda w, t, v: t.scan(where=col("n") == v).to_records(),
    "col text equals": lambda w, t, v: t.scan(where=col("s") == v).to_records(),
    "col less": lambda w, t, v: t.scan(where=col("n") < v).to_records(),
    "col isin": lambda w, t, v: t.scan(where=col("n").isin(v)).to_records(),
    "col isin one": lambda w, t, v: t.scan(where=col("s").isin([v])).to_records(),
    "condition and": lambda w, t, v: (col("n") == 1) & v,
    "condition or": lambda w, t, v: (col("n") == 1) | v,
    "open_log name": lambda w, t, v: workflow_log.open_log(w, v),
    "log_row started": lambda w, t, v: workflow_log.log_row(**{**LOG, "started": v}),
    "log_row finished": lambda w, t, v: workflow_log.log_row(
        **{**LOG, "started": dt.datetime.now(dt.UTC), "finished": v}
    ),
    "log_row state": lambda w, t, v: workflow_log.log_row(**{**LOG, "started": dt.datetime.now(dt.UTC), "state": v}),
}  # fmt: skip

SETTINGS = (
    "bucket", "prefix", "endpoint", "region", "access_key", "secret_key", "session_token", "addressing_style",
    "verify_tls", "sse", "sse_kms_key_id", "connect_timeout", "read_timeout", "max_attempts", "credentials_provider",
    "use_default_chain", "transport",
)  # fmt: skip


def _schema(**changes: Any) -> ds.Schema:
    return ds.Schema(fields=[{"id": 1, "name": "n", "type": "long", **changes}])


def _config(name: str) -> Call:
    def make(warehouse: Warehouse, table: Table, value: Any) -> object:
        keys = {} if name in ("credentials_provider", "use_default_chain") else {"access_key": "a", "secret_key": "b"}
        return ds.connect(config=ds.S3Config(**{"bucket": "bucket", **keys, name: value}))

    return make


CALLS |= {f"S3Config {name}": _config(name) for name in SETTINGS}


@pytest.fixture(autouse=True)
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Names and folders that happen to be usable make tables here."""
    monkeypatch.chdir(tmp_path)


@pytest.fixture(scope="module")
def home() -> Warehouse:
    return Warehouse(MemoryStorage())


@pytest.mark.parametrize("call", CALLS)
def test_a_wrong_argument_is_refused_by_an_error_of_ours(home: Warehouse, call: str) -> None:
    for value in WRONG:
        given = Odd() if value is Odd else value
        storage = MemoryStorage()
        warehouse = Warehouse(storage)
        table = warehouse.create_table("t", SCHEMA)
        table.append([{"n": 1, "s": "a"}])
        before = set(storage._objects)
        try:
            CALLS[call](warehouse, table, given)
        except (DataShardError, TypeError) as error:
            message = str(error)
            message.encode()  # a log can take it
            assert len(message) < 3000, f"{call}: {shown(given)}"
            if isinstance(error, TypeError):
                assert call.rpartition(" ")[2] in message, f"{call}: {shown(given)}: {message}"
            if isinstance(error, ConfigurationError) and not call.startswith(("create_table", "append base")):
                assert set(storage._objects) == before, f"{call}: {shown(given)} wrote something: {message}"


@pytest.mark.parametrize("call", [name for name in CALLS if name.endswith("timeout") and "S3Config" not in name])
def test_a_timeout_is_a_finite_number_of_seconds(call: str) -> None:
    storage = MemoryStorage()
    warehouse = Warehouse(storage)
    table = warehouse.create_table("t", SCHEMA)
    before = set(storage._objects)
    for value in (None, math.inf, math.nan, -1, -0.001, True, "5", b"5", 10**30, LONGEST_TIMEOUT + 1, dt.timedelta(1)):
        with pytest.raises(ConfigurationError, match=r"timeout=.*pass a number of seconds"):
            CALLS[call](warehouse, table, value)
    assert set(storage._objects) == before
    for usable in (5, 5.0, Decimal(5), LONGEST_TIMEOUT):
        table = warehouse.create_table("t", SCHEMA, if_exists="open")
        if call != "create_table timeout":
            CALLS[call](warehouse, table, usable)


def test_no_time_at_all_is_a_timeout(home: Warehouse) -> None:
    table = home.create_table("timeouts", SCHEMA)
    with pytest.raises(CommitTimeoutError):
        table.append(ROWS, timeout=0)


@pytest.mark.parametrize(
    ("append_id", "usable"),
    [("x" * 1024, True), ("a\0b", True), ("é" * 1000, True), ("x" * 1025, False), ("x" * 10_000_000, False),
     ("", False), (" \t", False), (SURROGATE, False), (b"a", False), (5, False)],
)  # fmt: skip
def test_append_ids(append_id: Any, usable: bool) -> None:
    for given in (append_id, lambda _: append_id):
        table = Warehouse(MemoryStorage()).create_table("t", SCHEMA)
        if usable:
            assert table.append(ROWS, append_id=given).append_id == append_id
            assert table.append(ROWS, append_id=given).already_appended
            continue
        with pytest.raises(ConfigurationError, match=r"append_id=.*is not usable") as raised:
            table.append(ROWS, append_id=given)
        assert len(str(raised.value)) < 500
        assert table.refresh().version == 0


def test_numbers_of_numpy_and_times_of_pandas_are_taken() -> None:
    import pandas as pd

    table = Warehouse(MemoryStorage()).create_table("t", SCHEMA)
    table.append(ROWS, timeout=np.float32(5))  # type: ignore[arg-type]
    assert whole(np.int64(3), "n", "a number", 0) == 3
    assert seconds(np.int16(3)) == 3.0
    assert moment(pd.Timestamp("2026-01-01"), "as_of") == dt.datetime(2026, 1, 1, tzinfo=dt.UTC)
    assert table.scan(as_of=pd.Timestamp.now("UTC") + pd.Timedelta(hours=1)).count() == 1
    for value in (pd.NaT, np.datetime64("2026-01-01")):
        with pytest.raises(ConfigurationError, match="as_of="):
            table.scan(as_of=value)  # type: ignore[arg-type]
    for flag in (np.bool_(True), True):
        with pytest.raises(ConfigurationError, match="retain_last="):
            table.expire_snapshots(retain_last=flag)  # type: ignore[arg-type]
        with pytest.raises(ConfigurationError, match="timeout="):
            table.flush(flag)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "make",
    [
        lambda pd: pd.DataFrame({0: [1]}),
        lambda pd: pd.DataFrame([[1, 2]], columns=["n", "n"]),
        lambda pd: pd.DataFrame({("a", "b"): [1]}),
        lambda pd: pd.DataFrame({None: [1]}),
        lambda pd: pd.DataFrame({"n": [object()]}),
        lambda pd: pd.DataFrame({"n": [1, "x"]}),
        lambda pd: pd.DataFrame({"s": pd.Series(["\ud800"], dtype=object)}),
        lambda pd: pd.DataFrame([[1]], columns=pd.Index(["\ud800"], dtype=object)),
        lambda pd: pd.DataFrame({"n": [10**30]}),
        lambda pd: pd.DataFrame({"n": pd.Series([1 + 2j])}),
        lambda pd: pd.DataFrame({"n": pd.Series([pd.Period("2026-01")])}),
        lambda pd: pd.DataFrame({"n": [pd.NaT]}, dtype="datetime64[ns]").assign(s=[{1, 2}]),
        lambda pd: pd.Series([1]),
        lambda pd: pd.Index([1]),
    ],
)
def test_odd_frames_are_refused(make: Callable[[Any], Any]) -> None:
    import pandas as pd

    table = Warehouse(MemoryStorage()).create_table("t", SCHEMA)
    with pytest.raises(DataShardError, match="t") as raised:
        table.append(make(pd))
    str(raised.value).encode()
    assert table.refresh().version == 0


def test_a_text_that_says_no_purges_nothing() -> None:
    warehouse = Warehouse(MemoryStorage())
    table = warehouse.create_table("t", SCHEMA)
    table.append(ROWS)
    for value in ("no", "false", 1, None):
        with pytest.raises(ConfigurationError, match=r"purge=.*pass True or False"):
            warehouse.drop_table("t", purge=value)  # type: ignore[arg-type]
    assert warehouse.load_table("t").count() == 1
    warehouse.drop_table("t", purge=np.bool_(True))  # type: ignore[arg-type]
    assert not warehouse.table_exists("t")


def test_an_append_that_says_it_added_a_number_of_thousands_of_digits_is_damage() -> None:
    warehouse = Warehouse(MemoryStorage())
    table = warehouse.create_table("t", SCHEMA)
    table.append(ROWS)
    key = "metadata/v1.metadata.json"
    body = table._storage.get(key).body
    assert b'"added-records":"1"' in body
    table._storage.put(key, body.replace(b'"added-records":"1"', b'"added-records":"%s"' % (b"9" * 5000)))
    with pytest.raises(CorruptTableError, match="does not say how many rows it added"):
        warehouse.load_table("t").changes(0)
