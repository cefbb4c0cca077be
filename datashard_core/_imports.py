"""Imports that every fresh process pays for, kept short."""

from __future__ import annotations

import sys

try:
    from _blake2 import blake2b  # hashlib has the same function, and loads OpenSSL before it
except ImportError:
    from hashlib import blake2b

__all__ = ["blake2b", "import_msgspec", "link_arrow_ahead"]

_LINKED_FIRST = r"lib(arrow_python|parquet)\.so\.\d+"
"""The libraries that the others of Arrow are linked to, by the names that its own modules ask for."""


def link_arrow_ahead() -> None:
    """Let a thread load Arrow's libraries, for an import of pyarrow that is about to follow.

    The dynamic linker has much to do for them and needs no interpreter lock: a fresh process imports its
    other modules meanwhile. Where they lie elsewhere (conda, macOS) nothing is gained.
    """
    if "pyarrow" not in sys.modules:
        from threading import Thread

        Thread(target=_link_arrow, name="datashard-link", daemon=True).start()


def _link_arrow() -> None:
    import os
    import re
    from importlib.util import find_spec

    try:
        import _ctypes  # ctypes without the time that its own import takes

        spec = find_spec("pyarrow")
        for folder in (spec.submodule_search_locations if spec is not None else None) or ():
            for name in filter(re.compile(_LINKED_FIRST).fullmatch, sorted(os.listdir(folder))):
                _ctypes.dlopen(os.path.join(folder, name), sys.getdlopenflags())
    except (ImportError, AttributeError, OSError, ValueError):
        return  # whatever is wrong with it, its import says


def import_msgspec() -> None:
    """Import msgspec without ``typing_extensions``, where that is safe.

    msgspec takes three names from that package where it is installed and from ``typing`` where it is not. On
    the Pythons that we support they are the same objects, and its import (inspect, ast, tokenize) is about a
    third of what msgspec costs a process. It is left alone where another thread could be importing it.
    """
    threading = sys.modules.get("threading")
    alone = threading is None or threading.active_count() == 1
    if "msgspec" in sys.modules or "typing_extensions" in sys.modules or not alone:
        return
    sys.modules["typing_extensions"] = None  # type: ignore[assignment] # so imports of it fail, as the docs have it
    try:
        import msgspec  # noqa: F401
    finally:
        del sys.modules["typing_extensions"]
