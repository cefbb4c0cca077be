"""Opening a table: its newest version, and what every append and every scan needs next."""

from __future__ import annotations

import logging
import sys
from collections.abc import Coroutine
from functools import partial
from importlib import import_module
from typing import Any, TypeVar

from msgspec.structs import replace

from datashard_core.clock import Clock
from datashard_core.commit.core.current_version import find_current, find_hinted
from datashard_core.commit.core.paths import key_of
from datashard_core.commit.core.state import TableState, Target, require_live
from datashard_core.effects.driver import run, run_beside
from datashard_core.effects.requests import Get
from datashard_core.effects.tasks import outcomes_of
from datashard_core.errors import DataShardError
from datashard_core.format.manifests.manifest import decode_manifest_list
from datashard_core.storage.base import Storage, StoredObject
from datashard_core.storage.cache import immutable

T = TypeVar("T")
log = logging.getLogger(__name__)

NEEDED = "datashard_core.table.table"
"""What takes a new process as long to import as the store takes for an answer. Arrow is imported by what needs it,
which an append of a few plain rows does not.
"""


def load(storage: Storage, name: str, clock: Clock) -> TableState:
    """The newest version of a table, with its manifest list.

    Args:
        storage: where the table is.
        name: its name, for messages.
        clock: of the process.

    Raises:
        NoSuchTableError: there is none, or it was dropped.
        StorageError: the store failed.
    """
    steps = _read(Target(storage.root, name, ""))
    seen, listed = _run_beside_import(steps, storage, clock)
    snapshot = seen.body.table.current_snapshot
    if snapshot is None:
        return replace(seen, manifests=())
    if not isinstance(listed, StoredObject):
        log.info("table %s: its manifest list is read when it is needed: %s", name, listed)
        return seen
    try:
        manifests = tuple(decode_manifest_list(listed.body, snapshot.manifest_list))
    except DataShardError as error:
        log.info("table %s: its manifest list is read again when it is needed: %s", name, error)
        return seen
    immutable.keep(storage, key_of(snapshot.manifest_list, seen.body.table.location, storage.root), listed.body)
    return replace(seen, manifests=manifests)


def load_to_defer(storage: Storage, name: str, clock: Clock) -> TableState:
    """A recent version of a table, for rows that are only to be staged: nothing else is read.

    Args, raises: as :func:`load`.
    """
    target = Target(storage.root, name, "")
    return require_live(_run_beside_import(find_hinted(target.root), storage, clock), None, target)


def _run_beside_import(steps: Coroutine[Any, Any, T], storage: Storage, clock: Clock) -> T:
    """Do requests, and import meanwhile what their answers are used with."""
    if NEEDED in sys.modules:
        return run(steps, storage, clock)
    return run_beside(partial(import_module, NEEDED), steps, storage, clock)


async def _read(target: Target) -> tuple[TableState, StoredObject | DataShardError | None]:
    """The newest version, and its manifest list or why it cannot be had: whoever needs it asks again."""
    found = await find_current(target.root)
    seen = require_live(found, None, target)
    table = seen.body.table
    if table.current_snapshot is None:
        return seen, None
    try:
        key = key_of(table.current_snapshot.manifest_list, table.location, target.root)
    except DataShardError as error:
        return seen, error
    outcomes = await outcomes_of((Get(key),))
    return seen, outcomes[0]
