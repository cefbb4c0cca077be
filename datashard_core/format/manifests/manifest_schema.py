"""Avro schemas of manifests and manifest lists, with Iceberg's field ids (spec, "Manifests")."""

from __future__ import annotations

from typing import Any

from datashard_core.format.metadata.partition import PartitionSpec
from datashard_core.format.types import types as t
from datashard_core.format.types.schema import Schema

AvroSchema = dict[str, Any]

_AVRO: dict[str, Any] = {
    "boolean": "boolean",
    "int": "int",
    "long": "long",
    "float": "float",
    "double": "double",
    "string": "string",
    "binary": "bytes",
    "date": {"type": "int", "logicalType": "date"},
    "time": {"type": "long", "logicalType": "time-micros"},
    "timestamp": {"type": "long", "logicalType": "timestamp-micros", "adjust-to-utc": False},
    "timestamptz": {"type": "long", "logicalType": "timestamp-micros", "adjust-to-utc": True},
    "uuid": {"type": "fixed", "size": 16, "logicalType": "uuid", "name": "uuid_fixed"},
}


def _field(field_id: int, name: str, kind: Any) -> AvroSchema:
    return {"name": name, "type": kind, "field-id": field_id}


def _optional(field_id: int, name: str, kind: Any) -> AvroSchema:
    return {"name": name, "type": ["null", kind], "default": None, "field-id": field_id}


def _list(element_id: int, kind: str) -> AvroSchema:
    return {"type": "array", "items": kind, "element-id": element_id}


def _map(key_id: int, value_id: int, value: str) -> AvroSchema:
    """A map with int keys: Avro has only text keys, so an array of pairs that says it is a map."""
    pair = {
        "type": "record",
        "name": f"k{key_id}_v{value_id}",
        "fields": [_field(key_id, "key", "int"), _field(value_id, "value", value)],
    }
    return {"type": "array", "items": pair, "logicalType": "map"}


def _avro_type(kind: t.IcebergType, name: str) -> Any:
    if isinstance(kind, t.DecimalType):
        size = _decimal_bytes(kind.precision)
        return {
            "type": "fixed",
            "size": size,
            "logicalType": "decimal",
            "precision": kind.precision,
            "scale": kind.scale,
            "name": f"decimal_{name}",
        }
    if isinstance(kind, t.FixedType):
        return {"type": "fixed", "size": kind.length, "name": f"fixed_{name}"}
    return _AVRO[str(kind)]


def _decimal_bytes(precision: int) -> int:
    return (int(10**precision).bit_length() + 8) // 8


def transformed(kind: t.IcebergType, transform: str) -> t.IcebergType:
    """Type of a partition value (spec, "Partition Transforms")."""
    if transform.startswith("bucket") or transform in ("year", "month", "hour"):
        return t.PrimitiveType("int")
    if transform == "day":
        return t.PrimitiveType("date")
    return kind


def partition_schema(spec: PartitionSpec, schema: Schema) -> AvroSchema:
    """The record of partition values; it has no fields for an unpartitioned table."""
    fields = []
    for field in spec.fields:
        source = schema.find(field.source_id)
        kind = source.type if source is not None else t.PrimitiveType("string")
        avro = _avro_type(transformed(kind, field.transform), field.name)
        fields.append(_optional(field.field_id, field.name, avro))
    return {"type": "record", "name": "r102", "fields": fields}


def manifest_entry_schema(spec: PartitionSpec, schema: Schema) -> AvroSchema:
    """Schema of a manifest's entries."""
    data_file = {
        "type": "record",
        "name": "r2",
        "fields": [
            _field(134, "content", "int"),
            _field(100, "file_path", "string"),
            _field(101, "file_format", "string"),
            _field(102, "partition", partition_schema(spec, schema)),
            _field(103, "record_count", "long"),
            _field(104, "file_size_in_bytes", "long"),
            _optional(108, "column_sizes", _map(117, 118, "long")),
            _optional(109, "value_counts", _map(119, 120, "long")),
            _optional(110, "null_value_counts", _map(121, 122, "long")),
            _optional(137, "nan_value_counts", _map(138, 139, "long")),
            _optional(125, "lower_bounds", _map(126, 127, "bytes")),
            _optional(128, "upper_bounds", _map(129, 130, "bytes")),
            _optional(131, "key_metadata", "bytes"),
            _optional(132, "split_offsets", _list(133, "long")),
            _optional(135, "equality_ids", _list(136, "int")),
            _optional(140, "sort_order_id", "int"),
        ],
    }
    return {
        "type": "record",
        "name": "manifest_entry",
        "fields": [
            _field(0, "status", "int"),
            _optional(1, "snapshot_id", "long"),
            _optional(3, "sequence_number", "long"),
            _optional(4, "file_sequence_number", "long"),
            _field(2, "data_file", data_file),
        ],
    }


_SUMMARY = {
    "type": "record",
    "name": "r508",
    "fields": [
        _field(509, "contains_null", "boolean"),
        _optional(518, "contains_nan", "boolean"),
        _optional(510, "lower_bound", "bytes"),
        _optional(511, "upper_bound", "bytes"),
    ],
}

MANIFEST_FILE_SCHEMA: AvroSchema = {
    "type": "record",
    "name": "manifest_file",
    "fields": [
        _field(500, "manifest_path", "string"),
        _field(501, "manifest_length", "long"),
        _field(502, "partition_spec_id", "int"),
        _field(517, "content", "int"),
        _field(515, "sequence_number", "long"),
        _field(516, "min_sequence_number", "long"),
        _field(503, "added_snapshot_id", "long"),
        _field(504, "added_files_count", "int"),
        _field(505, "existing_files_count", "int"),
        _field(506, "deleted_files_count", "int"),
        _field(512, "added_rows_count", "long"),
        _field(513, "existing_rows_count", "long"),
        _field(514, "deleted_rows_count", "long"),
        _optional(507, "partitions", {"type": "array", "items": _SUMMARY, "element-id": 508}),
        _optional(519, "key_metadata", "bytes"),
    ],
}


def _names(schema: AvroSchema) -> dict[int, str]:
    found: dict[int, str] = {}
    for field in schema["fields"]:
        found[field["field-id"]] = field["name"]
        kind = field["type"]
        inside = kind[1] if isinstance(kind, list) else kind
        items = inside.get("items", inside) if isinstance(inside, dict) else inside
        if isinstance(items, dict) and items.get("type") == "record":
            found |= _names(items)
    return found


FIELD_NAMES: dict[int, str] = {
    **_names(MANIFEST_FILE_SCHEMA),
    **_names(manifest_entry_schema(PartitionSpec(), Schema(0, [{"id": 1, "name": "_", "type": "int"}]))),
}
"""What this library calls the fields of manifests and manifest lists, by Iceberg's field ids."""
