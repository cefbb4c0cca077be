"""A table whose folder or bucket vanishes under a held table object: no append is acknowledged on top of nothing."""

from __future__ import annotations

import shutil
import threading
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from datashard_core import Schema
from datashard_core.errors import (
    CommitStateUnknownError,
    CorruptTableError,
    DataShardError,
    NoSuchTableError,
    StorageError,
)
from datashard_core.storage.base import Storage
from datashard_core.storage.local import LocalStorage
from datashard_core.storage.memory import MemoryStorage
from datashard_core.table.table import Table
from datashard_core.table.warehouse import Warehouse

SCHEMA = Schema(fields=[{"name": "n", "type": "long"}])


def _held(storage: Storage, below: str = "") -> dict[str, bytes]:
    return {info.key: storage.get(info.key).body for info in storage.list(below)}


def _made(warehouse: Warehouse, appends: int) -> Table:
    table = warehouse.create_table("t", SCHEMA)
    for number in range(appends):
        table.append([{"n": number}])
    return table


def _numbers(warehouse: Warehouse) -> list[int]:
    return sorted(row["n"] for row in warehouse.load_table("t").scan().to_records())


@pytest.mark.parametrize("appends", (0, 1, 20))
@pytest.mark.parametrize("lost", ("", "metadata/"))
@pytest.mark.parametrize("fresh", (True, False), ids=("just loaded", "has appended"))
def test_an_append_on_top_of_nothing_is_an_error_and_a_restore_finds_its_rows_once(
    appends: int, lost: str, fresh: bool
) -> None:
    _check_vanishing(Warehouse(MemoryStorage("memory://vanished")), appends, lost, fresh)


def test_an_append_on_top_of_nothing_is_an_error_over_every_store(any_warehouse: Warehouse) -> None:
    _check_vanishing(any_warehouse, appends=2, lost="", fresh=True)


def _check_vanishing(any_warehouse: Warehouse, appends: int, lost: str, fresh: bool) -> None:
    made = _made(any_warehouse, appends)
    table = any_warehouse.load_table("t") if fresh else made
    other = any_warehouse.load_table("t")
    place = any_warehouse._storage.at("t")
    whole = _held(place, lost)
    place.delete(list(whole))
    with pytest.raises(CommitStateUnknownError, match="written on top of nothing") as raised:
        table.append([{"n": 100}])
    error = raised.value
    assert error.base == appends
    assert "restore it from a backup" in str(error)
    # As long as it is gone every further call fails, by this object, by another that was held, and by a new one.
    for again in (table, other):
        with pytest.raises(CommitStateUnknownError, match="on top of nothing"):
            again.append([{"n": 100}], append_id=error.append_id, base=error.base)
        with pytest.raises(CommitStateUnknownError, match="on top of nothing"):
            again.append([{"n": 101}])
        # The history of a handed-in id may have to be read first, and is gone.
        with pytest.raises((CommitStateUnknownError, CorruptTableError), match=r"on top of nothing|is missing"):
            again.append([{"n": 102}], append_id="mine")
    if appends:  # else it had no rows that a reader could miss
        with pytest.raises(CorruptTableError, match="are gone"):
            any_warehouse.load_table("t")
        with pytest.raises(CorruptTableError, match="are gone"):
            any_warehouse.create_table("t", SCHEMA)
    later = _held(place)
    for key, body in whole.items():
        if key not in later:
            place.put(key, body)
    restored = any_warehouse.load_table("t")
    assert restored.append([{"n": 100}], append_id=error.append_id, base=error.base).already_appended
    numbers = _numbers(any_warehouse)
    assert numbers.count(100) == 1
    assert [n for n in numbers if n < 100] == list(range(appends))


def test_what_was_written_before_the_table_vanished_is_not_removed(any_warehouse: Warehouse) -> None:
    """Nothing is cleaned up by a guess, not even what the failed append wrote."""
    table = _made(any_warehouse, 2)
    place = any_warehouse._storage.at("t")
    place.delete(list(_held(place)))
    with pytest.raises(CommitStateUnknownError):
        table.append([{"n": 5}])
    left = _held(place)
    assert "metadata/v3.metadata.json" in left
    assert "metadata/version-hint.text" not in left
    with pytest.raises(DataShardError):
        table.compact()
    with pytest.raises(DataShardError):
        table.maintain()
    assert left.items() <= _held(place).items()


