"""Where tables live and with which credentials: the one door to the environment.

Adapters build an :class:`S3Config` from a connection or a block, and nothing below them looks
anything up. Scripts may leave it to :func:`resolve_warehouse`.
"""

from __future__ import annotations

import os
import posixpath
import re
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, Literal, NamedTuple

from msgspec import Struct
from msgspec.structs import asdict, force_setattr, replace

from datashard_core.arguments import is_unicode, seconds, shown, text, whole
from datashard_core.errors import ConfigurationError

DEFAULT_TIMEOUT = 120.0
"""Seconds after which an append or the creation of a table gives up, unless told otherwise."""
DEFAULT_FOLDER = "datashard-warehouse"
"""The local warehouse of scripts that configure nothing: a folder in the working directory."""

AddressingStyle = Literal["auto", "path", "virtual"]
ServerSideEncryption = Literal["AES256", "aws:kms"]
TransportChoice = Literal["auto", "boto3", "obstore"]

MAX_PREFIX = 512
"""Characters of a prefix; what comes below it needs the rest of a key."""

_BUCKET = re.compile(r"[a-z0-9][a-z0-9.-]{1,61}[a-z0-9]")
_PREFIX = re.compile(r"[A-Za-z0-9._=-]+(/[A-Za-z0-9._=-]+)*")
_ENDPOINT = re.compile(r"https?://([A-Za-z0-9._-]+|\[[0-9A-Fa-f:.]+\])(:[0-9]+)?(/[A-Za-z0-9._~%:+,=-]+)*")
_BROKEN_URI = re.compile(r"[A-Za-z][A-Za-z0-9+.-]+:(?!//)")
_SECRETS = frozenset({"secret_key", "session_token", "credentials_provider"})


class Credentials(NamedTuple):
    """What a request is signed with; ``repr`` shows no secret."""

    access_key: str
    secret_key: str
    session_token: str | None = None

    def __repr__(self) -> str:
        return f"Credentials(access_key={self.access_key!r}, secret_key='***')"


CredentialsProvider = Callable[[], Credentials]
"""Returns credentials that are valid now; it is asked before requests and may refresh them."""


class LocalConfig(Struct, frozen=True):
    """A warehouse in a folder of a local disk.

    Attributes:
        folder: the folder.

    Raises:
        ConfigurationError: it cannot be a folder.
    """

    folder: str

    def __post_init__(self) -> None:
        folder = self.folder
        if not isinstance(folder, str) or not folder or not _is_path(folder):
            raise ConfigurationError(f"folder={shown(folder)} cannot be a folder: pass its path, as '/srv/warehouse'")


