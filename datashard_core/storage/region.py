"""Where a bucket of AWS is: its own answer, to whoever asks, without a key or a client."""

from __future__ import annotations

from typing import Any

from datashard_core.config import S3Config
from datashard_core.errors import StorageError

ASKED = "https://s3.amazonaws.com"
_HEADER = "x-amz-bucket-region"


def discover_region(config: S3Config, asked: str = ASKED) -> str:
    """The region that AWS names for a bucket, whatever it answers otherwise (200, 301, 403).

    Args:
        config: bucket, time-outs and certificates.
        asked: the address to ask.

    Raises:
        StorageError: it cannot be asked.
    """
    import ssl
    from urllib.error import HTTPError, URLError
    from urllib.request import HTTPRedirectHandler, HTTPSHandler, Request, build_opener

    class NoRedirect(HTTPRedirectHandler):
        def redirect_request(self, *_: Any) -> None:
            """The header is all that is wanted."""

    context = ssl.create_default_context(cafile=config.verify_tls if isinstance(config.verify_tls, str) else None)
    if config.verify_tls is False:
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    request = Request(f"{asked}/{config.bucket}", method="HEAD")
    try:
        with build_opener(NoRedirect, HTTPSHandler(context=context)).open(
            request, timeout=config.connect_timeout
        ) as answer:
            found = answer.headers.get(_HEADER)
    except HTTPError as error:
        found = error.headers.get(_HEADER)
    except (URLError, OSError) as error:
        raise StorageError(
            f"the region of bucket {config.bucket} could not be found out ({error}): pass region=",
            reason="unreachable",
            key=config.uri,
        ) from error
    return str(found or "us-east-1")
