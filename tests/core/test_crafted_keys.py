"""A crafted table leads nobody out of its folder: not its metadata, not its manifests, not what lies in its folders."""

from __future__ import annotations

import io
import json
import logging
import os
import time
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import fastavro
import pytest

import datashard_core as ds
from datashard_core.commit.core.paths import delete, key_of
from datashard_core.commit.core.version_file import version_key
from datashard_core.commit.versions import metadata_expiry
from datashard_core.errors import DataShardError, UnsupportedTableError
from datashard_core.storage.base import ObjectInfo, Storage, StoredObject, Version
from datashard_core.storage.cache import immutable, small_files
from datashard_core.storage.keys import InvalidKeyError, checked_key, fault_of
from datashard_core.storage.local import LocalStorage
from datashard_core.storage.memory import MemoryStorage
from datashard_core.storage.s3 import S3Storage
from datashard_core.storage.s3_boto import BotoTransport
from datashard_core.storage.transport import Page
from datashard_core.table.table import Table
from datashard_core.table.warehouse import Warehouse

SCHEMA = ds.Schema(fields=[{"id": 1, "name": "n", "type": "long"}])
DAY = 24 * 3600.0
HOUR = timedelta(hours=1)
SECRET = 99
FEW = {
    "datashard.snapshots.max-count": "2",
    "history.expire.min-snapshots-to-keep": "1",
    "write.metadata.previous-versions-max": "2",
}


class Raw:
    """A store behind its storage: every key that it can hold, also those that no storage lets through."""

    def __init__(self, storage: Storage) -> None:
        self._storage = storage

    def put(self, key: str, body: bytes) -> None:
        """Put an object under a key below the storage's root, as the store itself takes it."""
        storage = self._storage
        if isinstance(storage, MemoryStorage):
            storage._objects[storage._base + key] = StoredObject(body, Version("planted"), time.time())
        elif isinstance(storage, LocalStorage):
            path = os.path.normpath(f"{storage._folder}/{key}")
            os.makedirs(os.path.dirname(path), exist_ok=True)
            Path(path).write_bytes(body)
        else:
            assert isinstance(storage, S3Storage)
            self._client.put_object(Bucket=storage.config.bucket, Key=storage._base + key, Body=body)

    def bodies(self) -> dict[str, bytes]:
        """Everything in the whole store: in memory, below the folder above the storage's, in the bucket."""
        storage = self._storage
        if isinstance(storage, MemoryStorage):
            return {key: found.body for key, found in storage._objects.items()}
        if isinstance(storage, LocalStorage):
            above = Path(storage._top).parent
            return {str(path): path.read_bytes() for path in above.rglob("*") if path.is_file()}
        assert isinstance(storage, S3Storage)
        bucket = storage.config.bucket
        pages = self._client.get_paginator("list_objects_v2").paginate(Bucket=bucket)
        keys = [found["Key"] for page in pages for found in page.get("Contents", ())]
        return {key: self._client.get_object(Bucket=bucket, Key=key)["Body"].read() for key in keys}

    @property
    def _client(self) -> Any:
        assert isinstance(self._storage, S3Storage)
        return BotoTransport(self._storage._clients)._client


@pytest.fixture
def raw(any_storage: Storage) -> Raw:
    return Raw(any_storage)


def _avro(body: bytes, change: Callable[[dict[str, Any]], None]) -> bytes:
    """An Avro file with each of its records changed."""
    reader = fastavro.reader(io.BytesIO(body))
    records: list[Any] = list(reader)
    for record in records:
        change(record)
    out = io.BytesIO()
    header = {key: text for key, text in reader.metadata.items() if not key.startswith("avro.")}
    assert reader.writer_schema is not None
    fastavro.writer(out, reader.writer_schema, records, codec="deflate", metadata=header)
    return out.getvalue()


