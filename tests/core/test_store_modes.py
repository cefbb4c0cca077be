"""Odd stores: the contract's verdict on each, and what tables do where If-Match cannot be used."""

from __future__ import annotations

import logging
import os
from collections import Counter
from collections.abc import Callable, Iterator
from typing import get_args

import pytest
from datashard_testkit.contract import CHECKS
from datashard_testkit.s3_server import S3Server
from datashard_testkit.store_modes import mode_of
from msgspec.structs import replace

import datashard_core as ds
from datashard_core.commit.core.version_file import HINT_KEY, parse_version, version_key
from datashard_core.commit.versions import metadata_expiry
from datashard_core.config import S3Config, TransportChoice
from datashard_core.errors import StorageError
from datashard_core.storage import probe, s3_client
from datashard_core.storage.base import PreconditionFailedError, Version
from datashard_core.storage.if_match import IfMatch, forms_of, keeps_versions, same
from datashard_core.storage.s3 import S3Storage
from datashard_core.table.warehouse import Warehouse

TRANSPORTS = tuple(choice for choice in get_args(TransportChoice) if choice != "auto")
SCHEMA = ds.Schema(fields=[{"id": 1, "name": "n", "type": "long"}])
SHORT = {
    "write.metadata.previous-versions-max": "2",
    "datashard.snapshots.max-count": "5",
    "history.expire.min-snapshots-to-keep": "1",
}
WEEK = 7 * 24 * 3600.0

CREATES_ONCE = "a_name_is_created_once"
ONE_WINS = "one_of_many_that_race_for_a_name_wins"
REPLACES = "an_object_is_replaced_on_condition"
ONE_REPLACES = "of_many_that_replace_one_version_one_wins"
NO_CREATION = frozenset({CREATES_ONCE, ONE_WINS})
NO_REPLACEMENT = frozenset({REPLACES, ONE_REPLACES})
ARROW = frozenset({"data_files_are_read_by_arrow"})
"""Arrow's own client reads data files of more than 16 MB: it asks for checksums, and for a length."""

VERDICTS: dict[str, frozenset[str]] = {
    "check-then-write=0.005": frozenset({ONE_WINS, ONE_REPLACES}),
    "if-none-match-ignored": NO_CREATION,
    "if-none-match=501": NO_CREATION,
    "quoted-etag-refused": frozenset(),
    "weak-etags": frozenset(),
    "if-match-ignored": NO_REPLACEMENT,
    "if-match=400": NO_REPLACEMENT,
    "if-match=403": NO_REPLACEMENT,
    "if-match=412": NO_REPLACEMENT,
    "if-match=501": NO_REPLACEMENT,
    "no-delete-objects": frozenset(),
    "delete-objects-needs-md5": frozenset(),
    "checksums-refused": ARROW,
    "without=Content-Length": ARROW,
    "without=Last-Modified": frozenset(),
    "listing-without=ETag": frozenset(),
}
"""Checks of the contract that fail in each mode of the store; none: it keeps tables as every other."""

USABLE = ("quoted-etag-refused", "weak-etags")
UNUSABLE = ("if-match=400", "if-match=403", "if-match=412", "if-match=501", "if-match-ignored")


@pytest.fixture
def fresh(monkeypatch: pytest.MonkeyPatch) -> Callable[[], None]:
    """Forgets what a process knows of stores, as a new one would begin; the clients stay, which take long to make."""

    def forget() -> None:
        for clients in s3_client._made.values():
            clients.if_match = IfMatch()
            clients.lacks_bulk_delete = False
        monkeypatch.setattr(probe, "_proved", set())

    forget()
    return forget


