"""Where the programs beside this one put their tables."""

from __future__ import annotations

from collections.abc import Mapping

import datashard_core as ds


def config_of(place: Mapping[str, str]) -> ds.S3Config:
    """The configuration of a place in the benchmarks' bucket, as :meth:`kit.store.Store.place` gives it."""
    return ds.S3Config(
        bucket=place["bucket"],
        prefix=place["prefix"],
        endpoint=place["endpoint"],
        region="us-east-1",
        access_key=place["key"],
        secret_key=place["secret"],
    )
