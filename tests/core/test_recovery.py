"""Every recovery that a message or a page names works, whoever commits between the failure and the second call."""

from __future__ import annotations

import pickle
from collections.abc import Callable, Sequence
from typing import Any

import pytest

from datashard_core import Schema
from datashard_core.commit.append_ids import lookup
from datashard_core.commit.core.state import Append
from datashard_core.errors import CommitStateUnknownError, CommitTimeoutError, StorageError
from datashard_core.storage.base import OutcomeUnknownError, Storage
from datashard_core.storage.memory import MemoryStorage
from datashard_core.table.shared import SharedCommits
from datashard_core.table.table import Table
from datashard_core.table.warehouse import Warehouse

SCHEMA = Schema(fields=[{"name": "n", "type": "long"}])


class Failing:
    """A store that loses the answer to the first conditional put, or the put, and refuses everything afterwards.

    Args:
        storage: the store.
        how: what becomes of the put: "lost", "landed", "late" (by :meth:`land`), or "staged": lost, and the rows
            are staged before the store refuses.
    """

    def __init__(self, storage: Storage, how: str) -> None:
        self.storage = storage
        self.how = how
        self.failed = False
        self.land: Callable[[], Any] = lambda: None

    def __getattr__(self, name: str) -> Any:
        real = getattr(self.storage, name)
        if not callable(real) or name in ("at", "metrics"):
            return real

        def asked(*arguments: Any) -> Any:
            if not self.failed:
                return self._first(name, real, *arguments)
            if self.how == "staged" and name == "put" and arguments[0].startswith("_datashard/staging/"):
                real(*arguments)
            raise StorageError("the store refuses", reason="access-denied")

        return asked

    def _first(self, name: str, real: Callable[..., Any], *arguments: Any) -> Any:
        staged = name == "put" and arguments[0].startswith("_datashard/staging/")
        if not (staged or (name == "put_if_absent" and arguments[0].startswith("metadata/v"))):
            return real(*arguments)
        self.failed = True
        if self.how == "landed" or (staged and self.how == "staged"):
            real(*arguments)
        if self.how == "late":
            self.land = lambda: real(*arguments)
        raise OutcomeUnknownError("the answer was lost", key=arguments[0])


def _fails(table: Table, how: str, number: int, **options: Any) -> tuple[CommitStateUnknownError, Failing]:
    """An append that ends with an unknown outcome, by a table object that nobody else holds."""
    store = Failing(table._storage, how)
    broken = Table(store, table.name, table._seen)  # type: ignore[arg-type]
    with pytest.raises(CommitStateUnknownError) as raised:
        broken.append([{"n": number}], timeout=5, **options)
    error: CommitStateUnknownError = pickle.loads(pickle.dumps(raised.value))
    assert f"base={error.base}" in str(error)
    assert error.append_id in str(error)
    return error, store


def _numbers(warehouse: Warehouse) -> list[int]:
    return sorted(row["n"] for row in warehouse.load_table("t").scan().to_records())


@pytest.mark.parametrize("others", (0, 1, 3, 40))
@pytest.mark.parametrize("handed_in", (True, False), ids=("own id", "id of the library"))
@pytest.mark.parametrize("how", ("lost", "landed", "late", "staged"))
def test_a_second_call_with_id_and_base_ends_with_the_rows_once(how: str, handed_in: bool, others: int) -> None:
    _check_second_call(Warehouse(MemoryStorage("memory://recovery")), how, handed_in, others)


@pytest.mark.parametrize("how", ("lost", "landed", "staged"))
def test_a_second_call_works_over_every_store(any_warehouse: Warehouse, how: str) -> None:
    _check_second_call(any_warehouse, how, handed_in=False, others=2)


def _check_second_call(warehouse: Warehouse, how: str, handed_in: bool, others: int) -> None:
    table = warehouse.create_table("t", SCHEMA)
    table.append([{"n": 0}])
    held = warehouse.load_table("t")
    error, store = _fails(table, how, 1, **({"append_id": "mine"} if handed_in else {}))
    assert error.base >= 0
    for number in range(others):
        held.append([{"n": 100 + number}])
    if others and how == "late":
        with pytest.raises(StorageError):  # others have the number: it never lands
            store.land()
    before = _numbers(warehouse)
    # Once by an object that has seen the newest version, once by one as old as the failure, once by a new one.
    for again in (held, table, warehouse.load_table("t")):
        again.append([{"n": 1}], append_id=error.append_id, base=error.base)
    expected = sorted([0, 1, *(100 + number for number in range(others))])
    assert _numbers(warehouse) == expected
    assert before.count(1) <= 1
    assert held.append([{"n": 1}], append_id=error.append_id, base=error.base).already_appended
    assert _numbers(warehouse) == expected


