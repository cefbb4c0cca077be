"""The parts of the benchmarks that could make their figures wrong: the S3 server, the statistics, the prices."""

from __future__ import annotations

import os
import random
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from datashard_testkit import contract

from datashard_core.config import S3Config
from datashard_core.storage.s3 import S3Storage

BENCHMARKS = Path(__file__).resolve().parent.parent.parent / "benchmarks"

if TYPE_CHECKING:
    from kit.statistics import LoggedRequest
    from kit.store import Store


@pytest.fixture(scope="module", autouse=True)
def _kit() -> Iterator[None]:
    """The benchmarks are scripts: their folder is on the path for this module alone."""
    sys.path.insert(0, str(BENCHMARKS))
    yield
    sys.path.remove(str(BENCHMARKS))
    for name in [name for name in sys.modules if name.partition(".")[0] == "kit"]:
        del sys.modules[name]


@pytest.fixture(scope="module")
def store(_kit: None) -> Iterator[Store]:
    from kit.store import Store

    with Store() as running:
        yield running


@pytest.fixture
def config(store: Store) -> S3Config:
    return S3Config(
        bucket=store.bucket,
        prefix=os.urandom(4).hex(),
        endpoint=store.endpoint,
        region="us-east-1",
        access_key="bench",
        secret_key="benchbench",
    )


@pytest.fixture
def client(store: Store) -> Any:
    import boto3

    keys = {"aws_access_key_id": "bench", "aws_secret_access_key": "benchbench", "region_name": "us-east-1"}
    return boto3.client("s3", endpoint_url=store.endpoint, **keys)


def _requests(*spans: tuple[float, float, str]) -> list[LoggedRequest]:
    from kit.statistics import LoggedRequest

    return [LoggedRequest(started, ended, kind, "key", 200, 0, 0) for started, ended, kind in spans]


@pytest.mark.parametrize("check", contract.CHECKS, ids=lambda check: check.__name__)
def test_the_server_keeps_the_storage_contract(check: contract.Check, config: S3Config) -> None:
    check(S3Storage(config))


def test_multipart_uploads_ranges_and_arrows_client(client: Any, config: S3Config) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    key = f"{config.prefix}/big"
    upload = client.create_multipart_upload(Bucket="bench", Key=key)["UploadId"]
    parts: list[dict[str, Any]] = []
    for number, body in ((2, b"b" * 10), (1, b"a" * 5_242_880)):
        part = client.upload_part(Bucket="bench", Key=key, UploadId=upload, PartNumber=number, Body=body)
        parts.insert(0, {"PartNumber": number, "ETag": part["ETag"]})
    client.complete_multipart_upload(Bucket="bench", Key=key, UploadId=upload, MultipartUpload={"Parts": parts})
    answer = client.get_object(Bucket="bench", Key=key, Range="bytes=5242878-")
    assert answer["Body"].read() == b"aa" + b"b" * 10
    assert answer["ContentRange"] == "bytes 5242878-5242889/5242890"
    filesystem, root = S3Storage(config).filesystem()
    table = pa.table({"a": list(range(1000))})
    pq.write_table(table, f"{root}/table.parquet", filesystem=filesystem)
    assert pq.read_table(f"{root}/table.parquet", filesystem=filesystem).equals(table)


def test_listings_come_in_pages_with_folders(client: Any, config: S3Config) -> None:
    keys = [f"{config.prefix}/a/{number:02}" for number in range(13)] + [f"{config.prefix}/b&c"]
    for key in keys:
        client.put_object(Bucket="bench", Key=key, Body=b"x")
    first = client.list_objects_v2(Bucket="bench", Prefix=f"{config.prefix}/", MaxKeys=10)
    assert first["IsTruncated"] and first["KeyCount"] == 10
    rest = client.list_objects_v2(
        Bucket="bench", Prefix=f"{config.prefix}/", ContinuationToken=first["NextContinuationToken"]
    )
    assert [found["Key"] for found in first["Contents"] + rest["Contents"]] == keys
    folded = client.list_objects_v2(Bucket="bench", Prefix=f"{config.prefix}/", Delimiter="/", MaxKeys=1)
    assert [found["Prefix"] for found in folded["CommonPrefixes"]] == [f"{config.prefix}/a/"]
    after = client.list_objects_v2(
        Bucket="bench",
        Prefix=f"{config.prefix}/",
        Delimiter="/",
        ContinuationToken=folded["NextContinuationToken"],
    )
    assert [found["Key"] for found in after["Contents"]] == [keys[-1]] and "CommonPrefixes" not in after


