"""AWS's variables, hidden from clients that would read them behind the configuration's back."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager

_lock = threading.Lock()
_HARMLESS = frozenset({"AWS_EC2_METADATA_DISABLED"})
_before: dict[str, str | None] = {}
"""What the hidden variables hold, while they are hidden."""


@contextmanager
def without_aws_variables(**given: str) -> Iterator[None]:
    """Hide every ``AWS_*`` variable while a client is set up, and set those ``given``.

    Rust's object_store and Arrow's SDK take settings from the environment that no argument
    overrides (AWS_SKIP_SIGNATURE, AWS_ENDPOINT_URL_S3, AWS_PROFILE and more).
    """
    with _lock:
        names = {name for name in os.environ if name.startswith("AWS_") and name not in _HARMLESS} | set(given)
        _before.update({name: os.environ.get(name) for name in names})
        for name in names:
            os.environ.pop(name, None)
        os.environ.update(given)
        try:
            yield
        finally:
            _restore()


@contextmanager
def with_aws_variables() -> Iterator[None]:
    """Let nobody hide the variables meanwhile: for who reads them on purpose, beside threads that set up clients."""
    with _lock:
        yield


def _restore() -> None:
    for name, value in _before.items():
        if value is None:
            os.environ.pop(name, None)
        else:
            os.environ[name] = value
    _before.clear()


def _renew() -> None:
    """In a forked child: the thread that held the lock, and hid the variables, is not here."""
    global _lock  # noqa: PLW0603 - a lock that another thread held when the process forked never opens
    _lock = threading.Lock()
    _restore()


os.register_at_fork(after_in_child=_renew)
