"""The demo ends everything that it started: a tree that leaves its group and does not heed SIGTERM, too."""

from __future__ import annotations

import os
import subprocess
import sys
import textwrap
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent.parent

STUBBORN = """
import os, signal, sys, time
signal.signal(signal.SIGTERM, signal.SIG_IGN)
if os.fork() == 0:
    os.setsid()
    if os.fork() == 0:
        print(os.getpid(), flush=True)
        time.sleep(600)
    os._exit(0)
time.sleep(600)
"""

DRIVER = """
import sys, time
from pathlib import Path
from main_job.processes import ChildError, Processes

folder = Path(sys.argv[1])
with Processes(folder) as processes:
    child = processes.start("stubborn", [sys.executable, "-c", sys.argv[2]], {})
    processes.wait_for("the grandchild says its id", lambda: child.log.read_text().strip() != "", 20)
    print(child.process.pid, child.log.read_text().strip())
    print(processes.run("variables", [sys.executable, "-c", "import os; print(sorted(os.environ))"], {"OWN": "1"}))
    try:
        processes.run("failing", [sys.executable, "-c", "raise SystemExit('no such bucket')"], {})
    except ChildError as error:
        print(str(error).replace(chr(10), " "))
"""


def test_nothing_outlives_the_demo(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(DRIVER), tmp_path, STUBBORN],
        env={**os.environ, "PYTHONPATH": str(ROOT / "demo"), "AWS_PROFILE": "mine", "DATASHARD_S3_BUCKET": "mine"},
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert done.returncode == 0, done.stderr
    processes, variables, failure = [line for line in done.stdout.splitlines() if line]
    left = [process for process in processes.split() if Path(f"/proc/{process}").exists()]
    assert len(processes.split()) == 2
    assert not left, f"still alive: {left}"
    assert "OWN" in variables
    assert not any(name in variables for name in ("AWS_", "DATASHARD_", "PYTHONPATH"))
    assert failure == "failing ended with exit code 1.     failing: no such bucket"
