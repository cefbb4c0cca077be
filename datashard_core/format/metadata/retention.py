"""Which snapshots and log entries the next version keeps: pure, over the metadata's JSON as it is.

Snapshots are kept by count and age along the branch ``main``; what another engine's branch or tag
leads to is kept as that reference asks (Iceberg spec, "Snapshot Retention Policy").
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from msgspec import Struct

MAIN = "main"


class Retention(Struct, frozen=True):
    """What a version keeps of its past.

    Attributes:
        max_age_ms: snapshots older than that are left out, but for the newest few.
        min_count: so many of the newest are kept however old they are.
        max_count: no more than that of ``main`` are kept however young they are.
        max_previous: how many earlier metadata files the metadata log names.
    """

    max_age_ms: int
    min_count: int
    max_count: int
    max_previous: int


def retained(raw: Mapping[str, Any], keep: Retention) -> dict[str, Any]:
    """What of the metadata changes when it is cut back to what is to be kept.

    Args:
        raw: the metadata's JSON object, the new snapshot included; its age is counted from its
            ``last-updated-ms``.
        keep: how much to keep.

    Returns:
        The keys to be replaced, with their new values.
    """
    changes: dict[str, Any] = {}
    log = raw.get("metadata-log") or []
    if len(log) > keep.max_previous:
        changes["metadata-log"] = log[-keep.max_previous :]
    snapshots = raw.get("snapshots") or []
    kept = kept_snapshots(raw, keep)
    expired = {snapshot["snapshot-id"] for snapshot in snapshots} - kept
    if expired:
        changes["snapshots"] = [snapshot for snapshot in snapshots if snapshot["snapshot-id"] in kept]
        for key in ("statistics", "partition-statistics"):
            if raw.get(key):
                changes[key] = [entry for entry in raw[key] if entry.get("snapshot-id") not in expired]
    history = raw.get("snapshot-log") or []
    shorter = _log_after(history, kept, keep.max_count)
    if len(shorter) < len(history):
        changes["snapshot-log"] = shorter
    return changes


def kept_snapshots(raw: Mapping[str, Any], keep: Retention) -> set[int]:
    """Ids of the snapshots that a version keeps: by reference, and by age and count."""
    by_id = {snapshot["snapshot-id"]: snapshot for snapshot in raw.get("snapshots") or []}
    oldest = raw["last-updated-ms"] - keep.max_age_ms
    refs: Mapping[str, Mapping[str, Any]] = raw.get("refs") or {}
    kept: set[int] = set()
    reached: set[int] = set()
    current = raw.get("current-snapshot-id")
    main = {"type": "branch", **refs.get(MAIN, {}), "snapshot-id": current}
    for name, ref in {**refs, MAIN: main}.items():
        line = list(_ancestors(ref.get("snapshot-id"), by_id))
        reached.update(line)
        if ref.get("type") == "tag":
            kept.update(line[:1])
            continue
        at_least = max(1, ref.get("min-snapshots-to-keep") or keep.min_count)
        at_most = max(at_least, keep.max_count) if name == MAIN else len(line)
        age = ref.get("max-snapshot-age-ms")
        youngest = oldest if age is None else raw["last-updated-ms"] - age
        for place, own in enumerate(line[:at_most]):
            if place < at_least or by_id[own]["timestamp-ms"] >= youngest:
                kept.add(own)
    # Staged by another engine for a branch that is still to come: kept for as long as age allows.
    kept.update(own for own, snapshot in by_id.items() if own not in reached and snapshot["timestamp-ms"] >= oldest)
    return kept


def _ancestors(start: int | None, by_id: Mapping[int, Mapping[str, Any]]) -> Iterator[int]:
    """A snapshot and those before it, newest first, as far as they are there."""
    seen: set[int] = set()
    while start is not None and start in by_id and start not in seen:
        seen.add(start)
        yield start
        start = by_id[start].get("parent-snapshot-id")


def _log_after(log: Sequence[Mapping[str, Any]], kept: set[int], at_most: int) -> list[Mapping[str, Any]]:
    """The snapshot log behind its last entry whose snapshot is gone: the spec wants no holes in it."""
    first = 0
    for place, entry in enumerate(log):
        if entry["snapshot-id"] not in kept:
            first = place + 1
    return list(log[max(first, len(log) - at_most) :])
