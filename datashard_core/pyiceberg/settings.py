"""PyIceberg's properties and our configuration, each in terms of the other. Pure."""

from __future__ import annotations

from collections.abc import Mapping

from datashard_core.config import LocalConfig, S3Config, resolve_warehouse
from datashard_core.errors import ConfigurationError

_NAMES = {
    "endpoint": ("s3.endpoint",),
    "region": ("s3.region", "client.region"),
    "access_key": ("s3.access-key-id", "client.access-key-id"),
    "secret_key": ("s3.secret-access-key", "client.secret-access-key"),
    "session_token": ("s3.session-token", "client.session-token"),
}


def config_of(properties: Mapping[str, str]) -> S3Config | LocalConfig:
    """Where a catalog's tables are, by its properties, else as :func:`datashard_core.connect` finds it.

    Raises:
        ConfigurationError: the properties are incomplete or contradict each other.
    """
    uri = properties.get("warehouse")
    given = {
        ours: properties[name] for ours, names in _NAMES.items() for name in reversed(names) if properties.get(name)
    }
    if given and uri is None:
        raise ConfigurationError(
            f"{', '.join(sorted(given))} are set for the catalog, and no warehouse: add warehouse='s3://bucket/prefix'"
        )
    if not given or uri is None or not uri.startswith(("s3://", "s3a://")):
        return resolve_warehouse(uri)
    bucket, _, prefix = uri.partition("://")[2].partition("/")
    return S3Config(
        bucket=bucket,
        prefix=prefix,
        endpoint=given.get("endpoint"),
        region=given.get("region"),
        access_key=given.get("access_key"),
        secret_key=given.get("secret_key"),
        session_token=given.get("session_token"),
        use_default_chain="access_key" not in given,
    )


def file_io_properties(config: S3Config | LocalConfig | None) -> dict[str, str]:
    """What PyIceberg's file access needs to reach the same place with the same keys."""
    if not isinstance(config, S3Config):
        return {}
    keys = config.credentials_provider() if config.credentials_provider is not None else config
    told = {
        "s3.endpoint": config.endpoint,
        "s3.region": config.region or ("us-east-1" if config.endpoint else None),
        "s3.access-key-id": keys.access_key,
        "s3.secret-access-key": keys.secret_key,
        "s3.session-token": keys.session_token,
        "s3.force-virtual-addressing": None if config.uses_path_style else "true",
    }
    return {name: text for name, text in told.items() if text}
