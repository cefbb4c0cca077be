"""Everything that is decoded, damaged on purpose: what ``test_decoding.py`` tries for seconds, and the system tier for
minutes (as a program: ``python decoded.py SECONDS SEED FILE``, where FILE gets the input that is under way).

A target takes bytes, decodes them, and does with the values what the library does. It may raise errors of the
library, and nothing else.
"""

from __future__ import annotations

import hashlib
import io
import json
import logging
import struct
import sys
import time
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from copy import deepcopy
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import fastavro
import msgspec
import pyarrow as pa
import pyarrow.parquet as pq
from hypothesis import HealthCheck, Phase, given, seed, settings
from hypothesis import strategies as st
from msgspec.structs import replace

import datashard_core as ds
from datashard_core import col
from datashard_core.commit.append_ids import segment
from datashard_core.commit.append_ids.lookback import RecordedOutcome
from datashard_core.commit.core import recorded_ids
from datashard_core.commit.core.properties import settings_of
from datashard_core.commit.core.recorded_ids import CommitNames, Refusal
from datashard_core.commit.core.version_file import hinted_version, parse_version
from datashard_core.commit.maintenance.rewrite_rows import rewrite
from datashard_core.commit.staging import body as staged_body
from datashard_core.commit.staging.body import StagedBody, encode_body
from datashard_core.commit.staging.key import StagedName
from datashard_core.errors import CorruptTableError, DataShardError, UnsupportedTableError
from datashard_core.format.expressions.binding import bind
from datashard_core.format.manifests.manifest import (
    ADDED,
    EXISTING,
    ManifestEntry,
    ManifestFile,
    decode_manifest,
    decode_manifest_list,
    encode_manifest,
    encode_manifest_list,
)
from datashard_core.format.manifests.manifest_scan import Pruning, indexed_files, live_files
from datashard_core.format.manifests.partition_summary import partition_types, united
from datashard_core.format.metadata.data_file import DataFile
from datashard_core.format.metadata.partition import PartitionField, PartitionSpec
from datashard_core.format.metadata.snapshot import TOTALS, Snapshot, total_in
from datashard_core.format.metadata.table_metadata import new_table_metadata
from datashard_core.format.parquet.parquet import encode_parquet
from datashard_core.format.rows.digest import id_digest
from datashard_core.format.rows.python_rows import plain_rows
from datashard_core.format.types.schema import Schema
from datashard_core.storage.memory import MemoryStorage
from datashard_core.table.parquet_rows import FileRows, Reading
from datashard_core.table.warehouse import Warehouse

UUID = "9c12d441-03fe-4693-9a96-a0705ddf69c1"
WHERE = "s3://b/t/metadata/v5.metadata.json"
SCHEMA = Schema(
    0,
    [
        {"id": 1, "name": "n", "type": "long"},
        {"id": 2, "name": "s", "type": "string"},
        {"id": 3, "name": "d", "type": "date"},
        {"id": 4, "name": "f", "type": "float"},
        {"id": 5, "name": "c", "type": "decimal(9, 2)"},
        {"id": 6, "name": "b", "type": "boolean"},
    ],
)
SPECS = (
    PartitionSpec(),
    PartitionSpec(
        1,
        (
            PartitionField(1, 1000, "n_bucket", "bucket[4]"),
            PartitionField(2, 1001, "s", "identity"),
            PartitionField(3, 1002, "d", "identity"),
            PartitionField(5, 1003, "c", "identity"),
        ),
    ),
)
CONDITIONS = (
    (col("n") > 5) & (col("s") == "k5"),
    (col("c") <= 5) | (col("f") < 2.5) | col("b").is_null(),
    col("d").is_not_null() & col("s").starts_with("k"),
    col("n").isin([1, 2, 3]),
)
MAX_SHOWN = 2000

# Values


RAW = {
    '"@deep"': b"[" * 150 + b"]" * 150,
    '"@deeper"': b'{"type":' * 900 + b"1" + b"}" * 900,
    '"@deepest"': b"[" * 100_000 + b"]" * 100_000,
    '"@digits"': b"9" * 5000,
    '"@nan"': b"NaN",
    '"@infinity"': b"-Infinity",
    '"@huge"': b"1e999",
    '"@twice"': b'{"a":1,"a":2}',
}
"""What no Python value becomes, or none that is easily handled."""

