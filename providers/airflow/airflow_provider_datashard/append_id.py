"""The append id of a task: the same for every try of it, and of no other task. Pure."""

from __future__ import annotations

from typing import Any

KIND = "airflow"


def task_append_id(ti: Any, *, deployment: str | None = None, part: str | None = None) -> str:
    """An id for what a task instance appends to a table.

    Args:
        ti: the task instance; its ``dag_id``, ``run_id``, ``task_id`` and ``map_index`` are used. The number of
            the try is not: every try is to have the same id.
        deployment: name of this Airflow, where several append to one table.
        part: what tells several appends of the task to one table apart.

    No two tasks have the same id: the parts are separated by slashes, and a slash or per-cent sign within one is
    written as ``%2F`` or ``%25``. A deployment and a part are marked, so that neither is taken for another part.

    Example:
        >>> task_append_id(ti, deployment="prod")
        'airflow:@prod/daily_sales/scheduled__2026-11-24T00:00:00+00:00/extract/-1'
    """
    parts = [] if deployment is None else ["@" + _escaped(deployment)]
    parts += [_escaped(str(value)) for value in (ti.dag_id, ti.run_id, ti.task_id, ti.map_index)]
    parts += [] if part is None else ["#" + _escaped(part)]
    return f"{KIND}:{'/'.join(parts)}"


def _escaped(part: str) -> str:
    return part.replace("%", "%25").replace("/", "%2F")
