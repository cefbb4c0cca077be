"""The tables that scans are measured on: written straight by the core's encoders, as one commit each.

Reads one JSON object from its arguments: ``place`` (a folder, or a bucket of the benchmarks' server) and ``tables``,
and says when they are there. Beside each Iceberg table stands a Delta log that names the same data files.
"""

from __future__ import annotations

import datetime as dt
import json
import os
import struct
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pyarrow as pa
import pyarrow.compute as pc
from msgspec.structs import replace
from place import config_of

import datashard_core as ds
from datashard_core.commit.core.next_version import NewSnapshot, first_version, manifest_of, next_version
from datashard_core.commit.core.recorded_ids import LIBRARY_MADE
from datashard_core.format.manifests.manifest import ADDED, ManifestEntry, ManifestFile
from datashard_core.format.metadata.data_file import DataFile
from datashard_core.format.metadata.partition import PartitionField, PartitionSpec
from datashard_core.format.metadata.table_metadata import TableMetadata
from datashard_core.format.parquet.parquet import EncodedParquet, encode_parquet
from datashard_core.storage import open_storage
from datashard_core.storage.base import Storage

MANIFEST_FILES = 4000
SNAPSHOT = 4_000_000_000_000_000_001
UUID = "0e1d2c3b-0000-4000-8000-00000000beef"
_DELTA_TYPES = {"int": "integer", "timestamp": "timestamp_ntz"}


def rows_from(first: int, count: int) -> pa.Table:
    """Rows of a workflow log: run ids go up, the rest looks random and is the same in every run."""
    ids = pa.array(range(first, first + count), pa.int64())
    names = pa.array([f"task_{number:03}" for number in range(200)], pa.string())
    states = pc.if_else(pc.equal(_remainder(ids, 97), 0), "failed", "success")
    started = pc.add(pc.multiply(ids, 1_000_003), 1_760_000_000_000_000)
    chance = pc.random(count, initializer=first)
    columns = {
        "run_id": ids,
        "task": names.take(_remainder(pc.multiply(ids, 7919), 200)),
        "state": states,
        "started": started.cast(pa.timestamp("us")),
        "seconds": pc.multiply(pc.ln(pc.subtract(1.0, chance)), -10.0),
        "rows": pc.floor(pc.multiply(pc.random(count, initializer=first + 1), 100_000.0)).cast(pa.int64()),
    }
    return pa.table(columns)


def _remainder(numbers: pa.Array, by: int) -> pa.Array:
    return pc.subtract(numbers, pc.multiply(pc.divide(numbers, by), by))


@dataclass(frozen=True, slots=True)
class Made:
    """A data file: its bytes, its key, and what a manifest says of it."""

    data: Any
    key: str
    file: DataFile


class Place:
    """Where tables are written to.

    Args:
        place: ``folder``, or what :meth:`kit.store.Store.place` gives.
    """

    def __init__(self, place: dict[str, str]) -> None:
        if folder := place.get("folder"):
            self._folder: Path | None = Path(folder)
            self.root = f"file://{os.path.realpath(folder)}"
            return
        self._folder = None
        config = config_of(place)
        self._storage: Storage = open_storage(config)
        self.root = self._storage.root

    def write(self, key: str, data: Any) -> None:
        """Write an object, without the care that a real append takes."""
        if self._folder is None:
            self._storage.put(key, bytes(data))
            return
        path = self._folder / key
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)

    def again(self, key: str, data: Any, first: str) -> None:
        """Another object with the bytes of one that is there: on disk, a second name for it."""
        if self._folder is None:
            self.write(key, data)
        else:
            os.link(self._folder / first, self._folder / key)


def one_file(encoded: EncodedParquet, location: str, key: str, partition: dict[str, Any] | None = None) -> Made:
    """A data file under its key."""
    return Made(encoded.data, key, replace(encoded.data_file(f"{location}/{key}"), partition=partition or {}))


def distinct(schema: ds.Schema, location: str, files: int, rows: int) -> Iterator[Made]:
    """Files of different rows, with run ids that go up."""
    for number in range(files):
        encoded = encode_parquet(rows_from(number * rows, rows), schema)
        yield one_file(encoded, location, f"data/auto_{number:08}.parquet")


