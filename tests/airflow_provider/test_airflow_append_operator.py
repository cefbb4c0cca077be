"""The operator in Dags that are really run, on tables that are really written."""

from __future__ import annotations

import itertools
import json
from collections.abc import Callable
from datetime import timedelta
from typing import Any

import pyarrow as pa
import pytest
from airflow.sdk import DAG, Asset, task
from airflow.sdk.exceptions import AirflowFailException

from airflow_provider_datashard.append_id import task_append_id
from airflow_provider_datashard.operators.datashard import (
    DataShardAppendOperator,
    DataShardFlushOperator,
    call_with_context,
)
from datashard_core import AppendIdConflictError, ConfigurationError, InvalidRecordsError, Schema, Warehouse

FIELDS = [
    {"id": 1, "name": "n", "type": "long", "required": True},
    {"id": 2, "name": "text", "type": "string"},
]
ROWS = [{"n": 1, "text": "one"}, {"n": 2, "text": None}]


class FailsAfterTheAppend(DataShardAppendOperator):
    """Loses its first try when the rows are in the table."""

    def execute(self, context: Any) -> dict[str, Any]:
        result = super().execute(context)
        if context["ti"].try_number == 1:
            raise ConnectionError("lost after the append")
        return result


def append(operator: type[DataShardAppendOperator] = DataShardAppendOperator, **given: Any) -> DataShardAppendOperator:
    """The operator with what most tests have in common."""
    values: dict[str, Any] = {
        "task_id": "load",
        "table": "numbers",
        "records": ROWS,
        "schema": FIELDS,
        "create_if_missing": True,
        "datashard_conn_id": "local",
        "retry_delay": timedelta(0),
    }
    return operator(**{**values, **given})


def rows_of(warehouse: Warehouse, name: str = "numbers") -> list[dict[str, Any]]:
    rows = warehouse.load_table(name).scan().to_records()
    return sorted(rows, key=lambda row: row["n"])


def test_records_are_appended_and_the_result_is_returned(local_warehouse: Warehouse, run_dag: Any) -> None:
    with DAG("dag_records") as dag:
        append()
    ran = run_dag(dag)
    assert ran.state == "success", ran.errors
    table = local_warehouse.load_table("numbers")
    snapshot = table.current_snapshot()
    assert snapshot is not None
    assert ran.result() == {
        "table": "numbers",
        "version": 1,
        "snapshot_id": snapshot.snapshot_id,
        "rows": 2,
        "append_id": f"airflow:dag_records/{ran.run_id}/load/-1",
        "already_appended": False,
    }
    assert rows_of(local_warehouse) == ROWS


def test_a_second_try_appends_nothing_twice(local_warehouse: Warehouse, run_dag: Any) -> None:
    with DAG("dag_retry") as dag:
        append(FailsAfterTheAppend, retries=1)
    ran = run_dag(dag)
    assert ran.state == "success", ran.errors
    assert [str(error) for error in ran.errors] == ["lost after the append"]
    assert ran.tries["load", -1] == 2
    assert ran.result()["already_appended"] is True
    assert ran.result()["version"] == 1
    assert rows_of(local_warehouse) == ROWS
    assert len(local_warehouse.load_table("numbers").snapshots()) == 1


def test_another_run_appends_again(local_warehouse: Warehouse, run_dag: Any) -> None:
    with DAG("dag_twice") as dag:
        append()
    first, second = run_dag(dag), run_dag(dag)
    assert first.run_id != second.run_id
    assert second.result()["already_appended"] is False
    assert len(rows_of(local_warehouse)) == 4


def test_other_rows_under_the_same_id_fail_without_another_try(local_warehouse: Warehouse, run_dag: Any) -> None:
    numbers = itertools.count(7)

    def changing() -> list[dict[str, int]]:
        return [{"n": next(numbers)}]

    with DAG("dag_conflict") as dag:
        append(records=changing, append_id="batch-7")
        append(task_id="again", records=changing, append_id="batch-7", retries=3).set_upstream(dag.get_task("load"))
    ran = run_dag(dag)
    assert ran.states["again", -1] == "failed"
    assert ran.tries["again", -1] == 1
    (error,) = ran.errors
    assert isinstance(error, AirflowFailException)
    assert isinstance(error.__cause__, AppendIdConflictError)
    assert "'batch-7'" in str(error) and "other rows" in str(error)
    assert "trigger a new run, or pass append_id=" in str(error)
    assert [row["n"] for row in rows_of(local_warehouse)] == [7]


