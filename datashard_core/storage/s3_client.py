"""What a process shares for one bucket: the transport, the credentials, the region, Arrow's client.

Nothing is inherited over a fork: a parent's connections are not its child's to use.
"""

from __future__ import annotations

import logging
import os
import threading
from typing import Any

from msgspec.structs import replace

from datashard_core.config import Credentials, S3Config
from datashard_core.errors import ConfigurationError, DataShardError, StorageError
from datashard_core.storage.choice import Choice, choose, is_installed
from datashard_core.storage.environment import with_aws_variables
from datashard_core.storage.if_match import IfMatch
from datashard_core.storage.redact import clean
from datashard_core.storage.region import AWS, DEFAULT, Place, ask, discover_region
from datashard_core.storage.transport import Transport

log = logging.getLogger(__name__)

_lock = threading.Lock()
_made: dict[S3Config, S3Clients] = {}


def clients_for(config: S3Config) -> S3Clients:
    """The clients of a configuration; one set per process, whatever the prefix.

    Raises:
        ConfigurationError: the transport that it names cannot be had, or none can.
    """
    key = replace(config, prefix="")
    with _lock:
        found = _made.get(key)
        if found is None:
            found = _made[key] = S3Clients(key)
        return found


def _forget_all() -> None:
    """In a forked child: the lock may have been held by a thread that is not here."""
    global _lock  # noqa: PLW0603
    _lock = threading.Lock()
    _made.clear()


os.register_at_fork(after_in_child=_forget_all)