NASTY: list[Any] = [
    None, True, False, 0, -1, 1, 2, 2**31 - 1, 2**31, 2**63 - 1, 2**63, -(2**63), 10**20, 10**400, 1.5, 1e308, "", "x",
    "-1", "9" * 18, "9" * 5000, "²", "\x00", "../..", "s3://other/x", [], {}, [[]], [None], {"x": 1}, {"": None},
    "bucket[" + "9" * 40 + "]", "truncate[0]", "decimal(99, 2)", "fixed[99999999999999]", "list", "record", "null",
    {"type": "record", "name": "manifest_file", "fields": []}, {"type": "fixed", "size": 2**40, "name": "x"},
    "manifest_file", "manifest_entry", "r2", {"type": "array", "items": "null"}, ["null", "null", "long"],
]  # fmt: skip


def _json(value: Any) -> bytes:
    data = json.dumps(value).encode()
    for mark, raw in RAW.items():
        data = data.replace(mark.encode(), raw)
    return data


@st.composite
def changed_json(draw: st.DrawFn, raw: Any) -> Any:
    """A JSON value with a few of its parts replaced, left out, renamed or doubled."""
    raw = deepcopy(raw)
    for _ in range(draw(st.integers(1, 3))):
        path: list[Any] = []
        at = raw
        while isinstance(at, (dict, list)) and at and (not path or draw(st.integers(0, 4))):
            keys = sorted(at, key=str) if isinstance(at, dict) else range(len(at))
            path.append((at, draw(st.sampled_from(list(keys)))))
            at = at[path[-1][1]]
        if not path:
            return deepcopy(draw(st.sampled_from(NASTY)))
        outer, key = path[-1]
        what = draw(st.integers(0, 9))
        if what == 0:
            del outer[key]
        elif what == 1 and isinstance(outer, dict):
            outer[draw(st.sampled_from(["x", *outer]))] = outer.pop(key)
        elif what == 2 and isinstance(outer, list):
            outer.append(deepcopy(outer[key]))
        elif what == 3:
            outer[key] = draw(st.sampled_from([mark.strip('"') for mark in RAW]))
        elif what == 4:
            outer[key] = draw(st.integers(-(2**70), 2**70))
        else:
            outer[key] = deepcopy(draw(st.sampled_from(NASTY)))
    return raw


@st.composite
def changed_bytes(draw: st.DrawFn, data: bytes) -> bytes:
    """Bytes with some of them flipped, cut, spliced, doubled or overwritten."""
    out = bytearray(data)
    for _ in range(draw(st.integers(1, 4))):
        at = draw(st.integers(0, len(out))) if draw(st.booleans()) else max(0, len(out) - draw(st.integers(0, 64)))
        what = draw(st.integers(0, 6))
        if what == 0 and at < len(out):
            out[at] ^= 1 << draw(st.integers(0, 7))
        elif what == 1:
            del out[at:]
        elif what == 2:
            del out[at : at + draw(st.integers(1, 16))]
        elif what == 3:
            start = draw(st.integers(0, len(out)))
            out[at:at] = out[start : start + draw(st.integers(1, 64))]
        elif what == 4:
            number = draw(st.sampled_from([0, 1, -1, 2**31 - 1, -(2**31), 2**63 - 1, -(2**63), 2**33, 10**9]))
            packed = number.to_bytes(8, draw(st.sampled_from(["little", "big"])), signed=True)
            put = draw(st.sampled_from([packed, packed[:4], packed[4:], varint(number), varint(2**40)]))
            out[at : at + len(put)] = put
        elif what == 5:
            put = draw(st.binary(max_size=24))
            out[at : at + draw(st.integers(0, 24))] = put
        else:
            out[at:at] = bytes([draw(st.sampled_from([0, 0xFF, 0x80, 0x01]))]) * draw(st.sampled_from([1, 8, 64, 4096]))
    return bytes(out)


