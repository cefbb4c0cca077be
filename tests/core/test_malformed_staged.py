"""Staged objects that are damaged, crafted, or of a writer that knows more: none of them stops a table.

What no release could commit is refused once and named; what a newer one may know is set aside, and nothing waits.
"""

from __future__ import annotations

import hashlib
import io
import logging
import time
from collections.abc import Callable
from typing import Any

import msgspec
import pyarrow as pa
import pytest
from msgspec.structs import replace

import datashard_core as ds
from datashard_core.clock import SystemClock
from datashard_core.commit.staging import set_aside
from datashard_core.commit.staging.body import StagedBody, _file_to_json
from datashard_core.commit.staging.key import PREFIX, StagedName
from datashard_core.errors import AppendRefusedError, AppendSetAsideError
from datashard_core.format.parquet.parquet import encode_parquet
from datashard_core.format.rows.digest import id_digest
from datashard_core.storage.base import StoredObject
from datashard_core.storage.memory import MemoryStorage
from datashard_core.table.table import Table
from datashard_core.table.warehouse import Warehouse

FIELDS = [
    {"id": 1, "name": "n", "type": "long", "required": True},
    {"id": 2, "name": "s", "type": "string"},
    {"id": 3, "name": "f", "type": "float"},
]
SCHEMA = ds.Schema(schema_id=0, fields=FIELDS)
DAY = 24 * 3600.0
Header = dict[str, Any]


@pytest.fixture(autouse=True)
def new_process() -> None:
    set_aside.forget()


class Counting(MemoryStorage):
    """Counts what is read."""

    reads = 0

    def at(self, folder: str) -> MemoryStorage:
        deeper = super().at(folder)
        deeper.__class__ = Counting
        return deeper

    def get(self, key: str, byte_range: tuple[int, int] | None = None) -> StoredObject:
        Counting.reads += 1
        return super().get(key, byte_range)


@pytest.fixture
def table() -> Table:
    made = Warehouse(Counting("memory://store")).create_table("t", SCHEMA)
    made.append([{"n": 0}])
    return made


def sealed(header: bytes, rows: bytes) -> bytes:
    content = len(header).to_bytes(4, "little") + header + rows
    return b"DSstaged" + hashlib.blake2b(content, digest_size=16).digest() + content


def header_of(table: Table, /, own: Any = "bad", **changes: Any) -> Header:
    base = {"format": 2, "table": table._target.uuid, "append-id": own, "digest": "", "schema-id": 0, "plain-rows": 1}
    return {key: value for key, value in {**base, **changes}.items() if value is not ...}


def body_of(table: Table, /, rows: Any = None, **changes: Any) -> bytes:
    """A body of one plain row, with changes of its header."""
    packed = msgspec.msgpack.encode({1: [5]} if rows is None else rows)
    return sealed(msgspec.json.encode(header_of(table, **changes)), packed)


def arrow_body(table: Table, rows: pa.Table) -> bytes:
    sink = io.BytesIO()
    with pa.ipc.new_stream(sink, rows.schema) as writer:
        writer.write_table(rows)
    return sealed(msgspec.json.encode(header_of(table, **{"plain-rows": ...})), sink.getvalue())


def put(table: Table, data: bytes, own: str = "bad", base: int | None = None, kind: Any = "d", nonce: int = 1) -> str:
    name = StagedName(table.version if base is None else base, kind, id_digest(own), f"{nonce:032x}")
    table._storage.put(name.key, data)
    return name.key


def described(table: Table, key: str = "data/auto_x.parquet", rows: int = 2, **changes: Any) -> bytes:
    """A body that describes a data file, which is there, with changes of the description."""
    encoded = encode_parquet(pa.table({"n": [7] * rows}).cast(pa.schema([SCHEMA.to_arrow()[0]])), _first_only())
    if key:
        table._storage.put_data(key, encoded.data)
    raw = {**_file_to_json(encoded.data_file(f"{table.uri}/{key}")), **changes}
    return sealed(msgspec.json.encode(header_of(table, files=[raw], **{"plain-rows": ...})), b"")


def _first_only() -> ds.Schema:
    return ds.Schema(schema_id=0, fields=FIELDS[:1])


def numbers(table: Table) -> list[int]:
    return sorted(row["n"] for row in table.refresh().scan().to_records())


def staged(table: Table) -> list[str]:
    return [info.key for info in table._storage.list(PREFIX)]


def _null_in_required(table: Table) -> bytes:
    arrow = SCHEMA.to_arrow()
    columns = [pa.array([None], pa.int64()), pa.array(["x"]), pa.array([1.0], pa.float32())]
    return arrow_body(table, pa.Table.from_arrays(columns, schema=arrow))


