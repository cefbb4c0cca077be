"""What an S3 store's answer means, and what to do about it. Pure.

Codes decide where there are any: a status alone does not tell a missing bucket from a missing key,
nor a lost race from a store that knows no conditions.
"""

from __future__ import annotations

from msgspec import Struct

from datashard_core.config import S3Config
from datashard_core.errors import DataShardError, StorageError, StoreNotConditionalError
from datashard_core.storage.base import ObjectNotFoundError, OutcomeUnknownError, PreconditionFailedError

PERMISSIONS = {
    "get": "s3:GetObject",
    "head": "s3:GetObject",
    "list": "s3:ListBucket",
    "put": "s3:PutObject",
    "put_if_absent": "s3:PutObject",
    "replace": "s3:PutObject",
    "delete": "s3:DeleteObject",
}
_DENIED = frozenset({"AccessDenied", "AllAccessDisabled", "Forbidden", "403", "UnauthorizedAccess"})
_BAD_KEYS = frozenset(
    {
        "InvalidAccessKeyId",
        "SignatureDoesNotMatch",
        "ExpiredToken",
        "InvalidToken",
        "InvalidTokenId",
        "TokenRefreshRequired",
        "InvalidClientTokenId",
    }
)
_THROTTLED = frozenset({"SlowDown", "503", "ServiceUnavailable", "RequestLimitExceeded", "Throttling", "429"})
_WRONG_REGION = frozenset({"PermanentRedirect", "TemporaryRedirect", "AuthorizationHeaderMalformed"})
CONDITIONAL = frozenset({"put_if_absent", "replace"})
"""Operations that are sent once."""


class Answer(Struct, frozen=True):
    """A store's refusal.

    Attributes:
        code: S3's error code; the status as text where the answer had no body.
        status: HTTP status.
        message: what the store said.
    """

    code: str
    status: int
    message: str = ""


def wrong_region(answer: Answer) -> bool:
    """Whether AWS says that the bucket is in another region than the one that was asked."""
    return answer.code in _WRONG_REGION


def meaning(answer: Answer, operation: str, key: str, config: S3Config) -> DataShardError:
    """The error that an answer stands for.

    Args:
        answer: the store's.
        operation: a key of :data:`PERMISSIONS`.
        key: the object, relative to the bucket.
        config: the store's configuration, for the way out.
    """
    code, status = answer.code, answer.status
    where = f"s3://{config.bucket}/{key}"
    if code == "NoSuchBucket":
        return StorageError(_no_bucket(config), reason="bucket-missing", key=where)
    if operation in CONDITIONAL:
        special = _of_condition(answer, operation, where, key)
        if special is not None:
            return special
    if code in ("NoSuchKey", "404", "NotFound") or status == 404:
        return ObjectNotFoundError(f"{where} does not exist", key=key)
    if code in _BAD_KEYS:
        return StorageError(
            f"{config.endpoint or 'AWS'} does not accept the credentials for bucket {config.bucket} ({code}): check "
            "the access key, the secret key and the session token, and that they belong to this endpoint",
            reason="credentials-missing",
            key=where,
        )
    if code in _DENIED or status == 403:
        return StorageError(_denied(operation, where, config), reason="access-denied", key=where)
    if code in _THROTTLED or status in (429, 503):
        return StorageError(f"the store asks to slow down ({code}) at {where}", reason="throttled", key=where)
    passing = status >= 500 or status == 408 or code in ("RequestTimeout", "InternalError")
    return StorageError(
        f"{operation} of {where} failed: {code} {answer.message}".strip(),
        reason="unreachable" if passing else "other",
        key=where,
    )


def _of_condition(answer: Answer, operation: str, where: str, key: str) -> DataShardError | None:
    code, status = answer.code, answer.status
    if code in ("PreconditionFailed", "412") or status == 412:
        return PreconditionFailedError(f"{where}: the condition did not hold", key=key)
    if code in ("NotImplemented", "501") or status == 501:
        said = f" ({answer.message})" if answer.message else ""
        return not_conditional(where, f"it answers {status} {code}{said} to a PUT with a condition")
    if operation == "replace" and (code == "NoSuchKey" or status == 404):
        return PreconditionFailedError(f"{where} is gone", key=key)
    if status in (408, 409, 429) or status >= 500:
        # Nothing may have landed, or it may land yet: the history tells.
        return OutcomeUnknownError(f"{where}: {status} {code}, so the write may have landed or not", key=key)
    return None


def not_conditional(where: str, what: str) -> StoreNotConditionalError:
    """The refusal of a store that does not keep conditions."""
    return StoreNotConditionalError(
        f"the store of {where} cannot keep tables: {what}. Without If-None-Match two writers overwrite each other's "
        "commits. Use a store that honours it (AWS S3, MinIO, R2, VersityGW and others do; some only in buckets "
        "without versioning), or a folder on a local disk.",
        key=where,
    )


def _no_bucket(config: S3Config) -> str:
    command = f"aws s3 mb s3://{config.bucket}"
    if config.region:
        command += f" --region {config.region}"
    if config.endpoint:
        command += f" --endpoint-url {config.endpoint}"
    return f"there is no bucket {config.bucket!r} at {config.endpoint or 'AWS'}. Make it: {command}"


def _denied(operation: str, where: str, config: S3Config) -> str:
    permission = PERMISSIONS[operation]
    message = f"access denied: {permission} is missing on {where}"
    if operation in ("get", "head"):
        message += f" (or it does not exist, and s3:ListBucket on s3://{config.bucket}, which would say so, is missing)"
    return f"{message}. Grant s3:GetObject, s3:PutObject, s3:DeleteObject and s3:ListBucket on the bucket."
