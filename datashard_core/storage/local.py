"""Objects as files below a folder of a local disk.

The commit point is a hard link: it exists at once and whole, and only one process can make it. A
file system without hard links is refused when a table is created. Network file systems are not
supported: their links and locks do not hold what they promise.

Symbolic links in the path of the folder are resolved once. Below it none is followed (see
:mod:`datashard_core.storage.folders`): a listing leaves it out, and any other request for it is refused.
"""

from __future__ import annotations

import errno
import fcntl
import os
import re
import stat
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, suppress
from typing import TYPE_CHECKING, Any, BinaryIO

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
from datashard_core.storage.folders import delete_file, is_path_of, open_file, open_plain, opened, opened_below
from datashard_core.storage.keys import InvalidKeyError, Listed, checked_key, checked_prefix, fault_of
from datashard_core.storage.metrics import StorageMetrics

if TYPE_CHECKING:
    import pyarrow as pa

TEMPORARY = ".tmp-"
_UNREADABLE = re.compile('[#?"\\\\\x00-\x1f\x7f-\x9f\ud800-\udfff]')
"""PyIceberg and Polars take what follows # or ? for no part of the path, DuckDB cannot quote a quote."""
MAX_PART = 255
"""Bytes of a file's name, as the file systems of Linux and macOS limit them."""