def _broken_text(table: Table) -> bytes:
    """A text whose offsets point far behind its bytes: whoever reads it reads the memory of the process."""
    columns = [pa.array([1], pa.int64()), pa.array(["x" * 77_777]), pa.array([1.0], pa.float32())]
    data = arrow_body(table, pa.Table.from_arrays(columns, schema=SCHEMA.to_arrow()))
    end = bytes(4) + (77_777).to_bytes(4, "little")
    place = data.rindex(end)
    content = data[24:place] + bytes(4) + (2**30).to_bytes(4, "little") + data[place + 8 :]
    return data[:8] + hashlib.blake2b(content, digest_size=16).digest() + content


def _bad_utf8(table: Table) -> bytes:
    text = pa.array([b"\xff\xfe"]).view(pa.string())
    columns = [pa.array([1], pa.int64()), text, pa.array([1.0], pa.float32())]
    return arrow_body(table, pa.Table.from_arrays(columns, schema=SCHEMA.to_arrow()))


MALFORMED: dict[str, Callable[[Table], bytes]] = {
    "nothing": lambda t: b"",
    "rubbish": lambda t: b"rubbish" * 100,
    "cut": lambda t: body_of(t)[:-3],
    "header of zeros": lambda t: sealed(b"\x00" * 50, b""),
    "header that is a list": lambda t: sealed(b"[1]", b""),
    "header that is deep": lambda t: sealed(b'{"format":2,"x":' + b"[" * 100_000 + b"]" * 100_000 + b"}", b""),
    "length beyond the body": lambda t: (
        b"DSstaged" + hashlib.blake2b(b"\xff\xff\xff\xff{}", digest_size=16).digest() + b"\xff\xff\xff\xff{}"
    ),
    "no table": lambda t: body_of(t, table=...),
    "another table": lambda t: body_of(t, table="0" * 36),
    "table that is a number": lambda t: body_of(t, table=5),
    "another id": lambda t: body_of(t, **{"append-id": "other"}),
    "digest of one byte": lambda t: body_of(t, digest="ab"),
    "digest of letters": lambda t: body_of(t, digest="z" * 32),
    "digest with a line": lambda t: body_of(t, digest="a" * 32 + "\n"),
    "format that is text": lambda t: body_of(t, format="2"),
    "old format": lambda t: body_of(t, format=1),
    "schema id that is text": lambda t: body_of(t, **{"schema-id": "0"}),
    "negative schema id": lambda t: body_of(t, **{"schema-id": -1}),
    "count that is text": lambda t: body_of(t, **{"plain-rows": "1"}),
    "negative count": lambda t: body_of(t, **{"plain-rows": -1}),
    "10**30 rows": lambda t: body_of(t, **{"plain-rows": 10**30}),
    "10**12 rows": lambda t: body_of(t, rows={}, **{"plain-rows": 10**12}),
    "more rows than values": lambda t: body_of(t, **{"plain-rows": 2}),
    "rows that are a list": lambda t: body_of(t, rows=[1]),
    "column that is a number": lambda t: body_of(t, rows={1: 5}),
    "column of another type": lambda t: body_of(t, rows={1: ["five"]}),
    "number beyond its type": lambda t: body_of(t, rows={1: [2**63]}),
    "float beyond its type": lambda t: body_of(t, rows={1: [1], 3: [1e300]}),
    "required column missing": lambda t: body_of(t, rows={2: ["x"]}),
    "column of no field": lambda t: body_of(t, rows={1: [1], 99: [1]}),
    "no Arrow": lambda t: body_of(t, **{"plain-rows": ...}),
    "Arrow of another schema": lambda t: arrow_body(t, pa.table({"x": [1]})),
    "null in a required column": _null_in_required,
    "text outside its bytes": _broken_text,
    "text that is no UTF-8": _bad_utf8,
    "files that are text": lambda t: body_of(t, files="data/auto_x.parquet"),
    "file that is a number": lambda t: body_of(t, files=[5]),
    "file without a path": lambda t: body_of(t, files=[{}]),
    "file outside": lambda t: described(t, file_path="memory://store/other/data/auto_x.parquet"),
    "file above": lambda t: described(t, file_path=f"{t.uri}/../other/data/auto_x.parquet"),
    "file above, from data": lambda t: described(t, file_path=f"{t.uri}/data/../metadata/v0.metadata.json"),
    "file in metadata": lambda t: described(t, file_path=f"{t.uri}/metadata/v0.metadata.json"),
    "file with an empty part": lambda t: described(t, file_path=f"{t.uri}/data//auto_x.parquet"),
    "file with a NUL": lambda t: described(t, file_path=f"{t.uri}/data/auto_\0.parquet"),
    "file with a long name": lambda t: described(t, file_path=f"{t.uri}/data/{'x' * 3000}.parquet"),
    "file with no name": lambda t: described(t, file_path=""),
    "file whose path is a number": lambda t: described(t, file_path=7),
    "file that is gone": lambda t: described(t, key="", file_path=f"{t.uri}/data/auto_gone.parquet"),
    "rows that are text": lambda t: described(t, record_count="2"),
    "negative rows": lambda t: described(t, record_count=-2),
    "10**30 rows in a file": lambda t: described(t, record_count=10**30),
    "other rows than the footer": lambda t: described(t, record_count=3),
    "another size": lambda t: described(t, file_size_in_bytes=5),
    "negative size": lambda t: described(t, file_size_in_bytes=-5),
    "10**30 bytes": lambda t: described(t, file_size_in_bytes=10**30),
    "partition values": lambda t: described(t, partition={"day": 1}),
    "delete file": lambda t: described(t, content=1),
    "equality ids": lambda t: described(t, equality_ids=[1]),
    "another format of files": lambda t: described(t, file_format="ORC"),
    "negative counts": lambda t: described(t, value_counts={"1": -1}),
    "counts of no field id": lambda t: described(t, value_counts={"n": 1}),
    "counts that are null": lambda t: described(t, value_counts=None),
    "huge field id": lambda t: described(t, value_counts={str(10**30): 1}),
    "more nulls than values": lambda t: described(t, null_value_counts={"1": 9}),
    "bounds that are no bytes": lambda t: described(t, lower_bounds={"1": "zz"}),
    "bounds of 3 bytes": lambda t: described(t, upper_bounds={"1": "010203"}),
    "offsets that are text": lambda t: described(t, split_offsets=["4"]),
}


