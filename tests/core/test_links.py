"""On local disk no symbolic link below a warehouse's folder is followed: to list, to read, to write or to delete."""

from __future__ import annotations

import logging
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from datetime import timedelta
from functools import partial
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

import datashard_core as ds
from datashard_core.errors import DataShardError, StorageError
from datashard_core.storage.base import ObjectNotFoundError, PreconditionFailedError, Storage, Version
from datashard_core.storage.folders import LinkError
from datashard_core.storage.keys import InvalidKeyError
from datashard_core.storage.local import LocalStorage
from datashard_core.table.table import Table
from datashard_core.table.warehouse import Warehouse

SCHEMA = ds.Schema(fields=[{"id": 1, "name": "n", "type": "long"}])
HOUR = timedelta(hours=1)
LONG_AGO = 10 * 24 * 3600.0


@pytest.fixture
def lake(tmp_path: Path) -> Warehouse:
    """A warehouse with a table, ``t``, and the table of somebody else, ``v``."""
    made = ds.connect(tmp_path / "lake")
    for name in ("t", "v"):
        table = made.create_table(name, SCHEMA)
        for number in range(3):
            table.append([{"n": number}])
    return made


@pytest.fixture
def elsewhere(tmp_path: Path) -> Path:
    """A folder outside of the warehouse, whose files are as old as they can be."""
    folder = tmp_path / "elsewhere"
    folder.mkdir()
    for name in ("a.parquet", "b.avro", "c.txt"):
        (folder / name).write_bytes(name.encode())
    _age(folder)
    return folder


def _age(folder: Path) -> None:
    for path in folder.rglob("*"):
        if path.is_file() and not path.is_symlink():
            os.utime(path, (time.time(), time.time() - LONG_AGO))


