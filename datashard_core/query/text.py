"""SQL text as a condition: that it is one expression about the rows of a table, and the rows it is true for.

DuckDB parses the text, once in round brackets and once as the one element of a list. Text that closes the bracket
around it (``true) union all (select ...``) does not parse in both, or does not mean the same in both.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

from datashard_core.errors import ConfigurationError
from datashard_core.format.kernels import kernels
from datashard_core.query.duck import quoted

if TYPE_CHECKING:
    import pyarrow as pa

_SOURCES = ("EMPTY", "EXPRESSION_LIST", "SUBQUERY", "JOIN")
"""What a query within a condition may read: values that the condition itself names."""
_NOT_PUSHED = "filter_pushdown,join_filter_pushdown"
"""Without these DuckDB answers a condition itself; with them it asks Arrow, which orders NaN in another way."""
_ROW_ID = "rowid"
"""A column that every table of DuckDB's own has."""
_ROWS = 100_000
_BATCHES = 1024


def free_name(name: str, taken: Iterable[str]) -> str:
    """A name that none of the others is, whatever the case of its letters."""
    known = {one.lower() for one in taken}
    while name.lower() in known:
        name += "_"
    return name


def check_text(connection: Any, where: str, names: Sequence[str], rows: str, table_name: str) -> None:
    """Refuse text that is more than one expression about the columns of a table.

    Args:
        connection: a DuckDB connection.
        where: the text.
        names: names of the table's columns.
        rows: the internal name of the table, which the text may not use.
        table_name: for messages.

    Raises:
        ConfigurationError: it does not parse, is no single expression, has parameters, reads something else, or names
            a column that another one differs from by case alone.
    """
    of_queries: set[int] = set()
    for node in _nodes(_expression(connection, where, table_name)):
        kind = node.get("class") or node.get("type")
        if kind == "PARAMETER":
            raise _refused(table_name, where, "it has a parameter: write the value itself, or use col()")
        if kind == "POSITIONAL_REFERENCE":
            raise _refused(table_name, where, f"#{node['index']} is no column: name the column")
        if kind == "STAR" and (id(node) not in of_queries or node["columns"]):
            raise _refused(table_name, where, "* stands for no single value: name the columns")
        if kind == "COLUMN_REF":
            _check_column(str(node["column_names"][0]), where, names, rows, table_name)
        if "from_table" in node and node.get("type") == "SELECT_NODE":
            _check_sources(node["from_table"], where, table_name)
            of_queries.update(map(id, node["select_list"]))  # (values (1), (2)) is a select of * to DuckDB


def _expression(connection: Any, where: str, table_name: str) -> Any:
    """The parsed expression that a text is."""
    enclosed = _parsed(connection, f"select 1 where (\n{where}\n)", where, table_name)
    listed = _parsed(connection, f"select [\n{where}\n]", where, table_name)
    try:
        (statement,), (other,) = enclosed["statements"], listed["statements"]
        expression = statement["node"]["where_clause"]
        (elements,) = other["node"]["select_list"]
        (element,) = elements["children"]
    except (KeyError, ValueError, TypeError):
        raise _not_one(table_name, where) from None
    alone = _parsed(connection, "select 1 where (true)", where, table_name)["statements"][0]
    alone["node"]["where_clause"] = expression
    by_itself = _parsed(connection, "select [true]", where, table_name)["statements"][0]
    by_itself["node"]["select_list"][0]["children"] = [element]
    same = _placeless(expression) == _placeless(element)
    if not same or _placeless(statement) != _placeless(alone) or _placeless(other) != _placeless(by_itself):
        raise _not_one(table_name, where)
    return expression


def _parsed(connection: Any, query: str, where: str, table_name: str) -> Any:
    row = connection.execute("select json_serialize_sql(?)", [query]).fetchone()
    parsed = json.loads(row[0])  # not msgspec: DuckDB writes Infinity as such
    if not parsed.get("error"):
        return parsed
    if "Only SELECT" in str(parsed.get("error_message")):
        raise _not_one(table_name, where)
    raise _refused(table_name, where, str(parsed.get("error_message")))


def _placeless(node: Any) -> Any:
    """A parsed query without the places in the text that its parts come from."""
    if isinstance(node, list):
        return [_placeless(one) for one in node]
    if isinstance(node, dict):
        return {key: _placeless(one) for key, one in node.items() if key not in ("query_location", "named_param_map")}
    return node


def _nodes(parsed: Any) -> Iterator[dict[str, Any]]:
    left = [parsed]
    while left:
        node = left.pop()
        if isinstance(node, dict):
            yield node
            left += node.values()
        elif isinstance(node, list):
            left += node


def _check_column(name: str, where: str, names: Sequence[str], rows: str, table_name: str) -> None:
    alike = [one for one in names if one.lower() == name.lower()]
    if not alike and name.lower() in (rows.lower(), _ROW_ID):
        raise _refused(table_name, where, f"the table has no column {name!r}; it has {', '.join(names)}")
    if len(alike) > 1:
        raise _refused(
            table_name,
            where,
            f"SQL does not tell the columns {' and '.join(map(repr, alike))} apart: use col({name!r}), which does",
        )


def _check_sources(source: Any, where: str, table_name: str) -> None:
    if source["type"] == "JOIN":
        for side in (source["left"], source["right"]):
            _check_sources(side, where, table_name)
    elif source["type"] not in _SOURCES:
        raise _refused(
            table_name,
            where,
            "a condition is about the columns of its table and reads nothing else: write the whole query for "
            "warehouse.sql()",
        )


def _not_one(table_name: str, where: str) -> ConfigurationError:
    return _refused(table_name, where, "it is not one condition: combine several by and, or, and brackets")


def _refused(table_name: str, where: str, why: str) -> ConfigurationError:
    return ConfigurationError(f"table {table_name}: the condition {where!r} does not fit: {why}")


def matching(
    connection: Any, batches: Iterable[pa.RecordBatch], where: str, columns: Sequence[str], rows: str
) -> Iterator[pa.RecordBatch]:
    """The rows for which a condition is true, as DuckDB answers it.

    DuckDB sees the columns of the condition alone and answers with the places of the rows: no value goes through its
    types and back.

    Args:
        connection: a DuckDB connection.
        batches: rows.
        where: the condition, which :func:`check_text` accepts.
        columns: the columns that it needs.
        rows: a name for the rows in the query.
    """
    import pyarrow as pa

    pc = kernels()
    place = free_name("place of the row", columns)
    connection.execute(f"set disabled_optimizers = '{_NOT_PUSHED}'")
    query = f"select {quoted(place)} from {quoted(rows)} where (\n{where}\n)"
    for group in _groups(batches):
        table = pa.Table.from_batches(group)
        ones = pa.repeat(pa.scalar(1, pa.int64()), table.num_rows)
        places = pc.call_function("cumulative_sum", [ones], pc.CumulativeOptions(start=-1))
        connection.register(rows, table.select(list(columns)).append_column(place, places))
        found = connection.execute(query).to_arrow_table().column(0)
        connection.unregister(rows)
        yield from table.take(found).to_batches()


def _groups(batches: Iterable[pa.RecordBatch]) -> Iterator[list[pa.RecordBatch]]:
    """Batches that are asked about together: few at first, for a scan with a limit often ends there."""
    most, group, rows = 1, [], 0
    for batch in batches:
        if not batch.num_rows:
            continue
        group.append(batch)
        rows += batch.num_rows
        if len(group) >= most or rows >= _ROWS:
            yield group
            most, group, rows = min(2 * most, _BATCHES), [], 0
    if group:
        yield group
