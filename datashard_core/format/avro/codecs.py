"""How the blocks of Avro files are compressed (Avro specification 1.11, "Required Codecs", "Optional Codecs").

Manifests are deflated, or not compressed at all; few writers use anything else. A few kilobytes can stand for
gigabytes, so no codec gives more bytes than there is room for.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable, Mapping

_LZMA_MEMORY = 128 * 2**20
_CHECKSUM_BYTES = 4


def decompressed(codec: str, data: bytes, most: int) -> bytes:
    """The bytes of a block.

    Args:
        codec: one of :data:`CODECS`.
        data: the block.
        most: bytes that there is room for.

    Returns:
        One byte more than ``most`` where it has more.

    Raises:
        ValueError: they are damaged; likewise zlib.error, OSError and EOFError.
    """
    return CODECS[codec](data, most + 1)


def _null(data: bytes, most: int) -> bytes:
    return data[:most]


def _deflate(data: bytes, most: int) -> bytes:
    inflating = zlib.decompressobj(-zlib.MAX_WBITS)
    return _ended(inflating.decompress(data, most), most, inflating.eof)


def _bzip2(data: bytes, most: int) -> bytes:
    import bz2

    decompressing = bz2.BZ2Decompressor()
    return _ended(decompressing.decompress(data, most), most, decompressing.eof)


def _xz(data: bytes, most: int) -> bytes:
    import lzma

    try:
        decompressing = lzma.LZMADecompressor(memlimit=_LZMA_MEMORY)
        return _ended(decompressing.decompress(data, most), most, decompressing.eof)
    except lzma.LZMAError as error:
        raise ValueError(str(error)) from error


def _zstandard(data: bytes, most: int) -> bytes:
    import pyarrow as pa

    with pa.CompressedInputStream(pa.BufferReader(data), "zstd") as stream:
        return bytes(stream.read(most))


def _snappy(data: bytes, most: int) -> bytes:
    """Snappy's own form begins with the number of bytes that it becomes; Avro puts a checksum behind it."""
    import pyarrow as pa

    length = shift = 0
    for byte in data[:5]:
        length |= (byte & 0x7F) << shift
        shift += 7
        if byte < 0x80:
            break
    if length >= most:
        raise ValueError(f"a block becomes {length} bytes, and there is room for {most - 1}")
    found = bytes(pa.decompress(data[:-_CHECKSUM_BYTES], decompressed_size=length, codec="snappy"))
    if zlib.crc32(found).to_bytes(_CHECKSUM_BYTES, "big") != data[-_CHECKSUM_BYTES:]:
        raise ValueError("the checksum of a block is wrong")
    return found


def _ended(found: bytes, most: int, at_end: bool) -> bytes:
    if not at_end and len(found) < most:
        raise EOFError("the compressed bytes of a block are cut short")
    return found


CODECS: Mapping[str, Callable[[bytes, int], bytes]] = {
    "null": _null,
    "deflate": _deflate,
    "bzip2": _bzip2,
    "xz": _xz,
    "zstandard": _zstandard,
    "snappy": _snappy,
}
