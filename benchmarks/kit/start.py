"""Makes the environments that a benchmark needs, then runs it in the one that measures.

Standard library only, and imported before anything else: a program is started with any Python, as in
``python3 benchmarks/append.py``.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent.parent
BENCHMARKS = ROOT / "benchmarks"
sys.path.insert(0, str(ROOT / "tools"))

import environments  # noqa: E402


def enter(*others: str) -> None:
    """Go on in the environment ``bench``, with the environments ``others`` made too.

    Returns only in that environment; elsewhere this process becomes the same program in it.
    """
    try:
        environments.prepare(["bench", *others])
    except environments.InstallError as error:
        raise SystemExit(str(error)) from error
    inside = environments.ENVIRONMENTS["bench"]
    if Path(sys.prefix) != inside.folder:
        kept = {name: value for name, value in os.environ.items() if not name.startswith(("AWS_", "DATASHARD_"))}
        # -P would hide the folder of the program, which the programs import `kit` from.
        os.execve(str(inside.python), [str(inside.python), *sys.argv], {**kept, "PYTHONPATH": ""})


def python_of(environment: str) -> str:
    """The Python of an environment."""
    return str(environments.ENVIRONMENTS[environment].python)
