"""Stores that do not keep conditions are refused when a table is created, and the proof costs appends nothing."""

from __future__ import annotations

import re
import subprocess
import sys
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from datashard_testkit.fault_proxy import FaultProxy, Plan
from datashard_testkit.s3_server import S3Server
from msgspec.structs import replace

import datashard_core as ds
from datashard_core.config import S3Config, TransportChoice
from datashard_core.errors import NoSuchTableError, StoreNotConditionalError
from datashard_core.storage import probe
from datashard_core.storage.s3 import S3Storage
from datashard_core.table.warehouse import Warehouse

TRANSPORTS: tuple[TransportChoice, ...] = ("boto3", "obstore")
SCHEMA = ds.Schema(fields=[{"id": 1, "name": "n", "type": "long"}])
START_SECONDS = 30.0


@pytest.fixture(scope="module")
def rclone(tmp_path_factory: pytest.TempPathFactory) -> Iterator[S3Config]:
    """``rclone serve s3``: it takes If-None-Match, and overwrites all the same."""
    folder = tmp_path_factory.mktemp("rclone")
    (folder / "bucket").mkdir()
    command = [str(Path(sys.executable).with_name("rclone")), "serve", "s3", str(folder)]
    options = ["--addr", "127.0.0.1:0", "--auth-key", "key,secret", "--config", str(folder / "none.conf")]
    process = subprocess.Popen([*command, *options], stderr=subprocess.PIPE, text=True)
    timer = threading.Timer(START_SECONDS, process.kill)
    timer.start()
    try:
        assert process.stderr is not None
        said: list[str] = []
        for line in process.stderr:
            said.append(line)
            if (found := re.search(r"http://127\.0\.0\.1:\d+", line)) is not None:
                break
        else:
            raise AssertionError(f"rclone did not start: {''.join(said)}")
        timer.cancel()
        yield S3Config(bucket="bucket", endpoint=found[0], region="us-east-1", access_key="key", secret_key="secret")
    finally:
        timer.cancel()
        process.kill()
        process.wait()


def warehouse_at(config: S3Config, prefix: str, transport: TransportChoice) -> Warehouse:
    return Warehouse(S3Storage(replace(config, prefix=prefix, transport=transport)))


def refusal_of(warehouse: Warehouse) -> str:
    """What is said when a table is to be made there; nothing is left, and no table is there."""
    with pytest.raises(StoreNotConditionalError) as caught:
        warehouse.create_table("ns.t", SCHEMA)
    assert caught.value.reason == "unsupported"
    assert list(warehouse._storage.list("")) == []
    with pytest.raises(NoSuchTableError):
        warehouse.load_table("ns.t")
    return str(caught.value)


def names_the_way_out(text: str) -> bool:
    return "Use a store that honours it (AWS S3, MinIO," in text and "a folder on a local disk" in text


@pytest.mark.parametrize("transport", TRANSPORTS)
def test_a_store_that_ignores_conditions_is_refused(rclone: S3Config, transport: TransportChoice) -> None:
    warehouse = warehouse_at(rclone, f"w-{transport}", transport)
    text = refusal_of(warehouse)
    assert f"s3://bucket/w-{transport}/ns/t" in text
    assert "answers success (200) to a second PUT of one name with If-None-Match: *" in text
    assert names_the_way_out(text)
    assert refusal_of(warehouse) == text, "what was refused once is refused again"


@pytest.mark.parametrize("transport", TRANSPORTS)
def test_a_store_that_knows_no_conditions_is_refused(
    s3_server: S3Server, s3_config: S3Config, transport: TransportChoice
) -> None:
    with FaultProxy(s3_server.endpoint) as proxy:
        proxy.plan = Plan("501", at=1, lasting=True)
        text = refusal_of(warehouse_at(s3_server.config(endpoint=proxy.endpoint), s3_config.prefix, transport))
    assert f"s3://{s3_config.bucket}/{s3_config.prefix}/ns/t" in text
    assert "it answers 501 NotImplemented (by the fault proxy) to a PUT with a condition" in text
    assert names_the_way_out(text)


def requests_of(server: S3Server, config: S3Config, work: Callable[[Warehouse], object]) -> list[tuple[str, str]]:
    """The requests of some work on a warehouse that was just connected to."""
    server.requests(reset=True)
    work(Warehouse(S3Storage(config)))
    return server.requests()


def forget_all(monkeypatch: pytest.MonkeyPatch) -> None:
    """As in a fresh process."""
    monkeypatch.setattr(probe, "_proved", set())
    monkeypatch.setattr(probe, "_raced", set())


def raced(requests: list[tuple[str, str]]) -> Counter[str]:
    """How many writers raced for each name."""
    return Counter(path for method, path in requests if method == "PUT" and re.search(r"probe-\w+-r\d+$", path))


