"""The schemas of Avro files that others wrote, checked before anything is read by them.

A schema comes with the file. One that refers to itself sends a reader down without end, one whose records take
no bytes lets ten bytes hold a billion of them. So a schema is checked once: names that stand for types are
replaced by these types, and what is left has a depth, a weight and a smallest size in bytes.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import Any

import msgspec
from msgspec import Struct

from datashard_core.format.json_text import is_too_deep

MAX_DEPTH = 32
"""Types within each other. Those of a manifest's entry are seven deep."""

MAX_WEIGHT = 20_000
"""Types in a schema, each as often as it is named. A manifest has some eighty, and two for each partition field."""

MAX_FIXED = 2**20
"""Bytes of a value of fixed length: a partition value; uuids and decimals have 16."""

_LEAST = {"null": 0, "boolean": 1, "int": 1, "long": 1, "float": 4, "double": 8, "bytes": 1, "string": 1}
"""The fewest bytes of each primitive type."""


class Checked(Struct, frozen=True):
    """A schema, or a part of one, that can be read by.

    Attributes:
        kind: the schema, with types in the place of their names.
        weight: how many types it has.
        least: the fewest bytes that a value takes.
        values: of a whole schema, :func:`values_in` it.
    """

    kind: Any
    weight: int
    least: int
    values: int = 1


@lru_cache(maxsize=64)  # the manifests of a table have a few schemas
def checked_schema(text: str) -> Checked:
    """The schema of a file's records.

    Args:
        text: its JSON.

    Raises:
        ValueError: it is none, it refers to itself, its records take no bytes, or it is beyond a limit.
    """
    try:
        raw = msgspec.json.decode(text)
    except RecursionError as error:
        raise ValueError("its schema is nested too deeply") from error
    if not isinstance(raw, dict) or raw.get("type") != "record":
        raise ValueError("its schema is not a record")
    if is_too_deep(raw, 4 * MAX_DEPTH):
        raise ValueError("its schema is nested too deeply")
    found = _Checker().kind(raw, 0)
    if not found.least:
        raise ValueError("its records take no bytes")
    return Checked(found.kind, found.weight, found.least, values_in(found.kind))


def values_in(kind: Any) -> int:
    """How many values one of a checked type is made of at the most; what is in arrays and maps counts as it is read."""
    if isinstance(kind, list):
        return max(map(values_in, kind))
    if isinstance(kind, dict) and kind["type"] == "record":
        return 1 + sum(values_in(field["type"]) for field in kind["fields"])
    return 1


class _Checker:
    """Walks over a schema.

    A name is looked for without its namespace: two types that differ in the namespace alone count as one,
    which is refused where it matters.
    """

    def __init__(self) -> None:
        self._named: dict[str, Checked] = {}
        self._open: set[str] = set()
        self._weight = 0

    def kind(self, kind: Any, depth: int) -> Checked:
        if depth > MAX_DEPTH:
            raise ValueError(f"its schema has more than {MAX_DEPTH} types in each other")
        found = self._kind(kind, depth)
        if found.weight > MAX_WEIGHT:
            raise ValueError(f"its schema has more than {MAX_WEIGHT} types")
        return found

    def _kind(self, kind: Any, depth: int) -> Checked:
        if isinstance(kind, str):
            return self._by_name(kind)
        if isinstance(kind, list):
            return self._union(kind, depth)
        if not isinstance(kind, dict):
            raise ValueError(f"{kind!r:.80} is no type of Avro")
        name = kind.get("type")
        if not isinstance(name, str):
            return self.kind(name, depth + 1)
        if name in ("record", "fixed", "enum"):
            return self._definition(kind, name, depth)
        if name == "array":
            items = self.kind(kind.get("items"), depth + 1)
            if not items.least:
                raise ValueError("the items of an array take no bytes")
            return Checked({**kind, "items": items.kind}, 1 + items.weight, 1)
        if name == "map":
            values = self.kind(kind.get("values"), depth + 1)
            return Checked({**kind, "values": values.kind}, 1 + values.weight, 1)
        if name in _LEAST:
            return Checked(kind, 1, _LEAST[name])
        return self._by_name(name)

    def _by_name(self, name: str) -> Checked:
        if name in _LEAST:
            return Checked(name, 1, _LEAST[name])
        short = _short(name)
        if short in self._open:
            raise ValueError(f"its schema has the type {name:.80} within itself")
        if short not in self._named:
            raise ValueError(f"its schema has the type {name!r:.80}, which is none")
        return self._named[short]

    def _union(self, kinds: Sequence[Any], depth: int) -> Checked:
        if not kinds or any(isinstance(kind, list) for kind in kinds):
            raise ValueError("its schema has a union of nothing, or of unions")
        parts = [self.kind(kind, depth + 1) for kind in kinds]
        return Checked([part.kind for part in parts], 1 + sum(part.weight for part in parts), 1)

    def _definition(self, kind: Mapping[str, Any], what: str, depth: int) -> Checked:
        """A type that has a name: it may be named again after it, not within it."""
        name = kind.get("name", "")
        if not isinstance(name, str):
            raise ValueError(f"its schema has a type of the name {name!r:.80}")
        short = _short(name)
        if short in self._open:
            raise ValueError(f"its schema has the type {name:.80} within itself")
        self._open.add(short)
        found = self._record(kind, depth) if what == "record" else _plain(kind, what)
        self._open.discard(short)
        before = self._named.get(short)
        self._named[short] = found if before is None or before.weight <= found.weight else before
        return found

    def _record(self, kind: Mapping[str, Any], depth: int) -> Checked:
        fields = kind.get("fields")
        if not isinstance(fields, list):
            raise ValueError("its records have no fields")
        names: set[str] = set()
        checked: list[Mapping[str, Any]] = []
        weight, least = 1, 0
        for field in fields:
            if not isinstance(field, dict) or not isinstance(field.get("name"), str):
                raise ValueError("its schema has a field without a name")
            if type(field.get("field-id", 0)) is not int:
                raise ValueError(f"its schema has a field of the id {field['field-id']!r:.80}")
            if field["name"] in names:
                raise ValueError(f"its schema has the field {field['name']!r:.80} twice")
            names.add(field["name"])
            inside = self.kind(field.get("type"), depth + 1)
            checked.append({**field, "type": inside.kind})
            weight, least = weight + inside.weight, least + inside.least
            if weight > MAX_WEIGHT:
                break  # the caller refuses it
        return Checked({**kind, "fields": checked}, weight, least)


def _plain(kind: Mapping[str, Any], what: str) -> Checked:
    if what == "enum":
        symbols = kind.get("symbols")
        if not isinstance(symbols, list) or not all(isinstance(symbol, str) for symbol in symbols):
            raise ValueError("its schema has an enum without symbols")
        return Checked(kind, 1, 1)
    size = kind.get("size")
    if type(size) is not int or not 0 <= size <= MAX_FIXED:
        raise ValueError(f"its schema has values of {size!r:.80} bytes")
    return Checked(kind, 1, size)


def _short(name: str) -> str:
    return name.rpartition(".")[2]