def varint(number: int) -> bytes:
    """A zigzag varint."""
    rest = ((number << 1) ^ (number >> 63)) & (2**64 - 1)
    out = bytearray()
    while rest > 0x7F:
        out.append(rest & 0x7F | 0x80)
        rest >>= 7
    out.append(rest)
    return bytes(out)


def sized(data: bytes) -> bytes:
    """Bytes as Avro has them."""
    return varint(len(data)) + data


# Avro


def avro_file(
    schema: Any, blocks: Sequence[tuple[int, bytes]], codec: str = "deflate", header: Mapping[str, str] | None = None
) -> bytes:
    """A file of Avro that holds what it is given, whatever it says."""
    pairs = {"avro.schema": schema if isinstance(schema, bytes) else _json(schema), "avro.codec": codec.encode()}
    pairs |= {key: value.encode() for key, value in (header or {}).items()}
    sync = b"\x07" * 16
    out = (
        b"Obj\x01"
        + varint(len(pairs))
        + b"".join(sized(k.encode()) + sized(v) for k, v in pairs.items())
        + b"\0"
        + sync
    )
    for count, body in blocks:
        if codec == "deflate":
            deflate = zlib.compressobj(wbits=-15)
            out += varint(count) + sized(deflate.compress(body) + deflate.flush()) + sync
        else:
            out += varint(count) + sized(body) + sync
    return out


@dataclass
class Opened:
    """The parts of a file of Avro."""

    schema: Any
    header: dict[str, str]
    count: int
    body: bytes


@cache
def opened(data: bytes) -> Opened:
    reader = fastavro.block_reader(io.BytesIO(data))
    schema = json.loads(reader.metadata["avro.schema"])
    header = {key: value for key, value in reader.metadata.items() if not key.startswith("avro.")}
    parts = list(reader)
    return Opened(schema, header, sum(p.num_records for p in parts), b"".join(p.bytes_.getvalue() for p in parts))


@st.composite
def changed_avro(draw: st.DrawFn, valid: Sequence[bytes]) -> bytes:
    """A file of Avro of which the schema, the records, the counts or the header are changed."""
    data = draw(st.sampled_from(valid))
    how = draw(st.integers(0, 5))
    if how == 0:
        return draw(changed_bytes(data))
    parts = opened(data)
    schema, header, count, body = parts.schema, dict(parts.header), parts.count, parts.body
    if how in (1, 5):
        schema = draw(changed_json(schema))
    if how in (2, 5):
        body = draw(changed_bytes(body))
    if how == 3:
        header[draw(st.sampled_from([*header, "avro.codec"]))] = draw(
            st.sampled_from(["", "-1", "9" * 5000, "x", "[]"])
        )
    if how == 4:
        count = draw(st.sampled_from([0, 1, -1, 10**9, 2**62, -(2**62), 3]))
        body = draw(st.sampled_from([b"", b"\0" * 2**20, body * 3, b"\2" * 2**16]))
    if draw(st.booleans()):
        header.pop("datashard.entries", None)
    codec = header.pop("avro.codec", None) or draw(st.sampled_from(["deflate", "null"]))
    return avro_file(schema, [(count, body)], codec, header)


@cache
def entries() -> tuple[ManifestEntry, ...]:
    import datetime as dt
    from decimal import Decimal

    found = []
    for number in range(6):
        file = DataFile(
            file_path=f"s3://b/t/data/{number}.parquet",
            record_count=10,
            file_size_in_bytes=500,
            partition={"n_bucket": number % 4, "s": "k", "d": dt.date(2026, 1, 1), "c": Decimal("1.50")},
            column_sizes={1: 100, 2: 200},
            value_counts=dict.fromkeys(range(1, 7), 10),
            null_value_counts=dict.fromkeys(range(1, 7), 1),
            nan_value_counts={4: 0},
            lower_bounds={1: struct.pack("<q", number), 2: b"a", 3: b"\1\0\0\0", 4: b"\0\0\0\0", 5: b"\1"},
            upper_bounds={1: struct.pack("<q", number + 9), 2: b"z", 3: b"\1\1\0\0", 4: b"\0\0\1\0", 5: b"\1\1"},
            split_offsets=(4,),
            sort_order_id=0,
        )
        found.append(ManifestEntry(ADDED if number % 2 else EXISTING, 5, 7, 7, file))
    return tuple(found)