class S3Config(Struct, frozen=True):
    """A warehouse in a bucket of an S3-compatible store.

    Credentials come from exactly one of: ``access_key`` and ``secret_key``; a
    ``credentials_provider``; or ``use_default_chain`` (IAM role, profile, web identity).

    Attributes:
        bucket: name of the bucket.
        prefix: folder within it, without slashes at the ends; "" for the whole bucket. No part is ``.`` or ``..``.
        endpoint: URL of the store, which may have a path; None for AWS.
        region: region; None: found out once for AWS, ``us-east-1`` for other stores.
        access_key: access key id.
        secret_key: secret access key.
        session_token: token of temporary credentials.
        addressing_style: "path" for ``endpoint/bucket``, "virtual" for ``bucket.endpoint``; "auto":
            "path" with an endpoint, "virtual" on AWS.
        verify_tls: whether to check certificates, or the path of a CA bundle to check them with.
        sse: server-side encryption, "AES256" or "aws:kms"; None: the bucket's default.
        sse_kms_key_id: the KMS key for "aws:kms".
        connect_timeout: seconds.
        read_timeout: seconds.
        max_attempts: tries of reads and unconditional writes; conditional writes are sent once.
        credentials_provider: callable that returns valid :class:`Credentials`.
        use_default_chain: let botocore find credentials where AWS's tools do.
        transport: the client that carries requests. "auto": obstore where it is installed and can do
            what this configuration asks (see ``docs/design/transport.md``), else boto3; or one by name.

    Raises:
        ConfigurationError: the settings are incomplete or contradict each other.

    Example:
        >>> S3Config(bucket="logs", endpoint="http://localhost:9000", access_key="minio", secret_key="minio123")
        S3Config(bucket='logs', endpoint='http://localhost:9000', access_key='minio', secret_key='***')
    """

    bucket: str
    prefix: str = ""
    endpoint: str | None = None
    region: str | None = None
    access_key: str | None = None
    secret_key: str | None = None
    session_token: str | None = None
    addressing_style: AddressingStyle = "auto"
    verify_tls: bool | str = True
    sse: ServerSideEncryption | None = None
    sse_kms_key_id: str | None = None
    connect_timeout: float = 10.0
    read_timeout: float = 60.0
    max_attempts: int = 5
    credentials_provider: CredentialsProvider | None = None
    use_default_chain: bool = False
    transport: TransportChoice = "auto"

    def __post_init__(self) -> None:
        _check_types(self)
        force_setattr(self, "prefix", (self.prefix or "").strip("/"))
        force_setattr(self, "endpoint", (self.endpoint or "").rstrip("/") or None)
        self._check_place()
        self._check_credentials()
        if self.addressing_style not in ("auto", "path", "virtual"):
            raise ConfigurationError(f"addressing_style={self.addressing_style!r}: use 'auto', 'path' or 'virtual'")
        if self.sse not in (None, "AES256", "aws:kms"):
            raise ConfigurationError(f"sse={self.sse!r}: use 'AES256' or 'aws:kms', or leave it to the bucket")
        if self.transport not in ("auto", "boto3", "obstore"):
            raise ConfigurationError(f"transport={self.transport!r}: use 'auto', 'boto3' or 'obstore'")
        if self.sse_kms_key_id and self.sse != "aws:kms":
            raise ConfigurationError("sse_kms_key_id goes with sse='aws:kms'")

    def _check_place(self) -> None:
        if not isinstance(self.bucket, str) or not _BUCKET.fullmatch(self.bucket):
            given = _without_secrets(self.bucket) if isinstance(self.bucket, str) else self.bucket
            changed = isinstance(self.bucket, str) and given != self.bucket
            keys = "; keys go into access_key= and secret_key=" if changed else ""
            raise ConfigurationError(
                f"bucket={shown(given)} cannot be the name of a bucket: 3 to 63 of a-z 0-9 . - alone{keys}"
            )
        if self.prefix:
            _check_prefix(self.prefix)
        if self.endpoint is not None:
            check_endpoint(self.endpoint)

    def _check_credentials(self) -> None:
        if bool(self.access_key) != bool(self.secret_key):
            lacking = "secret_key" if self.access_key else "access_key"
            raise ConfigurationError(f"bucket {self.bucket}: {lacking} is missing: keys come in pairs")
        if self.session_token and not self.access_key:
            raise ConfigurationError(f"bucket {self.bucket}: a session_token needs its access_key and secret_key")
        given = [bool(self.access_key), self.credentials_provider is not None, self.use_default_chain]
        if sum(given) == 0:
            raise ConfigurationError(
                f"bucket {self.bucket}: no credentials. Pass access_key and secret_key, or use_default_chain=True for "
                "an IAM role, a profile or a web identity."
            )
        if sum(given) > 1:
            raise ConfigurationError(
                f"bucket {self.bucket}: more than one source of credentials. Pass keys, a credentials_provider or "
                "use_default_chain=True, and no two of them."
            )

    def __repr__(self) -> str:
        return f"S3Config({', '.join(f'{name}={value!r}' for name, value in self.__rich_repr__())})"

    def __rich_repr__(self) -> list[tuple[str, Any]]:
        """The settings that were made, without secrets: what Rich shows in tracebacks, instead of ``repr``."""
        made = []
        required = len(self.__struct_fields__) - len(self.__struct_defaults__)
        for position, name in enumerate(self.__struct_fields__):
            value = getattr(self, name)
            if position < required or value != self.__struct_defaults__[position - required]:
                made.append((name, "***" if name in _SECRETS else value))
        return made

    def __reduce__(self) -> tuple[Any, ...]:
        if self.secret_key or self.session_token or self.credentials_provider is not None:
            raise TypeError(
                f"an S3Config that holds credentials (bucket {self.bucket}) is not pickled: it would end up in task "
                "arguments and logs. Pass the name of the connection or block, and build it where it is used."
            )
        return _rebuild, (type(self), asdict(self))

    @property
    def uri(self) -> str:
        """``s3://bucket/prefix``."""
        return f"s3://{self.bucket}/{self.prefix}" if self.prefix else f"s3://{self.bucket}"

    @property
    def uses_path_style(self) -> bool:
        """Whether the bucket goes into the path of a request, not into its host name."""
        if self.addressing_style == "virtual" and self.endpoint is not None:
            return is_address(self.endpoint)  # a bucket cannot stand before an IP address
        return self.addressing_style == "path" or (self.addressing_style == "auto" and self.endpoint is not None)


