"""Objects and conditions: one protocol, and a backend for each kind of store. It knows nothing of Iceberg.

Begin with :mod:`~datashard_core.storage.base`, the protocol: ``get``, ``head``, ``list``, ``put``, ``put_if_absent``,
``replace`` and ``delete``, and the errors that they raise. A new backend implements it and passes
``datashard_testkit.contract``; :mod:`~datashard_core.storage.memory` is the shortest example.

- ``memory``, ``local`` (with ``folders``), ``s3``: the backends.
- ``transport``, ``s3_boto``, ``s3_obstore``, ``choice``: the clients that send requests to an S3 store, and which of
  them a configuration gets; ``s3_client``: what a process shares for one bucket.
- ``s3_codes``, ``s3_errors``, ``s3_failures``, ``arrow_errors``: what answers and failures mean.
- ``if_match``, ``probe``: whether a store keeps conditions.
- ``retry``, ``cache``, ``metrics``: around every backend.
- ``keys``, ``redact``: texts from outside as keys; no secret in an error or a log.
- ``aws_settings``, ``environment``, ``region``, ``arrow_fs``: settings of AWS, and Arrow's own client.

This package imports ``config``, ``clock``, ``errors`` and ``forks``. ``effects`` (the driver), ``table`` and
``pyiceberg`` import it; the commit layer imports only the values of ``base`` and the check of ``keys``.
"""

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