def _no_parquet(table: Table) -> bytes:
    data = described(table, key="", file_path=f"{table.uri}/data/auto_text.parquet", file_size_in_bytes=40)
    table._storage.put("data/auto_text.parquet", b"x" * 40)
    return data


def _twice(table: Table) -> bytes:
    header = msgspec.json.decode(described(table)[28:])
    header["files"] *= 2
    return sealed(msgspec.json.encode(header), b"")


MALFORMED |= {"no Parquet": _no_parquet, "the file twice": _twice}


@pytest.mark.parametrize("kind", MALFORMED)
def test_what_is_malformed_is_refused_once_and_named_and_never_committed(table: Table, kind: str) -> None:
    before = table.version
    put(table, MALFORMED[kind](table))
    rows = table.scan(include_staged=True).to_records()
    assert [row["n"] for row in rows] == [0]
    table.append([{"n": 1}])  # an append of somebody else meets it, and is not held up
    assert staged(table) == []
    with pytest.raises(AppendRefusedError, match="refuses append 'bad'"):
        table.append([{"n": 5}], append_id="bad", base=before)
    assert numbers(table) == [0, 1]
    table.flush()  # nothing is left to be said


@pytest.mark.parametrize("kind", ["rubbish", "file outside", "negative rows", "text outside its bytes"])
def test_a_flush_names_what_it_refuses_and_commits_the_rest(table: Table, kind: str) -> None:
    put(table, MALFORMED[kind](table))
    table.append([{"n": 3}], commit="deferred")
    with pytest.raises(AppendRefusedError, match=rf"table t.* 1 of the staged appends.*{id_digest('bad')}"):
        table.flush(timeout=10)
    assert (numbers(table), staged(table)) == ([0, 3], [])
    table.maintain()


SET_ASIDE: dict[str, Callable[[Table], str]] = {
    "unknown schema": lambda t: put(t, body_of(t, **{"schema-id": 77})),
    "newer format": lambda t: put(t, body_of(t, format=3)),
    "newer format with other fields": lambda t: put(t, sealed(b'{"format":99,"what":[]}', b"?")),
    "base above the newest version": lambda t: put(t, body_of(t), base=t.version + 5),
    "absurd base": lambda t: put(t, b"rubbish", base=10**20 - 1),
}


