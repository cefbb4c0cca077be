"""Files made by the format layer alone, as PyIceberg and DuckDB read them: every type, value by value.

The table is written here by hand, with plain files, so that what is tested is the bytes: four
snapshots, one of whose manifests holds existing and deleted entries.
"""

from __future__ import annotations

import datetime as dt
import importlib.util
import math
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from decimal import Decimal
from pathlib import Path
from typing import Any

import duckdb
import pytest
from msgspec.structs import replace
from pyiceberg.expressions import (
    BooleanExpression,
    EqualTo,
    GreaterThanOrEqual,
    IsNaN,
    IsNull,
    LessThanOrEqual,
    NotNaN,
    NotNull,
)
from pyiceberg.table import StaticTable

from datashard_core.format.manifests.manifest import (
    ADDED,
    DELETED,
    EXISTING,
    ManifestEntry,
    ManifestFile,
    decode_manifest,
    decode_manifest_list,
    encode_manifest,
    encode_manifest_list,
)
from datashard_core.format.metadata.data_file import DataFile
from datashard_core.format.metadata.partition import PartitionSpec
from datashard_core.format.metadata.snapshot import Snapshot, append_summary
from datashard_core.format.metadata.table_metadata import TableMetadata, new_table_metadata
from datashard_core.format.parquet.parquet import encode_parquet
from datashard_core.format.rows.records import to_table
from datashard_core.format.types.schema import Schema

UTC = dt.UTC
PLACE = {
    "type": "struct",
    "fields": [
        {"name": "x", "type": "double", "required": True},
        {"name": "code", "type": "uuid"},
        {
            "name": "inner",
            "type": {
                "type": "struct",
                "fields": [{"name": "price", "type": "decimal(12, 3)"}, {"name": "day", "type": "date"}],
            },
        },
    ],
}
SCHEMA = Schema(
    3,
    [
        {"name": "id", "type": "long", "required": True},
        {"name": "flag", "type": "boolean"},
        {"name": "small", "type": "int"},
        {"name": "big", "type": "long"},
        {"name": "single", "type": "float"},
        {"name": "number", "type": "double"},
        {"name": "money", "type": "decimal(9, 2)"},
        {"name": "huge", "type": "decimal(38, 10)"},
        {"name": "day", "type": "date"},
        {"name": "clock", "type": "time"},
        {"name": "local", "type": "timestamp"},
        {"name": "instant", "type": "timestamptz"},
        {"name": "text", "type": "string"},
        {"name": "key", "type": "uuid"},
        {"name": "raw", "type": "binary"},
        {"name": "fixed4", "type": "fixed[4]"},
        {"name": "fixed20", "type": "fixed[20]"},
        {"name": "place", "type": PLACE},
        {"name": "words", "type": {"type": "list", "element": "string"}},
        {"name": "grid", "type": {"type": "list", "element": {"type": "list", "element": "int"}}},
        {"name": "places", "type": {"type": "list", "element": PLACE}},
        {"name": "counts", "type": {"type": "map", "key": "string", "value": "long"}},
        {"name": "by_number", "type": {"type": "map", "key": "long", "value": PLACE}},
        {
            "name": "lists",
            "type": {"type": "map", "key": "string", "value": {"type": "list", "element": "double"}},
        },
    ],
)
COLUMNS = SCHEMA.names
MAPS = ("counts", "by_number", "lists")
PLAIN = [name for name in COLUMNS[1:] if name not in ("place", "words", "grid", "places", *MAPS)]
"""Columns of primitive types, which have bounds."""


def place(number: int) -> dict[str, Any]:
    return {
        "x": number / 3,
        "code": uuid.UUID(int=(number * 0x9E3779B97F4A7C15F39CC0605CEDC834) % 2**128),
        "inner": {"price": Decimal(number * 12345).scaleb(-3), "day": dt.date(2013, 1, 1) + dt.timedelta(number)},
    }


