"""Files of a few bytes that ask for gigabytes of memory, for a billion records, or for a stack without end.

``test_decoding.py`` runs each in a process of its own: ``python bombs.py NAME`` ends with 0 if it was refused as it
should be, and prints how many megabytes the process has held at most.
"""

from __future__ import annotations

import bz2
import hashlib
import io
import json
import lzma
import resource
import struct
import sys
import zlib
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

sys.path.insert(0, str(Path(__file__).parent))

import decoded

import datashard_core as ds
from datashard_core.commit.core import recorded_ids
from datashard_core.commit.core.version_file import parse_version
from datashard_core.commit.maintenance.rewrite_rows import TooLargeError, parts_of, rewrite
from datashard_core.commit.maintenance.small_files import CALLED_FOR
from datashard_core.commit.staging import body as staged_body
from datashard_core.errors import CorruptTableError, DataShardError
from datashard_core.format.manifests.manifest import decode_manifest, decode_manifest_list
from datashard_core.format.manifests.manifest_scan import Pruning, live_files
from datashard_core.storage.memory import MemoryStorage
from datashard_core.table.warehouse import Warehouse

WHERE = "s3://b/t/m.avro"
ZEROS = 2**30


def refused(decode: Callable[[], Any], kind: type[DataShardError], *words: str) -> None:
    """Assert that something is an error of the library with those words, and a message that can be read."""
    try:
        decode()
    except kind as error:
        assert all(word in str(error) for word in words), str(error)
        assert len(str(error)) < 2000
    else:
        raise AssertionError("it was decoded")


def as_avro(schema: Any, count: int, body: bytes, codec: str = "null") -> None:
    """Refuse a file of Avro as a manifest list, as a manifest, and in a scan."""
    data = decoded.avro_file(schema, [(count, body)], codec)
    assert len(data) < 2**22
    listed = decoded.listed(len(data), 0)
    refused(partial(decode_manifest_list, data, WHERE), CorruptTableError, WHERE)
    refused(lambda: decode_manifest(data, listed), CorruptTableError, WHERE)
    refused(lambda: live_files(data, listed, Pruning()), CorruptTableError, WHERE)


def record(*fields: Any, name: str = "r") -> dict[str, Any]:
    named = [{"name": f"f{place}", "type": kind} for place, kind in enumerate(fields)]
    return {"type": "record", "name": name, "fields": named}


def doubling() -> Any:
    """A record of two records of two records, thirty deep: each is defined once, and takes no bytes."""
    inside: Any = record("null", name="r0")
    for level in range(1, 30):
        inside = record(inside, f"r{level - 1}", name=f"r{level}")
    return record("long", inside)


