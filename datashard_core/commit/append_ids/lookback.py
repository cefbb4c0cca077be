"""What the history says of an append id: committed in version v, refused, or unnamed.

The one rule behind exactly once: an append may be committed on top of version N only if no version
in (base, N] names its id. Every version mostly repeats the names of those before it, back to a
multiple of 16; for a longer range there are id nodes (:mod:`datashard_core.commit.append_ids.segment`).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

from msgspec import Struct

from datashard_core.commit.core.chain import check_neighbours
from datashard_core.commit.core.recorded_ids import BLOCK, Record, Refusal
from datashard_core.commit.core.version_file import VersionFile, parse_version, version_key
from datashard_core.effects.requests import Get
from datashard_core.effects.tasks import outcomes_of, result_of
from datashard_core.errors import CorruptTableError, DataShardError
from datashard_core.storage.base import ObjectNotFoundError, StoredObject

MAX_READS = 16


class TombstoneMetError(CorruptTableError):
    """A version was asked for its names, and maintenance has replaced it meanwhile: the id nodes know them.

    Attributes:
        version: the version.
    """

    def __init__(self, version: int, root: str) -> None:
        super().__init__(
            f"{root}/{version_key(version)} is a tombstone by now: which appends it committed is known to the id "
            "nodes below _datashard/ids alone. Load the table again."
        )
        self.version = version


class ForgottenError(DataShardError):
    """What versions named is out of the retention, and maintenance has removed the nodes that knew it.

    Attributes:
        until: names of the versions before this one are forgotten.
    """

    def __init__(self, until: int, root: str) -> None:
        super().__init__(
            f"{root}: which appends the versions before {until} committed is not remembered any more (table property "
            "datashard.append-id.retention), and this append was begun before that. See whether its rows are in the "
            "table; if they are not, append them under a new id."
        )
        self.until = until


class RecordedOutcome(Struct, frozen=True):
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


async def look_back(
    ids: frozenset[str], newest: VersionFile, *, above: int, bodies: Mapping[int, VersionFile], root: str
) -> dict[str, RecordedOutcome]:
    """The last word on each id in the versions ``(above, newest]``, out of the versions themselves.

    Args:
        ids: digests of append ids.
        newest: the version to look back from.
        above: versions up to this one are known not to matter (-1: look at all of the table's).
        bodies: versions already read.
        root: URI of the table's root, for messages.

    Returns:
        Digest of append id -> what was said of it last; absent if nothing was.

    Raises:
        TombstoneMetError: the names of a version in between are known to the id nodes alone.
        CorruptTableError: a version in between is gone, so nothing can be said.
    """
    found: dict[str, RecordedOutcome] = {}

    def visit(version: int, names: Mapping[str, Record]) -> bool:
        for append_id in ids & names.keys():
            found.setdefault(append_id, RecordedOutcome(version, names[append_id]))
        return len(found) < len(ids)

    await walk_back(newest, above=above, bodies=bodies, root=root, visit=visit)
    return found


async def walk_back(
    newest: VersionFile,
    *,
    above: int,
    bodies: Mapping[int, VersionFile],
    root: str,
    visit: Callable[[int, Mapping[str, Record]], bool],
) -> int:
    """Visit the names of the versions from ``newest`` down to ``above`` + 1.

    Args:
        newest: the version to start from.
        above: where to stop.
        bodies: versions already read.
        root: URI of the table's root, for messages.
        visit: gets a version and its names; False stops the walk.

    Returns:
        The lowest version visited.

    Raises:
        TombstoneMetError: a version whose names nothing else tells is a tombstone. It is never taken for
            one that names nothing: whoever slept for a week would commit a second time.
    """
    known = {**bodies, newest.version: newest}
    version, source = newest.version, newest
    while version > max(above, source.first - 1):
        names = ids_recorded_in(version, source)
        if names is None:
            if version not in known and not (await _read_back(version, above, known, root)):
                break  # another engine began the table with the version after this one
            if known[version].state == "dropped":
                break  # an earlier table of this name ended here
            if known[version].state == "tombstone":
                raise TombstoneMetError(version, root)
            source = known[version]
            names = source.named
        if not visit(version, names):
            return version
        version -= 1
    return version + 1


def ids_recorded_in(version: int, version_file: VersionFile) -> Mapping[str, Record] | None:
    """Names of ``version`` as ``body`` tells them; None if it does not."""
    if version == version_file.version:
        return version_file.named
    if version_file.names is not None and version_file.names.records_version(version):
        return version_file.names.of(version)
    return None


def lowest_recorded(version_file: VersionFile) -> int:
    """Lowest version whose names are known from a body without a gap."""
    version = version_file.version
    while version > 0 and ids_recorded_in(version - 1, version_file) is not None:
        version -= 1
    return version


async def _read_back(version: int, above: int, known: dict[int, VersionFile], root: str) -> bool:
    """Read a version, and beside it the ends of the blocks before it, which tell the most.

    Returns:
        False where there never was such a version: engines that are not ours begin with v1.
    """
    wanted = [version]
    block_end = version - version % BLOCK - 1
    while block_end > above and len(wanted) < MAX_READS:
        if block_end not in known:
            wanted.append(block_end)
        block_end -= BLOCK
    outcomes = await outcomes_of([Get(version_key(number)) for number in wanted])
    for number, outcome in zip(wanted, outcomes, strict=True):
        where = f"{root}/{version_key(number)}"
        if isinstance(outcome, ObjectNotFoundError):
            if number == version:
                if await _begins(version + 1, known, root):
                    return False
                raise CorruptTableError(
                    f"{where} is missing, so it cannot be said which appends are in the table already. "
                    "Restore it; old versions of this table must not be deleted."
                ) from outcome
            continue
        known[number] = parse_version(result_of(outcome).body, number, where)
        check_neighbours(known, number, root)
    return True


async def _begins(version: int, known: dict[int, VersionFile], root: str) -> bool:
    """Whether a version that exists is the first of its table."""
    if version not in known:
        outcomes = await outcomes_of((Get(version_key(version)),))
        if isinstance(outcomes[0], ObjectNotFoundError):
            return False  # both are gone
        stored: StoredObject = result_of(outcomes[0])
        known[version] = parse_version(stored.body, version, f"{root}/{version_key(version)}")
    return known[version].is_a_beginning
