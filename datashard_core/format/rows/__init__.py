"""Rows of appends and scans: from what a user passes to Arrow columns of a schema, and from files to a schema.

Everything is checked before anything is written: no value is changed, rounded or dropped without an error. Begin with
:func:`~datashard_core.format.rows.records.to_table`.

- ``records``: dicts, Arrow, pandas and Polars data as an Arrow table in the form of a schema.
- ``columns``: Python values as Arrow columns; ``frames``: Arrow, pandas and Polars columns.
- ``python_rows``: a few rows of plain columns, appended without Arrow.
- ``required``: whether required fields have values.
- ``digest``: digests of rows, to compare appends with the same id, and of append ids.
- ``projection``: rows of a Parquet file in the form of a schema, by field id.
- ``arrow_ipc``: the memory that an Arrow IPC stream asks for, before it is decoded.

This group imports ``types`` and ``json_text``. ``statistics``, ``parquet``, ``commit`` and ``table`` import it.
"""
