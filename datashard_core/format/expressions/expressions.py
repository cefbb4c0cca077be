"""Conditions on rows as values: ``(col("state") == "failed") & col("finished").is_not_null()``.

A condition is true, false or null for a row, as in SQL: a comparison with a null is null, and only
rows for which the whole condition is true are taken. NaN equals itself and is above every other
number, as in DuckDB, PostgreSQL and Spark.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Literal

from msgspec import Struct

from datashard_core.arguments import shown
from datashard_core.errors import ConfigurationError

Path = str | tuple[str, ...]
"""A column by its name, with dots before fields within structs; or its name and those of the fields one by one."""
Operator = Literal["==", "!=", "<", "<=", ">", ">="]
NEGATED: dict[Operator, Operator] = {"==": "!=", "!=": "==", "<": ">=", ">=": "<", ">": "<=", "<=": ">"}
SWAPPED: dict[Operator, Operator] = {"==": "==", "!=": "!=", "<": ">", ">": "<", "<=": ">=", ">=": "<="}


LONGEST_SHOWN = 2000
"""Characters of a value in the text of a condition."""


class Condition(Struct, frozen=True):
    """A condition on the rows of a table; combine with ``&`` (and), ``|`` (or) and ``~`` (not).

    Example:
        >>> (col("amount") > 10) | col("amount").is_null()
        ((col('amount') > 10) | col('amount').is_null())
    """

    def __and__(self, other: Condition) -> Condition:
        return And((self, _checked(other)))

    def __or__(self, other: Condition) -> Condition:
        return Or((self, _checked(other)))

    def __invert__(self) -> Condition:
        return Not(self)

    def __bool__(self) -> bool:
        raise TypeError(
            f"the condition {self} is true or false for a row, not by itself: combine conditions with &, | and ~ "
            "(each in brackets) instead of and, or and not"
        )


class Comparison(Condition, frozen=True):
    """A column compared with a value."""

    column: Path
    operator: Operator
    value: Any

    def __repr__(self) -> str:
        return f"({_col(self.column)} {self.operator} {shown(self.value, LONGEST_SHOWN)})"


class IsNull(Condition, frozen=True):
    """Whether a column is null; never null itself."""

    column: Path

    def __repr__(self) -> str:
        return f"{_col(self.column)}.is_null()"


class IsNaN(Condition, frozen=True):
    """Whether a column is NaN; null where it is null."""

    column: Path

    def __repr__(self) -> str:
        return f"{_col(self.column)}.is_nan()"


class In(Condition, frozen=True):
    """Whether a column is one of some values; as in SQL, never false if one of them is null."""

    column: Path
    values: tuple[Any, ...]

    def __repr__(self) -> str:
        return f"{_col(self.column)}.isin({shown(list(self.values), LONGEST_SHOWN)})"


class StartsWith(Condition, frozen=True):
    """Whether a text, or bytes, begin with a prefix."""

    column: Path
    prefix: Any

    def __repr__(self) -> str:
        return f"{_col(self.column)}.starts_with({shown(self.prefix, LONGEST_SHOWN)})"


class And(Condition, frozen=True):
    """True where all parts are, false where one is."""

    parts: tuple[Condition, ...]

    def __repr__(self) -> str:
        return f"({' & '.join(map(repr, self.parts))})"


class Or(Condition, frozen=True):
    """True where one part is, false where all are."""

    parts: tuple[Condition, ...]

    def __repr__(self) -> str:
        return f"({' | '.join(map(repr, self.parts))})"


class Not(Condition, frozen=True):
    """True where the part is false, null where it is null."""

    part: Condition

    def __repr__(self) -> str:
        return f"~{self.part!r}"


class Constant(Condition, frozen=True):
    """The same for every row."""

    value: bool | None

    def __repr__(self) -> str:
        return f"Constant({self.value})"


class Opaque(Condition, frozen=True):
    """Something that only a query engine understands: it may be true for any row."""

    text: str = ""

    def __repr__(self) -> str:
        return f"Opaque({self.text!r})"


class Column(Struct, frozen=True, eq=False):
    """A column of a table, to make conditions of; see :func:`col`."""

    name: str

    __hash__ = None  # type: ignore[assignment]

    def __repr__(self) -> str:
        return _col(self.name)

    def __eq__(self, value: object) -> Condition:  # type: ignore[override]
        return self._compared("==", value)

    def __ne__(self, value: object) -> Condition:  # type: ignore[override]
        return self._compared("!=", value)

    def __lt__(self, value: Any) -> Condition:
        return self._compared("<", value)

    def __le__(self, value: Any) -> Condition:
        return self._compared("<=", value)

    def __gt__(self, value: Any) -> Condition:
        return self._compared(">", value)

    def __ge__(self, value: Any) -> Condition:
        return self._compared(">=", value)

    def is_null(self) -> Condition:
        """Where the column is null."""
        return IsNull(self.name)

    def is_not_null(self) -> Condition:
        """Where the column has a value."""
        return Not(IsNull(self.name))

    def is_nan(self) -> Condition:
        """Where a float or double is NaN."""
        return IsNaN(self.name)

    def is_not_nan(self) -> Condition:
        """Where a float or double is a number."""
        return Not(IsNaN(self.name))

    def isin(self, values: Iterable[Any]) -> Condition:
        """Where the column has one of the values.

        Example:
            >>> col("state").isin(["failed", "skipped"])
            col('state').isin(['failed', 'skipped'])
        """
        return In(self.name, _values(values))

    def not_in(self, values: Iterable[Any]) -> Condition:
        """Where the column has none of the values (nowhere, if one of them is None: as in SQL)."""
        return Not(In(self.name, _values(values)))

    def starts_with(self, prefix: str | bytes) -> Condition:
        """Where a text begins with ``prefix``."""
        return StartsWith(self.name, prefix)

    def _compared(self, operator: Operator, value: Any) -> Condition:
        if value is None:
            raise ConfigurationError(
                f"{self} {operator} None is null for every row: write {self}.is_null() or {self}.is_not_null()"
            )
        if isinstance(value, (Column, Condition)):
            raise ConfigurationError(
                f"{self} {operator} {value}: a column is compared with a value here; compare columns by SQL text, "
                "where='...'"
            )
        return Comparison(self.name, operator, value)


def col(name: str) -> Column:
    """A column, to make conditions of.

    Args:
        name: its name; fields within a struct are reached by dots, as in ``address.city``.

    Example:
        >>> (col("state") == "failed") & ~col("task").starts_with("tmp_")
        ((col('state') == 'failed') & ~col('task').starts_with('tmp_'))
    """
    if not isinstance(name, str) or not name:
        raise ConfigurationError(f"col({shown(name)}): pass the name of a column")
    return Column(name)


def column_name(path: Path) -> str:
    """A column as messages name it."""
    return path if isinstance(path, str) else ".".join(path)


def _col(path: Path) -> str:
    return f"col({shown(column_name(path), LONGEST_SHOWN)})"


def _values(values: Iterable[Any]) -> tuple[Any, ...]:
    if isinstance(values, (str, bytes)) or not isinstance(values, Iterable):
        raise ConfigurationError(f"isin({shown(values)}): pass a list of values")
    return tuple(values)


def _checked(other: Any) -> Condition:
    if not isinstance(other, Condition):
        raise ConfigurationError(
            f"{shown(other)} is no condition: put comparisons in brackets, as in (col('a') == 1) & (col('b') == 2)"
        )
    return other
