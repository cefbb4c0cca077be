"""Airflow as it runs in earnest: database, API server, scheduler and Dag processor, each a process."""

from __future__ import annotations

import base64
import json
import secrets
import sqlite3
import urllib.error
import urllib.request
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from main_job.processes import ChildError, Processes, free_port

CONNECTION_ID = "flights_warehouse"
DAG_ID = "flight_delays"
MAPPED_TASK = "add_up"
_ANSWER_SECONDS = 60  # two cores may be busy with 24 tasks
_BEGUN = ("running", "success", "failed", "up_for_retry")
USER = "admin"


class Airflow:
    """One Airflow, with its home in the demo's folder.

    Args:
        processes: what starts and ends the processes.
        python: the Python of the Airflow environment.
        dags: the folder of Dags.
        parallelism: how many tasks may run at once.
    """

    def __init__(self, processes: Processes, python: Path, dags: Path, parallelism: int) -> None:
        self._processes = processes
        self._program = python.parent / "airflow"
        self._home = processes.folder / "airflow"
        self._home.mkdir()
        self.password = secrets.token_urlsafe(8)
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        passwords = self._home / "passwords.json"
        passwords.write_text(json.dumps({USER: self.password}))
        self._token = ""
        self._variables = {
            "AIRFLOW_HOME": str(self._home),
            "AIRFLOW__API__BASE_URL": self.url,
            "AIRFLOW__API__HOST": "127.0.0.1",
            "AIRFLOW__API__PORT": str(self.port),
            "AIRFLOW__API__SECRET_KEY": secrets.token_hex(),
            "AIRFLOW__API__WORKERS": "1",
            "AIRFLOW__API_AUTH__JWT_SECRET": secrets.token_hex(),
            "AIRFLOW__CORE__AUTH_MANAGER": (
                "airflow.api_fastapi.auth.managers.simple.simple_auth_manager.SimpleAuthManager"
            ),
            "AIRFLOW__CORE__DAGS_ARE_PAUSED_AT_CREATION": "False",
            "AIRFLOW__CORE__DAGS_FOLDER": str(dags),
            "AIRFLOW__CORE__EXECUTION_API_SERVER_URL": f"{self.url}/execution/",
            "AIRFLOW__CORE__EXECUTOR": "LocalExecutor",
            "AIRFLOW__CORE__FERNET_KEY": base64.urlsafe_b64encode(secrets.token_bytes(32)).decode(),
            "AIRFLOW__CORE__LOAD_EXAMPLES": "False",
            "AIRFLOW__CORE__PARALLELISM": str(parallelism),
            "AIRFLOW__CORE__MAX_ACTIVE_TASKS_PER_DAG": str(parallelism),
            "AIRFLOW__CORE__SIMPLE_AUTH_MANAGER_PASSWORDS_FILE": str(passwords),
            "AIRFLOW__CORE__SIMPLE_AUTH_MANAGER_USERS": f"{USER}:admin",
            "AIRFLOW__CORE__TEST_CONNECTION": "Enabled",
            "AIRFLOW__LOGGING__WORKER_LOG_SERVER_PORT": str(free_port()),
            "AIRFLOW__USAGE_DATA_COLLECTION__ENABLED": "False",
            # Two cores may be busy: five seconds, Airflow's own, are then not enough, and a task is lost.
            "AIRFLOW__WORKERS__EXECUTION_API_TIMEOUT": str(_ANSWER_SECONDS),
            "AIRFLOW__WORKERS__MIN_HEARTBEAT_INTERVAL": "1",
        }

    def start(self) -> None:
        """Make the metadata database and start the three services; they take some seconds more."""
        self._processes.run("airflow-db", [self._program, "db", "migrate"], self._variables)
        for service in ("api-server", "scheduler", "dag-processor"):
            self._processes.start(f"airflow-{service}", [self._program, service], self._variables)

    def wait_until_ready(self, timeout: float) -> None:
        """Wait until it answers and knows the Dag."""
        self._processes.wait_for("Airflow answers", self._answers, timeout)
        self._token = self._call("POST", "/auth/token", {"username": USER, "password": self.password})["access_token"]
        self._processes.wait_for(f"Airflow knows the Dag {DAG_ID}", self._knows_the_dag, timeout)

    def store_connection(self, fields: Mapping[str, Any]) -> None:
        """Put the connection into Airflow's store, and look whether it lies there encrypted.

        Args:
            fields: the settings of a connection of the type ``datashard``.

        Raises:
            ChildError: its secrets can be read in the database.
        """
        connection = {"connection_id": CONNECTION_ID, "conn_type": "datashard", "extra": json.dumps(fields)}
        self._call("POST", "/api/v2/connections", connection)
        with sqlite3.connect(f"file:{self._home / 'airflow.db'}?mode=ro", uri=True) as database:
            query = "select is_encrypted, is_extra_encrypted, password, extra from connection where conn_id = ?"
            encrypted, extra_encrypted, *stored = database.execute(query, [CONNECTION_ID]).fetchone()
        if (stored[0] and not encrypted) or (stored[1] and not extra_encrypted):
            raise ChildError(f"Airflow's database holds the connection {CONNECTION_ID} in plain text.")

    def trigger(self, conf: Mapping[str, Any]) -> str:
        """Start a run of the Dag; return its id."""
        asked = {"logical_date": None, "conf": dict(conf)}
        run_id: str = self._call("POST", f"/api/v2/dags/{DAG_ID}/dagRuns", asked)["dag_run_id"]
        return run_id

    def has_begun(self, run_id: str) -> bool:
        """Whether one of the mapped tasks of a run is at work, or was."""
        path = f"/api/v2/dags/{DAG_ID}/dagRuns/{run_id}/taskInstances"
        tasks = self._call("GET", path)["task_instances"]
        return any(task["task_id"] == MAPPED_TASK and task["state"] in _BEGUN for task in tasks)

    def run_state(self, run_id: str) -> str:
        """The state of a run: ``queued``, ``running``, ``success`` or ``failed``."""
        state: str = self._call("GET", f"/api/v2/dags/{DAG_ID}/dagRuns/{run_id}")["state"]
        return state

    def task_errors(self) -> str:
        """The errors in the tasks' logs, for the report of a failure."""
        found = []
        for log in sorted((self._home / "logs").glob("dag_id=*/**/*.log")):
            for line in log.read_text(errors="replace").splitlines():
                if '"level":"error"' in line or '"level":"critical"' in line:
                    found.append(f"    {log.parent.name} {log.stem}: {_error(json.loads(line))}")
        return "\n".join(found)

    def _answers(self) -> bool:
        try:
            health = self._call("GET", "/api/v2/monitor/health")
        except OSError:
            return False
        return all(health[part]["status"] == "healthy" for part in ("metadatabase", "scheduler"))

    def _knows_the_dag(self) -> bool:
        try:
            self._call("GET", f"/api/v2/dags/{DAG_ID}")
        except urllib.error.HTTPError as error:
            if error.code == 404:
                self._check_imports()
                return False
            raise
        return True

    def _check_imports(self) -> None:
        for error in self._call("GET", "/api/v2/importErrors")["import_errors"]:
            raise ChildError(f"Airflow cannot import {error['filename']}:\n{error['stack_trace']}")

    def _call(self, method: str, path: str, body: Mapping[str, Any] | None = None) -> Any:
        headers = {"Content-Type": "application/json"}
        if self._token:
            headers["Authorization"] = f"Bearer {self._token}"
        data = json.dumps(body).encode() if body is not None else None
        request = urllib.request.Request(self.url + path, data, headers, method=method)
        tries_left = 3 if method == "GET" else 1  # what is sent twice may be done twice
        while True:
            tries_left -= 1
            try:
                with urllib.request.urlopen(request, timeout=_ANSWER_SECONDS) as answer:
                    return json.load(answer)
            except TimeoutError:
                if not tries_left:
                    raise ChildError(f"Airflow's API server has not answered {method} {path} in time.") from None


def _error(line: Mapping[str, Any]) -> str:
    """One line of a task's log: its event, and the exception with the place that it came from."""
    text = str(line.get("event", ""))
    for detail in line.get("error_detail") or ():
        place = (detail.get("frames") or [{}])[-1]
        where = f"{place.get('filename')}:{place.get('lineno')}"
        text += f" {detail.get('exc_type')}: {detail.get('exc_value')} ({where})"
    return text
