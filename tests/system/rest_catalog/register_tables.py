"""Registers a table in a REST catalog and moves the registration: ``python register_tables.py FOLDER URL``.

Run in the environment that has PyIceberg.
"""

from __future__ import annotations

import sys

from pyiceberg.catalog import load_catalog

import datashard_core as ds
from datashard_core.pyiceberg import register

folder, url = sys.argv[1:]
warehouse = ds.connect(folder)
table = warehouse.create_table("shop.t", ds.Schema(fields=[{"id": 1, "name": "k", "type": "long"}]))
catalog = load_catalog("rest", type="rest", uri=url)


for k in range(3):
    table.append([{"k": k}])
    found = register(table, catalog, "logs.t")
    assert found.metadata_location == table.metadata_location
    assert sorted(found.scan().to_arrow()["k"].to_pylist()) == list(range(k + 1))
again = catalog.load_table("logs.t")
assert again.metadata_location == table.metadata_location
assert str(again.metadata.table_uuid) == str(found.metadata.table_uuid)
assert catalog.list_tables("logs") == [("logs", "t")]
assert table.refresh().count() == 3, "whatever the server dropped, the files stay"
other = warehouse.create_table("shop.other", table.schema)
try:
    register(other, catalog, "logs.t")
except ds.ConfigurationError as error:
    assert "is another table in the catalog rest" in str(error)
else:
    raise AssertionError("another table took the name")
print("registered")
