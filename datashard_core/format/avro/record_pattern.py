"""Avro records of one shape, read by a regular expression made for that shape.

A manifest of a large table has thousands of entries that differ in values only: the same columns have
counts and bounds in all of them. Reading them value by value costs ten times what there is time for,
mostly for values that nobody asked for. So an entry is walked value by value, and a pattern is made on
the way that matches the bytes of every entry of that shape and captures what was asked for. The pattern
spells out every count, key and end mark of the shape, so bytes that it matches cannot be read in another
way; bytes that it does not match are walked in their turn.
"""

from __future__ import annotations

import re
import struct
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import cached_property
from itertools import islice
from typing import Any

Slot = tuple[int, int]
"""Which value: a field id of the entry and 0; a map of metrics and the column's id; a record and a field in it."""

Decoder = Callable[[bytes], Any]


class UnusualSchemaError(Exception):
    """The schema has a part that no manifest needs: read the file value by value."""


_NUMBER = rb"[\x80-\xff]*+[\x00-\x7f]"
_NOTHING = b"((?!))?"
"""A group that never takes part: whoever asks for a value that a shape has not asks for it, and gets None."""
_SHORT = 64
"""Texts and bytes below this length are matched whatever they are; their length is one byte in Avro."""
_MAX_WHOLES = 16
"""So many patterns for the whole record a shape has, for as many ranges of lengths of the text."""
_SHORTER, _LONGER = 4, 12
"""The range about a length: texts of one manifest mostly differ by a digit or two."""
_LONGEST = 2**13
"""Lengths from this one on take three bytes, and no such text has a pattern."""
_FEW = 33
"""Arrays of numbers below this length, likewise."""
_FIXED = (8, 4, 16, 1)
"""Lengths of bounds of types of fixed width."""
_CUT = 17
"""Texts below this length are what bounds of texts mostly are, for those are cut after 16 characters."""
_MOST_WALKED = 500_000
"""Values of a record that are walked over: a few bytes can stand for many."""
_MOST_PARTS = 50_000
"""Values of a record that has a pattern: some eight for each column. A longer pattern takes seconds to compile."""
_FEWEST = 5
"""Arrays of numbers mostly have fewer: one for each row group."""


def read_number(data: bytes, at: int) -> tuple[int, int]:
    """A zigzag varint, and where it ends."""
    result = shift = 0
    while True:
        byte = data[at]
        at += 1
        result |= (byte & 0x7F) << shift
        if byte < 0x80:
            return (result >> 1) ^ -(result & 1), at
        shift += 7
        if shift > 63 or (shift == 63 and data[at] > 1):
            raise ValueError("a number of more than 64 bits")


def read_sized(data: bytes, at: int) -> tuple[bytes, int]:
    """Text or bytes with their length before them, and where they end."""
    length, start = read_number(data, at)
    end = start + length
    if length < 0 or end > len(data):
        raise EOFError("a value goes on beyond the end of the file")
    return data[start:end], end


def number(data: bytes) -> int:
    """The zigzag varint that the bytes are."""
    if len(data) == 1:
        return (data[0] >> 1) ^ -(data[0] & 1)
    return read_number(data, 0)[0]


def _zigzag(value: int) -> bytes:
    value = (value << 1) ^ (value >> 63)
    out = bytearray()
    while value > 0x7F:
        out.append((value & 0x7F) | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)


def sized(data: bytes) -> bytes:
    """Text or bytes without the length before them."""
    if data[0] < 0x80:
        return data[1:]
    return data[read_number(data, 0)[1] :]


def _any_of(lengths: Iterable[int]) -> bytes:
    """A pattern of texts and bytes of those lengths, the likely ones first.

    Each length stands in it once. Were one there twice, a record that differs in its last value would be
    tried in both ways for each value before: 2 to the power of their number.
    """
    return b"|".join(re.escape(_zigzag(length)) + b".{%d}" % length for length in dict.fromkeys(lengths))


