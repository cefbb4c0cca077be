"""Credentials and settings of an Airflow connection of the type ``aws``.

The amazon provider resolves them: keys, profiles, assumed roles, web identities. It is an extra of
this distribution (``airflow-provider-datashard[amazon]``), and costs seconds to import: so late.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from airflow_provider_datashard.version_compat import AirflowNotFoundException, BaseHook
from datashard_core.config import Credentials
from datashard_core.errors import ConfigurationError, StorageError

if TYPE_CHECKING:
    from airflow_provider_datashard.connection import Limits

AWS_CONN_TYPE = "aws"


@dataclass(frozen=True, slots=True)
class AwsConnection:
    """What an AWS connection says.

    Attributes:
        credentials: returns keys that are valid now.
        region: its region, or None.
        endpoint: URL of its S3 service, or None for AWS.
        verify_tls: whether to check certificates, or the path of a CA bundle.
        addressing_style: "path", "virtual" or "auto" if its client configuration says so, else None.
    """

    credentials: AwsCredentials
    region: str | None
    endpoint: str | None
    verify_tls: bool | str
    addressing_style: str | None


class AwsCredentials:
    """Asks the session of an AWS connection for keys before requests, so that they never go stale.

    Args:
        found: botocore's credentials; those of assumed roles and web identities refresh themselves.
        aws_conn_id: for messages.
    """

    def __init__(self, found: Any, aws_conn_id: str) -> None:
        self._found = found
        self._aws_conn_id = aws_conn_id

    def __call__(self) -> Credentials:
        from botocore.exceptions import BotoCoreError, ClientError

        try:
            keys = self._found.get_frozen_credentials()
        except (BotoCoreError, ClientError) as error:
            raise StorageError(
                f"connection {self._aws_conn_id!r} (aws) gives no credentials: {error}", reason="credentials-missing"
            ) from error
        return Credentials(keys.access_key, keys.secret_key, keys.token)

    def __repr__(self) -> str:
        return f"<AwsCredentials of {self._aws_conn_id}>"


def check_exists(aws_conn_id: str) -> Any:
    """The AWS connection itself. The amazon provider falls back to the worker's credentials without it.

    Raises:
        ConfigurationError: there is no such connection, or it is of another type.
    """
    try:
        found = BaseHook.get_connection(aws_conn_id)
    except AirflowNotFoundException as error:
        raise ConfigurationError(
            f"aws_conn_id={aws_conn_id!r}: there is no connection of that id. Create it with the type "
            f"{AWS_CONN_TYPE!r}, or correct the field."
        ) from error
    if found.conn_type != AWS_CONN_TYPE:
        raise ConfigurationError(
            f"aws_conn_id={aws_conn_id!r}: that connection is of the type {found.conn_type!r}, not {AWS_CONN_TYPE!r}"
        )
    return found


def delegate(aws_conn_id: str, region: str | None, limits: Limits) -> AwsConnection:
    """Open an AWS connection.

    Args:
        aws_conn_id: its id.
        region: region that wins over its own, or None.
        limits: how long requests for credentials may take.

    Raises:
        ConfigurationError: the amazon provider or the connection is missing, or AWS refuses it.
    """
    check_exists(aws_conn_id)
    try:
        from airflow.providers.amazon.aws.hooks.base_aws import AwsBaseHook
    except ImportError as error:
        raise ConfigurationError(
            f"aws_conn_id={aws_conn_id!r} needs the amazon provider: pip install 'airflow-provider-datashard[amazon]'"
        ) from error
    from botocore.exceptions import BotoCoreError, ClientError

    asked = {"aws_conn_id": aws_conn_id, "client_type": "s3", "region_name": region}
    hook = AwsBaseHook(**asked)
    style = (hook.config.s3 or {}).get("addressing_style")
    try:
        # What it asks AWS for meanwhile (an assumed role) is bound too, if the connection sets no bounds.
        bounded = AwsBaseHook(**asked, config=_bounds(limits).merge(hook.config))
        found = bounded.get_session(region_name=hook.region_name).get_credentials()
    except (BotoCoreError, ClientError) as error:
        raise ConfigurationError(f"connection {aws_conn_id!r} (aws) gives no credentials: {error}") from error
    if found is None:
        raise ConfigurationError(
            f"connection {aws_conn_id!r} (aws) gives no credentials: it has no keys, and AWS's default chain finds none"
        )
    verify = hook.verify
    return AwsConnection(
        credentials=AwsCredentials(found, aws_conn_id),
        region=hook.region_name,
        endpoint=hook.conn_config.get_service_endpoint_url("s3"),
        verify_tls=True if verify is None else verify,
        addressing_style=style,
    )


def _bounds(limits: Limits) -> Any:
    from botocore.config import Config

    return Config(
        connect_timeout=limits.connect_timeout,
        read_timeout=limits.read_timeout,
        retries={"total_max_attempts": limits.max_attempts},
    )
