"""Manifests and manifest lists: round trips, damage, and those of other writers."""

from __future__ import annotations

import io
import json
import random
from collections.abc import Sequence
from typing import Any

import fastavro
import pytest
from datashard_testkit.sampling import one_in
from msgspec.structs import replace

from datashard_core import CorruptTableError, Schema, UnsupportedTableError
from datashard_core.format.manifests.manifest import (
    ADDED,
    DELETED,
    EXISTING,
    ManifestEntry,
    ManifestFile,
    decode_manifest,
    decode_manifest_list,
    encode_manifest,
    encode_manifest_list,
)
from datashard_core.format.manifests.manifest_schema import MANIFEST_FILE_SCHEMA
from datashard_core.format.metadata.data_file import DataFile
from datashard_core.format.metadata.partition import PartitionSpec

SCHEMA = Schema(fields=[{"id": 1, "name": "a", "type": "long"}, {"id": 2, "name": "b", "type": "double"}])


def _file(number: int = 1, **changes: Any) -> DataFile:
    file = DataFile(
        file_path=f"s3://bucket/t/data/{number:08x}.parquet",
        record_count=number + 1,
        file_size_in_bytes=1000 + number,
        column_sizes={1: 40, 2: 50},
        value_counts={1: number + 1, 2: number + 1},
        null_value_counts={1: 0, 2: 1},
        nan_value_counts={2: 0},
        lower_bounds={1: b"\x00" * 8, 2: b"\x01" * 8},
        upper_bounds={1: b"\xff" * 7 + b"\x7f"},
        split_offsets=(4, 400),
    )
    return replace(file, **changes)


def _listed(data: bytes, entries: Sequence[ManifestEntry], **changes: Any) -> ManifestFile:
    def count(status: int) -> int:
        return sum(entry.status == status for entry in entries)

    def rows(status: int) -> int:
        return sum(entry.data_file.record_count for entry in entries if entry.status == status)

    listed = ManifestFile(
        "s3://bucket/t/metadata/m.avro", len(data), 0, 0, 9, 3, 77,
        count(ADDED), count(EXISTING), count(DELETED), rows(ADDED), rows(EXISTING), rows(DELETED),
    )  # fmt: skip
    return replace(listed, **changes)


ENTRIES = [
    ManifestEntry(ADDED, None, None, None, _file(1)),
    ManifestEntry(EXISTING, 5, 3, 3, _file(2, split_offsets=None, sort_order_id=0)),
    ManifestEntry(DELETED, 6, 4, 3, _file(3, column_sizes={}, lower_bounds={}, upper_bounds={}, nan_value_counts={})),
]


def _long_list(count: int) -> list[ManifestFile]:
    return [
        ManifestFile(f"s3://bucket/t/metadata/{n:032x}-m0.avro", 5000 + n, 0, 0, n, n, 10**18 + n, 1, 0, 0, n, 0, 0)
        for n in range(1, count + 1)
    ]


def _encode_list(manifests: Sequence[ManifestFile]) -> bytes:
    return encode_manifest_list(manifests, snapshot_id=77, parent_snapshot_id=None, sequence_number=9)


def test_entries_come_back_and_new_ones_inherit() -> None:
    data = encode_manifest(ENTRIES, schema=SCHEMA, spec=PartitionSpec())
    found = decode_manifest(data, _listed(data, ENTRIES))
    assert found == [replace(ENTRIES[0], snapshot_id=77, sequence_number=9, file_sequence_number=9), *ENTRIES[1:]]


def test_what_was_read_is_written_again() -> None:
    data = encode_manifest(ENTRIES, schema=SCHEMA, spec=PartitionSpec())
    found = decode_manifest(data, _listed(data, ENTRIES))
    kept = [replace(entry, status=EXISTING) for entry in found]
    again = encode_manifest(kept, schema=SCHEMA, spec=PartitionSpec())
    assert decode_manifest(again, _listed(again, kept, sequence_number=12, added_snapshot_id=99)) == kept


def test_no_entries_and_many_come_back() -> None:
    assert decode_manifest_list(_encode_list([])) == []
    many = _long_list(3500)
    assert decode_manifest_list(_encode_list(many)) == many


def test_an_entry_that_is_not_new_needs_its_numbers() -> None:
    with pytest.raises(CorruptTableError, match="not known"):
        encode_manifest([ManifestEntry(EXISTING, 5, None, 3, _file())], schema=SCHEMA, spec=PartitionSpec())


def test_partition_values_that_the_spec_lacks_are_refused() -> None:
    with pytest.raises(UnsupportedTableError, match="Nothing was written"):
        encode_manifest(
            [replace(ENTRIES[0], data_file=_file(partition={"day": 1}))], schema=SCHEMA, spec=PartitionSpec()
        )


@pytest.mark.parametrize(
    "name",
    [f"{kind}_{what}_count" for kind in ("added", "existing", "deleted") for what in ("files", "rows")],
)
@pytest.mark.parametrize("off", [-1, 1])
def test_other_counts_than_the_list_says_are_damage(name: str, off: int) -> None:
    data = encode_manifest(ENTRIES, schema=SCHEMA, spec=PartitionSpec())
    listed = _listed(data, ENTRIES)
    with pytest.raises(CorruptTableError, match="the manifest list says"):
        decode_manifest(data, replace(listed, **{name: getattr(listed, name) + off}))
    unknown: dict[str, Any] = {name: None}
    assert len(decode_manifest(data, replace(listed, **unknown))) == 3


def test_a_manifest_of_another_length_is_damage() -> None:
    data = encode_manifest(ENTRIES, schema=SCHEMA, spec=PartitionSpec())
    with pytest.raises(CorruptTableError, match="bytes"):
        decode_manifest(data + b"x", _listed(data, ENTRIES))


