"""Objects as files below a folder of a local disk.

The commit point is a hard link: it exists at once and whole, and only one process can make it. A
file system without hard links is refused when a table is created. Network file systems are not
supported: their links and locks do not hold what they promise.
"""

from __future__ import annotations

import errno
import fcntl
import os
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from datashard_core._imports import blake2b
from datashard_core.clock import SYSTEM_CLOCK, Clock
from datashard_core.errors import ConfigurationError, StorageError
from datashard_core.storage.base import (
    ObjectInfo,
    ObjectNotFoundError,
    OutcomeUnknownError,
    PreconditionFailedError,
    StoredObject,
    Version,
)
from datashard_core.storage.metrics import StorageMetrics

if TYPE_CHECKING:
    import pyarrow as pa

TEMPORARY = ".tmp-"
_UNFIT = re.compile(r"[\x00-\x1f\\]")
"""No key has these; any other character may stand in the folder of another engine's partition."""


class LocalStorage:
    """Files below a folder.

    Args:
        folder: the root; it is made when something is first written.
        clock: source of unique names.
    """

    def __init__(self, folder: str | os.PathLike[str], clock: Clock = SYSTEM_CLOCK) -> None:
        self._folder = Path(os.path.realpath(folder))
        self._clock = clock
        self._opened = False

    @property
    def root(self) -> str:
        return f"file://{self._folder}"

    def at(self, folder: str) -> LocalStorage:
        return LocalStorage(self._path(folder), self._clock)

    def metrics(self) -> StorageMetrics:
        return StorageMetrics("local", {}, 0, 0)

    def get(self, key: str, byte_range: tuple[int, int] | None = None) -> StoredObject:
        with self._reading(key), open(self._path(key), "rb") as file:
            modified = os.fstat(file.fileno()).st_mtime
            body = file.read()
        self._opened = True
        version = _version(body)
        return StoredObject(body if byte_range is None else body[slice(*byte_range)], version, modified)

    def get_data(self, key: str) -> bytes:
        return self.get(key).body

    def head(self, key: str) -> ObjectInfo:
        found = self.get(key)
        return ObjectInfo(key, len(found.body), found.version, found.last_modified)

    def list(self, prefix: str, after: str | None = None) -> Iterator[ObjectInfo]:
        start = prefix.rpartition("/")[0]
        folder = self._path(start) if start else self._folder
        for key in self._walk(folder, f"{start}/" if start else "", prefix, after):
            with suppress(ObjectNotFoundError):  # deleted while we walk: then it is not there
                yield self._info(key)

    def folders(self, folder: str = "") -> Sequence[str]:
        with self._reading(folder):
            try:
                with os.scandir(self._path(folder) if folder else self._folder) as entries:
                    return sorted(entry.name for entry in entries if entry.is_dir())
            except (FileNotFoundError, NotADirectoryError):
                return []

    def put(self, key: str, data: bytes) -> Version:
        with self._writing(key):
            path = self._path(key)
            temporary = self._write_temporary(path, data)
            os.replace(temporary, path)
            _sync_folder(path.parent)
        return _version(bytes(data))

    def put_data(self, key: str, data: bytes | pa.Buffer) -> None:
        with self._writing(key):
            path = self._path(key)
            os.replace(self._write_temporary(path, data), path)
            _sync_folder(path.parent)

    @contextmanager
    def open_data(self, key: str) -> Iterator[Any]:
        path = self._path(key)
        self._make_folder(path.parent)
        temporary = path.parent / f"{TEMPORARY}{self._clock.unique()}"
        try:
            with self._writing(key), open(temporary, "xb") as file:
                yield file
                file.flush()
                os.fsync(file.fileno())
            with self._writing(key):
                os.replace(temporary, path)
                _sync_folder(path.parent)
        finally:
            with suppress(FileNotFoundError):
                temporary.unlink()

    def put_if_absent(self, key: str, data: bytes) -> Version:
        path = self._path(key)
        with self._writing(key):
            temporary = self._write_temporary(path, data)
        try:
            with self._writing(key):
                try:
                    os.link(temporary, path)
                except FileExistsError as error:
                    raise PreconditionFailedError(f"{self.root}/{key} exists", key=key) from error
            self._opened = True
            try:
                _sync_folder(path.parent)
            except OSError as error:
                raise OutcomeUnknownError(
                    f"{self.root}/{key} was linked, and its folder could not be synced: {error}", key=key
                ) from error
        finally:
            with suppress(FileNotFoundError):
                temporary.unlink()
        return _version(bytes(data))

    def replace(self, key: str, data: bytes, version: Version) -> Version:
        path = self._path(key)
        with self._writing(key), _locked(path.parent):
            try:
                current = _version(path.read_bytes())
            except FileNotFoundError as error:
                raise PreconditionFailedError(f"{self.root}/{key} is gone", key=key) from error
            if current != version:
                raise PreconditionFailedError(f"{self.root}/{key} is not {version} any more", key=key)
            os.replace(self._write_temporary(path, data), path)
            _sync_folder(path.parent)
        return _version(bytes(data))

    def delete(self, keys: Sequence[str]) -> None:
        for key in keys:
            with self._writing(key), suppress(FileNotFoundError):
                self._path(key).unlink()

    def open_input(self, key: str) -> pa.NativeFile:
        import pyarrow as pa

        with self._reading(key):
            return pa.OSFile(f"{self._folder}/{_checked(key)}")  # a path of pathlib takes as long to make as the file

    def check_links(self) -> None:
        """Refuse a file system without hard links.

        Raises:
            StorageError: it has none, so a commit could not be made safely.
        """
        self._make_folder(self._folder)
        one = self._folder / f"{TEMPORARY}{self._clock.unique()}"
        other = self._folder / f"{TEMPORARY}{self._clock.unique()}"
        try:
            with self._writing(""):
                one.write_bytes(b"")
            os.link(one, other)
        except OSError as error:
            raise StorageError(
                f"the file system of {self._folder} has no hard links ({error.strerror}), and a commit is one. Use a "
                "folder on a local disk, or an S3-compatible bucket.",
                reason="unsupported",
                key=str(self._folder),
            ) from error
        finally:
            for path in (one, other):
                with suppress(FileNotFoundError):
                    path.unlink()

    # -----------------------------------------------------------------------------------------

    def _path(self, key: str) -> Path:
        return self._folder / _checked(key)

    def _walk(self, folder: Path, above: str, prefix: str, after: str | None) -> Iterator[str]:
        """Keys in the order that an object store lists them: by the whole key, not by folder."""
        with self._reading(above):
            try:
                with os.scandir(folder) as entries:
                    found = sorted(entry.name + ("/" if entry.is_dir() else "") for entry in entries)
            except (FileNotFoundError, NotADirectoryError):
                return
        for name in found:
            key = above + name
            if name.startswith(TEMPORARY):
                continue
            if name.endswith("/"):
                inside = key.startswith(prefix) or prefix.startswith(key)
                if inside and (after is None or key > after or after.startswith(key)):
                    yield from self._walk(folder / name, key, prefix, after)
            elif key.startswith(prefix) and (after is None or key > after):
                yield key

    def _info(self, key: str) -> ObjectInfo:
        with self._reading(key):
            found = os.stat(self._path(key))
        # The version is a digest of the content: a listing would have to read every file.
        return ObjectInfo(key, found.st_size, Version(""), found.st_mtime)

    def _write_temporary(self, path: Path, data: Any) -> Path:
        self._make_folder(path.parent)
        temporary = path.parent / f"{TEMPORARY}{self._clock.unique()}"
        try:
            with open(temporary, "xb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
        except BaseException:
            with suppress(FileNotFoundError):
                temporary.unlink()
            raise
        return temporary

    def _make_folder(self, folder: Path) -> None:
        if folder.is_dir():
            return
        missing = [folder]
        while not missing[-1].parent.exists():
            missing.append(missing[-1].parent)
        if self._opened and not self._folder.is_dir():
            raise StorageError(
                f"the folder {self._folder} is gone: it was removed or renamed while this process had it open. Nothing "
                "was written. Move it back, or restore it from a backup, and try again.",
                reason="not-found",
                key=str(self._folder),
            )
        with self._writing(str(folder)):
            folder.mkdir(parents=True, exist_ok=True)
            for made in missing:
                _sync_folder(made.parent)

    @contextmanager
    def _reading(self, key: str) -> Iterator[None]:
        try:
            yield
        except FileNotFoundError as error:
            raise ObjectNotFoundError(f"{self.root}/{key} does not exist", key=key) from error
        except IsADirectoryError as error:
            raise ObjectNotFoundError(f"{self.root}/{key} is a folder", key=key) from error
        except OSError as error:
            raise self._error("read", key, error) from error

    @contextmanager
    def _writing(self, key: str) -> Iterator[None]:
        try:
            yield
        except FileNotFoundError:
            raise
        except OSError as error:
            raise self._error("write", key, error) from error

    def _error(self, doing: str, key: str, error: OSError) -> StorageError:
        where = f"{self.root}/{key}"
        if error.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
            return StorageError(
                f"no permission to {doing} {where} ({error.strerror}): give this user access to the folder",
                reason="access-denied",
                key=where,
            )
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            return StorageError(f"the disk is full: {where} was not written", key=where)
        return StorageError(f"could not {doing} {where}: {error}", key=where)


def _checked(key: str) -> str:
    """The key, if it can be one."""
    if _UNFIT.search(key) or not {"", ".", ".."}.isdisjoint(key.removesuffix("/").split("/")):
        raise ConfigurationError(
            f"{key!r} cannot be a key: parts between / are not empty, '.' or '..', and hold no backslash and no "
            "control character"
        )
    return key


def _version(body: bytes) -> Version:
    """A version by content: a time and a size are none, two writes can share them."""
    return Version(blake2b(body, digest_size=16).hexdigest())


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


_descriptors: set[int] = set()
"""Folders that threads of this process hold open to lock them."""


@contextmanager
def _locked(folder: Path) -> Iterator[None]:
    """Serialises the replacement of a hint among the processes of this machine."""
    descriptor = os.open(folder, os.O_RDONLY)
    _descriptors.add(descriptor)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        # A child forked meanwhile has a copy of the descriptor, and with it the lock for as long as it lives: closing
        # this one alone would leave every process of the machine waiting for it.
        fcntl.flock(descriptor, fcntl.LOCK_UN)
        _descriptors.discard(descriptor)
        os.close(descriptor)


def _close_inherited() -> None:
    """In a forked child: its copies keep a lock if the parent is killed while it holds it."""
    for descriptor in tuple(_descriptors):
        os.close(descriptor)
    _descriptors.clear()


os.register_at_fork(after_in_child=_close_inherited)
