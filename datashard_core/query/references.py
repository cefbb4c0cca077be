"""Which tables a query names, and under which names DuckDB is to know them. Pure: parsed queries to parsed queries.

DuckDB folds the case of names, has catalogs and schemas of its own, and finds a table before it looks further; our
names are case-sensitive and know no such neighbours. So most tables become views under their own names, and a table
that DuckDB could take for another is renamed in the parsed query: an earlier state, a name that another one in the
query differs from by case only, and a namespace that is called as a catalog or schema of DuckDB's.
"""

from __future__ import annotations

import difflib
from collections import Counter
from collections.abc import Collection, Iterator, Sequence
from typing import Any

from msgspec import Struct

_SUGGESTED = 3
_LISTED = 10
_CTE_NODES = ("RECURSIVE_CTE_NODE", "CTE_NODE")
_RECURRING = "recurring"  # schema of what a recursive CTE has found so far


class Reference(Struct, frozen=True):
    """A place where a query names a table.

    Attributes:
        node: the place, in the parsed query.
        name: the name as it is written there, without quotes.
    """

    node: dict[str, Any]
    name: str

    @property
    def parts(self) -> tuple[str, ...]:
        """Catalog, schema and table, as far as they are written."""
        node = self.node
        return tuple(part for part in (node["catalog_name"], node["schema_name"], node["table_name"]) if part)

    @property
    def shown_as(self) -> str:
        """Name by which the query's expressions know the table."""
        return str(self.node["alias"] or self.node["table_name"])


def references(parsed: Any) -> list[Reference]:
    """The places where a parsed query names a table: not those that name one of its common table expressions."""
    found = []
    for node in _base_tables(parsed, frozenset()):
        parts = (node["catalog_name"], node["schema_name"], node["table_name"])
        found.append(Reference(node, ".".join(part for part in parts if part)))
    return found


def _base_tables(node: Any, hidden: frozenset[str]) -> Iterator[dict[str, Any]]:
    if isinstance(node, list):
        for one in node:
            yield from _base_tables(one, hidden)
        return
    if not isinstance(node, dict):
        return
    if node.get("type") == "BASE_TABLE":
        name = ".".join(filter(None, (node["catalog_name"], node["schema_name"], node["table_name"]))).lower()
        if name not in hidden or node.get("at_clause") is not None:
            yield node
        return
    inner = hidden
    for entry in (node.get("cte_map") or {}).get("map") or ():
        yield from _base_tables(entry["value"], inner)  # it sees those before it, and a recursive one itself
        inner |= {entry["key"].lower()}
    own = {str(node["cte_name"]).lower()} if node.get("type") in _CTE_NODES else set()
    own |= {f"{_RECURRING}.{name}" for name in own}
    for key, value in node.items():
        if key != "cte_map":
            # What a plain CTE is made of does not see it; all else does, and a recursive one sees itself.
            outside = node.get("type") == "CTE_NODE" and key == "query"
            yield from _base_tables(value, inner if outside else inner | own)


def to_rename(found: Sequence[Reference], reserved: Collection[str]) -> list[Reference]:
    """The references that DuckDB would take for something else, as they are written.

    Args:
        found: all references of a query.
        reserved: DuckDB's own catalogs and schemas, in lower case.
    """
    spellings = Counter(name.lower() for name in {one.name for one in found})
    return [
        one
        for one in found
        if one.node.get("at_clause") is not None
        or spellings[one.name.lower()] > 1
        or "." in one.node["table_name"]  # "shop.orders", in one pair of quotes
        or any(part.lower() in reserved for part in one.parts[:-1])
    ]


def rename(parsed: Any, found: Sequence[Reference], views: Sequence[tuple[Reference, str]]) -> None:
    """Put other names in the places of references, and keep what the query's expressions call them.

    Args:
        parsed: the parsed query; it is changed.
        found: all references of the query.
        views: references and the names of their views.
    """
    aliases = {alias.lower() for alias in _aliases(parsed)}
    taken = {one.shown_as.lower(): one.shown_as for one in reversed(found)}
    moved: dict[tuple[str, ...], str] = {}
    for reference, view in views:
        node, parts, alias = reference.node, reference.parts, reference.shown_as
        if not node["alias"]:
            first = taken.setdefault(alias.lower(), alias)
            if first != alias and alias.lower() not in aliases:
                # Another table of the query is called so but for the case: DuckDB could not tell the two apart.
                alias = f"{alias}_{view}"
                moved[parts[-1:]] = alias
            if len(parts) > 1 and parts[0].lower() not in aliases | set(taken):
                moved[parts] = alias
        node["alias"] = alias
        node["table_name"], node["schema_name"], node["catalog_name"], node["at_clause"] = view, "", "", None
    if moved:
        _move_columns(parsed, moved)


def _aliases(node: Any) -> Iterator[str]:
    """The names that a query itself gives to what it reads from."""
    if isinstance(node, list):
        for one in node:
            yield from _aliases(one)
    elif isinstance(node, dict):
        if node.get("alias") and "sample" in node:  # of a table or subquery, and not of an expression
            yield node["alias"]
        yield from (entry["key"] for entry in (node.get("cte_map") or {}).get("map") or ())
        for value in node.values():
            yield from _aliases(value)


def _move_columns(node: Any, moved: dict[tuple[str, ...], str]) -> None:
    """Columns that are named with their table, under the table's new name."""
    if isinstance(node, list):
        for one in node:
            _move_columns(one, moved)
    elif isinstance(node, dict):
        names = node.get("column_names")
        if node.get("type") == "COLUMN_REF" and names:
            for length in range(len(names) - 1, 0, -1):
                if (alias := moved.get(tuple(names[:length]))) is not None:
                    node["column_names"] = [alias, *names[length:]]
                    break
        elif node.get("type") == "STAR" and (node.get("relation_name"),) in moved:
            node["relation_name"] = moved[(node["relation_name"],)]
        for value in node.values():
            _move_columns(value, moved)


def prefix_for(query: str) -> str:
    """What the names of a query's views begin with: something that is nowhere in the query."""
    prefix = "_datashard"
    while prefix in query.lower():
        prefix += "_"
    return prefix


def quoted(parts: Sequence[str]) -> str:
    """A name for SQL."""
    return ".".join('"' + part.replace('"', '""') + '"' for part in parts)


def suggestion(name: str, tables: Sequence[str]) -> str:
    """What a user may have meant by the name of no table, in words.

    Example:
        >>> suggestion("ordrs", ["orders", "ops.orders", "events"])
        'did you mean orders or ops.orders?'
    """
    wanted, last = name.lower(), name.lower().rpartition(".")[2]
    by_fold: dict[str, list[str]] = {}
    for table in tables:
        for fold in dict.fromkeys((table.lower(), table.lower().rpartition(".")[2])):
            by_fold.setdefault(fold, []).append(table)
    exact = by_fold.get(wanted, []) + by_fold.get(last, [])
    near = [] if exact else difflib.get_close_matches(wanted, by_fold, 3) + difflib.get_close_matches(last, by_fold, 3)
    meant = list(dict.fromkeys(exact + [table for fold in near for table in by_fold[fold]]))[:_SUGGESTED]
    if meant:
        return f"did you mean {' or '.join(meant)}?"
    if not tables:
        return "there are no tables"
    more = f" and {len(tables) - _LISTED} more" if len(tables) > _LISTED else ""
    return f"the tables are {', '.join(tables[:_LISTED])}{more}"
