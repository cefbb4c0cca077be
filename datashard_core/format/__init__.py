"""Iceberg's formats: bytes and rows to values and back. No I/O and no knowledge of commits.

The names are those of the Iceberg table spec, version 2; each module names its section. Begin with
:mod:`~datashard_core.format.metadata.table_metadata` for the table, with
:mod:`~datashard_core.format.manifests.manifest` for its files, and with :mod:`~datashard_core.format.rows.records` for
the rows of an append.

- :mod:`~datashard_core.format.types`: schemas and types, and which Python and Arrow values they accept.
- :mod:`~datashard_core.format.metadata`: table metadata, snapshots, partition specs, data files.
- :mod:`~datashard_core.format.rows`: rows in every form that users pass, checked against a schema.
- :mod:`~datashard_core.format.statistics`: counts and bounds of columns.
- :mod:`~datashard_core.format.expressions`: conditions on rows, and which files they can match.
- :mod:`~datashard_core.format.avro`: Avro container files.
- :mod:`~datashard_core.format.parquet`: Parquet files, with Arrow and without.
- :mod:`~datashard_core.format.manifests`: manifests and manifest lists, and their scan by a condition.
- ``json_text``: JSON and numbers that others wrote, within limits; ``kernels``: Arrow's compute functions.

From the bottom up: ``json_text`` and ``kernels``; ``types``; ``metadata`` and ``rows``; ``statistics``; ``avro`` and
``expressions``; ``manifests`` and ``parquet``. A group imports lower ones only, and groups named together do not import
each other. ``import-linter`` checks this.

``commit``, ``query``, ``table`` and ``pyiceberg`` import the format; the format imports ``errors`` and ``arguments``.
pyarrow, pandas and polars are imported inside functions, because a process that appends a few plain rows needs none.
"""