def check_endpoint(endpoint: str) -> None:
    """Refuse what is no URL of a store; what may be a secret in it is not repeated.

    Raises:
        ConfigurationError: it is none, or it holds a user, a password or a query.
    """
    from urllib.parse import SplitResult, urlsplit

    example = "such as http://localhost:9000, https://s3.example.com or https://host/storage/v1/s3"
    no_url = f"endpoint={_without_secrets(endpoint)!r} is not a URL {example}"
    parts: SplitResult | None = None
    host = port = None
    with suppress(ValueError):  # it quotes the user and the password, so it is no context of the error
        found = urlsplit(endpoint)
        host, port = found.hostname, found.port
        parts = found
    if parts is None:
        raise ConfigurationError(no_url)
    plain = f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}{parts.path}"
    if "@" in endpoint:
        raise ConfigurationError(
            f"the endpoint {_without_secrets(plain)} holds a user or a password: pass access_key= and secret_key= "
            "instead, and the URL without them"
        )
    if parts.query or parts.fragment or "?" in endpoint or "#" in endpoint:
        raise ConfigurationError(f"the endpoint {plain} has a query or a fragment: pass the URL without it")
    fits = parts.scheme in ("http", "https") and port != 0 and _ENDPOINT.fullmatch(endpoint)
    if not fits or not host or (host.rpartition(".")[2].isdigit() and not is_address(endpoint)):
        raise ConfigurationError(no_url)


def is_address(endpoint: str) -> bool:
    """Whether an endpoint's host is an IP address."""
    from ipaddress import ip_address
    from urllib.parse import urlsplit

    try:
        ip_address(urlsplit(endpoint).hostname or "")
    except ValueError:
        return False
    return True


_USER = re.compile(r"(?is)^([a-z][a-z0-9+.-]*:/*)?.*(?:@|\uff20|%40)")
_NO_PORT = re.compile(r"(?is)^([a-z][a-z0-9+.-]*://[^/:?#]*):(?![0-9]*(?:/|$))[^/?#]*")


def _without_secrets(text: str) -> str:
    """A text that was to be a place, without what stands before an ``@``, for a port, or in a query.

    Example:
        >>> _without_secrets("s3://key:hunter2@bucket/p?token=x"), _without_secrets("https://key:hunter2")
        ('s3://***@bucket/p?***', 'https://key:***')
    """
    plain = _NO_PORT.sub(r"\1:***", _USER.sub(lambda found: f"{found[1] or ''}***@", text))
    return re.sub(r"(?s)([?#;&]).*", r"\1***", plain)


_TEXTS = ("prefix", "endpoint", "region", "access_key", "secret_key", "session_token", "sse_kms_key_id")


