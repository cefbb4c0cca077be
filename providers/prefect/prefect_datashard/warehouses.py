"""The warehouses of this process: blocks that say the same share one, and its connections."""

from __future__ import annotations

import os
import threading
from typing import TYPE_CHECKING

from datashard_core import LocalConfig, S3Config

if TYPE_CHECKING:
    from datashard_core import Warehouse

MAX_WAREHOUSES = 64

_lock = threading.Lock()
_warehouses: dict[tuple[int, S3Config | LocalConfig], Warehouse] = {}


def _renew_lock() -> None:
    """In a forked child: a thread of the parent may have held the lock."""
    global _lock  # noqa: PLW0603
    _lock = threading.Lock()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_renew_lock)


def shared_warehouse(config: S3Config | LocalConfig) -> Warehouse:
    """The warehouse of a configuration, made when it is first asked for."""
    from datashard_core import connect  # the tables' modules: only when one is used

    # By what the block says, so nothing that cannot be pickled is kept on it; by process, because a
    # forked child must not use its parent's connections.
    key = (os.getpid(), config)
    with _lock:
        found = _warehouses.get(key)
        if found is None:
            while len(_warehouses) >= MAX_WAREHOUSES:
                del _warehouses[next(iter(_warehouses))]
            found = _warehouses[key] = connect(config=config)
        return found
