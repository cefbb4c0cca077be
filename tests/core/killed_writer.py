"""The process that ``test_killed_writers.py`` kills."""

from __future__ import annotations

import signal
from multiprocessing.connection import Connection
from typing import Any

from datashard_core import S3Config, connect

ROWS = [{"n": 10}, {"n": 11}]


def write(settings: dict[str, Any], name: str, pipe: Connection) -> None:
    """The writer's process: append, and say how it ended."""

    def terminate(*_: object) -> None:
        raise SystemExit(143)  # as orchestrators turn SIGTERM into an exception of the task's thread

    signal.signal(signal.SIGINT, signal.default_int_handler)  # a forkserver ignores it
    signal.signal(signal.SIGTERM, terminate)
    table = connect(config=S3Config(**settings)).load_table(name)
    pipe.send("loaded")
    pipe.recv()
    try:
        table.append(ROWS, append_id="the task")
        pipe.send("acknowledged")
    except BaseException as error:
        pipe.send(type(error).__name__)
        raise