def _numbers(most: int) -> bytes:
    """A pattern of arrays of fewer numbers than so many."""
    some = (re.escape(_zigzag(count)) + b"(?:%s){%d}" % (_NUMBER, count) + rb"\x00" for count in range(1, most))
    return rb"\x00|" + b"|".join(some)


_BYTES, _CUT_BYTES, _BYTES_OF_FIXED_WIDTH = (_any_of((*_FIXED, *range(most))) for most in (_SHORT, _CUT, 0))
_NUMBERS, _FEW_NUMBERS = _numbers(_FEW), _numbers(_FEWEST)
_PATTERNS = {
    "null": b"",
    "boolean": rb"[\x00\x01]",
    "int": _NUMBER,
    "long": _NUMBER,
    "float": b".{4}",
    "double": b".{8}",
    "bytes": _BYTES,
    "string": _BYTES,
}
_SIZES = {"null": 0, "boolean": 1, "float": 4, "double": 8}
DECODERS: dict[str, Decoder] = {
    "null": lambda data: None,
    "boolean": lambda data: data != b"\x00",
    "int": number,
    "long": number,
    "float": lambda data: struct.unpack("<f", data)[0],
    "double": lambda data: struct.unpack("<d", data)[0],
    "bytes": sized,
    "string": lambda data: sized(data).decode(),
    "fixed": bytes,
}
Groups = Sequence[bytes | None]
"""The bytes of each value that was asked for, and a last one that is None; the text is among them, and undefined."""

Record = tuple[Groups, int, int, int]
"""A record of a block: its values, where the text that may have any length begins and ends, where the record ends."""


class Shape:
    """How to read the records of one shape.

    Args:
        head: pattern of a record up to the text that may have any length.
        tail: pattern of what follows the text.
        slots: each value that is captured -> the number of its group, the tail's after the head's, and its decoder.
    """

    def __init__(self, head: bytes, tail: bytes, slots: Mapping[Slot, tuple[int, Decoder]]) -> None:
        self.slots = slots
        self._parts = head, tail
        self._head = re.compile(head + b"(" + _NUMBER + b")", re.DOTALL)
        self._wholes: list[tuple[range, re.Pattern[bytes]]] = []

    @cached_property
    def _tail(self) -> re.Pattern[bytes]:
        # Patterns of a wide table take milliseconds to compile, and most tables never need this one.
        return re.compile(self._parts[1] + _NOTHING, re.DOTALL)

    def match(self, block: bytes, at: int) -> Record | None:
        """Read the record there, if it has this shape."""
        head = self._head.match(block, at)
        if head is None:
            return None
        before = head.groups()
        length, start = number(before[-1]), head.end()
        whole = self._whole(length)
        if whole is not None:
            match = whole.match(block, at)
            return None if match is None else self.record(match)
        tail = self._tail.match(block, start + length)
        if tail is None:
            return None
        return (*before, *tail.groups()), start, start + length, tail.end()

    def following(self, block: bytes, at: int, length: int, most: int) -> list[re.Match[bytes]]:
        """The records from there on that have this shape and a text of about that length: one match each.

        Args:
            block: the block.
            at: where the first begins.
            length: of the text.
            most: how many records are left in the block.
        """
        whole = self._whole(length)
        if whole is None:
            return []
        return list(islice(iter(whole.scanner(block, at).match, None), most))  # type: ignore[attr-defined]

    def record(self, match: re.Match[bytes]) -> Record:
        """What a pattern of the whole record has matched."""
        start, end = match.span(self._head.groups)
        start += 1 if match.string[start] < 0x80 else 2  # behind the length, see _LONGEST
        return match.groups(), start, end, match.end()

    def _whole(self, length: int) -> re.Pattern[bytes] | None:
        """The pattern of records whose text has that length; None for one range too many, or a very long text."""
        for lengths, found in self._wholes:
            if length in lengths:
                return found
        if len(self._wholes) == _MAX_WHOLES or length >= _LONGEST:
            return None
        lengths = range(max(length - _SHORTER, 0), min(length + _LONGER, _LONGEST))
        text = b"((?:" + _any_of((length, *lengths)) + b"))"
        found = re.compile(self._parts[0] + text + self._parts[1] + _NOTHING, re.DOTALL)
        self._wholes.append((lengths, found))
        return found


