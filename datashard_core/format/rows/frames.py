"""Rows that Arrow, pandas or Polars hold, in a schema's form.

Columns and struct fields are matched by name. A column may have another Arrow type than the schema's if
every one of its values stays exactly what it is: another layout (dictionary, large, view, run-end encoded,
fixed-size list), another width (``int64`` values within the range of ``int``, ``double`` values that
``float`` holds), another unit (nanoseconds that are whole microseconds), decimals of another precision or
scale, integers for floating or decimal fields, canonical text or 16 bytes for a uuid. A column that is
null throughout may have any type.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterable, Iterator
from itertools import chain
from typing import TYPE_CHECKING, Any

from datashard_core.format.rows.columns import column_array, null_array, without_nulls
from datashard_core.format.types import types as t
from datashard_core.format.types.arrow_types import (
    elements,
    is_bytes,
    is_listlike,
    is_text,
    is_uuid,
    map_as_lists,
    type_to_arrow,
)
from datashard_core.format.types.pandas_index import check_index, check_unique, is_frame, with_index
from datashard_core.format.types.ranges import RULES, first_outside, stored_text
from datashard_core.format.types.schema import Schema
from datashard_core.format.types.values import MisfitError, UnusableError, missing, shown

if TYPE_CHECKING:
    import pyarrow as pa

MOST_BYTES = 2**31 - 2**20
"""Bytes of one chunk of a column: places of texts in an Arrow array are numbers of 32 bits."""


def tables_of(data: Any, schema: Schema) -> Iterable[pa.Table] | None:
    """The Arrow tables that something holds, lazily where it is a stream; None if it holds no columns.

    Args:
        data: what the caller handed in.
        schema: types for the object columns of pandas, whose values have no type in common.

    Raises:
        UnusableError: it holds columns that are no table (a single column, say), or names them twice.
        MisfitError: a value in an object column does not fit.
    """
    import pyarrow as pa

    if isinstance(data, pa.Table):
        return [data]
    if isinstance(data, pa.RecordBatch):
        return [pa.Table.from_batches([data])]
    if is_frame(data):
        return [_from_pandas(data, schema)]
    try:
        if isinstance(data, pa.RecordBatchReader) or hasattr(data, "__arrow_c_stream__"):
            reader = data if isinstance(data, pa.RecordBatchReader) else pa.RecordBatchReader.from_stream(data)
            return (pa.Table.from_batches([batch]) for batch in reader)
        if hasattr(data, "__arrow_c_array__"):
            return [pa.Table.from_batches([pa.record_batch(data)])]
    except (pa.ArrowException, TypeError, ValueError) as error:
        raise UnusableError(f"the {type(data).__name__} is no table with named columns: {error}") from error
    return None


def _from_pandas(frame: Any, schema: Schema) -> pa.Table:
    import pyarrow as pa

    frame = with_index(frame, schema.names)
    fields = {field.name: field for field in schema.fields}
    columns = {}
    for name in frame.columns:
        series = frame[name]
        if series.dtype == object and name in fields:
            values = [None if gone else value for value, gone in zip(series, series.isna(), strict=True)]
            columns[name] = column_array(values, fields[name], name)
            continue
        try:
            columns[name] = pa.array(series, from_pandas=True)
        except (pa.ArrowException, TypeError, ValueError) as error:
            raise UnusableError(f"column {name!r} of dtype {series.dtype} has no Arrow form: {error}") from error
    return pa.table(columns)


def fit(table: pa.Table, schema: Schema) -> pa.Table:
    """The rows in the schema's Arrow form.

    Args:
        table: rows whose columns are matched by name.
        schema: what they have to fit.

    Raises:
        UnusableError: a column is not in the schema, a required one is missing, or a name is there twice.
        MisfitError: a value does not fit.
    """
    import pyarrow as pa

    known = schema.names
    check_index(table.schema, known)
    names = table.column_names
    check_unique(names)
    for name in names:
        if name not in known:
            raise UnusableError(f"the column {name!r} is not in the schema; its fields are {', '.join(known)}")
    columns = []
    for field in schema.fields:
        if field.name in names:
            columns.append(_fit_column(table.column(field.name), field))
        elif field.required and table.num_rows:
            raise UnusableError(f"the column {field.name!r} of type {field.type} is required, and it is missing")
        else:
            columns.append(pa.chunked_array([null_array(table.num_rows, field.type)]))
    return pa.Table.from_arrays(columns, schema=schema.to_arrow())


def _fit_column(column: pa.ChunkedArray, field: t.NestedField) -> pa.ChunkedArray:
    import pyarrow as pa

    fitted = []
    rows = 0
    for chunk in chain.from_iterable(_pieces(chunk, field.name) for chunk in column.chunks):
        try:
            fitted.append(_fit_array(chunk, field, field.name, None))
        except MisfitError as error:
            error.row += rows
            raise
        rows += len(chunk)
    return pa.chunked_array(fitted, type=type_to_arrow(field.type))


def _pieces(chunk: Any, path: str) -> Iterator[Any]:
    """A chunk in as many slices as its bytes need (:data:`MOST_BYTES`).

    Raises:
        MisfitError: a single value is too large.
    """
    chunk = _viewless(chunk)
    size = _unpacked_size(chunk)
    flat = is_text(chunk.type) or is_bytes(chunk.type)
    if size <= MOST_BYTES or (len(chunk) == 1 and not flat):
        yield chunk
        return
    if len(chunk) == 1:
        raise MisfitError(path, f"a value of {size} bytes is too large: at most {MOST_BYTES} bytes fit", 0)
    half = len(chunk) // 2
    row = 0
    for part in (chunk.slice(0, half), chunk.slice(half)):
        try:
            yield from _pieces(part, path)
        except MisfitError as error:
            error.row += row
            raise
        row += half


def _unpacked_size(chunk: Any) -> int:
    """Bytes of a chunk, at the most, once it is no dictionary."""
    import pyarrow as pa
    import pyarrow.compute as pc

    if not pa.types.is_dictionary(chunk.type):
        return int(chunk.nbytes)
    words = _viewless(chunk.dictionary)
    if not (is_text(words.type) or is_bytes(words.type)) or not len(words):
        return int(chunk.nbytes)
    return len(chunk) * int(pc.max(pc.binary_length(words)).as_py() or 0)


def _fit_array(array: Any, field: t.NestedField, path: str, present: Any) -> Any:
    """One array in the field's type.

    Args:
        array: the values.
        field: what they are for.
        path: dotted name of the field.
        present: for a struct's field: which rows have the struct; None: all.
    """
    import pyarrow as pa
    import pyarrow.compute as pc

    array = _decoded(array)
    if field.required and array.null_count:
        bad = array.is_null() if present is None else pc.and_(array.is_null(), present)
        row = pc.index(bad, True).as_py()
        if row >= 0:
            error = missing(path, field.type)
            error.row = row
            raise error
    if array.null_count == len(array):
        return null_array(len(array), field.type)
    kind = field.type
    if isinstance(kind, t.ListType) and is_listlike(array.type):
        return _fit_list(array, kind, path)
    if isinstance(kind, t.MapType) and pa.types.is_map(array.type):
        return _fit_map(array, kind, path)
    if isinstance(kind, t.StructType) and pa.types.is_struct(array.type):
        return _fit_struct(array, kind, path, present)
    if t.children(kind):
        raise _wrong_type(array, kind, path)
    return _in_range(_fit_flat(array, kind, path), array, kind, path, present)


def _decoded(array: Any) -> Any:
    import pyarrow as pa
    import pyarrow.compute as pc

    if pa.types.is_dictionary(array.type):
        return _decoded(_viewless(array.dictionary).take(array.indices))
    if pa.types.is_run_end_encoded(array.type):
        return _decoded(pc.run_end_decode(array))
    return array


def _viewless(array: Any) -> Any:
    """Text and bytes in the layout that all of Arrow's functions take; not all of them take views."""
    import pyarrow as pa

    if pa.types.is_string_view(array.type):
        return array.cast(pa.large_string())
    if pa.types.is_binary_view(array.type):
        return array.cast(pa.large_binary())
    return array


