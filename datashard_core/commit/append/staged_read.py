"""Read one version and the staged appends that it does not contain.

The reader lists **before** it reads the version. In the other order, a commit in between could include a staged object
and delete it, and neither would show its rows. Appends that the version records are left out of the listing. By the
delete rule a newer version records an object that is gone, so the reader continues with that version.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from msgspec import Struct

from datashard_core.commit.append.deferred import staged_names
from datashard_core.commit.append_ids.lookback import ForgottenError, RecordedOutcome
from datashard_core.commit.append_ids.lookup import look_up
from datashard_core.commit.core.recorded_ids import Refusal
from datashard_core.commit.core.state import TableState, Target, newest
from datashard_core.commit.staging.examine import Good, check_files, opened
from datashard_core.commit.staging.key import StagedName, classify
from datashard_core.commit.staging.set_aside import Aside, eligible
from datashard_core.effects.requests import Get
from datashard_core.effects.tasks import outcomes_of, result_of
from datashard_core.errors import CorruptTableError, StorageError
from datashard_core.format.metadata.data_file import DataFile
from datashard_core.format.rows.python_rows import arrow_of
from datashard_core.storage.base import ObjectNotFoundError

if TYPE_CHECKING:
    import pyarrow as pa

log = logging.getLogger(__name__)

TRIES = 10
BODIES_AT_ONCE = 64


class WithStaged(Struct, frozen=True):
    """A version and the staged appends that it does not contain.

    Attributes:
        state: the version.
        rows: staged rows that are not in the version, in the form of its schema.
        files: finished data files that staged appends describe and that are not in the version.
    """

    state: TableState
    rows: tuple[pa.Table, ...]
    files: tuple[DataFile, ...]


async def read_with_staged(target: Target, cached: TableState | None) -> WithStaged:
    """Read the newest version and the staged appends that it does not contain.

    Raises:
        NoSuchTableError: the table was dropped.
        StorageError: a read failed, or objects went away without being committed.
    """
    for _ in range(TRIES):
        names = await staged_names()
        cached = await newest(target, cached)
        bodies: dict[StagedName, Good | None] = {}
        while True:
            # Where a body cannot be shown, another one of the same id takes its place.
            wanted = [name for name in names if bodies.get(name, name) is not None]
            try:
                left = await _unrecorded(target, cached, wanted)
            except CorruptTableError:
                newer = await newest(target, cached)
                if newer.body.version == cached.body.version:
                    raise
                cached = newer  # the former version was purged, or expired
                continue
            if all(name in bodies for name in left):
                return _shown(cached, [body for name in left if (body := bodies[name]) is not None])
            if not (await _read(target, cached, [name for name in left if name not in bodies], bodies)):
                continue
            newer = await newest(target, cached)
            if newer.body.version == cached.body.version:
                break  # gone, and no version records it: a stale listing, or another program deletes
            cached = newer
    raise StorageError(
        f"table {target.name}: staged appends disappeared {TRIES} times during the read, and no version records them. "
        "If something deletes objects below _datashard/staging, stop it; else scan again.",
        key=target.root,
    )


async def _unrecorded(target: Target, state: TableState, names: Sequence[StagedName]) -> tuple[StagedName, ...]:
    """One name for each id that no version after its base records."""
    below = eligible(target.root, state.body, names)
    if not below:
        return ()
    try:
        recorded = await _recorded(target, state, below)
    except ForgottenError as error:
        # No commit includes them: it is not known whether the version contains them already.
        log.warning(
            "table %s: staged appends with a base before version %d are not shown: %s", target.name, error.until, error
        )
        below = [name for name in below if name.base >= error.until - 1]
        recorded = await _recorded(target, state, below)
    return classify(below, recorded, state.body.version, frozenset(), state.body.first).allowed


async def _recorded(target: Target, state: TableState, names: Sequence[StagedName]) -> dict[str, RecordedOutcome]:
    above = min((name.base for name in names), default=state.body.version)
    ids = frozenset(name.id for name in names)
    return await look_up(ids, state.body, above=above, bodies={}, history=target.history)


async def _read(
    target: Target, state: TableState, wanted: Sequence[StagedName], bodies: dict[StagedName, Good | None]
) -> bool:
    """Read staged bodies; return whether one of them is gone. A body that cannot be shown becomes None."""
    gone = False
    for start in range(0, len(wanted), BODIES_AT_ONCE):
        batch = wanted[start : start + BODIES_AT_ONCE]
        there: list[StagedName] = []
        outcomes: list[Any] = []
        for name, outcome in zip(batch, (await outcomes_of([Get(name.key) for name in batch])), strict=True):
            if isinstance(outcome, ObjectNotFoundError):
                gone = True
            else:
                there.append(name)
                outcomes.append(outcome)
        examined = opened(target, state.body, there, outcomes)
        described = {name: one for name, one in examined.items() if isinstance(one, Good) and one.files}
        examined.update(await check_files(described))
        for outcome, (name, one) in zip(outcomes, examined.items(), strict=True):
            if one is None:
                result_of(outcome)  # raise: acknowledged rows must not be left out without an error
                raise StorageError(
                    f"table {target.name}: a data file that {name.key} describes could not be read; scan again",
                    key=name.key,
                )
            bodies[name] = one if isinstance(one, Good) else None
            if isinstance(one, (Refusal, Aside)):
                log.info("table %s: %s is not shown: %s", target.name, name.key, one.reason)
    return gone


def _shown(state: TableState, bodies: Sequence[Good]) -> WithStaged:
    rows = tuple(arrow_of(body.rows) for body in bodies if body.rows is not None)
    return WithStaged(state, rows, tuple(file for body in bodies for file in body.files))