@pytest.mark.parametrize("kind", SET_ASIDE)
def test_what_a_newer_writer_may_have_staged_is_set_aside(table: Table, kind: str) -> None:
    key = SET_ASIDE[kind](table)
    assert [row["n"] for row in table.scan(include_staged=True).to_records()] == [0]
    table.append([{"n": 1}])
    table.append([{"n": 2}], commit="deferred")
    begun = time.monotonic()
    with pytest.raises(AppendSetAsideError, match=key) as raised:
        table.flush(timeout=30)
    assert time.monotonic() - begun < 5
    assert raised.value.keys == (key,)
    assert (numbers(table), staged(table)) == ([0, 1, 2], [key])


STRANGE_NAMES = (
    f"{'9' * 900}-w-{'a' * 32}-{'b' * 32}",
    f"{0:020d}-w-{'x' * 32}-{'b' * 32}",
    f"{0:020d}-w-{'a' * 32}",
    f"{0:020d}-q-{'a' * 32}-{'b' * 32}",
    f"{'٣' * 20}-w-{'a' * 32}-{'b' * 32}",
    "README.txt",
    "folder/object",
    "!first",
)


def test_objects_of_strange_names_hold_nobody_up_and_a_flush_names_them(
    table: Table, caplog: pytest.LogCaptureFixture
) -> None:
    for name in STRANGE_NAMES:
        table._storage.put(f"{PREFIX}{name}", b"what")
    table.append([{"n": 1}], commit="deferred")
    with caplog.at_level(logging.WARNING):
        table.flush(timeout=10)
    assert "8 objects" in caplog.text and "README.txt" in caplog.text
    assert numbers(table) == [0, 1]
    assert len(staged(table)) == len(STRANGE_NAMES)


def test_a_schema_that_the_table_gets_later_makes_an_append_good(table: Table) -> None:
    """It was set aside, and the same process commits it once a version has the schema."""
    key = put(table, body_of(table, **{"schema-id": 1}))
    with pytest.raises(AppendSetAsideError):
        table.flush(timeout=10)
    metadata = table._seen.body.table
    assert not any(schema.schema_id == 1 for schema in metadata.schemas)
    _add_schema(table, 1)
    table.append([{"n": 2}])
    assert (numbers(table), staged(table)) == ([0, 2, 5], [])
    assert key.startswith(PREFIX)


def _add_schema(table: Table, schema_id: int) -> None:
    """Another engine commits a version with one schema more."""
    from datashard_core.commit.core.version_file import version_key

    raw = msgspec.json.decode(table._storage.get(version_key(table.version)).body)
    raw["schemas"].append({**raw["schemas"][0], "schema-id": schema_id})
    raw["last-updated-ms"] += 1
    table._storage.put_if_absent(version_key(table.version + 1), msgspec.json.encode(raw))
    table.refresh()


@pytest.mark.parametrize("kind", ["unknown schema", "base above", "malformed", "strange"])
@pytest.mark.parametrize("staged_as", ["w", "d"])
def test_600_objects_that_nobody_can_commit_do_not_delay_appends(table: Table, kind: str, staged_as: str) -> None:
    for number in range(600):
        own = f"bad {number}"
        data = body_of(table, own=own, **({"schema-id": 77} if kind == "unknown schema" else {}))
        if kind == "strange":
            table._storage.put(f"{PREFIX}{number}", data)
        else:
            base = table.version + 50 if kind == "base above" else None
            put(table, b"bad" if kind == "malformed" else data, own=own, base=base, kind=staged_as, nonce=number)
    _grow_old(table, 60.0)
    took, gets = [], []
    for number in range(1, 11):
        begun, before = time.monotonic(), Counting.reads
        table.append([{"n": number}])
        took.append(time.monotonic() - begun)
        gets.append(Counting.reads - before)
    assert numbers(table) == list(range(11))
    assert sorted(took)[5] < 0.3
    assert max(took) < 2.5
    assert sum(gets) < 600 + 100, "each body is read once"
    assert gets[-1] < 40
    table.append([{"n": 11}], commit="deferred")
    begun = time.monotonic()
    try:
        table.flush(timeout=30)
    except AppendSetAsideError as error:
        assert len(error.keys) == 600
    assert time.monotonic() - begun < 8
    assert numbers(table) == list(range(12))


def _grow_old(table: Table, seconds: float) -> None:
    """The objects were staged so long ago."""
    held = table._storage._objects  # type: ignore[attr-defined]
    for key, one in list(held.items()):
        if PREFIX in key:
            held[key] = replace(one, last_modified=one.last_modified - seconds)