def _wrong_type(array: Any, kind: t.IcebergType, path: str) -> MisfitError:
    import pyarrow as pa
    import pyarrow.compute as pc

    why = "the column is not converted silently; cast it to the type that the table has"
    if pa.types.is_floating(array.type) and str(kind) in ("int", "long"):
        why = "floats are not converted; where pandas made them of integers with gaps, use astype('Int64')"
    elif pa.types.is_timestamp(array.type) and str(kind).startswith("timestamp"):
        why = "one of them has a time zone and the other has none; convert the column on purpose"
    elif pa.types.is_timestamp(array.type) and str(kind) == "date":
        why = "the time of day would be lost; cast the column to dates on purpose"
    row = pc.index(array.is_valid(), True).as_py()
    return _misfit(array, row, kind, path, why)


def _misfit(array: Any, row: int, kind: t.IcebergType, path: str, why: str) -> MisfitError:
    import pyarrow as pa

    scalar = array[row]
    try:
        text = shown(scalar.as_py())
    except (ValueError, OverflowError):  # nanoseconds and far years, which Python's datetime does not hold
        text = repr(array.slice(row, 1).cast(pa.string())[0].as_py())
    return MisfitError(path, f"{text} of Arrow type {array.type} is not {kind}: {why}", row)


def _may_hold(source: Any, kind: t.IcebergType) -> bool:
    """Whether values of an Arrow type can be values of an Iceberg type, one by one."""
    import pyarrow as pa

    pt = pa.types
    if isinstance(kind, t.DecimalType):
        return bool(pt.is_decimal(source) or pt.is_integer(source))
    if isinstance(kind, t.FixedType):
        return is_bytes(source) or bool(pt.is_fixed_size_binary(source))
    name = str(kind)
    if name in ("int", "long"):
        return bool(pt.is_integer(source))
    if name in ("float", "double"):
        return bool(pt.is_floating(source) or pt.is_integer(source))
    if name in ("timestamp", "timestamptz"):
        return bool(pt.is_timestamp(source)) and (source.tz is None) == (name == "timestamp")
    if name == "binary":
        return is_bytes(source) or bool(pt.is_fixed_size_binary(source))
    if name == "uuid":
        return is_uuid(source) or is_text(source) or source == pa.binary(16)
    checks = {"boolean": pt.is_boolean, "date": pt.is_date, "time": pt.is_time, "string": is_text}
    return bool(checks[name](source))