def test_the_proof_is_made_where_the_table_will_be_and_once(
    s3_server: S3Server, s3_config: S3Config, monkeypatch: pytest.MonkeyPatch
) -> None:
    forget_all(monkeypatch)
    first = requests_of(s3_server, s3_config, lambda warehouse: warehouse.create_table("a", SCHEMA))
    tried = [path for _, path in first if "probe" in path]
    assert all(path.startswith(f"/{s3_config.bucket}/{s3_config.prefix}/a/_datashard/probe-") for path in tried)
    races = raced(first)
    assert set(races.values()) == {probe.RACERS} == {16}
    assert probe.ROUNDS <= len(races) <= probe.MOST_ROUNDS
    again = requests_of(s3_server, s3_config, lambda warehouse: warehouse.create_table("b", SCHEMA))
    assert [path for _, path in again if "probe" in path] == []


def test_a_fresh_process_proves_in_sequence_and_need_not_race(
    s3_server: S3Server, s3_config: S3Config, monkeypatch: pytest.MonkeyPatch
) -> None:
    forget_all(monkeypatch)
    assert raced(requests_of(s3_server, s3_config, lambda warehouse: warehouse.create_table("a", SCHEMA)))
    forget_all(monkeypatch)
    fresh = requests_of(s3_server, s3_config, lambda warehouse: warehouse.create_table("ns.b", SCHEMA))
    assert not raced(fresh)
    assert len([path for method, path in fresh if method == "PUT" and "probe" in path]) >= 2
    # A store that is set up otherwise by then, so that it ignores conditions, is refused all the same.
    forget_all(monkeypatch)
    with s3_server.modes("if-none-match-ignored"), pytest.raises(StoreNotConditionalError, match="answers success"):
        Warehouse(S3Storage(s3_config)).create_table("c", SCHEMA)


def test_a_race_is_remembered_for_a_week_and_for_one_store(
    s3_server: S3Server, s3_config: S3Config, monkeypatch: pytest.MonkeyPatch
) -> None:
    forget_all(monkeypatch)
    Warehouse(S3Storage(s3_config)).create_table("a", SCHEMA)
    (record,) = [info.key for info in S3Storage(s3_config).list("_datashard/conditions-")]
    forget_all(monkeypatch)
    other = replace(s3_config, endpoint=s3_config.endpoint.replace("127.0.0.1", "localhost"))  # type: ignore[union-attr]
    assert raced(requests_of(s3_server, other, lambda warehouse: warehouse.create_table("b", SCHEMA)))
    assert len(list(S3Storage(s3_config).list("_datashard/conditions-"))) == 2
    forget_all(monkeypatch)
    s3_server.move_clock(8 * 24 * 3600)
    try:
        assert raced(requests_of(s3_server, s3_config, lambda warehouse: warehouse.create_table("c", SCHEMA)))
    finally:
        s3_server.move_clock(-8 * 24 * 3600)
    forget_all(monkeypatch)
    S3Storage(s3_config).put(record, b"{}")  # whatever is there is no proof
    assert raced(requests_of(s3_server, s3_config, lambda warehouse: warehouse.create_table("d", SCHEMA)))


@pytest.mark.parametrize("gap", [0.0002, 0.001, 0.005, 0.02])
@pytest.mark.parametrize("transport", TRANSPORTS)
def test_a_store_that_checks_first_and_writes_later_is_refused(
    s3_server: S3Server, s3_config: S3Config, transport: TransportChoice, gap: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    with s3_server.modes(f"check-then-write={gap}"):
        for number in range(3):
            forget_all(monkeypatch)
            text = refusal_of(warehouse_at(s3_config, f"{s3_config.prefix}-{number}", transport))
            assert re.search(r"answered success \(200\) to (\d+) of 16 writers that raced", text)
            assert "checks If-None-Match first and writes later" in text
            assert names_the_way_out(text)


def test_the_proof_costs_appends_nothing(
    s3_server: S3Server, s3_config: S3Config, monkeypatch: pytest.MonkeyPatch
) -> None:
    Warehouse(S3Storage(s3_config)).create_table("t", SCHEMA).append([{"n": 1}])
    proved = requests_of(s3_server, s3_config, lambda warehouse: warehouse.load_table("t").append([{"n": 2}]))
    forget_all(monkeypatch)
    monkeypatch.setattr(probe, "_prove", lambda *_: pytest.fail("an append tries the store out"))
    fresh = requests_of(s3_server, s3_config, lambda warehouse: warehouse.load_table("t").append([{"n": 3}]))
    assert Counter(method for method, _ in fresh) == Counter(method for method, _ in proved)
    assert [path for _, path in fresh if "probe" in path] == []
    opened = requests_of(s3_server, s3_config, lambda warehouse: warehouse.create_table("t", SCHEMA, if_exists="open"))
    assert {method for method, _ in opened} == {"GET"}, "a table that is there proves nothing anew"