class S3Clients:
    """The clients, made when they are first used.

    Args:
        config: the store and the credentials.

    Attributes:
        config: the same; with the default chain also what AWS's settings say of the endpoint.
        pid: the process that it belongs to.
        if_match: what this process knows of If-Match in the bucket.
        lacks_bulk_delete: the store has refused DeleteObjects, and objects are deleted one by one.

    Raises:
        ConfigurationError: as :func:`clients_for`.
    """

    def __init__(self, config: S3Config) -> None:
        self.config = config
        self.pid = os.getpid()
        self.if_match = IfMatch()
        self._lock = threading.RLock()
        self._session: Any = None
        self._transport: Transport | None = None
        self._region: str | None = config.region
        self._filesystem: tuple[Credentials, str, Any] | None = None
        self._second: Transport | None = None
        self._used = Credentials("", "")
        self.lacks_bulk_delete = False
        if isinstance(config.verify_tls, str) and not os.access(config.verify_tls, os.R_OK):
            raise ConfigurationError(
                f"bucket {config.bucket}: verify_tls={config.verify_tls!r} is no file of certificates that can be read"
            )
        self._choice, why = self._choose()
        log.info("bucket %s: requests go through %s: %s", config.bucket, self._choice, why)

    def _choose(self) -> tuple[Choice, str]:
        if not self.config.use_default_chain:
            return choose(self.config, self.session)
        try:
            with with_aws_variables():
                choice, why = choose(self.config, self.session)
                if choice == "boto3":  # obstore is chosen only where AWS's settings say nothing more
                    from datashard_core.storage.aws_settings import with_aws_settings

                    self.config = with_aws_settings(self.config, self.session())
                    self._region = self.config.region
            return choice, why
        except DataShardError:
            raise
        except Exception as error:
            raise ConfigurationError(
                f"bucket {self.config.bucket}: AWS's settings (variables, profile) cannot be used: "
                f"{clean(str(error))}. Correct them, or pass access_key and secret_key."
            ) from error

    @property
    def transport_name(self) -> str:
        """The transport that carries requests; it need not be made yet."""
        return self._choice

    @property
    def transport(self) -> Transport:
        """What sends requests."""
        with self._lock:
            if self._transport is None:
                if self._choice == "obstore":
                    from datashard_core.storage.s3_obstore import ObstoreTransport

                    self._transport = ObstoreTransport(self)
                else:
                    from datashard_core.storage.s3_boto import BotoTransport

                    self._transport = BotoTransport(self)
            return self._transport

    @property
    def region(self) -> str:
        """The bucket's region: as configured, ``us-east-1`` for other stores, else asked for once."""
        with self._lock:
            if self._region is None:
                self._region = DEFAULT if self.config.endpoint else discover_region(self.config)
            return self._region

    def correct_region(self) -> bool:
        """Ask AWS where the bucket is, after an answer that it is elsewhere; whether that is news."""
        if self.config.endpoint is not None:
            return False
        asked = self._region
        found = discover_region(self.config)
        with self._lock:
            if self._region != asked:
                return True  # another thread has asked meanwhile
            if found == asked:
                return False
            log.warning("bucket %s is in %s, not in %s: pass region=", self.config.bucket, found, self._region)
            self._region = found
            return True

    def place(self) -> Place:
        """Where the store says that the bucket is, for an error about a redirect that does not say it."""
        try:
            return ask(self.config, self.config.endpoint or AWS)
        except OSError as error:
            log.info("bucket %s: the store does not say where it is: %s", self.config.bucket, clean(str(error)))
            return Place()

    @property
    def boto3(self) -> Transport:
        """The transport that can do everything, for what the other one cannot.

        Raises:
            StorageError: boto3 is not installed.
        """
        with self._lock:
            if self._transport is not None and self._transport.name == "boto3":
                return self._transport
            if self._second is None:
                if not is_installed("boto3"):
                    raise StorageError(
                        f"the store of bucket {self.config.bucket} needs boto3 for what obstore cannot do: pip install "
                        "boto3",
                        reason="unsupported",
                        key=self.config.uri,
                    )
                from datashard_core.storage.s3_boto import BotoTransport

                self._second = BotoTransport(self)
            return self._second

    def use_boto3(self, why: str) -> Transport:
        """Let boto3 carry all requests from now on: the store's answers are not for obstore."""
        second = self.boto3
        with self._lock:
            if self._transport is not second:
                log.info("bucket %s: requests go through boto3 from now on: %s", self.config.bucket, clean(why))
                self._transport, self._choice = second, "boto3"
        return second

    @property
    def secrets(self) -> tuple[str | None, ...]:
        """The credentials that were used last, which no error may quote."""
        return tuple(self._used)

    def credentials(self) -> Credentials:
        """Credentials that are valid now, refreshed where they expire.

        Raises:
            StorageError: the default chain finds none, or they cannot be refreshed.
        """
        self._used = found = self._credentials()
        return found

    def _credentials(self) -> Credentials:
        config = self.config
        if config.access_key and config.secret_key:
            return Credentials(config.access_key, config.secret_key, config.session_token)
        if config.credentials_provider is not None:
            return config.credentials_provider()
        try:
            session = self.session()
            with with_aws_variables():
                found = session.get_credentials()
                frozen = None if found is None else found.get_frozen_credentials()
        except DataShardError:
            raise
        except Exception as error:
            raise StorageError(
                f"the credentials for bucket {config.bucket} cannot be had from AWS's default chain: "
                f"{clean(str(error))}",
                reason="credentials-missing",
                key=config.uri,
            ) from error
        if frozen is None:
            raise StorageError(
                f"no credentials for bucket {config.bucket}: AWS's default chain (variables, profile, web identity, "
                "instance role) finds none. Configure one of them, or pass access_key and secret_key.",
                reason="credentials-missing",
                key=config.uri,
            )
        return Credentials(frozen.access_key, frozen.secret_key, frozen.token)

    def filesystem(self) -> Any:
        """Arrow's S3FileSystem with the same credentials; made again when they or the region have changed."""
        from datashard_core.storage.arrow_fs import make_filesystem

        current, region = self.credentials(), self.region
        with self._lock:
            if self._filesystem is None or self._filesystem[:2] != (current, region):
                self._filesystem = (current, region, make_filesystem(self.config, current, region))
            return self._filesystem[2]

    def session(self) -> Any:
        """The botocore session, made when it is first needed."""
        with self._lock:
            if self._session is None:
                from datashard_core.storage.s3_boto import make_session

                self._session = make_session(self.config, self.credentials)
            return self._session
