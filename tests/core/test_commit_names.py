"""The property that names a version's appends: what it repeats, what it leaves out, what it refuses."""

from __future__ import annotations

import pytest

from datashard_core.commit.core import recorded_ids as n
from datashard_core.errors import CorruptTableError

TABLE = "0f0e0d0c-0b0a-4908-8706-050403020100"


def own(number: int) -> str:
    """Digest of an append id."""
    return f"{number:032x}"


def rows(number: int) -> str:
    """Digest of rows."""
    return f"{number:028x}0001"


def chain(length: int, first: int = 0) -> list[n.CommitNames]:
    """The properties of a history in which version v commits the append ``own(v)``."""
    made: list[n.CommitNames] = []
    for version in range(first, first + length):
        parent = made[-1] if made else None
        made.append(
            n.following(
                parent,
                parent_version=version - 1,
                table=TABLE,
                first=first,
                commit_id=own(version),
                names={own(version): rows(version)},
            )
        )
    return made


def test_a_property_repeats_names_back_to_the_last_multiple_of_16() -> None:
    made = chain(40)
    assert (made[15].since, made[16].since, made[31].since, made[39].since) == (0, 16, 16, 32)
    for version in range(16, 32):
        assert made[31].of(version) == {own(version): rows(version)}


def test_a_table_made_again_repeats_nothing_of_the_table_before_it() -> None:
    made = chain(5, first=20)
    assert made[-1].since == 20
    assert not made[-1].records_version(19)


def test_the_text_survives_a_round_trip_with_refusals() -> None:
    parent = chain(3)[-1]
    names = {own(10): rows(10), own(11): n.Refusal("rows cannot be cast"), own(12): n.LIBRARY_MADE}
    made = n.following(parent, parent_version=2, table=TABLE, first=0, commit_id=own(10), names=names)
    assert n.parse({n.PROPERTY: n.encode(made)}, TABLE) == made
    assert made.of(3) == names


def test_a_copy_carried_on_by_another_engine_names_nothing_itself_but_tells_the_truth() -> None:
    ours = chain(6)[-1]  # version 5
    carried = n.parse({n.PROPERTY: n.encode(ours)}, TABLE)
    assert carried is not None
    assert n.recorded_by(6, carried) == {}  # version 6 is somebody else's
    assert n.recorded_by(5, carried) == {own(5): rows(5)}
    after = n.following(carried, parent_version=6, table=TABLE, first=0, commit_id=own(99), names={})
    assert after.since == 0
    assert after.of(6) == {}
    assert after.of(5) == {own(5): rows(5)}


def test_a_gap_ends_the_repetition() -> None:
    carried = chain(4)[-1]  # version 3, carried on through two versions of another engine
    after = n.following(carried, parent_version=5, table=TABLE, first=0, commit_id=own(99), names={})
    # Version 5 is known to name nothing; what version 4 named is not known from here.
    assert after.since == 5
    dropped = n.following(None, parent_version=5, table=TABLE, first=0, commit_id=own(99), names={})
    assert dropped.since == 5


def test_the_names_of_the_version_itself_are_whole_however_many() -> None:
    many = {own(number): rows(number) for number in range(4000)}
    parent = chain(10)[-1]
    made = n.following(parent, parent_version=9, table=TABLE, first=0, commit_id=own(5000), names=many)
    assert set(made.of(10)) == {*many, own(5000)}
    assert made.since == 10
    assert n.parse({n.PROPERTY: n.encode(made)}, TABLE) == made
    few = n.following(made, parent_version=10, table=TABLE, first=0, commit_id=own(5001), names={})
    assert few.since == 11


@pytest.mark.parametrize(
    ("record", "told"),
    [(n.LIBRARY_MADE, 5), (rows(1), 2), (n.Refusal("the rows cannot be cast to the schema of the table"), 1)],
    ids=["library-made", "handed-in", "refused"],
)
def test_a_property_tells_as_many_earlier_versions_as_there_is_room_for(record: n.Record, told: int) -> None:
    # 512 appends are the most that a version carries: 11 KB of ids that the library made, 22 KB of others.
    made: n.CommitNames | None = None
    for version in range(16):
        names = {own(1000 * version + number): record for number in range(512)}
        made = n.following(
            made, parent_version=version - 1, table=TABLE, first=0, commit_id=own(10**6 + version), names=names
        )
    assert made is not None
    text = n.encode(made)
    assert made.version - made.since + 1 == told
    assert len(text) <= n.MAX_PROPERTY_BYTES + 512
    assert n.parse({n.PROPERTY: text}, TABLE) == made


def test_a_property_of_another_table_is_ignored_and_a_broken_one_stops_the_commit() -> None:
    text = n.encode(chain(2)[-1])
    assert n.parse({n.PROPERTY: text}, "another-uuid") is None
    assert n.parse({}, TABLE) is None
    with pytest.raises(CorruptTableError, match=r"datashard\.commit"):
        n.parse({n.PROPERTY: text[:-20]}, TABLE)
    with pytest.raises(CorruptTableError):
        n.parse({n.PROPERTY: f'{{"table": "{TABLE}", "version": "x"}}'}, TABLE)


@pytest.mark.parametrize(
    "names",
    [
        '["AAA="]',
        '["%", ""]',
        '["AAAA", ""]',
        '["", "AAAAAAAAAAAAAAAAAAAAAA=="]',
        '["", "", "text"]',
        "7",
        '{"a": "b"}',
    ],
)
def test_names_that_cannot_be_unpacked_stop_the_commit(names: str) -> None:
    text = f'{{"table": "{TABLE}", "version": 3, "first": 0, "id": "{own(3)}", "since": 3, "names": {{"3": {names}}}}}'
    with pytest.raises(CorruptTableError, match=r"datashard\.commit"):
        n.parse({n.PROPERTY: text}, TABLE)
