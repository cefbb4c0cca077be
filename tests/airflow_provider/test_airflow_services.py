"""Airflow as it runs in earnest: database, API server, scheduler, Dag processor and workers, each a process.

The connection is made over the REST API. The services, and so the workers, run with variables that lead
astray whoever looks at them, and the S3 server refuses every access key but the connection's.
"""

from __future__ import annotations

import base64
import json
import os
import re
import secrets
import shutil
import socket
import sqlite3
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
import pytest
from datashard_testkit.s3_server import S3Server

from datashard_core import connect

SERVICES = ("api-server", "scheduler", "dag-processor")
START_SECONDS = 300.0  # some 20 s where nothing else runs
RUN_SECONDS = 300.0
CONN_ID = "warehouse"
DAG_ID = "appends"
SILENT_DAG_ID = "lost_heartbeats"
DAGS = Path(__file__).parent / "dags"
HEARTBEAT_SECONDS = 20  # a healthy task sends one each second; two busy cores may delay it


def free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port: int = free.getsockname()[1]
        return port


class Services:
    """The processes of one Airflow, and its REST API.

    Args:
        home: an empty folder.
        misleading: variables of the processes beside Airflow's.
    """

    def __init__(self, home: Path, misleading: Mapping[str, str]) -> None:
        self.home = home
        self.url = f"http://127.0.0.1:{free_port()}"
        self.token = ""
        self._started: list[subprocess.Popen[bytes]] = []
        passwords = home / "passwords.json"
        passwords.write_text('{"admin": "admin"}')
        shutil.copytree(DAGS, home / "dags", ignore=shutil.ignore_patterns("__pycache__"))
        settings = {
            "API__BASE_URL": self.url,
            "API__HOST": "127.0.0.1",
            "API__PORT": self.url.rpartition(":")[2],
            "API__SECRET_KEY": secrets.token_hex(),
            "API__WORKERS": "1",
            "API_AUTH__JWT_SECRET": secrets.token_hex(),
            "CORE__DAGS_ARE_PAUSED_AT_CREATION": "False",
            "CORE__DAGS_FOLDER": str(home / "dags"),
            "CORE__EXECUTION_API_SERVER_URL": f"{self.url}/execution/",
            "CORE__EXECUTOR": "LocalExecutor",
            "CORE__FERNET_KEY": base64.urlsafe_b64encode(secrets.token_bytes(32)).decode(),
            "CORE__LOAD_EXAMPLES": "False",
            "CORE__PARALLELISM": "5",  # two of them are stopped by the tasks of lost_heartbeats
            "CORE__SIMPLE_AUTH_MANAGER_PASSWORDS_FILE": str(passwords),
            "CORE__SIMPLE_AUTH_MANAGER_USERS": "admin:admin",
            "CORE__TEST_CONNECTION": "Enabled",
            "SCHEDULER__TASK_INSTANCE_HEARTBEAT_TIMEOUT": str(HEARTBEAT_SECONDS),
            "SCHEDULER__TASK_INSTANCE_HEARTBEAT_TIMEOUT_DETECTION_INTERVAL": "3",
            "LOGGING__WORKER_LOG_SERVER_PORT": str(free_port()),
            "USAGE_DATA_COLLECTION__ENABLED": "False",
            # Two cores may be busy: five seconds, Airflow's own, are then not enough, and a task is lost.
            "WORKERS__EXECUTION_API_TIMEOUT": "60",
            "WORKERS__MIN_HEARTBEAT_INTERVAL": "1",
        }
        inherited = {
            name: value
            for name, value in os.environ.items()
            if not name.startswith(("AIRFLOW", "AWS_", "DATASHARD_", "PYTHON", "_AIRFLOW", "__AIRFLOW"))
        }
        own = {f"AIRFLOW__{name}": value for name, value in settings.items()}
        self._environ = {**inherited, **misleading, **own, "AIRFLOW_HOME": str(home)}

    def start(self) -> None:
        program = str(Path(sys.executable).parent / "airflow")
        with (self.home / "db.txt").open("wb") as log:
            subprocess.run([program, "db", "migrate"], env=self._environ, stdout=log, stderr=log, check=True)
        for service in SERVICES:
            with (self.home / f"{service}.txt").open("wb") as log:
                self._started.append(
                    subprocess.Popen(
                        [program, service],
                        env=self._environ,
                        stdin=subprocess.DEVNULL,
                        stdout=log,
                        stderr=log,
                        start_new_session=True,
                    )
                )
        self.wait_for(self._healthy, START_SECONDS, "Airflow is healthy")
        self.token = self.call("POST", "/auth/token", {"username": "admin", "password": "admin"})["access_token"]
        self.wait_for(self._dags_are_known, START_SECONDS, "the Dags are known")

    def stop(self) -> None:
        """End the services, and whatever they started and left."""
        family = [child for one in self._started for child in _family(one.pid)]
        for one in self._started:
            one.terminate()
        _, alive = psutil.wait_procs(family, timeout=20)
        for left in alive:
            left.kill()
        psutil.wait_procs(alive, timeout=10)

    def call(self, method: str, path: str, body: Any = None) -> Any:
        headers = {"Content-Type": "application/json"}
        if self.token:
            headers["Authorization"] = f"Bearer {self.token}"
        data = None if body is None else json.dumps(body).encode()
        with urllib.request.urlopen(
            urllib.request.Request(self.url + path, data, headers, method=method), timeout=60
        ) as answer:
            return json.load(answer)

    def wait_for(self, ready: Callable[[], bool], seconds: float, what: str) -> None:
        end = time.monotonic() + seconds
        while not ready():
            died = [name for name, one in zip(SERVICES, self._started, strict=True) if one.poll() is not None]
            assert not died, f"{died} ended:\n{self.logs()}"
            assert time.monotonic() < end, f"not after {seconds} s: {what}\n{self.logs()}"
            time.sleep(0.5)

    def trigger(self, dag_id: str) -> Run:
        run_id = self.call("POST", f"/api/v2/dags/{dag_id}/dagRuns", {"logical_date": None})["dag_run_id"]
        return Run(self, dag_id, run_id)

    def test_button(self, fields: Mapping[str, Any]) -> tuple[bool, str]:
        body = {"connection_id": "tried_out", "conn_type": "datashard", "extra": json.dumps(fields)}
        answer = self.call("POST", "/api/v2/connections/test", body)
        return answer["status"], answer["message"]

    def logs(self) -> str:
        """The end of each log, and before it the lines that tell of trouble."""
        found = []
        for path in [*self.home.glob("*.txt"), *self.home.glob("logs/dag_id=*/**/*.log")]:
            text = path.read_text(errors="replace")
            trouble = [line[:2000] for line in text.splitlines() if re.search(r"error|warning|critical|killed", line)]
            name = path.relative_to(self.home)
            found.append("\n".join([f"== {name}", *trouble[-20:], "...", text[-1500:]]))
        return "\n".join(found)

    def _healthy(self) -> bool:
        try:
            health = self.call("GET", "/api/v2/monitor/health")
        except OSError:
            return False
        return all(health[part]["status"] == "healthy" for part in ("metadatabase", "scheduler"))

    def _dags_are_known(self) -> bool:
        try:
            for dag_id in (DAG_ID, SILENT_DAG_ID):
                self.call("GET", f"/api/v2/dags/{dag_id}")
        except urllib.error.HTTPError as error:
            if error.code != 404:
                raise
            errors = self.call("GET", "/api/v2/importErrors")["import_errors"]
            assert not errors, errors
            return False
        return True


