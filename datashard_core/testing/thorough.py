"""How much is tried: everything where DATASHARD_THOROUGH=1 says so (CI does), a part of it otherwise."""

from __future__ import annotations

import os
from collections.abc import Iterable
from typing import TypeVar

T = TypeVar("T")

THOROUGH = os.environ.get("DATASHARD_THOROUGH", "") not in ("", "0")


def one_in(step: int, items: Iterable[T]) -> list[T]:
    """Every ``step``-th of some cases that are much alike, beginning with the first; all of them if thorough."""
    return list(items)[:: 1 if THOROUGH else step]