class LocalStorage:
    """Files below a folder.

    Args:
        folder: the root; it is made when something is first written.
        clock: source of unique names.
    """

    def __init__(self, folder: str | os.PathLike[str], clock: Clock = SYSTEM_CLOCK) -> None:
        self._top = os.path.realpath(folder)
        self._below: tuple[str, ...] = ()
        self._folder = self._top
        self._clock = clock
        self._was_there = False

    @property
    def root(self) -> str:
        return f"file://{self._folder}"

    def at(self, folder: str) -> LocalStorage:
        deeper = LocalStorage.__new__(LocalStorage)
        deeper._top = self._top
        deeper._below = (*self._below, *self._parts(folder))
        deeper._folder = "/".join((self._top.rstrip("/"), *deeper._below))
        deeper._clock = self._clock
        deeper._was_there = False
        return deeper

    def metrics(self) -> StorageMetrics:
        return StorageMetrics("local", {}, 0, 0)

    def get(self, key: str, byte_range: tuple[int, int] | None = None) -> StoredObject:
        with self._reading(key), open(self._open(key), "rb", buffering=0) as file:
            modified = os.fstat(file.fileno()).st_mtime
            body = file.readall()
        self._was_there = True
        version = _version(body)
        return StoredObject(body if byte_range is None else body[slice(*byte_range)], version, modified)

    def get_data(self, key: str) -> bytes:
        return self.get(key).body

    def head(self, key: str) -> ObjectInfo:
        found = self.get(key)
        return ObjectInfo(key, len(found.body), found.version, found.last_modified)

    def list(self, prefix: str, after: str | None = None) -> Iterator[ObjectInfo]:
        start = checked_prefix(prefix, self.root).rpartition("/")[0]
        listed = Listed(self.root, prefix, after)
        try:
            with self._reading(prefix), self._opened(self._parts(start) if start else []) as folder:
                yield from self._walk(folder, f"{start}/" if start else "", listed)
        except ObjectNotFoundError:
            return
        finally:
            listed.report()

    def folders(self, folder: str = "") -> Sequence[str]:
        try:
            parts = self._parts(folder) if folder else ()
            with self._reading(folder), self._opened(parts) as found, os.scandir(found) as entries:
                names = [entry.name for entry in entries if entry.is_dir(follow_symlinks=False)]
        except ObjectNotFoundError:
            return []
        return sorted(name for name in names if fault_of(name) is None)

    def put(self, key: str, data: bytes) -> Version:
        self._put(key, data)
        return _version(bytes(data))

    def put_data(self, key: str, data: bytes | pa.Buffer) -> None:
        self._put(key, data)

    def _put(self, key: str, data: Any) -> None:
        with self._writing(key), self._place(key) as (folder, name):
            _rename(folder, self._write_temporary(folder, data), name)

    @contextmanager
    def open_data(self, key: str) -> Iterator[Any]:
        with self._writing(key), self._place(key) as (folder, name):
            temporary = self._temporary()
            try:
                with _created(folder, temporary) as file:
                    yield file
                    _sync(file)
                _rename(folder, temporary, name)
            finally:
                _remove(folder, temporary)

    def put_if_absent(self, key: str, data: bytes) -> Version:
        with self._writing(key), self._place(key) as (folder, name):
            temporary = self._write_temporary(folder, data)
            try:
                try:
                    os.link(temporary, name, src_dir_fd=folder, dst_dir_fd=folder, follow_symlinks=False)
                except FileExistsError as error:
                    raise PreconditionFailedError(f"{self.root}/{key} exists", key=key) from error
                self._was_there = True
                try:
                    os.fsync(folder)
                except OSError as error:
                    raise OutcomeUnknownError(
                        f"{self.root}/{key} was linked, and its folder could not be synced: {error}", key=key
                    ) from error
            finally:
                _remove(folder, temporary)
        return _version(bytes(data))

    def replace(self, key: str, data: bytes, version: Version) -> Version:
        with self._writing(key), self._place(key) as (folder, name), _locked(folder):
            try:
                with open(open_file(folder, name, f"{self._folder}/{key}"), "rb") as file:
                    current = _version(file.read())
            except FileNotFoundError as error:
                raise PreconditionFailedError(f"{self.root}/{key} is gone", key=key) from error
            if current != version:
                raise PreconditionFailedError(f"{self.root}/{key} is not {version} any more", key=key)
            _rename(folder, self._write_temporary(folder, data), name)
        return _version(bytes(data))

    def delete(self, keys: Sequence[str]) -> None:
        split = [(key, self._parts(key)) for key in keys]
        for key, (*above, name) in split:
            absent = suppress(FileNotFoundError, NotADirectoryError)
            with self._writing(key, "delete"), absent, self._opened(above) as folder:
                delete_file(folder, name, f"{self._folder}/{key}")

    def open_input(self, key: str) -> pa.NativeFile:
        import pyarrow as pa

        self._parts(key)
        path = f"{self._folder}/{key}"
        with self._reading(key):
            # Arrow opens paths alone. What it opened is compared with what is reached without a link.
            if stat.S_ISREG(os.lstat(path).st_mode):
                source = pa.OSFile(path)
                number = _number_of(source)
                if number is not None and is_path_of(number, path):
                    return source
                source.close()
            descriptor = self._open(key)
            try:
                source = pa.OSFile(path)
                number = _number_of(source)
                if number is not None and os.path.sameopenfile(descriptor, number):
                    return source
                source.close()
                if number is None:
                    return pa.PythonFile(os.fdopen(os.dup(descriptor), "rb"), mode="r")
            finally:
                os.close(descriptor)
        raise StorageError(f"{path} was replaced while it was opened: call again", key=f"{self.root}/{key}")

    def remove_unfinished(self, age: float) -> Sequence[ObjectInfo]:
        # A writer gives a file its name by a link or a rename once the file is whole: no name depends on these.
        removed: list[ObjectInfo] = []
        with self._writing(""), self._opened([], make=True) as folder:
            mark = self._write_temporary(folder, b"")
            try:
                now = os.stat(mark, dir_fd=folder).st_mtime
            finally:
                _remove(folder, mark)
        for above in self._all_folders([]):
            with self._reading("/".join(above)), self._opened(above) as folder:
                with os.scandir(folder) as entries:
                    found = [entry.name for entry in entries if entry.name.startswith(TEMPORARY)]
                for name in sorted(found):
                    key = "/".join((*above, name))
                    with suppress(FileNotFoundError):
                        info = os.stat(name, dir_fd=folder, follow_symlinks=False)
                        if now - info.st_mtime >= age and _is_plain(info):
                            delete_file(folder, name, f"{self._folder}/{key}")
                            removed.append(ObjectInfo(key, info.st_size, Version(""), info.st_mtime))
        return removed

    def check_links(self) -> None:
        """Refuse a folder that other engines cannot read tables from, and a file system without hard links.

        Tables that are in such a folder already can be opened and appended to.

        Raises:
            ConfigurationError: the name of the folder means something else in a URI.
            StorageError: there are no hard links, so a commit could not be made safely.
        """
        if (found := _UNREADABLE.search(self._folder)) is not None:
            raise ConfigurationError(
                f"no table can be created in {self._folder!r}: other engines read its files by URI, and {found[0]!r} "
                'means something else there. Use a folder whose path has no #, ?, ", backslash or control character.'
            )
        one, other = self._temporary(), self._temporary()
        with self._writing(""), self._opened([], make=True) as folder:
            try:
                with _created(folder, one):
                    pass
                os.link(one, other, src_dir_fd=folder, dst_dir_fd=folder)
            except OSError as error:
                raise StorageError(
                    f"the file system of {self._folder} has no hard links ({error.strerror}), and a commit is one. Use "
                    "a folder on a local disk, or an S3-compatible bucket.",
                    reason="unsupported",
                    key=self._folder,
                ) from error
            finally:
                _remove(folder, one)
                _remove(folder, other)

    # -----------------------------------------------------------------------------------------

    def _parts(self, key: str) -> Sequence[str]:
        """The parts of a checked key."""
        parts = checked_key(key, self._folder).split("/")
        if len(key) > MAX_PART // 4 and any(len(os.fsencode(part)) > MAX_PART for part in parts):
            raise InvalidKeyError(
                f"{key!r} cannot be the key of a file below {self.root}: a part between '/' has more than {MAX_PART} "
                "bytes",
                key=key,
            )
        return parts

    def _opened(self, parts: Sequence[str], make: bool = False) -> AbstractContextManager[int]:
        return opened(self._top, (*self._below, *parts), make)

    def _open(self, key: str) -> int:
        """A descriptor of a file."""
        *above, name = self._parts(key)
        if (descriptor := open_plain(f"{self._folder}/{key}")) is not None:
            return descriptor
        with self._opened(above) as folder:
            return open_file(folder, name, f"{self._folder}/{key}")

    @contextmanager
    def _place(self, key: str) -> Iterator[tuple[int, str]]:
        """A descriptor of the folder that a file is written to, which is made if it is missing, and its name."""
        *above, name = self._parts(key)
        if self._was_there and not os.path.isdir(self._folder):
            raise StorageError(
                f"the folder {self._folder} is gone: it was removed or renamed while this process had it open. Nothing "
                "was written. Move it back, or restore it from a backup, and try again.",
                reason="not-found",
                key=self._folder,
            )
        with self._opened(above, make=True) as folder:
            yield folder, name

    def _walk(self, folder: int, above: str, listed: Listed) -> Iterator[ObjectInfo]:
        """Objects in the order of an object store: by the whole key, not by folder."""
        names = []
        with os.scandir(folder) as entries:
            for entry in entries:
                if entry.name.startswith(TEMPORARY):
                    continue
                if entry.is_dir(follow_symlinks=False):
                    names.append(f"{entry.name}/")
                elif entry.is_file(follow_symlinks=False):
                    names.append(entry.name)
                elif listed.may_hold(above + entry.name):
                    listed.skip(above + entry.name)
        for name in sorted(names):
            key = above + name
            if not name.endswith("/"):
                if listed.is_key(key):
                    with suppress(FileNotFoundError):  # deleted meanwhile
                        found = os.stat(name, dir_fd=folder, follow_symlinks=False)
                        # The version is a digest of the content: a listing would have to read every file.
                        yield ObjectInfo(key, found.st_size, Version(""), found.st_mtime)
            elif listed.may_hold(key):
                if fault_of(name[:-1]) is not None:
                    listed.skip(key)
                    continue
                gone = suppress(FileNotFoundError, NotADirectoryError)
                with gone, opened_below(folder, name[:-1], f"{self._folder}/{key}") as deeper:
                    yield from self._walk(deeper, key, listed)

    def _all_folders(self, above: Sequence[str]) -> Iterator[Sequence[str]]:
        """The table's folder and all below it, as parts of keys."""
        yield above
        for name in self.folders("/".join(above)):
            yield from self._all_folders([*above, name])

    def _temporary(self) -> str:
        return f"{TEMPORARY}{self._clock.unique()}"

    def _write_temporary(self, folder: int, data: Any) -> str:
        temporary = self._temporary()
        try:
            with _created(folder, temporary) as file:
                file.write(data)
                _sync(file)
        except BaseException:
            _remove(folder, temporary)
            raise
        return temporary

    @contextmanager
    def _reading(self, key: str) -> Iterator[None]:
        try:
            yield
        except FileNotFoundError as error:
            raise ObjectNotFoundError(f"{self.root}/{key} does not exist", key=key) from error
        except (IsADirectoryError, NotADirectoryError) as error:
            raise ObjectNotFoundError(f"{self.root}/{key} is no file", key=key) from error
        except OSError as error:
            raise self._error("read", key, error) from error

    @contextmanager
    def _writing(self, key: str, doing: str = "write") -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise self._error(doing, key, error) from error

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