def test_a_list_cut_anywhere_is_damage_and_no_shorter_list() -> None:
    data = _encode_list(_long_list(3500))
    sync = data[-16:]
    blocks = [at for at in range(len(data)) if data.startswith(sync, at)]
    assert len(blocks) > 10  # so that there are cuts between blocks
    near = [end + 16 + step for end in blocks for step in range(-18, 6)]
    lengths = {*range(0, 3000, 7), *range(3000, len(data), 997), *near, *range(len(data) - 40, len(data))}
    for length in one_in(5, sorted(number for number in lengths if 0 <= number < len(data))):
        with pytest.raises(CorruptTableError):
            decode_manifest_list(data[:length])


def test_a_manifest_cut_anywhere_is_damage_even_if_the_list_tells_its_length_so() -> None:
    entries = [ManifestEntry(ADDED, None, None, None, _file(n)) for n in range(600)]
    data = encode_manifest(entries, schema=SCHEMA, spec=PartitionSpec())
    listed = _listed(data, entries)
    for length in one_in(4, [*range(0, len(data), 499), *range(len(data) - 40, len(data))]):
        with pytest.raises(CorruptTableError):
            decode_manifest(data[:length], replace(listed, manifest_length=length))


def test_a_flipped_bit_never_makes_fewer_entries() -> None:
    manifests = _long_list(400)
    data = _encode_list(manifests)
    picked = random.Random(4).sample(range(len(data) * 8), 700)
    bits = one_in(4, [*range(2500 * 8, 2600 * 8), *range(len(data) * 8 - 200, len(data) * 8), *picked])
    refused = 0
    for bit in bits:
        damaged = bytearray(data)
        damaged[bit // 8] ^= 1 << bit % 8
        try:
            found = decode_manifest_list(bytes(damaged))
        except CorruptTableError:
            refused += 1
        else:
            assert len(found) == len(manifests)
    assert refused / len(bits) > 300 / 1700


def test_a_flipped_bit_in_a_manifest_never_makes_fewer_entries() -> None:
    entries = [ManifestEntry(ADDED, None, None, None, _file(n)) for n in range(60)]
    data = encode_manifest(entries, schema=SCHEMA, spec=PartitionSpec())
    listed = _listed(data, entries)
    for bit in one_in(3, random.Random(5).sample(range(len(data) * 8), 700)):
        damaged = bytearray(data)
        damaged[bit // 8] ^= 1 << bit % 8
        try:
            assert len(decode_manifest(bytes(damaged), listed)) == 60
        except CorruptTableError as error:
            assert "m.avro" in str(error)


@pytest.mark.parametrize("junk", [b"", b"Obj\x01", b"PAR1" * 20, b"\x00" * 100, b"{}"])
def test_junk_is_damage(junk: bytes) -> None:
    with pytest.raises(CorruptTableError, match="restore it"):
        decode_manifest_list(junk)


def _foreign_list(schema: dict[str, Any], rows: Sequence[dict[str, Any]], version: str = "2") -> bytes:
    sink = io.BytesIO()
    fastavro.writer(sink, schema, rows, metadata={"format-version": version})
    return sink.getvalue()


def _renamed(names: dict[int, str], without: Sequence[int] = ()) -> dict[str, Any]:
    schema = json.loads(json.dumps(MANIFEST_FILE_SCHEMA))
    schema["fields"] = [
        {**field, "name": names.get(field["field-id"], field["name"])}
        for field in schema["fields"]
        if field["field-id"] not in without
    ]
    return dict(schema)


ROW = {
    "manifest_path": "s3://b/t/m.avro", "manifest_length": 5, "partition_spec_id": 0, "content": 0,
    "sequence_number": 2, "min_sequence_number": 1, "added_snapshot_id": 8, "added_rows_count": 40,
    "existing_rows_count": 50, "deleted_rows_count": 60,
}  # fmt: skip


def test_counts_are_found_by_id_whatever_they_are_called() -> None:
    names = {504: "added_data_files_count", 505: "existing_data_files_count", 506: "deleted_data_files_count"}
    row = {**ROW, "added_data_files_count": 4, "existing_data_files_count": 5, "deleted_data_files_count": 6}
    (found,) = decode_manifest_list(_foreign_list(_renamed(names), [row]))
    assert (found.added_files_count, found.existing_files_count, found.deleted_files_count) == (4, 5, 6)
    assert (found.added_rows_count, found.existing_rows_count, found.deleted_rows_count) == (40, 50, 60)
    assert (found.partitions, found.key_metadata) == (None, None)


def test_counts_that_the_writer_left_out_are_unknown_and_not_zero() -> None:
    data = _foreign_list(_renamed({}, without=(504, 505, 506, 507, 512, 513, 514, 519)), [ROW])
    (found,) = decode_manifest_list(data)
    assert (found.added_files_count, found.deleted_rows_count) == (None, None)
    with pytest.raises(CorruptTableError, match="added_files_count"):
        _encode_list([found])  # readers would take it for empty


def test_a_list_of_the_first_version_has_no_sequence_numbers() -> None:
    data = _foreign_list(_renamed({}, without=(515, 516, 517, 504, 505, 506)), [ROW], version="1")
    (found,) = decode_manifest_list(data)
    assert (found.content, found.sequence_number, found.min_sequence_number) == (0, 0, 0)


@pytest.mark.parametrize("lacking", [500, 501, 502, 503, 515, 516, 517])
def test_a_field_that_readers_need_is_not_made_up(lacking: int) -> None:
    schema = _renamed({}, without=(lacking, 504, 505, 506))
    with pytest.raises(CorruptTableError, match="lacks"):
        decode_manifest_list(_foreign_list(schema, [ROW]))
