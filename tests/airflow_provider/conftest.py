"""A real Airflow for the tests: its own home, a metadata database, and Dags that are really run.

Airflow reads its settings when it is first imported, so they are set here, before any test module is.
"""

from __future__ import annotations

import base64
import json
import os
import secrets
import shutil
import tempfile
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from datashard_testkit.s3_server import S3Server

from datashard_core import connect
from datashard_core.table.warehouse import Warehouse

if TYPE_CHECKING:
    from airflow.sdk import DAG

HOME = Path(tempfile.mkdtemp(prefix="datashard-airflow-"))
(HOME / "dags").mkdir()
os.environ.update(
    {
        "AIRFLOW_HOME": str(HOME),
        "AIRFLOW__CORE__DAGS_FOLDER": str(HOME / "dags"),
        "AIRFLOW__CORE__LOAD_EXAMPLES": "False",
        "AIRFLOW__CORE__FERNET_KEY": base64.urlsafe_b64encode(secrets.token_bytes(32)).decode(),
        "AIRFLOW__CORE__TEST_CONNECTION": "Enabled",
        "AIRFLOW__CORE__SIMPLE_AUTH_MANAGER_ALL_ADMINS": "True",
        "AIRFLOW__API_AUTH__JWT_SECRET": secrets.token_hex(32),
        "AIRFLOW__USAGE_DATA_COLLECTION__ENABLED": "False",
        # A connection that is not there should be missed at once, not looked for five times.
        "AIRFLOW__WORKERS__EXECUTION_API_RETRIES": "1",
    }
)

WRONG_VARIABLES = {
    "AWS_ACCESS_KEY_ID": "wrong-key",
    "AWS_SECRET_ACCESS_KEY": "wrong-secret",
    "AWS_SESSION_TOKEN": "wrong-token",
    "AWS_DEFAULT_REGION": "mars-north-1",
    "AWS_REGION": "mars-north-1",
    "AWS_ENDPOINT_URL": "http://127.0.0.1:9",
    "AWS_ENDPOINT_URL_S3": "http://127.0.0.1:9",
    "DATASHARD_STORAGE_TYPE": "s3",
    "DATASHARD_S3_BUCKET": "wrong-bucket",
    "DATASHARD_S3_PREFIX": "wrong-prefix",
    "DATASHARD_S3_ENDPOINT": "http://127.0.0.1:9",
    "DATASHARD_S3_ACCESS_KEY": "wrong-key",
    "DATASHARD_S3_SECRET_KEY": "wrong-secret",
    "DATASHARD_S3_REGION": "mars-north-1",
}


@dataclass
class Ran:
    """What became of a run.

    Attributes:
        state: of the run.
        states: of the tasks, by task id and map index.
        tries: numbers of the last tries, likewise.
        results: what the tasks returned, likewise.
        errors: what they raised, in order.
        run_id: of the run.
    """

    state: str
    run_id: str
    states: dict[tuple[str, int], str] = field(default_factory=dict)
    tries: dict[tuple[str, int], int] = field(default_factory=dict)
    results: dict[tuple[str, int], Any] = field(default_factory=dict)
    errors: list[BaseException] = field(default_factory=list)

    def result(self, task_id: str = "load", map_index: int = -1) -> Any:
        return self.results[task_id, map_index]


RunDag = Callable[..., Ran]
AddConnection = Callable[..., str]


@pytest.fixture(scope="session", autouse=True)
def airflow_home() -> Iterator[Path]:
    """The metadata database, made once."""
    from airflow.utils.db import initdb

    initdb()
    yield HOME
    shutil.rmtree(HOME)


@pytest.fixture(scope="session")
def s3_server() -> Iterator[S3Server]:
    """An S3 server that refuses every access key but one."""
    with S3Server() as server:
        yield server


@pytest.fixture
def s3_fields(s3_server: S3Server) -> dict[str, str]:
    """The fields of a connection to a folder of the server's bucket that no other test uses."""
    return {
        "bucket": s3_server.bucket,
        "prefix": f"t-{secrets.token_hex(6)}",
        "endpoint": s3_server.endpoint,
        "region": "us-east-1",
        "access_key": s3_server.access_key,
        "secret_key": s3_server.secret_key,
    }


@pytest.fixture(scope="session")
def misleading() -> Mapping[str, str]:
    """Variables that lead astray whoever looks at them."""
    return WRONG_VARIABLES


@pytest.fixture
def wrong_variables(monkeypatch: pytest.MonkeyPatch) -> None:
    """The same variables, set in this process."""
    for name, value in WRONG_VARIABLES.items():
        monkeypatch.setenv(name, value)


@pytest.fixture
def add_connection() -> Iterator[AddConnection]:
    """Puts connections into the metadata database, and takes them out again."""
    from airflow.models.connection import Connection
    from airflow.utils.session import create_session

    added: list[str] = []

    def add(conn_id: str, fields: Mapping[str, Any] | None = None, conn_type: str = "datashard", **columns: Any) -> str:
        extra = None if fields is None else json.dumps(fields)
        with create_session() as session:
            session.add(Connection(conn_id=conn_id, conn_type=conn_type, extra=extra, **columns))
        added.append(conn_id)
        return conn_id

    yield add
    with create_session() as session:
        for found in session.query(Connection).filter(Connection.conn_id.in_(added)):
            session.delete(found)


@pytest.fixture
def environment_connection(monkeypatch: pytest.MonkeyPatch) -> AddConnection:
    """Defines connections by variables, for hooks that are used outside of tasks."""

    def add(conn_id: str, fields: Mapping[str, Any] | None = None, conn_type: str = "datashard", **columns: Any) -> str:
        value = {"conn_type": conn_type, "extra": dict(fields or {}), **columns}
        monkeypatch.setenv(f"AIRFLOW_CONN_{conn_id.upper()}", json.dumps(value))
        return conn_id

    return add


@pytest.fixture
def local_warehouse(tmp_path: Path, add_connection: AddConnection) -> Warehouse:
    """A folder, and the connection ``local`` to it."""
    folder = tmp_path / "warehouse"
    add_connection("local", {"folder": str(folder)})
    return connect(str(folder))


@pytest.fixture
def run_dag() -> RunDag:
    """Runs a Dag to its end: real task instances, retries, XComs and connections of the database."""
    return _run_dag


def _run_dag(dag: DAG, conf: Mapping[str, Any] | None = None) -> Ran:
    from airflow.dag_processing.bundles.manager import DagBundlesManager
    from airflow.dag_processing.dagbag import DagBag, sync_bag_to_db

    errors: list[BaseException] = []

    def note(context: Mapping[str, Any]) -> None:
        errors.append(context["exception"])

    for task in dag.tasks:
        if not task.is_mapped:
            task.on_failure_callback = [note]
            task.on_retry_callback = [note]
    DagBundlesManager().sync_bundles_to_db()
    bag = DagBag(os.devnull)
    bag.bag_dag(dag)
    sync_bag_to_db(bag, "dags-folder", None)
    run = dag.test(run_conf=None if conf is None else dict(conf))
    ran = Ran(state=str(run.state), run_id=run.run_id, errors=errors)
    for ti in run.get_task_instances():
        key = ti.task_id, ti.map_index
        ran.states[key] = str(ti.state)
        ran.tries[key] = ti.try_number
        ran.results[key] = ti.xcom_pull(task_ids=ti.task_id, map_indexes=ti.map_index)
    return ran
