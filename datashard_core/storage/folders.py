"""Folders of a local disk that are reached without following a symbolic link. POSIX.

A path is resolved by the system part by part, and a link in any part leads elsewhere, also one that was
made a moment ago. So nothing below the root of a store is opened by its path: each folder is opened relative
to the one above it with ``O_NOFOLLOW``, and files are opened, renamed and deleted relative to their folder.
"""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress

from datashard_core.errors import StorageError

_FOLDER = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
# A pipe would block its reader until a writer comes; for plain files the flag changes nothing.
_FILE = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC


class LinkError(StorageError):
    """A part of a path below a warehouse's folder is a symbolic link."""

    def __init__(self, message: str, *, key: str = "") -> None:
        super().__init__(message, reason="unsupported", key=key)


def is_link(path: str) -> bool:
    """Whether a path is a symbolic link itself."""
    try:
        return stat.S_ISLNK(os.lstat(path).st_mode)
    except OSError:
        return False


@contextmanager
def opened(root: str, parts: Sequence[str], make: bool = False) -> Iterator[int]:
    """A descriptor of a folder, closed when the block ends.

    Args:
        root: absolute path of the store, in which links are resolved already.
        parts: names of the folders below it, one inside the other.
        make: make what is missing.

    Raises:
        LinkError: one of them is a symbolic link.
        OSError: a folder is missing, or cannot be opened.
    """
    descriptor = _open(root, parts, make)
    try:
        yield descriptor
    finally:
        os.close(descriptor)


@contextmanager
def opened_below(folder: int, name: str, path: str) -> Iterator[int]:
    """A descriptor of a folder in an opened folder, closed when the block ends.

    Args, raises: as :func:`open_file`.
    """
    descriptor = _below(folder, name, path, make=False)
    try:
        yield descriptor
    finally:
        os.close(descriptor)


def open_plain(path: str) -> int | None:
    """A descriptor of a plain file, if the system confirms that no part of its path is a link: the short way.

    Returns:
        None if it does not, for whatever reason: then :func:`open_file` decides.
    """
    try:
        descriptor = os.open(path, _FILE)
    except OSError:
        return None
    if is_path_of(descriptor, path) and stat.S_ISREG(os.fstat(descriptor).st_mode):
        return descriptor
    os.close(descriptor)
    return None


def is_path_of(descriptor: int, path: str) -> bool:
    """Whether the system names an opened file by this very path, so that no link was followed. Linux.

    Returns:
        False where it does not, and where the system does not tell.
    """
    try:
        return os.readlink(f"/proc/self/fd/{descriptor}") == path
    except OSError:
        return False


def open_file(folder: int, name: str, path: str) -> int:
    """A descriptor of a plain file in an opened folder.

    Args:
        folder: descriptor of the folder.
        name: the file's name.
        path: its whole path, for messages.

    Raises:
        LinkError: it is a symbolic link.
        StorageError: it is a pipe, a device or a socket.
        OSError: it is missing, a folder, or cannot be opened.
    """
    try:
        descriptor = os.open(name, _FILE, dir_fd=folder)
    except OSError as error:
        raise _explained(error, path) from error
    mode = os.fstat(descriptor).st_mode
    if not stat.S_ISREG(mode):
        os.close(descriptor)
        if stat.S_ISDIR(mode):
            raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), path)
        raise StorageError(
            f"{path} is no plain file: remove it from the table's folder", reason="unsupported", key=path
        )
    return descriptor


def delete_file(folder: int, name: str, path: str) -> None:
    """Delete a file in an opened folder; a link is left where it is.

    Args:
        folder: descriptor of the folder.
        name: the file's name.
        path: its whole path, for messages.

    Raises:
        LinkError: it is a symbolic link.
        OSError: it is missing, a folder, or cannot be deleted.
    """
    if stat.S_ISLNK(os.lstat(name, dir_fd=folder).st_mode):
        raise _link(path)
    os.unlink(name, dir_fd=folder)


def make_root(root: str) -> None:
    """Make the folder of a store, and what is missing above it; durable when it returns."""
    missing = []
    path = root
    while not os.path.isdir(path):
        missing.append(path)
        path = os.path.dirname(path)
    os.makedirs(root, exist_ok=True)
    for made in missing:
        descriptor = os.open(os.path.dirname(made), os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def _open(root: str, parts: Sequence[str], make: bool) -> int:
    try:
        descriptor = os.open(root, _FOLDER)
    except FileNotFoundError:
        if not make:
            raise
        make_root(root)
        descriptor = os.open(root, _FOLDER)
    except OSError as error:
        raise _explained(error, root) from error
    path = root
    try:
        for part in parts:
            path = f"{path}/{part}"
            above = descriptor
            descriptor = _below(above, part, path, make)
            os.close(above)
    except BaseException:
        os.close(descriptor)
        raise
    return descriptor


def _below(above: int, part: str, path: str, make: bool) -> int:
    try:
        return os.open(part, _FOLDER, dir_fd=above)
    except FileNotFoundError:
        if not make:
            raise
    except OSError as error:
        raise _explained(error, path) from error
    with suppress(FileExistsError):  # another writer was faster
        os.mkdir(part, dir_fd=above)
    os.fsync(above)
    try:
        return os.open(part, _FOLDER, dir_fd=above)
    except OSError as error:
        raise _explained(error, path) from error


def _explained(error: OSError, path: str) -> Exception:
    """The error, or that a link was in the way: systems answer ELOOP, ENOTDIR or EMLINK then."""
    if error.errno in (errno.ELOOP, errno.ENOTDIR, errno.EMLINK) and is_link(path):
        return _link(path)
    return error


def _link(path: str) -> LinkError:
    return LinkError(
        f"{path} is a symbolic link, and links below the folder of a warehouse are not followed: they lead out of the "
        "table. Put the files themselves there (or mount the other folder there); a link to the whole warehouse, or "
        "above it, works.",
        key=path,
    )
