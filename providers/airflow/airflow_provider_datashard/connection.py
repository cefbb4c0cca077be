"""From an Airflow connection to a warehouse's configuration. The environment is not looked at.

Every setting is a key of the connection's extra (see :mod:`airflow_provider_datashard.fields`). A
connection that is written as a URI may put four of them where URIs have them:
``datashard://ACCESS_KEY:SECRET_KEY@bucket/prefix?endpoint=...``.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import PurePath
from typing import TYPE_CHECKING, Any, cast

from airflow_provider_datashard.fields import CONN_TYPE, INSTANCE_ROLE, NAMES
from datashard_core.config import AddressingStyle, LocalConfig, S3Config, ServerSideEncryption, check_endpoint
from datashard_core.errors import ConfigurationError

if TYPE_CHECKING:
    from airflow_provider_datashard.version_compat import Connection

MAX_DEPLOYMENT_CHARACTERS = 100

_OF_URI = {"host": "bucket", "schema": "prefix", "login": "access_key", "password": "secret_key"}
_SECRETS = frozenset({"secret_key", "session_token"})
_S3_ONLY = ("bucket", "prefix", "endpoint", "access_key", "secret_key", "session_token", "aws_conn_id", "auth")


@dataclass(frozen=True, slots=True)
class Limits:
    """How long requests may take.

    Attributes:
        connect_timeout: seconds.
        read_timeout: seconds.
        max_attempts: tries of requests that may be repeated.
    """

    connect_timeout: float = 10.0
    read_timeout: float = 60.0
    max_attempts: int = 5


TASKS = Limits()
TEST_BUTTON = Limits(connect_timeout=3.0, read_timeout=4.0, max_attempts=2)
"""Somebody waits before a form, and a worker of the API server waits with them."""


@dataclass(frozen=True, repr=False)
class ConnectionSettings:
    """A connection's settings, checked against each other. Its ``repr`` shows no secret.

    Attributes:
        conn_id: id of the connection, for messages.
        verify_tls: True, False, the path of a CA bundle, or None if the connection does not say.

    The others are the fields of the connection; None: not filled in.
    """

    conn_id: str
    bucket: str | None = None
    prefix: str | None = None
    endpoint: str | None = None
    region: str | None = None
    access_key: str | None = None
    secret_key: str | None = None
    session_token: str | None = None
    aws_conn_id: str | None = None
    auth: str | None = None
    addressing_style: str | None = None
    verify_tls: bool | str | None = None
    sse: str | None = None
    sse_kms_key_id: str | None = None
    folder: str | None = None
    deployment: str | None = None

    @classmethod
    def of(cls, connection: Connection, conn_id: str) -> ConnectionSettings:
        """The settings of a connection.

        Args:
            connection: as Airflow's secrets backends return it.
            conn_id: the id that it was asked for by.

        Raises:
            ConfigurationError: something is missing, unknown, or there twice.
        """
        if connection.conn_type != CONN_TYPE:
            raise ConfigurationError(
                f"connection {conn_id!r} is of the type {connection.conn_type!r}: DataShard needs one of the type "
                f"{CONN_TYPE!r}. Credentials of an aws connection are used by naming it in the field aws_conn_id."
            )
        values = _values(connection, conn_id)
        verify = values.pop("verify_tls", None)
        settings = cls(
            conn_id=conn_id,
            verify_tls=_parse_verify(verify),
            **{name: str(value).strip() for name, value in values.items()},
        )
        settings._check()
        return settings

    def config(self, limits: Limits = TASKS) -> S3Config | LocalConfig:
        """The warehouse's configuration; with an ``aws_conn_id`` that connection is looked up.

        Args:
            limits: how long requests may take.

        Raises:
            ConfigurationError: a setting is unusable, or the AWS connection is.
        """
        if self.folder is not None:
            return LocalConfig(self.folder)
        if self.aws_conn_id is None:
            return self._s3_config(
                limits,
                access_key=self.access_key,
                secret_key=self.secret_key,
                session_token=self.session_token,
                use_default_chain=self.auth == INSTANCE_ROLE,
            )
        from airflow_provider_datashard.aws import delegate

        found = delegate(self.aws_conn_id, self.region, limits)
        return self._s3_config(
            limits,
            credentials_provider=found.credentials,
            endpoint=self.endpoint or found.endpoint,
            region=self.region or found.region,
            addressing_style=self.addressing_style or found.addressing_style or "auto",
            verify_tls=found.verify_tls if self.verify_tls is None else self.verify_tls,
        )

    def __repr__(self) -> str:
        shown = [
            f"{one.name}={'***' if self._hides(one.name) else getattr(self, one.name)!r}"
            for one in fields(self)
            if getattr(self, one.name) is not None
        ]
        return f"ConnectionSettings({', '.join(shown)})"

    def _hides(self, name: str) -> bool:
        """Whether a field is a secret, or may hold one that was typed into the wrong field."""
        if name == "auth":
            return self.auth != INSTANCE_ROLE
        return name in _SECRETS or (name == "endpoint" and any(mark in (self.endpoint or "") for mark in "@?#"))

    def _s3_config(self, limits: Limits, **special: Any) -> S3Config:
        values: dict[str, Any] = {
            "bucket": self.bucket,
            "prefix": self.prefix or "",
            "endpoint": self.endpoint,
            "region": self.region,
            "addressing_style": cast(AddressingStyle, self.addressing_style or "auto"),
            "verify_tls": True if self.verify_tls is None else self.verify_tls,
            "sse": cast("ServerSideEncryption | None", self.sse),
            "sse_kms_key_id": self.sse_kms_key_id,
            "connect_timeout": limits.connect_timeout,
            "read_timeout": limits.read_timeout,
            "max_attempts": limits.max_attempts,
        }
        try:
            return S3Config(**{**values, **special})
        except ConfigurationError as error:
            raise ConfigurationError(f"connection {self.conn_id!r}: {error}") from error

    def _check(self) -> None:
        if self.deployment is not None and len(self.deployment) > MAX_DEPLOYMENT_CHARACTERS:
            self._refuse(f"deployment has more than {MAX_DEPLOYMENT_CHARACTERS} characters")
        if self.folder is not None:
            self._check_folder(self.folder)
            return
        if self.endpoint is not None:
            try:
                check_endpoint(self.endpoint.rstrip("/"))
            except ConfigurationError as error:
                self._refuse(str(error))
        if self.bucket is None:
            self._refuse("it names neither a bucket nor a folder: fill in one of them")
        if self.auth not in (None, INSTANCE_ROLE):
            # Its value is not repeated: it may be a key that was typed into the wrong field.
            self._refuse(
                f"auth has {len(self.auth or '')} characters that are not {INSTANCE_ROLE!r}, the only choice; leave it "
                "empty for keys, which have fields of their own"
            )
        for one, other in (("access_key", "secret_key"), ("secret_key", "access_key"), ("session_token", "access_key")):
            if getattr(self, one) is not None and getattr(self, other) is None:
                self._refuse(f"{one} is filled in and {other} is not: keys come in pairs")
        ways = [name for name in ("access_key", "aws_conn_id", "auth") if getattr(self, name) is not None]
        if not ways:
            self._refuse(
                f"no credentials for the bucket {self.bucket}. Fill in access_key and secret_key, or aws_conn_id with "
                f"the id of an aws connection, or auth={INSTANCE_ROLE} for the role of the machine that runs the task. "
                "Variables of the worker are not looked at."
            )
        if len(ways) > 1:
            self._refuse(f"{' and '.join(ways)} are filled in: credentials come from one of them")

    def _check_folder(self, folder: str) -> None:
        for name in _S3_ONLY:
            if getattr(self, name) is not None:
                self._refuse(f"folder and {name} are filled in: tables are in a folder or in a bucket")
        if not PurePath(folder).is_absolute():
            self._refuse(f"folder={folder!r} is not an absolute path, so each worker would find another one")

    def _refuse(self, why: str) -> None:
        raise ConfigurationError(f"connection {self.conn_id!r}: {why}")


def _values(connection: Connection, conn_id: str) -> dict[str, Any]:
    """What is filled in, wherever the connection has it; forms send empty fields as empty text or null."""
    extra: Any = connection.extra_dejson
    if connection.extra and not isinstance(extra, Mapping):
        raise ConfigurationError(f"connection {conn_id!r}: its extra is no JSON object of settings")
    found = {name: value for name, value in dict(extra).items() if value is not None and str(value).strip()}
    if unknown := sorted(set(found) - set(NAMES)):
        raise ConfigurationError(
            f"connection {conn_id!r}: its extra has {', '.join(map(repr, unknown))}, which is no setting; there are "
            f"{', '.join(NAMES)}"
        )
    if connection.port:
        raise ConfigurationError(
            f"connection {conn_id!r}: port {connection.port} has no meaning here; write the store's URL with its port "
            "in the field endpoint"
        )
    for attribute, name in _OF_URI.items():
        value = getattr(connection, attribute)
        if not value:
            continue
        if found.get(name, value) != value:
            raise ConfigurationError(f"connection {conn_id!r}: {name} in its extra and its {attribute} differ")
        found[name] = value
    return found


def _parse_verify(value: Any) -> bool | str | None:
    if value is None or isinstance(value, bool):
        return value
    text = str(value).strip()
    return {"true": True, "false": False}.get(text.lower(), text)
