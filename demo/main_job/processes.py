"""Every process that the demo starts, and the end of all of them.

Airflow's tasks leave the process group of the scheduler, so ending the groups that were started is
not enough: on Linux this process becomes the reaper of its orphans, which keeps the whole tree below
it, and ends the tree.
"""

from __future__ import annotations

import ctypes
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType

_PR_SET_CHILD_SUBREAPER = 36
_GRACE_SECONDS = 4.0
_KILL_SECONDS = 10.0
_SECRETIVE = ("AWS_", "DATASHARD_", "AIRFLOW", "_AIRFLOW", "PREFECT_", "PYTHON", "VIRTUAL_ENV", "BOTO")


class ChildError(Exception):
    """A process that was started failed; the message ends with the end of its log."""


@dataclass(frozen=True)
class Child:
    """A process that was started.

    Attributes:
        name: for messages.
        process: the process.
        log: the file that its output goes to.
        may_end: whether it has an end of its own, as a service has not.
    """

    name: str
    process: subprocess.Popen[str]
    log: Path
    may_end: bool = False

    def check(self) -> None:
        """Raise unless it is alive, or has ended well and may.

        Raises:
            ChildError: it ended.
        """
        code = self.process.poll()
        if code is not None and not (self.may_end and code == 0):
            raise ChildError(f"{self.name} ended with exit code {code}.\n{self.tail()}")

    def tail(self, lines: int = 25) -> str:
        """The end of its output."""
        text = self.log.read_text(errors="replace").splitlines()[-lines:] if self.log.exists() else []
        return "\n".join(f"    {self.name}: {line}" for line in text)


