"""Who does what in a simulated scenario, and what goes wrong meanwhile."""

from __future__ import annotations

import random
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from functools import partial
from unittest import mock

from datashard_core.commit.append import file_age as fresh
from datashard_core.commit.append_ids import lookback, lookup, segment
from datashard_core.commit.append_ids import segment_store as node_store
from datashard_core.commit.core import properties as settings
from datashard_core.commit.core import recorded_ids
from datashard_core.commit.core.next_version import first_version
from datashard_core.commit.maintenance import id_expiry
from datashard_core.commit.versions import metadata_expiry
from datashard_core.commit.versions.lifecycle import FirstVersion
from datashard_testkit.faults import Faults
from datashard_testkit.history import ROOT, SCHEMA

SHORT_LIVED = {
    settings.MAX_SNAPSHOTS: "3",
    settings.MIN_SNAPSHOTS: "1",
    settings.MAX_PREVIOUS: "1",
    settings.MIN_TO_MERGE: "2",
}
"""Properties of a table that forgets its past within a few versions, and merges manifests all the time."""


@dataclass(frozen=True, slots=True)
class Mix:
    """Who does what in one scenario.

    Attributes:
        writers: processes that append in a closed loop.
        appends: calls of each.
        think: mean seconds between two calls of one writer.
        handed_in: share of appends whose id the caller hands in.
        twins: probability that another process runs the same append at the same time.
        deferred: share of appends that are deferred.
        large: share of appends that are finished data files, of which a description is staged.
        grouped: share of calls that commit the appends of several threads together.
        fresh: share of appends that begin without a known version, as a new process would.
        backlogs: share of deferred appends whose turn it is to commit what is staged (some one in 128 have it anyway).
        flushes: share of calls after which the writer flushes.
        give_up: seconds after which a writer stops waiting.
        foreign: processes of another engine, each committing a few versions.
        foreign_commits: how many.
        keep_property: probability that a foreign commit carries the table properties on.
        runs_again: appends with handed-in ids that are run again after everything else, at most.
        readers: processes that read the newest version, every other time with what is staged.
        reads: how often each reads.
        drops: how often the table is dropped and made again.
        purge: a drop removes the files of the dropped table.
        losers_of_nodes: how often somebody deletes an id node.
        spoilers: processes that put damaged copies beside staged appends.
        schema_changers: processes that each add a column now and then, through the commits of other libraries.
        deleters: processes that each delete a data file now and then, likewise.
        namers: processes that each add a data file again that is live already, likewise.
        keepers: processes that remove orphans, compact, expire snapshots and make tombstones.
        crafters: processes that stage malformed objects.
        newcomers: processes that stage what only a newer writer could have, or that the committers know later.
        copiers: processes that each copy the table's folder once; writers go on in both.
        turns: pieces of upkeep that each of them does.
        grace: their grace period in seconds; a commit copies a described file that is half as old.
        age: seconds after which an old version becomes a tombstone.
        properties: of the table.
        late: mean seconds after which a twin runs the same append.
        retention: seconds for which append ids are remembered; 0: the 30 days of the default.
        block: versions to a block of remembered names; small ones make deep nodes in short histories.
        room: bytes of a version's property; in a small one the names of a block do not all fit.
        faults: what goes wrong, until the calm.
    """

    writers: int = 4
    appends: int = 4
    think: float = 0.2
    handed_in: float = 0.5
    twins: float = 0.2
    deferred: float = 0.15
    large: float = 0.1
    grouped: float = 0.1
    fresh: float = 0.3
    backlogs: float = 0.1
    flushes: float = 0.05
    give_up: float = 60.0
    foreign: int = 1
    foreign_commits: int = 3
    keep_property: float = 0.5
    runs_again: int = 3
    readers: int = 1
    reads: int = 3
    drops: int = 0
    purge: bool = False
    losers_of_nodes: int = 0
    spoilers: int = 0
    schema_changers: int = 0
    deleters: int = 0
    namers: int = 0
    keepers: int = 0
    crafters: int = 0
    newcomers: int = 0
    copiers: int = 0
    turns: int = 4
    grace: float = 4.0
    age: float = 3.0
    properties: Mapping[str, str] = field(default_factory=dict)
    late: float = 1.0
    retention: float = 0.0
    block: int = recorded_ids.BLOCK
    room: int = recorded_ids.MAX_PROPERTY_BYTES
    faults: Faults = field(default_factory=Faults)

    @property
    def first(self) -> FirstVersion:
        """What the table's first version is made of."""
        return partial(first_version, location=ROOT, schema=SCHEMA, properties=self.properties)


