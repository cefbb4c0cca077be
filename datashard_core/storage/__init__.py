"""Objects and conditions: one protocol, and a backend for each kind of store."""

from __future__ import annotations

from datashard_core.config import LocalConfig, S3Config
from datashard_core.storage.base import Storage

__all__ = ["check_conditional", "open_storage"]


def open_storage(config: S3Config | LocalConfig) -> Storage:
    """The storage of a warehouse; nothing is asked of it yet.

    Args:
        config: where it is.
    """
    if isinstance(config, LocalConfig):
        from datashard_core.storage.local import LocalStorage

        return LocalStorage(config.folder)
    from datashard_core.storage.s3 import S3Storage

    return S3Storage(config)


def check_conditional(storage: Storage, warehouse: Storage | None = None) -> None:
    """See :func:`datashard_core.storage.probe.check_conditional`."""
    from datashard_core.storage import probe

    probe.check_conditional(storage, warehouse=warehouse)
