"""What is asked of the store first: to open a table in a new process, and to create one."""

from __future__ import annotations

import sys
import threading
from collections.abc import Sequence
from typing import Any

import pytest

import datashard_core as ds
from datashard_core.errors import NoSuchTableError, TableExistsError
from datashard_core.storage.base import ObjectInfo, ObjectNotFoundError, StoredObject, Version
from datashard_core.storage.memory import MemoryStorage
from datashard_core.table.ahead import ahead
from datashard_core.table.warehouse import Warehouse

SCHEMA = ds.Schema(fields=[{"id": 1, "name": "n", "type": "long"}])
HINT = "metadata/version-hint.text"


class Watched(MemoryStorage):
    """Notes what is asked of it; reads go on once as many of them as ``gate`` says are there."""

    asked: list[str]
    gate: threading.Barrier | None = None

    def at(self, folder: str) -> Watched:
        deeper = Watched(f"{self._root}/{folder}", self._clock)
        deeper._base = f"{self._base}{folder}/"
        deeper._lock, deeper._objects, deeper._numbers = self._lock, self._objects, self._numbers
        deeper.asked, deeper.gate = self.asked, self.gate
        return deeper

    def _reads(self, what: str) -> None:
        self.asked.append(what)
        if self.gate is not None:
            self.gate.wait(20)

    def get(self, key: str, byte_range: tuple[int, int] | None = None) -> StoredObject:
        self._reads(f"get {self._base}{key}")
        return super().get(key, byte_range)

    def head(self, key: str) -> ObjectInfo:
        self._reads(f"head {self._base}{key}")
        return super().head(key)

    def folders(self, folder: str = "") -> Sequence[str]:
        self._reads(f"folders {self._base}{folder}")
        return super().folders(folder)

    def put_if_absent(self, key: str, data: bytes) -> Version:
        self.asked.append(f"put {self._base}{key}")
        return super().put_if_absent(key, data)


@pytest.fixture
def storage() -> Watched:
    storage = Watched("memory://w")
    storage.asked = []
    return storage


@pytest.mark.parametrize(
    ("name", "around"),
    [("t", ["get t/_namespace.json", "folders t/"]), ("ns.t", ["head ns/" + HINT, "folders ns", "folders ns/t/"])],
)
def test_a_name_is_looked_at_in_one_round_and_taken_in_two(storage: Watched, name: str, around: list[str]) -> None:
    warehouse = Warehouse(storage)
    warehouse.create_table(name.replace("t", "first"), SCHEMA)  # the store is proved by that
    storage.asked.clear()
    storage.gate = threading.Barrier(2 + len(around))
    warehouse.create_table(name, SCHEMA)
    folder = name.replace(".", "/")
    looks = [f"get {folder}/{HINT}", f"get {folder}/metadata/v0.metadata.json", *around]
    assert sorted(storage.asked[:-2]) == sorted(looks)
    assert storage.asked[-2:] == [f"put {folder}/metadata/v0.metadata.json", f"put {folder}/{HINT}"]


def test_a_table_that_is_likely_there_is_opened_as_always(storage: Watched) -> None:
    warehouse = Warehouse(storage)
    warehouse.create_table("t", SCHEMA)
    storage.asked.clear()
    assert warehouse.create_table("t", SCHEMA, if_exists="open").version == 0
    assert storage.asked == [
        f"get t/{HINT}",
        "get t/metadata/v0.metadata.json",
        "get t/metadata/v1.metadata.json",
    ]


def test_a_table_that_began_elsewhere_is_found_without_its_hint(storage: Watched) -> None:
    warehouse = Warehouse(storage)
    made = warehouse.create_table("t", SCHEMA)
    made.append([{"n": 1}])
    table = storage.at("t")
    table.delete([HINT, "metadata/v0.metadata.json"])  # as if another engine had begun it, with version 1
    with pytest.raises(TableExistsError, match="exists at memory://w/t"):
        warehouse.create_table("t", SCHEMA)
    assert warehouse.create_table("t", SCHEMA, if_exists="open").version == 1


