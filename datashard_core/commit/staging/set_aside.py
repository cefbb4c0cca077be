"""Staged objects that are set aside: neither committed nor refused, because a newer writer may have made them.

A refusal loses the rows of an append for good, so an append is refused only if no release could ever commit it. A
schema, a format or a version that this process does not know may be known to another process. Such objects are set
aside, and no writer waits for them. ``maintain()`` deletes them in the end
(:mod:`datashard_core.commit.maintenance.abandoned`).

A staged object never changes, so a process reads an object that it has set aside only once.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from msgspec import Struct

from datashard_core.commit.core.version_file import VersionFile
from datashard_core.commit.staging.key import StagedName

MAX_BYTES = 64 * 2**20
"""Bytes of rows that one commit includes at most. Larger objects are not read."""

PASSED_VERSIONS = 4
PASSED_SECONDS = 10.0
"""An object counts as passed over if it was staged so many versions and seconds before the newest version, which does
not include it. This compares two clocks; only speed depends on it."""

SUSPECTS = 16
"""Number of passed-over objects that a commit with rows of its own looks at again."""

LIVELY = 5.0
"""Seconds after which a waiting append no longer delays others: a live owner would have committed it."""

MOST_REMEMBERED = 100_000


class Aside(Struct, frozen=True):
    """Why a staged object is neither committed nor refused.

    Attributes:
        reason: for messages.
        schema: id of the schema that the table would need; None if this process can never commit the object.
        lasts: whether the reason is permanent.
    """

    reason: str
    schema: int | None = None
    lasts: bool = True


_remembered: dict[str, Aside] = {}


def remember(root: str, name: StagedName, aside: Aside) -> None:
    """Remember that an object is set aside."""
    if not aside.lasts:
        return
    if len(_remembered) >= MOST_REMEMBERED:
        _remembered.clear()
    _remembered[f"{root}/{name.key}"] = aside


def forget() -> None:
    """Forget all objects that were set aside."""
    _remembered.clear()


def aside_by_name(root: str, name: StagedName, version_file: VersionFile) -> Aside | None:
    """Why an object is set aside, if that is known without reading it; None if it has to be read."""
    if name.base > version_file.version:
        return Aside(f"its base, version {name.base}, is above the newest version, {version_file.version}", lasts=False)
    if name.size > MAX_BYTES:
        return Aside(f"it has {name.size} bytes, and no commit carries more than {MAX_BYTES}")
    known = _remembered.get(f"{root}/{name.key}") if _remembered else None
    if known is None or (known.schema is not None and has_schema(version_file, known.schema)):
        return None
    return known


def has_schema(version_file: VersionFile, schema_id: int) -> bool:
    """Whether a version has the schema of that id."""
    return any(schema.schema_id == schema_id for schema in version_file.table.schemas)


def eligible(root: str, version_file: VersionFile, listed: Iterable[StagedName]) -> list[StagedName]:
    """The listed objects that are not known to be set aside."""
    return [name for name in listed if aside_by_name(root, name, version_file) is None]


def worth_a_look(root: str, version_file: VersionFile, listed: Iterable[StagedName], own: str) -> list[StagedName]:
    """The listed objects that a commit with rows of its own looks at.

    These are all recent ones, and a few of those that earlier commits passed over. So many objects that cannot be
    committed cost an append only a few more reads, in parallel with the others.

    Args:
        root: URI of the table's root.
        body: the version that is built on.
        listed: the listing.
        own: digest of one of the commit's own ids, so that different commits look at different suspects.
    """
    recent: list[StagedName] = []
    passed: list[StagedName] = []
    for name in eligible(root, version_file, listed):
        (passed if _is_passed_over(name, version_file) else recent).append(name)
    if len(passed) > SUSPECTS:
        start = int(own[:8], 16) % len(passed)
        passed = (passed[start:] + passed[:start])[:SUSPECTS]
    return recent + passed


def _is_passed_over(name: StagedName, version_file: VersionFile) -> bool:
    late = name.modified + PASSED_SECONDS < version_file.table.last_updated_ms / 1000
    return late and name.base + PASSED_VERSIONS <= version_file.version


def alive(
    root: str, version_file: VersionFile, listed: Sequence[StagedName], now: float | None = None, within: float = LIVELY
) -> list[StagedName]:
    """The appends whose owners wait and are probably alive.

    Args:
        root: URI of the table's root.
        body: the newest version known.
        listed: the listing.
        now: the time of the listing in seconds; None: that of the youngest object listed.
        within: seconds for which an owner counts as alive.
    """
    if now is None:
        now = max((name.modified for name in listed), default=0.0)
    waiting = [name for name in listed if name.kind == "w" and now - name.modified <= within]
    return [name for name in eligible(root, version_file, waiting) if not _is_passed_over(name, version_file)]


def may_count(root: str, names: Sequence[StagedName]) -> int:
    """How many of the objects have not been set aside by this process."""
    return sum(f"{root}/{name.key}" not in _remembered for name in names) if _remembered else len(names)