def _in_range(fitted: Any, array: Any, kind: t.IcebergType, path: str, present: Any) -> Any:
    """The fitted array; of dates and times, none may be outside the range that can be stored.

    Raises:
        MisfitError: one is.
    """
    row = first_outside(fitted, str(kind), present)
    if row >= 0:
        text = stored_text(fitted.view("int32" if str(kind) == "date" else "int64")[row].as_py(), str(kind))
        raise MisfitError(path, f"{text} of Arrow type {array.type} is not {kind}: {RULES[str(kind)]}", row)
    return fitted


def _fit_flat(array: Any, kind: t.IcebergType, path: str) -> Any:
    import pyarrow as pa

    target = type_to_arrow(kind)
    if array.type == target:
        return array
    if not _may_hold(array.type, kind):
        raise _wrong_type(array, kind, path)
    if str(kind) == "uuid" and not is_text(array.type):
        return pa.ExtensionArray.from_storage(target, array)
    try:
        cast = None if str(kind) == "uuid" else array.cast(target)
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError):
        cast = None
    if cast is not None and not (pa.types.is_float64(array.type) and str(kind) == "float"):
        return cast
    if is_text(array.type) or (pa.types.is_integer(array.type) and not pa.types.is_integer(target)):
        # Arrow refuses by the range of the types; what counts is each value.
        return column_array(array.to_pylist(), t.NestedField(0, path, kind, False), path)
    row = _first_refused(array, target) if cast is None else _first_rounded(array, cast)
    if row < 0:
        return cast
    why = "it is out of range, or digits would be lost; convert the column on purpose"
    raise _misfit(array, row, kind, path, why)


def _first_rounded(array: Any, cast: Any) -> int:
    """Index of the first double that changed when it became a float; -1: none did."""
    import pyarrow.compute as pc

    changed = pc.and_(pc.not_equal(cast.cast(array.type), array), pc.invert(pc.is_nan(array)))
    return int(pc.index(changed, True).as_py())


