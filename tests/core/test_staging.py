"""Staged appends: their names, their bodies, and who may commit or delete them."""

from __future__ import annotations

import pyarrow as pa
import pytest

from datashard_core.commit.history import Named
from datashard_core.commit.names import Refusal
from datashard_core.commit.staging import (
    StagedBody,
    StagedName,
    UnreadableBodyError,
    decode_body,
    encode_body,
    judge,
    parse_listed,
)
from datashard_core.format.digest import id_digest
from datashard_core.format.schema import Schema
from datashard_core.storage.base import ObjectInfo, Version

UUID = "0f0e0d0c-0b0a-4908-8706-050403020100"
SCHEMA = Schema(fields=[{"id": 1, "name": "n", "type": "long"}])


def staged(base: int, append_id: str = "a", nonce: int = 0, kind: str = "w") -> StagedName:
    return StagedName(base, "w" if kind == "w" else "d", id_digest(append_id), f"{nonce:032x}")


def test_names_survive_a_listing_and_sort_by_base() -> None:
    names = [staged(12), staged(2, kind="d"), staged(2, "b", 7)]
    infos = [ObjectInfo(name.key, 9, Version("e"), 0.0) for name in sorted(names, key=lambda n: n.key)]
    infos.append(ObjectInfo("_datashard/staging/README", 1, Version("e"), 0.0))
    listed = parse_listed(infos)
    assert [name.base for name in listed] == [2, 2, 12]
    assert {name.key for name in listed} == {name.key for name in names}
    assert listed[0].size == 9
    assert sorted(names) == sorted(names, key=lambda n: n.key)


def test_an_append_is_allowed_only_if_nothing_after_its_base_names_it() -> None:
    name = staged(5)
    assert judge([name], {}, 9, frozenset()).allowed == (name,)
    named_before = {name.id: Named(5, "d")}
    assert judge([name], named_before, 9, frozenset()).allowed == (name,)
    named_after = {name.id: Named(6, "d")}
    verdict = judge([name], named_after, 9, frozenset())
    assert (verdict.allowed, verdict.spent) == ((), (name,))
    refused_after = {name.id: Named(6, Refusal("no"))}
    assert judge([name], refused_after, 9, frozenset()).spent == (name,)


def test_what_was_staged_for_an_earlier_table_of_the_name_is_spent() -> None:
    old, new = staged(4, "a", 1), staged(5, "a", 2)
    verdict = judge([old, new], {}, 9, frozenset(), first=5)
    assert (verdict.allowed, verdict.spent, verdict.others) == ((new,), (old,), {})
    assert judge([old], {}, 9, frozenset({old.id}), first=5).spent == (old,)


def test_a_base_above_the_version_is_left_alone() -> None:
    verdict = judge([staged(10)], {}, 9, frozenset())
    assert (verdict.allowed, verdict.spent) == ((), ())


def test_one_body_counts_for_each_id_and_own_ids_come_from_memory() -> None:
    twins = [staged(3, "a", 1), staged(2, "a", 2), staged(4, "b", 3)]
    assert judge(twins, {}, 9, frozenset()).allowed == (twins[1], twins[2])
    assert judge(twins, {}, 9, frozenset({id_digest("a")})).allowed == (twins[2],)


def body(**changes: object) -> StagedBody:
    rows = pa.table({"n": [1, None]}, schema=SCHEMA.to_arrow())
    values: dict[str, object] = {
        "table": UUID, "append_id": "a", "digest": "d", "schema_id": 0, "rows": rows, **changes
    }  # fmt: skip
    return StagedBody(**values)  # type: ignore[arg-type]


def test_a_body_keeps_rows_field_ids_and_header() -> None:
    found = decode_body(encode_body(body()), staged(0), UUID)
    assert found.rows is not None
    assert found.rows.schema.equals(SCHEMA.to_arrow(), check_metadata=True)
    assert found.rows.to_pylist() == [{"n": 1}, {"n": None}]
    assert (found.append_id, found.digest, found.schema_id, found.table) == ("a", "d", 0, UUID)


def test_a_body_describes_finished_data_files() -> None:
    from datashard_core.format.parquet import encode_parquet

    file = encode_parquet(pa.table({"n": [1, 2]}, schema=SCHEMA.to_arrow()), SCHEMA).data_file("s3://b/t/data/x")
    found = decode_body(encode_body(body(rows=None, files=(file,))), staged(0), UUID)
    assert found.rows is None
    assert found.files == (file,)


@pytest.mark.parametrize(
    ("data", "why"),
    [
        (b"", "decoded"),
        (encode_body(body())[:100], "decoded"),
        (encode_body(body(table="another")), "another table"),
        (encode_body(body(append_id="other")), "another append id"),
    ],
)
def test_a_body_that_no_try_can_commit_says_why(data: bytes, why: str) -> None:
    with pytest.raises(UnreadableBodyError, match=why):
        decode_body(data, staged(0), UUID)
