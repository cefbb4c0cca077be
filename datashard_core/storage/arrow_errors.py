"""What Arrow's S3 client says of a refusal: its text carries the code, the operation and the store's words. Pure."""

from __future__ import annotations

import re

from datashard_core.storage.s3_errors import Answer

_SAYS = "AWS Error"
_TEXT = (
    r"(?s)AWS Error (?:\[code \d+\]|(?P<name>[A-Z_0-9]+))(?: \(HTTP status (?P<status>\d+)\))? "
    r"during (?P<operation>\w+) operation: (?P<rest>.*)"
)
_UNKNOWN_NAME = r"(?s)Unable to parse ExceptionName: (\S+) Message: ?(.*)"
_NO_BODY = "No response body"
_STATUSES = {
    "ACCESS_DENIED": 403,
    "NO_SUCH_BUCKET": 404,
    "NO_SUCH_KEY": 404,
    "NO_SUCH_UPLOAD": 404,
    "RESOURCE_NOT_FOUND": 404,
    "SLOW_DOWN": 503,
    "SERVICE_UNAVAILABLE": 503,
    "THROTTLING": 503,
    "INTERNAL_FAILURE": 500,
    "REQUEST_TIMEOUT": 408,
}
_CODES = {"RESOURCE_NOT_FOUND": "NotFound", "THROTTLING": "Throttling", "VALIDATION": "InvalidArgument"}
_OPERATIONS = {"HeadObject": "head", "GetObject": "get", "ListObjectsV2": "list", "AbortMultipartUpload": "abort"}
_ARCHIVED = "storage class"  # the SDK gives InvalidObjectState a number that differs between its releases


def is_of_arrow(error: OSError) -> bool:
    """Whether Arrow raised it for an S3 request."""
    return _SAYS in str(error)


def read_arrow(text: str) -> tuple[Answer, str] | None:
    """A refusal and the operation that was refused (a key of ``PERMISSIONS``); None if no answer came.

    Example:
        >>> read_arrow("AWS Error ACCESS_DENIED during GetObject operation: Access Denied")[0].code
        'AccessDenied'
    """
    found = re.search(_TEXT, text)
    if found is None:
        return None
    name, rest = found["name"] or "", found["rest"].strip()
    operation = _OPERATIONS.get(found["operation"], "put")
    if name == "NETWORK_CONNECTION":
        redirected = "redirects" in rest
        return (Answer("TemporaryRedirect", 307, rest), operation) if redirected else None
    status = int(found["status"] or _STATUSES.get(name, 403 if name else 400))
    if not rest or rest.startswith(_NO_BODY):
        return Answer(str(status), status), operation  # the name is then made up from the status
    unknown = re.match(_UNKNOWN_NAME, rest)
    if unknown is not None:
        return Answer(unknown[1], status, unknown[2]), operation
    if not name and _ARCHIVED in rest:
        return Answer("InvalidObjectState", 403, rest), operation
    code = _CODES.get(name) or "".join(part.capitalize() for part in name.split("_"))
    return Answer(code if name and name != "UNKNOWN" else str(status), status, rest), operation