def partitioned(schema: ds.Schema, location: str, files: int, rows: int) -> Iterator[Made]:
    """One file for each value of the column ``day``."""
    for day in range(files):
        table = rows_from(day * rows, rows)
        table = table.append_column("day", pa.array([day] * rows, pa.int32()))
        yield one_file(encode_parquet(table, schema), location, f"data/day={day}/auto_{day:08}.parquet", {"day": day})


def repeated(schema: ds.Schema, location: str, files: int, rows: int) -> Iterator[Made]:
    """Many names for a few files."""
    few = [encode_parquet(rows_from(number * rows, rows), schema) for number in range(min(files, 4))]
    for number in range(files):
        yield one_file(few[number % len(few)], location, f"data/auto_{number:08}.parquet")


def described(schema: ds.Schema, location: str, files: int, rows: int) -> Iterator[Made]:
    """Files that are not there: planning does not open them."""
    encoded = encode_parquet(rows_from(0, rows), schema)
    pattern = encoded.data_file("")
    step, start = 1_000_003, 1_760_000_000_000_000
    for number in range(files):
        low, high = number * rows, number * rows + rows - 1
        bounds = {1: (low, high), 4: (start + low * step, start + high * step)}
        file = replace(
            pattern,
            file_path=f"{location}/data/auto_{number:08}.parquet",
            lower_bounds={**pattern.lower_bounds, **{key: struct.pack("<q", low) for key, (low, _) in bounds.items()}},
            upper_bounds={**pattern.upper_bounds, **{key: struct.pack("<q", up) for key, (_, up) in bounds.items()}},
        )
        yield Made(None, "", file)


KINDS: dict[str, Callable[[ds.Schema, str, int, int], Iterator[Made]]] = {
    "distinct": distinct,
    "partitioned": partitioned,
    "repeated": repeated,
    "described": described,
}


def make_table(place: Place, name: str, kind: str, files: int, rows: int) -> None:
    """Write a table of ``files`` data files with ``rows`` rows each."""
    by_day = kind == "partitioned"
    arrow = rows_from(0, 1).schema
    schema = ds.Schema.from_arrow(arrow.append(pa.field("day", pa.int32())) if by_day else arrow)
    location = f"{place.root}/{name}"
    spec = PartitionSpec(0, (PartitionField(7, 1000, "day", "identity"),) if by_day else ())
    entries: list[ManifestEntry] = []
    first_names: dict[int, str] = {}
    with ThreadPoolExecutor(8) as pool:
        for made in KINDS[kind](schema, location, files, rows):
            entries.append(ManifestEntry(ADDED, SNAPSHOT, None, None, made.file))
            if made.data is None:
                continue
            key = f"{name}/{made.key}"
            before = first_names.setdefault(id(made.data), key) if kind == "repeated" else key
            if before == key:
                place.write(key, made.data)
            else:
                pool.submit(place.again, key, made.data, before).result()
    write_version(place, name, schema, spec, entries)
    write_delta_log(place, name, schema, spec, [entry.data_file for entry in entries])


