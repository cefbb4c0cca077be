"""Staged appends: their names, their bodies, and who may commit or delete them."""

from __future__ import annotations

import datetime as dt
import hashlib
import math
from collections.abc import Callable, Sequence
from typing import Any

import pyarrow as pa
import pytest

from datashard_core.commit.append_ids.lookback import RecordedOutcome
from datashard_core.commit.core.recorded_ids import Refusal
from datashard_core.commit.staging.body import (
    NewerBodyError,
    StagedBody,
    UnreadableBodyError,
    decode_body,
    described_files,
    encode_body,
)
from datashard_core.commit.staging.key import StagedName, classify, parse_listed
from datashard_core.format.rows.digest import id_digest
from datashard_core.format.rows.python_rows import PlainRows, arrow_of, plain_rows, rows_by_id
from datashard_core.format.types.schema import Schema
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
    assert classify([name], {}, 9, frozenset()).allowed == (name,)
    named_before = {name.id: RecordedOutcome(5, "d")}
    assert classify([name], named_before, 9, frozenset()).allowed == (name,)
    named_after = {name.id: RecordedOutcome(6, "d")}
    verdict = classify([name], named_after, 9, frozenset())
    assert (verdict.allowed, verdict.reclaimable) == ((), (name,))
    refused_after = {name.id: RecordedOutcome(6, Refusal("no"))}
    assert classify([name], refused_after, 9, frozenset()).reclaimable == (name,)


def test_what_was_staged_for_an_earlier_table_of_the_name_is_spent() -> None:
    old, new = staged(4, "a", 1), staged(5, "a", 2)
    verdict = classify([old, new], {}, 9, frozenset(), first=5)
    assert (verdict.allowed, verdict.reclaimable, verdict.others) == ((new,), (old,), {})
    assert classify([old], {}, 9, frozenset({old.id}), first=5).reclaimable == (old,)


def test_a_base_above_the_version_is_left_alone() -> None:
    verdict = classify([staged(10)], {}, 9, frozenset())
    assert (verdict.allowed, verdict.reclaimable) == ((), ())


def test_one_body_counts_for_each_id_and_own_ids_come_from_memory() -> None:
    twins = [staged(3, "a", 1), staged(2, "a", 2), staged(4, "b", 3)]
    assert classify(twins, {}, 9, frozenset()).allowed == (twins[1], twins[2])
    assert classify(twins, {}, 9, frozenset({id_digest("a")})).allowed == (twins[2],)


ROWS = pa.table({"n": [1, None]}, schema=SCHEMA.to_arrow())
PLAIN = plain_rows([{"n": 1}, {}], SCHEMA)


def body(**changes: object) -> StagedBody:
    values: dict[str, object] = {
        "table": UUID, "append_id": "a", "digest": "d" * 32, "schema_id": 0, "rows": ROWS, **changes
    }  # fmt: skip
    return StagedBody(**values)  # type: ignore[arg-type]


def decoded(data: bytes, schemas: Sequence[Schema] = (SCHEMA,)) -> StagedBody:
    return decode_body(data, staged(0), UUID, schemas)


@pytest.mark.parametrize("rows", [ROWS, PLAIN])
def test_a_body_keeps_rows_field_ids_and_header(rows: Any) -> None:
    found = decoded(encode_body(body(rows=rows)))
    assert isinstance(found.rows, type(rows))
    assert arrow_of(found.rows).schema.equals(SCHEMA.to_arrow(), check_metadata=True)
    assert arrow_of(found.rows).to_pylist() == [{"n": 1}, {"n": None}]
    assert (found.append_id, found.digest, found.schema_id, found.table) == ("a", "d" * 32, 0, UUID)


def test_a_body_keeps_plain_rows_of_every_type() -> None:
    kinds = ("boolean", "int", "long", "float", "double", "date", "timestamp", "timestamptz", "string", "binary")
    schema = Schema(3, [{"id": 9 + place, "name": kind, "type": kind} for place, kind in enumerate(kinds)])
    moment = dt.datetime(1, 1, 1, 0, 0, 0, 1)
    low = [False, -(2**31), -(2**63), -0.0, -math.inf, dt.date.min, moment, moment.replace(tzinfo=dt.UTC), "", b""]
    high = [True, 2**31 - 1, 2**63 - 1, 0.5, math.inf, dt.date.max, moment, dt.datetime.now(dt.UTC), "é", b"\xff"]
    rows = plain_rows([dict(zip(kinds, values, strict=True)) for values in (low, high)] + [{}], schema)
    assert rows is not None
    found = decode_body(encode_body(body(rows=rows, schema_id=3)), staged(0), UUID, [SCHEMA, schema])
    assert found.rows == rows
    nan = plain_rows([{"double": math.nan}], schema)
    assert nan is not None
    again = decode_body(encode_body(body(rows=nan, schema_id=3)), staged(0), UUID, [schema]).rows
    assert isinstance(again, PlainRows)
    assert math.isnan(again.to_arrow().column("double")[0].as_py())


