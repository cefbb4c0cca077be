"""Avro container files as Iceberg uses them for manifests and manifest lists. Pure.

Begin with :mod:`~datashard_core.format.avro.avro`: ``write``, ``read`` and ``read_blocks`` are the interface; the other
modules are behind it.

- ``avro``: container files: header, blocks, codecs; fields are found by id.
- ``avro_schema``: the schema of a file, checked before anything is read by it.
- ``avro_reader``: records by a checked schema, value by value, within limits of memory.
- ``avro_records``: records as bytes.
- ``record_pattern``: records of one form, read by a regular expression made for it: some 20 times quicker.
- ``codecs``: compressed blocks.

Files of other writers are read within limits, and damage is an error that names the file.

This group imports ``metadata`` (field ids of partitions) and ``json_text``. ``manifests`` imports it.
"""
