"""The index of a pandas frame: one rule for appends, inferred schemas and Arrow tables made of frames."""

from __future__ import annotations

import datetime as dt
from collections.abc import Callable
from typing import Any

import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pytest

from datashard_core import Schema, Warehouse
from datashard_core.errors import ConfigurationError, InvalidRecordsError
from datashard_core.format.rows.records import to_table

FRAME = pd.DataFrame({"k": [3, 1, 2, 2], "v": ["a", "b", "c", "c"]})
DAYS = pd.date_range("2024-01-01", periods=4)

RANGES: dict[str, pd.DataFrame] = {
    "default": FRAME,
    "slice": FRAME[1:],
    "every other": FRAME[::2],
    "reversed": FRAME[::-1],
    "other start and step": FRAME.set_axis(pd.RangeIndex(100, 0, -25)),
    "no longer sorted": FRAME.sort_values("k").reset_index(drop=True),
    "concatenated": pd.concat([FRAME, FRAME], ignore_index=True),
}

FORMS: dict[str, Callable[[pd.DataFrame], Any]] = {
    "frame": lambda frame: frame,
    "frames": lambda frame: iter([frame]),
    "arrow": pa.Table.from_pandas,
    "batches": lambda frame: iter(pa.Table.from_pandas(frame).to_batches()),
}


@pytest.mark.parametrize("case", sorted(RANGES))
@pytest.mark.parametrize("form", sorted(FORMS))
def test_a_range_without_a_name_is_left_out(case: str, form: str, warehouse: Warehouse) -> None:
    frame = RANGES[case]
    assert isinstance(frame.index, pd.RangeIndex)
    schema = Schema.infer(frame if form.startswith("frame") else pa.Table.from_pandas(frame))
    assert schema.names == ["k", "v"]
    table = warehouse.create_table("t", schema)
    for _ in range(2):
        table.append(FORMS[form](frame))
    expected = frame.reset_index(drop=True).to_dict("records")
    assert table.scan().to_records() == expected * 2


WITH: dict[str, tuple[pd.DataFrame, list[str]]] = {
    "integers": (FRAME.set_axis(pd.Index([5, 6, 7, 8], name="i")), ["i"]),
    "range": (FRAME.rename_axis("i"), ["i"]),
    "times": (FRAME.set_axis(DAYS).rename_axis("day"), ["day"]),
    "texts, not unique": (FRAME.set_axis(list("xxyy")).rename_axis("name"), ["name"]),
    "of a column": (FRAME.set_index("k"), ["k"]),
    "two levels": (FRAME.assign(n=1.5).set_index(["k", "v"]), ["k", "v"]),
    "grouped": (FRAME.groupby("v").sum(), ["v"]),
    "sorted and filtered": (FRAME.set_index("k").sort_index()[1:], ["k"]),
}


@pytest.mark.parametrize("case", sorted(WITH))
def test_levels_with_names_are_columns(case: str, warehouse: Warehouse) -> None:
    frame, levels = WITH[case]
    schema = Schema.infer(frame)
    assert schema.names == [*frame.columns, *levels]
    table = warehouse.create_table("t", schema)
    table.append(frame)
    table.append(frame)
    expected = frame.reset_index().to_dict("records")
    assert [{name: row[name] for name in schema.names} for row in expected] * 2 == table.scan().to_records()


NAMELESS: dict[str, pd.DataFrame] = {
    "sorted": FRAME.sort_values("k"),
    "filtered": FRAME.iloc[[0, 1, 3]],
    "sampled": FRAME.sample(3, random_state=1),
    "concatenated": pd.concat([FRAME, FRAME]),
    "a range as plain numbers": FRAME.set_axis(pd.Index([0, 1, 2, 3], dtype="int64")),
    "unsigned": FRAME.set_axis(np.array([9, 8, 7, 6], "uint8")),
    "nullable": FRAME.set_axis(pd.Index([9, 8, 7, 6], dtype="Int64")),
    "times": FRAME.set_axis(DAYS),
    "texts": FRAME.set_axis(list("abcd")),
    "floats": FRAME.set_axis([0.0, 1.0, 2.0, 3.0]),
    "dates": FRAME.set_axis([dt.date(2024, 1, day) for day in range(1, 5)]),
    "categories": FRAME.set_axis(pd.CategoricalIndex(list("abcd"))),
    "bools": FRAME.set_axis([True, False, True, False]),
    "two levels": FRAME.set_axis(pd.MultiIndex.from_product([[1, 2], [3, 4]])),
    "one of two levels": FRAME.set_axis(pd.MultiIndex.from_product([[1, 2], [3, 4]], names=["i", None])),
}