def ordinary(number: int) -> dict[str, Any]:
    """A row with a value in every column, each different for each number."""
    moment = dt.datetime(2013, 1, 1) + dt.timedelta(hours=number, microseconds=number)
    return {
        "id": number,
        "flag": number % 3 == 0,
        "small": number * 1000 - 5000,
        "big": number * 10**15 - 5 * 10**15,
        "single": number / 4 - 1,
        "number": number / 7 - 1,
        "money": Decimal(number * 997 - 5000).scaleb(-2),
        "huge": Decimal(f"{(number - 7) * 10**30 + number}E-10"),
        "day": moment.date(),
        "clock": moment.time(),
        "local": moment,
        "instant": moment.replace(tzinfo=UTC),
        "text": f"row {number} " + "ä🙂" * number,
        "key": uuid.UUID(int=(number * 0x8000000000000000000000000000001D) % 2**128),
        "raw": bytes([number % 256]) * (number % 40),
        "fixed4": number.to_bytes(4, "big"),
        "fixed20": bytes([255 - number]) * 20,
        "place": place(number),
        "words": [f"word {n}" for n in range(number % 4)],
        "grid": [[n] * n for n in range(number % 3)],
        "places": [place(number + n) for n in range(number % 3)],
        "counts": {f"k{n}": n for n in range(number % 4)},
        "by_number": {number: place(number)},
        "lists": {"one": [1.5, None], "none": []},
    }


def edges() -> list[dict[str, Any]]:
    """Rows at the ends of the types' ranges, and nulls at every level."""
    nothing: dict[str, Any] = dict.fromkeys(COLUMNS)
    lowest = {
        "flag": False,
        "small": -(2**31),
        "big": -(2**63),
        "single": -math.inf,
        "number": -math.inf,
        "money": Decimal("-9999999.99"),
        "huge": Decimal(f"-{10**38 - 1}E-10"),
        "day": dt.date(1, 1, 1),
        "clock": dt.time(0),
        "local": dt.datetime(1, 1, 1),
        "instant": dt.datetime(1, 1, 1, tzinfo=UTC),
        "text": "",
        "key": uuid.UUID(int=0),
        "raw": b"",
        "fixed4": bytes(4),
        "fixed20": bytes(20),
        "place": {"x": -0.0, "code": None, "inner": None},
        "words": [],
        "grid": [],
        "places": [],
        "counts": {},
        "by_number": {},
        "lists": {},
    }
    highest = {
        "flag": True,
        "small": 2**31 - 1,
        "big": 2**63 - 1,
        "single": math.inf,
        "number": math.inf,
        "money": Decimal("9999999.99"),
        "huge": Decimal(f"{10**38 - 1}E-10"),
        "day": dt.date(9999, 12, 31),
        "clock": dt.time(23, 59, 59, 999999),
        "local": dt.datetime(9999, 12, 31, 23, 59, 59, 999999),
        "instant": dt.datetime(9999, 12, 31, 23, 59, 59, 999999, tzinfo=UTC),
        "text": "\U0010ffff" * 17,
        "key": uuid.UUID(int=2**128 - 1),
        "raw": b"\xff" * 17,
        "fixed4": b"\xff" * 4,
        "fixed20": b"\xff" * 20,
        "place": {"x": math.inf, "code": uuid.UUID(int=2**127), "inner": {"price": None, "day": None}},
        "words": [None, "", "x" * 100],
        "grid": [None, [], [None]],
        "places": [None, place(1)],
        "counts": {"": None, "x": 2**63 - 1},
        "by_number": {-(2**63): None, 1: place(2)},
        "lists": {"none": None, "some": [math.inf]},
    }
    return [
        {**nothing, "id": 100},
        {**lowest, "id": 101},
        {**highest, "id": 102},
        {**nothing, "id": 103, "single": -0.0, "number": -0.0, "text": "q" * 15 + "\ud7ff" + "z"},
        {**nothing, "id": 104, "single": 5e-324 * 0, "number": 5e-324, "text": "q" * 40},
    ]


def nans() -> list[dict[str, Any]]:
    nothing: dict[str, Any] = dict.fromkeys(COLUMNS)
    return [
        {**nothing, "id": 200, "single": math.nan, "number": math.nan},
        {**nothing, "id": 201, "single": 2.5, "number": 2.5},
    ]