@pytest.mark.parametrize("kind", ["unknown schema", "malformed"])
def test_600_objects_that_seem_to_wait_delay_an_append_by_one_look(table: Table, kind: str) -> None:
    """They were staged just now, so their owners may be alive; the first of them show that nobody waits."""
    for number in range(600):
        own = f"bad {number}"
        data = b"bad" if kind == "malformed" else body_of(table, own=own, **{"schema-id": 77})
        put(table, data, own=own, kind="w", nonce=number)
    begun = time.monotonic()
    table.append([{"n": 1}])
    assert time.monotonic() - begun < 2.5
    assert numbers(table) == [0, 1]


@pytest.mark.parametrize("fresh", [True, False])
def test_600_objects_of_an_unknown_schema_cost_a_new_process_few_reads(table: Table, fresh: bool) -> None:
    for number in range(600):
        own = f"bad {number}"
        put(table, body_of(table, own=own, **{"schema-id": 77}), own=own, kind="w", nonce=number)
    _grow_old(table, 60.0)
    for number in range(1, 6):
        table.append([{"n": number}])
    gets = []
    for number in range(6, 12):
        if fresh:
            set_aside.forget()
        before = Counting.reads
        table.append([{"n": number}])
        gets.append(Counting.reads - before)
    assert max(gets) <= 16 + 8
    assert numbers(table) == list(range(12))


def test_an_object_that_is_too_large_for_any_commit_keeps_no_other_one_out(
    table: Table, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(set_aside, "MAX_BYTES", 1000)
    key = put(table, b"x" * 2000, base=0)
    table.append([{"n": 1}], commit="deferred")
    with pytest.raises(AppendSetAsideError, match="has 2000 bytes"):
        table.flush(timeout=10)
    assert (numbers(table), staged(table)) == ([0, 1], [key])


def test_one_file_in_two_staged_appends_is_committed_once(table: Table) -> None:
    first = described(table)
    header = msgspec.json.decode(first[28:])
    header["append-id"] = "other"
    put(table, first)
    put(table, sealed(msgspec.json.encode(header), b""), own="other", nonce=2)
    with pytest.raises(AppendRefusedError, match="describes the same data file"):
        table.flush(timeout=10)
    assert numbers(table) == [0, 7, 7]


@pytest.mark.parametrize("kind", [*SET_ASIDE, "strange name"])
def test_maintenance_removes_what_is_set_aside_after_the_retention_and_the_grace_period(
    table: Table, kind: str, moved_clock: Any
) -> None:
    if kind == "strange name":
        key = f"{PREFIX}README"
        table._storage.put(key, b"what")
    else:
        key = SET_ASIDE[kind](table)
    moved_clock.ahead += 29 * DAY
    kept = table.maintain()
    assert (kept.set_aside, kept.removed_staged, staged(table)) == ((key,), 0, [key])
    moved_clock.ahead += 1.5 * DAY
    assert table.maintain().set_aside == (key,), "the grace period is not over"
    table.append([{"n": 1}], commit="deferred")
    moved_clock.ahead += 1 * DAY
    done = table.maintain()
    assert (done.set_aside, done.removed_staged, staged(table)) == ((), 1, [])
    assert numbers(table) == [0, 1]
    table.flush(timeout=10)


def test_a_clock_that_is_ahead_removes_nothing_that_is_set_aside(table: Table, monkeypatch: pytest.MonkeyPatch) -> None:
    """The store says how old an object is."""
    key = put(table, body_of(table, **{"schema-id": 77}))

    class Ahead(SystemClock):
        def now_ms(self) -> int:
            return super().now_ms() + 90 * int(DAY) * 1000

    monkeypatch.setattr(table, "_clock", Ahead())
    assert table.maintain().set_aside == (key,)
    assert staged(table) == [key]


def test_upkeep_goes_on_where_an_append_is_refused(table: Table, moved_clock: Any) -> None:
    put(table, b"rubbish")
    table._storage.put("data/auto_lost.parquet", b"lost")
    moved_clock.ahead += 3 * DAY
    with pytest.raises(AppendRefusedError):
        table.maintain()
    assert not list(table._storage.list("data/auto_lost"))
    table.maintain()


def test_a_memory_error_refuses_nobody(table: Table, monkeypatch: pytest.MonkeyPatch) -> None:
    """A process with more memory can read the body."""
    from datashard_core.commit.staging import examine

    put(table, body_of(table))
    from datashard_core.commit.staging.body import decode_body as real

    def decode(*arguments: Any) -> StagedBody:
        raise pa.ArrowMemoryError("malloc of size 9 failed")

    monkeypatch.setattr(examine, "decode_body", decode)
    with pytest.raises(AppendSetAsideError, match="too little memory"):
        table.flush(timeout=10)
    monkeypatch.setattr(examine, "decode_body", real)
    table.flush(timeout=10)
    assert numbers(table) == [0, 5]