def _check_types(config: S3Config) -> None:
    """Refuse values of other types than a setting takes; secrets are not shown.

    Raises:
        ConfigurationError: there is one.
    """
    for name in _TEXTS:
        value = getattr(config, name)
        if value is not None and not (isinstance(value, str) and is_unicode(value) and "\0" not in value):
            given = type(value).__name__ if name in _SECRETS else shown(value)
            raise ConfigurationError(f"{name}={given}: pass text without control characters, or leave it out")
    for name in ("connect_timeout", "read_timeout"):
        if seconds(getattr(config, name), name) == 0:
            raise ConfigurationError(f"{name}=0: no store answers in no time; pass more")
    whole(config.max_attempts, "max_attempts", "how often a request is tried", 1, 1000)
    verify = config.verify_tls
    if not isinstance(verify, bool) and (not isinstance(verify, str) or not verify or "\0" in verify):
        raise ConfigurationError(f"verify_tls={shown(verify)}: pass True, False, or the path of a CA bundle")
    if isinstance(verify, str):
        text(verify, "verify_tls")
    if not isinstance(config.use_default_chain, bool):
        raise ConfigurationError(f"use_default_chain={shown(config.use_default_chain)}: pass True or False")
    if config.credentials_provider is not None and not callable(config.credentials_provider):
        raise ConfigurationError(
            f"credentials_provider={type(config.credentials_provider).__name__}: pass a callable that returns "
            "Credentials"
        )
    for name in ("addressing_style", "sse", "transport"):
        value = getattr(config, name)
        if value is not None and not isinstance(value, str):
            raise ConfigurationError(f"{name}={shown(value)}: pass text")


def _is_path(folder: str) -> bool:
    """Whether the system can have a folder of that name; on POSIX its bytes need not be UTF-8. Pure."""
    try:
        return b"\0" not in os.fsencode(folder)
    except UnicodeEncodeError:
        return False


def _rebuild(kind: type[S3Config], values: dict[str, Any]) -> S3Config:
    return kind(**values)


def resolve_warehouse(
    uri: str | os.PathLike[str] | None = None,
    config: S3Config | LocalConfig | None = None,
    environ: Mapping[str, str] | None = None,
) -> S3Config | LocalConfig:
    """Where a script's tables live: what it says, else the ``DATASHARD_*`` variables, else a folder.

    Args:
        uri: ``s3://bucket/prefix``, ``file:///folder``, or a folder.
        config: keys and settings; the bucket and prefix of ``uri`` win over its own.
        environ: the variables; those of the process if left out.

    Raises:
        ConfigurationError: something is missing or contradicts itself.
    """
    variables = os.environ if environ is None else environ
    if config is not None and not isinstance(config, (S3Config, LocalConfig)):
        raise ConfigurationError(f"config={shown(config)}: pass an S3Config or a LocalConfig, or None")
    if uri is None:
        return config if config is not None else _from_variables(variables)
    if isinstance(uri, os.PathLike):
        return LocalConfig(str(Path(uri).expanduser()))
    if not isinstance(uri, str):
        raise ConfigurationError(
            f"{shown(uri)} is no place for tables: use s3://bucket/prefix or a folder, as text or a path"
        )
    plain = _without_secrets(uri)
    if "://" not in uri and uri.strip():
        if _BROKEN_URI.match(uri):
            raise ConfigurationError(
                f"{plain!r} is no place for tables: write s3://bucket/prefix, or ./{plain} for a folder of that name"
            )
        return LocalConfig(str(Path(uri).expanduser()))
    scheme, _, rest = uri.partition("://")
    if scheme == "file":
        folder = rest if rest.startswith("/") else ""
        if not folder:
            raise ConfigurationError(f"{plain!r}: a file URI has three slashes, as in file:///srv/warehouse")
        return LocalConfig(folder)
    if scheme not in ("s3", "s3a"):
        raise ConfigurationError(
            f"{plain!r} is no place for tables: use s3://bucket/prefix (any S3-compatible store) or a folder"
        )
    bucket, _, prefix = rest.partition("/")
    if isinstance(config, LocalConfig):
        raise ConfigurationError(f"{plain!r} is a bucket, and the config names the folder {config.folder!r}")
    if config is not None:
        return replace(config, bucket=bucket, prefix=prefix)
    return _s3_from_variables(variables, bucket, prefix)