def _of_table(table: Table) -> tuple[str, str, str]:
    """Keys of a table's manifest list, of a manifest, and of a data file."""
    snapshot = table.current_snapshot()
    assert snapshot is not None
    own = len(table.uri) + 1
    list_key = snapshot.manifest_list[own:]
    manifest = next(iter(fastavro.reader(io.BytesIO(table._storage.get(list_key).body))))["manifest_path"][own:]
    entry: Any = next(iter(fastavro.reader(io.BytesIO(table._storage.get(manifest).body))))
    return list_key, manifest, entry["data_file"]["file_path"][own:]


def _craft(table: Table, level: str, uri: str) -> None:
    """Make the newest version of a table name a URI as its manifest list, as a manifest or as a data file."""
    storage = table._storage
    list_key, manifest_key, _ = _of_table(table)
    if level == "data file":
        body = _avro(storage.get(manifest_key).body, lambda one: one["data_file"].update(file_path=uri))
        storage.put("metadata/manifests/crafted.avro", body)
        uri, level = f"{table.uri}/metadata/manifests/crafted.avro", "manifest"
        size = len(body)
    else:
        size = None

    def lead(one: dict[str, Any]) -> None:
        one["manifest_path"] = uri
        if size is not None:
            one["manifest_length"] = size

    if level == "manifest":
        storage.put("metadata/manifests/crafted_list.avro", _avro(storage.get(list_key).body, lead))
        uri = f"{table.uri}/metadata/manifests/crafted_list.avro"
    key = version_key(table.version)
    metadata = json.loads(storage.get(key).body)
    for snapshot in metadata["snapshots"]:
        if snapshot["snapshot-id"] == metadata["current-snapshot-id"]:
            snapshot["manifest-list"] = uri
    storage.put(key, json.dumps(metadata).encode())
    immutable.clear()
    small_files.clear()


OPERATIONS: dict[str, Callable[[Warehouse], object]] = {
    "scan": lambda lake: lake.load_table("t").scan().to_records(),
    "count": lambda lake: lake.load_table("t").count(),
    "changes": lambda lake: lake.load_table("t").changes(0).to_records(),
    "compact": lambda lake: lake.load_table("t").compact(),
    "flush": lambda lake: lake.load_table("t").flush(),
    "remove_orphans": lambda lake: lake.load_table("t").remove_orphans(HOUR),
    "maintain": lambda lake: lake.load_table("t").maintain(HOUR),
    "append": lambda lake: lake.load_table("t").append([{"n": 7}]),
    "maintain after the append": lambda lake: lake.load_table("t").maintain(HOUR),
}


@pytest.mark.parametrize(
    ("level", "way"),
    [
        ("manifest list", "/metadata/../../v/"),
        ("manifest", "/../../v/"),
        ("data file", "/data/%2e%2e/../../v/"),
    ],
)
def test_crafted_metadata_leads_nobody_outside(
    any_storage: Storage, raw: Raw, time_passes: Callable[[float], None], level: str, way: str
) -> None:
    lake = Warehouse(any_storage)
    victim = lake.create_table("v", SCHEMA)
    victim.append([{"n": SECRET}])
    stolen = dict(zip(("manifest list", "manifest", "data file"), _of_table(victim), strict=True))[level]
    table = lake.create_table("t", SCHEMA, properties=FEW)
    for number in range(3):
        table.append([{"n": number}])
    uri = f"{table.uri}{way}{stolen}"
    # A store that takes ".." for a name holds it there, one that resolves it (or a disk) in the other table.
    raw.put(f"t{way}{stolen}", victim._storage.get(stolen).body)
    before = {key: body for key, body in raw.bodies().items() if f"t{way}" in key or "/v/" in f"/{key}"}
    assert len(before) >= 3
    _craft(table, level, uri)
    time_passes(9 * DAY)
    answers: dict[str, object] = {}
    for name, operation in OPERATIONS.items():
        try:
            answers[name] = operation(lake)
        except DataShardError as error:
            answers[name] = error
    assert isinstance(answers["scan"], UnsupportedTableError)
    assert uri in str(answers["scan"])
    assert isinstance(answers["remove_orphans"], UnsupportedTableError)
    assert "othing" in str(answers["remove_orphans"])
    for name in ("scan", "changes"):
        rows: Any = answers[name]
        assert isinstance(rows, DataShardError) or SECRET not in [row["n"] for row in rows], name
    after = raw.bodies()
    assert {key: after.get(key) for key in before} == before
    lake.drop_table("t", purge=True)
    after = raw.bodies()
    assert {key: after.get(key) for key in before} == before
    assert lake.load_table("v").scan().to_records() == [{"n": SECRET}]


