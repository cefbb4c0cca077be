"""Check that each version was built on the commit that the store holds as its parent. Pure.

A store that checks a condition first and writes later lets two writers create one version: it confirms both, and the
later body replaces the earlier one. A version records the token of the commit that it was built on, so a reader that
knows the other commit notices.
"""

from __future__ import annotations

from collections.abc import Mapping

from datashard_core.commit.core.version_file import VersionFile, version_key
from datashard_core.errors import CorruptTableError, StoreNotConditionalError


class BrokenChainError(StoreNotConditionalError):
    """Two writers created one version: rows of one of them are lost."""


def token_of(version_file: VersionFile) -> str:
    """The token of the commit that wrote a version; empty for a version of another engine."""
    names = version_file.names
    return names.own_token if names is not None and names.version == version_file.version else ""


def is_broken(parent: VersionFile, child: VersionFile) -> bool:
    """Whether a version was built on another commit than the one that holds its parent's name.

    A tombstone has no token, and versions of older releases and other engines do not record their parent: these do not
    count as broken.
    """
    names = child.names
    if parent.state == "tombstone" or names is None or names.version != child.version or names.parent is None:
        return False
    return names.parent != token_of(parent)


def check_neighbours(bodies: Mapping[int, VersionFile], version: int, root: str) -> None:
    """Compare a version with the known ones before and after it.

    Args:
        bodies: the versions that are known.
        version: the one that was read.
        root: URI of the table, for messages.

    Raises:
        BrokenChainError: they do not match.
    """
    for number in (version, version + 1):
        parent, child = bodies.get(number - 1), bodies.get(number)
        if parent is not None and child is not None:
            check_link(parent, child, root)


def check_link(parent: VersionFile, child: VersionFile, root: str) -> None:
    """Compare a version with the one after it.

    Args:
        parent: the version.
        child: the one after it, as it was just read.
        root: URI of the table, for messages.

    Raises:
        BrokenChainError: they do not match.
        CorruptTableError: they are of two tables, the first of which was not dropped.
    """
    if parent.state == child.state == "table" and parent.uuid != child.uuid:
        raise CorruptTableError(
            f"{root}/{version_key(child.version)} is of the table with uuid {child.uuid}, and the version before it of "
            f"the table with uuid {parent.uuid}, which was not dropped: its folder was removed and made again while a "
            "process held it. If the table that is to stay is the one of the later version, load it again; if it is "
            f"the one of the earlier version, remove version {child.version} and those after it, which hold nothing of "
            "it. Use drop_table to remove a table."
        )
    if is_broken(parent, child):
        raise broken(
            parent.version,
            root,
            f"version {child.version} was built on commit {child.names.parent or 'of another engine'!r}, and "  # type: ignore[union-attr]
            f"version {parent.version} is commit {token_of(parent) or 'of another engine'!r}",
        )


def check_own(own: VersionFile, found: VersionFile, root: str) -> None:
    """Compare a version that was created here with what the store holds under its name.

    Raises:
        BrokenChainError: it is another commit's.
    """
    if found.state != "tombstone" and token_of(found) != token_of(own):
        raise broken(
            own.version,
            root,
            f"the store confirmed commit {token_of(own)!r} as version {own.version}, and holds commit "
            f"{token_of(found) or 'of another engine'!r} there",
        )


def broken(version: int, root: str, what: str) -> BrokenChainError:
    """The error for a version that two writers created."""
    return BrokenChainError(
        f"the store of {root} does not keep If-None-Match, so commits were lost: {what}. The store confirmed "
        f"{version_key(version)} to two writers, and rows of one of them are not in the table. Stop all writers, "
        "compare the table with its sources, and move it to a store that honours the condition (AWS S3, MinIO, R2, "
        "VersityGW and others do). If instead the table's folder was restored from a backup while this process held "
        "the table, nothing is wrong with it: load the table again.",
        key=f"{root}/{version_key(version)}",
    )
