"""A version says which commit it was built on; a chain that does not match stops, and costs no request."""

from __future__ import annotations

import json
from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import pytest
from msgspec.structs import replace

import datashard_core as ds
from datashard_core.commit.core import chain
from datashard_core.commit.core import recorded_ids as n
from datashard_core.commit.core.version_file import HINT_KEY, VersionFile, parse_version, version_key
from datashard_core.errors import CorruptTableError, StorageError, StoreNotConditionalError
from datashard_core.storage.base import ObjectNotFoundError, PreconditionFailedError, Version
from datashard_core.storage.memory import MemoryStorage
from datashard_core.table.table import Table
from datashard_core.table.warehouse import Warehouse

SCHEMA = ds.Schema(fields=[{"id": 1, "name": "n", "type": "long"}])
UUID = "0f0e0d0c-0b0a-4908-8706-050403020100"


class Overwriting(MemoryStorage):
    """A store that checked before another writer had written: for chosen names it writes all the same."""

    late: frozenset[str] = frozenset()

    def put_if_absent(self, key: str, data: bytes) -> Version:
        return self.put(key, data) if key in self.late else super().put_if_absent(key, data)

    def at(self, folder: str) -> MemoryStorage:
        deeper = super().at(folder)
        deeper.__class__ = Overwriting
        return deeper


def two_tables() -> tuple[Warehouse, Table, Table]:
    """Two processes that have seen version 1 of a table."""
    warehouse = Warehouse(Overwriting())
    first = warehouse.create_table("t", SCHEMA)
    first.append([{"n": 0}])
    return warehouse, first, warehouse.load_table("t")


def both_create(first: Table, second: Table, monkeypatch: pytest.MonkeyPatch) -> None:
    """Both are told that they created the next version; the second body is the one that stays."""
    key = version_key(second.version + 1)
    first.append([{"n": 1}])
    first._storage.put(HINT_KEY, b"1")
    real = second._storage.get

    def get(asked: str, *rest: Any) -> Any:
        if asked == key:
            raise ObjectNotFoundError("not there yet", key=asked)
        return real(asked, *rest)

    with monkeypatch.context() as patch:
        # The second one looks, and the store checks, before the first one has written.
        patch.setattr(second._storage, "get", get)
        patch.setattr(second._storage, "late", frozenset({key}), raising=False)
        second.append([{"n": 2}])


def test_a_writer_that_was_overwritten_stops_at_the_next_version(monkeypatch: pytest.MonkeyPatch) -> None:
    _, first, second = two_tables()
    both_create(first, second, monkeypatch)
    assert first.version == second.version == 2
    second.append([{"n": 3}])  # built on what is there
    for _ in range(2):  # it stays so: nothing is appended by this process any more
        with pytest.raises(StoreNotConditionalError, match="does not keep If-None-Match, so commits were lost") as told:
            first.append([{"n": 4}])
        assert "v2.metadata.json" in str(told.value)
        with pytest.raises(StoreNotConditionalError):
            first.refresh()
    assert sorted(row["n"] for row in second.refresh().scan().to_records()) == [0, 2, 3]


