"""What the history says of an append id: committed in version v, refused, or unnamed.

The one rule behind exactly once: an append may be committed on top of version N only if no version
in (base, N] names its id. Every version mostly repeats the names of those before it, back to a
multiple of 16, so one read tells up to 16 versions.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from datashard_core.commit.names import BLOCK, Record, Refusal
from datashard_core.commit.version import VersionBody, parse_version, version_key
from datashard_core.errors import CorruptTableError
from datashard_core.storage.base import ObjectNotFoundError
from datashard_core.storage.requests import Get, Steps, value

MAX_READS = 16


@dataclass(frozen=True, slots=True)
class Named:
    """The last word of the history on an id.

    Attributes:
        version: the version that says it.
        record: the digest of the rows committed, or the refusal.
    """

    version: int
    record: Record

    @property
    def committed(self) -> bool:
        """Whether the rows are in the table."""
        return not isinstance(self.record, Refusal)


def look_up(
    ids: frozenset[str],
    newest: VersionBody,
    *,
    above: int,
    bodies: Mapping[int, VersionBody],
    root: str,
) -> Steps[dict[str, Named]]:
    """The last word on each id in the versions ``(above, newest]``.

    Args:
        ids: digests of append ids.
        newest: the version to look back from.
        above: versions up to this one are known not to matter (-1: look at all of the table's).
        bodies: versions already read.
        root: URI of the table's root, for messages.

    Returns:
        Digest of append id -> what was said of it last; absent if nothing was.

    Raises:
        CorruptTableError: a version in between is gone, so nothing can be said.
    """
    known = {**bodies, newest.version: newest}
    found: dict[str, Named] = {}
    version, told_by = newest.version, newest
    while version > max(above, told_by.first - 1) and len(found) < len(ids):
        names = _told(version, told_by)
        if names is None:
            if version not in known:
                yield from _read_back(version, above, known, root)
            if known[version].state == "dropped":
                return found  # an earlier table of this name ended here
            told_by = known[version]
            names = told_by.named
        for append_id in ids & names.keys():
            found.setdefault(append_id, Named(version, names[append_id]))
        version -= 1
    return found


def _told(version: int, body: VersionBody) -> Mapping[str, Record] | None:
    """Names of ``version`` as ``body`` tells them; None if it does not."""
    if version == body.version:
        return body.named
    if body.names is not None and body.names.tells(version):
        return body.names.of(version)
    return None


def _read_back(version: int, above: int, known: dict[int, VersionBody], root: str) -> Steps[None]:
    """Read a version, and beside it the ends of the blocks before it, which tell the most."""
    wanted = [version]
    block_end = version - version % BLOCK - 1
    while block_end > above and len(wanted) < MAX_READS:
        if block_end not in known:
            wanted.append(block_end)
        block_end -= BLOCK
    outcomes = yield [Get(version_key(number)) for number in wanted]
    for number, outcome in zip(wanted, outcomes, strict=True):
        where = f"{root}/{version_key(number)}"
        if isinstance(outcome, ObjectNotFoundError):
            if number == version:
                raise CorruptTableError(
                    f"{where} is missing, so it cannot be said which appends are in the table already. "
                    "Restore it; old versions of this table must not be deleted."
                ) from outcome
            continue
        body = parse_version(value(outcome).body, number, where)
        if body.state == "tombstone":
            raise CorruptTableError(f"{where} is a tombstone: its names are no longer kept")
        known[number] = body