def _check_prefix(prefix: str) -> None:
    """Refuse a prefix that stores, gateways or Iceberg readers understand differently.

    Raises:
        ConfigurationError: with the prefix to write instead.
    """
    plain = _without_secrets(prefix)
    if {".", ".."} & set(prefix.split("/")):
        # In a bucket these are names like any other; a file system behind a gateway takes them for folders.
        meant = posixpath.normpath(f"/{plain}").strip("/")
        raise ConfigurationError(
            f"prefix={plain!r} has a part '.' or '..', which a bucket does not resolve: write prefix={meant!r} if "
            "that folder is meant"
        )
    if not _PREFIX.fullmatch(prefix):
        raise ConfigurationError(
            f"prefix={plain!r} cannot be a folder of tables: use the characters A-Z a-z 0-9 . _ = - and single "
            "slashes, so that every Iceberg reader finds them"
        )
    if len(prefix) > MAX_PREFIX:
        raise ConfigurationError(
            f"prefix={prefix[:40]!r}... has {len(prefix)} characters: use {MAX_PREFIX} at most, for the key of a file "
            "has to fit into 1024 bytes"
        )


def _from_variables(variables: Mapping[str, str]) -> S3Config | LocalConfig:
    kind = variables.get("DATASHARD_STORAGE_TYPE", "").strip().lower()
    bucket = variables.get("DATASHARD_S3_BUCKET", "").strip()
    if kind in ("", "local"):
        return LocalConfig(DEFAULT_FOLDER)
    if kind != "s3":
        raise ConfigurationError(f"DATASHARD_STORAGE_TYPE={kind!r}: use 's3' or 'local'")
    if not bucket:
        raise ConfigurationError("DATASHARD_STORAGE_TYPE is s3 and DATASHARD_S3_BUCKET is not set: name the bucket")
    return _s3_from_variables(variables, bucket, variables.get("DATASHARD_S3_PREFIX", "").strip())


def _s3_from_variables(variables: Mapping[str, str], bucket: str, prefix: str) -> S3Config:
    access_key = variables.get("DATASHARD_S3_ACCESS_KEY") or None
    secret_key = variables.get("DATASHARD_S3_SECRET_KEY") or None
    if bool(access_key) != bool(secret_key):
        missing = "DATASHARD_S3_SECRET_KEY" if access_key else "DATASHARD_S3_ACCESS_KEY"
        raise ConfigurationError(f"{missing} is not set: set both keys, or neither for an IAM role or a profile")
    return S3Config(
        bucket=bucket,
        prefix=prefix,
        endpoint=_endpoint(variables.get("DATASHARD_S3_ENDPOINT")),
        region=variables.get("DATASHARD_S3_REGION") or None,
        access_key=access_key,
        secret_key=secret_key,
        session_token=(variables.get("DATASHARD_S3_SESSION_TOKEN") or None) if access_key else None,
        use_default_chain=access_key is None,
    )


def _endpoint(text: str | None) -> str | None:
    """AWS's own global endpoint says no more than none does, and would hide the region."""
    cleaned = (text or "").strip().rstrip("/")
    return None if cleaned in ("", "https://s3.amazonaws.com", "http://s3.amazonaws.com") else cleaned


def split_table_uri(name_or_uri: str) -> tuple[str | None, str]:
    """A table's URI as that of its warehouse and its name; a bare name has no warehouse.

    Example:
        >>> split_table_uri("s3://bucket/warehouse/events")
        ('s3://bucket/warehouse', 'events')
        >>> split_table_uri("events")
        (None, 'events')

    Raises:
        ConfigurationError: it names no table.
    """
    if not isinstance(name_or_uri, str) or not name_or_uri.strip():
        raise ConfigurationError(f"{shown(name_or_uri)} names no table")
    if "/" not in name_or_uri and os.sep not in name_or_uri:
        if ":" in name_or_uri:
            raise ConfigurationError(f"{name_or_uri!r} is neither a table's name nor a URI such as s3://bucket/table")
        return None, name_or_uri
    root, _, name = name_or_uri.rstrip("/").rpartition("/")
    if not name or root in ("", "s3:/", "s3:", "file:", "file:/"):
        raise ConfigurationError(
            f"{name_or_uri!r} names no table: use s3://bucket/prefix/table, or a folder and a name"
        )
    return root, name
