"""Schemas and types (Iceberg spec, "Schemas and Data Types"), and the values that each type accepts.

Begin with :mod:`~datashard_core.format.types.types`, then :mod:`~datashard_core.format.types.schema`.

- ``types``: the types as values, and their JSON form.
- ``schema``: a table's schema; public as ``datashard_core.Schema``.
- ``values``: the one rule for which Python value a field of a type accepts.
- ``ranges``: the ranges of dates, times and timestamps.
- ``distinct``: names of fields that engines cannot tell apart.
- ``arrow_types``: Arrow's types as Iceberg's, and back.
- ``infer``, ``pandas_index``: a schema from rows; the index of a pandas frame.

``schema`` imports ``arrow_types`` and ``infer`` when ``Schema.from_arrow`` or ``Schema.infer`` is called, so the three
form a circle that import-linter is told to ignore.

This group imports ``json_text``, ``kernels`` and ``errors``. Every other group of the format imports it.
"""
