"""The commit layer: atomic versions of a table, exactly-once appends, and maintenance, without I/O of its own.

A commit creates ``v{N+1}.metadata.json`` on condition that it is absent. ``docs/design/commit-protocol.md`` has the
rules and the failure that each rule prevents. Everything here is a coroutine over the requests of
:mod:`datashard_core.effects`, or a pure function beside one. So the code that runs in production is the code that the
simulation runs in virtual time.

Begin with :mod:`~datashard_core.commit.append.protocol` and follow one append. The groups:

- :mod:`~datashard_core.commit.core`: versions and the version hint, the state that a process caches of a table, the
  next version, and the checks of each new version.
- :mod:`~datashard_core.commit.append_ids`: whether, and in which version, an append id was committed.
- :mod:`~datashard_core.commit.staging`: staged appends, their names and bodies.
- :mod:`~datashard_core.commit.versions`: creation, drop and purge of tables, and tombstones for old versions.
- :mod:`~datashard_core.commit.append`: the group commit, deferred appends, and reads that include staged rows.
- :mod:`~datashard_core.commit.maintenance`: expiry, compaction, removal of orphans, segments and abandoned objects.
- :mod:`~datashard_core.commit.external`: commits whose metadata another library made.

``core`` imports no other group; ``append_ids`` imports ``core``; ``staging`` and ``versions`` import these two and not
each other; ``append`` imports all four; ``maintenance`` and ``external`` import any of these and not each other.
``import-linter`` checks this, and that modules of a group form no circle.

The commit layer imports ``effects``, ``format``, ``storage.base`` and ``storage.keys``. ``table``, ``pyiceberg`` and
the testkit import it; users do not.
"""
