"""The objects of the benchmarks' S3 server: conditions, listings and multipart uploads, without HTTP.

Everything runs in one thread and never waits, so each operation is atomic.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right, insort
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from email.utils import formatdate
from urllib.parse import quote
from xml.etree import ElementTree
from xml.sax.saxutils import escape

NAMESPACE = "http://s3.amazonaws.com/doc/2006-03-01/"
MAX_KEYS = 1000


@dataclass(frozen=True, slots=True)
class StoredObject:
    """One object."""

    body: bytes
    etag: str  # with its quotes, as it stands in the header
    modified: float  # seconds since 1970, by the store's clock


@dataclass(frozen=True, slots=True)
class Reply:
    """An answer, before HTTP."""

    status: int
    body: bytes = b""
    headers: Mapping[str, str] = field(default_factory=dict)


def error(status: int, code: str, message: str = "") -> Reply:
    """An error as S3 words it."""
    text = (
        f"<?xml version='1.0' encoding='UTF-8'?><Error><Code>{code}</Code><Message>{escape(message)}</Message></Error>"
    )
    return Reply(status, text.encode(), {"Content-Type": "application/xml"})


def xml(text: str) -> Reply:
    """A document that S3 answers with."""
    return Reply(200, f"<?xml version='1.0' encoding='UTF-8'?>{text}".encode(), {"Content-Type": "application/xml"})


class Objects:
    """The objects of one bucket, sorted by key.

    Args:
        clock: seconds since 1970.
    """

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._objects: dict[str, StoredObject] = {}
        self._keys: list[str] = []
        self._uploads: dict[str, dict[int, bytes]] = {}
        self._written = 0

    def clear(self) -> None:
        """Forget everything."""
        self._objects.clear()
        self._keys.clear()
        self._uploads.clear()

    def sizes(self, prefix: str) -> list[tuple[str, int]]:
        """Key and size of the objects whose key begins with ``prefix``."""
        return [(key, len(found.body)) for key, found in self._objects.items() if key.startswith(prefix)]

    def get(self, key: str, byte_range: str = "", *, head: bool = False) -> Reply:
        """GET and HEAD."""
        found = self._objects.get(key)
        if found is None:
            return Reply(404) if head else error(404, "NoSuchKey", key)
        headers = {
            "ETag": found.etag,
            "Last-Modified": formatdate(found.modified, usegmt=True),
            "Accept-Ranges": "bytes",
        }
        size = len(found.body)
        if not byte_range:
            headers["Content-Length"] = str(size)
            return Reply(200, b"" if head else found.body, headers)
        span = parse_range(byte_range, size)
        if span is None:
            return error(416, "InvalidRange", byte_range)
        start, end = span
        headers["Content-Range"] = f"bytes {start}-{end - 1}/{size}"
        headers["Content-Length"] = str(end - start)
        return Reply(206, b"" if head else found.body[start:end], headers)

    def put(self, key: str, body: bytes, if_none_match: str = "", if_match: str = "") -> Reply:
        """PUT, with ``If-None-Match: *`` and ``If-Match`` honoured."""
        refused = self._check(key, if_none_match, if_match)
        if refused is not None:
            return refused
        self._written += 1
        etag = f'"{self._written:032x}"'
        if key not in self._objects:
            insort(self._keys, key)
        self._objects[key] = StoredObject(body, etag, self._clock())
        return Reply(200, headers={"ETag": etag})

    def delete(self, key: str) -> Reply:
        """DELETE; a key that is not there is fine."""
        if self._objects.pop(key, None) is not None:
            del self._keys[bisect_left(self._keys, key)]
        return Reply(204)

    def delete_many(self, body: bytes) -> Reply:
        """POST ?delete."""
        wanted = [node.text or "" for node in ElementTree.fromstring(body).iter() if node.tag.endswith("Key")]
        for key in wanted:
            self.delete(key)
        deleted = "".join(f"<Deleted><Key>{escape(key)}</Key></Deleted>" for key in wanted)
        return xml(f'<DeleteResult xmlns="{NAMESPACE}">{deleted}</DeleteResult>')

    def listing(self, bucket: str, query: Mapping[str, str]) -> Reply:
        """ListObjectsV2."""
        prefix, delimiter = query.get("prefix", ""), query.get("delimiter", "")
        limit = min(int(query.get("max-keys", MAX_KEYS)), MAX_KEYS)
        after = query.get("continuation-token") or query.get("start-after", "")
        keys, folders, more = self._page(prefix, delimiter, after, limit)
        encoding = query.get("encoding-type", "")
        encode = quote if encoding else escape
        rows = [self._row(key, encode(key)) for key in keys]
        rows += [f"<CommonPrefixes><Prefix>{encode(folder)}</Prefix></CommonPrefixes>" for folder in folders]
        last = max([*keys, *(folder + "\U0010ffff" for folder in folders)], default="")
        token = f"<NextContinuationToken>{escape(last)}</NextContinuationToken>" if more else ""
        return xml(
            f'<ListBucketResult xmlns="{NAMESPACE}"><Name>{bucket}</Name><Prefix>{encode(prefix)}</Prefix>'
            f"<KeyCount>{len(rows)}</KeyCount><MaxKeys>{limit}</MaxKeys><Delimiter>{escape(delimiter)}</Delimiter>"
            f"<IsTruncated>{str(more).lower()}</IsTruncated><EncodingType>{encoding}</EncodingType>{token}{''.join(rows)}</ListBucketResult>"
        )

    def begin_upload(self, bucket: str, key: str) -> Reply:
        """POST ?uploads."""
        self._written += 1
        upload = f"upload-{self._written}"
        self._uploads[upload] = {}
        return xml(
            f'<InitiateMultipartUploadResult xmlns="{NAMESPACE}"><Bucket>{bucket}</Bucket><Key>{escape(key)}</Key>'
            f"<UploadId>{upload}</UploadId></InitiateMultipartUploadResult>"
        )

    def put_part(self, upload: str, number: int, body: bytes) -> Reply:
        """PUT ?partNumber&uploadId."""
        parts = self._uploads.get(upload)
        if parts is None:
            return error(404, "NoSuchUpload", upload)
        parts[number] = body
        return Reply(200, headers={"ETag": f'"{upload}-{number}"'})

    def end_upload(self, key: str, upload: str, if_none_match: str = "") -> Reply:
        """POST ?uploadId."""
        if upload not in self._uploads:
            return error(404, "NoSuchUpload", upload)
        refused = self._check(key, if_none_match, "")
        if refused is not None:
            return refused
        parts = self._uploads.pop(upload)
        done = self.put(key, b"".join(parts[number] for number in sorted(parts)))
        etag = escape(done.headers["ETag"])
        return xml(
            f'<CompleteMultipartUploadResult xmlns="{NAMESPACE}"><Key>{escape(key)}</Key><ETag>{etag}</ETag>'
            "</CompleteMultipartUploadResult>"
        )

    def abort_upload(self, upload: str) -> Reply:
        """DELETE ?uploadId."""
        self._uploads.pop(upload, None)
        return Reply(204)

    def _check(self, key: str, if_none_match: str, if_match: str) -> Reply | None:
        found = self._objects.get(key)
        if if_none_match and found is not None:
            return error(412, "PreconditionFailed", key)
        if if_match and found is None:
            return error(404, "NoSuchKey", key)
        if if_match and found is not None and found.etag.strip('"') != if_match.strip('"'):
            return error(412, "PreconditionFailed", key)
        return None

    def _page(self, prefix: str, delimiter: str, after: str, limit: int) -> tuple[list[str], list[str], bool]:
        """Keys and folders of one page, and whether there are more."""
        keys: list[str] = []
        folders: list[str] = []
        at = max(bisect_left(self._keys, prefix), bisect_right(self._keys, after) if after else 0)
        while at < len(self._keys) and self._keys[at].startswith(prefix):
            if len(keys) + len(folders) == limit:
                return keys, folders, True
            key = self._keys[at]
            cut = key.find(delimiter, len(prefix)) if delimiter else -1
            if cut < 0:
                keys.append(key)
                at += 1
                continue
            folders.append(key[: cut + len(delimiter)])
            at = bisect_right(self._keys, folders[-1] + "\U0010ffff")
        return keys, folders, False

    def _row(self, key: str, shown: str) -> str:
        found = self._objects[key]
        return (
            f"<Contents><Key>{shown}</Key><LastModified>{_iso(found.modified)}</LastModified>"
            f"<ETag>{escape(found.etag)}</ETag><Size>{len(found.body)}</Size><StorageClass>STANDARD</StorageClass>"
            "</Contents>"
        )


def parse_range(text: str, size: int) -> tuple[int, int] | None:
    """Start and end of ``bytes=a-b``, ``bytes=a-`` or ``bytes=-n``; None where no byte is in it."""
    first, _, last = text.removeprefix("bytes=").partition("-")
    if not first:
        start, end = max(0, size - int(last)), size
    else:
        start, end = int(first), min(int(last) + 1 if last else size, size)
    return (start, end) if start < end else None


def decode_aws_chunks(body: bytes) -> bytes:
    """The payload of a body in ``aws-chunked`` form; signatures and trailers are left out."""
    parts: list[bytes] = []
    at = 0
    while True:
        line_end = body.index(b"\r\n", at)
        size = int(body[at:line_end].partition(b";")[0], 16)
        if size == 0:
            return b"".join(parts)
        at = line_end + 2
        parts.append(body[at : at + size])
        at += size + 2


def _iso(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%dT%H:%M:%S.000Z")
