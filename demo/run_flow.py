"""Runs the example flow as soon as a line comes in: ``run_flow.py READY_FILE AT_ONCE PARAMETERS``.

The line makes the flow and the Dag start together, whichever was imported first.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

from prefect.task_runners import ThreadPoolTaskRunner

from flows.flight_delays import flight_delays


def main() -> None:
    ready, at_once, parameters = sys.argv[1:]
    Path(ready).touch()
    if not sys.stdin.readline():
        sys.exit("the demo ended before it released the flow")
    wide = flight_delays.with_options(task_runner=ThreadPoolTaskRunner(max_workers=int(at_once)))
    wide(**json.loads(parameters))


if __name__ == "__main__":
    main()
