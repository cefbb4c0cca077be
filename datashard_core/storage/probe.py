"""The proof that a store keeps conditions, made where the table will lie, before it is created.

Whether a store honours If-None-Match can depend on the bucket (on some, versioning switches it off),
so only a trial in the table's own bucket and prefix tells. It has two parts:

* a sequence of a few requests, in every process and every folder: a second PUT of one name has to be
  refused, and If-Match is tried out likewise;
* a race of many writers for one name, several times over: a store that checks first and writes later
  passes the sequence. It is run once for a bucket in a process. What it showed is remembered in the
  warehouse for a week, so that fresh processes need not race again.

Only a race that was passed is remembered. A store that failed is tried again by each process, so
nothing has to be cleaned up once it is repaired.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Sequence
from typing import Any

import msgspec
from msgspec import Struct

from datashard_core.clock import SYSTEM_CLOCK, Clock
from datashard_core.config import S3Config
from datashard_core.errors import DataShardError, StorageError
from datashard_core.forks import ProcessLock
from datashard_core.storage.base import (
    OutcomeUnknownError,
    PreconditionFailedError,
    Storage,
    StoredObject,
    Version,
)
from datashard_core.storage.if_match import SCRATCH, if_match_of
from datashard_core.storage.local import LocalStorage
from datashard_core.storage.s3_errors import not_conditional

log = logging.getLogger(__name__)

RACERS = 16
ROUNDS = 5
"""So many rounds are raced, however long they take."""
MOST_ROUNDS = 25
RACE_SECONDS = 0.4
"""Further rounds are begun until so much time has passed: a quick store answers many of them meanwhile."""
SIZES = (1, 4096, 16384)
"""Bytes of the bodies that race: the longer one is, the later a store writes what it has checked."""
REMEMBERED = 7 * 24 * 3600.0
"""Seconds for which a race counts, by the store's clock: a store may be set up differently one day."""

_proved: set[tuple[str, str]] = set()
_raced: set[str] = set()
_lock = ProcessLock()


class Race(Struct, frozen=True):
    """What is remembered of a race that a store passed.

    Attributes:
        store: endpoint and bucket; another store may hold a copy of the warehouse.
        rounds: how many rounds it had.
        racers: how many writers raced in each.
    """

    store: str
    rounds: int
    racers: int


def check_conditional(storage: Storage, clock: Clock = SYSTEM_CLOCK, warehouse: Storage | None = None) -> None:
    """Prove that creating an object on condition that it is absent works here.

    Args:
        storage: of the table that is about to be created.
        clock: of the process.
        warehouse: where the race is remembered; None: only this process remembers it.

    Raises:
        StoreNotConditionalError: the store ignores or refuses the condition, or does not keep it in a race.
        StorageError: it cannot be asked, or the file system has no hard links.
    """
    if isinstance(storage, LocalStorage):
        place = ("", storage.root.rpartition("/")[0])
    else:
        place = (_store_of(storage), storage.root.rpartition("/")[0])
    with _lock:
        if place in _proved:
            return
    if isinstance(storage, LocalStorage):
        storage.check_links()
    else:
        _prove(storage, clock, warehouse)
    with _lock:
        _proved.add(place)


def _store_of(storage: Storage) -> str:
    """Endpoint and bucket; the folder of a storage that has none."""
    config: Any = getattr(storage, "config", None)
    if isinstance(config, S3Config):
        return f"{config.endpoint or 'AWS'} {config.bucket}"
    return storage.root.rpartition("/")[0]


def _prove(storage: Storage, clock: Clock, warehouse: Storage | None = None) -> None:
    unique = clock.unique()
    key = f"{SCRATCH}{unique}-a"
    tried = [key]
    try:
        found = _in_sequence(storage, key)
        store = _store_of(storage)
        if store not in _raced and not _remembers(warehouse, store, found):
            rounds = _race(storage, f"{SCRATCH}{unique}", tried)
            _remember(warehouse, Race(store, rounds, RACERS))
        with _lock:
            _raced.add(store)
    except DataShardError:
        try:
            storage.delete(tried)
        except DataShardError as error:
            # The fault of the store is what the caller has to learn, not that small objects are left in it.
            log.warning("objects written to try out the store are left there (%s): %s", ", ".join(tried), error)
        raise
    storage.delete(tried)


# -- in sequence ------------------------------------------------------------------------------


def _in_sequence(storage: Storage, key: str) -> StoredObject:
    """Create an object, and see it stay as it is; then try out If-Match on it."""
    version = _create(storage, key)
    _refused(storage, key)
    found = storage.get(key)
    if found.body != b"first":
        raise not_conditional(
            storage.root,
            f"it answered 412 to a second PUT of one name with If-None-Match, and wrote {found.body!r} anyhow",
        )
    _try_if_match(storage, key, found.version or version)
    return found


def _create(storage: Storage, key: str) -> Version:
    try:
        return storage.put_if_absent(key, b"first")
    except (PreconditionFailedError, OutcomeUnknownError) as error:
        raise _untried(key, error) from error


def _refused(storage: Storage, key: str) -> None:
    try:
        storage.put_if_absent(key, b"second")
    except PreconditionFailedError:
        return
    except OutcomeUnknownError as error:
        raise _untried(key, error) from error
    raise not_conditional(
        storage.root,
        "it answers success (200) to a second PUT of one name with If-None-Match: *, where it should answer 412 "
        "PreconditionFailed",
    )


