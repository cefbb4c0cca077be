"""Every error that DataShard raises on purpose.

One base class, few subclasses: each answers the question "what should the caller do?", and its
message names the value, the table or key it is about, and the way out.
"""

from __future__ import annotations

from typing import Any, Literal

StorageReason = Literal[
    "bucket-missing",
    "access-denied",
    "credentials-missing",
    "unreachable",
    "throttled",
    "not-found",
    "precondition-failed",
    "outcome-unknown",
    "unsupported",
    "other",
]


class DataShardError(Exception):
    """Base class of all errors of DataShard. Catch it to catch them all."""


class ConfigurationError(DataShardError):
    """The configuration is incomplete or contradicts itself. Correct it and call again."""


class NoSuchTableError(DataShardError):
    """There is no table of that name (or it was dropped). Create it, or correct the name."""


class TableExistsError(DataShardError):
    """The name is taken. Open the table with ``load_table`` or pass ``if_exists="open"``."""


class InvalidRecordsError(DataShardError, ValueError):
    """The rows do not fit the table's schema. Nothing was written: correct them and call again."""


class AppendIdConflictError(DataShardError):
    """The append id was already used with other rows. Nothing was written.

    Attributes:
        append_id: the id as the caller gave it.
        version: the table version that committed it first.
        committed_digest: digest of the rows that are in the table under this id.
        given_digest: digest of the rows of this call.
    """

    def __init__(
        self,
        message: str,
        *,
        append_id: str = "",
        version: int = -1,
        committed_digest: str = "",
        given_digest: str = "",
    ) -> None:
        super().__init__(message)
        self.append_id = append_id
        self.version = version
        self.committed_digest = committed_digest
        self.given_digest = given_digest

    def __reduce__(self) -> tuple[Any, ...]:
        return _rebuild, (type(self), self.args, self.__dict__)


class AppendRefusedError(DataShardError):
    """A committed version says that this append will never be in the table. Mend it, call again."""


class AppendSetAsideError(DataShardError):
    """Staged objects were neither committed nor refused: a newer release may know what to do with them.

    Everything else that was staged is in the table. Upgrade this release of datashard-core and flush again,
    or delete the objects.

    Attributes:
        keys: the objects, by their keys below the table's root.
        table: URI of the table.
    """

    def __init__(self, message: str, *, keys: tuple[str, ...] = (), table: str = "") -> None:
        super().__init__(message)
        self.keys = keys
        self.table = table

    def __reduce__(self) -> tuple[Any, ...]:
        return _rebuild, (type(self), self.args, self.__dict__)


class CommitStateUnknownError(DataShardError):
    """The append may or may not be in the table; nothing was cleaned up.

    Call ``append`` again with the same rows, ``append_id=error.append_id`` and
    ``base=error.base``: it ends up in the table exactly once.

    Attributes:
        append_id: id of the append (as given by the caller, or made by the library).
        base: table version up to which the id is known not to be committed.
        table: URI of the table.
    """

    def __init__(self, message: str, *, append_id: str = "", base: int = -1, table: str = "") -> None:
        super().__init__(message)
        self.append_id = append_id
        self.base = base
        self.table = table

    def __reduce__(self) -> tuple[Any, ...]:
        return _rebuild, (type(self), self.args, self.__dict__)


class CommitTimeoutError(DataShardError, TimeoutError):
    """The deadline passed before anything was sent that could commit. Nothing was appended."""


class StorageError(DataShardError):
    """The object store did not do what was asked.

    Attributes:
        reason: what kind of failure, for programs; the message is for people.
        key: URI of the object or bucket that it is about.
    """

    def __init__(self, message: str, *, reason: StorageReason = "other", key: str = "") -> None:
        super().__init__(message)
        self.reason: StorageReason = reason
        self.key = key

    def __reduce__(self) -> tuple[Any, ...]:
        return _rebuild, (type(self), self.args, self.__dict__)


class StoreNotConditionalError(StorageError):
    """The store ignores or refuses ``If-None-Match``: tables on it would lose commits."""

    def __init__(self, message: str, *, reason: StorageReason = "unsupported", key: str = "") -> None:
        super().__init__(message, reason=reason, key=key)


class CorruptTableError(DataShardError):
    """A file of the table is missing or cannot be read. Nothing was written; restore the file."""


class UnsupportedTableError(DataShardError):
    """The table uses something that this release does not know. Upgrade, or use another engine."""


def _rebuild(kind: type[DataShardError], args: tuple[Any, ...], state: dict[str, Any]) -> DataShardError:
    error = kind(*args)
    error.__dict__.update(state)
    return error
