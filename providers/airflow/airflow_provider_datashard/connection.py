"""From an Airflow connection to the configuration of a warehouse.

Everything comes from the connection: no variable of the worker's environment is looked at, unless
the connection itself says ``auth = instance_role``.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Protocol

from datashard_core import ConfigurationError, LocalConfig, S3Config

if TYPE_CHECKING:
    from datashard_core.config import Credentials

INSTANCE_ROLE = "instance_role"
FIELDS = frozenset(
    {
        "bucket",
        "prefix",
        "region",
        "endpoint",
        "access_key",
        "secret_key",
        "session_token",
        "aws_conn_id",
        "auth",
        "addressing_style",
        "verify",
        "local_folder",
        "deployment",
    }
)


class AirflowConnection(Protocol):
    """What is used of an Airflow connection."""

    conn_id: str
    login: str | None
    password: str | None

    @property
    def extra_dejson(self) -> dict[str, Any]: ...


def fields_of(connection: AirflowConnection) -> dict[str, str]:
    """The connection's fields that are filled in; login and password stand in for the two keys.

    Raises:
        ConfigurationError: an extra is unknown, which would be a typing error that goes unnoticed.
    """
    extra = connection.extra_dejson
    unknown = sorted(set(extra) - FIELDS)
    if unknown:
        raise ConfigurationError(
            f"connection {connection.conn_id}: {unknown[0]!r} is no field of a datashard connection; the fields are "
            f"{', '.join(sorted(FIELDS))}"
        )
    found = {name: str(value).strip() for name, value in extra.items() if value not in (None, "")}
    if connection.login and "access_key" not in found:
        found["access_key"] = connection.login
    if connection.password and "secret_key" not in found:
        found["secret_key"] = connection.password
    return found


def connection_to_config(
    connection: AirflowConnection, *, timeouts: Mapping[str, Any] | None = None
) -> S3Config | LocalConfig:
    """The warehouse that a connection of type ``datashard`` names.

    Args:
        connection: the connection.
        timeouts: ``connect_timeout``, ``read_timeout`` and ``max_attempts``, where the usual ones are
            too patient.

    Raises:
        ConfigurationError: the connection is incomplete or contradicts itself.
    """
    fields, name = fields_of(connection), f"connection {connection.conn_id}"
    folder, bucket = fields.get("local_folder"), fields.get("bucket")
    if bool(folder) == bool(bucket):
        what = "both a bucket and a local folder" if folder else "neither a bucket nor a local folder"
        raise ConfigurationError(f"{name} names {what}: fill in one of them")
    if folder:
        return LocalConfig(folder)
    assert bucket is not None
    return S3Config(
        bucket=bucket,
        prefix=fields.get("prefix", ""),
        endpoint=fields.get("endpoint"),
        region=fields.get("region"),
        addressing_style=fields.get("addressing_style", "auto"),  # type: ignore[arg-type]
        verify_tls=_verify(fields.get("verify", "true")),
        **_credentials(fields, name),
        **(timeouts or {}),
    )


def _credentials(fields: Mapping[str, str], name: str) -> dict[str, Any]:
    """The one source of credentials that the connection names."""
    auth = fields.get("auth")
    if auth not in (None, INSTANCE_ROLE):
        raise ConfigurationError(f"{name}: auth={auth!r} is unknown; the only value is {INSTANCE_ROLE!r}")
    keys = "access_key" in fields or "secret_key" in fields
    given = [source for source, there in (
        ("access and secret key", keys),
        ("aws_conn_id", "aws_conn_id" in fields),
        (f"auth={INSTANCE_ROLE}", auth is not None),
    ) if there]  # fmt: skip
    if not given:
        raise ConfigurationError(
            f"{name} has no credentials: fill in the access key and the secret key, or aws_conn_id, or set auth to "
            f"{INSTANCE_ROLE}"
        )
    if len(given) > 1:
        raise ConfigurationError(f"{name} has more than one source of credentials ({', '.join(given)}): keep one")
    if keys:
        return {
            "access_key": fields.get("access_key"),
            "secret_key": fields.get("secret_key"),
            "session_token": fields.get("session_token"),
        }
    if auth is not None:
        return {"use_default_chain": True}
    return {"credentials_provider": AwsConnectionCredentials(fields["aws_conn_id"], fields.get("region"))}


class AwsConnectionCredentials:
    """Credentials of an AWS connection of Airflow's, refreshed by its own session.

    Args:
        aws_conn_id: id of the connection.
        region: region for the session, where the AWS connection names none.
    """

    def __init__(self, aws_conn_id: str, region: str | None) -> None:
        self._conn_id = aws_conn_id
        self._region = region
        self._resolved: Any = None

    def __eq__(self, other: object) -> bool:
        return isinstance(other, AwsConnectionCredentials) and self._key == other._key

    def __hash__(self) -> int:
        return hash(self._key)

    @property
    def _key(self) -> tuple[str, str | None]:
        return self._conn_id, self._region

    def __call__(self) -> Credentials:
        from datashard_core.config import Credentials

        if self._resolved is None:
            self._resolved = self._resolve()
        frozen = self._resolved.get_frozen_credentials()
        return Credentials(frozen.access_key, frozen.secret_key, frozen.token)

    def _resolve(self) -> Any:
        from airflow_provider_datashard.version_compat import BaseHook

        # Airflow's AWS hook only warns of a connection that does not exist, and takes the worker's
        # own credentials instead.
        BaseHook.get_connection(self._conn_id)
        try:
            from airflow.providers.amazon.aws.hooks.base_aws import AwsBaseHook
        except ImportError as error:
            raise ConfigurationError(
                "aws_conn_id needs Airflow's Amazon provider: pip install 'airflow-provider-datashard[amazon]'"
            ) from error
        hook: Any = AwsBaseHook(aws_conn_id=self._conn_id, client_type="s3")
        session = hook.get_session(region_name=self._region or hook.region_name)
        found = session.get_credentials()
        if found is None:
            raise ConfigurationError(f"AWS connection {self._conn_id} has no credentials")
        return found


def _verify(text: str) -> bool | str:
    return {"true": True, "false": False}.get(text.lower(), text)