@pytest.mark.parametrize("case", sorted(NAMELESS))
def test_anything_else_without_a_name_is_an_error_with_the_way_out(case: str, warehouse: Warehouse) -> None:
    frame = NAMELESS[case]
    schema = Schema.infer(FRAME)
    table = warehouse.create_table("t", schema)
    for call in (Schema.infer, table.append):
        with pytest.raises(InvalidRecordsError) as raised:
            call(frame)
        for part in ("the frame's index", "has no name", "rename_axis('name')", "reset_index(drop=True)"):
            assert part in str(raised.value)
        with pytest.raises(
            InvalidRecordsError, match=r"__index_level_[01]__.*rename the column to keep it, or drop it"
        ):
            call(pa.Table.from_pandas(frame))
    assert table.refresh().version == 0
    table.append(frame.reset_index(drop=True))
    assert table.count() == len(frame)
    named = frame.rename_axis([f"level{n}" for n in range(frame.index.nlevels)])
    assert Schema.infer(named).names == ["k", "v", *named.index.names]


@pytest.mark.parametrize("index", [[7, 3, 5, 1], list("abcd"), DAYS], ids=["integers", "texts", "times"])
def test_a_table_with_a_field_for_the_nameless_index_gets_it(index: Any, warehouse: Warehouse) -> None:
    """Earlier releases inferred such a field, and later appends left it null."""
    frame = FRAME.set_axis(index)
    table = warehouse.create_table("t", Schema.from_arrow(pa.Table.from_pandas(frame).schema))
    assert table.schema.names == ["k", "v", "__index_level_0__"]
    table.append(frame)
    table.append(pa.Table.from_pandas(frame))
    table.append(FRAME)
    found = [row["__index_level_0__"] for row in table.scan().to_records()]
    assert found == list(frame.index) * 2 + [None] * 4


def test_pandas_decides_what_is_a_range() -> None:
    """Of the rows that a filter leaves, some releases of pandas make a range: the rule is about what they made."""
    for wanted in ([1], [1, 2], [0, 2], [0, 1, 3], []):
        frame = FRAME[["k"]][FRAME.index.isin(wanted)]
        if isinstance(frame.index, pd.RangeIndex):
            assert Schema.infer(frame).names == ["k"]
        else:
            with pytest.raises(InvalidRecordsError, match="is no RangeIndex"):
                Schema.infer(frame)
        assert Schema.infer(frame.reset_index(drop=True)).names == ["k"]


def test_a_named_range_that_arrow_keeps_as_a_note_is_an_error(warehouse: Warehouse) -> None:
    """Arrow leaves its numbers out of the columns, and a filter of the Arrow table does not change the note."""
    frame = FRAME.rename_axis("i")
    table = warehouse.create_table("t", Schema.infer(frame))
    arrow = pa.Table.from_pandas(frame)
    assert arrow.column_names == ["k", "v"]
    for call in (Schema.infer, table.append):
        for data in (arrow, arrow.slice(1)):
            with pytest.raises(InvalidRecordsError, match=r"RangeIndex named 'i'.*preserve_index=True"):
                call(data)
    table.append(pa.Table.from_pandas(frame, preserve_index=True))
    table.append(arrow.replace_schema_metadata())
    assert [row["i"] for row in table.scan().to_records()] == [0, 1, 2, 3, None, None, None, None]


def test_names_that_cannot_be_fields_are_refused_alike() -> None:
    frames = {
        "is there 2 times": pd.concat([FRAME, FRAME], axis=1),
        "several of the name 'i'": FRAME.set_axis(pd.MultiIndex.from_product([[1, 2], [3, 4]], names=["i", "i"])),
        "cannot become columns: there are several of the name 'k'": FRAME.rename_axis("k"),
        "named 0": FRAME.rename(columns={"k": 0}),
        "named 5": FRAME.rename_axis(5),
        r"named \('a', 'b'\)": pd.DataFrame({("a", "b"): [1]}),
        "named nan": FRAME.rename(columns={"k": float("nan")}),
    }
    for pattern, frame in frames.items():
        with pytest.raises(InvalidRecordsError, match=pattern):
            Schema.infer(frame)
        with pytest.raises(InvalidRecordsError, match=pattern):
            to_table(frame, Schema.infer(FRAME), "t")
    with pytest.raises((InvalidRecordsError, ConfigurationError), match="''"):
        Schema.infer(FRAME.rename_axis(""))


def test_other_columns_called_so_are_not_an_index() -> None:
    """Without the word of pandas' metadata, such a column is data."""
    rows = pa.table({"k": [1], "v": ["a"], "__index_level_0__": [4]})
    with pytest.raises(InvalidRecordsError, match="__index_level_0__"):
        to_table(rows, Schema.infer(FRAME), "t")
    polars = pl.DataFrame({"k": [1], "v": ["a"]})
    assert Schema.infer(polars).names == ["k", "v"]


def test_errors_name_the_row_by_its_place() -> None:
    frame = pd.DataFrame({"v": [1, 2**40]}, index=pd.Index([70, 80], name="k"))
    schema = Schema(fields=[{"name": "k", "type": "long"}, {"name": "v", "type": "int"}])
    with pytest.raises(InvalidRecordsError, match="row 1, field 'v'"):
        to_table(frame, schema, "t")
