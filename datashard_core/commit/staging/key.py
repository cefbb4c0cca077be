"""Names of staged objects, and the rules for which of them may be committed or deleted.

A staged object is named ``_datashard/staging/{base}-{w or d}-{append id}-{nonce}``. The name has the base from which on
it may be committed, so a listing is enough to judge it. :mod:`datashard_core.commit.staging.body` has the body.

Everything here is pure. The rules are in ``docs/design/commit-protocol.md``.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from functools import lru_cache
from typing import Literal

from msgspec import Struct

from datashard_core.commit.append_ids.lookback import RecordedOutcome
from datashard_core.storage.base import ObjectInfo

PREFIX = "_datashard/staging/"
Kind = Literal["w", "d"]
_NAME = re.compile(rf"{PREFIX}([0-9]{{20}})-([wd])-([0-9a-f]{{32}})-([0-9a-f]{{32}})")


class StagedName(Struct, frozen=True, order=True):
    """The name of a staged object, parsed; names sort by base.

    Attributes:
        base: a version up to which the id is known to be unrecorded.
        kind: "w": its writer waits in the queue; "d": deferred, no writer waits.
        id: digest of the append id.
        nonce: makes the name unique.
        size: bytes of the body, if known from a listing.
        modified: when it was staged, by the store's clock, if known from a listing; only speed depends on it.
    """

    base: int
    kind: Kind
    id: str
    nonce: str
    size: int = 0
    modified: float = 0.0

    @property
    def key(self) -> str:
        """Key of the object."""
        return f"{PREFIX}{self.base:020d}-{self.kind}-{self.id}-{self.nonce}"


def parse_listed(infos: Iterable[ObjectInfo]) -> list[StagedName]:
    """The staged names in a listing, in its order, without other objects."""
    parsed = (_parsed(info.key, info.size, info.last_modified) for info in infos)
    return [name for name in parsed if name is not None]


@lru_cache(maxsize=4096)  # a waiting writer lists the same names repeatedly
def _parsed(key: str, size: int, modified: float) -> StagedName | None:
    match = _NAME.fullmatch(key)
    if match is None:
        return None
    kind: Kind = "w" if match[2] == "w" else "d"
    return StagedName(int(match[1]), kind, match[3], match[4], size, modified)


class Classified(Struct, frozen=True):
    """What a committer may do with each listed name.

    Attributes:
        allowed: one name for each id that may be committed on this version, oldest base first.
        reclaimable: names whose id a version after their base records, or of a table that was dropped since: any
            process may delete them.
        others: for an id with several allowed names, those after the first: they count only if the body of the first
            is bad.
    """

    allowed: tuple[StagedName, ...]
    reclaimable: tuple[StagedName, ...]
    others: Mapping[str, tuple[StagedName, ...]] = {}


def classify(
    listed: Iterable[StagedName],
    recorded: Mapping[str, RecordedOutcome],
    version: int,
    own: frozenset[str],
    first: int = 0,
) -> Classified:
    """Apply the base rule and the delete rule to one listing.

    Args:
        listed: names found in ``staging/``.
        recorded: the latest record of each id by versions up to ``version``, looked up as far back as the lowest base
            listed.
        version: the version that is about to be built on.
        own: ids of the committer's own appends: left out, because their rows come from memory.
        first: the version that created the table. A name with an earlier base was staged for a dropped table of this
            name: it cannot be committed, and its id is free here.

    A name is allowed if no version in (base, version] records its id and its base is not above the version; it is
    reclaimable if a version does. One body counts for each id: two are copies of the same rows (of two processes with
    one id, or staged again), and committing both would double them.
    """
    allowed: dict[str, list[StagedName]] = {}
    reclaimable = []
    for name in sorted(listed):
        if name.base > version:
            continue  # its owner knows a newer version: do not guess
        outcome = recorded.get(name.id)
        if name.base < first or (outcome is not None and name.base < outcome.version <= version):
            reclaimable.append(name)
        elif name.id not in own:
            allowed.setdefault(name.id, []).append(name)
    return Classified(
        tuple(sorted(tries[0] for tries in allowed.values())),
        tuple(reclaimable),
        {own_id: tuple(tries[1:]) for own_id, tries in allowed.items() if len(tries) > 1},
    )
