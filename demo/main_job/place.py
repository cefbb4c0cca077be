"""Where the demo's tables are (an embedded S3 server, a bucket or a folder), and how each side gets in."""

from __future__ import annotations

import secrets
import shutil
import signal
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from datashard_testkit.s3_server import S3Server
from msgspec.structs import replace

from datashard_core import LocalConfig, S3Config, Warehouse, connect
from datashard_core.config import resolve_warehouse
from datashard_core.storage import open_storage
from datashard_core.storage.s3_client import clients_for


@dataclass(frozen=True)
class Place:
    """A warehouse, and what Airflow, Prefect and PyIceberg must know to use it.

    Attributes:
        config: its bucket and keys, or its folder.
        ends_with_the_demo: whether the tables are gone when the demo ends.
    """

    config: S3Config | LocalConfig
    ends_with_the_demo: bool

    @property
    def warehouse(self) -> Warehouse:
        """For the demo's own questions."""
        return connect(config=self.config)

    @property
    def pyiceberg_properties(self) -> dict[str, str]:
        """The file-system properties that PyIceberg needs."""
        config = self.config
        if isinstance(config, LocalConfig):
            return {}
        given = {
            "s3.endpoint": config.endpoint,
            "s3.region": config.region,
            "s3.access-key-id": config.access_key,
            "s3.secret-access-key": config.secret_key,
            "s3.session-token": config.session_token,
            "s3.force-virtual-addressing": "true" if config.endpoint and not config.uses_path_style else None,
        }
        return {name: value for name, value in given.items() if value}

    @property
    def fields(self) -> dict[str, Any]:
        """The settings by the names that the connection and the block share."""
        config = self.config
        if isinstance(config, LocalConfig):
            return {"folder": str(config.folder)}
        given = {
            "bucket": config.bucket,
            "prefix": config.prefix,
            "endpoint": config.endpoint,
            "region": config.region,
            "access_key": config.access_key,
            "secret_key": config.secret_key,
            "session_token": config.session_token,
            "addressing_style": config.addressing_style if config.addressing_style != "auto" else None,
            "verify_tls": config.verify_tls if isinstance(config.verify_tls, str) else None,
        }
        return {name: value for name, value in given.items() if value}

    def how_to_look(self, python: Path) -> str:
        """Commands that show the tables after the demo."""
        uri = self.warehouse.uri
        exports = ""
        if isinstance(self.config, S3Config) and self.ends_with_the_demo:
            names = {
                "ENDPOINT": "endpoint",
                "ACCESS_KEY": "access_key",
                "SECRET_KEY": "secret_key",
                "REGION": "region",
            }
            exports = "".join(
                f"export DATASHARD_S3_{name}={self.fields[field]}\n"
                for name, field in names.items()
                if field in self.fields
            )
        query = "select * from workflow_log"
        code = f"from datashard_core import connect; print(connect('{uri}').sql('{query}').to_pandas())"
        return f'The tables stay. To look at them:\n\n{exports}{python} -c "{code}"\n'


@contextmanager
def open_place(uri: str | None, keep: bool) -> Iterator[Place]:
    """A place for the tables of one run of the demo.

    Args:
        uri: a bucket's or a folder's address; None for an embedded S3 server.
        keep: leave the tables there.

    Raises:
        DataShardError: the bucket cannot be used; the message says what to do.
    """
    if uri is None:
        with ExitStack() as stack:
            with _deaf_to_interrupts():
                server = stack.enter_context(S3Server(access_key=secrets.token_hex(8), secret_key=secrets.token_hex()))
            yield Place(server.config("flights"), ends_with_the_demo=True)
        return
    # A prefix of its own: the sums are right whatever is there already, and removing it harms nobody.
    name = f"datashard-demo-{datetime.now():%Y%m%d-%H%M%S}-{secrets.token_hex(3)}"
    config = _with_keys(resolve_warehouse(f"{uri.rstrip('/')}/{name}"))
    if isinstance(config, LocalConfig):
        config = LocalConfig(str(Path(config.folder).resolve()))  # the children run elsewhere
    place = Place(config, ends_with_the_demo=False)
    place.warehouse.list_tables()  # a missing bucket or a wrong key shows now, and not when all is running
    made = _missing_folders_above(config)
    try:
        yield place
    finally:
        if not keep:
            _remove(place)
            for folder in made:
                if folder.is_dir() and not any(folder.iterdir()):
                    folder.rmdir()


@contextmanager
def _deaf_to_interrupts() -> Iterator[None]:
    """What is started inside does not hear Ctrl-C: the demo ends it, when nobody needs it any more."""
    # Blocked, not ignored: a child inherits it for good, and here it is only put off.
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})


def _with_keys(config: S3Config | LocalConfig) -> S3Config | LocalConfig:
    """The keys of the default chain as of now: Airflow and Prefect are to get them from their own stores.

    The endpoint and region of AWS's settings are written down too, for their processes do not see those settings.
    """
    if isinstance(config, LocalConfig) or not config.use_default_chain:
        return config
    clients = clients_for(config)
    keys = clients.credentials()
    return replace(
        clients.config,
        prefix=config.prefix,
        use_default_chain=False,
        access_key=keys.access_key,
        secret_key=keys.secret_key,
        session_token=keys.session_token,
    )


def _missing_folders_above(config: S3Config | LocalConfig) -> list[Path]:
    """The folders that a warehouse on disk will bring with it, the innermost first."""
    if isinstance(config, S3Config):
        return []
    return [folder for folder in Path(config.folder).parents if not folder.exists()]


def _remove(place: Place) -> None:
    if isinstance(place.config, LocalConfig):
        if Path(place.config.folder).exists():  # it may have failed before there was a table
            shutil.rmtree(place.config.folder)
        return
    storage = open_storage(place.config)
    storage.delete([each.key for each in storage.list("")])
