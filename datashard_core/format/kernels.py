"""Arrow's compute functions, without what ``pyarrow.compute`` does when it is imported.

That module makes a Python function, with its documentation, for each of some 250 kernels: half as much again
as ``pyarrow`` itself, in every process that reads once and ends. What calls the kernels stands below it, in a module
that is no public name of Arrow's; where a release has moved it, the public one does the same work.
"""

from __future__ import annotations

from typing import Any

_CALL = "call_function"


def kernels() -> Any:
    """A module with ``call_function`` and the classes of options, as ``pyarrow.compute`` has them.

    Example:
        >>> import pyarrow as pa
        >>> kernels().call_function("add", [pa.scalar(1), pa.scalar(2)]).as_py()
        3
    """
    try:
        import pyarrow._compute as found
    except ImportError:
        import pyarrow.compute as found
    else:
        if not hasattr(found, _CALL):
            import pyarrow.compute as found
    return found