@dataclass(frozen=True)
class Run:
    """A run of a Dag."""

    services: Services
    dag_id: str
    run_id: str

    @property
    def path(self) -> str:
        return f"/api/v2/dags/{self.dag_id}/dagRuns/{self.run_id}"

    def wait(self) -> None:
        """Wait for its good end."""

        def over() -> bool:
            return self.services.call("GET", self.path)["state"] in ("success", "failed")

        self.services.wait_for(over, RUN_SECONDS, f"{self.run_id} of {self.dag_id} came to its end")
        assert self.services.call("GET", self.path)["state"] == "success", self.services.logs()

    def tries(self) -> dict[tuple[str, int], int]:
        found = self.services.call("GET", f"{self.path}/taskInstances")["task_instances"]
        return {(one["task_id"], one["map_index"]): one["try_number"] for one in found}

    def result(self, task_id: str, map_index: int = -1) -> Any:
        path = f"{self.path}/taskInstances/{task_id}/xcomEntries/return_value"
        return self.services.call("GET", f"{path}?map_index={map_index}&deserialize=true")["value"]


def _family(pid: int) -> list[psutil.Process]:
    try:
        parent = psutil.Process(pid)
    except psutil.NoSuchProcess:
        return []
    return [*parent.children(recursive=True), parent]