@cache
def manifests() -> tuple[bytes, ...]:
    plain = [replace(entry, data_file=replace(entry.data_file, partition={})) for entry in entries()]
    return (
        encode_manifest(plain, schema=SCHEMA, spec=SPECS[0]),
        encode_manifest(entries(), schema=SCHEMA, spec=SPECS[1]),
    )


def listed(length: int, spec_id: int) -> ManifestFile:
    return ManifestFile("s3://b/t/m.avro", length, spec_id, 0, 7, 7, 5, None, None, None, None, None, None)


@cache
def manifest_lists() -> tuple[bytes, ...]:
    summaries = tuple(
        {"contains_null": False, "contains_nan": None, "lower_bound": one, "upper_bound": one}
        for one in (b"\1\0\0\0", b"k", b"\1\0\0\0", b"\1")
    )
    inside = [
        replace(listed(900, 0), **dict.fromkeys(_COUNTS, 3)),
        replace(listed(901, 1), **dict.fromkeys(_COUNTS, 1)),
    ]
    inside[1] = replace(inside[1], partitions=summaries)
    return (encode_manifest_list(inside, snapshot_id=5, parent_snapshot_id=4, sequence_number=7),)


_COUNTS = (
    "added_files_count", "existing_files_count", "deleted_files_count",
    "added_rows_count", "existing_rows_count", "deleted_rows_count",
)  # fmt: skip


def use_manifest(data: bytes) -> None:
    for spec in SPECS:
        manifest = listed(len(data), spec.spec_id)
        with suppress(CorruptTableError, UnsupportedTableError):
            found = decode_manifest(data, manifest)
            with suppress(CorruptTableError, UnsupportedTableError):
                encode_manifest(found, schema=SCHEMA, spec=spec)
        with suppress(CorruptTableError, UnsupportedTableError):
            live_files(data, manifest, Pruning())
        for condition in CONDITIONS:
            with suppress(CorruptTableError, UnsupportedTableError):
                indexed_files(data, manifest, Pruning(bind(condition, SCHEMA, "t"), spec), None)


def use_manifest_list(data: bytes) -> None:
    found = decode_manifest_list(data, WHERE)
    kinds = partition_types(SPECS[1], SCHEMA) or ()
    for manifest in found:
        for condition in CONDITIONS:
            Pruning(bind(condition, SCHEMA, "t"), SPECS[1]).keeps_manifest(manifest)
    united([manifest.partitions for manifest in found], kinds)
    with suppress(CorruptTableError):
        encode_manifest_list(found, snapshot_id=5, parent_snapshot_id=4, sequence_number=7)


# Metadata


@cache
def property_text() -> str:
    told = {4: {"ab" * 16: "", "cd" * 16: "ef" * 16}, 5: {"12" * 16: Refusal("no")}}
    return recorded_ids.encode(CommitNames(UUID, 5, 0, "ab" * 16, 4, told))


@cache
def metadata() -> Any:
    made = new_table_metadata(
        table_uuid=UUID,
        location="s3://b/t",
        schema=SCHEMA,
        properties={"datashard.commit": property_text(), "datashard.protocol-version": "1", "datashard.sweep": "{}"},
        now_ms=1000,
    )
    for number in (1, 2):
        snapshot = Snapshot(
            snapshot_id=number,
            parent_snapshot_id=None if number == 1 else 1,
            sequence_number=number,
            timestamp_ms=1000 + number,
            manifest_list=f"s3://b/t/metadata/manifests/{number}.avro",
            summary={"operation": "append", **dict.fromkeys(TOTALS, "7")},
            schema_id=0,
        )
        made = made.with_snapshot(
            snapshot, now_ms=1000 + number, previous_metadata="s3://b/t/metadata/v0.metadata.json"
        )
    raw = json.loads(made.to_json())
    nested = {"type": "struct", "fields": [{"id": 9, "name": "x", "type": "long", "required": False}]}
    raw["schemas"][0]["fields"] += [
        {"id": 7, "name": "l", "required": False, "type": {
            "type": "list", "element-id": 8, "element-required": False, "element": nested}},
        {"id": 10, "name": "m", "required": False, "type": {
            "type": "map", "key-id": 11, "key": "string", "value-id": 12, "value": "fixed[4]"}},
    ]  # fmt: skip
    raw["partition-specs"].append(SPECS[1].to_dict())
    raw["statistics"] = [{"snapshot-id": 1, "statistics-path": "x"}]
    return raw


