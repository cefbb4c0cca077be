"""Statistics of columns in data files: counts, and lowest and highest values.

A scan skips a file if its statistics prove that no row matches, so wrong statistics lose rows of a result. Begin with
:mod:`~datashard_core.format.statistics.metrics`.

- ``metrics``: counts and bounds of the rows that are being written.
- ``bounds``: bounds in Iceberg's binary form (spec, Appendix D), and back.
- ``ordering``: values in the one form in which bounds, partition values and conditions are compared.

This group imports ``types``, and ``rows`` for plain Python rows. ``expressions``, ``parquet``, ``manifests``, and
``commit.staging`` for the bounds that staged objects describe, import it.
"""
