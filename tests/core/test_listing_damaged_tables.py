"""One table that cannot be read hides no other: listings name it, and only loading it fails."""

from __future__ import annotations

import json
import logging
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import msgspec
import pytest

import datashard_core as ds
from datashard_core.errors import DataShardError, StorageError, StorageReason
from datashard_core.storage.base import ObjectInfo, StoredObject
from datashard_core.storage.local import LocalStorage
from datashard_core.storage.memory import MemoryStorage
from datashard_core.table.namespaces import Namespaces
from datashard_core.table.warehouse import Warehouse

SCHEMA = ds.Schema(fields=[{"id": 1, "name": "n", "type": "long"}])


def _newest(table: Path) -> Path:
    return table / "metadata" / "v1.metadata.json"


def _version_3(table: Path) -> None:
    raw = msgspec.json.decode(_newest(table).read_bytes())
    _newest(table).write_bytes(msgspec.json.encode({**raw, "format-version": 3}))


def _folder_as_file(table: Path) -> None:
    shutil.rmtree(table / "metadata")
    (table / "metadata").write_bytes(b"a file")


def _version_as_folder(table: Path) -> None:
    _newest(table).unlink()
    _newest(table).mkdir()


DAMAGED: dict[str, Callable[[Path], object]] = {
    "hint of rubbish": lambda t: (t / "metadata/version-hint.text").write_bytes(b"\xff\x00what"),
    "hint that is empty": lambda t: (t / "metadata/version-hint.text").write_bytes(b""),
    "hint of many digits": lambda t: (t / "metadata/version-hint.text").write_bytes(b"9" * 4000),
    "hint of an absent version": lambda t: (t / "metadata/version-hint.text").write_bytes(b"17"),
    "hint that is gone": lambda t: (t / "metadata/version-hint.text").unlink(),
    "version that is no JSON": lambda t: _newest(t).write_bytes(b'{"format-version": 2, '),
    "version that is empty": lambda t: _newest(t).write_bytes(b""),
    "version that is a list": lambda t: _newest(t).write_bytes(b"[]"),
    "version without a schema": lambda t: _newest(t).write_bytes(b'{"format-version": 2}'),
    "version that is a tombstone": lambda t: _newest(t).write_bytes(b'{"datashard.tombstone": 1}'),
    "format version 3": _version_3,
    "version that is a folder": _version_as_folder,
}
READABLE = {"hint of rubbish", "hint that is empty", "hint of an absent version", "hint that is gone"}


@pytest.fixture
def home(tmp_path: Path) -> Warehouse:
    """Tables, two of them to be damaged, in a namespace and in none."""
    warehouse = Warehouse(LocalStorage(tmp_path / "home"))
    for name in ("a", "bad", "z", "ns.a", "ns.bad", "ns.z"):
        warehouse.create_table(name, SCHEMA).append([{"n": 1}])
    warehouse.create_table("gone", SCHEMA)
    warehouse.drop_table("gone")
    return warehouse


ALL = ["a", "bad", "ns.a", "ns.bad", "ns.z", "z"]


@pytest.mark.parametrize("kind", DAMAGED)
def test_a_table_that_cannot_be_read_is_listed_and_hides_no_other(
    home: Warehouse, tmp_path: Path, kind: str, caplog: pytest.LogCaptureFixture
) -> None:
    for folder in ("bad", "ns/bad"):
        DAMAGED[kind](tmp_path / "home" / folder)
    with caplog.at_level(logging.WARNING):
        assert home.list_tables() == ALL
        assert home.list_tables("ns") == ["ns.a", "ns.bad", "ns.z"]
    assert Namespaces(home).names() == ["ns"]
    assert Namespaces(home).exists("ns")
    assert home.load_table("z").count() == 1
    if kind in READABLE:
        assert home.load_table("bad").version <= 1
        return
    if kind not in ("version that is a folder", "hint of many digits"):
        assert "table bad is listed, and cannot be read" in caplog.text
        assert home.table_exists("bad")
        with pytest.raises(DataShardError, match="bad"):
            home.load_table("bad")
        with pytest.raises(DataShardError, match="bad"):
            home.drop_table("bad")


