"""Id nodes: which there are, what they hold, and that a range of a large one answers."""

from __future__ import annotations

import hashlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from datashard_core.commit.append_ids import segment
from datashard_core.commit.append_ids.lookback import RecordedOutcome
from datashard_core.commit.core.recorded_ids import Refusal
from datashard_core.errors import CorruptTableError

TABLE = "0f0e0d0c-0b0a-4908-8706-050403020100"


def digest(number: int) -> str:
    return hashlib.blake2b(str(number).encode(), digest_size=16).hexdigest()


@given(version=st.integers(1, 3000), above=st.integers(-1, 47000))
def test_the_needed_nodes_hold_every_version_of_the_range_once(version: int, above: int) -> None:
    version *= 16
    covered: list[range] = [range(n.since, n.until) for n in segment.needed_below(version, above)]
    numbers = [number for span in covered for number in span]
    assert len(numbers) == len(set(numbers))
    assert set(range(above + 1, version)) <= set(numbers)


@given(version=st.integers(1, 70000))
def test_a_node_is_the_one_before_it_and_the_one_below_it(version: int) -> None:
    for name in segment.due_after(version):
        span = set(range(name.since, name.until))
        previous = name.previous
        before = set(range(previous.since, previous.until)) if previous else set()
        below = (
            set(range(name.until - 16, name.until))
            if name.level == 1
            else set(range(segment.SegmentName(name.level - 1, name.until).since, name.until))
        )
        assert before | below == span
        assert not before & below


def test_a_node_is_a_pure_function_of_what_it_holds() -> None:
    records = [(digest(i), RecordedOutcome(i, "ab" * 16 if i % 3 else "")) for i in range(50)]
    records.append((digest(7), RecordedOutcome(60, Refusal("whatever the reason"))))
    one = segment.encode_segment(TABLE, 0, 64, 5, records)
    other = segment.encode_segment(TABLE, 0, 64, 5, segment.merged([records[30:], records[:40]]))
    assert one == other
    found = dict.fromkeys([own for own, _ in segment.decode_records(one)])
    assert len(found) == 50
    header = segment.decode_header(one, "x", TABLE)
    assert header is not None
    assert (header.since, header.until, header.last_ms, header.count) == (0, 64, 5, 51)
    word = segment.records_in(one[segment.header_size() :], digest(7), 60)
    assert word is not None
    assert word.version == 60
    assert isinstance(word.record, Refusal)


def test_one_small_range_of_a_large_node_answers() -> None:
    records = [(digest(i), RecordedOutcome(i, "cd" * 16)) for i in range(40_000)]
    data = segment.encode_segment(TABLE, 0, 65536, 5, records)
    for number in (0, 17, 39_999, 50_001):
        start, end = segment.window(digest(number), len(records))
        assert end - start < len(data) / 8
        part = data[start:end]
        assert segment.encloses(part, start, end, digest(number), len(records))
        word = segment.records_in(part, digest(number), 65_535)
        assert (word is not None) == (number < 40_000)


def test_a_range_that_does_not_enclose_the_id_is_not_believed() -> None:
    records = [(f"{i:032x}", RecordedOutcome(i, "")) for i in range(10_000)]  # digests that are not uniform
    data = segment.encode_segment(TABLE, 0, 65536, 5, records)
    start, end = segment.window(f"{9_000:032x}", len(records))
    assert not segment.encloses(data[start:end], start, end, f"{9_000:032x}", len(records))


def test_what_is_no_node_or_another_tables_is_not_read_as_one() -> None:
    data = segment.encode_segment(TABLE, 0, 16, 5, [])
    assert segment.decode_header(data, "x", "11111111-0b0a-4908-8706-050403020100") is None
    with pytest.raises(CorruptTableError, match="not an id segment"):
        segment.decode_header(b"not a node at all", "x", TABLE)
    with pytest.raises(CorruptTableError, match="cut short"):
        segment.decode_records(segment.encode_segment(TABLE, 0, 16, 5, [(digest(1), RecordedOutcome(1, ""))])[:-1])
