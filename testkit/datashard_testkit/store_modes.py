"""Oddities of S3 stores, as middleware before the S3 server of the tests.

A mode changes requests on their way to the server, or answers on their way back. Modes are named by
a string, with a value after ``=`` where they take one, and may be combined: the first that is named
sees a request first. :meth:`~datashard_testkit.s3_server.S3Server.modes` switches them on for a
block.

==============================  ==================================================================
``check-then-write=SECONDS``    conditions of a PUT are checked, and the body is written that much later
``if-none-match-ignored``       a PUT with If-None-Match overwrites
``if-none-match=STATUS``        a PUT with If-None-Match is answered with an error
``quoted-etag-refused``         If-Match holds for an unquoted ETag only (Ceph RGW 16.2)
``weak-etags``                  ETags are sent as ``W/"..."``, and If-Match with a weak one never holds
``if-match-ignored``            a PUT with If-Match overwrites
``if-match=STATUS``             a PUT with If-Match is answered with an error: 400, 403, 412 or 501
``no-delete-objects``           DeleteObjects is answered 501
``delete-objects=STATUS``       DeleteObjects is answered with an error: 400, 403, 404, 405 or 501
``delete-objects-needs-md5``    DeleteObjects without Content-MD5 is answered 400
``checksums-refused``           a request with a header ``x-amz-checksum-*`` is answered 400
``without=HEADER``              answers to GET, HEAD and PUT do not have that header
``listing-without=ELEMENT``     entries of listings do not have that element (``ETag``, ``LastModified``, ``Size``)
``forbidden=CAUSE[,METHOD]``    403 to everything, or to one method; the causes are those of :data:`CAUSES`
``redirect=STATUS[,location]``  301, 302, 307 or 308 to everything, with a Location that names the same URL
``below=PATH``                  the endpoint is that path of the server; 404 to the rest
``short=COUNT[,TEXT]``          so many GETs of keys that contain the text get half a body that is declared as whole
``cut=COUNT[,TEXT]``            likewise, but the whole length is declared and the connection ends
==============================  ==================================================================
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from http import HTTPStatus
from threading import Lock
from typing import Any

from datashard_testkit.store_http import Answer, Mode, Request, Send, error

_CODES = {
    400: ("InvalidArgument", "Invalid Argument"),
    403: ("AccessDenied", "Access Denied"),
    412: ("PreconditionFailed", "At least one of the pre-conditions you specified did not hold"),
    501: ("NotImplemented", "A header you provided implies functionality that is not implemented"),
}


def _refusal(request: Request, status: int) -> Answer:
    code, message = _CODES[status]
    return error(request, status, code, message)


# -- conditions ------------------------------------------------------------------------------


@dataclass
class CheckThenWrite:
    """A store that is not atomic: the condition is checked, and the body is written ``gap`` seconds later."""

    gap: float

    def __call__(self, request: Request, send: Send) -> Answer:
        if_match, if_none_match = request.header("If-Match"), request.header("If-None-Match")
        if request.method != "PUT" or (if_match is None and if_none_match is None):
            return send(request)
        found = send(request.as_head())
        exists = found.status == HTTPStatus.OK
        if not exists and if_match is not None:
            return error(request, 404, "NoSuchKey", "The specified key does not exist.")
        if exists and (if_none_match is not None or _bare(if_match) != _bare(found.header("ETag"))):
            return _refusal(request, 412)
        time.sleep(self.gap)
        return send(request.without("If-None-Match", "If-Match"))


@dataclass
class ConditionIgnored:
    """A store that does not know a conditional header, and writes."""

    header: str

    def __call__(self, request: Request, send: Send) -> Answer:
        return send(request.without(self.header) if request.method == "PUT" else request)


@dataclass
class ConditionRefused:
    """A store that answers each PUT with a conditional header with one error."""

    header: str
    status: int

    def __call__(self, request: Request, send: Send) -> Answer:
        if request.method == "PUT" and request.header(self.header) is not None:
            return _refusal(request, self.status)
        return send(request)


def quoted_etag_refused(request: Request, send: Send) -> Answer:
    """Ceph RGW 16.2 compares the header with an ETag that it keeps without quotes."""
    asked = request.header("If-Match")
    if request.method == "PUT" and asked is not None and asked.strip().startswith(('"', "W/")):
        return _refusal(request, 412)
    return send(request)


def weak_etags(request: Request, send: Send) -> Answer:
    """A gateway that compresses makes ETags weak; RFC 9110 has If-Match fail for a weak one."""
    if request.method == "PUT" and (request.header("If-Match") or "").startswith("W/"):
        return _refusal(request, 412)
    answer = send(request)
    etag = answer.header("ETag")
    if etag is not None:
        answer = answer.with_header("ETag", f"W/{etag}")
    if _is_listing(answer):
        answer = answer.with_body(re.sub(rb"<ETag>", b"<ETag>W/", answer.body))
    return answer


def _bare(etag: str | None) -> str:
    return (etag or "").strip().removeprefix("W/").strip('"')


# -- deletes and checksums --------------------------------------------------------------------


def no_delete_objects(request: Request, send: Send) -> Answer:
    """S3Proxy and LocalBucket have DELETE alone."""
    if request.deletes_objects:
        return error(
            request, 501, "NotImplemented", "A header you provided implies functionality that is not implemented."
        )
    return send(request)


@dataclass
class BulkRefused:
    """A store that answers each DeleteObjects with one error."""

    status: int

    def __call__(self, request: Request, send: Send) -> Answer:
        if not request.deletes_objects:
            return send(request)
        code = {405: "MethodNotAllowed", 404: "NoSuchKey"}.get(self.status) or _CODES[self.status][0]
        return error(request, self.status, code, "The specified method is not allowed against this resource.")


def delete_objects_needs_md5(request: Request, send: Send) -> Answer:
    """Older stores demand what S3 demanded of DeleteObjects at first."""
    if request.deletes_objects and request.header("Content-MD5") is None:
        return error(request, 400, "InvalidRequest", "Missing required header for this request: Content-MD5")
    return send(request)


def checksums_refused(request: Request, send: Send) -> Answer:
    """Stores from before S3's flexible checksums."""
    for name in request.environ:
        if name.startswith(("HTTP_X_AMZ_CHECKSUM", "HTTP_X_AMZ_SDK_CHECKSUM", "HTTP_X_AMZ_TRAILER")):
            header = name.removeprefix("HTTP_").replace("_", "-").lower()
            return error(request, 400, "InvalidRequest", f"Unsupported header {header}")
    return send(request)


