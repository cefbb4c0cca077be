"""Makes the environments that the tests and the demo run in, below ``.envs`` in the checkout.

Standard library only: it is what a machine with nothing but Python, pip and git runs first. The two
orchestrators at their newest cannot share an environment (Airflow needs an older FastAPI than
Prefect), hence one environment each. uv installs them, in seconds once its cache is filled; pip
does where uv cannot be had.
"""

from __future__ import annotations

import hashlib
import shutil
import subprocess
import sys
import time
from collections.abc import Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from installers import Installers, interruptible

ROOT = Path(__file__).resolve().parent.parent
ENVS = ROOT / ".envs"
OLDEST_PYTHON = (3, 11)
UV = "uv>=0.8"


@dataclass(frozen=True)
class Environment:
    """One environment.

    Attributes:
        name: its folder below ``.envs`` and its file below ``constraints``.
        projects: our own distributions in it (folders of the checkout), installed editable.
        extras: extras of the core whose packages are in it.
        on_demand: made only when it is named.
        editable: whether changes of our sources show at once; if not, it holds what a user installs (an editable
            install takes 40 ms of each process's start), and is made anew when a source changed.
    """

    name: str
    projects: tuple[str, ...]
    extras: tuple[str, ...]
    on_demand: bool = False
    editable: bool = True

    @property
    def folder(self) -> Path:
        return ENVS / self.name

    @property
    def python(self) -> Path:
        return self.folder / "bin" / "python"

    @property
    def constraints(self) -> Path:
        return ROOT / "constraints" / f"{self.name}.txt"


ENVIRONMENTS: Mapping[str, Environment] = {
    environment.name: environment
    for environment in (
        Environment("core", (".", "testkit"), ("all",)),
        Environment("airflow", (".", "testkit", "providers/airflow"), ("s3", "sql")),
        Environment("prefect", (".", "testkit", "providers/prefect"), ("s3", "sql")),
        Environment("interop", (".", "testkit"), ("all",)),
        # Made on demand, by the benchmarks: what measures, then each system that is measured, with what it needs.
        Environment("bench", (".", "testkit"), ("all",), on_demand=True),
        Environment("bench-core", (".",), ("s3",), on_demand=True, editable=False),
        Environment("bench-deltalake", (), (), on_demand=True),
        Environment("bench-pyiceberg", (), (), on_demand=True),
        Environment("bench-datashard", (), (), on_demand=True),
        # Made on demand, by tools/mutation.
        Environment("mutation", (), (), on_demand=True),
        # Made on demand, by the tests of the system tier.
        Environment("spark", (), (), on_demand=True),
        # Made on demand, by tests of the tables that the oldest release in question writes.
        Environment("datashard-0.10", (), (), on_demand=True),
    )
}


class InstallError(Exception):
    """An environment cannot be made; the message says what to install."""


def prepare(names: Iterable[str]) -> dict[str, Path]:
    """Make the environments that are missing or out of date; a second call does nothing.

    Returns:
        The path of each environment's Python.

    Raises:
        InstallError: with what to install or to look at.
        KeyboardInterrupt: Ctrl-C, SIGTERM or SIGHUP; every installer has been ended.
    """
    wanted = [ENVIRONMENTS[name] for name in names]
    stale = [environment for environment in wanted if not _is_current(environment)]
    if stale:
        _check_python()
        ENVS.mkdir(exist_ok=True)
        with interruptible(), Installers(ENVS) as installers:
            _Maker(installers).make_all(stale)
    return {environment.name: environment.python for environment in wanted}


def lock(names: Iterable[str]) -> None:
    """Resolve anew what an environment holds, into its file below ``constraints``.

    The files name packages and versions alone, no index: they hold wherever the packages are to be had.

    Raises:
        InstallError: uv cannot be had, or it finds no versions that fit each other.
    """
    _check_python()
    ENVS.mkdir(exist_ok=True)
    with interruptible(), Installers(ENVS) as installers:
        maker = _Maker(installers)
        uv = maker.find_uv()
        if uv is None:
            raise InstallError("Only uv can make the constraint files, and it could not be installed.")
        for environment in [ENVIRONMENTS[name] for name in names]:
            _say(environment.name, "resolving")
            maker.resolve(environment, uv)


