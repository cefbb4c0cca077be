"""The proof that a store keeps conditions, made where the table will lie, before it is created.

Whether a store honours If-None-Match can depend on the bucket (on some, versioning switches it off),
so nothing but a trial in the table's own bucket and prefix tells.
"""

from __future__ import annotations

import logging
from concurrent.futures import ThreadPoolExecutor

from datashard_core.clock import SYSTEM_CLOCK, Clock
from datashard_core.errors import DataShardError, StorageError
from datashard_core.forks import ProcessLock
from datashard_core.storage.base import OutcomeUnknownError, PreconditionFailedError, Storage
from datashard_core.storage.local import LocalStorage
from datashard_core.storage.s3_errors import not_conditional

log = logging.getLogger(__name__)

RACERS = 4
PREFIX = "_datashard/probe-"

_proved: set[str] = set()
_proved_lock = ProcessLock()


def check_conditional(storage: Storage, clock: Clock = SYSTEM_CLOCK) -> None:
    """Prove that creating an object on condition that it is absent works here.

    The proof holds for the process and the folder that holds the table.

    Raises:
        StoreNotConditionalError: the store ignores or refuses the condition.
        StorageError: it cannot be asked, or the file system has no hard links.
    """
    folder = storage.root.rpartition("/")[0]
    with _proved_lock:
        if folder in _proved:
            return
    if isinstance(storage, LocalStorage):
        storage.check_links()
    else:
        _prove(storage, clock)
    with _proved_lock:
        _proved.add(folder)


def _prove(storage: Storage, clock: Clock) -> None:
    unique = clock.unique()
    first, second = f"{PREFIX}{unique}-a", f"{PREFIX}{unique}-b"
    try:
        _create(storage, first)
        _refused(storage, first)
        body = storage.get(first).body
        if body != b"first":
            raise not_conditional(
                storage.root,
                f"it answered 412 to a second PUT of one name with If-None-Match, and wrote {body!r} anyhow",
            )
        _race(storage, second)
    except DataShardError:
        try:
            storage.delete((first, second))
        except DataShardError as error:
            # What is wrong with the store is the news, not that two small objects are left in it.
            log.warning("what was written to try out the store is left there (%s, %s): %s", first, second, error)
        raise
    storage.delete((first, second))


def _create(storage: Storage, key: str) -> None:
    try:
        storage.put_if_absent(key, b"first")
    except (PreconditionFailedError, OutcomeUnknownError) as error:
        raise StorageError(
            f"the store's conditions could not be tried out ({error}): call again", reason="other", key=key
        ) from error


def _refused(storage: Storage, key: str) -> None:
    try:
        storage.put_if_absent(key, b"second")
    except PreconditionFailedError:
        return
    except OutcomeUnknownError as error:
        raise StorageError(
            f"the store's conditions could not be tried out ({error}): call again", reason="other", key=key
        ) from error
    raise not_conditional(
        storage.root,
        "it answers success (200) to a second PUT of one name with If-None-Match: *, where it should answer 412 "
        "PreconditionFailed",
    )


def _race(storage: Storage, key: str) -> None:
    def run(number: int) -> bool:
        try:
            storage.put_if_absent(key, str(number).encode())
        except (PreconditionFailedError, OutcomeUnknownError):
            return False
        return True

    with ThreadPoolExecutor(RACERS) as pool:
        winners = sum(pool.map(run, range(RACERS)))
    if winners > 1:
        raise not_conditional(
            storage.root, f"it answered success (200) to {winners} of {RACERS} writers that raced to create one name"
        )
