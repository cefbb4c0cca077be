"""Runs installers so that an interruption ends them, with all that they started and left lying about.

Standard library only, as ``environments``, which uses it.
"""

from __future__ import annotations

import os
import signal
import subprocess
import tempfile
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import FrameType

_GRACE_SECONDS = 5.0
_KILL_SECONDS = 5.0


class Interrupted(Exception):
    """No installer is started any more."""


class Installers:
    """The installers of one call; at its end none of them runs, and their temporary files are gone.

    Args:
        folder: where the temporary files go meanwhile.

    Example:
        >>> with Installers(Path(".envs")) as installers:
        ...     installers.run(["uv", "pip", "sync", "requirements.txt"])
    """

    def __init__(self, folder: Path) -> None:
        self._temporary = tempfile.TemporaryDirectory(prefix="tmp-", dir=folder, ignore_cleanup_errors=True)
        self._lock = threading.Lock()
        self._running: set[subprocess.Popen[str]] = set()
        self._over = False

    def __enter__(self) -> Installers:
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()
        self._temporary.cleanup()

    def run(self, command: list[str], variables: Mapping[str, str] | None = None) -> subprocess.CompletedProcess[str]:
        """Run a command to its end, without input; its output is in ``stdout``.

        Raises:
            Interrupted: :meth:`stop` was called.
        """
        own = {"UV_PYTHON_DOWNLOADS": "never", "UV_NO_PROGRESS": "1", "PIP_NO_INPUT": "1"}
        inherited = {name: value for name, value in os.environ.items() if name not in ("VIRTUAL_ENV", "PYTHONPATH")}
        with self._lock:
            if self._over:
                raise Interrupted
            process = subprocess.Popen(
                command,
                env={**inherited, **own, "TMPDIR": self._temporary.name, **(variables or {})},
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
                start_new_session=True,  # so that it can be ended with all that it started, from here alone
            )
            self._running.add(process)
        output, _ = process.communicate()
        with self._lock:
            self._running.discard(process)
            if self._over:
                raise Interrupted
        return subprocess.CompletedProcess(command, process.returncode, output)

    def stop(self) -> None:
        """End those that run; no other is started. May be called by another thread than runs them."""
        with self._lock:
            self._over = True
            running = list(self._running)
        for number, seconds in ((signal.SIGTERM, _GRACE_SECONDS), (signal.SIGKILL, _KILL_SECONDS)):
            for process in running:
                try:
                    os.killpg(process.pid, number)
                except ProcessLookupError:
                    continue  # it has ended, and all that it started
            deadline = time.monotonic() + seconds
            while time.monotonic() < deadline and any(process.poll() is None for process in running):
                time.sleep(0.05)


@contextmanager
def interruptible() -> Iterator[None]:
    """Inside, a request to end (SIGTERM, a closed terminal) is a KeyboardInterrupt, as Ctrl-C is."""
    numbers = (signal.SIGTERM, signal.SIGHUP)
    before = [(number, signal.signal(number, _interrupt)) for number in numbers]
    try:
        yield
    finally:
        for number, handler in before:
            signal.signal(number, handler)


def _interrupt(number: int, frame: FrameType | None) -> None:
    raise KeyboardInterrupt
