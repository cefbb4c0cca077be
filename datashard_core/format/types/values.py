"""What a Python value has to be for a field of a type: the one rule, for one value.

Nothing is converted but where no information can be lost: an int for a float, double or decimal that holds
it exactly, a decimal with fewer digits after the point, the canonical text of a uuid, numpy's and pandas'
scalars for Python's. A float for a ``float`` field is rounded to the 32 bits that the field has, since
Python has no such number of its own.
"""

from __future__ import annotations

import datetime as dt
import decimal
import struct
import uuid
from collections.abc import Callable, Mapping
from typing import Any

from datashard_core.errors import InvalidRecordsError
from datashard_core.format.types import types as t
from datashard_core.format.types.ranges import RULES

_INT_BITS = {"int": 32, "long": 64}
_EXACT = decimal.Context(prec=100, traps=[decimal.Inexact, decimal.InvalidOperation])
_SHOWN_CHARACTERS = 80
_DAYS_OR_LONGER = ("[D]", "[W]", "[M]", "[Y]")
_DATETIME64 = "M"
_FIRST = dt.datetime.min.replace(tzinfo=dt.UTC)
_LAST = dt.datetime.max.replace(tzinfo=dt.UTC)


class MisfitError(Exception):
    """A value that does not fit its field. Becomes an :class:`InvalidRecordsError` with row and table.

    Attributes:
        path: dotted name of the field (``points.element.x``).
        why: the value, what is expected, and the way out.
        row: index of the row, counted within the values at hand.
    """

    def __init__(self, path: str, why: str, row: int = 0) -> None:
        super().__init__(path, why)
        self.path = path
        self.why = why
        self.row = row

    def as_error(self, table_name: str) -> InvalidRecordsError:
        """The error that the caller of an append sees."""
        return InvalidRecordsError(
            f"table {table_name}: row {self.row}, field {self.path!r}: {self.why}. Nothing was written."
        )


class UnusableError(Exception):
    """The data as a whole cannot be taken. Becomes an :class:`InvalidRecordsError` with the table."""


def shown(value: Any) -> str:
    """A value for a message: its repr, cut short."""
    try:
        text = repr(value)
    except Exception as error:  # noqa: BLE001 - somebody else's __repr__ may raise anything
        text = f"<repr raised {type(error).__name__}>"
    return text if len(text) <= _SHOWN_CHARACTERS else text[: _SHOWN_CHARACTERS - 3] + "..."


def misfit(path: str, value: Any, kind: t.IcebergType, why: str) -> MisfitError:
    """The error for a value that is not of the type."""
    return MisfitError(path, f"{shown(value)} of type {type(value).__name__} is not {kind}: {why}")


def missing(path: str, kind: t.IcebergType) -> MisfitError:
    """The error for null in a required field."""
    return MisfitError(path, f"None in a required field of type {kind}: every row needs a value")


def clean_field(value: Any, field: t.NestedField, path: str) -> Any:
    """The value in the one form that Arrow takes without converting it.

    Args:
        value: what the caller gave; None stands for null.
        field: the field that it is for.
        path: dotted name of the field.

    Raises:
        MisfitError: it does not fit, and why.
    """
    if value is None:
        if field.required:
            raise missing(path, field.type)
        return None
    return _cleaner(field.type)(value, field.type, path)


def clean_literal(value: Any, field: t.NestedField, path: str) -> Any:
    """A value that stored ones are compared with, cleaned as for a field.

    It may lie outside the range that can be stored: ``datetime.max`` west of UTC is above every stored instant.

    Raises:
        MisfitError: it is of another type.
    """
    if isinstance(value, dt.datetime) and field.type == t.PrimitiveType("timestamptz"):
        return _timestamp(value, field.type, path)
    return clean_field(value, field, path)


def _cleaner(kind: t.IcebergType) -> Callable[[Any, Any, str], Any]:
    if isinstance(kind, t.PrimitiveType):
        return _PRIMITIVES[kind.name]
    return _OTHERS[type(kind)]


def plain(value: Any) -> Any:
    """Python's own scalar for one of numpy's; anything else as it is."""
    if type(value).__module__ == "numpy" and getattr(value, "ndim", None) == 0 and value.dtype.kind in "biufSU":
        return value.item()
    return value


def _refuse(value: Any, kind: t.IcebergType, path: str) -> MisfitError:
    if _is_nan(value):
        why = "it is no value of that type, and not null either; for a missing value pass None"
    elif isinstance(value, bool):
        why = "True and False are not converted"
    elif isinstance(value, float) and isinstance(kind, t.DecimalType):
        why = "a float is seldom the decimal that it looks like; pass a decimal.Decimal"
    elif isinstance(value, dt.datetime) and kind == t.PrimitiveType("date"):
        why = "its time of day would be lost; pass value.date()"
    elif isinstance(value, dt.date) and str(kind).startswith("timestamp"):
        why = "it has no time of day; pass a datetime.datetime"
    else:
        why = "it is not converted silently; pass a value of that type"
    return misfit(path, value, kind, why)


