"""Conditions on rows: ``col("n") > 3`` as a value, bound to a schema, applied to files and to rows.

Begin with :mod:`~datashard_core.format.expressions.expressions`, which is public.

- ``expressions``: conditions as a user writes them.
- ``binding``: a condition bound to a schema: columns by field id, values checked, no "not" left.
- ``pruning``: whether some or all rows of a file can match, by counts, bounds and partition values.
- ``row_filter``: which rows of an Arrow batch match.

SQL text and Arrow expressions become conditions in :mod:`datashard_core.query`.

This group imports ``statistics``, ``metadata``, ``types`` and ``kernels``. ``manifests``, ``query`` and ``table``
import it.
"""