@pytest.fixture
def few_are_kept(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Only the newest eight versions are safe, so that a short history is enough."""
    monkeypatch.setattr(metadata_expiry, "KEPT", 8)
    return


@pytest.mark.parametrize("mode", VERDICTS)
@pytest.mark.parametrize("transport", TRANSPORTS)
def test_the_contract_over_every_mode(
    s3_process: S3Server, mode: str, transport: TransportChoice, fresh: Callable[[], None]
) -> None:
    server = s3_process.use_bucket(f"modes-{os.urandom(4).hex()}")
    failed = set()
    with server.modes(mode):
        for number, check in enumerate(CHECKS):
            if check.__name__ == "a_long_listing_is_whole_and_lazy":
                continue  # 1,205 objects, which no mode treats otherwise than a few
            try:
                check(S3Storage(server.config(f"check-{number}", transport=transport)))
            except (AssertionError, StorageError, OSError, ValueError):  # the last two are raised by Arrow
                failed.add(check.__name__)
            fresh()
    assert failed == VERDICTS[mode]


def test_a_mode_that_is_not_there_is_refused(s3_server: S3Server) -> None:
    for wrong in ("quick", "forbidden=Weather", "if-match=418"):
        with pytest.raises(ValueError, match=r"mode|cause|status"):
            mode_of(wrong)
        with pytest.raises(ValueError, match=r"mode|cause|status"), s3_server.modes(wrong):
            pytest.fail("it was switched on")


def hint_of(storage: S3Storage) -> int:
    return int(storage.get(HINT_KEY).body)


def hint_writes(server: S3Server) -> int:
    return sum(method == "PUT" and path.endswith(HINT_KEY) for method, path in server.requests())


@pytest.mark.parametrize("mode", [*USABLE, *UNUSABLE, "without=ETag"])
@pytest.mark.parametrize("transport", TRANSPORTS)
def test_the_hint_follows_every_commit_whatever_becomes_of_if_match(
    s3_server: S3Server, s3_config: S3Config, mode: str, transport: TransportChoice, fresh: Callable[[], None]
) -> None:
    config = replace(s3_config, transport=transport)
    with s3_server.modes(mode):
        table = Warehouse(S3Storage(config)).create_table("t", SCHEMA)
        for number in range(3):
            table.append([{"n": number}])
            assert hint_of(table._storage) == table.version == number + 1
        # A process that opens the table wastes a request or two, once.
        fresh()
        opened = Warehouse(S3Storage(config)).load_table("t")
        s3_server.requests(reset=True)
        opened.append([{"n": 3}])
        assert hint_of(opened._storage) == 4
        assert hint_writes(s3_server) <= 3
        for number in (5, 6):
            s3_server.requests(reset=True)
            opened.append([{"n": number}])
            assert hint_of(opened._storage) == number
            assert hint_writes(s3_server) == 1
    assert opened.refresh().count() == 6


@pytest.mark.parametrize("mode", [*UNUSABLE, "without=ETag"])
def test_a_hint_that_lags_is_moved_on_by_the_next_commit(
    s3_server: S3Server, s3_config: S3Config, mode: str, fresh: Callable[[], None]
) -> None:
    with s3_server.modes(mode):
        table = Warehouse(S3Storage(s3_config)).create_table("t", SCHEMA)
        for number in range(4):
            table.append([{"n": number}])
        table._storage.put(HINT_KEY, b"1")  # a slow writer has set it back
        table.append([{"n": 4}])
        assert hint_of(table._storage) == 5
        table._storage.put(HINT_KEY, b"2")
        fresh()
        other = Warehouse(S3Storage(s3_config)).load_table("t")
        assert other.count() == 5, "the hint is not believed"
        other.append([{"n": 5}])
        assert hint_of(table._storage) == 6
        table._storage.put(HINT_KEY, b"99")  # never backwards
        other.append([{"n": 6}])
        assert hint_of(table._storage) in (7, 99)
        assert (hint_of(table._storage) == 99) or mode == "if-match-ignored"


@pytest.mark.usefixtures("few_are_kept")
@pytest.mark.parametrize("mode", ["if-match-ignored", "if-match=403", "if-match=412", "quoted-etag-refused"])
@pytest.mark.parametrize("transport", TRANSPORTS)
def test_old_versions_become_tombstones_only_where_if_match_is_kept(
    s3_server: S3Server, s3_config: S3Config, mode: str, transport: TransportChoice, fresh: Callable[[], None]
) -> None:
    config = replace(s3_config, transport=transport)
    with s3_server.modes(mode):
        table = Warehouse(S3Storage(config)).create_table("t", SCHEMA, properties=SHORT)
        for number in range(18):
            table.append([{"n": number}])
        s3_server.move_clock(WEEK + 60)
        try:
            fresh()
            table = Warehouse(S3Storage(config)).load_table("t")
            for number in range(18, 24):
                table.append([{"n": number}])
            maintained = table.maintain()
        finally:
            s3_server.move_clock(-WEEK - 60)
        bodies = [table._storage.get(version_key(number)).body for number in range(table.version + 1)]
    states = Counter(parse_version(body, number, "here").state for number, body in enumerate(bodies))
    if mode == "quoted-etag-refused":
        assert states["tombstone"] >= 8
    else:
        assert (states["tombstone"], maintained.tombstones) == (0, 0)
    assert not [info.key for info in table._storage.list("_datashard/probe-")], "nothing is left of a trial"
    assert table.refresh().count() == 24


@pytest.mark.parametrize("mode", [*USABLE, *UNUSABLE])
def test_creation_tells_what_becomes_of_if_match(
    s3_server: S3Server,
    s3_config: S3Config,
    mode: str,
    fresh: Callable[[], None],
    caplog: pytest.LogCaptureFixture,
) -> None:
    with s3_server.modes(mode), caplog.at_level(logging.INFO, logger=probe.__name__):
        Warehouse(S3Storage(s3_config)).create_table("t", SCHEMA)
    told = [record for record in caplog.records if "If-Match" in record.getMessage()]
    assert [record.levelname for record in told] == ["INFO" if mode in USABLE else "WARNING"]
    if mode in UNUSABLE:
        assert "old versions are never replaced by tombstones" in told[0].getMessage()
    else:
        assert ("strong" if mode == "weak-etags" else "bare") in told[0].getMessage()


@pytest.mark.parametrize("mode", [*USABLE, *UNUSABLE])
@pytest.mark.parametrize("transport", TRANSPORTS)
def test_a_stale_version_is_never_replaced_where_that_is_promised(
    s3_server: S3Server, s3_config: S3Config, mode: str, transport: TransportChoice, fresh: Callable[[], None]
) -> None:
    storage = S3Storage(replace(s3_config, transport=transport))
    with s3_server.modes(mode):
        first = storage.put("k", b"1")
        second = storage.put("k", b"2")
        if mode != "if-match-ignored":
            with pytest.raises(PreconditionFailedError):
                storage.replace("k", b"x", first)
        if mode in USABLE:
            assert keeps_versions(storage)
            storage.replace("k", b"3", second)
            with pytest.raises(PreconditionFailedError):
                storage.replace("k", b"x", second)
            assert storage.get("k").body == b"3"
        elif mode == "if-match-ignored":
            assert not keeps_versions(storage)
        if mode in UNUSABLE:
            with pytest.raises(StorageError) as caught:
                storage.replace("k", b"x", second)
            assert caught.value.reason == "unsupported"
            assert not keeps_versions(storage)
            sent = storage.metrics().requests["replace"]
            with pytest.raises(StorageError):
                storage.replace("k", b"x", second)
            assert storage.metrics().requests["replace"] == sent, "it is not asked again"
            assert storage.get("k").body == b"2"
        with pytest.raises(PreconditionFailedError if mode in USABLE else StorageError):
            storage.replace("absent", b"x", second)


def test_forms_of_an_etag() -> None:
    quoted, weak, plain = (etag(text) for text in ('"abc"', 'W/"abc"', "abc"))
    assert forms_of(quoted, "") == [("given", '"abc"'), ("bare", "abc")]
    assert forms_of(weak, "") == [("given", 'W/"abc"'), ("strong", '"abc"')]
    assert forms_of(plain, "") == [("given", "abc")]
    assert forms_of(weak, "bare") == [("bare", "abc")]
    assert same(quoted, weak) and same(plain, quoted)
    assert not same(etag(""), etag(""))
    assert not IfMatch().kept


def etag(text: str) -> Version:
    return Version(text)