def _is_nan(value: Any) -> bool:
    """NaN, NaT and pandas.NA: what other libraries use for a missing value."""
    if type(value).__name__ in ("NaTType", "NAType"):
        return True
    return isinstance(value, float) and value != value


def _boolean(value: Any, kind: t.IcebergType, path: str) -> bool:
    value = plain(value)
    if not isinstance(value, bool):
        raise _refuse(value, kind, path)
    return value


def _is_int(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _integer(value: Any, kind: t.PrimitiveType, path: str) -> int:
    value = plain(value)
    if not _is_int(value):
        raise _refuse(value, kind, path)
    bits = _INT_BITS[kind.name]
    if not -(2 ** (bits - 1)) <= value < 2 ** (bits - 1):
        raise misfit(path, value, kind, f"it is out of the range of {bits} bits")
    return int(value)


def _floating(value: Any, kind: t.PrimitiveType, path: str) -> float:
    value = plain(value)
    if not (isinstance(value, float) or _is_int(value)):
        raise _refuse(value, kind, path)
    try:
        number = float(value)
        if kind.name == "float":
            number = float(struct.unpack("<f", struct.pack("<f", number))[0])
    except OverflowError:
        raise misfit(path, value, kind, "it is out of range") from None
    if _is_int(value) and number != value:
        raise misfit(path, value, kind, "no number of that type is exactly this one")
    return number


def _decimal(value: Any, kind: t.DecimalType, path: str) -> decimal.Decimal:
    value = plain(value)
    if not (isinstance(value, decimal.Decimal) or _is_int(value)):
        raise _refuse(value, kind, path)
    number = decimal.Decimal(value)
    if not number.is_finite():
        raise misfit(path, value, kind, "decimals have neither NaN nor infinity; for a missing value pass None")
    try:
        number = number.quantize(decimal.Decimal(1).scaleb(-kind.scale), context=_EXACT)
    except decimal.Inexact:
        raise misfit(path, value, kind, f"it has more than {kind.scale} digits after the point") from None
    except decimal.InvalidOperation:
        raise misfit(path, value, kind, "it is out of range") from None
    if len(number.as_tuple().digits) > kind.precision:
        room = kind.precision - kind.scale
        raise misfit(path, value, kind, f"it is out of range, which is {room} digits before the point")
    return number


def _date(value: Any, kind: t.IcebergType, path: str) -> dt.date:
    if _is_datetime64(value) and str(value.dtype).endswith("[D]"):
        value = value.item()
    if not isinstance(value, dt.date) or isinstance(value, dt.datetime):
        raise _refuse(value, kind, path)
    return value


def _time(value: Any, kind: t.IcebergType, path: str) -> dt.time:
    if not isinstance(value, dt.time):
        raise _refuse(value, kind, path)
    if value.tzinfo is not None:
        raise misfit(path, value, kind, "times of day have no time zone; pass value.replace(tzinfo=None)")
    return value


def _is_datetime64(value: Any) -> bool:
    return type(value).__module__ == "numpy" and getattr(getattr(value, "dtype", None), "kind", "") == _DATETIME64


def _timestamp(value: Any, kind: t.PrimitiveType, path: str) -> dt.datetime:
    given = value
    if _is_datetime64(value) and not str(value.dtype).endswith(_DAYS_OR_LONGER):
        value = _from_datetime64(value, kind, path)
    if not isinstance(value, dt.datetime) or _is_nan(value):
        raise _refuse(value, kind, path)
    if not dt.MINYEAR <= value.year <= dt.MAXYEAR:
        # pandas holds such years, but neither shows them by repr nor brings them to a time zone.
        text = f"{value.year:04d}-{value.month:02d}-{value.day:02d}T{value.hour:02d}:{value.minute:02d}"
        raise MisfitError(path, f"the pandas.Timestamp {text} is not {kind}: {RULES[kind.name]}")
    if getattr(value, "nanosecond", 0):
        raise misfit(path, given, kind, "it has nanoseconds, and the type has microseconds; round it first")
    aware = value.utcoffset() is not None
    if aware and kind.name == "timestamp":
        raise misfit(path, given, kind, "it has a time zone and the field has none; use timestamptz, or drop it")
    if not aware and kind.name == "timestamptz":
        raise misfit(path, given, kind, "it has no time zone; pass a datetime with tzinfo, such as datetime.UTC")
    return _exact_datetime(value)


def _instant(value: Any, kind: t.PrimitiveType, path: str) -> dt.datetime:
    moment = _timestamp(value, kind, path)
    if not _FIRST <= moment <= _LAST:
        raise MisfitError(path, f"{moment.isoformat()} is not {kind}: {RULES[kind.name]}")
    return moment


def _exact_datetime(value: dt.datetime) -> dt.datetime:
    """Python's own datetime, of pandas' subclass."""
    if type(value) is dt.datetime:
        return value
    return dt.datetime.combine(value.date(), value.timetz()).replace(fold=value.fold)


def _from_datetime64(value: Any, kind: t.IcebergType, path: str) -> Any:
    micros = value.astype("datetime64[us]")
    if str(value) == "NaT":
        raise misfit(path, value, kind, "it is not null; for a missing value pass None")
    if micros.astype(value.dtype) != value:
        raise misfit(path, value, kind, "microseconds do not hold it exactly; round it first")
    if not isinstance(micros.item(), dt.datetime):
        raise misfit(path, value, kind, RULES[str(kind)])
    return micros.item()


def _string(value: Any, kind: t.IcebergType, path: str) -> str:
    if not isinstance(value, str):
        raise _refuse(value, kind, path)
    text = str.__str__(value)
    try:
        text.encode()
    except UnicodeEncodeError:
        raise misfit(path, value, kind, "it has half of a surrogate pair, which UTF-8 cannot hold") from None
    return text


def _uuid(value: Any, kind: t.IcebergType, path: str) -> uuid.UUID:
    if isinstance(value, uuid.UUID):
        return value
    if not isinstance(value, str):
        raise _refuse(value, kind, path)
    try:
        parsed = uuid.UUID(value)
    except ValueError:
        raise misfit(path, value, kind, "pass a uuid.UUID or its canonical text") from None
    if str(parsed) != value.lower():
        raise misfit(path, value, kind, f"the canonical text would be {str(parsed)!r}")
    return parsed


def _binary(value: Any, kind: t.IcebergType, path: str) -> bytes:
    if not isinstance(value, (bytes, bytearray, memoryview)):
        raise _refuse(value, kind, path)
    return bytes(value)


def _fixed(value: Any, kind: t.FixedType, path: str) -> bytes:
    data = _binary(value, kind, path)
    if len(data) != kind.length:
        raise misfit(path, value, kind, f"it has {len(data)} bytes")
    return data


def _list(value: Any, kind: t.ListType, path: str) -> list[Any]:
    if type(value).__module__ == "numpy" and getattr(value, "ndim", 0) >= 1:
        value = list(value)
    if not isinstance(value, (list, tuple)):
        raise _refuse(value, kind, path)
    (element,) = t.children(kind)
    return [clean_field(item, element, f"{path}.element") for item in value]


def _map(value: Any, kind: t.MapType, path: str) -> list[tuple[Any, Any]]:
    """Pairs, which also hold keys that Python cannot hash. Arrow gives maps back as lists of pairs."""
    items = list(value.items()) if isinstance(value, Mapping) else value
    if not isinstance(items, list) or any(not isinstance(pair, tuple) or len(pair) != 2 for pair in items):
        raise _refuse(value, kind, path)
    key, item = t.children(kind)
    pairs = [
        (clean_field(left, key, f"{path}.key"), clean_field(right, item, f"{path}.value")) for left, right in items
    ]
    keys = [repr(left) for left, _ in pairs]
    if len(set(keys)) != len(keys):
        twice = next(text for text in keys if keys.count(text) > 1)
        raise misfit(path, value, kind, f"it has the key {twice} twice")
    return pairs


def _struct(value: Any, kind: t.StructType, path: str) -> dict[str, Any]:
    if not isinstance(value, Mapping):
        raise _refuse(value, kind, path)
    return clean_row(value, kind.fields, f"{path}.")


def clean_row(row: Mapping[str, Any], fields: tuple[t.NestedField, ...], prefix: str = "") -> dict[str, Any]:
    """A mapping whose keys are exactly the fields.

    Raises:
        MisfitError: a key is no field, a required field is missing, or a value does not fit.
    """
    names = {field.name for field in fields}
    for key, value in row.items():
        if key not in names:
            raise MisfitError(
                f"{prefix}{key}",
                f"there is no such field (its value is {shown(value)}); the fields are {', '.join(sorted(names))}",
            )
    cleaned = {}
    for field in fields:
        if field.required and field.name not in row:
            raise MisfitError(f"{prefix}{field.name}", f"the required field of type {field.type} is missing")
        cleaned[field.name] = clean_field(row.get(field.name), field, f"{prefix}{field.name}")
    return cleaned


_PRIMITIVES: dict[str, Callable[[Any, Any, str], Any]] = {
    "boolean": _boolean,
    "int": _integer,
    "long": _integer,
    "float": _floating,
    "double": _floating,
    "date": _date,
    "time": _time,
    "timestamp": _timestamp,
    "timestamptz": _instant,
    "string": _string,
    "uuid": _uuid,
    "binary": _binary,
}
_OTHERS: dict[type[t.IcebergType], Callable[[Any, Any, str], Any]] = {
    t.DecimalType: _decimal,
    t.FixedType: _fixed,
    t.ListType: _list,
    t.MapType: _map,
    t.StructType: _struct,
}
