"""Runs the lines of a page in ``docs/engines`` on tables, in a process of its own that never imports our code.

The request on the standard input is JSON: the page's code, the root of the table in it, and the roots of
the tables to run it on. The answer, pickled, is for each of them its rows, or the text of the error.
"""

from __future__ import annotations

import ast
import json
import os
import pickle
import sys
from typing import Any


def run(code: str, of: str, roots: dict[str, str]) -> dict[str, Any]:
    """The rows of each table; what does not depend on the table (a server, a connection) is run once."""
    answers: dict[str, Any] = {}
    done: set[str] = set()
    names: dict[str, Any] = {}
    for table, root in roots.items():
        text = code.replace(of, root)
        statements = ast.parse(text).body
        try:
            for statement in statements:
                source = str(ast.get_source_segment(text, statement))
                if source in done and statement is not statements[-1]:
                    continue
                exec(compile(ast.Module([statement], []), "page", "exec"), names)
                done.add(source)
            answers[table] = plain(names["rows"])
        except Exception as error:  # noqa: BLE001 - whoever asked judges it
            answers[table] = f"{type(error).__name__}: {error}"
    return answers


def plain(rows: Any) -> list[dict[str, Any]]:
    """Rows of whatever kind of table as dictionaries."""
    import pyarrow as pa

    if hasattr(rows, "to_dicts"):
        found: list[dict[str, Any]] = rows.to_dicts()
        return found
    columns = {}
    for name in rows.column_names:
        column = rows.column(name)
        try:
            columns[name] = column.to_pylist()
        except UnicodeDecodeError:  # ClickHouse has one type for text and bytes
            columns[name] = column.cast(pa.binary()).to_pylist()
    return [dict(zip(columns, values, strict=True)) for values in zip(*columns.values(), strict=True)]


if __name__ == "__main__":
    request = json.load(sys.stdin)
    answers = run(request["code"], request["of"], request["roots"])
    assert not any(name.partition(".")[0] == "datashard_core" for name in sys.modules)
    sys.stdout.buffer.write(b"ANSWER" + pickle.dumps(answers))
    sys.stdout.flush()
    os._exit(0)  # embedded servers need not be waited for