def test_a_body_describes_finished_data_files() -> None:
    from datashard_core.format.parquet.parquet import encode_parquet

    file = encode_parquet(pa.table({"n": [1, 2]}, schema=SCHEMA.to_arrow()), SCHEMA).data_file("s3://b/t/data/x")
    data = encode_body(body(rows=None, files=(file,)))
    assert decoded(data).rows is None
    assert decoded(data).files == described_files(data) == (file,)
    assert described_files(encode_body(body(rows=PLAIN))) == ()


@pytest.mark.parametrize("rows", [ROWS, PLAIN])
def test_rows_of_a_schema_that_the_reader_does_not_know_are_not_guessed_at(rows: Any) -> None:
    found = decoded(encode_body(body(rows=rows, schema_id=7)))
    assert (found.rows, found.files, found.schema_id) == (None, (), 7)


def changed(rows: Any, change: Callable[[bytes], bytes]) -> bytes:
    """A body with other content, and the digest of that."""
    data = encode_body(body(rows=rows))
    content = change(data[24:])
    assert content != data[24:]
    return data[:8] + hashlib.blake2b(content, digest_size=16).digest() + content


@pytest.mark.parametrize(
    ("data", "why"),
    [
        (b"", "decoded"),
        (encode_body(body())[:100], "decoded"),
        (encode_body(body(rows=PLAIN))[:-1], "decoded"),
        (encode_body(body(rows=PLAIN)) + b"x", "decoded"),
        (changed(ROWS, lambda content: content[:-20]), "decoded"),
        (changed(PLAIN, lambda content: content[:-1]), "decoded"),
        (changed(PLAIN, lambda content: b"\xff" + content[1:]), "decoded"),
        (changed(PLAIN, lambda content: content.replace(b'"plain-rows":2', b'"plain-rows":3')), "decoded"),
        (changed(PLAIN, lambda content: content[:-2] + b"\xa0\xa0"), "decoded"),
        (changed(PLAIN, lambda content: content.replace(b'"format":2', b'"format":1')), "has format 1"),
        (encode_body(body(table="another")), "another table"),
        (encode_body(body(append_id="other", rows=PLAIN)), "another append id"),
    ],
)
def test_a_body_that_no_try_can_commit_says_why(data: bytes, why: str) -> None:
    with pytest.raises(UnreadableBodyError, match=why):
        decoded(data)


def test_a_body_of_a_newer_release_is_not_judged() -> None:
    newer = changed(PLAIN, lambda body: body.replace(b'"format":2', b'"format":9').replace(b'"digest"', b'"digesT"'))
    for read in (decoded, described_files):
        with pytest.raises(NewerBodyError, match="has format 9"):
            read(newer)


def test_a_bit_that_fell_over_is_noticed() -> None:
    data = encode_body(body(rows=PLAIN))
    for place in range(len(data)):
        with pytest.raises(UnreadableBodyError, match="decoded"):
            decoded(data[:place] + bytes([data[place] ^ 1]) + data[place + 1 :])


def test_values_that_do_not_fit_the_schema_are_no_rows() -> None:
    assert rows_by_id(SCHEMA, 2, {1: [1, None]}) == PLAIN
    assert rows_by_id(SCHEMA, 1, {}).to_arrow().to_pylist() == [{"n": None}]
    required = Schema(fields=[{"id": 1, "name": "n", "type": "int", "required": True}])
    for schema, values in [
        (SCHEMA, {1: [1]}),
        (SCHEMA, {1: [1, True]}),
        (SCHEMA, {1: [1, 2**63]}),
        (SCHEMA, {2: [1, 1]}),
        (required, {1: [1, None]}),
        (required, {}),
        (required, {1: [1, 2**31]}),
        (Schema(fields=[{"id": 1, "name": "u", "type": "uuid"}]), {1: ["a", "b"]}),
    ]:
        with pytest.raises(ValueError, match=r"column|values|bits"):
            rows_by_id(schema, 2, values)
