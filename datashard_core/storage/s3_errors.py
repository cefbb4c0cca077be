"""What an S3 store's answer means, and what to do about it. Pure.

Codes decide where there are any: a status alone does not tell a missing bucket from a missing key,
nor a lost race from a store that knows no conditions. What the store wrote is quoted without secrets.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import TYPE_CHECKING

from msgspec import Struct

from datashard_core.config import S3Config
from datashard_core.errors import DataShardError, StorageError, StoreNotConditionalError
from datashard_core.storage.base import ObjectNotFoundError, OutcomeUnknownError, PreconditionFailedError

if TYPE_CHECKING:
    from datashard_core.storage.s3_codes import Known

PERMISSIONS = {
    "get": "s3:GetObject",
    "head": "s3:GetObject",
    "list": "s3:ListBucket",
    "put": "s3:PutObject",
    "put_if_absent": "s3:PutObject",
    "replace": "s3:PutObject",
    "delete": "s3:DeleteObject",
    "abort": "s3:AbortMultipartUpload",
}
CONDITIONAL = frozenset({"put_if_absent", "replace"})
"""Operations that are sent once."""

_LONGEST_BODY = 20_000
_PAGE_ADVICE = (
    "A proxy, a firewall or a login page may stand before the store: check the endpoint, HTTPS_PROXY and NO_PROXY."
)
_HEAD_ADVICE = (
    "The answer to a HEAD carries no error code, so it may also be the keys, the clock, a KMS key or a quota: reading "
    "the object with the same keys shows the code."
)
_NEEDED_ACTION = r"not authorized to perform: *([a-z0-9-]+:[A-Za-z]+)"


class Answer(Struct, frozen=True):
    """A store's refusal.

    Attributes:
        code: S3's error code; the status as text where the answer had none.
        status: HTTP status.
        message: what the store said, as it came; all visible text where the answer was no XML of S3's.
        region: the region that the answer names.
        endpoint: the address that the answer names.
        is_page: the answer had a body, and it was no error of S3.
    """

    code: str
    status: int
    message: str = ""
    region: str = ""
    endpoint: str = ""
    is_page: bool = False


def read_answer(status: int, body: str, region: str = "", location: str = "") -> Answer:
    """A refusal from its status and body.

    Args:
        status: HTTP status.
        body: whatever came, perhaps nothing, perhaps a page of a proxy.
        region: the header ``x-amz-bucket-region``.
        location: the header ``Location``.

    Example:
        >>> read_answer(403, "<Error><Code>QuotaExceeded</Code><Message>full</Message></Error>").code
        'QuotaExceeded'
    """
    code = _element(body, "Code")
    if not code:
        page = body.strip()
        return Answer(str(status), status, body[:_LONGEST_BODY], region, location, bool(page))
    named = region or _element(body, "Region")
    return Answer(code, status, _element(body, "Message"), named, _element(body, "Endpoint") or location)


def _element(body: str, name: str) -> str:
    found = re.search(rf"<(?:\w+:)?{name}>\s*([^<]*?)\s*</", body)
    return found[1] if found is not None else ""


def wrong_region(answer: Answer) -> bool:
    """Whether the bucket may be in another region than the one that was asked."""
    # Without a body, as after a HEAD, AWS answers 400 to a signature for another region.
    return is_redirect(answer) or (answer.code, answer.status) == ("400", 400)


def is_redirect(answer: Answer) -> bool:
    """Whether the store says that the bucket is elsewhere."""
    if 300 <= answer.status < 400 and answer.status != 304:
        return True
    if answer.status in (0, 404, 412):  # answers of every append, which need no table of codes
        return False
    from datashard_core.storage.s3_codes import REDIRECTS

    return answer.code in REDIRECTS


def may_lack_bulk_delete(answer: Answer) -> bool:
    """Whether a refused DeleteObjects says nothing against deleting the same objects one by one."""
    if answer.status not in (200, 400, 404, 405, 411, 415, 501) or answer.code == "NoSuchBucket":
        return False
    from datashard_core.storage.s3_codes import known

    fits = known(answer.code, answer.status)
    return fits is None or fits.reason == "unsupported"


def meaning(
    answer: Answer, operation: str, key: str, config: S3Config, secrets: Iterable[str | None] = ()
) -> DataShardError:
    """The error that an answer stands for.

    Args:
        answer: the store's.
        operation: a key of :data:`PERMISSIONS`.
        key: the object, relative to the bucket.
        config: the store's configuration, for the way out.
        secrets: what must not be quoted, beside the configuration's own.
    """
    code, status = answer.code, answer.status
    where = f"s3://{config.bucket}/{key}"
    if code == "NoSuchBucket":
        return StorageError(_no_bucket(config), reason="bucket-missing", key=where)
    if operation in CONDITIONAL and (code == "PreconditionFailed" or status == 412):
        return PreconditionFailedError(f"{where}: the condition did not hold", key=key)
    if operation == "replace" and (code == "NoSuchKey" or status == 404):
        return PreconditionFailedError(f"{where} is gone", key=key)
    if (code == "NoSuchKey" or status == 404) and not answer.is_page:
        return ObjectNotFoundError(f"{where} does not exist", key=key)
    # All above happens on every append, and goes without what the rest imports and compiles.
    return _explained(answer, operation, key, config, secrets)


def _explained(
    answer: Answer, operation: str, key: str, config: S3Config, secrets: Iterable[str | None]
) -> DataShardError:
    """The error of an answer that has to be explained, with the store's words and an advice."""
    from datashard_core.storage.redact import words
    from datashard_core.storage.s3_codes import DENIED, known, of_denial

    where = f"s3://{config.bucket}/{key}"
    quoted = words(answer.message, (*secrets, config.access_key, config.secret_key, config.session_token))
    said = _said(answer, operation, quoted)
    if operation in CONDITIONAL:
        special = _of_condition(answer, where, key, quoted)
        if special is not None:
            return special
    if answer.status == 404 and operation != "delete":  # a page is no proof that an object is deleted
        return ObjectNotFoundError(f"{where} does not exist: {said}", key=key)
    fits = known(answer.code, answer.status)
    if fits is DENIED:
        fits = of_denial(answer.message) or fits
    text = f"{operation} of {where} failed: {said}"
    if fits is None:
        return StorageError(text, reason="other", key=where)
    if fits is DENIED:
        text = (
            f"access denied: {text}. {_PAGE_ADVICE}"
            if answer.is_page
            else _denied(answer, operation, where, config, said)
        )
    else:
        text = f"{text}. {_advice(fits, answer, operation, where, config)}"
    return StorageError(text, reason=fits.reason, key=where)


