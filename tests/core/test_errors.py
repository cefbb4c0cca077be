"""Errors reach another process whole: an orchestrator pickles what a task raised, and its caller asks again by it."""

from __future__ import annotations

import copy
import pickle
from typing import Any

import pytest

import datashard_core as ds
from datashard_core import errors
from datashard_core.errors import (
    AppendIdConflictError,
    CommitStateUnknownError,
    DataShardError,
    StorageError,
    StoreNotConditionalError,
)
from datashard_core.storage.base import ObjectNotFoundError, OutcomeUnknownError, PreconditionFailedError, Version
from datashard_core.storage.memory import MemoryStorage
from datashard_core.table.warehouse import Warehouse

SCHEMA = ds.Schema(fields=[{"id": 1, "name": "n", "type": "long"}])
PUBLIC = [kind for kind in vars(errors).values() if isinstance(kind, type) and issubclass(kind, DataShardError)]
WITH_MORE: list[DataShardError] = [
    CommitStateUnknownError("it is not known", append_id="run 7", base=41, table="s3://bucket/t"),
    AppendIdConflictError("other rows", append_id="run 7", version=3, committed_digest="aa", given_digest="bb"),
    StorageError("slow down", reason="throttled", key="s3://bucket/t"),
    StoreNotConditionalError("it ignores conditions", key="s3://bucket"),
    ObjectNotFoundError("not there", key="k"),
    PreconditionFailedError("taken", key="k"),
    OutcomeUnknownError("no reply", key="k"),
]


def _copies(error: DataShardError) -> list[DataShardError]:
    protocols = range(pickle.HIGHEST_PROTOCOL + 1)
    return [copy.copy(error), *(pickle.loads(pickle.dumps(error, protocol)) for protocol in protocols)]


@pytest.mark.parametrize(
    "error", [*WITH_MORE, *(kind("what happened") for kind in PUBLIC)], ids=lambda e: type(e).__name__
)
def test_every_error_survives_pickling_with_all_that_it_says(error: DataShardError) -> None:
    for found in _copies(error):
        assert type(found) is type(error)
        assert str(found) == str(error)
        assert vars(found) == vars(error)


class Deaf(MemoryStorage):
    """A store whose replies to commits are lost, and whose versions cannot be read afterwards."""

    deaf = False
    sent = False

    def put_if_absent(self, key: str, data: bytes) -> Version:
        if not type(self).deaf:
            return super().put_if_absent(key, data)
        super().put_if_absent(key, data)
        type(self).sent = True
        raise OutcomeUnknownError(f"{key}: the reply is lost", key=key)

    def get(self, key: str, byte_range: tuple[int, int] | None = None) -> Any:
        if type(self).sent and key.endswith("v2.metadata.json"):
            raise StorageError("unreachable", reason="unreachable", key=key)
        return super().get(key, byte_range)

    def at(self, folder: str) -> MemoryStorage:
        deeper = super().at(folder)
        deeper.__class__ = Deaf
        return deeper


@pytest.mark.parametrize("handed_in", [True, False])
def test_what_a_pickled_error_carries_is_enough_to_ask_again(handed_in: bool) -> None:
    table = Warehouse(Deaf()).create_table("t", SCHEMA)
    table.append([{"n": 1}])
    Deaf.deaf, Deaf.sent = True, False
    try:
        with pytest.raises(CommitStateUnknownError) as raised:
            table.append([{"n": 2}], append_id="run 7" if handed_in else None, timeout=0.5)
    finally:
        Deaf.deaf = Deaf.sent = False
    told = pickle.loads(pickle.dumps(raised.value))
    assert told.base == 1
    assert told.append_id in str(told)
    assert told.table == table.uri

    result = table.append([{"n": 2}], append_id=told.append_id, base=told.base)
    assert result.version == 2
    assert sorted(row["n"] for row in table.refresh().scan().to_records()) == [1, 2]
