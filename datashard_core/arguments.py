"""Arguments of the public API, checked before anything is read or written.

Each function returns the value in the form that the rest of the library expects, or raises
:class:`~datashard_core.errors.ConfigurationError` with the argument's name, its value and the way out. Pure.
"""

from __future__ import annotations

import math
import operator
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime, timedelta
from typing import Any

from datashard_core.errors import ConfigurationError

LONGEST_TIMEOUT = 10_000_000.0
"""Seconds (116 days): what a platform can wait for is not much more."""
MAX_WHOLE = 2**63 - 1


def shown(value: object, most: int = 80) -> str:
    """A value for a message: short, and of characters that every log and terminal can show."""
    try:
        text = repr(value)
    except Exception as error:  # noqa: BLE001 - a message about a value must not fail over that value
        text = f"<{type(value).__name__} whose repr raises {type(error).__name__}>"
    text = text if len(text) <= most else f"{text[: most - 3]}..."
    return text.encode("utf-8", "backslashreplace").decode()


def seconds(value: Any, name: str = "timeout") -> float:
    """A number of seconds to wait.

    Args:
        value: what the caller gave.
        name: of the argument.

    Raises:
        ConfigurationError: it is no finite number from 0 to :data:`LONGEST_TIMEOUT`.

    Example:
        >>> seconds(5)
        5.0
    """
    advice = f"pass a number of seconds from 0 to {LONGEST_TIMEOUT:.0f}"
    if isinstance(value, timedelta):
        raise ConfigurationError(f"{name}={shown(value)}: {advice}, as {name}={value.total_seconds():g}")
    number = _number(value)
    if number is None or not 0 <= number <= LONGEST_TIMEOUT:
        raise ConfigurationError(f"{name}={shown(value)}: {advice}")
    return number


def _number(value: Any) -> float | None:
    """A real number, those of NumPy and decimals among them; None for anything else."""
    if isinstance(value, (bool, str, bytes, bytearray, complex)) or not hasattr(value, "__float__"):
        return None
    if type(value).__name__ in ("bool", "bool_"):  # NumPy's
        return None
    try:
        number = float(value)
    except (TypeError, ValueError, OverflowError):
        return None
    return number if math.isfinite(number) else None


def whole(value: Any, name: str, what: str, lowest: int, highest: int = MAX_WHOLE) -> int:
    """A whole number.

    Args:
        value: what the caller gave.
        name: of the argument.
        what: what it counts, for the message.
        lowest: the lowest value that makes sense.
        highest: the highest.

    Raises:
        ConfigurationError: it is no whole number of that range.

    Example:
        >>> whole(3, "version", "the number of a version", 0)
        3
    """
    number: int | None = None
    if not isinstance(value, bool) and type(value).__name__ not in ("bool", "bool_"):
        try:
            number = operator.index(value)
        except TypeError:
            number = None
    if number is None or not lowest <= number <= highest:
        least = f", {lowest} or more" if highest == MAX_WHOLE else f" from {lowest} to {highest}"
        raise ConfigurationError(f"{name}={shown(value)}: pass {what}{least}")
    return number


def flag(value: Any, name: str) -> bool:
    """True or False, NumPy's among them: "no" and "false" are true to Python.

    Raises:
        ConfigurationError: it is neither.
    """
    if isinstance(value, bool) or type(value).__name__ in ("bool", "bool_"):
        return bool(value)
    raise ConfigurationError(f"{name}={shown(value)}: pass True or False")


def moment(value: Any, name: str) -> datetime:
    """A point in time; one without a time zone counts as UTC.

    Raises:
        ConfigurationError: it is no datetime, or no clock can show it.
    """
    if not isinstance(value, datetime) or value != value:  # pandas' NaT is a datetime
        raise ConfigurationError(
            f"{name}={shown(value)}: pass a datetime, as datetime(2026, 11, 1, tzinfo=UTC); one without a time zone "
            "counts as UTC"
        )
    aware = value.replace(tzinfo=UTC) if value.tzinfo is None else value
    try:
        aware.timestamp()
    except (OverflowError, ValueError) as error:
        raise ConfigurationError(f"{name}={shown(value)}: this time cannot be told in UTC ({error})") from error
    return aware


def span(value: Any, name: str, lowest: timedelta) -> timedelta:
    """A length of time.

    Raises:
        ConfigurationError: it is no timedelta, or too short.
    """
    if not isinstance(value, timedelta) or value != value:
        number = _number(value)
        example = "timedelta(hours=24)" if number is None else f"timedelta(seconds={number:g})"
        raise ConfigurationError(f"{name}={shown(value)}: pass a timedelta, as {name}={example}")
    if value < lowest:
        raise ConfigurationError(
            f"{name}={shown(value)} is too short: pass {lowest!r} or more. Appends that are under way count on it."
        )
    return value


def text(value: Any, name: str, what: str = "text") -> str:
    """Text that every store and reader can hold: no half of a surrogate pair.

    Raises:
        ConfigurationError: it is none.
    """
    if not isinstance(value, str):
        raise ConfigurationError(f"{name}={shown(value)}: pass {what}")
    if not is_unicode(value):
        raise ConfigurationError(
            f"{name}={shown(value)} has half of a surrogate pair, which is no character: pass text that can be "
            "encoded as UTF-8"
        )
    return value


def is_unicode(value: str) -> bool:
    """Whether text can be encoded as UTF-8."""
    try:
        value.encode()
    except UnicodeEncodeError:
        return False
    return True


def texts(value: Any, name: str) -> dict[str, str]:
    """A mapping of text to text, as Iceberg's properties are.

    Raises:
        ConfigurationError: it is none.
    """
    if not isinstance(value, Mapping):
        raise ConfigurationError(f"{name}={shown(value)}: pass a mapping of text to text, or None")
    for key, one in value.items():
        if not isinstance(key, str) or not isinstance(one, str):
            raise ConfigurationError(f"{name}: {shown(key)}={shown(one)}: keys and values are text in Iceberg")
        text(key, f"a key of {name}")
        text(one, f"{name}[{shown(key)}]")
    return dict(value)


def names(value: Any, name: str) -> list[str]:
    """A list of names.

    Raises:
        ConfigurationError: it is no list, or holds something else than text.
    """
    if isinstance(value, str):
        raise ConfigurationError(f"{name}={shown(value)}: pass a list of names, as in {name}=[{shown(value)}]")
    if isinstance(value, (bytes, bytearray, Mapping)) or not isinstance(value, Iterable):
        raise ConfigurationError(f"{name}={shown(value)}: pass a list of names, or None for all")
    found = list(value)
    for one in found:
        if not isinstance(one, str):
            raise ConfigurationError(f"{name}: {shown(one)} is no name: pass a list of text")
    return found