@st.composite
def changed_metadata(draw: st.DrawFn) -> bytes:
    raw = metadata()
    how = draw(st.integers(0, 3))
    if how == 0:
        return draw(changed_bytes(_json(raw)))
    if how == 1:
        raw = deepcopy(raw)
        raw["properties"]["datashard.commit"] = _json(draw(changed_json(json.loads(property_text())))).decode()
        return _json(raw)
    if how == 2:
        marker = {"datashard.dropped": 1, "table-uuid": UUID, "properties": {"datashard.commit": property_text()}}
        return _json(draw(changed_json(marker)))
    return _json(draw(changed_json(raw)))


def use_metadata(data: bytes) -> None:
    body = parse_version(data, 5, WHERE)
    _ = (body.named, body.next, body.queue_length, body.uuid, body.first, body.is_a_beginning)
    if body.metadata is None:
        return
    table = body.metadata
    asked = settings_of(table.properties)
    for schema in table.schemas:
        schema.to_arrow()
    _ = (table.schema, table.spec, table.append_spec, table.snapshots, table.snapshot_as_of(1001))
    current = table.current_snapshot
    if current is not None:
        _ = [total_in(current, key) for key in TOTALS]
    made = Snapshot(3, 2, table.last_sequence_number + 1, 2000, "s3://b/t/x.avro")
    following = table.with_append_spec().with_snapshot(made, now_ms=2000, previous_metadata=WHERE)
    parse_version(following.within(asked.retention).to_json(), 6, WHERE)


# Staged bodies


ROWS = pa.table(
    {
        "n": pa.array(range(3), pa.int64()),
        "s": ["a", None, "c"],
        "d": pa.array([1, 2, 3], pa.date32()),
        "f": pa.array([1.5, None, 2.5], pa.float32()),
        "c": pa.array([None, None, None], pa.decimal128(9, 2)),
        "b": [True, False, None],
    },
    schema=SCHEMA.to_arrow(),
)
NAME = StagedName(3, "d", id_digest("a"), "0" * 8)


@cache
def bodies() -> tuple[bytes, ...]:
    few = plain_rows([{"n": 1, "s": "x", "f": 0.5}, {"b": True}], Schema(0, SCHEMA.fields[:4] + SCHEMA.fields[5:]))
    made = [StagedBody(UUID, "a", "", 0, ROWS), StagedBody(UUID, "a", "ab" * 16, 0, None, (entries()[0].data_file,))]
    made[1] = replace(made[1], files=(replace(made[1].files[0], partition={}),))
    if few is not None:
        made.append(StagedBody(UUID, "a", "", 0, few))
    return tuple(map(encode_body, made))


@st.composite
def changed_body(draw: st.DrawFn) -> bytes:
    data = draw(st.sampled_from(bodies()))
    how = draw(st.integers(0, 4))
    if how == 0:
        return draw(changed_bytes(data))
    content = data[24:]
    (length,) = struct.unpack("<I", content[:4])
    header, rows = json.loads(content[4 : 4 + length]), content[4 + length :]
    if how == 1:
        header = draw(changed_json(header))
    elif how == 2:
        rows = draw(changed_bytes(rows))
    elif how == 3:
        rows = msgspec.msgpack.encode(draw(plain_values()))
        header.pop("files", None)
        header["plain-rows"] = draw(st.sampled_from([0, 1, 2, 3, 512, 10**12, -1]))
    else:
        header.pop("files", None)
        header.pop("plain-rows", None)
        rows = draw(arrow_stream())
    told = _json(header)
    content = struct.pack("<I", draw(st.sampled_from([len(told)] * 9 + [2**32 - 1]))) + told + rows
    return data[:8] + hashlib.blake2b(content, digest_size=16).digest() + content


