"""Parquet files with Iceberg's field ids: write rows and their metrics, and open files safely.

Begin with :mod:`~datashard_core.format.parquet.parquet`.

- ``parquet``: encode rows, with Arrow or without; the result describes its data file.
- ``python_parquet``: a few plain rows as Parquet, without Arrow.
- ``arrow_writer``, ``arrow_reader``: Arrow's writer and reader, without the rest of ``pyarrow.parquet``.
- ``footer``: what the last bytes of a file say.
- ``chunk_types``: a check of a footer before Arrow reads it, because one kind of damage ends the process.

A scan reads row groups in :mod:`datashard_core.table.parquet_rows`, and brings them into the form of the schema with
:mod:`datashard_core.format.rows.projection`.

This group imports ``rows``, ``statistics``, ``metadata``, ``types``, and ``avro`` for the varint that Thrift shares
with Avro. ``commit`` and ``table`` import it.
"""
