"""Commits whose metadata another library made: PyIceberg computes the next version, and this group commits it.

Begin with :func:`~datashard_core.commit.external.commit.commit_external`.

- ``commit``: create the version under the table's one commit point, with the records of append ids that it needs.
- ``files``: checks before the commit: new data files are recent enough, and rewritten manifests lose no file.

A commit of another library cannot be written again on a newer version, so a lost race is reported and not repeated.

This group imports ``core``, ``append_ids`` and the limit for the age of files from ``append``. Only
:mod:`datashard_core.pyiceberg` imports it.
"""