@pytest.fixture(scope="module")
def services(misleading: Mapping[str, str]) -> Iterator[Services]:
    with tempfile.TemporaryDirectory(prefix="datashard-airflow-services-", ignore_cleanup_errors=True) as folder:
        running = Services(Path(folder), misleading)
        try:
            running.start()
            yield running
        finally:
            running.stop()


@pytest.fixture(scope="module")
def fields(s3_server: S3Server) -> dict[str, str]:
    return {
        "bucket": s3_server.bucket,
        "prefix": f"services-{secrets.token_hex(6)}",
        "endpoint": s3_server.endpoint,
        "region": "us-east-1",
        "access_key": s3_server.access_key,
        "secret_key": s3_server.secret_key,
    }


@pytest.fixture(scope="module")
def connection(services: Services, fields: dict[str, str]) -> None:
    """The connection ``warehouse``, made as its form makes it."""
    body = {"connection_id": CONN_ID, "conn_type": "datashard", "extra": json.dumps(fields)}
    services.call("POST", "/api/v2/connections", body)


@pytest.mark.usefixtures("connection")
def test_the_connection_is_stored_encrypted_and_shown_without_secrets(
    services: Services, fields: dict[str, str]
) -> None:
    with sqlite3.connect(f"file:{services.home / 'airflow.db'}?mode=ro", uri=True) as database:
        query = "select is_extra_encrypted, extra from connection where conn_id = ?"
        encrypted, stored = database.execute(query, [CONN_ID]).fetchone()
    assert encrypted
    assert fields["secret_key"] not in stored and fields["bucket"] not in stored
    assert fields["secret_key"].encode() not in (services.home / "airflow.db").read_bytes()
    shown = services.call("GET", f"/api/v2/connections/{CONN_ID}")
    assert json.loads(shown["extra"])["bucket"] == fields["bucket"]
    assert fields["secret_key"] not in json.dumps(shown)


@pytest.fixture(scope="module")
def silent_run(services: Services, connection: None) -> Iterator[Run]:
    """A run whose first tries' heartbeats cease; it goes on beside the other tests, for it waits most of its time."""
    try:
        yield services.trigger(SILENT_DAG_ID)
    finally:
        for path in services.home.glob("silent-*"):
            for stopped in _family(int(path.read_text())):
                stopped.kill()


@pytest.mark.usefixtures("connection", "silent_run")
def test_each_task_appends_once_whatever_befalls_it(
    services: Services, fields: dict[str, str], s3_server: S3Server, misleading: Mapping[str, str]
) -> None:
    s3_server.requests(reset=True)
    run = services.trigger(DAG_ID)
    run.wait()
    tries = run.tries()
    assert [tries["load", index] for index in range(3)] == [1, 2, 2], services.logs()
    results = [run.result("load", index) for index in range(4)]
    table = connect(config=s3_server.config(fields["prefix"])).load_table("shop.events")
    snapshots = {one.snapshot_id for one in table.snapshots()}
    for index, result in enumerate(results):
        assert sorted(result) == ["already_appended", "append_id", "rows", "snapshot_id", "table", "version"]
        assert result["table"] == "shop.events" and result["rows"] == 1 and result["version"] >= 1
        assert result["append_id"] == f"airflow:{DAG_ID}/{run.run_id}/load/{index}"
        assert result["snapshot_id"] in snapshots
    # The second tries of those that were lost after the append found their rows.
    assert [result["already_appended"] for result in results[:3]] == [False, True, True]
    rows = sorted(table.scan().to_records(), key=lambda row: row["n"])
    seen = [misleading["AWS_ACCESS_KEY_ID"], misleading["DATASHARD_S3_BUCKET"]]
    assert rows == [{"n": n, "text": "part"} for n in range(4)] + [
        {"n": 100 + n, "text": text} for n, text in enumerate(seen)
    ]
    # boto3 wrote the metadata and Arrow the rows, with the one key that the server accepts.
    written = {path.rpartition(".")[2] for method, path in s3_server.requests() if method == "PUT"}
    assert {"parquet", "json", "avro"} <= written
    assert fields["secret_key"] not in services.logs()

    # Cleared tasks run again, with the ids that they had.
    (services.home / "undisturbed").touch()
    chosen = {"task_ids": [["load", 0], ["load", 1]], "only_failed": False, "reset_dag_runs": True}
    path = f"/api/v2/dags/{DAG_ID}/clearTaskInstances"
    cleared = services.call("POST", path, {"dag_run_id": run.run_id, "dry_run": False, **chosen})
    assert cleared["total_entries"] == 2
    run.wait()
    again = [run.result("load", index) for index in range(2)]
    assert again == [{**one, "already_appended": True} for one in results[:2]]
    table.refresh()
    assert table.count() == 6


