"""Conditions and SQL: what users write, as conditions of the format, or as queries that DuckDB runs.

Begin with :mod:`~datashard_core.query.where`, through which every condition of a scan goes.

- ``where``: ``col(...)`` expressions, SQL text and Arrow expressions as one condition.
- ``arrow_conditions``: ``pyarrow.compute`` expressions, also those that DuckDB passes down.
- ``sql_conditions``: SQL text as a condition without a query engine, as far as it is understood.
- ``text``: SQL text that needs DuckDB: checks that it is one expression about the rows, and evaluates it.
- ``sql``, ``references``: queries over tables: which tables they name, and the datasets that DuckDB reads.
- ``duck``: the one DuckDB connection, which sees only what it is given.

This package imports ``format``, ``arguments`` and ``errors``; it knows neither storage nor commits. ``table`` imports
it, and DuckDB is imported only where a query needs it.
"""