def test_a_query_of_other_tables_goes_on(home: Warehouse, tmp_path: Path) -> None:
    DAMAGED["version that is no JSON"](tmp_path / "home" / "bad")
    assert home.sql("select sum(n) as s from a join z using (n)").to_pylist() == [{"s": 1}]
    with pytest.raises(DataShardError, match="bad"):
        home.sql("select * from bad")


def test_files_in_the_place_of_folders_are_no_tables(home: Warehouse, tmp_path: Path) -> None:
    (tmp_path / "home" / "file").write_bytes(b"a file")
    (tmp_path / "home" / "ns" / "file").write_bytes(b"a file")
    assert home.list_tables() == ALL
    _folder_as_file(tmp_path / "home" / "bad")
    listed = home.list_tables()
    assert [name for name in listed if not name.startswith("bad")] == [name for name in ALL if name != "bad"]


NOBODY = 65534
LISTING = """
import json, os, sys
import datashard_core as ds

home, denied, user = sys.argv[1], sys.argv[2], int(sys.argv[3])
ds.connect(home).list_tables()  # root reads everything, and imports what that user may not read
if os.geteuid() == 0:
    os.setgroups([])
    os.setgid(user)
    os.setuid(user)
assert not os.access(denied, os.R_OK | os.X_OK), "this user may read it"
print(json.dumps(ds.connect(home).list_tables()))
"""


@pytest.fixture
def reachable(home: Warehouse, tmp_path: Path) -> Iterator[Path]:
    """The tables where another user reaches them, whose they are if this is root; pytest's folders are root's alone."""
    with tempfile.TemporaryDirectory(prefix="datashard-") as made:
        folder = Path(made)
        shutil.copytree(tmp_path / "home", folder / "home")
        if os.geteuid() == 0:
            for path in (folder, *folder.rglob("*")):
                os.chown(path, NOBODY, NOBODY)
        yield folder / "home"


@pytest.mark.parametrize("denied", ["bad", "ns/bad", "bad/metadata"])
def test_a_table_that_this_user_may_not_read_hides_no_other(reachable: Path, denied: str) -> None:
    """In a process of its own, which is not root's: root may read everything."""
    folder = reachable / denied
    folder.chmod(0)
    try:
        command = [sys.executable, "-c", LISTING, str(reachable), str(folder), str(NOBODY)]
        done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    finally:
        folder.chmod(0o755)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout) == ALL
    name = denied.removesuffix("/metadata").replace("/", ".")
    assert re.findall(r"table (\S+) is listed, and cannot be read", done.stderr) == [name], done.stderr


class Refusing(MemoryStorage):
    """A store that answers nothing about one folder."""

    refused = ""
    reason: StorageReason = "access-denied"

    def at(self, folder: str) -> MemoryStorage:
        deeper = super().at(folder)
        deeper.__class__ = Refusing
        deeper.refused, deeper.reason = self.refused, self.reason  # type: ignore[attr-defined]
        return deeper

    def _refuse(self, key: str) -> None:
        if self.refused and f"{self._base}{key}".startswith(self.refused):
            raise StorageError(f"no permission to read {key}", reason=self.reason, key=key)

    def get(self, key: str, byte_range: tuple[int, int] | None = None) -> StoredObject:
        self._refuse(key)
        return super().get(key, byte_range)

    def head(self, key: str) -> ObjectInfo:
        self._refuse(key)
        return super().head(key)

    def folders(self, folder: str = "") -> list[str]:
        self._refuse(f"{folder}/" if folder else "")
        return list(super().folders(folder))


@pytest.mark.parametrize("refused", ["bad/", "ns/bad/", "ns/bad/metadata/v"])
def test_a_table_that_the_store_does_not_show_hides_no_other(refused: str) -> None:
    store = Refusing("memory://store")
    home = Warehouse(store)
    for name in ("a", "bad", "z", "ns.a", "ns.bad", "ns.z"):
        home.create_table(name, SCHEMA)
    store.refused = refused
    assert home.list_tables() == ALL
    assert Namespaces(home).names() == ["ns"]
    store.reason = "unreachable"
    with pytest.raises(StorageError):
        home.list_tables()
