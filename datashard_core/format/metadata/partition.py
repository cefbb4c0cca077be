"""Partition specs (Iceberg spec, "Partitioning")."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from msgspec import Struct

from datashard_core.errors import CorruptTableError

FIRST_FIELD_ID = 1000
"""Ids of partition fields begin here; a table without any has 999 as its last partition id."""


class PartitionField(Struct, frozen=True):
    """One field of a partition spec.

    Attributes:
        source_id: id of the column that it is made of.
        field_id: id of the partition field, from 1000 on.
        name: its name.
        transform: what is made of the column: ``identity``, ``day``, ``bucket[16]`` and so on.
    """

    source_id: int
    field_id: int
    name: str
    transform: str


class PartitionSpec(Struct, frozen=True):
    """How data files are divided; no field means not at all.

    Example:
        >>> PartitionSpec().to_dict()
        {'spec-id': 0, 'fields': []}
    """

    spec_id: int = 0
    fields: tuple[PartitionField, ...] = ()

    def to_dict(self) -> dict[str, Any]:
        """The spec as Iceberg's JSON has it."""
        return {
            "spec-id": self.spec_id,
            "fields": [
                {
                    "source-id": field.source_id,
                    "field-id": field.field_id,
                    "name": field.name,
                    "transform": field.transform,
                }
                for field in self.fields
            ],
        }

    @classmethod
    def from_dict(cls, raw: Mapping[str, Any]) -> PartitionSpec:
        """Read the spec from Iceberg's JSON.

        Raises:
            CorruptTableError: a key is missing.
        """
        try:
            fields = tuple(
                PartitionField(
                    source_id=field["source-id"],
                    field_id=field["field-id"],
                    name=field["name"],
                    transform=field["transform"],
                )
                for field in raw["fields"]
            )
            return cls(spec_id=raw["spec-id"], fields=fields)
        except (KeyError, TypeError) as error:
            raise CorruptTableError(f"not a partition spec ({error!r} is missing): {raw!r:.200}") from error