def test_mapped_tasks_have_ids_of_their_own(local_warehouse: Warehouse, run_dag: Any) -> None:
    @task
    def plan() -> list[list[dict[str, Any]]]:
        return [[{"n": 10, "text": "same"}], [{"n": 10, "text": "same"}], [{"n": 12}]]

    with DAG("dag_mapped") as dag:
        DataShardAppendOperator.partial(
            task_id="load",
            table="numbers",
            schema=Schema(fields=FIELDS),
            create_if_missing=True,
            datashard_conn_id="local",
        ).expand(records=plan())
    ran = run_dag(dag)
    assert ran.state == "success", ran.errors
    ids = [ran.result(map_index=index)["append_id"] for index in range(3)]
    assert ids == [f"airflow:dag_mapped/{ran.run_id}/load/{index}" for index in range(3)]
    # Equal rows of two tasks are two appends.
    assert [row["n"] for row in rows_of(local_warehouse)] == [10, 10, 12]


def test_output_of_other_tasks(local_warehouse: Warehouse, run_dag: Any) -> None:
    @task
    def rows(start: int) -> list[dict[str, int]]:
        return [{"n": start}, {"n": start + 1}]

    @task
    def row(n: int) -> dict[str, int]:
        return {"n": n}

    with DAG("dag_outputs") as dag:
        append(task_id="one", table="one", records=rows(1))
        append(task_id="lists", table="lists", records=rows.override(task_id="parts").expand(start=[10, 20]))
        append(task_id="single", table="single", records=row.expand(n=[31, 32, 33]))
    ran = run_dag(dag)
    assert ran.state == "success", ran.errors
    assert [row["n"] for row in rows_of(local_warehouse, "one")] == [1, 2]
    assert [row["n"] for row in rows_of(local_warehouse, "lists")] == [10, 11, 20, 21]
    assert [row["n"] for row in rows_of(local_warehouse, "single")] == [31, 32, 33]


def arrow_table() -> Any:
    return pa.table({"n": [1, 2], "text": ["one", None]})


def arrow_batches() -> Any:
    yield from arrow_table().to_batches()


def arrow_stream() -> Any:
    return arrow_table().to_reader()


def pandas_frame() -> Any:
    return arrow_table().to_pandas()


def generated() -> Any:
    yield from ROWS


@pytest.mark.parametrize("source", [arrow_table, arrow_batches, arrow_stream, pandas_frame, generated])
def test_what_a_callable_may_return(source: Callable[[], Any], local_warehouse: Warehouse, run_dag: Any) -> None:
    with DAG(f"dag_{source.__name__}") as dag:
        append(records=source, schema=arrow_table().schema)
    ran = run_dag(dag)
    assert ran.state == "success", ran.errors
    assert rows_of(local_warehouse) == ROWS


def test_a_callable_gets_the_context(local_warehouse: Warehouse, run_dag: Any) -> None:
    def of_this_run(ti: Any, params: dict[str, Any], missing: int = 5) -> list[dict[str, Any]]:
        return [{"n": params["n"] + missing, "text": f"{ti.task_id} {ti.map_index}"}]

    def of_all(**context: Any) -> list[dict[str, Any]]:
        return [{"n": 9, "text": context["dag"].dag_id}]

    with DAG("dag_callable", params={"n": 1}) as dag:
        append(records=of_this_run) >> append(task_id="all", records=of_all)
    ran = run_dag(dag)
    assert ran.state == "success", ran.errors
    assert rows_of(local_warehouse) == [{"n": 6, "text": "load -1"}, {"n": 9, "text": "dag_callable"}]


def test_templates(local_warehouse: Warehouse, run_dag: Any) -> None:
    @task
    def numbers() -> list[dict[str, Any]]:
        return [{"n": 3, "text": 'thr"ee'}]

    with DAG("dag_templates", params={"table": "numbers", "conn": "local"}) as dag:
        of_parameters = append(
            table="{{ params.table }}",
            datashard_conn_id="{{ params.conn }}",
            append_id="daily/{{ dag.dag_id }}",
            records=[{"n": 1, "text": "{{ params.table }}"}],
        )
        json_text = append(task_id="json", records="{{ ti.xcom_pull(task_ids='numbers') | tojson }}")
        [of_parameters, numbers()] >> json_text
    ran = run_dag(dag)
    assert ran.state == "success", ran.errors
    assert ran.result()["append_id"] == "daily/dag_templates"
    assert rows_of(local_warehouse) == [{"n": 1, "text": "numbers"}, {"n": 3, "text": 'thr"ee'}]