def _first_refused(array: Any, target: Any) -> int:
    """Index of the first value that cannot be cast, by bisection: Arrow does not say which it was."""
    import pyarrow as pa

    low, high = 0, len(array)
    while high - low > 1:
        middle = (low + high) // 2
        try:
            array.slice(low, middle - low).cast(target)
            low = middle
        except (pa.ArrowInvalid, pa.ArrowNotImplementedError):
            high = middle
    return low


def _offsets(array: Any) -> Any:
    """Where each list begins among the elements that ``flatten`` gives, and where the last one ends."""
    import pyarrow as pa
    import pyarrow.compute as pc

    lengths = pc.fill_null(pc.list_value_length(array), 0).cast(pa.int64())
    ends = pc.cumulative_sum(lengths).cast(pa.int32())
    joined = pa.concat_arrays([pa.array([0], pa.int32()), ends])
    # Without a validity bitmap, even one that says that all is valid: older Arrows take no mask beside one.
    return pa.Array.from_buffers(pa.int32(), len(joined), [None, joined.buffers()[1]])


def _fit_inside(array: Any, field: t.NestedField, path: str, offsets: Any) -> Any:
    """The elements of lists; in an error, the row is that of the list."""
    try:
        return _fit_array(array, field, path, None)
    except MisfitError as error:
        error.row = bisect_right(offsets.to_pylist(), error.row) - 1
        raise


def _fit_list(array: Any, kind: t.ListType, path: str) -> Any:
    import pyarrow as pa

    offsets = _offsets(array)
    (element,) = t.children(kind)
    values = _fit_inside(elements(array), element, f"{path}.element", offsets)
    return pa.ListArray.from_arrays(offsets, values, type=type_to_arrow(kind), mask=array.is_null())


def _fit_map(array: Any, kind: t.MapType, path: str) -> Any:
    import pyarrow as pa

    pairs = map_as_lists(array)
    offsets = _offsets(pairs)
    flat = elements(pairs)
    key, item = t.children(kind)
    keys = _fit_inside(flat.field(0), key, f"{path}.key", offsets)
    items = _fit_inside(flat.field(1), item, f"{path}.value", offsets)
    _check_keys(pairs, keys, kind, path)
    return pa.MapArray.from_arrays(offsets, keys, items, type=type_to_arrow(kind), mask=array.is_null())


def _check_keys(pairs: Any, keys: Any, kind: t.MapType, path: str) -> None:
    import pyarrow as pa
    import pyarrow.compute as pc

    if t.children(kind.key):
        return  # Arrow cannot group by nested keys
    plain = keys.storage if is_uuid(keys.type) else keys
    entries = pa.table({"row": pc.list_parent_indices(pairs), "key": plain})
    counts = entries.group_by(["row", "key"], use_threads=False).aggregate([([], "count_all")])
    if counts.num_rows == len(keys):
        return
    twice = counts.filter(pc.greater(counts["count_all"], 1)).slice(0, 1).to_pylist()[0]
    raise MisfitError(path, f"the {kind} has the key {shown(twice['key'])} twice", twice["row"])


def _fit_struct(array: Any, kind: t.StructType, path: str, present: Any) -> Any:
    import pyarrow as pa
    import pyarrow.compute as pc

    valid = array.is_valid()
    if present is not None:
        valid = pc.and_(valid, present)
    names = [field.name for field in array.type]
    wanted = [field.name for field in kind.fields]
    for name in names:
        if name not in wanted:
            raise UnusableError(f"the field {path}.{name!r} is not in the schema; there are {', '.join(wanted)}")
        if names.count(name) > 1:
            raise UnusableError(f"the field {path}.{name!r} is there {names.count(name)} times; rename the others")
    children = []
    for field in kind.fields:
        there = field.name in names
        child = array.field(names.index(field.name)) if there else pa.nulls(len(array))
        fitted = _fit_array(child, field, f"{path}.{field.name}", valid)
        children.append(without_nulls(fitted, field.type) if field.required else fitted)
    return pa.StructArray.from_arrays(children, fields=list(type_to_arrow(kind)), mask=array.is_null())
