"""The rule that no commit loses or doubles rows: rows after = rows before - rows deleted + rows added. Pure.

Every commit that makes a manifest list says which data files it takes out, which it puts in, and how many
rows are meant to go and to come by that. The entries of the manifests that leave the list and of those that
enter it have to agree, entry by entry: a data file that is named twice counts twice, for that is how every
engine reads it. Manifests that stay are the same on both sides and need not be read.

A commit that does not add up is a fault of this library or of a manifest's writer. It is refused before the
version is created, so nothing of it is in the table.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence

from msgspec import Struct

from datashard_core.errors import CorruptTableError
from datashard_core.format.manifests.manifest import DELETED, EXISTING, ManifestEntry, ManifestFile
from datashard_core.format.metadata.data_file import DataFile

Entries = Sequence[ManifestEntry]


class Change(Struct, frozen=True):
    """The change of a table's rows that a commit is meant to make.

    Attributes:
        removed: data files that leave the table, each as often as it leaves.
        added: data files that enter it.
        deleted_rows: rows that are gone afterwards, counted as they were chosen (by a predicate, a delete file).
        new_rows: rows that were not in the table before, counted as they were given.
    """

    removed: Sequence[DataFile] = ()
    added: Sequence[DataFile] = ()
    deleted_rows: int = 0
    new_rows: int = 0


def check_rows(
    where: str,
    before: Sequence[ManifestFile],
    after: Sequence[ManifestFile],
    entries: Mapping[str, Entries],
    change: Change,
) -> None:
    """Refuse a manifest list that does not hold exactly the rows that it should.

    Args:
        where: the table, for the message.
        before: the manifest list that is built on.
        after: the manifest list to be committed.
        entries: by manifest path, the entries of every manifest that is in one of the lists alone.
        change: what the commit is meant to do.

    Raises:
        CorruptTableError: rows or files would be lost or doubled. Nothing was committed.
    """
    gone, new = gone_and_new(before, after)
    files_before, rows_before = _live(where, gone, entries)
    files_after, rows_after = _live(where, new, entries)
    expected = Counter(files_before)
    expected.update(file.file_path for file in change.added)
    expected.subtract(file.file_path for file in change.removed)
    if expected != files_after:
        wrong = sorted(path for path in {*expected, *files_after} if expected[path] != files_after[path])
        path = wrong[0]
        raise _refused(
            where,
            f"{path} would be named {files_after[path]} times where {expected[path]} are right"
            + (f", and {len(wrong) - 1} other files likewise" if len(wrong) > 1 else ""),
        )
    wanted = rows_before - change.deleted_rows + change.new_rows
    if rows_after != wanted:
        raise _refused(
            where,
            f"{rows_before} rows of the manifests that it replaces, less {change.deleted_rows} deleted, plus "
            f"{change.new_rows} new ones are {wanted}, and it has {rows_after}",
        )


def adds_up(snapshot_id: int, gone: Sequence[ManifestFile], new: Iterable[ManifestEntry]) -> bool:
    """Whether the counts alone tell that the manifests of another library's snapshot replace others without a loss.

    What the library meant to delete is not known here. But each file of a manifest that leaves the list has to
    be in one that enters it, as existing or as deleted by this snapshot.

    Args:
        snapshot_id: the snapshot.
        gone: the data manifests that leave the list.
        new: the entries of those that enter it.
    """
    counts = [(one.added_files_count, one.existing_files_count) for one in gone]
    rows = [(one.added_rows_count, one.existing_rows_count) for one in gone]
    if any(None in pair for pair in (*counts, *rows)):
        return False  # its writer did not say how many there are
    kept = [entry.data_file.record_count for entry in new if _speaks_of(entry, snapshot_id)]
    had = sum(count or 0 for pair in counts for count in pair), sum(count or 0 for pair in rows for count in pair)
    return had == (len(kept), sum(kept))


def check_rewritten(where: str, snapshot_id: int, gone: Iterable[ManifestEntry], new: Sequence[ManifestEntry]) -> None:
    """The same by the entries, where the counts do not tell.

    Args:
        where: the table, for the message.
        snapshot_id: the snapshot.
        gone: the entries of the manifests that leave the list.
        new: the entries of those that enter it.

    Raises:
        CorruptTableError: files would be lost or doubled. Nothing was committed.
    """
    had = Counter(_named_as(entry) for entry in gone if entry.status != DELETED)
    existing = Counter(_named_as(entry) for entry in new if entry.status == EXISTING)
    named = Counter(_named_as(entry) for entry in new if _speaks_of(entry, snapshot_id))
    for what, wrong in (("without being deleted", had - named), ("though it was not there so often", existing - had)):
        for (path, rows), count in wrong.items():
            verb = "lost" if what.startswith("without") else "named as existing"
            raise _refused(
                where, f"in snapshot {snapshot_id} {path}, of {rows} rows, would be {verb} {count} times {what}"
            )


def _speaks_of(entry: ManifestEntry, snapshot_id: int) -> bool:
    """Whether an entry says what became of a file that was there before."""
    return entry.status == EXISTING or (entry.status == DELETED and entry.snapshot_id == snapshot_id)


def _named_as(entry: ManifestEntry) -> tuple[str, int]:
    return entry.data_file.file_path, entry.data_file.record_count


def gone_and_new(
    before: Sequence[ManifestFile], after: Sequence[ManifestFile]
) -> tuple[list[ManifestFile], list[ManifestFile]]:
    """The manifests of the first list alone, and those of the second, each as often as the other list lacks it."""
    left = Counter(manifest.manifest_path for manifest in before)
    new: list[ManifestFile] = []
    for manifest in after:
        if left[manifest.manifest_path] > 0:
            left[manifest.manifest_path] -= 1
        else:
            new.append(manifest)
    gone: list[ManifestFile] = []
    for manifest in before:
        if left[manifest.manifest_path] > 0:
            left[manifest.manifest_path] -= 1
            gone.append(manifest)
    return gone, new


def _live(where: str, manifests: Iterable[ManifestFile], entries: Mapping[str, Entries]) -> tuple[Counter[str], int]:
    """How often each data file is named by the live entries of manifests, and their rows; delete files hold none."""
    files: Counter[str] = Counter()
    rows = 0
    for manifest in manifests:
        known = entries.get(manifest.manifest_path)
        if known is None:
            raise _refused(where, f"the entries of {manifest.manifest_path} are not known, which it replaces")
        for entry in known:
            if entry.status != DELETED:
                files[entry.data_file.file_path] += 1
                rows += entry.data_file.record_count if not entry.data_file.content else 0
    return files, rows


def _refused(where: str, why: str) -> CorruptTableError:
    return CorruptTableError(
        f"{where}: the commit was refused, for its rows do not add up: {why}. Nothing was committed, and nothing of "
        "the table was changed. Please report this with the table's newest metadata file and its manifests."
    )
