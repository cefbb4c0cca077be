"""Look up append ids: in which version an id was committed or refused, if in any.

This is the rule behind exactly once: an append may be committed on top of version N only if no version in (base, N]
records its id. Each version repeats the records of up to 15 versions before it; for longer ranges there are index
segments, ``_datashard/ids/{level}/{version}``, each of which covers up to 256 or 4,096 versions.

Begin with :func:`~datashard_core.commit.append_ids.lookup.look_up`.

- ``lookup``: look-ups over any range of versions, from versions and segments in parallel.
- ``lookback``: look-ups in the versions themselves, newest first.
- ``segment``: names and bytes of segments, and which segments a look-up needs. Pure.
- ``segment_store``: read segments, and make missing ones.

This group imports ``core``. ``staging``, ``versions``, ``append``, ``maintenance`` and ``external`` import it.
"""
