"""The test command's jobs: each one's output together, the result of each, and an end for all of them."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent.parent

DRIVER = """
import os, sys
from functools import partial
from pathlib import Path
sys.path.insert(0, sys.argv[1])
from installers import interruptible
from side_by_side import Job, run_jobs

def work(name, code, console):
    console.print(f"{name} begins")
    ended = console.run([sys.executable, "-c", code], Path.cwd(), os.environ)
    hidden = console.read([sys.executable, "-c", "print('not shown')"], Path.cwd(), os.environ)
    console.print(f"{name} ends")
    return name, ended, hidden

def main():
    jobs = [Job(name, partial(work, name, code)) for name, code in zip(sys.argv[2::2], sys.argv[3::2])]
    found = []
    try:
        with interruptible():
            for each in run_jobs(jobs, at_once=2):
                found.append(each)
    except KeyboardInterrupt:
        print("interrupted")
    print(sorted(found), flush=True)

main()
"""


def driver(folder: Path, *jobs: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", DRIVER, str(ROOT / "tools"), *jobs],
        cwd=folder,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


SAY = "import time; [print({0!r}, flush=True) or time.sleep(0.02) for _ in range(20)]; raise SystemExit({1})"


def test_the_output_of_each_job_stays_together(tmp_path: Path) -> None:
    jobs = {"one": 0, "two": 3, "three": 0}
    process = driver(tmp_path, *(text for name, code in jobs.items() for text in (name, SAY.format(name, code))))
    out, err = process.communicate(timeout=60)
    lines = out.splitlines()
    for name in jobs:
        first = lines.index(f"{name} begins")
        assert lines[first + 1 : first + 22] == [name] * 20 + [f"{name} ends"]
    assert len(lines) == 3 * 22 + 1
    assert lines[-1] == repr(sorted((name, code, (0, "not shown\n")) for name, code in jobs.items())), err


def test_an_interruption_ends_every_job_and_keeps_what_is_done(tmp_path: Path) -> None:
    sleep = "import os, time; open({0!r}, 'w').write(str(os.getpid())); time.sleep(600)"
    names = ["first", "second"]
    process = driver(tmp_path, "quick", "pass", *(text for name in names for text in (name, sleep.format(name))))
    started = [tmp_path / name for name in names]
    deadline = time.monotonic() + 60
    while not all(file.exists() and file.read_text() for file in started) and time.monotonic() < deadline:
        time.sleep(0.05)
    process.send_signal(signal.SIGTERM)
    out, err = process.communicate(timeout=60)
    assert out.splitlines()[-2:] == ["interrupted", "[('quick', 0, (0, 'not shown\\n'))]"], err
    assert [file.name for file in started if Path(f"/proc/{file.read_text()}").exists()] == []
