"""What table properties ask for: how much is kept, and when manifests are merged.

Iceberg's names where Iceberg has one. A property that the table was created with is checked then;
one that another engine set later and that makes no sense counts as not set, for no append may fail
over it.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from typing import Any

from msgspec import Struct

from datashard_core.errors import ConfigurationError
from datashard_core.format.json_text import whole_number
from datashard_core.format.metadata.retention import Retention

log = logging.getLogger(__name__)

HOUR_MS = 3600 * 1000
DAY_MS = 24 * HOUR_MS
OURS = "datashard."

MAX_AGE = "history.expire.max-snapshot-age-ms"
MIN_SNAPSHOTS = "history.expire.min-snapshots-to-keep"
MAX_SNAPSHOTS = "datashard.snapshots.max-count"
MAX_PREVIOUS = "write.metadata.previous-versions-max"
MERGE = "commit.manifest-merge.enabled"
MIN_TO_MERGE = "commit.manifest.min-count-to-merge"
MANIFEST_BYTES = "commit.manifest.target-size-bytes"
AUTO_COMPACT = "datashard.auto-compact"
ID_RETENTION = "datashard.append-id.retention"


class Settings(Struct, frozen=True):
    """The properties of a table that steer its upkeep.

    Attributes:
        retention: which snapshots and log entries each version keeps.
        merge: whether appends merge manifests.
        min_to_merge: how many manifests of one tier begin a merge.
        manifest_bytes: manifests of that size are not merged any more.
        auto_compact: whether appends compact small data files now and then.
        id_retention_ms: for how long append ids are remembered at least, in milliseconds.
    """

    retention: Retention
    merge: bool
    min_to_merge: int
    manifest_bytes: int
    auto_compact: bool
    id_retention_ms: int


def _at_least(lowest: int) -> Callable[[str], int]:
    def parse(text: str) -> int:
        number = whole_number(text)
        if number is None or number < lowest:
            raise ValueError(f"a whole number from {lowest} on")
        return number

    return parse


def _duration(lowest: int, named: str) -> Callable[[str], int]:
    """Milliseconds, as Iceberg's own properties have them."""
    number = _at_least(lowest)

    def parse(text: str) -> int:
        try:
            return number(text)
        except ValueError as error:
            raise ValueError(f"a whole number of milliseconds, from {lowest} ({named}) on") from error

    return parse


def _switch(text: str) -> bool:
    if text.lower() not in ("true", "false"):
        raise ValueError("'true' or 'false'")
    return text.lower() == "true"


_PROPERTIES: dict[str, tuple[Callable[[str], Any], Any]] = {
    MAX_AGE: (_at_least(1), 5 * DAY_MS),
    MIN_SNAPSHOTS: (_at_least(1), 10),
    MAX_SNAPSHOTS: (_at_least(1), 100),
    MAX_PREVIOUS: (_at_least(1), 100),
    MERGE: (_switch, True),
    MIN_TO_MERGE: (_at_least(2), 8),
    MANIFEST_BYTES: (_at_least(1024), 8 * 2**20),
    AUTO_COMPACT: (_switch, False),
    ID_RETENTION: (_duration(HOUR_MS, "an hour"), 30 * DAY_MS),
}
_KNOWN = frozenset({MAX_SNAPSHOTS, AUTO_COMPACT, ID_RETENTION})
"""Properties of our own that a user may set."""


def settings_of(properties: Mapping[str, str]) -> Settings:
    """What the properties ask for, defaults where they ask for nothing that makes sense."""
    values = {name: _lenient(name, properties) for name in _PROPERTIES}
    max_count: int = values[MAX_SNAPSHOTS]
    return Settings(
        retention=Retention(
            max_age_ms=values[MAX_AGE],
            min_count=min(values[MIN_SNAPSHOTS], max_count),
            max_count=max_count,
            max_previous=values[MAX_PREVIOUS],
        ),
        merge=values[MERGE],
        min_to_merge=values[MIN_TO_MERGE],
        manifest_bytes=values[MANIFEST_BYTES],
        auto_compact=values[AUTO_COMPACT],
        id_retention_ms=values[ID_RETENTION],
    )


def check_settings(properties: Mapping[str, str], table: str) -> None:
    """Refuse properties that a table is to be created with and that make no sense.

    Raises:
        ConfigurationError: a value is not what the property takes, two contradict each other, or a
            property of this library is not known.
    """
    for name, text in properties.items():
        if name in _PROPERTIES:
            try:
                _PROPERTIES[name][0](text)
            except ValueError as error:
                raise ConfigurationError(f"table {table}: property {name}={text!r} has to be {error}") from error
        elif name.startswith(OURS) and name not in _KNOWN:
            raise ConfigurationError(
                f"table {table}: there is no property {name!r}; those of this library are {', '.join(sorted(_KNOWN))}"
            )
    at_least, at_most = properties.get(MIN_SNAPSHOTS), properties.get(MAX_SNAPSHOTS)
    if at_least is not None and at_most is not None and int(at_least) > int(at_most):
        raise ConfigurationError(
            f"table {table}: {MIN_SNAPSHOTS}={at_least!r} is more than {MAX_SNAPSHOTS}={at_most!r} allows"
        )


def _lenient(name: str, properties: Mapping[str, str]) -> Any:
    parse, default = _PROPERTIES[name]
    text = properties.get(name)
    if text is None:
        return default
    try:
        return parse(text)
    except ValueError as error:
        log.debug("table property %s=%r is not %s: %s is used", name, text, error, default)
        return default