def _check_python() -> None:
    if sys.version_info[:2] < OLDEST_PYTHON:
        needed = ".".join(map(str, OLDEST_PYTHON))
        raise InstallError(
            f"Python {needed} or newer is needed; {sys.executable} is {sys.version.split()[0]}. "
            f"Run this script with a newer one, for example: python{needed} {' '.join(sys.argv)}"
        )


def _stamp(environment: Environment) -> str:
    """What the environment is made from: when this changes, it is made again."""
    digest = hashlib.sha256(f"{ROOT}\n{sys.version}\n".encode())
    files = [Path(__file__), environment.constraints]
    files += [ROOT / project / "pyproject.toml" for project in environment.projects]
    if not environment.editable:
        files += sorted((ROOT / "datashard_core").rglob("*.py"))
    for file in files:
        digest.update(file.read_bytes())
    return digest.hexdigest()


def _stamp_file(environment: Environment) -> Path:
    return environment.folder / "datashard-stamp"


def _is_current(environment: Environment) -> bool:
    stamp = _stamp_file(environment)
    return stamp.is_file() and stamp.read_text() == _stamp(environment) and environment.python.exists()


class _Maker:
    """Makes environments with these installers."""

    def __init__(self, installers: Installers) -> None:
        self._run = installers.run
        self._stop = installers.stop

    def make_all(self, environments: list[Environment]) -> None:
        """Make some environments.

        Raises:
            InstallError: with what to install or to look at.
        """
        uv = self.find_uv()
        # Two at once: one downloads while the other writes.
        with ThreadPoolExecutor(max_workers=2) as pool:
            try:
                for _ in pool.map(lambda environment: self._make(environment, uv), environments):
                    pass
            except BaseException:
                self._stop()  # the pool waits for them, whatever the reason
                pool.shutdown(wait=False, cancel_futures=True)
                raise

    def resolve(self, environment: Environment, uv: str) -> None:
        """Write the constraints of an environment anew.

        Raises:
            InstallError: there are no versions that fit each other.
        """
        extras = [part for extra in environment.extras for part in ("--extra", extra)]
        plain = ["--no-header", "--no-annotate", "--no-emit-index-url", "--no-emit-find-links", "--upgrade"]
        oldest = ".".join(map(str, OLDEST_PYTHON))
        asked = environment.constraints.with_suffix(".in")
        sources = [str(ROOT / "pyproject.toml")] if environment.projects else []
        files = [*sources, str(asked), "--output-file", str(environment.constraints)]
        done = self._run([uv, "pip", "compile", "--quiet", "--python-version", oldest, *plain, *extras, *files])
        if done.returncode != 0:
            raise InstallError(f"{asked} cannot be resolved:\n{_tail(done)}")

    def find_uv(self) -> str | None:
        """uv of our own, installed by pip beside the environments; None where it cannot be had."""
        folder = ENVS / "tools"
        uv = folder / "bin" / "uv"
        if not uv.exists():
            _say("tools", "installing uv")
            # --target needs neither venv nor a writable system Python (Debian refuses the rest).
            done = self._run([*self._pip(), "install", "--quiet", "--upgrade", "--target", str(folder), UV])
            if done.returncode != 0 or not uv.exists():
                _say("tools", f"uv cannot be had, pip will do the work:\n{_tail(done)}")
                return None
        return str(uv)

    def _pip(self) -> list[str]:
        if self._run([sys.executable, "-m", "pip", "--version"]).returncode == 0:
            return [sys.executable, "-m", "pip"]
        for name in (f"pip{OLDEST_PYTHON[0]}", "pip"):
            if found := shutil.which(name):
                return [found]
        raise InstallError(
            f"{sys.executable} has no pip. Install it (Debian and Ubuntu: apt-get install python3-pip; "
            f"elsewhere: {sys.executable} -m ensurepip) and run this again."
        )

    def _make(self, environment: Environment, uv: str | None) -> None:
        started = time.monotonic()
        _say(environment.name, "installing (a minute or two the first time)")
        _stamp_file(environment).unlink(missing_ok=True)
        requirements = ENVS / f"{environment.name}-requirements.txt"
        ours = "".join(f"{'-e ' * environment.editable}{ROOT / project}\n" for project in environment.projects)
        requirements.write_text(environment.constraints.read_text() + ours)
        if uv is None or not self._make_with_uv(environment, uv, requirements):
            self._make_with_pip(environment, requirements)
        _stamp_file(environment).write_text(_stamp(environment))
        _say(environment.name, f"ready after {time.monotonic() - started:.0f} s")

    def _make_with_uv(self, environment: Environment, uv: str, requirements: Path) -> bool:
        if not self._works(environment):
            made = self._run([uv, "venv", "--quiet", "--clear", "--python", sys.executable, str(environment.folder)])
            if made.returncode != 0:
                _say(environment.name, f"uv cannot make it, pip will try:\n{_tail(made)}")
                return False
        target = ["--python", str(environment.python)]
        anew = [] if environment.editable else ["--reinstall-package", "datashard-core"]
        done = self._run([uv, "pip", "sync", "--quiet", *anew, *target, str(requirements)])
        if done.returncode == 0:
            done = self._run([uv, "pip", "check", "--quiet", *target])
        if done.returncode != 0:
            _say(environment.name, f"uv cannot fill it, pip will try:\n{_tail(done)}")
        return done.returncode == 0

    def _make_with_pip(self, environment: Environment, requirements: Path) -> None:
        made = self._run([sys.executable, "-m", "venv", "--clear", str(environment.folder)])
        if made.returncode != 0:
            made = self._make_with_virtualenv(environment)
        if made.returncode != 0:
            version = f"{sys.version_info[0]}.{sys.version_info[1]}"
            raise InstallError(
                f"The environment {environment.name} cannot be made: Python's venv is missing or broken. Install "
                f"it (Debian and Ubuntu: apt-get install python{version}-venv) and run this again.\n{_tail(made)}"
            )
        done = self._run([str(environment.python), "-m", "pip", "install", "--quiet", "-r", str(requirements)])
        if done.returncode != 0:
            raise InstallError(
                f"The environment {environment.name} cannot be filled. Can this machine reach a package index? "
                f"pip says:\n{_tail(done)}"
            )

    def _make_with_virtualenv(self, environment: Environment) -> subprocess.CompletedProcess[str]:
        folder = ENVS / "virtualenv"
        done = self._run([*self._pip(), "install", "--quiet", "--upgrade", "--target", str(folder), "virtualenv"])
        if done.returncode != 0:
            return done
        return self._run(
            [sys.executable, "-m", "virtualenv", "--clear", str(environment.folder)], {"PYTHONPATH": str(folder)}
        )

    def _works(self, environment: Environment) -> bool:
        """Whether it is there and of the Python that runs this script."""
        if not environment.python.exists():
            return False
        asked = self._run([str(environment.python), "-c", "import sys; print(sys.version)"])
        return asked.returncode == 0 and asked.stdout.strip() == sys.version.strip()


def _tail(done: subprocess.CompletedProcess[str]) -> str:
    lines = done.stdout.strip().splitlines()
    return "\n".join(f"    {line}" for line in lines[-15:])


def _say(name: str, text: str) -> None:
    sys.stdout.write(f"  {name:<8} {text}\n")  # one write: two threads report
    sys.stdout.flush()


def main(arguments: list[str]) -> int:
    """``environments.py [lock] [name ...]``: make environments, or resolve their constraints anew."""
    locking = arguments[:1] == ["lock"]
    names = arguments[1:] if locking else arguments
    if unknown := [name for name in names if name not in ENVIRONMENTS]:
        print(f"No environment is called {', '.join(unknown)}; there are {', '.join(ENVIRONMENTS)}.")
        return 2
    try:
        usual = [name for name, environment in ENVIRONMENTS.items() if not environment.on_demand]
        (lock if locking else prepare)(names or usual)
    except InstallError as error:
        print(error)
        return 1
    except KeyboardInterrupt:
        print("Stopped; the next call goes on.")
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
