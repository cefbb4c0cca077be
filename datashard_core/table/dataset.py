"""A scan as an Arrow dataset, so that DuckDB pushes projection and filters down to the files."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from datashard_core.commit.paths import key_of

if TYPE_CHECKING:
    from datashard_core.format.table_metadata import TableMetadata
    from datashard_core.table.scan import Scan


def arrow_dataset(scan: Scan) -> Any:
    """The scan's rows as a ``pyarrow.dataset.Dataset``, or as a stream where names have changed.

    A dataset finds columns by name. That is right only while no schema of the table ever gave a
    field another name or type, so for any other table the rows come from the scan, which goes by id.
    """
    import pyarrow as pa
    import pyarrow.dataset as pads

    schema = scan.schema.to_arrow()
    files = scan.data_files()
    if not files or not names_are_stable(scan.metadata):
        return pa.RecordBatchReader.from_batches(schema, scan.to_batches())
    filesystem, root = scan.storage.filesystem()
    # Many small files: read far ahead, and merge a file's column ranges into one request.
    options = pads.ParquetFragmentScanOptions(pre_buffer=True)
    format_ = pads.ParquetFileFormat(default_fragment_scan_options=options)
    fragments = [
        format_.make_fragment(
            f"{root}/{key_of(file.file_path, scan.metadata.location, scan.storage.root)}",
            filesystem,
            file_size=file.file_size_in_bytes,
        )
        for file in files
    ]
    return pads.FileSystemDataset(fragments, schema, format_, filesystem)


def names_are_stable(metadata: TableMetadata) -> bool:
    """Whether every schema that the table ever had gives each field id one name and one type."""
    meaning: dict[int, tuple[str, str]] = {}
    owner: dict[str, int] = {}
    for schema in metadata.schemas:
        for field in schema.fields:
            told = (field.name, repr(field.type))
            if meaning.setdefault(field.field_id, told) != told:
                return False
            if owner.setdefault(field.name, field.field_id) != field.field_id:
                return False
    return True