@dataclass
class Writer:
    """A table on local disk, written file by file."""

    root: Path
    metadata: TableMetadata
    version: int = 0
    manifests: list[ManifestFile] = field(default_factory=list)
    rows: dict[int, list[dict[str, Any]]] = field(default_factory=dict)
    """Rows of each snapshot."""
    files: dict[str, list[dict[str, Any]]] = field(default_factory=dict)
    """Rows of each data file."""

    @classmethod
    def create(cls, root: Path, schema: Schema = SCHEMA) -> Writer:
        for folder in ("data", "metadata/manifests"):
            (root / folder).mkdir(parents=True)
        metadata = new_table_metadata(
            table_uuid=str(uuid.uuid4()), location=root.as_uri(), schema=schema, properties={"a": "b"}, now_ms=1_000
        )
        writer = cls(root, metadata)
        writer._publish()
        return writer

    def write(self, key: str, data: Any) -> str:
        with (self.root / key).open("xb") as file:
            file.write(data)
        return f"{self.root.as_uri()}/{key}"

    def data_file(self, rows: Sequence[Mapping[str, Any]]) -> DataFile:
        encoded = encode_parquet(to_table(list(rows), SCHEMA, "t"), SCHEMA)
        path = self.write(f"data/auto_{uuid.uuid4().hex}.parquet", encoded.data)
        self.files[path] = [dict(row) for row in rows]
        return encoded.data_file(path)

    def manifest(self, entries: Sequence[ManifestEntry], snapshot_id: int, sequence: int) -> ManifestFile:
        data = encode_manifest(entries, schema=SCHEMA, spec=PartitionSpec())
        of = {
            status: [e.data_file.record_count for e in entries if e.status == status]
            for status in (ADDED, EXISTING, DELETED)
        }
        return ManifestFile(
            manifest_path=self.write(f"metadata/manifests/manifest_{uuid.uuid4().hex}.avro", data),
            manifest_length=len(data),
            partition_spec_id=0,
            content=0,
            sequence_number=sequence,
            min_sequence_number=min(e.sequence_number or sequence for e in entries),
            added_snapshot_id=snapshot_id,
            added_files_count=len(of[ADDED]),
            existing_files_count=len(of[EXISTING]),
            deleted_files_count=len(of[DELETED]),
            added_rows_count=sum(of[ADDED]),
            existing_rows_count=sum(of[EXISTING]),
            deleted_rows_count=sum(of[DELETED]),
        )

    def commit(
        self,
        snapshot_id: int,
        manifests: list[ManifestFile],
        summary: dict[str, str],
        rows: list[dict[str, Any]],
    ) -> None:
        parent = self.metadata.current_snapshot_id
        sequence = self.metadata.last_sequence_number + 1
        data = encode_manifest_list(
            manifests, snapshot_id=snapshot_id, parent_snapshot_id=parent, sequence_number=sequence
        )
        snapshot = Snapshot(
            snapshot_id=snapshot_id,
            parent_snapshot_id=parent,
            sequence_number=sequence,
            timestamp_ms=2_000 * sequence,
            manifest_list=self.write(f"metadata/manifests/manifest_list_{uuid.uuid4().hex}.avro", data),
            summary=summary,
            schema_id=SCHEMA.schema_id,
        )
        previous = f"{self.root.as_uri()}/metadata/v{self.version}.metadata.json"
        self.metadata = self.metadata.with_snapshot(snapshot, now_ms=2_000 * sequence, previous_metadata=previous)
        self.version += 1
        self.manifests = manifests
        self.rows[snapshot_id] = rows
        self._publish()

    def append(self, snapshot_id: int, *files: Sequence[Mapping[str, Any]]) -> None:
        written = [self.data_file(rows) for rows in files]
        entries = [ManifestEntry(ADDED, snapshot_id, None, None, file) for file in written]
        manifest = self.manifest(entries, snapshot_id, self.metadata.last_sequence_number + 1)
        summary = append_summary(self.metadata.current_snapshot, written)
        before = self.rows.get(self.metadata.current_snapshot_id or 0, [])
        self.commit(
            snapshot_id,
            [*self.manifests, manifest],
            summary,
            [*before, *(dict(row) for rows in files for row in rows)],
        )

    def _publish(self) -> None:
        self.write(f"metadata/v{self.version}.metadata.json", self.metadata.to_json())
        (self.root / "metadata/version-hint.text").write_text(str(self.version))


def entries_of(manifests: Sequence[ManifestFile]) -> list[ManifestEntry]:
    found: list[ManifestEntry] = []
    for manifest in manifests:
        path = Path(manifest.manifest_path.removeprefix("file://"))
        found += decode_manifest(path.read_bytes(), manifest)
    return found


