"""Maintenance: keep a table small and fast. Each part may run beside appends, in any process.

``docs/design/maintenance.md`` explains the order of the parts and the failure that each condition prevents. Begin
there, then with :mod:`~datashard_core.commit.maintenance.orphans`, the part that could do most harm.

- ``expire``: commit a version that keeps fewer snapshots.
- ``compact``, ``small_files``: write small data files as one, and commit it as a ``replace``; which files, pure.
- ``orphans``: delete files that no version and no staged append names, after an empty version (the fence).
- ``id_expiry``: make large index segments, and remove segments that are superseded or out of the retention.
- ``abandoned``: delete staged objects that were set aside for longer than the retention of append ids.

Old versions become tombstones in :mod:`datashard_core.commit.versions.metadata_expiry`, also as part of appends.

This group imports every other group but ``external``. Only ``table`` imports it, when maintenance is called; an append
imports ``compact`` only if the table property ``datashard.auto-compact`` is set.
"""
