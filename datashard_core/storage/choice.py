"""Which transport carries the requests of a configuration, and why.

boto3 can do all that a configuration may ask. obstore costs a fraction of its CPU per request and per
fresh process, and is used where it does the same; what it cannot do is listed here, and nowhere else.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from importlib.util import find_spec
from typing import Any, Literal

from datashard_core.config import S3Config
from datashard_core.errors import ConfigurationError

Choice = Literal["boto3", "obstore"]

# What AWS's own settings may say beyond keys and region; obstore would not heed it.
_CHAIN_VARIABLES = (
    "AWS_CA_BUNDLE",
    "AWS_ENDPOINT_URL",
    "AWS_ENDPOINT_URL_S3",
    "AWS_USE_DUALSTACK_ENDPOINT",
    "AWS_USE_FIPS_ENDPOINT",
)
_CHAIN_SETTINGS = ("ca_bundle", "endpoint_url", "s3", "services", "use_dualstack_endpoint", "use_fips_endpoint")

_obstore_pid: int | None = None


def choose(config: S3Config, session: Callable[[], Any]) -> tuple[Choice, str]:
    """The transport of a configuration, and the reason as a phrase for the log.

    Args:
        config: the configuration.
        session: returns the botocore session; called for the default chain alone.

    Raises:
        ConfigurationError: the one that it names cannot be had here, or none is installed.
    """
    if config.transport == "boto3" or config.use_default_chain:
        _need_boto3(config)  # also where obstore carries the requests: the chain is botocore's
    if config.transport == "boto3":
        return "boto3", "the configuration says so"
    obstacle = _obstacle(config, session)
    if obstacle is None:
        return "obstore", "the configuration says so" if config.transport == "obstore" else "it is the cheaper one"
    if config.transport == "obstore":
        raise ConfigurationError(
            f"bucket {config.bucket}: transport='obstore' cannot be used: {obstacle}. Use transport='auto' or 'boto3'."
        )
    _need_boto3(config)
    return "boto3", obstacle


def _obstacle(config: S3Config, session: Callable[[], Any]) -> str | None:
    if not is_installed("obstore"):
        return "obstore is not installed (pip install 'datashard-core[s3]')"
    if _obstore_pid not in (None, os.getpid()):
        return "this process was forked from one that used obstore, whose threads are not here"
    found = cannot(config)
    if found is None and config.use_default_chain:
        found = chain_says_more(os.environ, session().get_scoped_config())
    return found


def cannot(config: S3Config) -> str | None:
    """What of a configuration obstore cannot do, or None. Pure."""
    if config.sse is not None:
        return "obstore does not tell whether the store encrypted what was asked to be encrypted (sse)"
    region = config.region or ""
    if config.endpoint is None and (region.startswith("cn-") or "-iso" in region):
        return f"obstore does not know the addresses of region {region}"
    return None


def chain_says_more(environ: Mapping[str, str], profile: Mapping[str, Any]) -> str | None:
    """What AWS's variables and profile say about S3 beyond keys and region, or None. Pure."""
    for name in _CHAIN_VARIABLES:
        if environ.get(name):
            return f"obstore does not heed {name}"
    for name in _CHAIN_SETTINGS:
        if profile.get(name):
            return f"obstore does not heed the setting {name} of the AWS profile"
    return None


def note_use_of_obstore() -> None:
    """Remember that this process runs obstore's threads: a forked child has none, and would wait for ever."""
    global _obstore_pid  # noqa: PLW0603 - a fact about the process
    _obstore_pid = os.getpid()


def _need_boto3(config: S3Config) -> None:
    if not (is_installed("boto3") and is_installed("botocore")):
        raise ConfigurationError(f"tables in s3://{config.bucket} need boto3: pip install 'datashard-core[s3]'")


def is_installed(name: str) -> bool:
    """Look for a package without importing it: connecting stays quick."""
    try:
        return find_spec(name) is not None
    except ImportError:
        return False
