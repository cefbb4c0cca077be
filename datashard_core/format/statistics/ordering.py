"""Values in the one form in which bounds, partition values and conditions are compared.

Integers for whole numbers, dates (days), times and timestamps (microseconds) and decimals (unscaled);
float, str and bool for themselves; bytes for binary, fixed and uuid. Within one type the order of
these forms is the order of the values.
"""

from __future__ import annotations

import datetime as dt
import decimal
import struct
import uuid
from collections.abc import Mapping
from typing import Any

from datashard_core.format.types import types as t

_EPOCH = dt.datetime(1970, 1, 1)
_EPOCH_UTC = _EPOCH.replace(tzinfo=dt.UTC)
_EPOCH_DAY = _EPOCH.date().toordinal()
_MICROSECOND = dt.timedelta(microseconds=1)
_WIDE = decimal.Context(prec=80)


def canonical(kind: t.IcebergType, value: Any) -> Any:
    """A Python value (as Arrow or Avro give it, or already canonical) of a primitive type in canonical form."""
    if isinstance(value, (bool, str, float)):
        return float(value) if isinstance(value, float) else value
    if isinstance(value, int):
        return value * 10**kind.scale if isinstance(kind, t.DecimalType) else value
    if isinstance(value, decimal.Decimal):
        scale = kind.scale if isinstance(kind, t.DecimalType) else 0
        return int(value.scaleb(scale, _WIDE))
    if isinstance(value, uuid.UUID):
        return value.bytes
    if isinstance(value, (bytes, bytearray, memoryview)):
        return bytes(value)
    return _moment(value)


def _moment(value: Any) -> int:
    if isinstance(value, dt.datetime):
        return (value - (_EPOCH if value.tzinfo is None else _EPOCH_UTC)) // _MICROSECOND
    if isinstance(value, dt.date):
        return value.toordinal() - _EPOCH_DAY
    if isinstance(value, dt.time):
        return ((value.hour * 60 + value.minute) * 60 + value.second) * 1_000_000 + value.microsecond
    raise TypeError(f"{value!r} of type {type(value).__name__} has no canonical form")


_BY_LENGTH = {"int": {4: "<i", 8: "<q"}, "float": {4: "<f", 8: "<d"}}
_NUMBERS = {
    "int": _BY_LENGTH["int"],
    "long": _BY_LENGTH["int"],
    "date": _BY_LENGTH["int"],
    "time": {8: "<q"},
    "timestamp": {8: "<q"},
    "timestamptz": {8: "<q"},
    "float": _BY_LENGTH["float"],
    "double": _BY_LENGTH["float"],
    "boolean": {1: "<?"},
}


def number_formats(kind: t.IcebergType) -> Mapping[int, str]:
    """How bounds of a type are packed, by the number of their bytes; empty for types that are no such numbers."""
    return _NUMBERS.get(kind.name, {}) if isinstance(kind, t.PrimitiveType) else {}


def decode_bound(kind: t.IcebergType, data: bytes | None) -> Any:
    """A bound in canonical form; None where it tells nothing (absent, NaN, or not of this type).

    A column may have been widened since the file was written, so the length of the bytes says
    whether they hold an int or a long, a float or a double.
    """
    if data is None:
        return None
    if isinstance(kind, t.DecimalType):
        return int.from_bytes(data, "big", signed=True) if data else None
    if isinstance(kind, t.FixedType) or not isinstance(kind, t.PrimitiveType):
        return data
    formats = _NUMBERS.get(kind.name)
    if formats is not None:
        form = formats.get(len(data))
        if form is None:
            return None
        value = struct.unpack(form, data)[0]
        return None if value != value else value
    if kind.name == "string":
        try:
            return data.decode()
        except UnicodeDecodeError:
            return None
    return data
