"""A table made known to a catalog that other engines read: REST, Glue, SQL, whatever PyIceberg can talk to."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from datashard_core.errors import ConfigurationError

if TYPE_CHECKING:
    from datashard_core.table.table import Table


def register(table: Table, catalog: Any, identifier: str | tuple[str, ...]) -> Any:
    """Register a table's newest version in a PyIceberg catalog, or bring its registration up to date.

    A registration names one version and stays there: call this again after appends that readers of the
    catalog are to see. They must only read: a write through that catalog goes beside the table. Dropping
    it there may delete the table's files; the registration is moved here without that.

    Args:
        table: the table.
        catalog: a PyIceberg catalog, as ``pyiceberg.catalog.load_catalog`` gives it.
        identifier: namespace and name in that catalog; the namespace is made if it is missing.

    Returns:
        The table as the catalog knows it now.

    Raises:
        ConfigurationError: the catalog has another table of that name.

    Example:
        >>> register(table, load_catalog("glue", type="glue"), "logs.workflow_log")
    """
    from pyiceberg.exceptions import NoSuchTableError

    location = table.refresh().metadata_location
    name = identifier if isinstance(identifier, tuple) else tuple(identifier.split("."))
    catalog.create_namespace_if_not_exists(name[:-1])
    try:
        known = catalog.load_table(name)
    except NoSuchTableError:
        return catalog.register_table(name, location)
    if str(known.metadata.table_uuid) != table._target.uuid:
        raise ConfigurationError(
            f"{'.'.join(name)} is another table in the catalog {catalog.name} (it lies at {known.location()}): choose "
            "another name, or take that one out of the catalog"
        )
    if known.metadata_location == location:
        return known
    return _moved(catalog, name, location)


def _moved(catalog: Any, name: tuple[str, ...], location: str) -> Any:
    """The registration, moved to another version: in one step where the catalog can, else in two."""
    from pyiceberg.exceptions import TableAlreadyExistsError

    try:
        return catalog.register_table(name, location, overwrite=True)
    except (NotImplementedError, TableAlreadyExistsError):
        catalog.drop_table(name)  # the name alone: PyIceberg leaves the files where they are
    try:
        return catalog.register_table(name, location)
    except BaseException as error:
        error.add_note(f"{'.'.join(name)} is not in the catalog {catalog.name} just now: register the table again")
        raise
