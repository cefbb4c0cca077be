"""Names of tables and namespaces, and the folders that they stand for. Pure."""

from __future__ import annotations

import re

from msgspec import Struct

from datashard_core import arguments
from datashard_core.errors import ConfigurationError

_PART = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,127}")
RESERVED = frozenset({"data", "metadata"})
RULE = (
    "A name is [namespace.]table; each part has 1 to 128 of the characters A-Z a-z 0-9 _ -, begins with a letter "
    "or a digit, and is neither 'data' nor 'metadata' (the folders of a table)"
)


class TableName(Struct, frozen=True):
    """A checked name.

    Attributes:
        namespace: the part before the dot, or None.
        table: the table's own part.
    """

    namespace: str | None
    table: str

    @property
    def folder(self) -> str:
        """Folder below the warehouse's root."""
        return self.table if self.namespace is None else f"{self.namespace}/{self.table}"

    def __str__(self) -> str:
        return self.table if self.namespace is None else f"{self.namespace}.{self.table}"


def parse_name(name: str) -> TableName:
    """Check a table's name.

    Args:
        name: ``table`` or ``namespace.table``.

    Raises:
        ConfigurationError: it has other characters, is reserved, or has more than two parts.

    Example:
        >>> parse_name("ops.workflow_log").folder
        'ops/workflow_log'
    """
    parts = name.split(".") if isinstance(name, str) else []
    if len(parts) not in (1, 2) or not all(is_part(part) for part in parts):
        raise ConfigurationError(f"{arguments.shown(name)} cannot be the name of a table. {RULE}.")
    return TableName(None, parts[0]) if len(parts) == 1 else TableName(parts[0], parts[1])


def is_part(part: str) -> bool:
    """Whether a namespace or a table may have that name."""
    return _PART.fullmatch(part) is not None and part not in RESERVED
