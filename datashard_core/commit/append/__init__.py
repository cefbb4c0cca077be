"""Appends: the group commit, deferred appends, and reads that include staged rows.

Begin with :func:`~datashard_core.commit.append.protocol.append`. It reads the newest version, lists the staged appends
and looks up its ids in parallel; then it tries to commit, or it stages its rows and waits in the queue.

The group commit, from the outside in:

- ``protocol``: one call of ``append`` from its first request to the results.
- ``group_append``: the appends of one call (``Group``), look-ups in newer versions, and back-off after failures.
- ``queue``: stage rows, find one's position, look for new versions.
- ``publish``: one try to commit: write the files, create the version, do the work after the commit.
- ``combine``: go on committing for others.
- ``batch``: collect the appends of one version (``CommitBatch``).
- ``manifest_reads``, ``file_age``: what a commit reads first: manifests, and the age of finished data files.
- ``outcome``: the results of appends, and their errors.

Beside it:

- ``deferred``, ``leftover``: deferred appends and the flush, and errors about what a flush leaves.
- ``staged_read``: read a version with the staged appends that it does not contain.

This group imports ``core``, ``append_ids``, ``staging`` and ``versions``. ``table`` imports it, and so do
``maintenance`` and ``external`` for the age of files, the row check and the list of staged objects.
"""
