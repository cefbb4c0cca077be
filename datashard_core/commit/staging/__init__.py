"""Staged appends: rows that a writer puts beside the table for the next commit.

A writer that loses a race, and every deferred append, stages its rows in one object below ``_datashard/staging``. The
name of the object is enough to decide whether the append may be committed (the base rule) and whether the object may be
deleted (the delete rule). Anybody with write access can put an object there, so bodies are checked before they are
used.

Begin with :mod:`~datashard_core.commit.staging.key`.

- ``key``: names of staged objects, and the two rules over a listing. Pure.
- ``body``, ``header``, ``errors``: the bytes of a staged object, and why they cannot be committed. Pure.
- ``examine``: what was read of a staged object: rows and files, a refusal, or a reason to set it aside.
- ``set_aside``: objects that this process neither commits nor refuses, because a newer writer may have made them.

This group imports ``core``, and ``append_ids`` for the record of an id. ``append`` and ``maintenance`` import it, and
``table`` for the limits of a body.
``header`` is imported only where a body is decoded: most processes stage, or see no body at all.
"""