def _untried(key: str, error: DataShardError) -> StorageError:
    return StorageError(f"the store's conditions could not be tried out ({error}): call again", reason="other", key=key)


def _try_if_match(storage: Storage, key: str, version: Version) -> None:
    """Replace an object by its ETag, which has to work, and by the ETag that it had, which must not.

    No commit depends on it, so a store without it keeps tables; the log tells what they do without.
    """
    known = if_match_of(storage)
    if known is None:
        return
    if not known.kept:
        try:
            storage.replace(key, b"replaced", version)
            storage.replace(key, b"replaced again", version)
        except PreconditionFailedError:
            pass  # as it should be for the second; the first learns by itself whether the ETag was right
        except OutcomeUnknownError as error:
            log.info("%s: If-Match could not be tried out: %s", storage.root, error)
        except StorageError as error:
            if error.reason != "unsupported":
                raise
        else:
            known.why = "the store overwrites an object although If-Match names an older ETag"
    if known.why:
        log.warning(
            "%s: %s. Tables work, but old versions are never replaced by tombstones, append ids are never forgotten, "
            "and the version hint that other engines read may lag behind until the next commit.",
            storage.root,
            known.why,
        )
    elif known.form in ("strong", "bare"):
        log.info(
            "%s: the store takes ETags in If-Match in another form than it sends them: %s", storage.root, known.form
        )


# -- the race ---------------------------------------------------------------------------------


Round = tuple[str, list[bytes]]
"""A name that was raced for, and the bodies of the writers that were told that they created it."""


def _race(storage: Storage, prefix: str, tried: list[str]) -> int:
    """Race for names until a store that checks first and writes later has surely shown itself.

    Every writer has a thread, and with it a connection, of its own; all of them send at the same moment.

    Args:
        storage: the store.
        prefix: of the names.
        tried: every name is added to it before it is raced for.

    Returns:
        How many rounds there were.

    Raises:
        StoreNotConditionalError: more than one writer created a name, or another's body is in it.
    """
    rounds: list[Round] = []
    failed: list[DataShardError] = []
    began = time.monotonic()

    def begin() -> None:
        """The next round; run by one writer while the others wait."""
        over = len(rounds) >= ROUNDS and (len(rounds) == MOST_ROUNDS or time.monotonic() - began > RACE_SECONDS)
        if failed or over or (rounds and len(rounds[-1][1]) > 1):
            raise threading.BrokenBarrierError  # ends all of them
        rounds.append((f"{prefix}-r{len(rounds)}", []))
        tried.append(rounds[-1][0])

    start = threading.Barrier(RACERS, action=begin)

    def write(number: int) -> None:
        while True:
            try:
                start.wait()
            except threading.BrokenBarrierError:
                return
            key, won = rounds[-1]
            body = (b"%d." % number).ljust(SIZES[number % len(SIZES)], b".")
            try:
                storage.put_if_absent(key, body)
                won.append(body)
            except (PreconditionFailedError, OutcomeUnknownError):
                pass  # 409 is an answer to a race, too; what may have landed shows in the body
            except DataShardError as error:
                failed.append(error)

    # Daemons: a process that is interrupted does not wait for a store that hangs.
    writers = [threading.Thread(target=write, args=(number,), daemon=True) for number in range(RACERS)]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join()
    _judge(storage, rounds)
    if failed:
        raise failed[0]
    return len(rounds)


def _judge(storage: Storage, rounds: Sequence[Round]) -> None:
    for key, won in rounds:
        if len(won) > 1:
            raise not_conditional(
                storage.root,
                f"it answered success (200) to {len(won)} of {RACERS} writers that raced to create one name, so it "
                "checks If-None-Match first and writes later",
            )
        # The rounds after those are for stores that are quick, and take none of this time.
        if won and (key, won) in rounds[:ROUNDS] and (found := storage.get(key).body) != won[0]:
            raise not_conditional(
                storage.root,
                f"of {RACERS} writers that raced to create one name it answered success (200) to one, and holds the "
                f"body of another ({found[:20]!r})",
            )


# -- what is remembered -----------------------------------------------------------------------


def _key_of(store: str) -> str:
    import hashlib  # for S3 alone: a table on a local disk does without

    return f"_datashard/conditions-{hashlib.blake2b(store.encode(), digest_size=8).hexdigest()}.json"


def _remembers(warehouse: Storage | None, store: str, now: StoredObject) -> bool:
    """Whether the store passed a race not long ago; what cannot be read counts as no."""
    if warehouse is None or if_match_of(warehouse) is None:
        return False
    try:
        found = warehouse.get(_key_of(store))
        race = msgspec.json.decode(found.body, type=Race)
    except (StorageError, msgspec.MsgspecError) as error:
        log.debug("%s: no race is remembered: %s", warehouse.root, error)
        return False
    recent = found.last_modified > 0.0 and now.last_modified - found.last_modified < REMEMBERED
    return recent and race.store == store and race.rounds >= ROUNDS and race.racers >= RACERS


def _remember(warehouse: Storage | None, race: Race) -> None:
    """A failure to remember costs the next process a race."""
    if warehouse is None or if_match_of(warehouse) is None:
        return
    try:
        warehouse.put(_key_of(race.store), msgspec.json.encode(race))
    except StorageError as error:
        log.info("%s: the race is not remembered: %s", warehouse.root, error)
