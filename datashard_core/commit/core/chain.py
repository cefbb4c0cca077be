"""One chain: a version says which commit it was built on, and that has to be the one that is there.

A store that checks a condition first and writes later lets two writers create one version: both are
told that it is theirs, and the later body takes the place of the earlier. Whoever builds on either
records its token, so a reader that knows the other one notices. Pure.
"""

from __future__ import annotations

from collections.abc import Mapping

from datashard_core.commit.core.version_file import VersionFile, version_key
from datashard_core.errors import CorruptTableError, StoreNotConditionalError


class BrokenChainError(StoreNotConditionalError):
    """Two writers created one version: rows of one of them are lost."""


def token_of(body: VersionFile) -> str:
    """What names the commit that wrote a version; empty for one of another engine."""
    names = body.names
    return names.own_token if names is not None and names.version == body.version else ""


def is_broken(parent: VersionFile, child: VersionFile) -> bool:
    """Whether a version was built on another commit than the one that holds its parent's name.

    A tombstone tells no commit, and versions of older releases and other engines do not say what
    they were built on: those are no contradiction.
    """
    names = child.names
    if parent.state == "tombstone" or names is None or names.version != child.version or names.parent is None:
        return False
    return names.parent != token_of(parent)


def check_neighbours(bodies: Mapping[int, VersionFile], version: int, root: str) -> None:
    """Compare a version with the one before it and the one after it, as far as they are known.

    Raises:
        BrokenChainError: they do not match.
    """
    for number in (version, version + 1):
        parent, child = bodies.get(number - 1), bodies.get(number)
        if parent is not None and child is not None:
            check_link(parent, child, root)


def check_link(parent: VersionFile, child: VersionFile, root: str) -> None:
    """Compare a version with the one after it.

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
        f"the store of {root} does not keep If-None-Match, so commits were lost: {what}. Two writers were told that "
        f"they created {version_key(version)}, and rows of one of them are not in the table. Stop all writers, "
        "compare the table with its sources, and move it to a store that honours the condition (AWS S3, MinIO, R2, "
        "VersityGW and others do).",
        key=f"{root}/{version_key(version)}",
    )
