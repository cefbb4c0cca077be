"""What failures mean that are no answers of the store: broken requests, answers that lack something. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from datashard_core.config import S3Config
from datashard_core.errors import DataShardError, StorageError
from datashard_core.storage.base import ObjectNotFoundError, OutcomeUnknownError
from datashard_core.storage.redact import clean
from datashard_core.storage.s3_errors import CONDITIONAL
from datashard_core.storage.transport import CannotError, NotSentError, TransportError, UnfitError

MOST_NAMED = 20
"""Keys that one error names."""

_LONGEST = 600


def without_answer(
    error: TransportError, operation: str, where: str, config: S3Config, secrets: Iterable[str | None]
) -> DataShardError:
    """The error of a request that no refusal answered.

    Args:
        error: how it failed.
        operation: as in ``s3_errors.PERMISSIONS``.
        where: URI of the object.
        config: the store's configuration.
        secrets: what must not be quoted.
    """
    said = clean(str(error), secrets)[:_LONGEST]
    if isinstance(error, NotSentError):
        return StorageError(
            f"{config.endpoint or 'AWS S3'} cannot be reached ({said}): check the endpoint, the network and that the "
            "store runs",
            reason="unreachable",
            key=where,
        )
    if isinstance(error, (UnfitError, CannotError)):
        return StorageError(
            f"{operation} of {where}: the store answered, but {said}. README, section Buckets, lists what a store has "
            "to send.",
            reason="unsupported",
            key=where,
        )
    if operation in CONDITIONAL:
        return OutcomeUnknownError(f"{where}: {said}: the write may have landed or not", key=where)
    return StorageError(f"{operation} of {where} failed: {said}", reason="unreachable", key=where)


def of_arrow(error: OSError, operation: str, where: str) -> DataShardError:
    """The error of a request of Arrow's that got no answer, or found no object."""
    if isinstance(error, FileNotFoundError):
        return ObjectNotFoundError(f"{where} does not exist", key=where)
    return StorageError(f"{operation} of {where} failed: {str(error)[:_LONGEST]}", reason="unreachable", key=where)


def of_all(failed: Sequence[DataShardError]) -> DataShardError:
    """The first of the errors of one delete, which names the other keys, too."""
    first = failed[0]
    if len(failed) > 1:
        others = ", ".join(str(getattr(error, "key", "")) for error in failed[1:MOST_NAMED])
        more = f" and {len(failed) - MOST_NAMED} more" if len(failed) > MOST_NAMED else ""
        first.args = (f"{first} Likewise {others}{more}: {len(failed)} objects were not deleted.",)
    return first
