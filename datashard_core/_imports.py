"""Imports that every fresh process pays for, kept short."""

from __future__ import annotations

import sys

try:
    from _blake2 import blake2b  # hashlib has the same function, and loads OpenSSL before it
except ImportError:
    from hashlib import blake2b

__all__ = ["blake2b", "import_msgspec"]


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
