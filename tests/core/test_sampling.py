"""A sample of cases leaves no value of a dimension out, and is the same in every run."""

from __future__ import annotations

from collections import Counter
from itertools import product

import pytest
from datashard_testkit import sampling as thorough
from datashard_testkit.sampling import one_in

OPERATORS = ("==", "!=", "<", "<=", ">", ">=")


@pytest.fixture(autouse=True)
def in_short(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(thorough, "THOROUGH", False)


@pytest.mark.parametrize("step", [2, 3, 4, 5, 6, 8, 12, 1000])
@pytest.mark.parametrize("values", [1, 2, 3, 4, 5, 6, 8])
def test_every_value_of_every_dimension_occurs(step: int, values: int) -> None:
    whole = list(product(range(values), OPERATORS, "ab"))
    chosen = one_in(step, whole)
    for dimension, expected in enumerate((set(range(values)), set(OPERATORS), {"a", "b"})):
        assert {case[dimension] for case in chosen} == expected
    least = -(-len(whole) // step)
    assert least <= len(chosen) <= least + values + len(OPERATORS) + 2
    assert chosen == sorted(chosen, key=whole.index), "their order stays"
    assert chosen == one_in(step, whole), "no run draws others"


def test_pairs_of_values_are_mixed() -> None:
    """Not the same operators with every value, as every other case of a product would have them."""
    chosen = one_in(2, product(range(8), OPERATORS))
    met = {value: {operator for one, operator in chosen if one == value} for value in range(8)}
    assert len({frozenset(operators) for operators in met.values()}) > 3


def test_every_bit_of_a_byte_occurs() -> None:
    for bits in (range(2500 * 8, 2600 * 8), range(0, 200 * 8)):
        chosen = one_in(4, bits)
        assert len(chosen) == len(bits) // 4
        met = Counter(bit % 8 for bit in chosen)
        assert set(met) == set(range(8)) and min(met.values()) > len(chosen) // 16


def test_all_cases_are_taken_where_that_is_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(thorough, "THOROUGH", True)
    assert one_in(7, range(20)) == list(range(20))


def test_nothing_is_left_of_nothing() -> None:
    assert one_in(3, []) == []
    assert one_in(1, range(3)) == [0, 1, 2]