class Processes:
    """Starts processes; at its end nothing that they started is left.

    Example:
        >>> with Processes(folder) as processes:
        ...     processes.start("scheduler", ["airflow", "scheduler"], variables)
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.logs = folder / "logs"
        self.children: list[Child] = []
        self._spared: set[int] = set()

    def __enter__(self) -> Processes:
        for name in ("logs", "home", "tmp"):
            (self.folder / name).mkdir(parents=True, exist_ok=True)
        if sys.platform == "linux":
            ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
        self._spared = set(_descendants(os.getpid()))  # what somebody else started, and will end
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def variables(self, more: Mapping[str, str]) -> dict[str, str]:
        """The environment of a child: nothing in it tells where a bucket is or how to get in."""
        kept = {name: value for name, value in os.environ.items() if not name.upper().startswith(_SECRETIVE)}
        own = {"HOME": str(self.folder / "home"), "TMPDIR": str(self.folder / "tmp"), "DO_NOT_TRACK": "1"}
        return {**kept, **own, **more}

    def start(
        self,
        name: str,
        command: Sequence[object],
        variables: Mapping[str, str],
        *,
        talk: bool = False,
        may_end: bool = False,
    ) -> Child:
        """Start a process in a session of its own.

        Args:
            name: for messages and the name of its log.
            command: program and arguments.
            variables: environment variables, besides those that :meth:`variables` keeps.
            talk: leave its standard input open.
            may_end: it has an end of its own, as a service has not.
        """
        log = self.logs / f"{name}.log"
        with log.open("a") as output:
            process = subprocess.Popen(
                [str(part) for part in command],
                env=self.variables(variables),
                cwd=self.folder,
                stdin=subprocess.PIPE if talk else subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                text=True,
                start_new_session=True,
            )
        child = Child(name, process, log, may_end)
        self.children.append(child)
        return child

    def run(
        self,
        name: str,
        command: Sequence[object],
        variables: Mapping[str, str],
        *,
        text: str | None = None,
        timeout: float = 120.0,
    ) -> str:
        """Run a process to its end, with ``text`` as its input.

        Returns:
            What it printed.

        Raises:
            ChildError: it failed, or took more than ``timeout`` seconds.
        """
        child = self.start(name, command, variables, talk=text is not None, may_end=True)
        if text is not None:
            send(child, text)
        self.finish(child, timeout)
        return child.log.read_text(errors="replace")

    def finish(self, child: Child, timeout: float) -> None:
        """Wait until a process has ended well.

        Raises:
            ChildError: it failed, or took more than ``timeout`` seconds.
        """
        try:
            code = child.process.wait(timeout)
        except subprocess.TimeoutExpired:
            raise ChildError(f"{child.name} has not ended after {timeout:.0f} s.\n{child.tail()}") from None
        self.children.remove(child)
        if code != 0:
            raise ChildError(f"{child.name} ended with exit code {code}.\n{child.tail()}")

    def wait_for(self, what: str, found: Callable[[], bool], timeout: float, pause: float = 0.25) -> None:
        """Wait until something is true, while everything that was started is alive.

        Raises:
            ChildError: a process ended meanwhile, or it took more than ``timeout`` seconds.
        """
        deadline = time.monotonic() + timeout
        while not found():
            for child in self.children:
                child.check()
            if time.monotonic() > deadline:
                tails = "\n".join(child.tail(12) for child in self.children)
                raise ChildError(f"{what}: not so after {timeout:.0f} s.\n{tails}")
            time.sleep(pause)

    def stop(self) -> None:
        """End everything that was started, and everything that that started."""
        ignored = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
        before = [(number, signal.signal(number, signal.SIG_IGN)) for number in ignored]
        try:
            self._end(signal.SIGTERM, _GRACE_SECONDS)
            left = self._end(signal.SIGKILL, _KILL_SECONDS)
        finally:
            for number, handler in before:
                signal.signal(number, handler)
        self.children.clear()
        if left:
            raise ChildError(f"These processes cannot be ended: {', '.join(map(str, sorted(left)))}")

    def _end(self, number: signal.Signals, seconds: float) -> set[int]:
        deadline = time.monotonic() + seconds
        told: set[int] = set()
        while True:
            alive = self._alive()
            if not alive or time.monotonic() > deadline:
                return alive
            for process in alive - told:
                _send_signal(process, number)
            told |= alive
            time.sleep(0.05)

    def _alive(self) -> set[int]:
        for child in self.children:
            child.process.poll()
        own = {child.process.pid for child in self.children}
        alive = set(_descendants(os.getpid())) - self._spared
        for process in alive - own:
            _reap(process)
        if sys.platform != "linux":
            return {child.process.pid for child in self.children if child.process.poll() is None}
        return alive


def send(child: Child, text: str) -> None:
    """Write to a process's standard input, and close it."""
    stream = child.process.stdin
    if stream is None:
        raise ValueError(f"{child.name} was started without a standard input")
    try:
        stream.write(text)
        stream.close()
    except BrokenPipeError:
        raise ChildError(f"{child.name} ended before it was told what to do.\n{child.tail()}") from None


def free_port() -> int:
    """A port of the loopback address that nobody listens on just now.

    Airflow and Prefect must be told their own address before they listen, so they cannot take port 0.
    """
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def _stat(process: int) -> list[str] | None:
    try:
        text = Path(f"/proc/{process}/stat").read_text()
    except OSError:
        return None  # it has ended
    return text.rpartition(")")[2].split()


def _descendants(root: int) -> Iterable[int]:
    children: dict[int, list[int]] = {}
    for entry in Path("/proc").glob("[0-9]*"):
        stat = _stat(int(entry.name))
        if stat:
            children.setdefault(int(stat[1]), []).append(int(entry.name))
    found = []
    waiting = [root]
    while waiting:
        below = children.get(waiting.pop(), [])
        found += below
        waiting += below
    return found


def _reap(process: int) -> None:
    try:
        os.waitpid(process, os.WNOHANG)
    except ChildProcessError:
        return  # a grandchild: its parent reaps it, or hands it to us by ending


def _send_signal(process: int, number: signal.Signals) -> None:
    try:
        os.kill(process, number)
    except ProcessLookupError:
        return  # it ended by itself