def test_a_version_that_came_after_the_look_is_not_overwritten(
    storage: Watched, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, second = Warehouse(storage), Warehouse(storage)
    first.create_table("other", SCHEMA)
    create = Watched.put_if_absent

    def late(self: Watched, key: str, data: bytes) -> Version:
        monkeypatch.undo()  # between the look and the creation another process creates the table, and appends
        second.create_table("t", SCHEMA).append([{"n": 1}])
        return create(self, key, data)

    monkeypatch.setattr(Watched, "put_if_absent", late)
    with pytest.raises(TableExistsError):
        first.create_table("t", SCHEMA)
    assert first.load_table("t").version == 1
    assert storage.at("t").get(HINT).body == b"1"


def test_a_hint_left_by_a_creation_that_failed_is_no_table(storage: Watched) -> None:
    warehouse = Warehouse(storage)
    storage.at("t").put(HINT, b"0")
    table = warehouse.create_table("t", SCHEMA)
    table.append([{"n": 1}])
    assert storage.at("t").get(HINT).body == b"1"


@pytest.fixture
def fresh(monkeypatch: pytest.MonkeyPatch) -> None:
    """As in a process that has not imported the tables yet."""
    monkeypatch.delitem(sys.modules, "datashard_core.table.table")


@pytest.mark.usefixtures("fresh")
def test_the_first_reads_are_sent_once_and_before_they_are_asked_for(storage: Watched) -> None:
    warehouse = Warehouse(storage)
    warehouse.create_table("t", SCHEMA).append([{"n": 1}])
    storage.asked.clear()
    table = storage.at("t")
    early = ahead(table)
    assert early.root == "memory://w/t"
    assert early.get(HINT).body == b"1"
    assert early.get("metadata/v1.metadata.json").body == table.get("metadata/v1.metadata.json").body
    with pytest.raises(ObjectNotFoundError):
        early.get("metadata/v2.metadata.json")
    expected = [f"get t/{HINT}", *(f"get t/metadata/v{n}.metadata.json" for n in (1, 1, 2))]
    assert sorted(storage.asked) == sorted(expected)  # v1 twice: once by this test
    assert early.get(HINT, (0, 1)).body == b"1"
    table.replace(HINT, b"7", table.get(HINT).version)
    assert early.get(HINT).body == b"7"  # an answer is given once


@pytest.mark.usefixtures("fresh")
@pytest.mark.parametrize("hint", [None, b"", b"none", b"99"])
def test_a_hint_that_leads_nowhere_is_found_out_as_always(storage: Watched, hint: bytes | None) -> None:
    warehouse = Warehouse(storage)
    warehouse.create_table("t", SCHEMA).append([{"n": 1}])
    table = storage.at("t")
    table.delete([HINT])
    if hint is not None:
        table.put(HINT, hint)
    assert Warehouse(storage).load_table("t").version == 1


def test_a_process_that_is_warm_asks_for_nothing_ahead(storage: Watched) -> None:
    assert ahead(storage) is storage


def test_who_only_defers_asks_for_the_hint_and_one_version(storage: Watched) -> None:
    warehouse = Warehouse(storage)
    warehouse.create_table("t", SCHEMA).append([{"n": 1}])
    storage.asked.clear()
    table = warehouse.load_table("t", to_defer=True)
    table.append([{"n": 2}], commit="deferred")
    assert storage.asked == [f"get t/{HINT}", "get t/metadata/v1.metadata.json"]
    assert warehouse.load_table("t").flush().scan().to_records() == [{"n": 1}, {"n": 2}]


@pytest.mark.usefixtures("fresh")
def test_who_only_defers_sends_two_reads_ahead(storage: Watched) -> None:
    warehouse = Warehouse(storage)
    warehouse.create_table("t", SCHEMA).append([{"n": 1}])
    storage.asked.clear()
    assert ahead(storage.at("t"), hinted=True).get(HINT).body == b"1"
    assert ahead(storage.at("t"), hinted=True).get("metadata/v1.metadata.json")
    assert "get t/metadata/v2.metadata.json" not in storage.asked


def test_a_table_opened_to_defer_goes_on_from_the_newest_version(storage: Watched) -> None:
    warehouse = Warehouse(storage)
    made = warehouse.create_table("t", SCHEMA)
    made.append([{"n": 1}])
    made.append([{"n": 2}])
    storage.at("t").put(HINT, b"1")  # as if its committer had been killed before moving it
    table = warehouse.load_table("t", to_defer=True)
    assert (table.version, table.count()) == (1, 1)
    assert table.append([{"n": 3}]).version == 3
    assert table.scan().to_records() == [{"n": 1}, {"n": 2}, {"n": 3}]


def test_a_callers_id_is_looked_up_beyond_a_hint_that_lags(storage: Watched) -> None:
    warehouse = Warehouse(storage)
    made = warehouse.create_table("t", SCHEMA)
    made.append([{"n": 1}])
    made.append([{"n": 2}], append_id="a")
    storage.at("t").put(HINT, b"1")
    table = warehouse.load_table("t", to_defer=True)
    assert table.append([{"n": 2}], append_id="a", commit="deferred").version == 2
    assert warehouse.load_table("t").flush().count() == 2


def test_a_hint_is_not_relied_on_where_it_names_an_old_version_or_no_table(moved_clock: Any) -> None:
    warehouse = Warehouse(MemoryStorage("memory://w"))
    made = warehouse.create_table("t", SCHEMA, properties={"datashard.append-id.retention": "3600000"})
    made.append([{"n": 1}])
    made.append([{"n": 2}])
    stored = warehouse._storage.at("t")
    stored.put(HINT, b"1")
    assert warehouse.load_table("t", to_defer=True).version == 1
    moved_clock.ahead = 121.0  # a thirtieth of an hour is two minutes
    assert warehouse.load_table("t", to_defer=True).version == 2
    warehouse.drop_table("t")
    with pytest.raises(NoSuchTableError, match="dropped in version 3"):
        warehouse.load_table("t", to_defer=True)
    stored.put(HINT, b"3")
    with pytest.raises(NoSuchTableError, match="dropped in version 3"):
        warehouse.load_table("t", to_defer=True)
    warehouse.create_table("t", SCHEMA)
    stored.put(HINT, b"3")
    assert warehouse.load_table("t", to_defer=True).version == 4
