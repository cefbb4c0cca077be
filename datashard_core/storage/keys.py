"""Which texts are keys: the one check between a name from outside and a store. Pure.

Keys come from metadata, manifests, staged objects and listings, which other programs write too. Every
backend checks a key here before it sends a request. So a key names the same object on every backend, and
never an object outside the root: no part of a key is empty, ``.`` or ``..``.

Percent signs are plain characters: ``part=a%2Fb`` is the folder that other engines make for the partition
value ``a/b``. Only a part that a URL library takes for a dot (``%2e``, ``%2E%2e``) is refused, because a
proxy on the way to the store may decode it.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Iterable, Iterator

from datashard_core.errors import StorageError

log = logging.getLogger(__name__)

MAX_BYTES = 1024
"""Bytes of a key from the bucket's root, as S3 limits them; other backends have the same limit."""

SHOWN = 3

_DOT = r"(?:\.|%2[eE])"
_DOTS = rf"(?:^|/)(?:{_DOT}{{1,2}})?(?:/|$)"
_UNFIT = "[\x00-\x1f\x7f-\x9f\\\\\ud800-\udfff\ufffe\uffff]"
"""Control characters, the backslash, surrogates (no UTF-8) and what XML, in which S3 lists keys, cannot hold."""


class InvalidKeyError(StorageError):
    """The text cannot be the key of an object. Nothing was sent to the store."""

    def __init__(self, message: str, *, key: str = "") -> None:
        super().__init__(message, reason="unsupported", key=key)


def fault_of(key: str, room: int = MAX_BYTES) -> str | None:
    """Why a text cannot be a key; None if it can.

    Args:
        key: the text.
        room: bytes that it may have.
    """
    # Nearly all keys end here: a few searches in C, and no regular expression.
    if (
        "/." not in key
        and "//" not in key
        and "%2" not in key
        and "\\" not in key
        and key.isascii()
        and key.isprintable()
        and 0 < len(key) <= room
        and key[0] not in "/."
        and key[-1] != "/"
    ):
        return None
    if not key:
        return "it is empty"
    if (found := re.search(_UNFIT, key)) is not None:
        return f"it contains the character {found[0]!r}"
    if re.search(_DOTS, key) is not None:
        return "a part between '/' is empty, '.' or '..'"
    if len(key.encode()) > room:
        return f"it has more than {room} bytes"
    return None


def checked_key(key: str, root: str = "", room: int = MAX_BYTES) -> str:
    """The key, if it names an object below the root.

    Args:
        key: the text.
        root: URI of the root, for the message.
        room: bytes that it may have.

    Raises:
        InvalidKeyError: it cannot be a key.

    Example:
        >>> checked_key("data/part=a%2Fb/f.parquet")
        'data/part=a%2Fb/f.parquet'
    """
    fault = fault_of(key, room)
    if fault is not None:
        where = f" below {root}" if root else ""
        raise InvalidKeyError(f"{key[:MAX_BYTES]!r} cannot be the key of an object{where}: {fault}", key=key)
    return key


def checked_prefix(prefix: str, root: str = "", room: int = MAX_BYTES) -> str:
    """What a listing begins with, if it can begin a key: "", a folder with its "/", or a part of a name.

    Args:
        prefix: the text.
        root: URI of the root, for the message.
        room: bytes that it may have.

    Raises:
        InvalidKeyError: no key begins like that.
    """
    if prefix:
        checked_key(prefix.removesuffix("/"), root, room)
    return prefix


class Listed:
    """Separates the keys in a listing from names that cannot be keys, and logs those that were left out.

    Args:
        root: URI of the listed root, for the log.
        prefix: what was asked for.
        after: every key sorts after it; None: no limit.
    """

    def __init__(self, root: str, prefix: str, after: str | None = None) -> None:
        self._root = root
        self._prefix = prefix
        self._after = after
        self._skipped = 0
        self._names: list[str] = []

    def is_key(self, key: str) -> bool:
        """Whether a listed name is a key that was asked for. Markers of folders (``data/``) are passed over."""
        if fault_of(key) is None and key.startswith(self._prefix):
            return self._after is None or key > self._after
        if not key.endswith("/") or fault_of(key[:-1]) is not None:
            self.skip(key)
        return False

    def may_hold(self, folder: str) -> bool:
        """Whether a folder, given with its "/", may hold keys that were asked for."""
        if not (folder.startswith(self._prefix) or self._prefix.startswith(folder)):
            return False
        return self._after is None or folder > self._after or self._after.startswith(folder)

    def skip(self, name: str) -> None:
        """Note a name that is left out."""
        self._skipped += 1
        if len(self._names) < SHOWN:
            self._names.append(name)

    def report(self) -> None:
        """Log what was left out, once for a listing."""
        if self._skipped:
            more = f" and {self._skipped - len(self._names)} more" if self._skipped > len(self._names) else ""
            log.warning(
                "%s holds %s%s, which no table can name (a link, a special file, or a name that cannot be a key): "
                "left alone. Remove it by hand.",
                self._root,
                ", ".join(map(repr, self._names)),
                more,
            )


def folder_names(listed: Iterable[str]) -> Iterator[str]:
    """Those of some names of folders that can be part of a key."""
    return (name for name in listed if "/" not in name and fault_of(name) is None)
