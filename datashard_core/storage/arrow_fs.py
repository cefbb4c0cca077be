"""Arrow's S3FileSystem, built from the same configuration and credentials as the boto3 clients."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from urllib.parse import urlsplit

from datashard_core.config import Credentials, S3Config
from datashard_core.errors import ConfigurationError

_environment = threading.Lock()
_HIDDEN = (
    "AWS_ENDPOINT_URL",
    "AWS_ENDPOINT_URL_S3",
    "AWS_PROFILE",
    "AWS_CONFIG_FILE",
    "AWS_SHARED_CREDENTIALS_FILE",
)


def make_filesystem(config: S3Config, credentials: Credentials, region: str) -> Any:
    """An S3FileSystem that looks nothing up: keys, region and endpoint are all given.

    Args:
        config: the store.
        credentials: valid ones.
        region: the bucket's.
    """
    import pyarrow.fs as pafs

    options: dict[str, Any] = {
        "access_key": credentials.access_key,
        "secret_key": credentials.secret_key,
        "session_token": credentials.session_token,
        "region": region,
        "force_virtual_addressing": not config.uses_path_style,
        "connect_timeout": config.connect_timeout,
        "request_timeout": config.read_timeout,
        "allow_delayed_open": True,  # one request for a small file instead of three
        "check_directory_existence_before_creation": False,
    }
    if config.endpoint is not None:
        parts = urlsplit(config.endpoint)
        options["scheme"] = parts.scheme
        options["endpoint_override"] = parts.netloc
    if isinstance(config.verify_tls, str):
        options["tls_ca_file_path"] = config.verify_tls
    elif config.verify_tls is False and (config.endpoint or "https").startswith("https"):
        raise ConfigurationError(
            f"bucket {config.bucket}: Arrow, which reads and writes Parquet, cannot skip the check of certificates. "
            "Pass verify_tls='/path/to/ca-bundle.pem' instead of False."
        )
    with _own_environment():
        return pafs.S3FileSystem(**options)


@contextmanager
def _own_environment() -> Iterator[None]:
    """What Arrow's SDK can only be told by variables, and must not be told, while it is set up.

    Its checksum trailers are answered with 411 by several stores, and there is no argument for them.
    """
    with _environment:
        before = {name: os.environ.get(name) for name in (*_HIDDEN, "AWS_REQUEST_CHECKSUM_CALCULATION")}
        for name in _HIDDEN:
            os.environ.pop(name, None)
        os.environ["AWS_REQUEST_CHECKSUM_CALCULATION"] = "WHEN_REQUIRED"
        os.environ["AWS_CONFIG_FILE"] = os.environ["AWS_SHARED_CREDENTIALS_FILE"] = os.devnull
        try:
            yield
        finally:
            for name, value in before.items():
                if value is None:
                    os.environ.pop(name, None)
                else:
                    os.environ[name] = value
