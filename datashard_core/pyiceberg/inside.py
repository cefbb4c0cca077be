"""File access of PyIceberg that stays in a table's folder."""

from __future__ import annotations

from typing import Any

from datashard_core.commit.core.paths import key_of
from datashard_core.errors import UnsupportedTableError

CALLS = ("new_input", "new_output", "delete")


class Inside:
    """One call of a FileIO, for locations in a table's folder. It can be pickled together with the FileIO.

    Args:
        io: the FileIO.
        name: the call.
        location: the table's ``location``, as its metadata names it.
        root: URI of the table's folder.
    """

    def __init__(self, io: Any, name: str, location: str, root: str) -> None:
        self._io, self._name, self._location, self._root = io, name, location, root

    def __call__(self, file: Any) -> Any:
        """Do it.

        Raises:
            ValueError: the location is outside the table's folder.
        """
        try:
            key_of(file if isinstance(file, str) else file.location, self._location, self._root)
        except UnsupportedTableError as error:
            raise ValueError(str(error)) from error
        return getattr(type(self._io), self._name)(self._io, file)


def keep_inside(io: Any, location: str, root: str) -> Any:
    """The same FileIO, which refuses to read, write or delete outside a table's folder.

    Metadata may name any file that the keys of the catalog can reach.
    """
    for name in CALLS:
        setattr(io, name, Inside(io, name, location, root))
    return io