class Walk:
    """One record of an Avro block, read value by value.

    Args:
        data: the block.
        at: where the record begins.
        schema: Avro schema of the record.
        field_id: tells the id of a field of the schema.
        wanted: whether a value is asked for.
        long_text: field id of the text that may have any length.
        narrow: whether the shape may take bytes for those of numbers if they are as long, and other short texts
            and arrays for short ones only. Such a pattern compiles in a fraction of the time; where it does not
            fit, another has to be made.

    Attributes:
        at: where the record ends.
        groups: the bytes of each value that was asked for, as a pattern's groups would have them.
        slots: where each value is among them, and its decoder.
        text: where the text that may have any length begins and ends.

    Raises:
        ValueError: it is not a record of that schema; likewise IndexError, EOFError and struct.error.
        UnusualSchemaError: the schema is none that this can walk.
    """

    def __init__(
        self,
        data: bytes,
        at: int,
        schema: Mapping[str, Any],
        field_id: Callable[[Mapping[str, Any]], int],
        wanted: Callable[[Slot], bool],
        long_text: int,
        narrow: bool = False,
    ) -> None:
        self.at = at
        self.groups: list[bytes | None] = []
        self.slots: dict[Slot, tuple[int, Decoder]] = {}
        self.text = (at, at)
        self._data = data
        self._field_id = field_id
        self._wanted = wanted
        self._long_text = long_text
        self._narrow = narrow
        self._parts: list[bytes] = []
        self._head: bytes | None = None
        self._one_shape = True
        self._record(schema, 0)

    def shape(self) -> Shape | None:
        """The shape of the record; None for one that no pattern can tell."""
        if not self._one_shape or self._head is None or len(self._parts) > _MOST_PARTS:
            return None
        return Shape(self._head, b"".join(self._parts), self.slots)

    def _record(self, schema: Mapping[str, Any], around: int) -> None:
        for field in schema["fields"]:
            number_ = self._field_id(field)
            self._value(field["type"], (around, number_) if around else (number_, 0))

    def _value(self, kind: Any, slot: Slot) -> None:
        if isinstance(kind, list):
            self._union(kind, slot)
            return
        name = _name(kind)
        if name == "record":
            # Fields of the data file are told apart like those of the entry; those of a partition by both ids.
            self._record(kind, 0 if slot[0] in _FLAT_RECORDS else slot[0])
        elif name == "array":
            self._array(kind["items"], slot)
        elif slot == (self._long_text, 0) and name == "string" and self._head is None:
            self._long()
        else:
            self._scalar(kind, slot, b"%s")

    def _union(self, kinds: list[Any], slot: Slot) -> None:
        index, after = read_number(self._data, self.at)
        if not 0 <= index < len(kinds):
            raise ValueError(f"branch {index} of a union of {len(kinds)}")
        mark = re.escape(self._data[self.at : after])
        self.at = after
        kind = kinds[index]
        other = next((one for one in kinds if one != "null"), "null")
        if len(kinds) == 2 and "null" in kinds and _name(other) in DECODERS:
            null, some = (re.escape(_zigzag(kinds.index(one))) for one in ("null", other))
            self._scalar(other, slot, b"(?:" + null.replace(b"%", b"%%") + b"|" + some + b"%s)", kind == "null")
        else:
            self._parts.append(mark)
            if kind != "null":
                self._value(kind, slot)

    def _long(self) -> None:
        """The text that may have any length: its place divides the pattern in two."""
        length, start = read_number(self._data, self.at)
        self.at = self._inside(start + length)
        self.text = start, self.at
        self._head = b"".join(self._parts)
        self.groups.append(None)
        self._parts = []

    def _scalar(self, kind: Any, slot: Slot, around: bytes, null: bool = False) -> None:
        """A value without parts. ``around`` is the pattern of a union, with ``%s`` where the value's belongs."""
        name = _name(kind)
        if name not in DECODERS:
            raise UnusualSchemaError(f"the Avro type {name!r}")
        raw = None if null else self._raw(kind, name)
        pattern = b".{%d}" % kind["size"] if name == "fixed" else _PATTERNS[name]
        if self._narrow and name in ("bytes", "string") and raw is not None and len(raw) <= _CUT:
            pattern = _BYTES_OF_FIXED_WIDTH if name == "bytes" and len(raw) - 1 in _FIXED else _CUT_BYTES
        wanted = self._wanted(slot)
        self._parts.append(around % ((b"(" if wanted else b"(?:") + pattern + b")"))
        if wanted:
            self.slots[slot] = len(self.groups), DECODERS[name]
            self.groups.append(raw)

    def _raw(self, kind: Any, name: str) -> bytes:
        start = self.at
        if name in ("int", "long"):
            end = read_number(self._data, start)[1]
        elif name in ("bytes", "string"):
            length, begin = read_number(self._data, start)
            end = begin + length
        else:
            end = start + (kind["size"] if name == "fixed" else _SIZES[name])
        self.at = self._inside(end)
        return self._data[start:end]

    def _array(self, items: Any, slot: Slot) -> None:
        if _name(items) in ("int", "long"):
            few = self._blocks(lambda: self._skip(items)) < _FEWEST
            self._parts.append(b"(?:" + (_FEW_NUMBERS if self._narrow and few else _NUMBERS) + b")")
        elif _name(items) == "record" and len(items["fields"]) == 2:
            self._blocks(lambda: self._pair(items["fields"], slot), self._parts.append)
        else:
            raise UnusualSchemaError("an array of neither numbers nor pairs")

    def _blocks(self, item: Callable[[], None], tell: Callable[[bytes], None] = lambda _: None) -> int:
        """How many items an array has, all of them walked; ``tell`` gets the counts and the end mark as patterns."""
        total = 0
        while True:
            start = self.at
            count, self.at = read_number(self._data, start)
            tell(re.escape(self._data[start : self.at]))
            if count == 0:
                return total
            total += abs(count)
            if count < 0:
                # Minus the count, and the size of the items in bytes.
                self.at = read_number(self._data, self.at)[1]
                tell(_NUMBER)
            for _ in range(abs(count)):
                item()

    def _skip(self, items: Any) -> None:
        self._raw(items, _name(items))

    def _pair(self, fields: list[Mapping[str, Any]], slot: Slot) -> None:
        """A pair of a map: its key is part of the shape."""
        start = self.at
        key, self.at = read_number(self._data, start)
        if _name(fields[0]["type"]) not in ("int", "long"):
            raise UnusualSchemaError("a map whose keys are no numbers")
        self._parts.append(re.escape(self._data[start : self.at]))
        if (slot[0], key) in self.slots:
            self._one_shape = False  # a key twice: the last one counts
        self._value(fields[1]["type"], (slot[0], key))
        if len(self._parts) > _MOST_WALKED:
            raise UnusualSchemaError("a record of more values than are worth a pattern")

    def _inside(self, end: int) -> int:
        if not self.at <= end <= len(self._data):
            raise EOFError("a value goes on beyond the end of its block")
        return end


_FLAT_RECORDS = (2,)
"""Field id of the data file."""


def _name(kind: Any) -> str:
    while isinstance(kind, dict) and isinstance(kind["type"], dict):
        kind = kind["type"]
    return str(kind["type"] if isinstance(kind, dict) else kind)
