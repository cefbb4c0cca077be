"""Readers who ask for the rows that wait to be committed."""

from __future__ import annotations

import pytest

from datashard_core import Schema, col
from datashard_core.commit.append.deferred import defer
from datashard_core.commit.staging.body import MAX_BODY_BYTES
from datashard_core.effects.driver import run
from datashard_core.errors import ConfigurationError
from datashard_core.storage.base import Storage
from datashard_core.table.append import plan_append
from datashard_core.table.table import Table
from datashard_core.table.warehouse import Warehouse

SCHEMA = Schema(
    schema_id=1,
    fields=[{"id": 1, "name": "n", "type": "long", "required": True}, {"id": 2, "name": "s", "type": "string"}],
)


def stage(table: Table, storage: Storage, *numbers: int) -> None:
    """A deferred append whose turn to commit it never is."""
    import pyarrow as pa

    rows = pa.table({"n": numbers, "s": [str(n) for n in numbers]}).cast(table.schema.to_arrow())
    item = plan_append(
        rows,
        schema=table.schema,
        location=table.uri,
        storage=storage,
        clock=table._clock,
        append_id=None,
        base=None,
        known_version=table.version,
    )
    assert rows.nbytes < MAX_BODY_BYTES
    run(defer(item, table._target, table._seen), table._storage)


def test_staged_rows_are_read_on_request(any_storage: Storage) -> None:
    warehouse = Warehouse(any_storage)
    table = warehouse.create_table("t", SCHEMA)
    stage(table, any_storage, 7)
    assert table.scan(include_staged=True).to_records() == [{"n": 7, "s": "7"}]
    table.append([{"n": 1}])  # carries what waits
    stage(table, any_storage, 8, 9)
    reader = warehouse.load_table("t")
    assert sorted(row["n"] for row in reader.scan().to_records()) == [1, 7]
    everything = reader.scan(include_staged=True)
    assert sorted(row["n"] for row in everything.to_records()) == [1, 7, 8, 9]
    assert everything.count() == 4
    assert reader.scan(["s"], col("n") > 7, include_staged=True).to_arrow().to_pydict() == {"s": ["8", "9"]}
    assert reader.scan(where="n >= 7 and s <> '8'", include_staged=True).count() == 2
    assert reader.scan(include_staged=True, limit=3).to_arrow().num_rows == 3
    table.flush()
    assert sorted(row["n"] for row in reader.scan(include_staged=True).to_records()) == [1, 7, 8, 9]
    assert reader.scan(include_staged=True).count() == reader.refresh().count() == 4


def test_an_earlier_state_has_nothing_staged(warehouse: Warehouse) -> None:
    table = warehouse.create_table("t", SCHEMA)
    with pytest.raises(ConfigurationError, match="include_staged"):
        table.scan(version=0, include_staged=True)
