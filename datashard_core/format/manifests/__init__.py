"""Manifests and manifest lists (Iceberg spec, "Manifests"): which data files a snapshot has.

Begin with :mod:`~datashard_core.format.manifests.manifest`.

- ``manifest``: manifests and manifest lists as values, encoded and decoded.
- ``manifest_schema``: their Avro schemas, with Iceberg's field ids.
- ``manifest_scan``: the live files that a condition leaves; it reads no more of each entry than that takes.
- ``manifest_index``: bounds, counts and partition values of the live files of a manifest, column by column.
- ``partition_summary``: summaries of partition values in a manifest list.

Commits decode whole entries with ``manifest``; scans plan with ``manifest_scan`` and ``manifest_index``.

This group imports ``avro``, ``expressions``, ``statistics``, ``metadata`` and ``types``. ``commit`` and ``table``
import it.
"""