def _number_of(source: pa.OSFile) -> int | None:
    """The descriptor of a file that Arrow opened; None where Arrow cannot say: release 21 fails at it."""
    try:
        return int(source.fileno())
    except AttributeError:
        return None


def _version(body: bytes) -> Version:
    """A version by content: a time and a size are none, two writes can share them."""
    return Version(blake2b(body, digest_size=16).hexdigest())


def _created(folder: int, name: str) -> BinaryIO:
    """A new file in a folder, open for writing."""
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
    return open(os.open(name, flags, 0o666, dir_fd=folder), "wb")


def _sync(file: BinaryIO) -> None:
    file.flush()
    os.fsync(file.fileno())


def _rename(folder: int, name: str, new: str) -> None:
    os.replace(name, new, src_dir_fd=folder, dst_dir_fd=folder)
    os.fsync(folder)


def _remove(folder: int, name: str) -> None:
    with suppress(FileNotFoundError):
        os.unlink(name, dir_fd=folder)


def _is_plain(info: os.stat_result) -> bool:
    return stat.S_ISREG(info.st_mode)


_descriptors: set[int] = set()
"""Folders that threads of this process hold open to lock them."""


@contextmanager
def _locked(folder: int) -> Iterator[None]:
    """Serialises the replacement of a hint among the processes of this machine."""
    _descriptors.add(folder)
    fcntl.flock(folder, fcntl.LOCK_EX)
    try:
        yield
    finally:
        # A child forked meanwhile has a copy of the descriptor, and with it the lock for as long as it lives: closing
        # this one alone would leave every process of the machine waiting for it.
        fcntl.flock(folder, fcntl.LOCK_UN)
        _descriptors.discard(folder)


def _close_inherited() -> None:
    """In a forked child: its copies keep a lock if the parent is killed while it holds it."""
    for descriptor in tuple(_descriptors):
        os.close(descriptor)
    _descriptors.clear()


os.register_at_fork(after_in_child=_close_inherited)
