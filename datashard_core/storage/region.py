"""Where a bucket is: its store's own answer to a plain HEAD, without a key or a client."""

from __future__ import annotations

from typing import Any, NamedTuple

from datashard_core.config import S3Config
from datashard_core.errors import StorageError
from datashard_core.storage.redact import clean

AWS = "https://s3.amazonaws.com"
DEFAULT = "us-east-1"
"""The region of stores that have none, and of a bucket of AWS whose region AWS does not tell."""

_HEADER = "x-amz-bucket-region"


class Place(NamedTuple):
    """What a store says of where a bucket is; "" for what it does not say.

    Attributes:
        region: the header ``x-amz-bucket-region``.
        location: the header ``Location``.
    """

    region: str = ""
    location: str = ""


def discover_region(config: S3Config) -> str:
    """The region that AWS names for a bucket, whatever else it answers (200, 301, 403, 404).

    Args:
        config: bucket, time-outs and certificates.

    Raises:
        StorageError: AWS cannot be asked.
    """
    try:
        return ask(config, AWS).region or DEFAULT
    except OSError as error:
        raise StorageError(
            f"the region of bucket {config.bucket} could not be found out ({clean(str(error))}): pass region=",
            reason="unreachable",
            key=config.uri,
        ) from error


def ask(config: S3Config, address: str) -> Place:
    """What a store says of a bucket's place. One request, which follows no redirect.

    Args:
        config: bucket, time-outs and certificates.
        address: the store.

    Raises:
        OSError: it cannot be asked.
    """
    import ssl
    from http.client import HTTPException
    from urllib.error import HTTPError
    from urllib.request import HTTPRedirectHandler, HTTPSHandler, Request, build_opener

    class NoRedirect(HTTPRedirectHandler):
        def redirect_request(self, *_: Any) -> None:
            """The headers are all that is wanted."""

    context = ssl.create_default_context(cafile=config.verify_tls if isinstance(config.verify_tls, str) else None)
    if config.verify_tls is False:
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    request = Request(f"{address}/{config.bucket}", method="HEAD")
    opener = build_opener(NoRedirect, HTTPSHandler(context=context))
    try:
        with opener.open(request, timeout=config.connect_timeout) as answer:
            headers = answer.headers
    except HTTPError as error:
        headers = error.headers
        error.close()
    except HTTPException as error:
        raise ConnectionError(f"{type(error).__name__}: {error}") from error
    return Place(str(headers.get(_HEADER) or ""), str(headers.get("Location") or ""))
