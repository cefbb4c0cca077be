"""From the absolute URIs in Iceberg metadata to keys below the table's root. Pure.

Metadata is written by other programs too, and by anybody who may write to the table's folder. So a URI
stands for a key only if the key is one that :mod:`datashard_core.storage.keys` lets through, and a file is
deleted only in the three folders that belong to a table.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from urllib.parse import unquote

from datashard_core.effects.requests import Delete
from datashard_core.errors import UnsupportedTableError
from datashard_core.storage.keys import checked_key, fault_of

TABLE_FOLDERS = ("data/", "metadata/", "_datashard/")
"""Everything of a table lies in these folders; nothing outside them is ever deleted."""

_SCHEME = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*):/*")
_S3_SCHEMES = frozenset({"s3", "s3a", "s3n"})


def key_of(uri: str, location: str, root: str) -> str:
    """Key of a file that the metadata names.

    Engines spell the same place differently (``s3a://``, ``file:/`` with one slash, a bare path),
    and a folder may have been moved since its metadata was written, so the file is looked for below
    the table's ``location`` and below the root that it was opened by.

    Args:
        uri: the file, as metadata names it.
        location: the table's ``location``.
        root: URI of the folder that the table was opened by.

    Raises:
        UnsupportedTableError: the file lies outside the table's folder, or its name cannot be a key.
    """
    if uri.startswith(location) and uri.startswith("/", len(location)):
        key = uri[len(location) + 1 :]  # as nearly all are spelled
        if fault_of(key) is None:
            return key
        raise _bad_name(uri, key, root)
    # As it is written first: the folder of a partition may have "%2F" in its name.
    for decode in (False, True):
        wanted = _plain(uri, decode)
        for base in (_plain(location, decode).rstrip("/"), _plain(root, decode).rstrip("/")):
            if wanted.startswith(base + "/"):
                key = wanted[len(base) + 1 :]
                if fault_of(key) is None:
                    return key
                raise _bad_name(uri, key, root)
    raise UnsupportedTableError(
        f"the table at {root} names the file {uri!r}, which lies outside its folder. Only tables whose files are "
        "all below their own location can be opened by path: read it with an engine that has its catalog."
    )


def delete(keys: Iterable[str], root: str) -> Delete:
    """A request to delete objects of a table.

    Args:
        keys: keys of the objects.
        root: URI of the table, for the message.

    Raises:
        UnsupportedTableError: a key is outside the table's own folders. Nothing is deleted.
        InvalidKeyError: a text cannot be a key. Nothing is deleted.
    """
    doomed = tuple(checked_key(key, root) for key in keys)
    for key in doomed:
        if not key.startswith(TABLE_FOLDERS):
            raise UnsupportedTableError(
                f"{root}/{key} is not in the folders {', '.join(TABLE_FOLDERS)} of the table, so it is not deleted"
            )
    return Delete(doomed)


def _bad_name(uri: str, key: str, root: str) -> UnsupportedTableError:
    return UnsupportedTableError(
        f"the table at {root} names the file {uri!r}, which cannot lie in its folder: {fault_of(key)}. Its metadata "
        "is damaged, or was written to lead outside the folder: nothing of that name is read or deleted."
    )


def _plain(uri: str, decode: bool) -> str:
    """Path of a URI; ``decode``: some engines write those of local files percent-encoded."""
    match = _SCHEME.match(uri)
    if match is None:
        return uri
    rest = uri[match.end() :]
    if match[1].lower() in _S3_SCHEMES:
        return rest
    return "/" + (unquote(rest) if decode else rest)
