"""PyIceberg on a warehouse: its catalog interface over our commit protocol (needs the extra ``pyiceberg``)."""

from datashard_core.errors import ConfigurationError

try:
    from datashard_core.pyiceberg.catalog import DataShardCatalog
except ModuleNotFoundError as error:
    if error.name is None or error.name.partition(".")[0] != "pyiceberg":
        raise
    raise ConfigurationError(
        "datashard_core.pyiceberg needs PyIceberg: pip install 'datashard-core[pyiceberg]'"
    ) from error

from datashard_core.pyiceberg.registration import register

__all__ = ["DataShardCatalog", "register"]