def test_native_templates(local_warehouse: Warehouse, run_dag: Any) -> None:
    @task
    def numbers() -> list[dict[str, Any]]:
        return [{"n": 3}]

    with DAG("dag_native", render_template_as_native_obj=True) as dag:
        append(records="{{ ti.xcom_pull(task_ids='numbers') }}").set_upstream(numbers())
    ran = run_dag(dag)
    assert ran.state == "success", ran.errors
    assert rows_of(local_warehouse) == [{"n": 3, "text": None}]


@pytest.mark.parametrize(
    ("name", "records", "says"),
    [
        ("text", "{{ [{'n': 1}] }}", "which is no JSON"),
        ("object", '{"n": 1}', "no list of rows"),
        ("mapping", {"n": 1}, "one dictionary"),
        ("nothing", lambda: None, "is None"),
        ("empty", lambda: [], "if_empty='skip'"),
        ("empty_arrow", lambda: arrow_table().slice(0, 0), "if_empty='skip'"),
        ("wrong_type", [{"n": "x"}], "'x'"),
        ("unknown_field", [{"n": 1, "m": 2}], "'m'"),
        ("missing", [{"text": "a"}], "required"),
        ("rows_of_lists", [[1]], "a row is a dict"),
        ("number", 5, "rows"),
    ],
)
def test_bad_records_fail_with_what_is_wrong(
    name: str, records: Any, says: str, local_warehouse: Warehouse, run_dag: Any
) -> None:
    with DAG(f"dag_bad_{name}") as dag:
        append(records=records)
    ran = run_dag(dag)
    assert ran.state == "failed"
    (error,) = ran.errors
    assert isinstance(error, InvalidRecordsError)
    assert says in str(error) and "numbers" in str(error)
    assert not local_warehouse.table_exists("numbers") or local_warehouse.load_table("numbers").count() == 0


def test_no_rows_may_mean_skipped(local_warehouse: Warehouse, run_dag: Any) -> None:
    with DAG("dag_skip") as dag:
        append(records=lambda: [], if_empty="skip")
        append(task_id="stream", records=lambda: arrow_table().slice(0, 0).to_reader(), if_empty="skip")
    ran = run_dag(dag)
    assert ran.states == {("load", -1): "skipped", ("stream", -1): "skipped"}
    assert not local_warehouse.table_exists("numbers")


def test_a_table_that_is_not_there(local_warehouse: Warehouse, run_dag: Any) -> None:
    with DAG("dag_no_table") as dag:
        append(create_if_missing=False, schema=None)
    ran = run_dag(dag)
    assert ran.state == "failed"
    assert "numbers" in str(ran.errors[0])
    assert not local_warehouse.table_exists("numbers")


@pytest.mark.parametrize("create_if_missing", [True, False])
def test_a_table_with_another_schema(create_if_missing: bool, local_warehouse: Warehouse, run_dag: Any) -> None:
    local_warehouse.create_table("numbers", Schema(fields=[{"id": 1, "name": "n", "type": "string"}]))
    with DAG(f"dag_other_schema_{create_if_missing}") as dag:
        append(create_if_missing=create_if_missing)
    ran = run_dag(dag)
    assert ran.state == "failed"
    assert "'n' is string, in the other schema long" in str(ran.errors[0])
    assert local_warehouse.load_table("numbers").count() == 0


def test_credentials_are_those_of_the_connection(
    s3_fields: dict[str, str], s3_server: Any, add_connection: Any, wrong_variables: None, run_dag: Any
) -> None:
    add_connection("bucket", s3_fields)
    s3_server.requests(reset=True)
    with DAG("dag_s3") as dag:
        append(datashard_conn_id="bucket")
    ran = run_dag(dag)
    assert ran.state == "success", ran.errors
    written = [path for method, path in s3_server.requests() if method == "PUT" and "/_datashard/" not in path]
    # The server refuses other keys than the connection's: boto3 wrote the metadata, Arrow the rows.
    assert any(path.endswith("/numbers/metadata/v1.metadata.json") for path in written)
    assert any(path.endswith(".parquet") for path in written)


def test_assets_are_told_what_was_appended(local_warehouse: Warehouse, run_dag: Any) -> None:
    from airflow.models.asset import AssetEvent
    from airflow.utils.session import create_session

    with DAG("dag_asset") as dag:
        append(outlets=[Asset("numbers_asset")])
    ran = run_dag(dag)
    assert ran.state == "success", ran.errors
    with create_session() as session:
        (event,) = session.query(AssetEvent).filter(AssetEvent.source_dag_id == "dag_asset")
        result = ran.result()
        assert event.extra == {name: result[name] for name in ("table", "version", "snapshot_id", "rows")}


