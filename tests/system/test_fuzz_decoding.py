"""Ten minutes of damaged files, in a process of its own that may take 1 GB of memory and must not end by itself."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

pytestmark = pytest.mark.system

PROGRAM = Path(__file__).resolve().parents[1] / "core" / "decoded.py"
SECONDS = float(os.environ.get("DATASHARD_FUZZ_SECONDS", "600"))
SEED = int(os.environ.get("DATASHARD_FUZZ_SEED", str(time.time_ns() % 2**32)))
MOST_BYTES = 2**30
PAGE = os.sysconf("SC_PAGE_SIZE")
SLACK = 120.0
"""Seconds that the last round may take beyond its time."""


def held(process: subprocess.Popen[str]) -> int:
    """Bytes of memory that a process holds: what it only reserves, as Arrow does, does not count."""
    try:
        return int(Path(f"/proc/{process.pid}/statm").read_text().split()[1]) * PAGE
    except (FileNotFoundError, ProcessLookupError, IndexError):
        return 0  # it has just ended


def test_nothing_that_is_decoded_ends_the_process_or_takes_all_memory(tmp_path: Path) -> None:
    """A crash, an error that is none of the library's, or too much memory fails, and shows the input."""
    under_way, printed = tmp_path / "under_way.bin", tmp_path / "printed.txt"
    peak, end = 0, time.monotonic() + SECONDS + SLACK
    with printed.open("w") as out:
        process = subprocess.Popen(
            [sys.executable, str(PROGRAM), str(SECONDS), str(SEED), str(under_way)],
            stdout=out,
            stderr=subprocess.STDOUT,
            text=True,
        )
        try:
            while process.poll() is None and peak <= MOST_BYTES and time.monotonic() < end:
                peak = max(peak, held(process))
                time.sleep(0.005)
        finally:
            process.kill()
            process.wait()
    last = under_way.read_bytes() if under_way.exists() else b""
    target, _, data = last.partition(b"\n")
    report = (
        f"seed {SEED}, exit code {process.returncode}, {peak / 2**20:.0f} MB; it was decoding {target.decode()} of "
        f"{len(data)} bytes: {data[:2000]!r}\n{printed.read_text()[-6000:]}"
    )
    assert peak <= MOST_BYTES, f"too much memory: {report}"
    assert process.returncode == 0, report
    assert f"seed {SEED + 1}: " in printed.read_text(), f"no round was finished: {report}"
