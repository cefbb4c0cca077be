"""The main job: ``python3 demo/run.py``.

Makes the environments where they are missing, then runs a real Airflow Dag and a real Prefect flow
that append to the same tables in one bucket at the same time, asks the tables what happened, and
checks the answers. Everything that it starts is ended, whatever happens.
"""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "tools"))

import environments  # noqa: E402

NEEDED = ("core", "airflow", "prefect", "interop")
"""What it runs in: its own driver and store, the two hosts, and the reader that is not ours."""


def main() -> int:
    parser = argparse.ArgumentParser(prog="demo/run.py", description=(__doc__ or "").partition("\n\n")[2])
    parser.add_argument(
        "--tasks", type=int, choices=(12, 24), default=12, help="12: months, 24: half-months (default: 12)"
    )
    parser.add_argument(
        "--warehouse",
        metavar="URI",
        help="s3://bucket/prefix or a folder (default: an embedded S3 server). For a bucket, the keys come "
        "from the DATASHARD_S3_* variables or the AWS default chain, and are handed to Airflow and Prefect "
        "as a connection and a block",
    )
    parser.add_argument("--keep", action="store_true", help="leave the tables, and say how to look at them")
    parser.add_argument("--ui", action="store_true", help="leave Airflow's and Prefect's pages running until Ctrl-C")
    arguments = parser.parse_args()
    print("Environments (in .envs, kept for the next run):", flush=True)
    try:
        pythons = environments.prepare(NEEDED)
    except environments.InstallError as error:
        print(error)
        return 1
    except KeyboardInterrupt:
        print("Stopped; everything that was started has ended.")
        return 130
    print(f"  {', '.join(pythons)}: ready\n", flush=True)
    options = [f"--tasks={arguments.tasks}"]
    options += [f"--warehouse={arguments.warehouse}"] if arguments.warehouse else []
    options += ["--keep"] if arguments.keep else []
    options += ["--ui"] if arguments.ui else []
    os.environ["PYTHONPATH"] = os.pathsep.join(map(str, (ROOT / "demo", ROOT / "tools")))
    os.execv(pythons["core"], [str(pythons["core"]), "-P", "-m", "main_job", *options])


if __name__ == "__main__":
    sys.exit(main())
