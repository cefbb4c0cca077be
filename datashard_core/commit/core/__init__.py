"""What every commit needs: versions, the version hint, the cached table state, and the next version.

Begin with :mod:`~datashard_core.commit.core.state` for the values that the other groups pass around, then with
:mod:`~datashard_core.commit.core.next_version`.

- ``version_file``: one ``vN.metadata.json``, a table, a drop marker or a tombstone.
- ``current_version``: find the newest version, move the version hint.
- ``recorded_ids``: the property ``datashard.commit``, in which a version records append ids.
- ``state``: ``Target``, ``TableState``, ``Append``, ``Committed``.
- ``next_version``: from one version and a new snapshot to the next version.
- ``properties``: the settings that table properties ask for.
- ``paths``: from the URIs in metadata to keys below the table's root.
- ``manifest_merge``, ``totals``, ``row_accounting``: manifests to merge, totals that another engine left out, and the
  check that no commit loses or doubles rows.
- ``chain``, ``vanished``, ``clock_skew``, ``table_origin``: checks of a version that was found. Two writers may have
  created it, the table's folder may be gone, a clock may be ahead, and another engine may have dropped our property.

Only ``current_version``, ``state``, ``vanished`` and ``table_origin`` await requests; the others are pure.

This group imports ``format`` and ``effects``, and no other group of the commit layer. All of them import it.
"""
