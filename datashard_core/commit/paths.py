"""From the absolute URIs in Iceberg metadata to keys below the table's root. Pure."""

from __future__ import annotations

import re
from urllib.parse import unquote

from datashard_core.errors import UnsupportedTableError

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
        UnsupportedTableError: the file lies outside the table's folder.
    """
    if uri.startswith(location) and uri.startswith("/", len(location)):
        return uri[len(location) + 1 :]  # as nearly all are spelled
    # As it is written first: the folder of a partition may have "%2F" in its name.
    for decode in (False, True):
        wanted = _plain(uri, decode)
        for base in (_plain(location, decode), _plain(root, decode)):
            if wanted.startswith(base + "/"):
                return wanted[len(base) + 1 :]
    raise UnsupportedTableError(
        f"the table at {root} names the file {uri!r}, which lies outside its folder. Only tables whose files are "
        "all below their own location can be opened by path: read it with an engine that has its catalog."
    )


def _plain(uri: str, decode: bool) -> str:
    """Path of a URI; ``decode``: some engines write those of local files percent-encoded."""
    match = _SCHEME.match(uri)
    if match is None:
        return uri.rstrip("/")
    rest = uri[match.end() :].rstrip("/")
    if match[1].lower() in _S3_SCHEMES:
        return rest
    return "/" + (unquote(rest) if decode else rest)
