"""Another engine in the simulation: it reads the newest version, adds a file, and commits by path.

It knows nothing of our protocol but the conditional creation of the next version, carries our table
properties on or drops them, and has no identity over its tries: each of them may land.
"""

from __future__ import annotations

from datashard_core.commit.core.current_version import find_current, move_hint
from datashard_core.commit.core.next_version import new_manifest
from datashard_core.commit.core.state import manifests_of
from datashard_core.commit.core.version_file import version_key
from datashard_core.effects.requests import Now, Put, PutData, PutIfAbsent, Unique
from datashard_core.effects.tasks import gather, outcomes_of
from datashard_core.errors import DataShardError
from datashard_core.format.manifests.manifest import encode_manifest_list
from datashard_core.format.metadata.snapshot import Snapshot, append_summary
from datashard_core.format.parquet.parquet import encode_parquet
from datashard_core.format.types.schema import Schema

TRIES = 4


async def foreign_commit(root: str, schema: Schema, name: str, keep_property: bool) -> tuple[str, str] | None:
    """Commit one row.

    Returns:
        Tag of the row and uuid of the table, of the try that surely landed; None if none is known to have.
    """
    import pyarrow as pa

    for attempt in range(TRIES):
        tag = f"{name}/{attempt}"
        found = await find_current(root)
        if found is None or found.newest.state != "table":
            return None
        table = found.newest.table
        now, for_data, for_list = await gather(Now(), Unique(), Unique())
        encoded = encode_parquet(pa.table({"tag": [tag]}, schema=schema.to_arrow()), schema)
        key = f"data/foreign_{for_data}.parquet"
        manifest = new_manifest(for_data, table, [encoded.data_file(f"{table.location}/{key}")], schema)
        live = await manifests_of(root, table.location, table.current_snapshot)
        sequence = table.last_sequence_number + 1
        list_key = f"metadata/manifests/manifest_list_{for_list}.avro"
        snapshot = Snapshot(
            snapshot_id=manifest.snapshot_id,
            parent_snapshot_id=table.current_snapshot_id,
            sequence_number=sequence,
            timestamp_ms=now.wall_ms,
            manifest_list=f"{table.location}/{list_key}",
            summary=_summary(append_summary(table.current_snapshot, manifest.files), keep_property),
            schema_id=table.schema.schema_id,
        )
        data = encode_manifest_list(
            (*live, manifest.listed(table.location, sequence)),
            snapshot_id=snapshot.snapshot_id,
            parent_snapshot_id=snapshot.parent_snapshot_id,
            sequence_number=sequence,
        )
        properties = dict(table.properties)
        if not keep_property:
            properties = {k: v for k, v in properties.items() if not k.startswith("datashard.")}
        body = table.with_snapshot(snapshot, now_ms=now.wall_ms, previous_metadata=None).with_properties(properties)
        await gather(PutData(key, encoded.data), Put(manifest.key, manifest.data), Put(list_key, data))
        version = found.newest.version + 1
        outcomes = await outcomes_of((PutIfAbsent(version_key(version), body.to_json()),))
        if not isinstance(outcomes[0], DataShardError):
            await move_hint(version, found.hint, root)
            return tag, table.table_uuid
    return None


def _summary(ours: dict[str, str], as_sail: bool) -> dict[str, str]:
    """Sail carries properties on, and leaves sizes out; ClickHouse writes them all."""
    return {key: told for key, told in ours.items() if not (as_sail and key.endswith("files-size"))}