def test_an_old_history_that_is_gone_and_a_hint_that_is_lost_are_no_such_thing(any_warehouse: Warehouse) -> None:
    table = _made(any_warehouse, 5)
    place = any_warehouse._storage.at("t")
    place.delete(["metadata/version-hint.text"])
    table.append([{"n": 5}])
    assert place.get("metadata/version-hint.text").body == b"6"
    place.delete([f"metadata/v{number}.metadata.json" for number in range(4)])
    table.append([{"n": 6}])
    assert _numbers(any_warehouse) == list(range(7))


def test_a_table_without_a_hint_is_appended_to(any_warehouse: Warehouse) -> None:
    """Another engine need not write one."""
    _made(any_warehouse, 3)
    place = any_warehouse._storage.at("t")
    place.delete(["metadata/version-hint.text"])
    table = any_warehouse.load_table("t")
    table.append([{"n": 3}])
    assert place.get("metadata/version-hint.text").body == b"4"


@pytest.mark.parametrize("act", ("flush", "compact", "expire", "external"))
def test_other_commits_on_top_of_nothing_are_errors_too(act: str) -> None:
    warehouse = Warehouse(MemoryStorage("memory://vanished"))
    table = _made(warehouse, 4)
    place = warehouse._storage.at("t")
    whole = _held(place)
    staged: dict[str, bytes] = {}
    if act == "flush":
        table.append([{"n": 4}], commit="deferred")
        staged = _held(place, "_datashard/staging/")
    place.delete(list(whole))
    for key, body in staged.items():
        place.put(key, body)
    with pytest.raises(DataShardError) as raised:
        if act == "flush":
            table.flush()
        elif act == "compact":
            table.compact()
        elif act == "expire":
            from datetime import UTC, datetime, timedelta

            table.expire_snapshots(datetime.now(UTC) + timedelta(days=1), retain_last=1)
        else:
            table.append([{"n": 4}], commit="now")
    assert not isinstance(raised.value, AssertionError)
    assert "gone" in str(raised.value) or "does not exist" in str(raised.value)


def test_threads_that_append_meanwhile_all_get_the_error(any_warehouse: Warehouse) -> None:
    table = _made(any_warehouse, 3)
    place = any_warehouse._storage.at("t")
    place.delete(list(_held(place)))
    ended: list[Any] = []

    def append(number: int) -> None:
        try:
            ended.append(table.append([{"n": number}], timeout=20))
        except DataShardError as error:
            ended.append(error)

    threads = [threading.Thread(target=append, args=(number,)) for number in range(6)]
    for one in threads:
        one.start()
    for one in threads:
        one.join()
    assert len(ended) == 6
    assert Counter(type(one) for one in ended) == {CommitStateUnknownError: 6}


@pytest.mark.parametrize(
    "vanish",
    (shutil.rmtree, lambda folder: folder.rename(folder.with_name("elsewhere"))),
    ids=("removed", "renamed"),
)
@pytest.mark.parametrize("commit", ("now", "deferred"))
@pytest.mark.parametrize("just_made", (True, False))
def test_on_local_disk_a_folder_that_is_gone_is_not_made_again(
    tmp_path: Path, vanish: Callable[[Path], Any], commit: Any, just_made: bool
) -> None:
    warehouse = Warehouse(LocalStorage(tmp_path / "warehouse"))
    table = _made(warehouse, 2)
    if not just_made:
        table = warehouse.load_table("t")
    vanish(tmp_path / "warehouse" / "t")
    for _ in range(2):
        with pytest.raises(StorageError, match=r"is gone: it was removed or renamed.*Nothing was written") as raised:
            table.append([{"n": 3}], commit=commit)
        assert raised.value.reason == "not-found"
    assert not (tmp_path / "warehouse" / "t").exists()
    with pytest.raises(NoSuchTableError):
        warehouse.load_table("t")
    again = warehouse.create_table("t", SCHEMA)
    again.append([{"n": 7}])
    assert _numbers(warehouse) == [7]
    with pytest.raises(CommitStateUnknownError, match="on top of nothing"):
        table.append([{"n": 4}])
    assert _numbers(warehouse) == [7], "the new table has one version less than the old one had"