def plain_values() -> st.SearchStrategy[Any]:
    value = st.sampled_from([None, True, 0, 2**62, -1, 1.5, 1e300, float("nan"), "x", b"x", [], [[1]], {}])
    return st.dictionaries(st.integers(0, 8), st.lists(value, max_size=3) | value, max_size=6)


@st.composite
def arrow_table(draw: st.DrawFn) -> pa.Table:
    """A few columns of any type, with ids that are none, wrong or right."""
    count = draw(st.integers(0, 4))
    columns, fields = [], []
    for place in range(draw(st.integers(0, 5))):
        kind = draw(st.sampled_from(_KINDS))
        name = draw(st.sampled_from([*SCHEMA.names, "x", ""]))
        text = draw(st.sampled_from([str(place + 1), "1", "x", "9" * 5000, None]))
        column = pa.array(
            draw(st.lists(_VALUES.get(str(kind), st.none()) | st.none(), min_size=count, max_size=count)), kind
        )
        columns.append(column)
        fields.append(pa.field(name, kind, metadata=None if text is None else {"PARQUET:field_id": text}))
    return pa.table(columns, schema=pa.schema(fields))


_KINDS = (
    pa.int64(), pa.int32(), pa.float32(), pa.float64(), pa.string(), pa.large_string(), pa.binary(), pa.bool_(),
    pa.date32(), pa.timestamp("us"), pa.timestamp("ns", "UTC"), pa.time64("us"), pa.null(), pa.decimal128(9, 2),
    pa.decimal256(60, 2), pa.list_(pa.int64()), pa.struct([pa.field("x", pa.int64())]),
    pa.map_(pa.string(), pa.int64()), pa.dictionary(pa.int8(), pa.string()),
    pa.binary(3), pa.duration("s"), pa.uint64(), pa.string_view(),
)  # fmt: skip
_VALUES: dict[str, st.SearchStrategy[Any]] = {
    "int64": st.integers(-(2**63), 2**63 - 1),
    "int32": st.integers(-(2**31), 2**31 - 1),
    "date32[day]": st.integers(-(2**31), 2**31 - 1),
    "timestamp[us]": st.integers(-(2**63), 2**63 - 1),
    "float": st.floats(width=32),
    "double": st.floats(),
    "string": st.text(st.characters(exclude_categories=["Cs"]), max_size=4),
    "binary": st.binary(max_size=4),
    "bool": st.booleans(),
    "list<item: int64>": st.lists(st.integers(0, 3), max_size=3),
    "struct<x: int64>": st.fixed_dictionaries({"x": st.integers(0, 3)}),
    "map<string, int64>": st.lists(st.tuples(st.sampled_from("ab"), st.integers(0, 3)), max_size=2),
}


@st.composite
def arrow_stream(draw: st.DrawFn) -> bytes:
    rows = draw(arrow_table())
    sink = pa.BufferOutputStream()
    compression = draw(st.sampled_from([None, "zstd", "lz4"]))
    with pa.ipc.new_stream(sink, rows.schema, options=pa.ipc.IpcWriteOptions(compression=compression)) as writer:
        writer.write_table(rows)
    data = bytes(sink.getvalue())
    return draw(changed_bytes(data)) if draw(st.booleans()) else data


def use_body(data: bytes) -> None:
    with suppress(DataShardError):
        staged_body.described_files(data)
    body = staged_body.decode_body(data, NAME, UUID, [SCHEMA, Schema(0, SCHEMA.fields[:4])])
    if body.rows is not None:
        from datashard_core.commit.staging.examine import fit

        version = parse_version(_json(metadata()), 5, WHERE)
        encode_parquet(fit(body.rows, version, "staged"), version.table.schema)
    if body.files:
        encode_manifest(
            [ManifestEntry(ADDED, 5, None, None, file) for file in body.files], schema=SCHEMA, spec=SPECS[0]
        )


# Parquet


