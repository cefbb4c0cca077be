"""PyIceberg, through our catalog, reads, writes and deletes in a table's own folder alone."""

from __future__ import annotations

import json
import pickle
from pathlib import Path

import pyarrow as pa
import pytest
from pyiceberg.catalog import Catalog, load_catalog

import datashard_core as ds

SCHEMA = ds.Schema(fields=[{"id": 1, "name": "n", "type": "long"}])


@pytest.fixture
def catalog(tmp_path: Path) -> Catalog:
    lake = ds.connect(tmp_path)
    for name, number in (("ns.t", 1), ("ns.v", 99)):
        lake.create_table(name, SCHEMA).append([{"n": number}])
    return load_catalog(
        "lake", **{"py-catalog-impl": "datashard_core.pyiceberg.DataShardCatalog", "warehouse": str(tmp_path)}
    )


def _point_at_victim(tmp_path: Path, up: str) -> None:
    """Let the newest version of t name the manifest list of v."""
    own, theirs = (tmp_path / "ns" / name / "metadata" / "v1.metadata.json" for name in "tv")
    stolen = json.loads(theirs.read_bytes())["snapshots"][-1]["manifest-list"]
    metadata = json.loads(own.read_bytes())
    metadata["snapshots"][-1]["manifest-list"] = stolen.replace("/ns/v/", up)
    own.write_text(json.dumps(metadata))


@pytest.mark.parametrize("up", ["/ns/v/", "/ns/t/../v/", "/ns/t/data/../../v/"])
def test_a_crafted_table_is_not_read_outside_its_folder(catalog: Catalog, tmp_path: Path, up: str) -> None:
    _point_at_victim(tmp_path, up)
    table = catalog.load_table("ns.t")
    with pytest.raises(ValueError, match=r"names the file '.*/v/metadata/manifests/.*', which"):
        table.scan().to_arrow()
    assert catalog.load_table("ns.v").scan().to_arrow()["n"].to_pylist() == [99]


def test_its_file_access_stays_in_the_folder(catalog: Catalog, tmp_path: Path) -> None:
    victim = next((tmp_path / "ns" / "v" / "data").iterdir())
    table = catalog.load_table("ns.t")
    for io in (table.io, pickle.loads(pickle.dumps(table.io))):
        for call in (io.new_input, io.new_output, io.delete):
            for uri in (f"file://{victim}", f"{table.location()}/../v/data/{victim.name}", str(victim)):
                with pytest.raises(ValueError, match=r"the table at .*/ns/t names the file"):
                    call(uri)
        own = next((tmp_path / "ns" / "t" / "data").iterdir())
        assert io.new_input(f"{table.location()}/data/{own.name}").exists()
    assert victim.exists()


def test_what_is_in_the_folder_is_read_and_written(catalog: Catalog) -> None:
    table = catalog.load_table("ns.t")
    table.append(pa.table({"n": [2]}, schema=table.schema().as_arrow()))
    table.delete("n = 1")
    assert table.scan().to_arrow()["n"].to_pylist() == [2]
    assert catalog.load_table("ns.t").scan().to_arrow()["n"].to_pylist() == [2]


def _set_by_hand(tmp_path: Path, properties: dict[str, str]) -> None:
    """Somebody who may write to the table's folder writes its newest version again."""
    path = tmp_path / "ns" / "t" / "metadata" / "v1.metadata.json"
    metadata = json.loads(path.read_bytes())
    metadata["properties"] |= properties
    path.write_text(json.dumps(metadata))


CHOICES = {
    "py-io-impl": "planted_code.FileIO",
    "write.py-location-provider.impl": "planted_code.LocationProvider",
    "s3.endpoint": "http://127.0.0.1:1",
    "client.region": "nowhere",
    "s3.proxy-uri": "http://127.0.0.1:1",
}


def test_a_table_chooses_neither_code_nor_endpoint(
    catalog: Catalog, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its properties are written by who may write to it; the keys and the process are its reader's."""
    planted = tmp_path / "planted"
    planted.mkdir()
    (planted / "planted_code.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w').close()")
    monkeypatch.syspath_prepend(str(planted))
    _set_by_hand(tmp_path, CHOICES)
    table = catalog.load_table("ns.t")
    assert not set(CHOICES) & set(table.io.properties)
    assert table.scan().to_arrow()["n"].to_pylist() == [1]
    table.append(pa.table({"n": [2]}))
    with table.transaction() as transaction:
        transaction.set_properties({"owner": "me"})
    assert sorted(catalog.load_table("ns.t").scan().to_arrow()["n"].to_pylist()) == [1, 2]
    assert not (tmp_path / "ran").exists()
    assert table.properties["owner"] == "me"


@pytest.mark.parametrize("name", CHOICES)
def test_such_a_property_cannot_be_set(catalog: Catalog, name: str) -> None:
    table = catalog.load_table("ns.t")
    with pytest.raises(ValueError, match=f"'{name}' of ns.t cannot be set"):
        table.transaction().set_properties({name: CHOICES[name]}).commit_transaction()
    with pytest.raises(ValueError, match=f"'{name}' of ns.new cannot be set"):
        catalog.create_table("ns.new", table.schema(), properties={name: CHOICES[name]})
    assert name not in catalog.load_table("ns.t").properties
    assert not catalog.table_exists("ns.new")
