"""The rules about copies of a table's folder, each with a switch: see :mod:`datashard_testkit.mutants`."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from unittest import mock

from datashard_core.table import shared
from datashard_testkit import copy_actor
from datashard_testkit.faults import Faults
from datashard_testkit.mutants import Mutant
from datashard_testkit.workloads import Mix


@contextmanager
def _shared_by_uuid_alone() -> Iterator[None]:
    """Threads share commits with those that hold a table of the same uuid, wherever it is."""
    with mock.patch.object(shared, "shared_by", lambda _root, uuid: uuid):
        yield


@contextmanager
def _versions_copied_last() -> Iterator[None]:
    """A folder is copied with its files first and the versions that name them afterwards, as ``sync`` does."""
    with mock.patch.object(copy_actor, "STEPS", copy_actor.STEPS[::-1]):
        yield


COPIED = Mix(
    writers=4, appends=8, think=0.3, handed_in=0.5, twins=0.3, deferred=0.2, flushes=0.1, foreign=1, copiers=1,
    age=60.0, block=4, faults=Faults(after=0.03, twice=0.03),
)  # fmt: skip
"""Writers that are at work while the folder is copied, and afterwards in both."""

COPY_MUTANTS = (
    Mutant("commits are shared by place and uuid", COPIED, _shared_by_uuid_alone),
    Mutant("a version is copied before the files that it names", COPIED, _versions_copied_last),
)
