"""Prefect as it runs in earnest: a server, a block saved in it, and the flow in another process."""

from __future__ import annotations

import json
import urllib.request
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from main_job.processes import Child, Processes, free_port, send

BLOCK = "flights-warehouse"
_HERE = Path(__file__).resolve().parent.parent


class Prefect:
    """One Prefect, with its home in the demo's folder.

    Args:
        processes: what starts and ends the processes.
        python: the Python of the Prefect environment.
        flows: the folder above the flows.
    """

    def __init__(self, processes: Processes, python: Path, flows: Path) -> None:
        self._processes = processes
        self._python = python
        self._flows = flows
        home = processes.folder / "prefect"
        home.mkdir()
        port = free_port()
        self.url = f"http://127.0.0.1:{port}"
        self._variables = {
            "PREFECT_HOME": str(home),
            "PREFECT_API_URL": f"{self.url}/api",
            "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
            "PREFECT_SERVER_API_HOST": "127.0.0.1",
            "PREFECT_SERVER_API_PORT": str(port),
            "PREFECT_UI_STATIC_DIRECTORY": str(home / "ui"),
            "PYTHONPATH": str(flows),
        }

    def start(self) -> None:
        """Start the server; it takes some seconds more."""
        server = [self._python.parent / "prefect", "server", "start"]
        self._processes.start("prefect-server", server, self._variables)

    def wait_until_ready(self, timeout: float) -> None:
        """Wait until it answers."""
        self._processes.wait_for("Prefect answers", self._answers, timeout)

    def save_block(self, block: Mapping[str, Any]) -> None:
        """Save the block in the server, from a process of its own; the keys go through its input."""
        script = [self._python, "-P", _HERE / "save_block.py", BLOCK]
        self._processes.run("prefect-block", script, self._variables, text=json.dumps(block))

    def start_flow(self, parameters: Mapping[str, Any], at_once: int) -> Flow:
        """Start the flow's process; it imports what it needs, then waits to be released.

        Args:
            parameters: the flow's own.
            at_once: how many of its tasks run at a time.
        """
        variables = {**self._variables, "PREFECT_TASKS_RUNNER_THREAD_POOL_MAX_WORKERS": str(at_once)}
        ready = self._processes.folder / "flow-is-ready"
        given = json.dumps({"block": BLOCK, **parameters})
        script = [self._python, "-P", _HERE / "run_flow.py", ready, given]
        return Flow(
            self._processes,
            self._processes.start("prefect-flow", script, variables, talk=True, may_end=True),
            ready,
        )

    def _answers(self) -> bool:
        try:
            with urllib.request.urlopen(f"{self.url}/api/health", timeout=5) as answer:
                return bool(answer.status == 200)
        except OSError:
            return False


class Flow:
    """The flow's process."""

    def __init__(self, processes: Processes, child: Child, ready: Path) -> None:
        self._processes = processes
        self._child = child
        self._ready = ready

    def wait_until_ready(self, timeout: float) -> None:
        """Wait until it only needs to be released."""
        self._processes.wait_for("the flow is ready", self._ready.exists, timeout)

    def release(self) -> None:
        """Let it run."""
        send(self._child, "go\n")

    def ended(self) -> bool:
        """Whether it has ended well.

        Raises:
            ChildError: it failed.
        """
        if self._child.process.poll() is None:
            return False
        self._processes.finish(self._child, 1)
        return True