@pytest.mark.parametrize("others", (0, 1, 20))
@pytest.mark.parametrize("handed_in", (True, False), ids=("own id", "id of the library"))
@pytest.mark.parametrize("how", ("lost", "landed"))
def test_a_deferred_append_of_unknown_outcome_is_staged_again(how: str, handed_in: bool, others: int) -> None:
    warehouse = Warehouse(MemoryStorage("memory://recovery"))
    table = warehouse.create_table("t", SCHEMA)
    held = warehouse.load_table("t")
    error, _ = _fails(table, how, 1, commit="deferred", **({"append_id": "mine"} if handed_in else {}))
    for number in range(others):
        held.append([{"n": 100 + number}])
    for mode in ("deferred", "now"):
        held.append([{"n": 1}], append_id=error.append_id, base=error.base, commit=mode)  # type: ignore[arg-type]
    held.flush()
    assert _numbers(warehouse) == sorted([1, *(100 + number for number in range(others))])


def test_a_second_failure_keeps_the_base_of_the_first(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the second call fails before it has read anything, its error still carries what the first one knew."""
    warehouse = Warehouse(MemoryStorage("memory://recovery"))
    table = warehouse.create_table("t", SCHEMA)
    for number in range(5):
        table.append([{"n": number}])
    first, _ = _fails(table, "lost", 9)
    assert first.base == 5
    store = Failing(table._storage, "lost")
    store.failed = True
    from datashard_core.commit.append import protocol

    def sent(group: Any) -> Any:  # a group whose rows were sent before the store refused
        group.sent = True
        return real(group)

    real = protocol._send_files
    monkeypatch.setattr(protocol, "_send_files", sent)
    broken = Table(store, "t", table._seen)  # type: ignore[arg-type]
    with pytest.raises(CommitStateUnknownError) as raised:
        broken.append([{"n": 9}], append_id=first.append_id, base=first.base, timeout=2)
    assert raised.value.base == first.base


def test_a_follower_whose_leader_was_interrupted_asks_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its error has no base to tell for an id that was handed in (-1): asking again works in an old table, too."""
    monkeypatch.setattr(lookup, "retention_cutoff_ms", lambda newest: 2**62)  # everything is out of the retention
    warehouse = Warehouse(MemoryStorage("memory://recovery"))
    table = warehouse.create_table("t", SCHEMA)
    for number in range(300):
        table.append([{"n": number}])

    def interrupted(items: Sequence[Append], timeout: float) -> dict[str, Any]:
        raise KeyboardInterrupt

    shared = SharedCommits()
    item = Append("mine", "00" * 16, "11" * 16, None, (), SCHEMA, None)
    with pytest.raises(KeyboardInterrupt):
        shared.append(item, 5.0, interrupted, "t")
    from datashard_core.table.shared import _unknown

    error = _unknown(item, "t", "interrupted")
    assert error.base == -1
    assert table.append([{"n": 1000}], append_id=error.append_id, base=error.base).version == 301
    assert table.append([{"n": 1000}], append_id=error.append_id, base=error.base).already_appended


def test_what_is_really_forgotten_is_still_said_to_be(monkeypatch: pytest.MonkeyPatch) -> None:
    """A base from before the retention is no new append: nobody knows whether the first try landed."""
    monkeypatch.setattr(lookup, "_ends", lambda node, horizon: True)
    warehouse = Warehouse(MemoryStorage("memory://recovery"))
    table = warehouse.create_table("t", SCHEMA)
    error, _ = _fails(table, "lost", 1)
    for number in range(600):
        table.append([{"n": number}])
    with pytest.raises(CommitStateUnknownError, match="are no longer kept"):
        table.append([{"n": 1}], append_id=error.append_id, base=error.base)


def test_a_call_that_ran_out_of_time_before_it_sent_anything_is_called_again() -> None:
    warehouse = Warehouse(MemoryStorage("memory://recovery"))
    table = warehouse.create_table("t", SCHEMA)
    with pytest.raises(CommitTimeoutError, match="Nothing was appended; call again"):
        table.append([{"n": 1}], append_id="mine", timeout=1e-6)
    warehouse.load_table("t").append([{"n": 0}])
    assert not table.append([{"n": 1}], append_id="mine").already_appended
    assert _numbers(warehouse) == [0, 1]
