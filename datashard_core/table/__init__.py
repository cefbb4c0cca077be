"""What users hold: warehouses and tables, their appends, scans, history and maintenance.

Begin with :mod:`~datashard_core.table.table`, then follow one call down. Public names are exported by
:mod:`datashard_core`.

- ``warehouse``, ``namespaces``, ``names``: the folder or bucket prefix that holds tables, and the names in it.
- ``creation``, ``load``, ``ahead``: create and open a table; the first reads of a process.
- ``table``: the table; it holds the newest version that this process knows.
- ``append``, ``shared``: rows to an append of the commit layer; threads of a process share commits.
- ``scan``, ``plan``, ``parquet_rows``, ``streaming``, ``dataset``: read a snapshot: plan the files, read their rows,
  pass them on in order and in bounded memory, also to DuckDB.
- ``history``: earlier snapshots, and the rows appended between two of them.
- ``maintenance``: expiry, compaction and removal of orphans, as a user calls them.

This package runs the coroutines of the commit layer with :mod:`datashard_core.effects.driver` over a storage of
:mod:`datashard_core.storage`. It imports every package below it: ``query``, ``commit``, ``effects``, ``format``,
``storage`` and ``config``. ``workflow_log`` and ``pyiceberg`` import it.
"""