@pytest.fixture(scope="module")
def table(tmp_path_factory: pytest.TempPathFactory) -> Writer:
    """The table: an append, another with two files, a delete that merges manifests, one more append."""
    writer = Writer.create(tmp_path_factory.mktemp("readers") / "table")
    writer.append(11, [ordinary(n) for n in range(10)])
    writer.append(2**62 + 12345, edges(), nans())
    entries = [replace(entry, status=EXISTING) for entry in entries_of(writer.manifests)]
    gone = entries[0]
    entries[0] = replace(gone, status=DELETED, snapshot_id=13)
    parent = writer.metadata.current_snapshot
    assert parent is not None
    totals = {
        "total-records": str(int(parent.summary["total-records"]) - gone.data_file.record_count),
        "total-data-files": "2",
        "deleted-data-files": "1",
        "deleted-records": str(gone.data_file.record_count),
    }
    merged = writer.manifest(entries, 13, writer.metadata.last_sequence_number + 1)
    summary = {**parent.summary, **totals, "operation": "delete"}
    writer.commit(13, [merged], summary, [*edges(), *nans()])
    writer.append(14, [ordinary(n) for n in range(20, 25)])
    return writer


@pytest.fixture(scope="module")
def duck() -> duckdb.DuckDBPyConnection:
    """DuckDB with its Iceberg extension, loaded from the wheels without a network."""
    connection = duckdb.connect()
    connection.execute("SET TimeZone = 'UTC'")
    for name in ("avro", "httpfs", "iceberg"):
        spec = importlib.util.find_spec(f"duckdb_extension_{name}")
        assert spec is not None and spec.origin is not None
        found = list(Path(spec.origin).parent.rglob(f"{name}.duckdb_extension"))
        assert len(found) == 1, f"the wheel of the extension {name} holds {found}"
        connection.execute(f"LOAD '{found[0]}'")
    return connection


def plain(value: Any) -> Any:
    """A value as every reader can give it, with what == does not see (NaN, the sign of zero) made visible."""
    if isinstance(value, float):
        return ("float", repr(value))
    if isinstance(value, bytes | bytearray | memoryview):
        return bytes(value)
    if isinstance(value, dt.datetime) and value.tzinfo is not None:
        return value.astimezone(UTC).replace(tzinfo=UTC)
    if isinstance(value, Mapping):
        return {plain(key): plain(inside) for key, inside in value.items()}
    if isinstance(value, list | tuple):
        return [plain(inside) for inside in value]
    return value


def expected(row: Mapping[str, Any]) -> dict[str, Any]:
    single = row["single"]
    return {name: plain(row[name]) for name in COLUMNS} | {"single": plain(single if single is None else float(single))}


def assert_same(found: Sequence[Mapping[str, Any]], rows: Sequence[Mapping[str, Any]]) -> None:
    by_id = {row["id"]: row for row in found}
    assert sorted(by_id) == sorted(row["id"] for row in rows)
    assert len(found) == len(rows)
    for row in rows:
        wanted = expected(row)
        got = {name: plain(value) for name, value in by_id[row["id"]].items()}
        assert list(got) == COLUMNS
        for name in COLUMNS:
            assert got[name] == wanted[name], f"row {row['id']}, column {name}"


def pyiceberg_rows(root: Path, snapshot_id: int | None = None) -> list[dict[str, Any]]:
    rows = StaticTable.from_metadata(str(root)).scan(snapshot_id=snapshot_id).to_arrow()
    found: list[dict[str, Any]] = rows.to_pylist()
    for row in found:
        row.update({name: dict(row[name]) for name in MAPS if row[name] is not None})
    return [without_null_containers(row) for row in found]


def without_null_containers(row: Mapping[str, Any]) -> dict[str, Any]:
    """PyIceberg builds what contains structs anew from its offsets: a null list or map comes out empty."""
    return {**row, "places": row["places"] or [], "by_number": row["by_number"] or {}}


def duckdb_rows(duck: duckdb.DuckDBPyConnection, root: Path, more: str = "") -> list[dict[str, Any]]:
    cursor = duck.execute(f"SELECT * FROM iceberg_scan('{root}'{more})")
    names = [column[0] for column in cursor.description or ()]
    return [dict(zip(names, row, strict=True)) for row in cursor.fetchall()]


def test_pyiceberg_reads_every_value_of_every_snapshot(table: Writer) -> None:
    for snapshot_id, rows in table.rows.items():
        assert_same(pyiceberg_rows(table.root, snapshot_id), [without_null_containers(row) for row in rows])
    assert len(pyiceberg_rows(table.root)) == len(table.rows[14])


def test_duckdb_reads_every_value_of_every_snapshot(table: Writer, duck: duckdb.DuckDBPyConnection) -> None:
    for snapshot_id, rows in table.rows.items():
        assert_same(duckdb_rows(duck, table.root, f", snapshot_from_id={snapshot_id}"), rows)
    assert_same(duckdb_rows(duck, table.root), table.rows[14])