def test_the_result_is_plain_json(local_warehouse: Warehouse, run_dag: Any) -> None:
    with DAG("dag_json") as dag:
        append(append_id="json")
    ran = run_dag(dag)
    assert json.loads(json.dumps(ran.result())) == ran.result()


def test_wrong_arguments_are_refused_when_the_dag_is_read() -> None:
    @task
    def rows() -> list[Any]:
        return []

    with pytest.raises(ConfigurationError, match="needs schema="):
        append(schema=None)
    with pytest.raises(ConfigurationError, match="if_empty='maybe'"):
        append(if_empty="maybe")
    with pytest.raises(ConfigurationError, match=r"records=rows\(\.\.\.\)"):
        append(records=rows)
    with pytest.raises(TypeError):
        DataShardAppendOperator("load", "numbers", ROWS)  # type: ignore[misc]


def test_a_callable_with_unknown_parameters() -> None:
    def wants(ti: Any, user: str) -> None: ...

    with pytest.raises(ConfigurationError, match=r"wants demands 'user'"):
        call_with_context(wants, {"ti": 1})


class _Ti:
    def __init__(self, dag_id: str, run_id: str, task_id: str, map_index: int) -> None:
        self.dag_id, self.run_id, self.task_id, self.map_index = dag_id, run_id, task_id, map_index


def test_no_two_tasks_share_an_append_id() -> None:
    texts = ["a", "a/b", "b", "%2F", "/", "a%2Fb", "@a", "#a", "@a/a"]
    ids = {}
    for deployment, dag, run, name, index, part in itertools.product(
        [None, "a", "@a", "a/a"], texts[:5], texts, texts[:6], [-1, 0], [None, "a", "-1"]
    ):
        made = task_append_id(_Ti(dag, run, name, index), deployment=deployment, part=part)
        assert ids.setdefault(made, (deployment, dag, run, name, index, part)) == (
            deployment,
            dag,
            run,
            name,
            index,
            part,
        )
    assert task_append_id(_Ti("d", "r", "t", 3), deployment="prod") == "airflow:@prod/d/r/t/3"


@pytest.mark.parametrize("fails", [False, True], ids=["success", "failure"])
def test_what_a_run_defers_is_in_the_table_when_the_run_is_over(
    fails: bool, local_warehouse: Warehouse, run_dag: Any
) -> None:
    """Other tasks fail or not: the teardown flushes, and the run ends as its tasks did."""
    with DAG(f"dag_deferred_{fails}") as dag:

        @task
        def rest() -> None:
            if fails:
                raise ValueError("on purpose")

        loads = [append(task_id=f"load_{n}", records=[{"n": n, "text": None}], commit="deferred") for n in (1, 2)]
        flush = DataShardFlushOperator(task_id="flush", table="numbers", datashard_conn_id="local")
        loads >> rest() >> flush.as_teardown()
    ran = run_dag(dag)
    assert ran.state == ("failed" if fails else "success"), ran.errors
    assert ran.states["flush", -1] == "success"
    assert [ran.result(f"load_{n}")["rows"] for n in (1, 2)] == [1, 1]
    table = local_warehouse.load_table("numbers")
    snapshot = table.current_snapshot()
    assert snapshot is not None
    assert ran.result("flush") == {
        "table": "numbers",
        "version": table.version,
        "snapshot_id": snapshot.snapshot_id,
    }
    assert rows_of(local_warehouse) == [{"n": 1, "text": None}, {"n": 2, "text": None}]


def test_a_deferred_task_that_is_tried_again_appends_once(local_warehouse: Warehouse, run_dag: Any) -> None:
    with DAG("dag_deferred_retry") as dag:
        load = append(FailsAfterTheAppend, commit="deferred", retries=1)
        load >> DataShardFlushOperator(task_id="flush", table="numbers", datashard_conn_id="local").as_teardown()
    ran = run_dag(dag)
    assert ran.state == "success", ran.errors
    assert ran.tries["load", -1] == 2
    assert rows_of(local_warehouse) == ROWS


def test_another_way_to_commit_is_refused_when_the_dag_is_parsed() -> None:
    with pytest.raises(ConfigurationError, match=r"'load'.*commit='later'.*'now' or 'deferred'"):
        append(commit="later")
