"""boto3 clients and credentials of one configuration, shared by the whole process.

Two clients: one retries (reads, unconditional writes), the other sends each request once, because a
conditional write that the SDK repeats by itself meets its own first try. Where a configuration holds
keys or a provider, nothing is taken from the environment: not AWS_PROFILE, not AWS_REGION, not
AWS_ENDPOINT_URL, no file of AWS's tools.
"""

from __future__ import annotations

import os
import threading
from dataclasses import replace
from importlib.util import find_spec
from typing import Any

from datashard_core.config import Credentials, S3Config
from datashard_core.errors import ConfigurationError, StorageError

POOL = 64
SMALL = 1 << 20

_lock = threading.Lock()
_made: dict[tuple[int, S3Config], S3Clients] = {}


def clients_for(config: S3Config) -> S3Clients:
    """The clients of a configuration; one set per process, whatever the prefix."""
    key = (os.getpid(), replace(config, prefix=""))
    with _lock:
        found = _made.get(key)
        if found is None:
            for stale in [other for other in _made if other[0] != key[0]]:
                del _made[stale]  # a parent's connections are not a forked child's to use
            found = _made[key] = S3Clients(key[1])
        return found


class S3Clients:
    """The clients, made when they are first used.

    Args:
        config: the store and the credentials.

    Raises:
        ConfigurationError: boto3 is not installed.
    """

    def __init__(self, config: S3Config) -> None:
        _check_installed(config)
        self.config = config
        self._lock = threading.RLock()
        self._session: Any = None
        self._retrying: Any = None
        self._once: Any = None
        self._region: str | None = config.region
        self._filesystem: tuple[Credentials, Any] | None = None

    @property
    def retrying(self) -> Any:
        """The client for reads and for writes that may be repeated."""
        with self._lock:
            if self._retrying is None:
                self._retrying = self._client(self.region, self.config.max_attempts)
            return self._retrying

    @property
    def once(self) -> Any:
        """The client that sends every request once."""
        with self._lock:
            if self._once is None:
                self._once = self._client(self.region, 1)
            return self._once

    @property
    def region(self) -> str:
        """The bucket's region: as configured, ``us-east-1`` for other stores, else asked for once."""
        with self._lock:
            if self._region is None:
                self._region = "us-east-1" if self.config.endpoint else self._discover_region()
            return self._region

    def credentials(self) -> Credentials:
        """Credentials that are valid now, refreshed where they expire.

        Raises:
            StorageError: the default chain finds none.
        """
        config = self.config
        if config.access_key and config.secret_key:
            return Credentials(config.access_key, config.secret_key, config.session_token)
        if config.credentials_provider is not None:
            return config.credentials_provider()
        found = self._boto_session().get_credentials()
        if found is None:
            raise StorageError(
                f"no credentials for bucket {config.bucket}: AWS's default chain (variables, profile, web identity, "
                "instance role) finds none. Configure one of them, or pass access_key and secret_key.",
                reason="credentials-missing",
                key=config.uri,
            )
        frozen = found.get_frozen_credentials()
        return Credentials(frozen.access_key, frozen.secret_key, frozen.token)

    def filesystem(self) -> Any:
        """Arrow's S3FileSystem with the same credentials; made anew when they have changed."""
        from datashard_core.storage.arrow_fs import make_filesystem

        current = self.credentials()
        with self._lock:
            if self._filesystem is None or self._filesystem[0] != current:
                self._filesystem = (current, make_filesystem(self.config, current, self.region))
            return self._filesystem[1]

    # -----------------------------------------------------------------------------------------

    def _client(self, region: str, attempts: int) -> Any:
        from botocore.config import Config

        config = self.config
        client = self._boto_session().create_client(
            "s3",
            region_name=region,
            endpoint_url=config.endpoint,
            # With the default chain, AWS's own settings (AWS_CA_BUNDLE among them) are the user's wish.
            verify=None if config.use_default_chain and config.verify_tls is True else config.verify_tls,
            config=Config(
                connect_timeout=config.connect_timeout,
                read_timeout=config.read_timeout,
                retries={"mode": "standard", "total_max_attempts": attempts},
                max_pool_connections=POOL,
                tcp_keepalive=True,
                request_checksum_calculation="when_required",
                response_checksum_validation="when_required",
                ignore_configured_endpoint_urls=not config.use_default_chain,
                user_agent_extra="datashard",
                s3={"addressing_style": "path" if config.uses_path_style else "virtual"},
            ),
        )
        client.meta.events.register("before-call.s3.PutObject", _without_expect)
        return client

    def _boto_session(self) -> Any:
        with self._lock:
            if self._session is None:
                self._session = _make_session(self.config, self)
            return self._session

    def _discover_region(self) -> str:
        """AWS tells a bucket's region to whoever asks, whichever region is asked."""
        from botocore.exceptions import BotoCoreError, ClientError

        try:
            answer = self._client("us-east-1", 2).head_bucket(Bucket=self.config.bucket)
            headers = answer["ResponseMetadata"]["HTTPHeaders"]
        except ClientError as error:
            headers = error.response.get("ResponseMetadata", {}).get("HTTPHeaders", {})
        except BotoCoreError as error:
            raise StorageError(
                f"the region of bucket {self.config.bucket} could not be found out ({error}): pass region=",
                reason="unreachable",
                key=self.config.uri,
            ) from error
        return str(headers.get("x-amz-bucket-region") or "us-east-1")


def _check_installed(config: S3Config) -> None:
    """Look for boto3 without importing it: connecting stays quick, and what is missing is told at once."""
    try:
        found = all(find_spec(name) for name in ("boto3", "botocore"))
    except ImportError:
        found = False
    if not found:
        raise ConfigurationError(f"tables in s3://{config.bucket} need boto3: pip install 'datashard-core[s3]'")


def _make_session(config: S3Config, clients: S3Clients) -> Any:
    import botocore.session

    if config.use_default_chain:
        return botocore.session.Session()
    # Every variable that the environment could set is given a name of its own that nobody sets, so
    # that a worker's AWS_PROFILE or AWS_CONFIG_FILE is not even looked at.
    session = botocore.session.Session(
        session_vars={name: (None, None, None, None) for name in ("profile", "region", "ca_bundle")}
    )
    session.set_config_variable("config_file", os.devnull)
    session.set_config_variable("credentials_file", os.devnull)
    session.register_component("credential_provider", _provider(clients))
    return session


def _provider(clients: S3Clients) -> Any:
    """What botocore asks for credentials: ours, asked of their owner again for each request."""
    from botocore.credentials import Credentials as BotoCredentials
    from botocore.credentials import ReadOnlyCredentials

    class Provided(BotoCredentials):  # type: ignore[misc]
        def get_frozen_credentials(self) -> Any:
            return ReadOnlyCredentials(*clients.credentials())

    class Provider:
        def load_credentials(self) -> Any:
            return Provided(*clients.credentials(), method="datashard")

    return Provider()


def _without_expect(params: Any, **_: Any) -> None:
    """``Expect: 100-continue`` costs a round trip, and a small body is sent as quickly as it asks."""
    body = params.get("body")
    if isinstance(body, bytes) and len(body) < SMALL:
        params["headers"].pop("Expect", None)
