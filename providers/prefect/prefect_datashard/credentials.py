"""Credentials from the blocks of ``prefect-aws``: what DataShard needs of them, and nothing of the environment.

``prefect-aws`` is an optional extra, and brings boto3 in: it is imported when a block is first made.
"""

from __future__ import annotations

import threading
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Annotated, Any, cast

from pydantic import BeforeValidator, SecretStr

if TYPE_CHECKING:
    from prefect_aws import AwsCredentials, MinIOCredentials

    from datashard_core.config import Credentials

RENEW_SECONDS = 600.0
"""Age at which an assumed role is assumed again: AWS grants 15 minutes at the least."""


def credentials_types() -> dict[str, Any]:
    """The types of the field ``credentials`` by their names.

    Without ``prefect-aws`` they are stand-ins that accept nothing and say what to install.
    """
    try:
        from prefect_aws import AwsCredentials, MinIOCredentials
    except ImportError:
        absent = Annotated[None, BeforeValidator(_refuse)]
        return {"AwsCredentials": absent, "MinIOCredentials": absent}
    return {"AwsCredentials": AwsCredentials, "MinIOCredentials": MinIOCredentials}


def _refuse(value: Any) -> None:
    if value is not None:
        raise ValueError(
            "a nested AwsCredentials or MinIOCredentials block needs prefect-aws: pip install 'prefect-datashard[aws]'"
        )


def s3_settings(credentials: AwsCredentials | MinIOCredentials) -> dict[str, Any]:
    """What a nested block says, as arguments of an ``S3Config``.

    Args:
        credentials: the nested block.

    Raises:
        ValueError: it holds no credentials: boto3 would look for some in the worker's environment.
    """
    settings = _client_settings(credentials)
    user = getattr(credentials, "minio_root_user", None)
    if user is not None:
        return {**settings, "access_key": user, "secret_key": _plain(getattr(credentials, "minio_root_password", None))}
    key, secret = (getattr(credentials, f"aws_{name}", None) for name in ("access_key_id", "secret_access_key"))
    profile, role = (getattr(credentials, name, None) for name in ("profile_name", "assume_role_arn"))
    if role or (profile and not key):
        return {**settings, "credentials_provider": SessionCredentials(cast("AwsCredentials", credentials))}
    if not key or not _plain(secret):
        raise ValueError(
            "the nested AwsCredentials block has no aws_access_key_id and aws_secret_access_key, no profile_name and "
            "no assume_role_arn: fill in one of them. For the role of the machine, leave credentials empty and set "
            "use_instance_role."
        )
    token = getattr(credentials, "aws_session_token", None)
    return {**settings, "access_key": key, "secret_key": _plain(secret), "session_token": token or None}


def secrets_of(credentials: Any) -> list[str]:
    """The secret values that a nested block holds."""
    names = ("aws_access_key_id", "aws_secret_access_key", "aws_session_token", "minio_root_password")
    return [value for name in names if (value := _plain(getattr(credentials, name, None)))]


def _client_settings(credentials: Any) -> dict[str, Any]:
    """Endpoint, region, certificates and addressing style, where the nested block states them."""
    parameters = credentials.aws_client_parameters
    found: dict[str, Any] = {"endpoint": parameters.endpoint_url, "region": credentials.region_name}
    if parameters.verify is False:
        found["verify_tls"] = False
    elif parameters.verify_cert_path is not None:
        found["verify_tls"] = str(parameters.verify_cert_path)
    elif parameters.verify not in (None, True):
        found["verify_tls"] = str(parameters.verify)
    found["addressing_style"] = ((parameters.config or {}).get("s3") or {}).get("addressing_style")
    return {name: value for name, value in found.items() if value is not None}


def _plain(secret: Any) -> str | None:
    return secret.get_secret_value() if isinstance(secret, SecretStr) else secret


@dataclass(eq=True, unsafe_hash=True)
class SessionCredentials:
    """Credentials of an AwsCredentials block's boto3 session, renewed before they expire.

    A profile's session refreshes its own; those of an assumed role are static in the block, so the role
    is assumed again from time to time. Equal blocks make equal providers, which share their clients.

    Args:
        block: the AwsCredentials block.
    """

    block: AwsCredentials
    _session: Any = field(default=None, init=False, repr=False, compare=False)
    _made: float = field(default=0.0, init=False, repr=False, compare=False)
    _lock: Any = field(default_factory=threading.Lock, init=False, repr=False, compare=False)

    def __call__(self) -> Credentials:
        """Credentials that are valid now.

        Raises:
            ConfigurationError: the session has none.
        """
        from datashard_core.config import Credentials
        from datashard_core.errors import ConfigurationError

        with self._lock:
            aged = self.block.assume_role_arn and time.monotonic() - self._made > RENEW_SECONDS
            if self._session is None or aged:
                self._session = self.block.get_boto3_session()
                self._made = time.monotonic()
            found = self._session.get_credentials()
        if found is None:
            raise ConfigurationError(
                f"the nested AwsCredentials block finds no credentials (profile_name={self.block.profile_name!r})"
            )
        frozen = found.get_frozen_credentials()
        return Credentials(frozen.access_key, frozen.secret_key, frozen.token)