def write_version(
    place: Place, name: str, schema: ds.Schema, spec: PartitionSpec, entries: list[ManifestEntry]
) -> None:
    """Manifests, manifest list, two versions and the hint."""
    location = f"{place.root}/{name}"
    now = int(time.time() * 1000)
    body, data = first_version(
        version=0, table_uuid=UUID, location=location, schema=schema, properties={}, commit_id="0" * 32, now_ms=now
    )
    assert body.metadata is not None
    raw = json.loads(data)
    raw["partition-specs"], raw["last-partition-id"] = [spec.to_dict()], 999 + len(spec.fields)
    body = replace(body, metadata=TableMetadata(raw))
    place.write(f"{name}/metadata/v0.metadata.json", json.dumps(raw).encode())
    listed: list[ManifestFile] = []
    for number, start in enumerate(range(0, len(entries), MANIFEST_FILES)):
        part = entries[start : start + MANIFEST_FILES]
        manifest = manifest_of(f"{number:032x}", SNAPSHOT, part, schema, spec, _summaries(spec, part))
        place.write(f"{name}/{manifest.key}", manifest.data)
        listed.append(manifest.listed(location, 1))
    count = sum(entry.data_file.record_count for entry in entries)
    summary = {"operation": "append", "added-records": str(count), "total-records": str(count)}
    following = next_version(
        body,
        NewSnapshot(SNAPSHOT, tuple(listed), {**summary, "total-data-files": str(len(entries))}),
        commit_id="1" * 32,
        names={"2" * 32: LIBRARY_MADE},
        unique="f" * 32,
        now_ms=now,
    )
    place.write(f"{name}/{following.manifest_list_key}", following.manifest_list)
    place.write(f"{name}/metadata/v1.metadata.json", following.data)
    place.write(f"{name}/metadata/version-hint.text", b"1")


def _summaries(spec: PartitionSpec, entries: list[ManifestEntry]) -> tuple[dict[str, Any], ...]:
    if not spec.fields:
        return ()
    days = [entry.data_file.partition["day"] for entry in entries]
    low, high = struct.pack("<i", min(days)), struct.pack("<i", max(days))
    return ({"contains_null": False, "contains_nan": False, "lower_bound": low, "upper_bound": high},)


def write_delta_log(place: Place, name: str, schema: ds.Schema, spec: PartitionSpec, files: list[DataFile]) -> None:
    """A Delta log of one commit over the same data files, which says of them what deltalake's own writer says: the
    number of rows, and lowest and highest values and nulls of every column, as our manifests do.
    """
    fields = [
        {"name": one.name, "type": _DELTA_TYPES.get(str(one.type), str(one.type)), "nullable": True, "metadata": {}}
        for one in schema.fields
    ]
    features = ["timestampNtz"]
    lines: list[dict[str, Any]] = [
        {
            "protocol": {
                "minReaderVersion": 3,
                "minWriterVersion": 7,
                "readerFeatures": features,
                "writerFeatures": features,
            }
        },
        {
            "metaData": {
                "id": UUID,
                "format": {"provider": "parquet", "options": {}},
                "schemaString": json.dumps({"type": "struct", "fields": fields}),
                "partitionColumns": [field.name for field in spec.fields],
                "configuration": {},
                "createdTime": 0,
            }
        },
    ]
    location = f"{place.root}/{name}/"
    for file in files:
        told = [field for field in schema.fields if field.name not in file.partition]
        stats = {
            "numRecords": file.record_count,
            "minValues": {one.name: _delta_value(str(one.type), file.lower_bounds[one.field_id]) for one in told},
            "maxValues": {one.name: _delta_value(str(one.type), file.upper_bounds[one.field_id]) for one in told},
            "nullCount": {one.name: file.null_value_counts[one.field_id] for one in told},
        }
        lines.append(
            {
                "add": {
                    "path": file.file_path.removeprefix(location),
                    "size": file.file_size_in_bytes,
                    "partitionValues": {key: str(value) for key, value in file.partition.items()},
                    "modificationTime": 0,
                    "dataChange": True,
                    "stats": json.dumps(stats),
                }
            }
        )
    body = "\n".join(json.dumps(line) for line in lines).encode()
    place.write(f"{name}/_delta_log/00000000000000000000.json", body)


def _delta_value(kind: str, bound: bytes) -> Any:
    """A bound as deltalake's writer has it in its statistics."""
    if kind == "string":
        return bound.decode()
    value = struct.unpack({"double": "<d", "int": "<i"}.get(kind, "<q"), bound)[0]
    return str(dt.datetime(1970, 1, 1) + dt.timedelta(microseconds=value)) if kind == "timestamp" else value


def main() -> None:
    order = json.loads(sys.argv[1])
    place = Place(order["place"])
    for table in order["tables"]:
        make_table(place, **table)
    print(json.dumps({"root": place.root, "host": urlsplit(order["place"].get("endpoint", "")).netloc}), flush=True)


if __name__ == "__main__":
    main()