def test_a_writer_that_builds_on_what_was_overwritten_is_noticed_by_all_others(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    warehouse, first, second = two_tables()
    both_create(first, second, monkeypatch)
    first.append([{"n": 3}])  # on its own version 2, which is not there any more
    with pytest.raises(StoreNotConditionalError, match="version 3 was built on commit"):
        second.append([{"n": 4}])
    first._storage.put(HINT_KEY, b"2")
    with pytest.raises(StoreNotConditionalError, match="version 3 was built on commit"):
        warehouse.load_table("t")  # a process that knew nothing reads both


def test_a_hint_that_another_writer_moved_to_the_same_version_makes_a_writer_look(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    _, first, second = two_tables()
    real = first._storage.replace
    stolen: list[str] = []

    def replace_after_a_rival(key: str, data: bytes, version: Version) -> Version:
        if key == HINT_KEY and data == b"2" and not stolen:
            # A rival was told that it created version 2 as well, overwrote it, and moves the hint first.
            body = json.loads(first._storage.get(version_key(2)).body)
            told = json.loads(body["properties"][n.PROPERTY])
            body["properties"][n.PROPERTY] = json.dumps({**told, "token": "ffffffffffffffff"})
            first._storage.put(version_key(2), json.dumps(body).encode())
            first._storage.put(HINT_KEY, b"2")
            stolen.append(key)
            raise PreconditionFailedError("moved", key=key)
        return real(key, data, version)

    monkeypatch.setattr(first._storage, "replace", replace_after_a_rival)
    with pytest.raises(
        StoreNotConditionalError, match=r"the store confirmed commit .* and holds commit 'ffffffffffffffff'"
    ):
        first.append([{"n": 1}])
    assert stolen
    assert second.append([{"n": 2}]).version == 3, "the rival's version is what others build on"


def body_of(version: int, names: n.CommitNames | None, state: str = "table") -> VersionFile:
    return VersionFile(version, state, None, names)  # type: ignore[arg-type]


def linked(tokens: Sequence[str] = ("", "")) -> tuple[n.CommitNames, n.CommitNames]:
    """The properties of two versions, the second of which is built on the first."""
    made: list[n.CommitNames] = []
    for version, token in enumerate(tokens):
        parent = made[-1] if made else None
        made.append(
            n.following(
                parent,
                parent_version=version - 1,
                table=UUID,
                first=0,
                commit_id=f"{version:032x}",
                names={},
                token=token,
            )
        )
    return made[0], made[1]


def test_what_is_a_contradiction_and_what_is_none() -> None:
    parent, child = linked(("aaaa", "bbbb"))
    assert child.parent == "aaaa"
    assert not chain.is_broken(body_of(0, parent), body_of(1, child))
    rival = replace(parent, token="cccc")
    assert chain.is_broken(body_of(0, rival), body_of(1, child))
    assert chain.is_broken(body_of(0, None), body_of(1, child)), "another engine's version took its place"
    assert not chain.is_broken(body_of(0, None, "tombstone"), body_of(1, child))
    older = replace(child, parent=None, token="")
    assert not chain.is_broken(body_of(0, rival), body_of(1, older)), "older releases record no parent"
    copied = body_of(2, child)  # another engine carried our property on
    assert not chain.is_broken(body_of(1, child), copied)
    on_foreign = n.following(child, parent_version=2, table=UUID, first=0, commit_id="3" * 32, names={})
    assert on_foreign.parent == ""
    assert not chain.is_broken(copied, body_of(3, on_foreign))
    assert chain.is_broken(body_of(2, replace(child, version=2)), body_of(3, on_foreign))


def test_a_commit_id_stands_in_for_a_token_of_older_releases() -> None:
    parent, child = linked()
    assert child.parent == parent.commit_id
    assert not chain.is_broken(body_of(0, parent), body_of(1, child))
    assert chain.is_broken(body_of(0, replace(parent, commit_id="f" * 32)), body_of(1, child))


def test_the_fields_survive_the_text_and_their_absence_does() -> None:
    _, child = linked(("aaaa", "bbbb"))
    text = n.encode(child)
    assert n.parse({n.PROPERTY: text}, UUID) == child
    raw = {key: value for key, value in json.loads(text).items() if key not in ("token", "parent")}
    older = n.parse({n.PROPERTY: json.dumps(raw)}, UUID)
    assert older is not None
    assert (older.token, older.parent, older.own_token) == ("", None, child.commit_id)


def test_every_version_of_ours_records_its_parent() -> None:
    table = Warehouse(MemoryStorage()).create_table("t", SCHEMA)
    for number in range(3):
        table.append([{"n": number}], append_id=f"append {number}")
    table.maintain()
    bodies = [
        parse_version(table._storage.get(version_key(number)).body, number, "here")
        for number in range(table.version + 1)
    ]
    for parent, child in pairwise(bodies):
        assert child.names is not None
        assert child.names.parent == chain.token_of(parent) != ""
    assert len({chain.token_of(body) for body in bodies}) == len(bodies)


def test_a_folder_that_was_removed_and_made_again_is_another_table_and_no_broken_chain() -> None:
    storage = MemoryStorage()
    held = Warehouse(storage).create_table("t", SCHEMA)
    held.append([{"n": 1}])
    held._storage.delete([info.key for info in held._storage.list("")])
    again = Warehouse(storage).create_table("t", SCHEMA)
    for number in range(3):
        again.append([{"n": number}])
    for ask in (held.refresh, lambda: held.append([{"n": 9}]), held.flush):
        with pytest.raises(CorruptTableError, match=r"removed and made again .* load it again"):
            ask()
    assert Warehouse(storage).load_table("t").count() == 3


def test_a_process_that_held_a_table_over_a_restore_is_told_to_load_it_again() -> None:
    storage = MemoryStorage()
    held = Warehouse(storage).create_table("t", SCHEMA)
    held.append([{"n": 0}])
    backup = {info.key: held._storage.get(info.key).body for info in held._storage.list("")}
    held.append([{"n": 1}])
    held._storage.delete([info.key for info in held._storage.list("")])
    for key, body in backup.items():
        held._storage.put(key, body)
    other = Warehouse(storage).load_table("t")
    for number in (20, 21):
        other.append([{"n": number}])
    with pytest.raises(StoreNotConditionalError, match=r"restored from a backup .* load the table again"):
        held.append([{"n": 3}])
    loaded = Warehouse(storage).load_table("t")
    loaded.append([{"n": 4}])
    assert sorted(row["n"] for row in loaded.scan().to_records()) == [0, 4, 20, 21]


@pytest.mark.parametrize(
    "refusal", [PreconditionFailedError("412"), StorageError("400"), StorageError("403", reason="access-denied")]
)
def test_a_store_that_stops_to_take_etags_does_not_leave_the_hint_behind(
    monkeypatch: pytest.MonkeyPatch, refusal: StorageError, caplog: pytest.LogCaptureFixture
) -> None:
    """A gateway in between was changed: what was learned of If-Match does not hold any more."""
    table = Warehouse(MemoryStorage()).create_table("t", SCHEMA)
    table.append([{"n": 0}])
    tried: list[str] = []

    def refuse(key: str, data: bytes, version: Version) -> Version:
        tried.append(key)
        raise refusal

    monkeypatch.setattr(table._storage, "replace", refuse)
    for number in (1, 2):
        table.append([{"n": number}])
        assert table._storage.get(HINT_KEY).body == str(table.version).encode()
    assert tried == [HINT_KEY] * 2, "one refused PUT a commit"
    assert "hint" not in caplog.text