def test_a_location_elsewhere_leads_nobody_there(
    any_storage: Storage, raw: Raw, time_passes: Callable[[float], None]
) -> None:
    """In another bucket, where the store has buckets: the whole metadata names a table there."""
    elsewhere = any_storage.at("elsewhere")
    if isinstance(any_storage, S3Storage):
        from msgspec.structs import replace

        bucket = f"other-{os.urandom(4).hex()}"
        raw._client.create_bucket(Bucket=bucket)
        elsewhere = S3Storage(replace(any_storage.config, bucket=bucket))
    victim = Warehouse(elsewhere).create_table("v", SCHEMA)
    victim.append([{"n": SECRET}])
    before = Raw(elsewhere).bodies() if isinstance(elsewhere, S3Storage) else None
    table = Warehouse(any_storage).create_table("t", SCHEMA, properties=FEW)
    table.append([{"n": 1}])
    table._storage.put(version_key(1), victim._storage.get(version_key(1)).body)
    immutable.clear()
    time_passes(9 * DAY)
    lake = Warehouse(any_storage)
    for name, operation in OPERATIONS.items():
        try:
            answer: Any = operation(lake)
        except DataShardError:
            continue
        assert name not in ("scan", "changes", "count"), answer
    lake.drop_table("t", purge=True)
    if before is not None:
        assert Raw(elsewhere).bodies() == before
    assert Warehouse(elsewhere).load_table("v").scan().to_records() == [{"n": SECRET}]


