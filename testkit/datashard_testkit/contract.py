"""The storage contract as checks that run over any backend.

Each function takes a fresh storage and asserts one promise of :mod:`datashard_core.storage.base`.
A backend of your own is checked by calling all of :data:`CHECKS` with storages of it.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from itertools import islice

from datashard_core.storage.base import (
    ObjectNotFoundError,
    PreconditionFailedError,
    Storage,
    Version,
)
from datashard_core.storage.keys import MAX_BYTES, InvalidKeyError

NO_KEYS = (
    "",
    "/",
    ".",
    "..",
    "../outside",
    "data/../../outside",
    "data/..",
    "data/./x",
    "./data/x",
    "/data/x",
    "data//x",
    "data/x/",
    "data/%2e%2e/x",
    "data/%2E./x",
    "data/\x00x",
    "data/x\ny",
    "data/\x7f",
    "data/\x85",
    "data\\..\\x",
    "data/\ud800",
    "data/\uffff",
    "data/" + "x" * MAX_BYTES,
    "data/" + "ä" * (MAX_BYTES // 2),
)
"""Texts that cannot be the key of an object on any backend."""

Check = Callable[[Storage], None]
CHECKS: list[Check] = []
RACERS = 16
LARGE = 6 * 2**20


class ContractError(AssertionError):
    """A backend broke a promise."""


def _check(check: Check) -> Check:
    CHECKS.append(check)
    return check


def _same(found: object, wanted: object, what: str) -> None:
    if found != wanted:
        raise ContractError(f"{what}: {found!r:.300} instead of {wanted!r:.300}")


def _raises(kind: type[Exception], call: Callable[[], object], what: str) -> None:
    try:
        found = call()
    except kind:
        return
    raise ContractError(f"{what}: {found!r:.200} instead of {kind.__name__}")


@_check
def what_was_put_is_what_is_got(storage: Storage) -> None:
    version = storage.put("a/b.bin", b"\x00body\xff")
    found = storage.get("a/b.bin")
    _same((found.body, found.version), (b"\x00body\xff", version), "get")
    _same(bytes(storage.get_data("a/b.bin")), b"\x00body\xff", "get_data")
    if abs(found.last_modified - time.time()) > 3600:
        raise ContractError(f"last_modified is no time in seconds since 1970: {found.last_modified}")
    info = storage.head("a/b.bin")
    _same((info.key, info.size, info.version), ("a/b.bin", 6, version), "head")


@_check
def an_empty_object_is_an_object(storage: Storage) -> None:
    storage.put("empty", b"")
    _same(storage.get("empty").body, b"", "get of an empty object")
    _same(bytes(storage.get_data("empty")), b"", "get_data of an empty object")
    _same(storage.head("empty").size, 0, "size of an empty object")


@_check
def a_put_replaces_the_whole_body_and_the_version(storage: Storage) -> None:
    before = storage.put("k", b"first, and longer")
    after = storage.put("k", b"second")
    _same(storage.get("k").body, b"second", "get after a second put")
    if before == after:
        raise ContractError("two bodies share one version")


@_check
def a_range_is_a_part_of_the_body(storage: Storage) -> None:
    storage.put("k", bytes(range(100)))
    _same(storage.get("k", (10, 20)).body, bytes(range(10, 20)), "get of a range")
    _same(storage.get("k", (90, 500)).body, bytes(range(90, 100)), "get of a range beyond the end")


@_check
def what_is_absent_is_said_to_be_absent(storage: Storage) -> None:
    _raises(ObjectNotFoundError, lambda: storage.get("nothing"), "get of an absent key")
    _raises(ObjectNotFoundError, lambda: storage.get_data("nothing"), "get_data of an absent key")
    _raises(ObjectNotFoundError, lambda: storage.get("no/thing", (0, 9)), "get of a range of an absent key")
    _raises(ObjectNotFoundError, lambda: storage.head("nothing"), "head of an absent key")
    _same(list(storage.list("nothing")), [], "list of an absent prefix")
    _same(list(storage.folders("nothing")), [], "folders of an absent folder")


@_check
def other_engines_name_their_files_as_they_like(storage: Storage) -> None:
    for number, part in enumerate(("part=a%2Fb", "by_words=row+2", "at=23:59", "word=a b", "wort=größe")):
        key = f"data/{part}/{number}.parquet"
        storage.put(key, part.encode())
        _same(storage.get(key).body, part.encode(), f"get of {key}")
        _same(storage.head(key).key, key, f"head of {key}")
        _same([info.key for info in storage.list(f"data/{part}/")], [key], f"list of {key}")
        storage.delete([key])
        _same(list(storage.list(f"data/{part}/")), [], f"list after {key} was deleted")


def _listed(storage: Storage, prefix: str) -> list[str]:
    return [info.key for info in storage.list(prefix)]


@_check
def what_cannot_be_a_key_is_refused_before_it_is_sent(storage: Storage) -> None:
    version = storage.put("data/x", b"kept")

    def write_stream(key: str) -> None:
        with storage.open_data(key) as sink:
            sink.write(b"x")

    calls: dict[str, Callable[[str], object]] = {
        "get": storage.get,
        "get of a range": lambda key: storage.get(key, (0, 1)),
        "get_data": storage.get_data,
        "head": storage.head,
        "put": lambda key: storage.put(key, b"x"),
        "put_data": lambda key: storage.put_data(key, b"x"),
        "open_data": write_stream,
        "put_if_absent": lambda key: storage.put_if_absent(key, b"x"),
        "replace": lambda key: storage.replace(key, b"x", version),
        "delete": lambda key: storage.delete(["data/x", key]),
        "open_input": storage.open_input,
    }
    for key in NO_KEYS:
        for name, call in calls.items():
            _raises(InvalidKeyError, partial(call, key), f"{name} of {key[:40]!r}")
        if key and not key.endswith("/"):
            _raises(InvalidKeyError, partial(_listed, storage, f"{key}/"), f"list of {key[:40]!r}")
            _raises(InvalidKeyError, partial(storage.folders, key), f"folders of {key[:40]!r}")
            _raises(InvalidKeyError, partial(storage.at, key), f"at {key[:40]!r}")
    _same([info.key for info in storage.list("")], ["data/x"], "what is there afterwards")
    _same(storage.get("data/x").body, b"kept", "a body after a delete that was refused as a whole")


@_check
def dots_in_a_name_are_no_way_up(storage: Storage) -> None:
    for key in (
        "data/..x",
        "data/x..",
        "data/...",
        "data/a..b/.x",
        "data/text=../f",
        "data/%2F..%2e/f",
        "data/%252e/f",
    ):
        storage.put(key, key.encode())
        _same(storage.get(key).body, key.encode(), f"get of {key}")
        _same([info.key for info in storage.list("data/")], [key], f"list with {key}")
        storage.delete([key])


@_check
def a_name_is_created_once(storage: Storage) -> None:
    version = storage.put_if_absent("metadata/v0.json", b"first")
    _raises(PreconditionFailedError, lambda: storage.put_if_absent("metadata/v0.json", b"x"), "a second create")
    found = storage.get("metadata/v0.json")
    _same((found.body, found.version), (b"first", version), "get after a refused create")


@_check
def one_of_many_that_race_for_a_name_wins(storage: Storage) -> None:
    def create(name: str, number: int) -> int | None:
        try:
            storage.put_if_absent(name, f"writer {number}".encode())
        except PreconditionFailedError:
            return None
        return number

    for attempt in range(5):
        # A name each, for a name is never created again: some stores never give back one that was deleted.
        name = f"race/v{attempt}"
        with ThreadPoolExecutor(RACERS) as pool:
            tries = list(pool.map(lambda number, name=name: create(name, number), range(RACERS)))
        winners = [number for number in tries if number is not None]
        _same(len(winners), 1, "winners of a race")
        _same(storage.get(name).body, f"writer {winners[0]}".encode(), "the winner's body")


@_check
def an_object_is_replaced_on_condition(storage: Storage) -> None:
    first = storage.put("hint", b"1")
    second = storage.replace("hint", b"2", first)
    _same(storage.get("hint").body, b"2", "get after replace")
    _raises(PreconditionFailedError, lambda: storage.replace("hint", b"3", first), "replace of a stale version")
    _same(storage.get("hint").body, b"2", "get after a refused replace")
    _raises(
        PreconditionFailedError,
        lambda: storage.replace("absent", b"3", Version(second)),
        "replace of an absent object",
    )


@_check
def of_many_that_replace_one_version_one_wins(storage: Storage) -> None:
    version = storage.put("hint", b"start")

    def replace(number: int) -> bool:
        try:
            storage.replace("hint", f"writer {number}".encode(), version)
        except PreconditionFailedError:
            return False
        return True

    with ThreadPoolExecutor(8) as pool:
        _same(sum(pool.map(replace, range(8))), 1, "winners of a race of replacements")


@_check
def a_listing_is_sorted_and_knows_its_prefix(storage: Storage) -> None:
    keys = ["t/a/2", "t/a/10", "t/a-b/1", "t/b", "t2/a", "t/a.x"]
    for key in keys:
        storage.put(key, b"x" * len(key))
    found = list(storage.list("t/"))
    _same([info.key for info in found], sorted(key for key in keys if key.startswith("t/")), "list")
    _same([info.size for info in found], [len(info.key) for info in found], "sizes in a listing")
    _same([info.key for info in storage.list("t/a")], ["t/a-b/1", "t/a.x", "t/a/10", "t/a/2"], "list of a part")
    _same([info.key for info in storage.list("t/", after="t/a/10")], ["t/a/2", "t/b"], "list after a key")
    _same(
        [info.key for info in storage.list("t/", after="t/a.y")],
        ["t/a/10", "t/a/2", "t/b"],
        "list after no key",
    )


@_check
def a_long_listing_is_whole_and_lazy(storage: Storage) -> None:
    keys = [f"many/{number:05d}" for number in range(1205)]
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda key: storage.put(key, b""), keys))
    _same([info.key for info in storage.list("many/")], keys, "list of more than a page")
    _same([info.key for info in islice(storage.list("many/"), 3)], keys[:3], "the first of a listing")
    storage.delete(keys)
    _same(list(storage.list("many/")), [], "list after deleting more than a batch")


@_check
def folders_are_those_directly_below(storage: Storage) -> None:
    for key in ("x/data/1", "x/data/2", "x/y/data/1", "z", "x-y/1"):
        storage.put(key, b"")
    _same(list(storage.folders()), ["x", "x-y"], "folders of the root")
    _same(list(storage.folders("x")), ["data", "y"], "folders of a folder")


@_check
def deleting_is_idempotent(storage: Storage) -> None:
    storage.put("d/1", b"")
    storage.put("d/10", b"")
    storage.delete(["d/1", "d/2"])
    storage.delete(["d/1"])
    storage.delete([])
    _same([info.key for info in storage.list("d/")], ["d/10"], "what is left")


@_check
def a_deeper_root_sees_its_own_keys_alone(storage: Storage) -> None:
    deeper = storage.at("ns/table")
    _same(deeper.root, f"{storage.root}/ns/table", "the root of a deeper storage")
    deeper.put("data/1", b"deep")
    storage.put("ns/table2/data/1", b"other")
    _same(storage.get("ns/table/data/1").body, b"deep", "a key from above")
    _same([info.key for info in deeper.list("")], ["data/1"], "list of a deeper storage")
    _same(list(deeper.folders()), ["data"], "folders of a deeper storage")


@_check
def data_files_are_read_by_arrow(storage: Storage) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    table = pa.table({"n": list(range(1000))})
    sink = pa.BufferOutputStream()
    pq.write_table(table, sink)
    storage.put_data("data/one.parquet", sink.getvalue())
    with storage.open_data("data/two.parquet") as stream:
        pq.write_table(table, stream)
    for name in ("one", "two"):
        with storage.open_input(f"data/{name}.parquet") as source:
            _same(pq.read_table(source).num_rows, 1000, f"rows of {name}")
        body = storage.get(f"data/{name}.parquet").body
        _same(pq.read_table(pa.BufferReader(body)).equals(table), True, f"rows of {name} by its bytes")
    _raises(ObjectNotFoundError, lambda: storage.open_input("data/three.parquet"), "opening a file that is not there")


@_check
def a_large_data_file_is_whole(storage: Storage) -> None:
    body = bytes(range(256)) * (LARGE // 256)
    storage.put_data("data/large", body)
    _same(storage.get("data/large").body == body, True, "a body of 6 MB")
    _same(storage.get_data("data/large") == body, True, "get_data of a body of 6 MB")
    with storage.open_data("data/streamed") as sink:
        for start in range(0, LARGE, 2**20):
            sink.write(body[start : start + 2**20])
    _same(storage.get("data/streamed").body == body, True, "a streamed body of 6 MB")


@_check
def an_error_while_a_data_file_is_written_is_raised(storage: Storage) -> None:
    class Interrupt(Exception):
        pass

    def write() -> None:
        with storage.open_data("data/broken") as sink:
            sink.write(b"half of it")
            raise Interrupt

    # What is left may be a part of the file: no table names it, and orphan removal finds it.
    _raises(Interrupt, write, "an error inside the block")