def test_a_task_that_is_given_up_for_lost_heartbeats_appends_once(
    services: Services, silent_run: Run, fields: dict[str, str], s3_server: S3Server
) -> None:
    silent_run.wait()
    assert silent_run.tries() == {("parts", -1): 1, ("load", 0): 2, ("load", 1): 2}, services.logs()
    path = f"/api/v2/eventLogs?dag_id={SILENT_DAG_ID}&event=heartbeat%20timeout"
    given_up = services.call("GET", path)["event_logs"]
    assert {(one["task_id"], one["map_index"], one["try_number"]) for one in given_up} == {
        ("load", 0, 1),
        ("load", 1, 1),
    }
    # The first had appended; the second was to be overtaken by its second try.
    retried = [silent_run.result("load", index) for index in range(2)]
    assert [one["already_appended"] for one in retried] == [True, False]
    # The first tries were alive all the time, and did not append twice either.
    late = [services.home / f"late-{index}.json" for index in range(2)]
    services.wait_for(lambda: all(path.exists() for path in late), RUN_SECONDS, "the tries that were given up appended")
    assert [json.loads(path.read_text()) for path in late] == [{**one, "already_appended": True} for one in retried]
    table = connect(config=s3_server.config(fields["prefix"])).load_table("shop.heartbeats")
    rows = sorted(table.scan().to_records(), key=lambda row: row["n"])
    assert rows == [{"n": n, "text": "part"} for n in range(2)]


def test_the_test_button(services: Services, fields: dict[str, str]) -> None:
    works, message = services.test_button(fields)
    assert works, message
    assert re.search(rf"s3://{fields['bucket']}/{fields['prefix']} can be read and written", message)


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"access_key": "wrong", "secret_key": "wrong"}, "does not accept the credentials"),
        ({"bucket": "no-such-bucket"}, "there is no bucket 'no-such-bucket'"),
        ({"endpoint": "http://127.0.0.1:9"}, "127.0.0.1:9"),
        ({"access_key": None, "secret_key": None}, "no credentials for the bucket"),
    ],
    ids=["wrong-keys", "missing-bucket", "unreachable", "no-credentials"],
)
def test_the_test_button_says_what_is_wrong(
    services: Services, fields: dict[str, str], changes: dict[str, Any], says: str
) -> None:
    started = time.monotonic()
    works, message = services.test_button({**fields, **changes})
    assert not works
    assert says in message
    assert fields["secret_key"] not in message
    assert time.monotonic() - started < 15


def test_the_test_button_does_not_wait_for_a_store_that_never_answers(
    services: Services, fields: dict[str, str]
) -> None:
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen()
        endpoint = f"http://127.0.0.1:{silent.getsockname()[1]}"
        started = time.monotonic()
        works, message = services.test_button({**fields, "endpoint": endpoint})
    assert not works
    assert endpoint in message
    assert time.monotonic() - started < 20


def test_the_form_has_its_fields(services: Services) -> None:
    found = {one["connection_type"]: one for one in services.call("GET", "/ui/connections/hook_meta")}
    form = found["datashard"]
    assert form["hook_name"] == "DataShard"
    secret = {name for name, one in form["extra_fields"].items() if one["schema"].get("format") == "password"}
    assert secret == {"secret_key", "session_token"}
    assert {"bucket", "prefix", "region", "endpoint", "access_key", "aws_conn_id", "auth", "folder"} < set(
        form["extra_fields"]
    )
    assert all(one["schema"]["title"] and one["description"] for one in form["extra_fields"].values())
    assert all(form["standard_fields"][name]["hidden"] for name in ("host", "login", "password", "port"))
