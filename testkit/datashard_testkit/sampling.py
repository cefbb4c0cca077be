"""How much is tried: everything where DATASHARD_THOROUGH=1 says so (CI does), a part of it otherwise."""

from __future__ import annotations

import os
from collections.abc import Iterable
from random import Random
from typing import TypeVar

T = TypeVar("T")

THOROUGH = os.environ.get("DATASHARD_THOROUGH", "") not in ("", "0")


def one_in(step: int, items: Iterable[T]) -> list[T]:
    """About one case of ``step``, of some that are much alike, in their order; all of them if thorough.

    Which ones is drawn by a fixed seed, so that they are the same in every run. Every ``step``-th of a product would be
    those of the same few operators, bits or values wherever the step and the length of a dimension have a divisor in
    common. Of tuples, as ``itertools.product`` makes them, every value of every dimension occurs.
    """
    every = list(items)
    if THOROUGH or step <= 1:
        return every
    order = Random(step * 1_000_003 + len(every)).sample(range(len(every)), len(every))
    drawn = order[: -(-len(every) // step)]
    seen = {value for place in drawn for value in _values(every[place])}
    for place in order[len(drawn) :]:
        new = _values(every[place]) - seen
        if new:
            drawn.append(place)
            seen |= new
    return [every[place] for place in sorted(drawn)]


def _values(case: object) -> set[tuple[int, str]]:
    """The values of a case by their dimensions; none for what is no tuple."""
    return {(place, repr(value)) for place, value in enumerate(case)} if isinstance(case, tuple) else set()