def mix_for(seed: int) -> Mix:
    """A mix for a seed: every kind of fault appears somewhere, most runs have a few."""
    dice = random.Random(seed)

    def now_and_then(share: float, most: float) -> float:
        return dice.uniform(0.0, most) if dice.random() < share else 0.0

    faults = Faults(
        before=now_and_then(0.5, 0.05),
        after=now_and_then(0.6, 0.08),
        late=now_and_then(0.4, 0.05),
        twice=now_and_then(0.4, 0.10),
        conflict=now_and_then(0.3, 0.10),
        stale_hint=now_and_then(0.4, 0.5),
        stale_list=now_and_then(0.4, 0.3),
        lost_delete=now_and_then(0.3, 0.5),
        crash=now_and_then(0.4, 0.02),
        suspend=now_and_then(0.4, 0.01),
        skew_seconds=dice.choice([0.0, 0.5, 30.0, 3600.0]),
        burst=now_and_then(0.2, 2.0),
        late_delete=now_and_then(0.3, 0.5),
        spoilt=now_and_then(0.3, 0.4),
    )
    staged = random.Random(f"staged {seed}")  # its own dice, so that other choices stay what they were
    copied = random.Random(f"copied {seed}")
    return Mix(
        copiers=copied.choice([0, 0, 0, 1]),
        crafters=staged.choice([0, 0, 1, 2]),
        newcomers=staged.choice([0, 0, 1, 2]),
        writers=dice.choice([1, 2, 3, 5, 8]),
        appends=dice.choice([1, 2, 4, 6]),
        think=dice.choice([0.0, 0.1, 1.0]),
        handed_in=dice.choice([0.0, 0.5, 1.0]),
        twins=dice.choice([0.0, 0.3, 0.7]),
        deferred=dice.choice([0.0, 0.15, 0.5]),
        large=dice.choice([0.0, 0.0, 0.3]),
        grouped=dice.choice([0.0, 0.0, 0.3]),
        fresh=dice.choice([0.0, 0.3, 1.0]),
        flushes=dice.choice([0.0, 0.0, 0.2]),
        foreign=dice.choice([0, 0, 1, 2]),
        keep_property=dice.choice([0.0, 0.5, 1.0]),
        readers=dice.choice([0, 1, 2]),
        purge=dice.random() < 0.5,
        losers_of_nodes=dice.choice([0, 0, 2]),
        block=dice.choice([recorded_ids.BLOCK, 2, 2, 4]),
        drops=dice.choice([0, 0, 1, 2]),
        give_up=dice.choice([60.0, 60.0, 2.0]),
        spoilers=dice.choice([0, 0, 1]),
        keepers=dice.choice([0, 0, 1, 2]),
        grace=dice.choice([1.0, 4.0, 3600.0]),
        age=dice.choice([0.3, 1.0, 60.0]),
        properties=dice.choice([{}, SHORT_LIVED]),
        faults=faults,
        late=dice.choice([1.0, 1.0, 10.0]),
        retention=dice.choice([0.0, 0.0, 3.0, 10.0]),
        turns=dice.choice([4, 4, 20]),
        schema_changers=dice.choice([0, 0, 1]),
        deleters=dice.choice([0, 0, 1]),
        room=dice.choice([recorded_ids.MAX_PROPERTY_BYTES, recorded_ids.MAX_PROPERTY_BYTES, 256]),
        namers=dice.choice([0, 0, 1]),
    )


@contextmanager
def scaled_to(mix: Mix) -> Iterator[None]:
    """Scale what takes days, or many versions, down to the histories of this mix, in this process, for a while.

    Every rule compares ages and numbers with each other alone, so it holds at any scale.
    """
    with ExitStack() as stack:
        for module in (recorded_ids, lookback, lookup, node_store, segment, metadata_expiry, id_expiry):
            stack.enter_context(mock.patch.object(module, "BLOCK", mix.block))
        stack.enter_context(mock.patch.object(recorded_ids, "MAX_PROPERTY_BYTES", mix.room))
        stack.enter_context(mock.patch.object(lookup, "SHORT_RANGE", 2 * mix.block))
        stack.enter_context(mock.patch.object(metadata_expiry, "KEPT", 3 * mix.block))
        stack.enter_context(mock.patch.object(metadata_expiry, "EVERY", 2))
        stack.enter_context(mock.patch.object(metadata_expiry, "GROUP", min(4, mix.block)))
        stack.enter_context(mock.patch.object(metadata_expiry, "AGE", mix.age))
        stack.enter_context(mock.patch.object(fresh, "RECENT_SECONDS", mix.grace / 2))
        if mix.retention:
            kept = {settings.ID_RETENTION: (int, int(1000 * mix.retention))}
            stack.enter_context(mock.patch.dict(settings._PROPERTIES, kept))
        yield