def test_requests_take_their_time_and_are_logged(store: Store, config: S3Config) -> None:
    from kit.latency import NONE, Latency
    from kit.statistics import by_kind, round_trips

    storage = S3Storage(config)
    storage.put("warm", b"")
    latency = Latency({"PUT": 40.0, "GET": 20.0})
    store.set_latency(latency)
    since = store.now()
    try:
        storage.put_if_absent("a", b"12345")
        assert storage.get("a").body == b"12345"
        storage.delete(["a"])
    finally:
        store.set_latency(NONE)
    requests = store.requests(since)
    assert by_kind(requests) == {"PUT": 1, "GET": 1, "DELETE": 1}
    assert round_trips(requests) == 3
    put, get = requests[0], requests[1]
    assert put.ended - put.started > 0.035 and get.ended - get.started > 0.015
    assert (put.sent, get.received, put.key) == (5, 5, f"{config.prefix}/a")
    assert store.keys(f"{config.prefix}/") == [(f"{config.prefix}/warm", 0)]


def test_the_clock_of_the_server_can_be_moved(store: Store, config: S3Config) -> None:
    storage = S3Storage(config)
    storage.put("now", b"")
    store.set_clock(86_400)
    storage.put("later", b"")
    store.set_clock()
    assert 86_390 < storage.head("later").last_modified - storage.head("now").last_modified < 86_460


def test_lognormal_latencies_have_the_median_asked_for() -> None:
    from kit.latency import S3_STANDARD
    from kit.statistics import median

    chance = random.Random(1)
    seconds = [S3_STANDARD.seconds("PUT", chance) for _ in range(4000)]
    assert median(seconds) == pytest.approx(0.060, rel=0.05)
    assert max(seconds) > 0.1 > 0.04 > min(seconds)
    assert S3_STANDARD.seconds("OPTIONS", chance) == 0


def test_percentiles_are_nearest_rank() -> None:
    from kit.statistics import percentile

    values = [float(value) for value in range(100, 0, -1)]
    assert [percentile(values, share) for share in (0.01, 0.5, 0.99, 1.0)] == [1, 50, 99, 100]
    assert percentile([7.0], 0.5) == 7
    with pytest.raises(ValueError, match="0 values"):
        percentile([], 0.5)


def test_requests_side_by_side_are_one_round_trip() -> None:
    from kit.statistics import round_trip_seconds, round_trips

    parallel = _requests((0, 3, "GET"), (0.1, 6, "PUT"), (0.2, 6.1, "PUT"))
    assert round_trips(parallel) == 1
    then = [*parallel, *_requests((6.2, 12, "PUT"), (12.5, 18, "PUT"), (12.5, 15, "DELETE"))]
    assert round_trips(then) == 3
    assert round_trip_seconds(then, {"GET": 30, "PUT": 60, "DELETE": 30}) == pytest.approx(0.180)
    # A chain that outlasts a longer single request counts by what it waited for.
    chain = _requests((0, 10, "PUT"), (0, 3, "GET"), (4, 7, "GET"), (8, 11, "GET"))
    assert round_trips(chain) == 3
    assert round_trip_seconds(chain, {"GET": 30, "PUT": 60}) == pytest.approx(0.090)
    assert round_trips([]) == 0


def test_prices_are_s3s() -> None:
    from kit.prices import price

    assert price({"PUT": 100_000, "LIST": 1000, "GET": 10_000, "HEAD": 10_000, "DELETE": 10**6}) == pytest.approx(0.513)
    with pytest.raises(KeyError):
        price({"COPY": 1})
