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
