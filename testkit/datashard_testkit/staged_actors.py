"""Who stages what no commit of this release takes: crafted and damaged objects, and those of newer writers.

Each actor is a generator that runs in a process of its own, as those of :mod:`datashard_testkit.actors`.
"""

from __future__ import annotations

import random
import re
from collections.abc import Callable
from contextlib import suppress
from typing import TYPE_CHECKING, Any

import msgspec

from datashard_core._imports import blake2b
from datashard_core.commit.core.state import TableState
from datashard_core.commit.maintenance.abandoned import remove_abandoned
from datashard_core.commit.staging.body import FORMAT, _file_to_json
from datashard_core.commit.staging.key import PREFIX, StagedName
from datashard_core.effects.requests import Put, PutData, Sleep, Unique
from datashard_core.errors import AppendRefusedError, AppendSetAsideError, DataShardError
from datashard_core.format.parquet.parquet import encode_parquet
from datashard_core.format.rows.digest import id_digest
from datashard_testkit.history import ROOT, SCHEMA
from datashard_testkit.other_committers import add_a_column

if TYPE_CHECKING:
    from datashard_testkit.scenario import Scenario

ROUNDS = 4
FAR = 10_000
"""Versions above the newest, and schemas above the last one: no run ever has so many."""


def sealed(header: dict[str, Any], rows: bytes) -> bytes:
    """A staged body that is whole, whatever it says."""
    told = msgspec.json.encode(header)
    content = len(told).to_bytes(4, "little") + told + rows
    return b"DSstaged" + blake2b(content, digest_size=16).digest() + content


def _header(seen: TableState, own: str, **changes: Any) -> dict[str, Any]:
    plain = {
        "table": seen.body.table.table_uuid,
        "append-id": f"id of {own}",
        "digest": "",
        "schema-id": 0,
        "plain-rows": 1,
    }
    return {"format": FORMAT, **plain, **changes}


def _rows(own: str) -> bytes:
    return msgspec.msgpack.encode({1: [own]})


def _file(own: str) -> tuple[str, Any]:
    """A data file of one row."""
    import pyarrow as pa

    encoded = encode_parquet(pa.table({"tag": [own]}, schema=SCHEMA.to_arrow()), SCHEMA)
    return f"data/auto_{id_digest(own)}.parquet", encoded


def _describing(seen: TableState, own: str, **changes: Any) -> bytes:
    """A description of that file; what it says of it is changed."""
    key, encoded = _file(own)
    raw = {**_file_to_json(encoded.data_file(f"{ROOT}/{key}")), **changes}
    header = {name: value for name, value in _header(seen, own, files=[raw]).items() if name != "plain-rows"}
    return sealed(header, b"")


Crafted = Callable[[TableState, str], bytes]

MALFORMED: tuple[Crafted, ...] = (
    lambda seen, own: b"rubbish",
    lambda seen, own: sealed(_header(seen, own), b"\xc1"),
    lambda seen, own: sealed(_header(seen, own, digest="5"), _rows(own)),
    lambda seen, own: sealed(_header(seen, own, **{"plain-rows": 10**30}), _rows(own)),
    lambda seen, own: sealed(_header(seen, own, **{"plain-rows": -1}), _rows(own)),
    lambda seen, own: sealed(_header(seen, f"another than {own}"), _rows(own)),
    lambda seen, own: sealed(_header(seen, own, table="another"), _rows(own)),
    lambda seen, own: _describing(seen, own, file_path="s3://simulated/other/data/auto_x.parquet"),
    lambda seen, own: _describing(seen, own, file_path=f"{ROOT}/metadata/v0.metadata.json"),
    lambda seen, own: _describing(seen, own, file_path=f"{ROOT}/data/auto_gone.parquet"),
    lambda seen, own: _describing(seen, own, record_count=2),
    lambda seen, own: _describing(seen, own, record_count="one"),
    lambda seen, own: _describing(seen, own, file_size_in_bytes=7),
    lambda seen, own: _describing(seen, own, partition={"day": 1}),
)
"""Bodies that no release could commit."""


def start_staged(scenario: Scenario) -> None:
    """Start those whom the mix asks for."""
    for number in range(scenario.mix.crafters):
        scenario.launch(_crafter(scenario, f"crafted {number}"), f"crafter {number}")
    for number in range(scenario.mix.newcomers):
        scenario.launch(_newcomer(scenario, f"newer {number}"), f"newcomer {number}")


