"""Answers of stores that lack something, lie about a length, lead elsewhere, or know no bulk deletes."""

from __future__ import annotations

import hashlib
import hmac
import os
from collections import Counter
from typing import Any

import pytest
from datashard_testkit.fault_proxy import FaultProxy
from datashard_testkit.s3_server import S3Server
from msgspec.structs import replace

import datashard_core as ds
from datashard_core.config import S3Config, TransportChoice
from datashard_core.errors import DataShardError, StorageError
from datashard_core.storage import s3_client
from datashard_core.storage.base import Version
from datashard_core.storage.cache import immutable, small_files
from datashard_core.storage.s3 import ONE_PUT, S3Storage
from datashard_core.table.warehouse import Warehouse

TRANSPORTS: tuple[TransportChoice, ...] = ("boto3", "obstore")
SCHEMA = ds.Schema(fields=[{"id": 1, "name": "n", "type": "long"}, {"id": 2, "name": "b", "type": "binary"}])


@pytest.fixture(autouse=True)
def fresh_clients(monkeypatch: pytest.MonkeyPatch) -> None:
    """What a client has learnt of its store is forgotten between tests."""
    monkeypatch.setattr(s3_client, "_made", {})
    immutable.clear()
    small_files.clear()


@pytest.fixture(params=TRANSPORTS)
def config(s3_config: S3Config, request: pytest.FixtureRequest) -> S3Config:
    return replace(s3_config, transport=request.param, max_attempts=2)


def numbers(table: ds.Table) -> list[int]:
    return sorted(row["n"] for row in table.refresh().scan().to_records())


# -- deletes ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "mode", ["no-delete-objects", "delete-objects-needs-md5", "checksums-refused", "delete-objects=405"]
)
def test_objects_are_deleted_one_by_one_where_bulk_deletes_are_refused(
    s3_server: S3Server, config: S3Config, mode: str
) -> None:
    storage = S3Storage(config)
    keys = [f"k{number}" for number in range(12)]
    for key in keys:
        storage.put(key, b"x")
    with s3_server.modes(mode):
        s3_server.requests(reset=True)
        storage.delete([*keys[:6], "absent"])
        first = Counter(method for method, _ in s3_server.requests(reset=True))
        storage.delete(keys[6:11])
        second = Counter(method for method, _ in s3_server.requests())
    assert [info.key for info in storage.list("k")] == ["k11"]
    assert (first["POST"] == 1 and second["DELETE"] == 5) or (mode, config.transport) == (
        "delete-objects-needs-md5",
        "obstore",
    ), "the refusal is asked for once, and remembered"
    if mode != "delete-objects-needs-md5" or config.transport == "boto3":
        assert first["DELETE"] == 7 and second["POST"] == 0


def test_a_table_lives_on_a_store_without_bulk_deletes(s3_server: S3Server, config: S3Config) -> None:
    with s3_server.modes("no-delete-objects"):
        warehouse = Warehouse(S3Storage(config))
        table = warehouse.create_table("t", SCHEMA)
        table.append([{"n": 1}], commit="deferred")
        table.append([{"n": 2}])
        table.flush()
        assert numbers(table) == [1, 2]
        table.maintain()
        warehouse.drop_table("t", purge=True)
        left = [info.key for info in S3Storage(config).list("t/data/")]
    assert left == []


def test_a_single_delete_that_is_denied_names_its_key(s3_server: S3Server, config: S3Config) -> None:
    storage = S3Storage(config)
    for key in ("a", "b", "c"):
        storage.put(key, b"x")
    with s3_server.modes("no-delete-objects", "forbidden=AccessDenied,DELETE"), pytest.raises(StorageError) as caught:
        storage.delete(["a", "b", "c"])
    assert caught.value.reason == "access-denied"
    assert f"s3:DeleteObject is missing on {storage.root}/a" in str(caught.value)
    assert all(f"{storage.root}/{key}" in str(caught.value) for key in ("b", "c"))
    assert "3 objects were not deleted" in str(caught.value)


# -- what answers lack ------------------------------------------------------------------------


