"""Table metadata and its parts (Iceberg spec, "Table Metadata"), as values over the JSON.

Begin with :mod:`~datashard_core.format.metadata.table_metadata`. It keeps the JSON as it was read, so fields that this
library does not know survive a commit.

- ``table_metadata``: ``vN.metadata.json``, and the changes that a commit makes to it.
- ``snapshot``: snapshots and their summaries.
- ``retention``: which snapshots and log entries the next version keeps.
- ``partition``, ``transforms``: partition specs, and transforms read backwards for pruning.
- ``data_file``: data files as manifests describe them.

This group imports ``types`` and ``json_text``. ``expressions``, ``avro``, ``parquet``, ``manifests`` and the commit
layer import it.
"""
