"""More text in one column than one Arrow array can hold: it is divided, and never found out value by value."""

from __future__ import annotations

from typing import Any

import pyarrow as pa
import pytest

import datashard_core as ds
from datashard_core.errors import InvalidRecordsError
from datashard_core.format.rows import columns, frames
from datashard_core.format.rows.records import to_table

SCHEMA = ds.Schema(
    fields=[
        {"id": 1, "name": "s", "type": "string"},
        {"id": 2, "name": "tags", "type": {"type": "list", "element-id": 3, "element": "string"}},
    ]
)
TEXTS = [f"{number:05d}" * 20 for number in range(1000)]


@pytest.mark.parametrize(
    "column",
    [
        pa.array(TEXTS, pa.large_string()),
        pa.array(TEXTS, pa.string_view()),
        pa.array(TEXTS, pa.string()),
        pa.array(TEXTS).dictionary_encode(),
        pa.array(TEXTS, pa.large_string()).slice(0),
    ],
    ids=lambda column: str(column.type),
)
def test_a_chunk_of_too_many_bytes_is_divided(column: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(frames, "MOST_BYTES", 10_000)
    rows = to_table(pa.table({"s": column}), SCHEMA, "t")
    assert rows.column("s").to_pylist() == TEXTS
    assert rows.column("s").type == pa.string()
    assert rows.column("s").num_chunks > 8
    assert max(chunk.nbytes for chunk in rows.column("s").chunks) <= 10_000


def test_lists_of_too_many_bytes_are_divided(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(frames, "MOST_BYTES", 10_000)
    lists = [TEXTS[start : start + 10] for start in range(0, 1000, 10)]
    rows = to_table(pa.table({"tags": pa.array(lists, pa.large_list(pa.large_string()))}), SCHEMA, "t")
    assert rows.column("tags").to_pylist() == lists
    assert rows.column("tags").num_chunks > 8


def test_one_value_that_is_too_large_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(frames, "MOST_BYTES", 10_000)
    texts = ["small"] * 7 + ["x" * 20_000] + ["small"]
    with pytest.raises(InvalidRecordsError, match=r"row 7.*s.*too large"):
        to_table(pa.table({"s": pa.array(texts, pa.large_string())}), SCHEMA, "t")


def test_texts_inside_lists_of_python_are_divided(monkeypatch: pytest.MonkeyPatch) -> None:
    """As Arrow does where there are 2 GiB of them: it makes several arrays of one list."""
    real = pa.array

    def array(values: Any, kind: Any = None, **options: Any) -> Any:
        built = real(values, kind, **options)
        if kind == pa.string() and built.nbytes > 10_000:
            half = len(built) // 2
            return pa.chunked_array([built[:half], built[half:]])
        return built

    monkeypatch.setattr(pa, "array", array)
    lists = [TEXTS[start : start + 10] for start in range(0, 1000, 10)]
    built = columns.column_array(lists, SCHEMA.fields[1], "tags")
    assert built.to_pylist() == lists
    assert isinstance(built, pa.ChunkedArray)
    with pytest.raises(InvalidRecordsError, match=r"row 1.*2 GiB"):
        to_table([{"tags": ["a"]}, {"tags": TEXTS}], SCHEMA, "t")


@pytest.mark.thorough
def test_more_than_two_gibibytes_in_one_chunk_are_divided() -> None:
    """The places of one text that is there again and again, so it takes no more memory than is copied."""
    text, count = b"x" * 2**20, 2100
    offsets = pa.array([2**20 * number for number in range(count + 1)], pa.int64())
    column = pa.Array.from_buffers(
        pa.large_string(), count, [None, offsets.buffers()[1], pa.py_buffer(bytearray(text) * count)]
    )
    assert column.nbytes > 2**31
    rows = to_table(pa.table({"s": column}), SCHEMA, "t")
    assert (rows.num_rows, rows.column("s").num_chunks) == (count, 2)
    assert rows.column("s")[count - 1].as_py() == text.decode()
