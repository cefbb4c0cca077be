"""Runs the example flow as soon as a line comes in: ``run_flow.py READY_FILE PARAMETERS``.

The line makes the flow and the Dag start together, whichever was imported first.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

from flows.flight_delays import flight_delays


def main() -> None:
    ready, parameters = sys.argv[1:]
    Path(ready).touch()
    if not sys.stdin.readline():
        sys.exit("the demo ended before it released the flow")
    flight_delays(**json.loads(parameters))


if __name__ == "__main__":
    main()