@cache
def parquets() -> tuple[bytes, ...]:
    few = plain_rows([{"n": 1, "s": "x", "f": 0.5}, {"b": True}], Schema(0, SCHEMA.fields[:4] + SCHEMA.fields[5:]))
    made = [bytes(encode_parquet(ROWS, SCHEMA).data)]
    if few is not None:
        made.append(bytes(encode_parquet(few, few.schema).data))
    for options in (
        {"compression": "none", "use_dictionary": False},
        {"data_page_version": "2.0"},
        {"row_group_size": 1},
    ):
        sink = io.BytesIO()
        pq.write_table(ROWS, sink, **options)
        made.append(sink.getvalue())
    return tuple(made)


@st.composite
def changed_parquet(draw: st.DrawFn) -> bytes:
    data = draw(st.sampled_from(parquets()))
    if not draw(st.integers(0, 3)):
        sink = io.BytesIO()
        with suppress(pa.ArrowException):
            pq.write_table(draw(arrow_table()), sink)
            data = sink.getvalue()
        if draw(st.booleans()):
            return data
    if draw(st.booleans()):
        return draw(changed_bytes(data))
    # The footer alone, with the length that it has then.
    size = int.from_bytes(data[-8:-4], "little")
    footer = draw(changed_bytes(data[-8 - size : -8]))
    return data[: -8 - size] + footer + struct.pack("<I", len(footer)) + b"PAR1"


def use_parquet(data: bytes) -> None:
    for count in (2, 3):
        file = DataFile("memory://store/t/data/x.parquet", count, len(data))
        with suppress(CorruptTableError, UnsupportedTableError):
            rewrite([(file, data)], SCHEMA, "x.parquet", 2**28)
        storage = MemoryStorage()
        storage.put("data/x.parquet", data)
        for condition in (None, *CONDITIONS):
            reading = Reading(storage, storage.root, "t", SCHEMA, SCHEMA.to_arrow())
            if condition is not None:
                reading = replace(reading, bound=bind(condition, SCHEMA, "t"), wanted=pa.schema([SCHEMA.to_arrow()[0]]))
            path = f"{storage.root}/data/x.parquet"
            with suppress(CorruptTableError, UnsupportedTableError):
                rows_left = FileRows(reading, replace(file, file_path=path))
                while rows_left.step()[1]:
                    pass


# Small things


@cache
def segments() -> tuple[bytes, ...]:
    records = [
        (f"{number:032x}", RecordedOutcome(number % 16, ("", "ab" * 16, Refusal("no"))[number % 3]))
        for number in range(40)
    ]
    return (segment.encode_segment(UUID, 0, 16, 1000, records),)


def use_segment(data: bytes) -> None:
    header = segment.decode_header(data, WHERE, UUID)
    if header is not None:
        segment.decode_records(data, WHERE)
        segment.records_in(data[segment.header_size() :], f"{7:032x}", 12)


def use_property(data: bytes) -> None:
    text = data.decode(errors="replace")
    found = recorded_ids.parse({recorded_ids.PROPERTY: text}, UUID)
    if found is not None:
        recorded_ids.recorded_by(5, found)
        recorded_ids.encode(
            recorded_ids.following(
                found, parent_version=found.version, table=UUID, first=0, commit_id="ab" * 16, names={}
            )
        )


def use_hint(data: bytes) -> None:
    number = hinted_version(data)
    assert number is None or 0 <= number <= 2**40


# A table whose files are damaged


@cache
def objects() -> dict[str, bytes]:
    storage = MemoryStorage()
    table = Warehouse(storage).create_table("t", SCHEMA, properties={"datashard.auto-compact": "true"})
    for number in range(10):
        table.append([{"n": number, "s": f"k{number}"}], append_id=f"id-{number}")
    table.append([{"n": 99}], commit="deferred")
    table.append(ROWS, commit="deferred")
    return {info.key: storage.get(info.key).body for info in storage.list("")}