def zeros(length: int = ZEROS) -> bytes:
    deflate, part = zlib.compressobj(wbits=-15), b"\0" * 2**20
    return b"".join(deflate.compress(part) for _ in range(length // 2**20)) + deflate.flush()


def deflated(which: str) -> None:
    valid = decoded.manifest_lists()[0] if which == "list" else decoded.manifests()[0]
    schema = decoded.opened(valid).schema
    data = decoded.avro_file(schema, [(2**26, zeros())], "null")
    data = data.replace(b"\x08null", b"\x0edeflate", 1)
    listed = decoded.listed(len(data), 0)
    refused(partial(decode_manifest_list, data, WHERE), CorruptTableError, WHERE)
    refused(lambda: decode_manifest(data, listed), CorruptTableError, WHERE)
    refused(lambda: live_files(data, listed, Pruning()), CorruptTableError, WHERE)


def other_codecs() -> None:
    schema, plain = decoded.opened(decoded.manifest_lists()[0]).schema, b"\0" * (2**26 + 2**24)
    for codec, body in (
        ("bzip2", bz2.compress(plain)),
        ("xz", lzma.compress(plain)),
        ("zstandard", bytes(pa.compress(plain, "zstd", asbytes=True))),
        ("snappy", bytes(pa.compress(plain, "snappy", asbytes=True)) + bytes(4)),
    ):
        data = decoded.avro_file(schema, [(10, body)], codec)
        refused(partial(decode_manifest_list, data, WHERE), CorruptTableError, WHERE)


def many_small_values() -> None:
    """Arrays with millions of items."""
    pairs = {"type": "array", "items": record("int", "long", name="pair")}
    as_avro(record(pairs), 1, decoded.varint(2**21) + bytes(2**22 + 1), "deflate")
    as_avro(
        record({"type": "array", "items": ["null", "long"]}), 1, decoded.varint(2**22) + bytes(2**22 + 1), "deflate"
    )


def staged(header: dict[str, Any], rows: bytes) -> bytes:
    head = {"format": 2, "table": decoded.UUID, "append-id": "a", "digest": "", "schema-id": 0, **header}
    told = json.dumps(head).encode()
    content = struct.pack("<I", len(told)) + told + rows
    return b"DSstaged" + hashlib.blake2b(content, digest_size=16).digest() + content


def decode_staged(data: bytes) -> Any:
    return staged_body.decode_body(data, decoded.NAME, decoded.UUID, [decoded.SCHEMA])


def arrow_stream(count: int, rows: int, kind: Any) -> bytes:
    part = pa.table({"n": pa.array([0] * rows, pa.int8()).cast(kind)})
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, part.schema, options=pa.ipc.IpcWriteOptions(compression="zstd")) as writer:
        for _ in range(count):
            writer.write_table(part)
    return bytes(sink.getvalue())


def arrow_bodies() -> None:
    data = arrow_stream(300, 2**20, pa.int64())
    assert len(data) < 2**18
    refused(lambda: decode_staged(staged({}, data)), staged_body.UnreadableBodyError, "staged body")
    # The length that a buffer will have, changed to 2^40.
    lies = arrow_stream(1, 1000, pa.int64()).replace(struct.pack("<q", 8000), struct.pack("<q", 2**40))
    refused(lambda: decode_staged(staged({}, lies)), staged_body.UnreadableBodyError, "staged body")


def plain_bodies() -> None:
    for count in (10**12, 2**40, 10**6, -1, 1.5, True, "2"):
        refused(
            lambda count=count: decode_staged(staged({"plain-rows": count}, b"\x80")), staged_body.UnreadableBodyError
        )
    for rows in (
        b"\x81\x01\xdd\xff\xff\xff\xff",
        b"\x81\x01" + b"\x91" * 10**6,
        b"\xdf\xff\xff\xff\xff",
        b"\xc6\xff\xff\xff\xff",
    ):
        refused(lambda rows=rows: decode_staged(staged({"plain-rows": 1}, rows)), staged_body.UnreadableBodyError)
    deep = b"[" * 10**6 + b"]" * 10**6
    content = struct.pack("<I", len(deep)) + deep
    data = b"DSstaged" + hashlib.blake2b(content, digest_size=16).digest() + content
    refused(lambda: decode_staged(data), staged_body.UnreadableBodyError)


def many_rows() -> bytes:
    """A file of 200 million rows in some kilobytes."""
    sink, part = io.BytesIO(), pa.table({"n": pa.array([7] * 10**6, pa.int64())})
    with pq.ParquetWriter(sink, part.schema, compression="zstd") as writer:
        for _ in range(200):
            writer.write_table(part)
    return sink.getvalue()


def compaction() -> None:
    """The row count of the footer is looked at before a row is decoded; a file with a true one is left as it is."""
    schema = ds.Schema(fields=[{"id": 1, "name": "n", "type": "long"}])
    storage = MemoryStorage()
    table = Warehouse(storage).create_table("t", schema)
    for number in range(2):
        table.append([{"n": number}])
    big = many_rows()
    file = decoded.DataFile("memory://store/t/data/x.parquet", 10, len(big))

    def read(**changes: int) -> int:
        told = decoded.replace(file, **changes)
        return sum(part.num_rows for part in parts_of(big, told, schema, told.file_path, 256 * 2**20))

    refused(read, CorruptTableError, "holds 200000000 rows", "says 10", "x.parquet")
    refused(lambda: read(record_count=2 * 10**8), TooLargeError, "x.parquet", "decoded")
    refused(lambda: read(file_size_in_bytes=9), CorruptTableError, "9", "x.parquet")


def with_text(rows: int, text: str) -> bytes:
    """A file of one text in each row, which a dictionary holds once."""
    sink = io.BytesIO()
    texts = pa.DictionaryArray.from_arrays(pa.array([0] * rows, pa.int32()), pa.array([text]))
    pq.write_table(pa.table({"s": texts}), sink, store_schema=False, compression="zstd")
    return sink.getvalue()


TEXTS = ds.Schema(fields=[{"id": 1, "name": "s", "type": "string"}])


def long_texts() -> None:
    """One text of a megabyte, in each of 100,000 rows."""
    data = with_text(10**5, "x" * 2**20)
    assert len(data) < 2**21
    file = decoded.DataFile("memory://store/t/data/y.parquet", 10**5, len(data))
    parts = parts_of(data, file, TEXTS, "y.parquet", 2**30)
    refused(lambda: sum(part.num_rows for part in parts), TooLargeError, "y.parquet", "decoded")


def many_texts() -> None:
    """Logs that compress well are compacted: more bytes of rows than there may be of memory."""
    data = with_text(6 * 10**5, "x" * 1000)
    assert len(data) < 2**16
    files = [decoded.DataFile(f"memory://store/t/data/{name}.parquet", 6 * 10**5, len(data)) for name in "ab"]
    done = rewrite([(file, data) for file in files], TEXTS, "t", CALLED_FOR.decoded)
    assert (done.files, done.left_out, done.encoded.record_count) == (tuple(files), frozenset(), 12 * 10**5)
    read = pq.ParquetFile(pa.BufferReader(done.encoded.data))
    assert read.metadata.num_rows == 12 * 10**5
    assert all(set(batch.column("s").to_pylist()) == {"x" * 1000} for batch in read.iter_batches(10**5))


def nested_values() -> None:
    """Items of one byte that are records of a thousand nulls, within a record."""
    nulls = {"type": "record", "name": "nulls", "fields": [{"name": f"n{i}", "type": "null"} for i in range(1000)]}
    items = {"type": "array", "items": record("long", nulls, name="item")}
    as_avro(record(items), 1, decoded.varint(10**5) + bytes(10**5 + 1), "deflate")


def json_of_many_values() -> None:
    """Two bytes of JSON are an object of a hundred bytes."""
    for data in (b'{"a":[' + b"[]," * 2**23 + b"[]]}", b'{"a":[' + b'{"a":1},' * 2**23 + b"1]}"):
        refused(partial(parse_version, data, 5, decoded.WHERE), CorruptTableError, decoded.WHERE, "values")


def version_numbers() -> None:
    """Versions that no table has are looked for by nobody, and their history is not made up."""
    for number in (10**20, "9" * 5000):
        storage = MemoryStorage()
        table = Warehouse(storage).create_table("t", decoded.SCHEMA)
        body = storage.get("t/metadata/v0.metadata.json").body
        storage.put("t/metadata/version-hint.text", str(number).encode())
        storage.put(f"t/metadata/v{str(number)[:21]}.metadata.json", body)
        found = Warehouse(storage).load_table("t")
        assert found.version == 0
        assert found.append([{"n": 1}], append_id="a", timeout=10).version == 1
        assert table.refresh().version == 1
    # A version that a table could have, and none before it: an error, at once.
    storage = MemoryStorage()
    Warehouse(storage).create_table("t", decoded.SCHEMA)
    raw = json.loads(storage.get("t/metadata/v0.metadata.json").body)
    for told in ({}, {"version": 10**12, "since": 0}, {"version": 10**12, "since": 10**12}):
        made = json.loads(raw["properties"][recorded_ids.PROPERTY])
        raw["properties"][recorded_ids.PROPERTY] = json.dumps({**made, **told, "names": {}})
        storage.put("t/metadata/version-hint.text", b"1000000000000")
        storage.put("t/metadata/v1000000000000.metadata.json", json.dumps(raw).encode())
        refused(
            lambda storage=storage: Warehouse(storage).load_table("t").append([{"n": 1}], append_id="a", timeout=10),
            DataShardError,
        )
        refused(lambda storage=storage: Warehouse(storage).load_table("t").maintain(), DataShardError)


def deep_json() -> None:
    for data in (b"[" * 10**6 + b"]" * 10**6, b'{"a":' * 10**6, b'{"a":' * 900 + b"1" + b"}" * 900, b"9" * 5000):
        refused(partial(parse_version, data, 5, decoded.WHERE), CorruptTableError, decoded.WHERE)
    schema: Any = "long"
    for level in range(90):
        schema = {"type": "list", "element-id": level + 2, "element-required": False, "element": schema}
    raw = {**decoded.metadata()}
    raw["schemas"] = [{"schema-id": 0, "fields": [{"id": 1, "name": "l", "required": False, "type": schema}]}]
    found = parse_version(json.dumps(raw).encode(), 5, decoded.WHERE)
    refused(lambda: found.table.schema, CorruptTableError, decoded.WHERE, "64 types")
    fields = [
        {"id": number + 1, "name": f"c{number}", "required": False, "type": "long"} for number in range(10**5 + 1)
    ]
    raw["schemas"] = [{"schema-id": 0, "fields": fields}]
    wide = parse_version(json.dumps(raw).encode(), 5, decoded.WHERE)
    refused(lambda: wide.table.schema, CorruptTableError, decoded.WHERE, "100000 fields")


def _most_memory() -> int:
    """MB of memory that this program had at most.

    ru_maxrss also has what the process had that started it, as a test that appends gigabytes leaves them behind.
    """
    status = Path("/proc/self/status")
    if status.exists():
        return int(status.read_text().partition("VmHWM:")[2].split()[0]) // 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024


def long_entry() -> None:
    """A record from which a pattern of megabytes would be made."""
    many = dict.fromkeys(range(26_000), 1)
    file = decoded.replace(decoded.entries()[0].data_file, partition={}, value_counts=many, column_sizes=many)
    entry = decoded.replace(decoded.entries()[0], data_file=file)
    data = decoded.encode_manifest([entry] * 3, schema=decoded.SCHEMA, spec=decoded.SPECS[0])
    assert len(live_files(data, decoded.listed(len(data), 0), Pruning())) == 3
    assert len(decode_manifest(data, decoded.listed(len(data), 0))) == 3


BOMBS: dict[str, Callable[[], None]] = {
    "a schema within itself": lambda: as_avro(record("r"), 1, b"\0"),
    "a schema within itself, in a namespace": lambda: as_avro(
        {**record(["null", "r"]), "name": "a.r"}, 1, b"\2" * 10**6, "deflate"
    ),
    "a schema that doubles": lambda: as_avro(doubling(), 1, b"\0"),
    "an array of nothing": lambda: as_avro(
        record({"type": "array", "items": "null"}), 1, decoded.varint(10**9) + b"\0"
    ),
    "records of nothing": lambda: as_avro(record("null"), 10**9, b""),
    "values of a terabyte": lambda: as_avro(record({"type": "fixed", "name": "f", "size": 2**40}), 1, b"\0"),
    "zeros in a manifest list": lambda: deflated("list"),
    "zeros in a manifest": lambda: deflated("manifest"),
    "zeros that are compressed otherwise": other_codecs,
    "many small values": many_small_values,
    "an entry with a long pattern": long_entry,
    "Arrow bodies": arrow_bodies,
    "plain bodies": plain_bodies,
    # In two processes: Arrow's allocator gives back what the first file took only after a while.
    "compaction of many rows": compaction,
    "compaction of long texts": long_texts,
    "compaction of many texts": many_texts,
    "values within values": nested_values,
    "JSON of many values": json_of_many_values,
    "version numbers": version_numbers,
    "deep JSON": deep_json,
}

if __name__ == "__main__":
    BOMBS[sys.argv[1]]()
    print(_most_memory())
