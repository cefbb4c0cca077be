"""How much is tried: everything where DATASHARD_THOROUGH=1 says so (CI does), a part of it otherwise."""

from __future__ import annotations

import os
from collections.abc import Iterable
from random import Random
from typing import TypeVar

T = TypeVar("T")

THOROUGH = os.environ.get("DATASHARD_THOROUGH", "") not in ("", "0")


def one_in(step: int, items: Iterable[T]) -> list[T]:
    """One case of ``step``, of some that are much alike, in their order; all of them if thorough.

    Which ones is drawn by a fixed seed, so that they are the same in every run: every ``step``-th of a product would be
    those of the same few operators, bits or values wherever the step and the length of a dimension have a divisor in
    common.
    """
    every = list(items)
    if THOROUGH or step <= 1:
        return every
    drawn = Random(step * 1_000_003 + len(every)).sample(range(len(every)), -(-len(every) // step))
    return [every[place] for place in sorted(drawn)]