def planned(root: Path, condition: BooleanExpression) -> set[str]:
    """Paths of the files that PyIceberg would read, judging by counts and bounds alone."""
    return {
        task.file.file_path for task in StaticTable.from_metadata(str(root)).scan(row_filter=condition).plan_files()
    }


def holding(table: Writer, column: str) -> list[tuple[str, Any]]:
    """The live data files, each with the column's values in it."""
    live = {row["id"] for row in table.rows[14]}
    return [(path, row[column]) for path, rows in table.files.items() for row in rows if row["id"] in live]


def is_nan(value: Any) -> bool:
    return isinstance(value, float) and math.isnan(value)


@pytest.mark.parametrize("column", PLAIN)
def test_pyiceberg_prunes_no_file_that_holds_the_value(table: Writer, column: str) -> None:
    for path, value in holding(table, column):
        for condition in conditions_met_by(column, value):
            assert path in planned(table.root, condition), condition


def conditions_met_by(column: str, value: Any) -> list[BooleanExpression]:
    if value is None:
        return [IsNull(column)]
    if is_nan(value):
        return [NotNull(column), IsNaN(column)]
    if column == "flag":
        return [NotNull(column), EqualTo(column, value)]
    if column == "single" and math.isinf(value):
        return [NotNull(column), NotNaN(column)]  # PyIceberg takes infinity for out of a float's range
    return [EqualTo(column, value), LessThanOrEqual(column, value), GreaterThanOrEqual(column, value)]


@pytest.mark.parametrize("column", PLAIN)
def test_duckdb_finds_every_value_again(table: Writer, duck: duckdb.DuckDBPyConnection, column: str) -> None:
    values = [value for _, value in holding(table, column) if value is not None]
    kinds = {"fixed4": "BLOB", "fixed20": "BLOB", "single": "FLOAT", "huge": "DECIMAL(38, 10)"}
    typed = f"CAST(? AS {kinds[column]})" if column in kinds else "?"
    for value in values:
        query = f"SELECT count(*) FROM iceberg_scan('{table.root}') WHERE {column} = {typed}"
        found = duck.execute(query, [value]).fetchall()
        same = [other for other in values if other == value or (is_nan(other) and is_nan(value))]
        assert found == [(len(same),)], f"{column} = {value!r}"
    nulls = duck.execute(f"SELECT count(*) FROM iceberg_scan('{table.root}') WHERE {column} IS NULL").fetchall()
    assert nulls == [(sum(value is None for _, value in holding(table, column)),)]


def test_bounds_leave_other_files_unread(table: Writer) -> None:
    assert len(planned(table.root, EqualTo("id", 22))) == 1
    assert len(planned(table.root, LessThanOrEqual("text", "r"))) == 1
    assert len(planned(table.root, EqualTo("text", "row 22"))) == 2, "no bound of 16 characters is above the edges'"
    assert len(planned(table.root, EqualTo("place.x", 22 / 3))) == 2, "infinity in the edges' file is above any"
    assert planned(table.root, EqualTo("id", 5)) == set(), "the file of the first append is deleted"


def test_our_own_reading_gives_back_what_was_written(table: Writer) -> None:
    snapshot = table.metadata.current_snapshot
    assert snapshot is not None
    manifests = decode_manifest_list(Path(snapshot.manifest_list.removeprefix("file://")).read_bytes())
    assert manifests == table.manifests
    entries = entries_of(manifests)
    assert [(e.status, e.snapshot_id, e.sequence_number) for e in entries] == [
        (DELETED, 13, 1),
        (EXISTING, 2**62 + 12345, 2),
        (EXISTING, 2**62 + 12345, 2),
        (ADDED, 14, 4),
    ]
    assert [entry.data_file.file_path for entry in entries] == list(table.files)


def test_both_readers_open_a_table_without_rows(tmp_path: Path, duck: duckdb.DuckDBPyConnection) -> None:
    # PyArrow cannot make an empty list of uuids, so PyIceberg cannot answer for the schema of all types.
    schema = Schema(0, [field for field in SCHEMA.fields if field.name in PLAIN])
    writer = Writer.create(tmp_path / "empty", schema)
    assert StaticTable.from_metadata(str(writer.root)).scan().to_arrow().num_rows == 0
    assert duckdb_rows(duck, writer.root) == []