@st.composite
def changed_table(draw: st.DrawFn) -> bytes:
    """One object of a table, as its key, a null byte and other bytes."""
    key = draw(st.sampled_from(sorted(objects())))
    data = objects()[key]
    if key.endswith(".avro"):
        data = draw(changed_avro((data,)))
    elif key.endswith(".json") and draw(st.booleans()):
        data = _json(draw(changed_json(json.loads(data))))
    else:
        data = draw(changed_bytes(data))
    return key.encode() + b"\0" + data


def use_table(data: bytes) -> None:
    name, _, body = data.partition(b"\0")
    changed, storage = name.decode(), MemoryStorage()
    for key, whole in objects().items():
        storage.put(key, body if key == changed else whole)
        if "manifest_list" in key and key != changed:
            inside = [
                replace(one, manifest_length=len(body)) if one.manifest_path.endswith(changed[2:]) else one
                for one in decode_manifest_list(whole)
            ]
            storage.put(key, encode_manifest_list(inside, snapshot_id=1, parent_snapshot_id=None, sequence_number=1))
    warehouse = Warehouse(storage)
    with suppress(DataShardError):
        warehouse.list_tables()
    actions: list[Callable[[ds.Table], Any]] = [
        lambda table: table.scan().to_arrow(),
        lambda table: table.scan(where=CONDITIONS[0]).to_arrow(),
        lambda table: table.scan(where=CONDITIONS[1], columns=["n"]).to_arrow(),
        lambda table: table.scan(include_staged=True).to_arrow(),
        lambda table: table.count(),
        lambda table: table.append([{"n": 5}], append_id="id-3", timeout=1),
        lambda table: table.append([{"n": 5}], timeout=1),
        lambda table: table.flush(timeout=1),
        lambda table: table.compact(timeout=1),
        lambda table: table.maintain(),
    ]
    for action in actions:
        with suppress(DataShardError):
            action(warehouse.load_table("t"))


@dataclass(frozen=True)
class Target:
    """Something that is decoded: how it is damaged, and what is done with it."""

    damaged: st.SearchStrategy[bytes]
    use: Callable[[bytes], None]


TARGETS: dict[str, Target] = {
    "metadata": Target(changed_metadata(), use_metadata),
    "property": Target(
        st.deferred(
            lambda: changed_json(json.loads(property_text())).map(_json) | changed_bytes(property_text().encode())
        ),
        use_property,
    ),
    "hint": Target(st.deferred(lambda: changed_bytes(b"12") | st.sampled_from(NASTY).map(_json)), use_hint),
    "manifest": Target(st.deferred(lambda: changed_avro(manifests())), use_manifest),
    "manifest list": Target(st.deferred(lambda: changed_avro(manifest_lists())), use_manifest_list),
    "staged body": Target(changed_body(), use_body),
    "segment": Target(st.deferred(lambda: changed_bytes(segments()[0])), use_segment),
    "parquet": Target(changed_parquet(), use_parquet),
    "table": Target(changed_table(), use_table),
}


def try_out(name: str, data: bytes) -> None:
    """Decode something damaged: an error of the library is right, any other is not."""
    with suppress(DataShardError):
        TARGETS[name].use(data)


def rounds(name: str, examples: int, number: int, before: Callable[[str, bytes], None]) -> None:
    """Try so many examples of a target, all drawn from one number."""

    @seed(number)
    @settings(
        max_examples=examples,
        deadline=None,
        database=None,
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    @given(TARGETS[name].damaged)
    def one(data: bytes) -> None:
        before(name, data)
        try_out(name, data)

    one()


def main(seconds: float, number: int, under_way: Path) -> Iterator[str]:
    """Try all targets in turn until the time is over; yields what was done."""
    end, tried = time.monotonic() + seconds, dict.fromkeys(TARGETS, 0)

    def before(name: str, data: bytes) -> None:
        tried[name] += 1
        under_way.write_bytes(name.encode() + b"\n" + data)

    while time.monotonic() < end:
        for name in TARGETS:
            rounds(name, 20 if name == "table" else 200, number, before)
            if time.monotonic() > end:
                break
        number += 1
        yield f"seed {number}: {tried}"


if __name__ == "__main__":
    logging.disable()
    for line in main(float(sys.argv[1]), int(sys.argv[2]), Path(sys.argv[3])):
        print(line, flush=True)