def _said(answer: Answer, operation: str, quoted: str) -> str:
    code = "" if answer.code == str(answer.status) else f" {answer.code}"
    status = "" if answer.status == 200 else f" {answer.status}"
    text = f"the store answered{status}{code}"
    if answer.is_page:
        return f"{text} with a page that is no XML of S3 ({quoted!r})" if quoted else f"{text} with no XML of S3"
    if quoted:
        return f"{text}: {quoted.rstrip('.')}"
    if code:
        return text
    return f"{text} to a HEAD" if operation == "head" else f"{text} without an error code"


def _advice(fits: Known, answer: Answer, operation: str, where: str, config: S3Config) -> str:
    text = fits.advice.format(
        bucket=config.bucket,
        store=config.endpoint or "AWS",
        where=where,
        permission=PERMISSIONS[operation],
    )
    if answer.is_page and fits.reason != "throttled":
        text += f" {_PAGE_ADVICE}"
    if is_redirect(answer):
        text += _address(answer, config)
    return text


def _address(answer: Answer, config: S3Config) -> str:
    """Where the answer says that the bucket is."""
    from datashard_core.storage.redact import words

    found = ""
    if answer.region and answer.region != config.region:
        found += f" The store names the region: region={words(answer.region)!r}."
    if answer.endpoint:
        found += f" The store names the address {words(answer.endpoint)}."
    if not found:
        found = f" The store does not say where; asked was {config.endpoint or 'AWS'}, region {config.region!r}."
    return found


def _of_condition(answer: Answer, where: str, key: str, quoted: str) -> DataShardError | None:
    code, status = answer.code, answer.status
    said = f" ({quoted})" if quoted else ""
    if code == "NotImplemented" or status == 501:
        return not_conditional(where, f"it answers {status} {code}{said} to a PUT with a condition")
    if status in (408, 409, 429) or status >= 500:
        # Nothing may have landed, or it may land yet: the history tells.
        return OutcomeUnknownError(f"{where}: {status} {code}{said}, so the write may have landed or not", key=key)
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


def _denied(answer: Answer, operation: str, where: str, config: S3Config, said: str) -> str:
    """A plain denial: the store names the action, or the operation does."""
    named = re.search(_NEEDED_ACTION, answer.message)
    permission = named[1] if named is not None else PERMISSIONS[operation]
    without_code = answer.code == str(answer.status)
    lacking = "may be missing" if without_code else "is missing"
    message = f"access denied: {permission} {lacking} on {where}"
    if operation in ("get", "head"):
        message += f" (or it does not exist, and s3:ListBucket on s3://{config.bucket}, which would say so, is missing)"
    message += f"; {said}."
    if without_code and operation == "head":
        message += f" {_HEAD_ADVICE}"
    if "explicit deny" in answer.message:
        message += " A policy denies it explicitly, which no grant overrides: change that policy."
    return f"{message} Grant s3:GetObject, s3:PutObject, s3:DeleteObject and s3:ListBucket on the bucket."
