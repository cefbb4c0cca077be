"""Look up append ids in the versions themselves: committed in version v, refused, or unrecorded.

The rule behind exactly once: an append may be committed on top of version N only if no version in (base, N] records its
id. Most versions repeat the records of those before them, back to a multiple of 16. For longer ranges there are index
segments (:mod:`datashard_core.commit.append_ids.segment`).
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
    """A version whose records are needed is a tombstone by now; the id segments have them.

    Attributes:
        version: the version.
    """

    def __init__(self, version: int, root: str) -> None:
        super().__init__(
            f"{root}/{version_key(version)} is a tombstone by now. The append ids that it committed are in the "
            "objects below _datashard/ids. Load the table again."
        )
        self.version = version


class ForgottenError(DataShardError):
    """Records that a look-up needs are out of the retention, and maintenance has removed their segments.

    Attributes:
        until: the records of the versions before this one are forgotten.
    """

    def __init__(self, until: int, root: str) -> None:
        super().__init__(
            f"{root}: the append ids of the versions before {until} are no longer kept (table property "
            "datashard.append-id.retention), and this append was begun before that. Check whether its rows are in the "
            "table; if they are not, append them under a new id."
        )
        self.until = until


class RecordedOutcome(Struct, frozen=True):
    """The latest record of an append id.

    Attributes:
        version: the version that records it.
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
    """The latest record of each id in the versions ``(above, newest]``, read from the versions.

    Args:
        ids: digests of append ids.
        newest: the version to look back from.
        above: versions up to this one do not matter (-1: all versions of the table matter).
        bodies: versions already read.
        root: URI of the table's root, for messages.

    Returns:
        Digest of append id -> its latest record; absent if there is none.

    Raises:
        TombstoneMetError: only the id segments have the records of a version in between.
        CorruptTableError: a version in between is gone, so the result would be incomplete.
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
    """Visit the records of the versions from ``newest`` down to ``above`` + 1.

    Args:
        newest: the version to start from.
        above: where to stop.
        bodies: versions already read.
        root: URI of the table's root, for messages.
        visit: gets a version and its records; False stops the walk.

    Returns:
        The lowest version visited.

    Raises:
        TombstoneMetError: a version whose records no other version repeats is a tombstone. It does not count as one
            without records: a process that was suspended for a week would commit a second time.
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
    """Records of ``version`` as far as ``version_file`` repeats them; None if it does not."""
    if version == version_file.version:
        return version_file.named
    if version_file.names is not None and version_file.names.records_version(version):
        return version_file.names.of(version)
    return None


def lowest_recorded(version_file: VersionFile) -> int:
    """Lowest version down to which a version repeats all records without a gap."""
    version = version_file.version
    while version > 0 and ids_recorded_in(version - 1, version_file) is not None:
        version -= 1
    return version


async def _read_back(version: int, above: int, known: dict[int, VersionFile], root: str) -> bool:
    """Read a version, and in parallel the ends of the blocks before it, which repeat the most records.

    Returns:
        False if there never was such a version: other engines begin with v1.
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
                    f"{where} is missing, so it is not known which appends are in the table already. "
                    "Restore it; do not delete old versions of this table."
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