@pytest.mark.parametrize("header", ["Content-Length", "Last-Modified", "ETag"])
def test_a_table_lives_on_answers_without_a_header(s3_server: S3Server, config: S3Config, header: str) -> None:
    with s3_server.modes(f"without={header}"):
        warehouse = Warehouse(S3Storage(config))
        table = warehouse.create_table("t", SCHEMA)
        table.append([{"n": 1}], commit="deferred")
        table.append([{"n": 2}])
        table.flush()
        assert numbers(table) == [1, 2]
        assert numbers(warehouse.load_table("t")) == [1, 2]
        table.maintain()
        assert numbers(table) == [1, 2]


def test_times_and_sizes_that_an_answer_lacks_are_read_from_the_listing(s3_server: S3Server, config: S3Config) -> None:
    storage = S3Storage(config)
    storage.put("a/k", b"hello")
    whole = storage.head("a/k")
    storage.put("a/k2", b"not this one")
    with s3_server.modes("without=Last-Modified"):
        assert storage.head("a/k") == whole
        assert abs(storage.get("a/k").last_modified - whole.last_modified) < 1
    with s3_server.modes("without=Content-Length"):
        assert S3Storage(config).get("a/k").body == b"hello"
        assert storage.get("a/k", (1, 3)).body == b"el"
        assert storage.head("a/k").size == 5


def test_without_an_etag_nothing_is_replaced_on_a_guess(s3_server: S3Server, config: S3Config) -> None:
    storage = S3Storage(config)
    storage.put("k", b"x")
    with s3_server.modes("without=ETag"):
        assert storage.put_if_absent("new", b"1") == ""
        found = storage.get("k")
        assert (found.body, found.version) == (b"x", "")
        with pytest.raises(StorageError, match="no ETag") as caught:
            storage.replace("k", b"y", Version(found.version))
    assert caught.value.reason == "unsupported"
    assert storage.get("k").body == b"x"


@pytest.mark.parametrize("element", ["ETag", "LastModified", "Size"])
def test_listings_that_lack_an_element(s3_server: S3Server, config: S3Config, element: str) -> None:
    storage = S3Storage(config)
    storage.put("a/1", b"x")
    with s3_server.modes(f"listing-without={element}"):
        if element == "ETag":
            assert [(info.key, info.size, info.version) for info in storage.list("a/")] == [("a/1", 1, "")]
            return
        s3_server.requests(reset=True)
        with pytest.raises(StorageError, match=element) as caught:
            list(storage.list("a/"))
        assert caught.value.reason == "unsupported"
        assert len(s3_server.requests()) == 1, "what the store lacks it will lack again"


def test_flush_maintain_and_purge_need_no_etag_in_listings(s3_server: S3Server, config: S3Config) -> None:
    with s3_server.modes("listing-without=ETag"):
        warehouse = Warehouse(S3Storage(config))
        table = warehouse.create_table("t", SCHEMA)
        table.append([{"n": 1}], commit="deferred")
        table.flush()
        table.maintain()
        assert numbers(table) == [1]
        warehouse.drop_table("t", purge=True)
        assert list(S3Storage(config).list("t/data/")) == []


# -- lengths ----------------------------------------------------------------------------------


