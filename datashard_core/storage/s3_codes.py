"""The error codes of S3 stores: the kind of failure, and what to do about it. Data.

An advice is one sentence or two. ``{bucket}``, ``{store}``, ``{where}`` and ``{permission}`` stand for
the bucket, the endpoint, the object's URI, and the action that the operation needs.
"""

from __future__ import annotations

from typing import NamedTuple

from datashard_core.errors import StorageReason


class Known(NamedTuple):
    """What a code means.

    Attributes:
        reason: for programs.
        advice: for people.
    """

    reason: StorageReason
    advice: str


_KEYS = Known(
    "credentials-missing",
    "{store} does not accept the credentials for bucket {bucket}: check the access key, the secret key and the "
    "session token, and that they belong to this endpoint.",
)
_SIGNATURE = Known(
    "credentials-missing",
    "{store} does not accept the credentials for bucket {bucket}: the signature does not match. Check the secret key "
    "(a missing or added character, a line end), the region, and that no proxy changes the request's path or headers.",
)
_EXPIRED = Known(
    "credentials-missing",
    "{store} does not accept the credentials for bucket {bucket}: the session token is invalid or has expired. Get new "
    "temporary keys, or use a role or a credentials_provider, which renews them.",
)
_CLOCK = Known(
    "access-denied",
    "The clock of this machine differs from the store's by too much. Set it right (NTP, chrony, w32tm), in containers "
    "and virtual machines the host's, and try again.",
)
_KMS = Known(
    "access-denied",
    "The encryption key (KMS) cannot be used: check that it is enabled and in the bucket's region, and grant "
    "kms:GenerateDataKey (to write) and kms:Decrypt (to read, and to write files of more than 16 MB) on it.",
)
_ARCHIVED = Known(
    "access-denied",
    "The object {where} is archived (Glacier, Deep Archive, an archive tier): restore it (aws s3api restore-object), "
    "and take the table's folder out of the lifecycle rule or tiering that archives it.",
)
_QUOTA = Known(
    "other",
    "The store's quota or disk is full: delete data, run maintain() with a shorter retention, or raise the quota.",
)
_ACCOUNT = Known(
    "access-denied",
    "The account that owns the keys or bucket {bucket} is suspended or not set up: the store's operator (on AWS the "
    "billing page, or support) tells why. No permission changes that.",
)
_UNSUPPORTED = Known(
    "unsupported",
    "{store} does not offer this operation. README, section Buckets, lists what a store has to offer.",
)
_ELSEWHERE = Known("other", "Bucket {bucket} has to be asked elsewhere: pass its region= (and endpoint=).")
_SLOW = Known("throttled", "The store asks to slow down.")
_PASSING = Known("unreachable", "Try again.")
DENIED = Known("access-denied", "Grant s3:GetObject, s3:PutObject, s3:DeleteObject and s3:ListBucket on the bucket.")
"""A plain denial, where the code says no more."""

LOGIN = Known(
    "credentials-missing",
    "A proxy or gateway before the store, or the store, wants a login that is not S3's: check the endpoint.",
)
PROXY = Known(
    "credentials-missing",
    "The HTTP proxy wants a user and a password: put them into HTTPS_PROXY, or name the store in NO_PROXY.",
)

CODES: dict[str, Known] = {
    **dict.fromkeys(("AccessDenied", "Forbidden", "UnauthorizedAccess", "Unauthorized", "AccessForbidden"), DENIED),
    **dict.fromkeys(
        (
            "InvalidAccessKeyId",
            "InvalidClientTokenId",
            "InvalidSecurity",
            "MissingSecurityHeader",
            "MissingAuthenticationToken",
            "UnrecognizedClientException",
            "CredentialsNotSupported",
            "AuthFailure",
        ),
        _KEYS,
    ),
    "SignatureDoesNotMatch": _SIGNATURE,
    **dict.fromkeys(
        ("ExpiredToken", "ExpiredTokenException", "InvalidToken", "InvalidTokenId", "TokenRefreshRequired"), _EXPIRED
    ),
    **dict.fromkeys(("RequestTimeTooSkewed", "RequestExpired", "RequestNotValidYet", "SignatureExpired"), _CLOCK),
    **dict.fromkeys(
        ("InvalidObjectState", "ObjectNotInActiveTierError", "RestoreInProgress", "RestoreAlreadyInProgress"), _ARCHIVED
    ),
    **dict.fromkeys(
        ("XMinioStorageFull", "InsufficientStorage", "StorageFull", "NoSpaceLeft", "TooManyObjects"), _QUOTA
    ),
    **dict.fromkeys(
        ("AccountProblem", "AllAccessDisabled", "NotSignedUp", "UserSuspended", "AccountSuspended", "Suspended"),
        _ACCOUNT,
    ),
    **dict.fromkeys(("NotImplemented", "MethodNotAllowed", "UnsupportedOperation", "NotSupported"), _UNSUPPORTED),
    **dict.fromkeys(
        (
            "PermanentRedirect",
            "TemporaryRedirect",
            "Redirect",
            "AuthorizationHeaderMalformed",
            "IllegalLocationConstraintException",
            "IncorrectEndpoint",
        ),
        _ELSEWHERE,
    ),
    **dict.fromkeys(
        (
            "SlowDown",
            "SlowDownRead",
            "SlowDownWrite",
            "ServiceUnavailable",
            "RequestLimitExceeded",
            "Throttling",
            "ThrottlingException",
            "TooManyRequests",
        ),
        _SLOW,
    ),
    **dict.fromkeys(("InternalError", "InternalFailure", "RequestTimeout", "BadGateway", "GatewayTimeout"), _PASSING),
}
_STATUSES: dict[int, Known] = {
    401: LOGIN,
    403: DENIED,
    405: _UNSUPPORTED,
    407: PROXY,
    408: _PASSING,
    429: _SLOW,
    501: _UNSUPPORTED,
    503: _SLOW,
    507: _QUOTA,
}
REDIRECTS = frozenset(code for code, known in CODES.items() if known is _ELSEWHERE)


def known(code: str, status: int) -> Known | None:
    """What a code means, else what its status means; None for a refusal of which neither is known. Pure."""
    found = CODES.get(code)
    if found is None and code.startswith(("KMS", "Kms", "XMinioKMS")):
        found = _SLOW if "Throttl" in code else _KMS
    if found is None and "quota" in code.lower():
        found = _QUOTA
    if found is None and 300 <= status < 400 and status != 304:
        found = _ELSEWHERE
    if found is None:
        found = _STATUSES.get(status)
    return _PASSING if found is None and status >= 500 else found


def of_denial(message: str) -> Known | None:
    """What the words of an AccessDenied say beyond a missing permission of S3's. Pure."""
    lowered = message.lower()
    if "kms:" in lowered or "kms key" in lowered or " kms " in lowered:
        return _KMS
    if "request has expired" in lowered or "request is not yet valid" in lowered:
        return _CLOCK
    return None