def test_an_old_version_that_names_files_elsewhere_makes_nobody_delete_them(
    any_storage: Storage, raw: Raw, time_passes: Callable[[float], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(metadata_expiry, "KEPT", 8)
    lake = Warehouse(any_storage)
    victim = lake.create_table("v", SCHEMA)
    victim.append([{"n": SECRET}])
    list_key, manifest_key, _ = _of_table(victim)
    table = lake.create_table("t", SCHEMA, properties=FEW)
    for number in range(1, 26):
        table.append([{"n": number}])
    table.refresh()
    for stolen in (list_key, manifest_key):
        raw.put(f"t/metadata/../../v/{stolen}", victim._storage.get(stolen).body)
    for version in range(1, 16):
        metadata = json.loads(table._storage.get(version_key(version)).body)
        for snapshot in metadata["snapshots"]:
            snapshot["manifest-list"] = f"{table.uri}/metadata/../../v/{list_key}"
        table._storage.put(version_key(version), json.dumps(metadata).encode())
    before = {key: body for key, body in raw.bodies().items() if "/v/" in f"/{key}"}
    time_passes(9 * DAY)
    Warehouse(any_storage).load_table("t").maintain(HOUR)
    after = raw.bodies()
    assert {key: after.get(key) for key in before} == before
    assert lake.load_table("t").count() == 25


PLANTED = (
    "data/../planted.parquet",
    "data//planted.parquet",
    "data/./planted.parquet",
    "data/%2e%2e/planted.parquet",
    "data/pl\tanted.parquet",
    "data/plan\\ted.parquet",
    "metadata/manifests/../planted.avro",
    "metadata/manifests//planted.avro",
    "_datashard/staged/../planted",
    "_datashard/staged//planted",
    "_datashard/ids/../planted",
)


def test_planted_names_stop_nothing_and_are_never_deleted(
    any_storage: Storage, raw: Raw, time_passes: Callable[[float], None], caplog: pytest.LogCaptureFixture
) -> None:
    on_disk = isinstance(any_storage, LocalStorage)
    lake = Warehouse(any_storage)
    table = lake.create_table("t", SCHEMA, properties=FEW)
    table.append([{"n": 0}])
    planted = [key for key in PLANTED if not on_disk or os.path.normpath(key) == key]
    for key in planted:
        raw.put(f"t/{key}", b"planted")
    before = {key: body for key, body in raw.bodies().items() if body == b"planted"}
    assert len(before) >= len(planted) > 1
    time_passes(9 * DAY)
    table.append([{"n": 1}])
    table.append([{"n": 2}], commit="deferred")
    assert table.flush().count() == 3
    lake.load_table("t").maintain(HOUR)
    assert lake.list_tables() == ["t"]
    assert lake.load_table("t").scan().to_records() == [{"n": 0}, {"n": 1}, {"n": 2}]
    caplog.clear()
    with caplog.at_level(logging.WARNING, "datashard_core"):
        lake.drop_table("t", purge=True)
    told = " ".join(record.getMessage() for record in caplog.records)
    assert "planted" in told
    assert "left alone" in told
    after = raw.bodies()
    assert all(after.get(key) == body for key, body in before.items())


@pytest.mark.parametrize("transport", ["boto3", "obstore"])
def test_a_gateway_that_lists_what_was_not_asked_for(
    s3_config: Any, monkeypatch: pytest.MonkeyPatch, transport: str
) -> None:
    from msgspec.structs import replace

    storage = S3Storage(replace(s3_config, transport=transport))
    lake = Warehouse(storage)
    victim = lake.create_table("v", SCHEMA)
    victim.append([{"n": SECRET}])
    table = lake.create_table("t", SCHEMA)
    table.append([{"n": 1}])
    theirs = [replace(one, key=f"{storage._base}v/{one.key}", last_modified=0.0) for one in victim._storage.list("")]
    other = [replace(one, key=f"other/{one.key}") for one in theirs]
    real = storage._clients.transport.page
    monkeypatch.setattr(
        storage._clients.transport,
        "page",
        lambda prefix, after: Page([*real(prefix, after).objects, *theirs, *other], None),
    )
    asked = [info.key for info in table._storage.list("")]
    assert asked
    assert all(key.startswith(("data/", "metadata/")) for key in asked)
    lake.drop_table("t", purge=True)
    monkeypatch.undo()
    assert lake.load_table("v").scan().to_records() == [{"n": SECRET}]


def test_a_listing_that_does_not_advance_ends(s3_config: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    storage = S3Storage(s3_config)
    storage.put("data/a", b"")
    info = ObjectInfo(f"{storage._base}data/a", 0, Version(""), 0.0)
    monkeypatch.setattr(storage._clients.transport, "page", lambda prefix, after: Page([info], info.key))
    with pytest.raises(ds.StorageError, match="does not advance"):
        list(storage.list("data/"))


TABLE = "s3://b/w/t"


@pytest.mark.parametrize(
    "uri",
    [
        f"{TABLE}/../v/data/x.parquet",
        f"{TABLE}/data/../../v/x.parquet",
        f"{TABLE}/data/..",
        f"{TABLE}/data/./x",
        f"{TABLE}//data/x",
        f"{TABLE}/data//x",
        f"{TABLE}/data/x/",
        f"{TABLE}/",
        f"{TABLE}/data/%2e%2e/%2E%2E/x",
        f"{TABLE}/data/.%2e/x",
        f"{TABLE}/data/x\0",
        f"{TABLE}/data/x\n",
        f"{TABLE}/data\\..\\x",
        f"{TABLE}/data/\ud800",
        f"{TABLE}/data/{'x' * 1024}",
        "s3a://b/w/t/../v/x",
        "s3a://b/w/t/data/x/",
        "S3://b/w/t//x",
        "s3://b/w/t2/data/x",
        "s3://other/w/t/data/x",
        "s3://b/w/t",
        "s3://b/w",
        "s3://b/w/t?versionId=1",
        "s3://b/w/t#x",
        "s3://b/w/t%2Fdata/x",
        "",
        "/",
        "..",
        "data/x",
        "http://b/w/t/data/x",
    ],
)
@pytest.mark.parametrize("location", [TABLE, f"{TABLE}/", "s3a://b/w/t"])
def test_what_is_not_in_the_folder_has_no_key(uri: str, location: str) -> None:
    try:
        key = key_of(uri, location, TABLE)
    except UnsupportedTableError as error:
        assert TABLE in str(error)
        assert repr(uri) in str(error)
    else:
        if uri.removeprefix(location) == "/data/x":
            assert key == "data/x", "the location is written with a slash at its end"
            return
        pytest.fail(f"{uri!r} in {location!r} has the key {key!r}")


@pytest.mark.parametrize(
    ("uri", "key"),
    [
        ("file:///w/t/data/%2e%2e/%2e%2e/v/x", None),
        ("file:/w/t/%2e%2e/v/x", None),
        ("file:///w/t/data%2F..%2F..%2Fv", "data%2F..%2F..%2Fv"),
        ("file:///w/t/data/%252e%252e/x", "data/%252e%252e/x"),
        ("file:///w/%74/data/x", "data/x"),
        ("file:///w/%74/..%2Fv/x", None),
        ("file:///w/%74/data%00", None),
        ("/w/t/../v/x", None),
        ("file:///w/t/data/text=a%2Fb/f", "data/text=a%2Fb/f"),
        ("file:///w/t/data/text=..%2F..%2Fb/f", "data/text=..%2F..%2Fb/f"),
        ("file:///w/t/data/x?a=b#c", "data/x?a=b#c"),
    ],
)
def test_percent_signs_of_local_uris(uri: str, key: str | None) -> None:
    if key is not None:
        assert key_of(uri, "file:///w/t", "file:///w/t") == key
        return
    with pytest.raises(UnsupportedTableError, match="file:///w/t"):
        key_of(uri, "file:///w/t", "file:///w/t")


@pytest.mark.parametrize("location", ["s3://b/w/t/../v", "s3://b/..", "", "/", "s3://", "s3://b/w", ".."])
def test_a_crafted_location_gives_no_key_outside(location: str) -> None:
    for uri in (f"{location}/data/x", f"{location}/../data/x", "s3://b/w/v/data/x", "s3://b/w/t/data/x"):
        try:
            key = key_of(uri, location, TABLE)
        except UnsupportedTableError:
            continue
        assert fault_of(key) is None, f"{uri!r} below {location!r}"


def test_only_the_tables_own_folders_are_deleted_in() -> None:
    assert delete(["data/a", "metadata/manifests/m.avro", "_datashard/ids/1"], TABLE).keys == (
        "data/a",
        "metadata/manifests/m.avro",
        "_datashard/ids/1",
    )
    for key in ("v/data/a", "data", "datax/a", "_namespace.json", "metadata.json"):
        with pytest.raises(UnsupportedTableError, match=f"{TABLE}/{key}"):
            delete(["data/a", key], TABLE)
    with pytest.raises(InvalidKeyError):
        delete(["data/a", "data/../../v/a"], TABLE)


def test_a_key_that_is_refused_is_named_with_its_table() -> None:
    with pytest.raises(
        InvalidKeyError, match=r"'data/\.\./x' cannot be the key of an object below s3://b/w/t"
    ) as caught:
        checked_key("data/../x", TABLE)
    assert caught.value.key == "data/../x"
    assert checked_key("data/größe=1 2/x.parquet", TABLE) == "data/größe=1 2/x.parquet"


def test_a_part_that_is_too_long_for_a_disk_is_named(tmp_path: Path) -> None:
    storage = LocalStorage(tmp_path)
    with pytest.raises(InvalidKeyError, match="more than 255 bytes"):
        storage.put(f"data/{'ä' * 128}/x", b"")
    storage.put(f"data/{'x' * 255}", b"")
    assert [len(info.key) for info in storage.list("data/")] == [260]
