"""Versions that are no appends: creation, drop and purge of tables, tombstones, and empty commits.

Begin with :mod:`~datashard_core.commit.versions.lifecycle`.

- ``lifecycle``: create, drop and purge a table. A drop commits a marker as the next version, and a purge leaves
  tombstones, so that the names of versions stay taken.
- ``metadata_expiry``: old versions become tombstones, a few in every second commit. Each commit plans this with ``due``
  and ``look``, and does it with ``write_tombstones``; ``docs/design/maintenance.md`` lists the conditions.
- ``commit_empty``: the steps of a commit without appends, as maintenance makes them: create the version, find out
  whether a try took effect, pause after a lost race.

This group imports ``core`` and ``append_ids``. ``append`` imports it for the expiry that goes with a commit, and
``maintenance`` for its commits. ``table`` and ``pyiceberg`` import ``lifecycle``.
"""
