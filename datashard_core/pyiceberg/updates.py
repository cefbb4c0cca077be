"""What PyIceberg's updates make of a version, and which of them a table here takes. Pure."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterable, Mapping
from typing import Any

from pyiceberg.table.metadata import TableMetadataUtil
from pyiceberg.table.update import (
    AddSnapshotUpdate,
    RemovePropertiesUpdate,
    SetPropertiesUpdate,
    SetSnapshotRefUpdate,
    UpgradeFormatVersionUpdate,
    update_table_metadata,
)

from datashard_core.arguments import shown
from datashard_core.commit.core.properties import check_settings
from datashard_core.commit.core.recorded_ids import PROPERTY, PROTOCOL_PROPERTY
from datashard_core.commit.core.version_file import VersionFile, version_key
from datashard_core.errors import ConfigurationError
from datashard_core.format.metadata.table_metadata import FORMAT_VERSION, metadata_from
from datashard_core.format.types.distinct import check_distinct

log = logging.getLogger(__name__)

KEPT = frozenset({PROPERTY, PROTOCOL_PROPERTY})
ELSEWHERE = frozenset({"write.data.path", "write.metadata.path", "write.object-storage.path"})

CODE = frozenset({"py-io-impl", "write.py-location-provider.impl"})
"""What PyIceberg imports and calls, by its name."""
ACCESS = ("s3.", "client.", "adls.", "gcs.", "hf.")
"""How PyIceberg's file access begins the names of endpoints and keys."""


def next_metadata(
    parent: VersionFile, *, requirements: tuple[Any, ...], updates: tuple[Any, ...], root: str
) -> Mapping[str, Any] | None:
    """The metadata of the version after ``parent``; None where the updates change nothing.

    Args:
        parent: the newest version.
        requirements: what has to be true of it.
        updates: what is to change.
        root: URI of the table's root, for the metadata log.

    Raises:
        CommitFailedException: a requirement does not hold.
    """
    raw = parent.table.to_json().decode()
    current = TableMetadataUtil.parse_raw(raw)
    for requirement in requirements:
        requirement.validate(current)
    updated = update_table_metadata(current, updates, metadata_location=f"{root}/{version_key(parent.version)}")
    if updated == current:
        return None
    # What PyIceberg does not know of the metadata stays.
    known = set(raw_of(current)) | {"current-snapshot-id"}
    return {**{key: kept for key, kept in json.loads(raw).items() if key not in known}, **raw_of(updated)}


def raw_of(metadata: Any) -> dict[str, Any]:
    """PyIceberg's metadata as the JSON object of a metadata file."""
    raw: dict[str, Any] = json.loads(metadata.model_dump_json(exclude_none=True, by_alias=True))
    return {"current-snapshot-id": -1, **raw}


def only_appends(updates: tuple[Any, ...]) -> bool:
    """Whether the updates commute with appends: nothing but snapshots that append."""
    return all(
        isinstance(update, SetSnapshotRefUpdate)
        or (
            isinstance(update, AddSnapshotUpdate)
            and update.snapshot.summary is not None
            and update.snapshot.summary.operation.value == "append"
        )
        for update in updates
    )


def check_updates(updates: tuple[Any, ...], table: str) -> None:
    """Refuse to change properties that the table stands on.

    Raises:
        ValueError: a property is the library's own, is not known to it, has a value that it cannot have, or would
            put files where the table does not look.
    """
    for update in updates:
        if isinstance(update, SetPropertiesUpdate):
            check_properties(update.updates, table)
        elif isinstance(update, RemovePropertiesUpdate):
            _check_kept(update.removals)
        elif isinstance(update, UpgradeFormatVersionUpdate):
            _check_format(update.format_version)


def check_properties(properties: Mapping[str, str], table: str) -> None:
    """Refuse properties that a table here cannot have; raises as :func:`check_updates` does."""
    if not isinstance(properties, Mapping) or not all(isinstance(name, str) for name in properties):
        raise TypeError(f"properties={shown(properties)}: pass a mapping of text to text")
    _check_kept(properties)
    if outside := ELSEWHERE & set(properties):
        raise ValueError(
            f"the table property {min(outside)!r} cannot be set: it would put files outside the table's folder"
        )
    if chosen := [name for name in properties if name in CODE or name.startswith(ACCESS)]:
        raise ValueError(
            f"the table property {min(chosen)!r} of {table} cannot be set: who may write to a table does not choose "
            "the code, the endpoint or the keys that its readers use. Give it to the catalog instead."
        )
    _check_format(properties.get("format-version", FORMAT_VERSION))
    try:
        check_settings({name: str(text) for name, text in properties.items()}, table)
    except ConfigurationError as error:
        raise ValueError(str(error)) from error


def without_code(metadata: Any, table: str) -> Any:
    """PyIceberg's metadata of a table without the properties by which it would import code; the log names them."""
    if not (found := CODE & set(metadata.properties)):
        return metadata
    log.warning("table %s: its property %s is ignored: a table does not choose what code runs", table, min(found))
    kept = {name: text for name, text in metadata.properties.items() if name not in found}
    return metadata.model_copy(update={"properties": kept})


def check_schema(raw: Mapping[str, Any], table: str) -> None:
    """Refuse the metadata of a new table whose fields engines cannot tell apart by their names.

    Raises:
        ValueError: it names the fields.
    """
    try:
        check_distinct(metadata_from(raw, table).schema, table)
    except ConfigurationError as error:
        raise ValueError(str(error)) from error


def _check_kept(names: Iterable[str]) -> None:
    if kept := KEPT & set(names):
        raise ValueError(f"the table property {min(kept)!r} cannot be changed: it is kept by the library")


def _check_format(version: str | int) -> None:
    if str(version) != str(FORMAT_VERSION):
        raise ValueError(f"format-version {version}: tables here have Iceberg's format version {FORMAT_VERSION}")