@pytest.mark.parametrize("mode", ["short", "cut"])
@pytest.mark.parametrize("size", [10, ONE_PUT // 4])
def test_a_data_file_that_was_answered_short_is_read_again(
    s3_server: S3Server, config: S3Config, mode: str, size: int
) -> None:
    table = Warehouse(S3Storage(config)).create_table("t", SCHEMA)
    table.append([{"n": 1, "b": os.urandom(size)}])
    table.append([{"n": 2, "b": b""}])
    with s3_server.modes(f"{mode}=1,data/auto_"):
        assert numbers(table) == [1, 2]
    assert numbers(table) == [1, 2]


def test_a_data_file_that_stays_short_fails_the_scan_and_is_not_kept(s3_server: S3Server, config: S3Config) -> None:
    table = Warehouse(S3Storage(config)).create_table("t", SCHEMA)
    table.append([{"n": number} for number in range(1000)])
    says = r"has \d+ bytes, and its manifest says \d+"
    with s3_server.modes("short=100,data/auto_"), pytest.raises(ds.CorruptTableError, match=says) as caught:
        numbers(table)
    assert "data/auto_" in str(caught.value)
    assert numbers(table) == list(range(1000)), "the same process reads it once the store answers whole"


@pytest.mark.parametrize("name", ["manifest_list", "manifests/manifest_", "metadata.json"])
def test_metadata_that_was_answered_short_is_read_again(s3_server: S3Server, config: S3Config, name: str) -> None:
    Warehouse(S3Storage(config)).create_table("t", SCHEMA).append([{"n": number} for number in range(5)])
    immutable.clear()
    with s3_server.modes(f"short=1,{name}"):
        try:
            found = numbers(Warehouse(S3Storage(config)).load_table("t"))
        except DataShardError as error:
            assert name in str(error)  # its length is written nowhere
        else:
            assert found == list(range(5))
    assert numbers(Warehouse(S3Storage(config)).load_table("t")) == list(range(5))


# -- elsewhere --------------------------------------------------------------------------------


@pytest.mark.parametrize("mode", ["redirect=301", "redirect=307", "redirect=301,location", "redirect=307,location"])
def test_a_redirect_of_everything_is_one_clear_error(s3_server: S3Server, config: S3Config, mode: str) -> None:
    storage = S3Storage(config)
    table = Warehouse(storage).create_table("t", SCHEMA)
    operations: dict[str, Any] = {
        "get": lambda: storage.get("k"),
        "head": lambda: storage.head("k"),
        "list": lambda: list(storage.list("k")),
        "put": lambda: storage.put("k", b"x"),
        "put_if_absent": lambda: storage.put_if_absent("k", b"x"),
        "delete": lambda: storage.delete(["k"]),
        "append": lambda: table.append([{"n": 1}], timeout=5),
    }
    with s3_server.modes(mode):
        for name, operation in operations.items():
            with pytest.raises(DataShardError) as caught:
                operation()
            text = str(caught.value)
            assert "has to be asked elsewhere" in text and "region=" in text, f"{name}: {text}"
            assert isinstance(caught.value, StorageError) and caught.value.reason == "other", name


@pytest.mark.parametrize("style", ["auto", "path", "virtual"])
def test_an_endpoint_with_a_path(s3_server: S3Server, config: S3Config, style: Any) -> None:
    """Through both transports and Arrow's client, with signatures over the path that was asked."""
    with s3_server.modes("below=/storage/v1/s3"), FaultProxy(s3_server.endpoint) as proxy:
        there = replace(config, endpoint=f"{proxy.endpoint}/storage/v1/s3/", addressing_style=style)
        table = Warehouse(S3Storage(there)).create_table("t", SCHEMA)
        table.append([{"n": 1, "b": b"x"}])
        table.append([{"n": 2, "b": os.urandom(ONE_PUT + 1)}])
        assert max(file.file_size_in_bytes for file in table.scan().data_files()) > ONE_PUT
        assert numbers(table) == [1, 2]
        assert len(proxy.plan.heads) > 12
        for head in proxy.plan.heads:
            assert head.split(" ")[1].startswith("/storage/v1/s3/"), head
            assert signature_of(head, s3_server.secret_key) == head.partition("Signature=")[2].split("\r\n")[0], head


def signature_of(head: str, secret_key: str) -> str:
    """The signature (version 4) that a request has to bear."""
    first, *lines = head.strip().split("\r\n")
    method, target, _ = first.split(" ")
    path, _, query = target.partition("?")
    headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
    scope = headers["authorization"].partition("Credential=")[2].split(",")[0].split("/", 1)[1]
    names = headers["authorization"].partition("SignedHeaders=")[2].split(",")[0].split(";")
    pairs = "&".join(sorted(part if "=" in part else f"{part}=" for part in query.split("&") if part))
    signed = "".join(f"{name}:{headers[name]}\n" for name in names)
    canonical = "\n".join([method, path, pairs, signed, ";".join(names), headers["x-amz-content-sha256"]])
    digest = hashlib.sha256(canonical.encode()).hexdigest()
    key = f"AWS4{secret_key}".encode()
    for part in scope.split("/"):
        key = hmac.new(key, part.encode(), hashlib.sha256).digest()
    text = "\n".join(["AWS4-HMAC-SHA256", headers["x-amz-date"], scope, digest])
    return hmac.new(key, text.encode(), hashlib.sha256).hexdigest()
