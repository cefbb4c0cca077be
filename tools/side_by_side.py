"""Runs jobs side by side: each one's output stays together, and an interruption ends them all.

Standard library only, as ``environments``: it is what the test command is made of.
"""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass
from pathlib import Path
from typing import Generic, TextIO, TypeVar

T = TypeVar("T")
STOP_SECONDS = 60.0
SAY_SECONDS = 30.0
_PROGRESS = re.compile(r"\[ *(\d+)%\]")


class Stopped(Exception):
    """The jobs are being ended: no command is started any more."""


class Console:
    """Where one job prints, and where its commands do.

    Args:
        output: standard output, or the file that keeps the job's output until it is over.
        commands: what runs its commands.
    """

    def __init__(self, output: TextIO, commands: _Commands) -> None:
        self._output = output
        self._commands = commands

    def print(self, text: str) -> None:
        self._output.write(text + "\n")
        self._output.flush()

    def run(self, command: Sequence[str], folder: Path, variables: Mapping[str, str]) -> int:
        """Run a command without input; return its exit code."""
        return self._commands.run(command, folder, variables, self._output)

    def read(self, command: Sequence[str], folder: Path, variables: Mapping[str, str]) -> tuple[int, str]:
        """Run a command whose output is not shown; return its exit code and the output."""
        with tempfile.TemporaryFile("w+") as kept:
            code = self._commands.run(command, folder, variables, kept)
            kept.seek(0)
            return code, kept.read()


@dataclass(frozen=True)
class Job(Generic[T]):
    """Something to be done.

    Attributes:
        name: for messages.
        work: does it.
    """

    name: str
    work: Callable[[Console], T]


def run_jobs(jobs: Sequence[Job[T]], at_once: int) -> Iterator[T]:
    """Do all jobs, some of them at once; the output of each is printed whole when it is over.

    A single job prints as it goes on.

    Args:
        jobs: what to do; those that come first are begun first.
        at_once: how many run side by side.

    Yields:
        What each returned, in the order in which they end.

    Raises:
        KeyboardInterrupt: Ctrl-C; every command has ended.
    """
    commands = _Commands()
    try:
        if len(jobs) == 1:
            yield jobs[0].work(Console(sys.stdout, commands))
        else:
            yield from _side_by_side(jobs, at_once, commands)
    except BaseException:
        commands.stop()
        raise


def _side_by_side(jobs: Sequence[Job[T]], at_once: int, commands: _Commands) -> Iterator[T]:
    with tempfile.TemporaryDirectory(prefix="datashard-output-") as folder:
        pool = ThreadPoolExecutor(at_once)
        try:
            outputs = [Path(folder) / job.name for job in jobs]
            futures = {
                pool.submit(_work, job, output, commands): (job, output)
                for job, output in zip(jobs, outputs, strict=True)
            }
            yield from _follow(futures)
        except BaseException:
            commands.stop()  # else the pool would wait for them
            raise
        finally:
            pool.shutdown(cancel_futures=True)


def _work(job: Job[T], output: Path, commands: _Commands) -> T:
    with output.open("w") as file:
        return job.work(Console(file, commands))


def _follow(futures: Mapping[Future[T], tuple[Job[T], Path]]) -> Iterator[T]:
    """Print what each job printed as soon as it is over, and now and then how far the others are."""
    waiting = set(futures)
    next_word = time.monotonic() + SAY_SECONDS
    while waiting:
        over, waiting = wait(waiting, timeout=1.0, return_when=FIRST_COMPLETED)
        for future in over:
            _, output = futures[future]
            sys.stdout.write(output.read_text(errors="replace"))
            sys.stdout.flush()
            yield future.result()
        if waiting and time.monotonic() > next_word:
            next_word = time.monotonic() + SAY_SECONDS
            begun = [futures[future] for future in futures if future in waiting and future.running()]
            print(f"... {', '.join(f'{job.name}{_progress(output)}' for job, output in begun)}", flush=True)


def _progress(output: Path) -> str:
    """How far pytest says that it is."""
    found = _PROGRESS.findall(output.read_text(errors="replace")) if output.exists() else []
    return f" {found[-1]} %" if found else ""


class _Commands:
    """The commands that run at the moment, so that they can be ended."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._running: set[subprocess.Popen[bytes]] = set()
        self._over = False

    def run(self, command: Sequence[str], folder: Path, variables: Mapping[str, str], output: TextIO) -> int:
        with self._lock:
            if self._over:
                raise Stopped
            process = subprocess.Popen(
                command,
                cwd=folder,
                env=variables,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,  # an interruption reaches it from here alone, once
            )
            self._running.add(process)
        code = process.wait()
        with self._lock:
            self._running.discard(process)
            if self._over:
                raise Stopped
        return code

    def stop(self) -> None:
        """Interrupt what runs, so that it ends what it started; kill what does not end."""
        with self._lock:
            self._over = True
            running = list(self._running)
        for process in running:
            process.send_signal(signal.SIGINT)
        deadline = time.monotonic() + STOP_SECONDS
        for process in running:
            try:
                process.wait(max(0.0, deadline - time.monotonic()))
            except subprocess.TimeoutExpired:
                print(f"killed, {STOP_SECONDS:.0f} s after it was interrupted: {process.args!r:.150}", flush=True)
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()
