"""Arrow's S3FileSystem, built from the same configuration and credentials as the boto3 clients."""

from __future__ import annotations

import os
from typing import Any
from urllib.parse import urlsplit

from datashard_core.config import Credentials, S3Config
from datashard_core.errors import ConfigurationError
from datashard_core.storage.environment import without_aws_variables

MOST_ATTEMPTS = 3
"""Arrow's own number of tries; a configuration that asks for fewer gets fewer."""


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
        "retry_strategy": pafs.AwsStandardS3RetryStrategy(max_attempts=min(config.max_attempts, MOST_ATTEMPTS)),
        "allow_delayed_open": True,  # one request for a small file instead of three
        "check_directory_existence_before_creation": False,
    }
    if config.endpoint is not None:
        parts = urlsplit(config.endpoint)
        options["scheme"] = parts.scheme
        options["endpoint_override"] = parts.netloc + parts.path
    proxy = proxy_for(config)
    if proxy is not None:
        options["proxy_options"] = proxy
    if isinstance(config.verify_tls, str):
        options["tls_ca_file_path"] = config.verify_tls
    elif config.verify_tls is False and (config.endpoint or "https").startswith("https"):
        raise ConfigurationError(
            f"bucket {config.bucket}: Arrow, which reads and writes Parquet, cannot skip the check of certificates. "
            "Pass verify_tls='/path/to/ca-bundle.pem' instead of False."
        )
    # Its checksum trailers are answered with 411 by several stores, and there is no argument for them.
    with without_aws_variables(
        AWS_REQUEST_CHECKSUM_CALCULATION="WHEN_REQUIRED",
        AWS_CONFIG_FILE=os.devnull,
        AWS_SHARED_CREDENTIALS_FILE=os.devnull,
    ):
        return pafs.S3FileSystem(**options)


def proxy_for(config: S3Config) -> str | None:
    """The proxy that the environment names for a store, which Arrow does not look for by itself."""
    from urllib.request import getproxies, proxy_bypass

    parts = urlsplit(config.endpoint or f"https://{config.bucket}.s3.amazonaws.com")
    if proxy_bypass(parts.netloc):
        return None
    proxies = getproxies()
    proxy = proxies.get(parts.scheme) or proxies.get("all")
    return proxy if proxy is None or "://" in proxy else f"http://{proxy}"
