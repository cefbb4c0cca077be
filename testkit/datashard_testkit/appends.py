"""Appends as the writers of a simulation make them: one row with a tag, or a data file that holds it."""

from __future__ import annotations

import zlib

from msgspec import Struct
from msgspec.structs import replace

from datashard_core.commit.core.recorded_ids import LIBRARY_MADE
from datashard_core.commit.core.state import Append, TableState
from datashard_core.effects.requests import PutData, Sleep, Unique
from datashard_core.errors import DataShardError
from datashard_core.format.metadata.data_file import DataFile
from datashard_core.format.parquet.parquet import encode_parquet
from datashard_core.format.rows.digest import id_digest, rows_digest
from datashard_core.format.rows.python_rows import arrow_of
from datashard_core.table.append import checked_rows
from datashard_testkit.history import ROOT, SCHEMA


class Written(Struct, frozen=True):
    """The data file of an append that is too large to be copied.

    Attributes:
        file: what a manifest says of it.
        unsent: the file, if it is not in the store yet.
        on: the newest version that was known when it was begun; -1: not told.
    """

    file: DataFile
    unsent: tuple[PutData, ...]
    on: int


def item_of(tag: str, handed_in: bool, base: int | None, written: Written | None = None) -> Append:
    """The append of a tag, as rows or as a finished file."""
    rows = checked_rows([{"tag": tag}], SCHEMA, "simulated")
    if zlib.crc32(tag.encode()) % 2:  # half of them as a caller's frame comes in
        rows = arrow_of(rows)
    own = f"id of {tag}"
    plan = Append(own, id_digest(own), LIBRARY_MADE, rows, (), SCHEMA, base)
    if handed_in:
        plan = replace(plan, digest=rows_digest(rows, SCHEMA))
    if written is None:
        return plan
    return replace(plan, rows=None, files=(written.file,), written_on=written.on, unsent=written.unsent)


async def encode_large(tag: str, seen: TableState) -> Written:
    """Encode it: it is sent when the append is, beside its first look at the table."""
    import pyarrow as pa

    encoded = encode_parquet(pa.table({"tag": [tag]}, schema=SCHEMA.to_arrow()), SCHEMA)
    unique: str = await Unique()
    key = f"data/auto_{unique}.parquet"
    return Written(encoded.data_file(f"{ROOT}/{key}"), (PutData(key, encoded.data),), seen.body.version)


async def write_large(written: Written) -> Written:
    """Write it before the append begins, as one that is streamed; tried until it is there."""
    while True:
        try:
            for put in written.unsent:
                await put
        except DataShardError:
            await Sleep(0.5)
        else:
            return replace(written, unsent=(), on=-1)