def test_a_bucket_that_was_deleted_and_one_that_was_made_again(s3_process: Any) -> None:
    import os

    import boto3

    server = s3_process.use_bucket(f"vanishing-{os.urandom(4).hex()}")
    from datashard_core.storage.s3 import S3Storage

    for transport in ("boto3", "obstore"):
        config = server.config("w", transport=transport)
        warehouse = Warehouse(S3Storage(config))
        table = _made(warehouse, 2)
        client = boto3.client(
            "s3",
            endpoint_url=server.endpoint,
            aws_access_key_id=server.access_key,
            aws_secret_access_key=server.secret_key,
            region_name="us-east-1",
        )
        for one in client.list_objects_v2(Bucket=config.bucket)["Contents"]:
            client.delete_object(Bucket=config.bucket, Key=one["Key"])
        client.delete_bucket(Bucket=config.bucket)
        with pytest.raises(StorageError, match="there is no bucket") as raised:
            table.append([{"n": 3}])
        assert raised.value.reason == "bucket-missing"
        client.create_bucket(Bucket=config.bucket)
        with pytest.raises(CommitStateUnknownError, match="on top of nothing"):
            table.append([{"n": 3}])
        for one in client.list_objects_v2(Bucket=config.bucket)["Contents"]:
            client.delete_object(Bucket=config.bucket, Key=one["Key"])


def test_an_append_asks_nothing_more_than_before(any_warehouse: Warehouse) -> None:
    """Seven requests of a quiet append: look, list, three files, the version, the hint."""
    asked: Counter[str] = Counter()

    class Counting:
        def __init__(self, storage: Storage) -> None:
            self._storage = storage

        def __getattr__(self, name: str) -> Any:
            found = getattr(self._storage, name)
            if name in ("get", "head", "list", "put", "put_data", "put_if_absent", "replace", "delete"):
                asked[name] += 1
            return found

    table = _made(any_warehouse, 2)
    counted = Table(Counting(table._storage), "t", table._seen)  # type: ignore[arg-type]
    counted.append([{"n": 2}])
    assert asked == {"get": 1, "list": 1, "put_data": 1, "put": 2, "put_if_absent": 1, "replace": 1}


def _made_again(warehouse: Warehouse, appends: int) -> Table:
    """Remove the table's folder by hand, and let others create the table again."""
    place = warehouse._storage.at("t")
    place.delete(list(_held(place)))
    return _made(Warehouse(warehouse._storage), appends)


@pytest.mark.parametrize("acts", (("now", "id"), ("deferred", "flush"), ("compact",), ("refresh", "now"), ("now",) * 3))
def test_nothing_goes_on_in_the_place_of_a_table_that_was_made_again(
    any_warehouse: Warehouse, acts: tuple[str, ...]
) -> None:
    """Not by a second call either: the first one has left a version, and the hint of the new table is younger."""
    old = _made(any_warehouse, 6)
    new = _made_again(any_warehouse, 2)
    with pytest.raises(CommitStateUnknownError, match="on top of nothing"):
        old.append([{"n": 100}])
    for act in acts:
        failures = []
        try:
            if act in ("now", "deferred"):
                old.append([{"n": 101}], commit=act)  # type: ignore[arg-type]
            elif act == "id":
                old.append([{"n": 102}], append_id="x")
            else:
                getattr(old, act)()
        except (CommitStateUnknownError, CorruptTableError, StorageError) as error:
            failures.append(error)
        assert failures or act in ("deferred", "refresh"), act
        assert any_warehouse._storage.at("t").get("metadata/version-hint.text").body == b"2"
    assert _numbers(any_warehouse) == [0, 1]
    new.append([{"n": 2}])
    assert _numbers(any_warehouse) == [0, 1, 2]


def test_a_version_of_the_old_table_is_named_with_the_way_out(any_warehouse: Warehouse) -> None:
    """The table that was made again has no fault in its store, and goes on once the version is removed."""
    old = _made(any_warehouse, 6)
    new = _made_again(any_warehouse, 6 - 1)
    with pytest.raises(CommitStateUnknownError):
        old.append([{"n": 100}])
    new.append([{"n": 5}])
    for _ in range(2):
        with pytest.raises(CorruptTableError, match=r"v7\.metadata\.json is of the table with uuid .*remove version 7"):
            new.append([{"n": 6}])
    with pytest.raises(CorruptTableError, match="remove version 7"):
        any_warehouse.load_table("t")
    any_warehouse._storage.at("t").delete(["metadata/v7.metadata.json"])
    new.append([{"n": 6}])
    assert _numbers(any_warehouse) == list(range(7))


def test_a_held_table_is_told_that_it_was_made_again_with_more_versions(any_warehouse: Warehouse) -> None:
    old = _made(any_warehouse, 3)
    _made_again(any_warehouse, 6)
    with pytest.raises(CorruptTableError, match="load it again"):
        old.append([{"n": 100}])
    any_warehouse.load_table("t").append([{"n": 6}])
    assert _numbers(any_warehouse) == list(range(7))