async def _crafter(scenario: Scenario, name: str) -> None:
    """Somebody hostile, or a disk that is: malformed objects, some under names that mean nothing."""
    choices = random.Random(scenario.choices.random())
    for turn in range(ROUNDS):
        await Sleep(choices.expovariate(1.0))
        seen = await scenario.loaded()
        own = f"{name}/{turn}"
        try:
            await _stage(scenario, seen, own, choices.choice(MALFORMED)(seen, own), choices)
            scenario.counts["malformed object staged"] += 1
            if choices.random() < 0.3:
                await Put(f"{PREFIX}{choices.choice(('0', '!', 'x'))}{own}", b"no append")
                scenario.counts["other object among the staged appends"] += 1
        except DataShardError:
            continue


async def _newcomer(scenario: Scenario, name: str) -> None:
    """A writer that knows more than those who commit, or says so."""
    choices = random.Random(scenario.choices.random())
    for turn in range(ROUNDS):
        await Sleep(choices.expovariate(1.0))
        seen = await scenario.loaded()
        own = f"{name}/{turn}"
        try:
            kind = choices.choice(("schema", "format", "base", "schema to come", "schema to come"))
            if kind == "schema to come":
                await _schema_to_come(scenario, seen, own, choices)
                continue
            changes = {"schema": {"schema-id": FAR}, "format": {"format": FORMAT + 1}, "base": {}}[kind]
            ahead = FAR if kind == "base" else 0
            await _stage(scenario, seen, own, sealed(_header(seen, own, **changes), _rows(own)), choices, ahead)
            scenario.counts[f"staged ahead of us: {kind}"] += 1
        except DataShardError:
            continue


async def _schema_to_come(scenario: Scenario, seen: TableState, own: str, choices: random.Random) -> None:
    """Rows of a schema that the committers do not know yet: once they do, the rows are in the table."""
    table = seen.body.table
    number = max(schema.schema_id for schema in table.schemas) + 1
    body = sealed(_header(seen, own, **{"schema-id": number}), _rows(own))
    told = scenario.told[table.table_uuid][own]
    told.unknown += 1  # from now on the row may be in the table
    key = await _stage(scenario, seen, own, body, choices)
    await Sleep(choices.expovariate(2.0))
    while True:
        with suppress(DataShardError):  # whether it was committed or not, the next look tells
            await add_a_column(scenario.target_of(seen))
        newer = await scenario.loaded()
        if newer.body.table.table_uuid != table.table_uuid:
            return
        if any(schema.schema_id == number for schema in newer.body.table.schemas):
            break
        await Sleep(1.0)
    if not scenario.mix.retention:  # else maintenance may have removed it meanwhile
        scenario.crafted.pop(id_digest(f"id of {own}"), None)
        told.deferred += 1
    scenario.counts["staged before its schema was known"] += bool(key)


async def _stage(
    scenario: Scenario, seen: TableState, own: str, body: bytes, choices: random.Random, ahead: int = 0
) -> str:
    unique: str = await Unique()
    digest = id_digest(f"id of {own}")
    name = StagedName(seen.body.version + ahead, "w" if choices.random() < 0.5 else "d", digest, unique)
    if choices.random() < 0.7:
        key, encoded = _file(own)
        await PutData(key, encoded.data)
    scenario.crafted[digest] = name.key
    await Put(name.key, body)
    return name.key


async def remove_what_is_set_aside(scenario: Scenario, target: Any, seen: TableState) -> None:
    """The part of ``maintain()`` that clears away what nobody took."""
    done, _ = await remove_abandoned(target, seen, scenario.mix.grace)
    scenario.counts["abandoned object removed"] += len(done.removed)


def is_of_crafted(scenario: Scenario, uuid: str, ended: Any) -> bool:
    """Whether a flush failed over nothing but what these actors have staged."""
    if isinstance(ended, AppendSetAsideError):
        return {key.split("-")[2] for key in ended.keys} <= scenario.crafted.keys()  # a spoiler copies them, too
    if not isinstance(ended, AppendRefusedError):
        return False
    refused = set(re.findall(r"(?<![0-9a-f-])[0-9a-f]{32}(?![0-9a-f-])", str(ended)))
    promised = {
        id_digest(f"id of {tag}") for tag, told in scenario.told[uuid].items() if told.committed or told.deferred
    }
    return bool(scenario.mix.crafters or scenario.mix.newcomers) and not refused & promised
