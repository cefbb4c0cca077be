"""Commits of other libraries through our commit point, as PyIceberg makes them: schemas change, files are
deleted, or named again."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import msgspec
from msgspec.structs import replace

from datashard_core.commit.core.manifest_merge import as_existing
from datashard_core.commit.core.next_version import NewManifest, manifest_of, new_manifest, snapshot_id_from
from datashard_core.commit.core.paths import key_of
from datashard_core.commit.core.state import TableState, Target, manifests_of
from datashard_core.commit.core.version_file import VersionFile
from datashard_core.commit.external.commit import commit_external
from datashard_core.effects.requests import Get, Now, Put, Unique
from datashard_core.effects.tasks import gather
from datashard_core.format.manifests.manifest import (
    DELETED,
    ManifestEntry,
    ManifestFile,
    decode_manifest,
    encode_manifest_list,
)
from datashard_core.format.metadata.snapshot import Snapshot
from datashard_testkit.history import ROOT

if TYPE_CHECKING:
    import random

PATIENT = 60.0


async def add_a_column(target: Target) -> bool:
    """Add an optional column, while rows of older schemas are on their way; whether it was done."""
    return (await commit_external(target, _with_a_column, PATIENT)) is not None


def _with_a_column(newest: VersionFile) -> dict[str, Any]:
    raw: dict[str, Any] = msgspec.json.decode(newest.table.to_json())
    added = raw["last-column-id"] + 1
    before = newest.table.schema.to_dict()
    number = max(schema["schema-id"] for schema in raw["schemas"]) + 1
    column = {"id": added, "name": f"column_{added}", "type": "long", "required": False}
    schema = {**before, "schema-id": number, "fields": [*before["fields"], column]}
    return {
        **raw,
        "schemas": [*raw["schemas"], schema],
        "current-schema-id": number,
        "last-column-id": added,
    }


async def delete_a_file(target: Target, seen: TableState, choices: random.Random, tried: dict[int, str]) -> bool:
    """Delete the rows of one data file; whether that is known to be done.

    Args:
        target: the table.
        seen: the version whose files are looked at; if it is not the newest any more, nothing is done.
        choices: chooses the file.
        tried: gets the snapshot that deletes the file, before anything is sent.
    """
    listed, holder, entries = await _some_manifest(seen, choices)
    if holder is None:
        return False
    gone = choices.choice(entries)
    unique: str = await Unique()
    snapshot_id = snapshot_id_from(unique)
    left = [
        replace(entry, status=DELETED, snapshot_id=snapshot_id) if entry is gone else as_existing(entry)
        for entry in entries
    ]
    table = seen.body.table
    manifest = manifest_of(unique, snapshot_id, left, table.schema, table.spec)
    tried[snapshot_id] = key_of(gone.data_file.file_path, table.location, ROOT)
    written = manifest.listed(table.location, table.last_sequence_number + 1)
    after = [written if one is holder else one for one in listed]
    return await _commit(target, seen, manifest, after, "delete")


async def name_again(target: Target, seen: TableState, choices: random.Random, tried: dict[int, list[str]]) -> bool:
    """Add a live data file again, once or twice, as PyIceberg does with ``check_duplicate_files=False``.

    Every engine reads its rows once more for each time it is named. The arguments are those of :func:`delete_a_file`,
    but that a snapshot may name several files.
    """
    listed, holder, entries = await _some_manifest(seen, choices)
    if holder is None:
        return False
    named = [choices.choice(entries).data_file for _ in range(choices.choice((1, 2)))]
    if choices.random() < 0.3:  # the same place, as another engine spells it
        named[0] = replace(named[0], file_path=named[0].file_path.replace("s3://", "s3a://"))
    unique: str = await Unique()
    table = seen.body.table
    manifest = new_manifest(unique, table, named, table.schema)
    tried[manifest.snapshot_id] = [key_of(file.file_path, table.location, ROOT) for file in named]
    written = manifest.listed(table.location, table.last_sequence_number + 1)
    return await _commit(target, seen, manifest, [*listed, written], "append")


async def _some_manifest(
    seen: TableState, choices: random.Random
) -> tuple[list[ManifestFile], ManifestFile | None, list[ManifestEntry]]:
    """The data manifests of a version, and one of them with its live entries; None where there is none."""
    table = seen.body.table
    listed = [one for one in (await manifests_of(ROOT, table.location, table.current_snapshot)) if not one.content]
    if not listed:
        return listed, None, []
    holder = choices.choice(listed)
    stored = await Get(key_of(holder.manifest_path, table.location, ROOT))
    entries = [entry for entry in decode_manifest(stored.body, holder) if entry.status != DELETED]
    return listed, holder if entries else None, entries


async def _commit(
    target: Target, seen: TableState, manifest: NewManifest, after: list[ManifestFile], operation: str
) -> bool:
    """Commit a manifest list through our commit point, if the version seen is still the newest."""
    table = seen.body.table
    now, for_list = await gather(Now(), Unique())
    key = f"metadata/manifests/manifest_list_{for_list}.avro"
    snapshot = Snapshot(
        snapshot_id=manifest.snapshot_id,
        parent_snapshot_id=table.current_snapshot_id,
        sequence_number=table.last_sequence_number + 1,
        timestamp_ms=now.wall_ms,
        manifest_list=f"{table.location}/{key}",
        summary={"operation": operation},
        schema_id=table.schema.schema_id,
    )
    encoded = encode_manifest_list(
        after,
        snapshot_id=snapshot.snapshot_id,
        parent_snapshot_id=snapshot.parent_snapshot_id,
        sequence_number=snapshot.sequence_number,
    )
    await gather(Put(manifest.key, manifest.data), Put(key, encoded))

    def build(newest: VersionFile) -> dict[str, Any] | None:
        if newest.version != seen.body.version:
            return None
        changed = newest.table.with_snapshot(snapshot, now_ms=now.wall_ms, previous_metadata=None)
        raw: dict[str, Any] = msgspec.json.decode(changed.to_json())
        return raw

    made = await commit_external(target, build, PATIENT)
    return made is not None and made.body.table.current_snapshot_id == snapshot.snapshot_id