# -- answers that lack something --------------------------------------------------------------


@dataclass
class HeaderMissing:
    """A store whose answers about one object lack a header."""

    name: str

    def __call__(self, request: Request, send: Send) -> Answer:
        answer = send(request)
        return answer.without(self.name) if request.method in ("GET", "HEAD", "PUT") else answer


@dataclass
class ElementMissing:
    """A store whose listings lack an element of each object."""

    name: str

    def __call__(self, request: Request, send: Send) -> Answer:
        answer = send(request)
        if not _is_listing(answer):
            return answer
        element = self.name.encode()
        return answer.with_body(re.sub(rb"<%b>[^<]*</%b>" % (element, element), b"", answer.body))


def _is_listing(answer: Answer) -> bool:
    return answer.status == HTTPStatus.OK and b"<ListBucketResult" in answer.body[:300]


@dataclass
class Shortened:
    """A body that is cut to a half for the first GETs of keys that contain a text.

    Attributes:
        left: how many GETs are still to be shortened.
        text: the text.
        declared: whether the length that is declared is that of the half.
    """

    left: int
    text: str
    declared: bool
    lock: Lock = field(default_factory=Lock, repr=False)

    def __call__(self, request: Request, send: Send) -> Answer:
        answer = send(request)
        key = request.path.lstrip("/").partition("/")[2]
        if request.method != "GET" or not key or self.text not in key or len(answer.body) < 2 or answer.status >= 300:
            return answer
        with self.lock:
            if self.left <= 0:
                return answer
            self.left -= 1
        half = answer.body[: len(answer.body) // 2]
        return answer.with_body(half) if self.declared else replace(answer, body=half)


# -- answers to everything --------------------------------------------------------------------

CAUSES: dict[str, tuple[int, str, str]] = {
    "AccessDenied": (403, "AccessDenied", "Access Denied"),
    "RequestTimeTooSkewed": (
        403,
        "RequestTimeTooSkewed",
        "The difference between the request time and the current time is too large.",
    ),
    "KMS.DisabledException": (
        400,
        "KMS.DisabledException",
        "arn:aws:kms:us-east-1:111122223333:key/0aa1 is disabled. (Service: Kms, Status Code: 400)",
    ),
    "KMS.AccessDenied": (
        403,
        "AccessDenied",
        "User: arn:aws:iam::111122223333:user/writer is not authorized to perform: kms:GenerateDataKey on resource: "
        "arn:aws:kms:us-east-1:111122223333:key/0aa1 because no identity-based policy allows the action",
    ),
    "InvalidObjectState": (
        403,
        "InvalidObjectState",
        "The operation is not valid for the object's storage class",
    ),
    "QuotaExceeded": (403, "QuotaExceeded", "The quota of the bucket is exceeded"),
    "ExpiredToken": (403, "ExpiredToken", "The provided token has expired."),
    "HTML": (403, "", "<html><head><title>Blocked</title></head><body><h1>Your proxy blocked this</h1></body></html>"),
}
"""Why a store, or what stands before it, refuses: status, code, message (of HTML: the page)."""


@dataclass
class Forbidden:
    """A store that refuses everything, or all requests of one method."""

    cause: str
    method: str

    def __call__(self, request: Request, send: Send) -> Answer:
        if self.method and request.method != self.method:
            return send(request)
        status, code, message = CAUSES[self.cause]
        if not code:
            body = b"" if request.method == "HEAD" else message.encode()
            return Answer(status, [("Content-Type", "text/html")]).with_body(body)
        return error(request, status, code, message)


@dataclass
class Redirected:
    """A store that redirects everything, to itself where it says where to."""

    status: int
    location: bool

    def __call__(self, request: Request, send: Send) -> Answer:
        code = "PermanentRedirect" if self.status in (301, 308) else "TemporaryRedirect"
        host = request.header("Host") or ""
        more = [("Location", f"http://{host}{request.environ.get('RAW_URI', request.path)}")] if self.location else []
        return error(request, self.status, code, "Please send requests to the specified endpoint.", *more)


@dataclass
class Below:
    """A store behind a path of the server."""

    path: str

    def __call__(self, request: Request, send: Send) -> Answer:
        if not f"{request.path}/".startswith(f"{self.path}/"):
            return error(request, 404, "NotFound", f"{request.path} is not below {self.path}")
        moved: dict[str, Any] = {
            name: request.environ[name].removeprefix(self.path) or "/"
            for name in ("PATH_INFO", "REQUEST_URI", "RAW_URI")
            if name in request.environ
        }
        return send(Request({**request.environ, **moved}, request.body))


# -- by name ----------------------------------------------------------------------------------


def _two(value: str) -> tuple[str, str]:
    first, _, second = value.partition(",")
    return first, second


def _shortened(declared: bool) -> Callable[[str], Mode]:
    return lambda value: Shortened(int(_two(value)[0] or 1), _two(value)[1], declared)


_MODES: dict[str, Callable[[str], Mode]] = {
    "check-then-write": lambda value: CheckThenWrite(float(value)),
    "if-none-match-ignored": lambda _: ConditionIgnored("If-None-Match"),
    "if-none-match": lambda value: ConditionRefused("If-None-Match", int(value)),
    "quoted-etag-refused": lambda _: quoted_etag_refused,
    "weak-etags": lambda _: weak_etags,
    "if-match-ignored": lambda _: ConditionIgnored("If-Match"),
    "if-match": lambda value: ConditionRefused("If-Match", int(value)),
    "no-delete-objects": lambda _: no_delete_objects,
    "delete-objects": lambda value: BulkRefused(int(value)),
    "delete-objects-needs-md5": lambda _: delete_objects_needs_md5,
    "checksums-refused": lambda _: checksums_refused,
    "without": HeaderMissing,
    "listing-without": ElementMissing,
    "forbidden": lambda value: Forbidden(*_two(value)),
    "redirect": lambda value: Redirected(int(_two(value)[0]), _two(value)[1] == "location"),
    "below": lambda value: Below(f"/{value.strip('/')}"),
    "short": _shortened(declared=True),
    "cut": _shortened(declared=False),
}


def mode_of(text: str) -> Mode:
    """The mode that a string names, with counters of its own.

    Raises:
        ValueError: there is none of that name, or its value does not fit.
    """
    name, _, value = text.partition("=")
    if name not in _MODES:
        raise ValueError(f"there is no mode {name!r} of the S3 server: {', '.join(sorted(_MODES))}")
    mode = _MODES[name](value)
    if isinstance(mode, Forbidden) and mode.cause not in CAUSES:
        raise ValueError(f"there is no cause {mode.cause!r} of a 403: {', '.join(CAUSES)}")
    if isinstance(mode, ConditionRefused) and mode.status not in _CODES:
        raise ValueError(f"{text!r}: the status is one of {', '.join(map(str, _CODES))}")
    return mode