def _files(folder: Path) -> dict[str, bytes]:
    return {str(path): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def _folder(lake: Warehouse, name: str = "t") -> Path:
    return Path(lake.uri.removeprefix("file://")) / name


PLACES = {
    "a folder of data files": "data/linked",
    "a folder of manifests": "metadata/manifests/linked",
    "a folder of what is staged": "_datashard/staged/linked",
    "a folder of nothing": "linked",
}


@pytest.mark.parametrize("place", PLACES.values(), ids=PLACES.keys())
def test_what_lies_behind_a_link_stays(
    lake: Warehouse, elsewhere: Path, place: str, caplog: pytest.LogCaptureFixture
) -> None:
    before = _files(elsewhere)
    link = _folder(lake) / place
    link.parent.mkdir(parents=True, exist_ok=True)
    link.symlink_to(elsewhere)
    _age(_folder(lake))
    table = lake.load_table("t")
    table.append([{"n": 3}], commit="deferred")
    table.flush()
    table.maintain(HOUR)
    assert table.count() == 4
    with caplog.at_level(logging.WARNING, "datashard_core"):
        caplog.clear()
        lake.drop_table("t", purge=True)
    assert _files(elsewhere) == before
    assert link.is_symlink()
    if place != "linked":
        told = " ".join(record.getMessage() for record in caplog.records)
        assert repr(place) in told
        assert "left alone" in told


@pytest.mark.parametrize("kind", ["live", "dangling", "loop", "folder", "pipe"])
def test_a_link_as_a_file_stays_and_leads_nowhere(lake: Warehouse, tmp_path: Path, kind: str) -> None:
    victim = next(path for path in (_folder(lake, "v") / "data").iterdir())
    link = _folder(lake) / "data" / "auto_linked.parquet"
    if kind == "pipe":
        os.mkfifo(link)
    else:
        targets = {"live": victim, "dangling": tmp_path / "nothing", "loop": link, "folder": victim.parent}
        link.symlink_to(targets[kind])
    _age(_folder(lake))
    _age(_folder(lake, "v"))
    before = _files(_folder(lake, "v"))
    table = lake.load_table("t")
    table.maintain(HOUR)
    storage = table._storage
    for call in (storage.get, storage.get_data, storage.head, storage.open_input):
        with pytest.raises(StorageError, match="auto_linked") as caught:
            call("data/auto_linked.parquet")
        assert not isinstance(caught.value, ObjectNotFoundError)
    assert "data/auto_linked.parquet" not in [info.key for info in storage.list("")]
    if kind != "pipe":
        with pytest.raises(LinkError, match="is a symbolic link"):
            storage.delete(["data/auto_linked.parquet"])
        with pytest.raises(PreconditionFailedError):
            storage.put_if_absent("data/auto_linked.parquet", b"x")
        with pytest.raises(LinkError):
            storage.replace("data/auto_linked.parquet", b"x", Version("0"))
    lake.drop_table("t", purge=True)
    assert os.path.lexists(link)
    assert _files(_folder(lake, "v")) == before
    assert lake.load_table("v").count() == 3


def test_writing_in_the_place_of_a_link_leaves_what_it_leads_to(lake: Warehouse, elsewhere: Path) -> None:
    before = _files(elsewhere)
    storage = lake.load_table("t")._storage
    for number, write in enumerate((storage.put, storage.put_data)):
        link = _folder(lake) / "data" / f"{number}.parquet"
        link.symlink_to(elsewhere / "a.parquet")
        write(f"data/{number}.parquet", b"written")
        assert not link.is_symlink()
        assert link.read_bytes() == b"written"
    link = _folder(lake) / "data" / "streamed.parquet"
    link.symlink_to(elsewhere / "a.parquet")
    with storage.open_data("data/streamed.parquet") as sink:
        sink.write(b"written")
    assert link.read_bytes() == b"written"
    assert _files(elsewhere) == before


@pytest.mark.parametrize("folder", ["data", "metadata", "_datashard", "metadata/manifests"])
def test_a_folder_of_the_table_that_is_a_link_is_refused(lake: Warehouse, elsewhere: Path, folder: str) -> None:
    table = lake.load_table("t")
    own = _folder(lake) / folder
    moved = elsewhere / "moved"
    if own.exists():
        own.rename(moved)
    else:
        moved.mkdir()
        own.parent.mkdir(exist_ok=True)
    own.symlink_to(moved)
    _age(elsewhere)
    before = _files(elsewhere)
    raised: list[DataShardError] = []
    for operation in _operations(lake, table):
        try:
            operation()
        except DataShardError as error:
            raised.append(error)
    assert _files(elsewhere) == before
    assert own.is_symlink()
    assert any(str(own) in str(error) and "symbolic link" in str(error) for error in raised), raised


def _operations(lake: Warehouse, table: Table) -> list[Callable[[], object]]:
    return [
        lambda: table.scan().to_records(),
        lambda: table.append([{"n": 5}]),
        lambda: table.append([{"n": 6}], commit="deferred"),
        table.flush,
        table.compact,
        lambda: table.remove_orphans(HOUR),
        lambda: table.maintain(HOUR),
        lambda: lake.load_table("t"),
        lambda: lake.drop_table("t", purge=True),
    ]


def test_a_table_that_is_a_link_is_no_table(lake: Warehouse) -> None:
    before = _files(_folder(lake, "v"))
    _folder(lake, "alias").symlink_to(_folder(lake, "v"))
    assert lake.list_tables() == ["t", "v"]
    for operation in (
        lambda: lake.load_table("alias"),
        lambda: lake.table_exists("alias"),
        lambda: lake.create_table("alias", SCHEMA),
        lambda: lake.create_table("alias", SCHEMA, if_exists="open"),
        lambda: lake.drop_table("alias", purge=True),
        lambda: ds.load_table(f"{lake.uri}/alias"),
    ):
        with pytest.raises(LinkError, match="alias is a symbolic link, and links below"):
            operation()
    assert _files(_folder(lake, "v")) == before


def test_a_namespace_that_is_a_link_is_no_namespace(lake: Warehouse, tmp_path: Path) -> None:
    other = ds.connect(tmp_path / "other")
    other.create_table("x", SCHEMA).append([{"n": 1}])
    before = _files(tmp_path / "other")
    _folder(lake, "ns").symlink_to(tmp_path / "other")
    assert lake.list_tables() == ["t", "v"]
    for operation in (
        lambda: lake.list_tables("ns"),
        lambda: lake.load_table("ns.x"),
        lambda: lake.drop_table("ns.x", purge=True),
        lambda: lake.create_table("ns.y", SCHEMA),
    ):
        with pytest.raises(LinkError, match="ns is a symbolic link"):
            operation()
    assert _files(tmp_path / "other") == before


@pytest.mark.parametrize("above", [True, False])
def test_a_link_to_the_warehouse_or_above_it_works(lake: Warehouse, tmp_path: Path, above: bool) -> None:
    link = tmp_path / "link"
    link.symlink_to(tmp_path if above else tmp_path / "lake")
    linked = ds.connect(link / "lake" if above else link)
    assert linked.uri == lake.uri
    assert linked.list_tables() == ["t", "v"]
    table = linked.load_table("t")
    table.append([{"n": 3}])
    table.maintain(HOUR)
    assert lake.load_table("t").count() == 4
    linked.create_table("ns.new", SCHEMA).append([{"n": 1}])
    linked.drop_table("v", purge=True)
    assert lake.list_tables() == ["ns.new", "t"]


def test_a_link_to_a_table_is_no_warehouse_of_it(lake: Warehouse, tmp_path: Path) -> None:
    """Connecting to the link is connecting to the folder that it leads to: what lies in it are no tables."""
    link = tmp_path / "link"
    link.symlink_to(_folder(lake, "v"))
    assert ds.connect(link).list_tables() == []
    with pytest.raises(LinkError):
        ds.load_table(str(link))


@pytest.mark.parametrize("part", ["data", "t"])
def test_a_link_that_is_made_after_the_listing_is_not_followed(lake: Warehouse, tmp_path: Path, part: str) -> None:
    storage = lake.load_table("t")._storage
    keys = [info.key for info in storage.list("data/")]
    assert len(keys) == 3
    own = _folder(lake) / "data" if part == "data" else _folder(lake)
    own.rename(tmp_path / "moved")
    own.symlink_to(tmp_path / "moved")
    before = _files(tmp_path / "moved")
    for call in (
        partial(storage.delete, keys),
        partial(storage.get, keys[0]),
        partial(storage.open_input, keys[0]),
        lambda: storage.put("data/new", b"x"),
        lambda: storage.put_if_absent("data/new", b"x"),
        lambda: list(storage.list("data/")),
    ):
        with pytest.raises(LinkError):
            call()
    with pytest.raises(LinkError), storage.open_data("data/new"):
        pytest.fail("it was opened")
    assert _files(tmp_path / "moved") == before


def test_a_link_that_appears_while_the_folder_is_open_is_not_followed(lake: Warehouse, elsewhere: Path) -> None:
    """A sink stays in the folder that it was opened in."""
    storage = lake.load_table("t")._storage
    own = _folder(lake) / "data"
    with storage.open_data("data/new") as sink:
        sink.write(b"x")
        own.rename(_folder(lake) / "moved")
        own.symlink_to(elsewhere)
    assert (_folder(lake) / "moved" / "new").read_bytes() == b"x"
    assert not (elsewhere / "new").exists()


def test_where_the_system_does_not_name_open_files(lake: Warehouse, monkeypatch: pytest.MonkeyPatch) -> None:
    """macOS has no /proc: the same answers, by opening one folder after the other."""
    from datashard_core.storage import folders, local

    monkeypatch.setattr(folders, "is_path_of", lambda descriptor, path: False)
    monkeypatch.setattr(local, "is_path_of", lambda descriptor, path: False)
    table = lake.load_table("t")
    assert sorted(row["n"] for row in table.scan().to_records()) == [0, 1, 2]
    key = next(info.key for info in table._storage.list("data/"))
    with table._storage.open_input(key) as source:
        assert source.read(4) == b"PAR1"
    link = _folder(lake) / "data" / "linked"
    link.symlink_to(_folder(lake, "v") / "data")
    name = next((_folder(lake, "v") / "data").iterdir()).name
    for call in (table._storage.get, table._storage.open_input):
        with pytest.raises(LinkError):
            call(f"data/linked/{name}")


def test_where_arrow_does_not_number_its_files(lake: Warehouse, monkeypatch: pytest.MonkeyPatch) -> None:
    """``OSFile.fileno`` of pyarrow 21 raises AttributeError: files are read through descriptors of Python's."""

    class OSFile(pa.OSFile):
        def fileno(self) -> int:
            raise AttributeError("'pyarrow.lib.OSFile' object has no attribute 'handle'")

    monkeypatch.setattr(pa, "OSFile", OSFile)
    table = lake.load_table("t")
    assert sorted(row["n"] for row in table.scan().to_records()) == [0, 1, 2]
    key = next(info.key for info in table._storage.list("data/"))
    open_before = len(list(Path("/proc/self/fd").iterdir())) if Path("/proc/self/fd").exists() else 0
    with table._storage.open_input(key) as source:
        assert (source.read(4), source.read_at(4, 0), source.size()) == (b"PAR1", b"PAR1", source.seek(0, 2))
    if open_before:
        assert len(list(Path("/proc/self/fd").iterdir())) == open_before
    link = _folder(lake) / "data" / "linked"
    link.symlink_to(_folder(lake, "v") / "data")
    name = next((_folder(lake, "v") / "data").iterdir()).name
    with pytest.raises(LinkError):
        table._storage.open_input(f"data/linked/{name}")


def _killed(lake: Warehouse) -> None:
    """Append in a process that is killed where it has written temporary files, and given no name to one of them."""
    program = (
        "import os, signal, stat, sys, datashard_core as ds\n"
        "table = ds.load_table(sys.argv[1])\n"
        "fsync = os.fsync\n"
        "def die(descriptor):\n"
        "    fsync(descriptor)\n"
        "    if stat.S_ISREG(os.fstat(descriptor).st_mode):\n"
        "        os.kill(os.getpid(), signal.SIGKILL)\n"
        "os.fsync = die\n"
        "table.append([{'n': 1}], commit=sys.argv[2])\n"
    )
    for commit in ("now", "deferred"):
        done = subprocess.run(
            [sys.executable, "-c", program, f"{lake.uri}/t", commit], capture_output=True, text=True, check=False
        )
        assert done.returncode == -signal.SIGKILL, done.stderr


def _temporary(lake: Warehouse) -> list[Path]:
    return sorted(_folder(lake).rglob(".tmp-*"))


def test_what_a_killed_writer_left_is_removed_after_the_grace_period(lake: Warehouse) -> None:
    known = _files(_folder(lake))
    _killed(lake)
    left = set(_files(_folder(lake))) - set(known)
    assert left == {str(path) for path in _temporary(lake)}, "nothing but temporary files"
    assert len(left) >= 2
    table = lake.load_table("t")
    assert table.count() == 3
    assert table.remove_orphans(HOUR).files == 0, "another append may be writing them"
    assert len(_temporary(lake)) == len(left)
    for path in left:
        os.utime(path, (time.time(), time.time() - 7200))
    ensure_recent = _folder(lake) / "data" / ".tmp-young"
    ensure_recent.write_bytes(b"x")
    removed = table.remove_orphans(HOUR)
    assert removed.files == len(left)
    assert _temporary(lake) == [ensure_recent]
    assert table.append([{"n": 9}]).version == 4
    assert table.maintain(HOUR).orphans.files == 0


def test_a_purge_removes_what_a_killed_writer_left(lake: Warehouse) -> None:
    for name, age in (("old", LONG_AGO), ("young", 60.0)):
        path = _folder(lake) / "data" / f".tmp-{name}"
        path.write_bytes(b"x")
        os.utime(path, (time.time(), time.time() - age))
    lake.drop_table("t", purge=True)
    assert [path.name for path in _temporary(lake)] == [".tmp-young"]


def test_a_temporary_name_of_a_committed_file_is_no_part_of_it(lake: Warehouse) -> None:
    """A writer that is killed between the link and the removal leaves a second name of its version."""
    version = _folder(lake) / "metadata" / "v3.metadata.json"
    os.link(version, version.parent / ".tmp-second")
    folder = _folder(lake) / "data" / ".tmp-folder"
    folder.mkdir()
    link = _folder(lake) / "data" / ".tmp-link"
    link.symlink_to(version)
    body = version.read_bytes()
    os.utime(version, (time.time(), time.time() - LONG_AGO))
    table = lake.load_table("t")
    assert table.remove_orphans(HOUR).files == 1
    assert _temporary(lake) == [folder, link]
    assert version.read_bytes() == body
    assert version.stat().st_nlink == 1
    assert table.count() == 3


def test_a_local_append_leaves_no_second_names(lake: Warehouse) -> None:
    table = lake.load_table("t")
    for number in range(20):
        table.append([{"n": number}])
        table.append([{"n": number}], commit="deferred")
    table.flush()
    table.maintain(HOUR)
    assert _temporary(lake) == []
    linked = [path for path in _folder(lake).rglob("*") if path.is_file() and path.stat().st_nlink > 1]
    assert linked == []


@pytest.mark.parametrize("key", ["../v/data/x", "data/../../v/x", "/etc/passwd", "data//x"])
def test_no_key_leads_up(lake: Warehouse, key: str) -> None:
    storage: Storage = lake.load_table("t")._storage
    with pytest.raises(InvalidKeyError, match="lake/t"):
        storage.get(key)
    with pytest.raises(InvalidKeyError):
        storage.at(key)


def test_a_folder_in_place_of_a_file_is_no_file(lake: Warehouse) -> None:
    storage: Any = lake.load_table("t")._storage
    (_folder(lake) / "data" / "folder").mkdir()
    for call in (storage.get, storage.head, storage.open_input):
        with pytest.raises(ObjectNotFoundError):
            call("data/folder")
    with pytest.raises(ObjectNotFoundError):
        storage.get("metadata/v0.metadata.json/below")
    assert isinstance(storage, LocalStorage)
    storage.delete(["metadata/v0.metadata.json/below"])
    with pytest.raises(StorageError, match="could not delete"):
        storage.delete(["data/folder"])
