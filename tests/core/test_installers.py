"""An interrupted installation leaves no process, no file of its own and no half-made environment behind."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent.parent

DRIVER = """
import sys
from pathlib import Path
sys.path.insert(0, sys.argv[1])
from installers import Installers, interruptible

try:
    with interruptible(), Installers(Path(sys.argv[2])) as installers:
        done = installers.run([sys.executable, "-c", "import tempfile; print(tempfile.gettempdir())"])
        assert done.returncode == 0 and Path(done.stdout.strip()).parent == Path(sys.argv[2]), done
        installers.run([sys.executable, "-c", sys.argv[3]])
except KeyboardInterrupt:
    print("interrupted")
"""

INSTALLER = """
import os, signal, tempfile, time
signal.signal(signal.SIGTERM, signal.SIG_IGN)
tempfile.mkdtemp()
child = os.fork()
if child:
    open("children", "w").write(f"{os.getpid()} {child}")
time.sleep(600)
"""


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupted_installer_ends_with_all_that_it_started(number: signal.Signals, tmp_path: Path) -> None:
    folder = tmp_path / "envs"
    folder.mkdir()
    process = subprocess.Popen(
        [sys.executable, "-c", DRIVER, str(ROOT / "tools"), str(folder), INSTALLER],
        cwd=tmp_path,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    started = tmp_path / "children"
    deadline = time.monotonic() + 60
    while not (started.exists() and started.read_text().count(" ")) and time.monotonic() < deadline:
        time.sleep(0.05)
    children = started.read_text().split()
    process.send_signal(number)
    out, err = process.communicate(timeout=60)
    assert (process.returncode, out) == (0, "interrupted\n"), err
    assert [child for child in children if _is_alive(child)] == []
    assert list(folder.iterdir()) == []


def _is_alive(process: str) -> bool:
    try:
        return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False
