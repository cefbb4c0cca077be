"""What is decoded is bounded, and what cannot be decoded is an error of the library that names the file.

The bombs run in a process of their own: what they did before was to end it, or to take all memory.
"""

from __future__ import annotations

import io
import json
import subprocess
import sys
import zlib
from pathlib import Path
from typing import Any

import fastavro
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from msgspec.structs import replace

import datashard_core as ds
from datashard_core import col
from datashard_core.commit import names as names_module
from datashard_core.commit import nodes
from datashard_core.commit.history import Named
from datashard_core.commit.settings import check_settings, settings_of
from datashard_core.commit.small_files import TooLargeError, rows_of
from datashard_core.commit.version import hinted_version, parse_version
from datashard_core.errors import ConfigurationError, CorruptTableError, DataShardError, UnsupportedTableError
from datashard_core.format import avro
from datashard_core.format.avro_reader import Room
from datashard_core.format.avro_schema import checked_schema
from datashard_core.format.binding import bind
from datashard_core.format.json_text import MAX_BYTES, decode_object, whole_number
from datashard_core.format.manifest import decode_manifest, decode_manifest_list, encode_manifest
from datashard_core.format.manifest_scan import Pruning, indexed_files, live_files
from datashard_core.format.partition import PartitionField, PartitionSpec
from datashard_core.format.partition_summary import united
from datashard_core.format.schema import Schema
from datashard_core.format.transforms import Transform, parse_transform
from datashard_core.format.types import MAX_DEPTH, PrimitiveType
from datashard_core.storage.memory import MemoryStorage
from datashard_core.table.warehouse import Warehouse

sys.path.insert(0, str(Path(__file__).parent))
try:
    import decoded
finally:
    sys.path.pop(0)

MOST_MEGABYTES = 800
WHERE = "s3://b/t/metadata/x"


@pytest.mark.parametrize("target", decoded.TARGETS)
def test_damage_is_an_error_of_the_library(target: str) -> None:
    """A slice of what the system tier tries for ten minutes; always the same one."""
    decoded.rounds(target, 6 if target == "table" else 60, 20, lambda name, data: None)


# What a few bytes can ask for


def bomb(name: str) -> None:
    """Decode something that asks for gigabytes, or for a stack without end. Runs in a process of its own."""
    manifest_list = decoded.opened(decoded.manifest_lists()[0])
    manifest = decoded.opened(decoded.manifests()[0])
    recursive = {"type": "record", "name": "r", "fields": [{"name": "r", "type": "r"}]}
    by_namespace = {"type": "record", "name": "a.r", "fields": [{"name": "r", "type": ["null", "r"]}]}
    doubling: Any = "long"
    for level in range(40):
        fields = [{"name": "a", "type": doubling}, {"name": "b", "type": f"r{level}"}]
        doubling = {"type": "record", "name": f"r{level + 1}", "fields": fields if level else fields[:1]}
    nulls = {"type": "record", "name": "r", "fields": [{"name": "a", "type": {"type": "array", "items": "null"}}]}
    empty = {"type": "record", "name": "r", "fields": [{"name": "a", "type": "null"}]}
    zeros = b"\0" * 2**30 if name.startswith("zeros") else b""
    files = {
        "recursion": (recursive, [(1, b"\0")], "null"),
        "recursion through a union": (by_namespace, [(1, b"\2" * 10**6)], "deflate"),
        "doubling": (doubling, [(1, b"\0")], "null"),
        "array of nothing": (nulls, [(1, decoded.varint(10**9) + b"\0")], "null"),
        "records of nothing": (empty, [(10**9, b"")], "null"),
        "zeros in a list": (manifest_list.schema, [(2**26, zeros)], "deflate"),
        "zeros in a manifest": (manifest.schema, [(2**26, zeros)], "deflate"),
        "many entries": (manifest_list.schema, [(2 * 10**6, manifest_list.body[:60] * 10**6)], "deflate"),
    }
    if name in files:
        data = decoded.avro_file(*files[name])
        assert len(data) < 2**22
        for use in (decoded.use_manifest_list, decoded.use_manifest):
            decoded_or_not(use, data)
        assert_corrupt(lambda: decode_manifest_list(data, WHERE))
        assert_corrupt(lambda: decode_manifest(data, decoded.listed(len(data), 0)))
        assert_corrupt(lambda: live_files(data, decoded.listed(len(data), 0), Pruning()))
    elif name == "compressed otherwise":
        for codec, body in codecs(b"\0" * 2**28):
            data = decoded.avro_file(manifest_list.schema, [(10, body)], "null").replace(b"\x08null", b"")
            data = decoded_with_codec(manifest_list.schema, codec, 10, body)
            assert_corrupt(lambda data=data: decode_manifest_list(data, WHERE))
    elif name == "arrow body":
        rows = pa.table({"n": pa.array([0] * 2**28, pa.int64())})
        sink = pa.BufferOutputStream()
        with pa.ipc.new_stream(sink, rows.schema, options=pa.ipc.IpcWriteOptions(compression="zstd")) as writer:
            for _ in range(4):
                writer.write_table(rows)
        print(f"peak {0}", end="")
        raise SystemExit(arrow_body(bytes(sink.getvalue())))


def decoded_or_not(use: Any, data: bytes) -> None:
    try:
        use(data)
    except DataShardError:
        return


def assert_corrupt(decode: Any) -> None:
    try:
        decode()
    except CorruptTableError as error:
        assert "s3://b/t/" in str(error)
        assert len(str(error)) < 1000
        return
    raise AssertionError("it was decoded")
