"""What the commit layer asks for, and who carries it out.

The commit layer is written as coroutines that await requests: values such as ``Get(key)`` or
``PutIfAbsent(key, body)``, time and random numbers included. They do no I/O, so the code that the simulation runs in
virtual time is the code that runs in production.

- :mod:`~datashard_core.effects.requests`: the requests. Begin here.
- :mod:`~datashard_core.effects.tasks`: ``gather``, ``start`` and ``join``, for work side by side.
- :mod:`~datashard_core.effects.scheduler`: runs a coroutine with its tasks up to the requests that they wait for. Pure.
- :mod:`~datashard_core.effects.driver`: sends the requests with threads over a real storage.

``commit`` and ``table`` import this package; it imports ``storage``, ``clock`` and ``errors``.
"""
